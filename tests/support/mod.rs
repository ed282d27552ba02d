//! The test harness, with which tests read like scenarios.
//!
//! - [`Case`] makes a sequence of calls of `braid`, as a runtime does, on a host of its own;
//! - [`Machine`] is a virtual machine made of namespaces, for container runtimes and Braid's command line; [`Ran`] is the outcome of a
//!   command;
//! - [`Outcome`] is the outcome of a call, with the assertions;
//! - [`Plugin`] and [`Network`] write configurations, for the recording plugin (`recorder.rs`) and the real ones;
//! - [`Node`] is the directories of a node that Braid is installed on;
//! - [`Disk`] is a file system that can stop answering;
//! - [`Namespace`] is a network namespace that is removed when dropped;
//! - [`Release`] is what `.ci/release` makes;
//! - [`Snapshot`] lists everything that a call could leave on a host, to compare.

use std::env;
use std::path::PathBuf;

mod calls;
mod case;
mod disk;
mod journal;
mod machine;
mod namespace;
mod networks;
mod node;
mod outcome;
mod release;
mod running;
pub(crate) mod seccomp;
mod snapshot;

pub(crate) use calls::{Call, compact, members};
pub(crate) use case::{Case, Invocation};
pub(crate) use disk::Disk;
pub(crate) use journal::{edit_header, edit_journal};
pub(crate) use machine::Ran;
pub(crate) use machine::{Machine, is_real_root};
pub(crate) use namespace::Namespace;
#[cfg(feature = "kubernetes")]
pub(crate) use namespace::inside_network;
pub(crate) use networks::{
    Json, Network, Plugin, bandwidth, bridge, firewall, host_local, macvlan, new_plugins, portmap, ptp, recorder,
    reference_plugins, tuning,
};
pub(crate) use node::{Node, PRIMARY};
pub(crate) use outcome::Outcome;
pub(crate) use release::{NEXT, Release};
pub(crate) use running::{Running, wait_for};
pub(crate) use snapshot::Snapshot;

/// The program under test: the one that cargo has built, or `BRAID_TEST_BINARY`, such as a static build.
pub(crate) fn braid() -> PathBuf {
    env::var_os("BRAID_TEST_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_braid").into(), PathBuf::from)
}
