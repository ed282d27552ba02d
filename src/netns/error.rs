//! Errors of operations in a namespace. Messages are written to follow "failed to".

use std::{error::Error, fmt::Write as _, io, net::IpAddr, path::PathBuf};

use netlink_packet_core::DecodeError;
use nix::errno::Errno;

use super::{DefaultRoute, Family};

/// A failure to open a network namespace, or to read or change what is in it.
///
/// `netns` is always the path with which the namespace was opened, or a description of the process's own.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetnsError {
    /// There is nothing at the path: the namespace was deleted, or its process has exited. For DEL, this means that nothing in it
    /// is left to undo.
    #[error("open network namespace {}: it does not exist any more", path.display())]
    Gone {
        /// The path of the namespace.
        path: PathBuf,
    },
    /// The path exists, but is something else, such as the empty file that remains after a namespace was unmounted.
    #[error("open network namespace {}: it exists, but is not a network namespace", path.display())]
    NotANamespace {
        /// The path that was expected to be a namespace.
        path: PathBuf,
    },
    /// The process may not open or enter the namespace.
    #[error("enter network namespace {}: this needs CAP_SYS_ADMIN; run Braid as root", path.display())]
    Forbidden {
        /// The path of the namespace.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Any other failure while opening a socket in the namespace.
    #[error("open network namespace {}", path.display())]
    Open {
        /// The path of the namespace.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A netlink request failed for any other reason.
    #[error("{action} in {netns}")]
    Netlink {
        /// The namespace.
        netns: String,
        /// The attempted action, with the route if there is one.
        action: String,
        /// What the kernel said.
        source: NetlinkError,
    },
    /// A kernel parameter could not be read or written.
    #[error("{action} the kernel parameter {name:?}: {source}")]
    Sysctl {
        /// What was attempted.
        action: &'static str,
        /// The parameter.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The interface for which a default route is requested is not in the namespace.
    #[error("find interface {interface} in {netns}: the links there are {}", list(present))]
    NoSuchInterface {
        /// The namespace.
        netns: String,
        /// The interface that was named.
        interface: String,
        /// The names of the links that are there.
        present: Vec<String>,
    },
    /// A route cannot use an interface that is down.
    #[error("set a default route out of {interface} in {netns}: the interface is down; set it up first")]
    InterfaceDown {
        /// The namespace.
        netns: String,
        /// The interface that was named.
        interface: String,
    },
    /// The kernel cannot reach the gateway through the interface.
    #[error(
        "set the default route via {gateway} in {netns}: the gateway is not reachable through {interface} (its \
         addresses: {}); give {interface} an address in the gateway's subnet, or name a gateway in a subnet of its own",
        list(addresses)
    )]
    GatewayUnreachable {
        /// The namespace.
        netns: String,
        /// The gateway that was named.
        gateway: IpAddr,
        /// The interface through which it should be reached.
        interface: String,
        /// The addresses of that interface in the gateway's family, with their prefix lengths.
        addresses: Vec<String>,
        /// What the kernel said.
        source: NetlinkError,
    },
    /// The address can never be a gateway.
    #[error("use {gateway} as the default gateway of {interface}: {why}")]
    InvalidGateway {
        /// The gateway that was named.
        gateway: IpAddr,
        /// The interface it was named for.
        interface: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// More than one gateway was named for one family.
    #[error("use {first} and {second} as the default gateways of {interface}: name at most one {family} gateway")]
    TwoGateways {
        /// The family both are of.
        family: Family,
        /// The interface they were named for.
        interface: String,
        /// The gateway named first.
        first: IpAddr,
        /// The gateway named next.
        second: IpAddr,
    },
    /// The interface's default routes are to be kept, but it has none.
    #[error(
        "keep the default routes out of {interface} in {netns}: there are none; name its gateway, or let its plugin \
         set the route"
    )]
    NoDefaultRoute {
        /// The namespace.
        netns: String,
        /// The interface that was named.
        interface: String,
    },
    /// Another route of the same family and metric prevents adding this one.
    #[error("add route \"{route}\" in {netns}: another route with that destination and metric is there")]
    InTheWay {
        /// The namespace.
        netns: String,
        /// The route that was to be added.
        route: Box<DefaultRoute>,
    },
    /// All changes were accepted, but the default routes are still not the wanted ones.
    #[error(
        "verify the default routes in {netns}: missing are {}, unexpected are {}; something else changes them at the \
         same time",
        list(missing),
        list(unexpected)
    )]
    NotAsWanted {
        /// The namespace.
        netns: String,
        /// The wanted routes that are not there.
        missing: Vec<DefaultRoute>,
        /// The existing routes that are not wanted.
        unexpected: Vec<DefaultRoute>,
    },
    /// A change failed, and its completed part could not be undone either. The source is the reason for the first failure.
    #[error("change the default routes in {netns}, and to put back the ones that were there: {}", chains(failures))]
    NotPutBack {
        /// The namespace.
        netns: String,
        /// Why the change failed.
        #[source]
        cause: Box<NetnsError>,
        /// The steps that could not be undone, with the reasons.
        failures: Vec<NetnsError>,
    },
    /// Some steps of restoring the default routes failed. All others were done.
    #[error("restore the default routes in {netns}: {}", chains(failures))]
    NotRestored {
        /// The namespace.
        netns: String,
        /// The steps that failed.
        failures: Vec<NetnsError>,
    },
}

/// Errors in the communication with the kernel's route-netlink.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetlinkError {
    /// The socket itself failed.
    #[error("the netlink socket failed")]
    Socket(#[from] io::Error),
    /// The kernel refused the request.
    #[error("the kernel refused: {errno}{}", explanation.as_deref().map(|text| format!(": {text}")).unwrap_or_default())]
    Refused {
        /// Its error number.
        errno: Errno,
        /// Its explanation, if it gave one (extended acknowledgement).
        explanation: Option<String>,
    },
    /// The kernel's answer is not a valid netlink message.
    #[error("the kernel's answer was not understood")]
    Decode(#[from] DecodeError),
    /// The list changed each time while it was read.
    #[error("the list changed {attempts} times while it was being read")]
    Unstable {
        /// How many times it was read.
        attempts: usize,
    },
    /// The kernel dropped a part of its answer.
    #[error("a part of the kernel's answer was lost")]
    Overrun,
}

impl NetlinkError {
    /// The kernel's error number, if the kernel refused the request.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            _ => None,
        }
    }
}

/// `a, b`, or `none`.
fn list<T: std::fmt::Display>(items: &[T]) -> String {
    if items.is_empty() {
        return "none".into();
    }
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Every error with all its sources, one after another.
fn chains(errors: &[NetnsError]) -> String {
    let mut text = String::new();
    for (position, error) in errors.iter().enumerate() {
        let separator = if position == 0 { "" } else { "; " };
        let _ = write!(text, "{separator}failed to {error}");
        let mut source = error.source();
        while let Some(error) = source {
            let _ = write!(text, ": {error}");
            source = error.source();
        }
    }
    text
}
