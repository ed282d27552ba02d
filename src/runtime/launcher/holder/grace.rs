//! How long processes may go on when the process that called a plugin dies.

use std::time::Duration;

/// Which processes get some time to finish, before the group is killed, when the process that called a plugin dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::runtime::launcher) enum Grace {
    /// The processes that the plugin has started. The kernel kills the plugin itself at once. An IPAM plugin that is killed
    /// after it has created the file of an address, and before it has written the owner into it, loses that address for good.
    Children,
    /// The plugin too. This is for DEL: a plugin that has removed an interface, and is killed before it removes the packet
    /// filter's rules for that interface's addresses, can never find these rules again.
    Everyone,
}

impl Grace {
    /// For how long.
    pub(super) fn period(self) -> Duration {
        match self {
            Self::Children => Duration::from_millis(250),
            Self::Everyone => Duration::from_secs(5),
        }
    }
}
