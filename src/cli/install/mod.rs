//! `install` and `uninstall`: Braid on a Kubernetes node, configured before the primary network.
//!
//! The configuration that `install` writes contains a copy of the primary network's, so that pods can still be attached while the
//! agent that wrote the primary's is being replaced. Until it is stopped, `install` maintains everything: the executable, the
//! credentials, the copy, and its place before all other configurations.
//!
//! - `places`: the paths on the node, and the arguments of both commands;
//! - `files`: files that are written completely or not at all;
//! - `executable`: the copy of Braid in the runtime's directory of plugins;
//! - `kubeconfig`: Braid's credentials for the API server;
//! - `primary`, `conflist`: the primary network's configuration, and Braid's, which comes before it;
//! - `call`: calls of the installed Braid, made as a runtime makes them;
//! - `maintain`: the loop of `install`;
//! - `label`: the `SELinux` label of written files;
//! - `downgrade`: journals of a newer Braid, which prevent the installation of this one;
//! - `uninstall`: restores the node, and `left`: why the executable must stay;
//! - `dry_run`: shows what both commands would do.

mod call;
mod conflist;
mod downgrade;
mod dry_run;
mod executable;
mod files;
mod kubeconfig;
mod label;
mod left;
mod maintain;
mod places;
mod primary;
mod report;
mod uninstall;

pub(super) use maintain::install;
pub(super) use places::{Install, Uninstall};
pub(super) use uninstall::uninstall;
