//! Processes, for which neither the standard library nor nix has a safe wrapper: waiting for them, and repairing the state in which
//! this process was started. Apart from here, `unsafe` is only in two modules of [`launcher`](super::launcher) and in the
//! executable's `main.rs`.

mod startup;
mod wait;

pub(crate) use startup::{keep_descriptors_from_plugins, refuse_closed_stdout, reset_signals};
pub(crate) use wait::own_network_namespace;
pub use wait::pidfd;
pub(in crate::runtime) use wait::{
    FIRST_INTERVAL, LAST_INTERVAL, has_exited, has_exited_with, poll_timeout, wait, wait_at_most,
};
