//! `install` and `uninstall`: Braid on a Kubernetes node, in front of the primary network's own configuration.
//!
//! The configuration that `install` writes holds a copy of the primary network's, so that pods can still be attached
//! while the agent that wrote the primary's is being replaced. `install` keeps everything as it should be until the
//! process ends: the executable, the credentials, the copy, and its place before all other configurations.
//!
//! - `places`: where things are on the node, and the arguments of both commands;
//! - `files`: files that are written whole or not at all;
//! - `executable`: the copy of Braid in the runtime's directory of plugins;
//! - `kubeconfig`: the credentials that Braid uses at the API server;
//! - `primary`, `conflist`: the primary network's configuration, and Braid's in front of it;
//! - `call`: calls of the installed Braid, as a runtime makes them;
//! - `keep`: the loop of `install`;
//! - `label`: the `SELinux` label of what is written;
//! - `downgrade`: journals of a newer Braid, which keep this one from taking its place;
//! - `uninstall`: the way back, and `left`: what keeps the executable on the node;
//! - `dry_run`: what both commands would do.

mod call;
mod conflist;
mod downgrade;
mod dry_run;
mod executable;
mod files;
mod keep;
mod kubeconfig;
mod label;
mod left;
mod places;
mod primary;
mod report;
mod uninstall;

pub(super) use keep::install;
pub(super) use places::{Install, Uninstall};
pub(super) use uninstall::uninstall;
