//! The holder: kills plugins when the process that called them dies.
//!
//! A [`Holder`] is a small child process in the process group of the plugins. When its parent dies, however it dies, the
//! kernel closes the parent's end of a pair of sockets, the holder's *lifeline*; the holder then kills the whole group, the plugins' own
//! children included. It also keeps the caller's lock files open until nothing of the group is left, so that whoever waits for
//! those locks starts only after the last plugin is dead. Some processes get a moment to finish ([`Grace`]).
//!
//! A group begins with a plugin, and the holder joins it before that plugin gets its input. If this process is killed
//! between the two, the kernel kills the plugin; on DEL the plugin is not killed, and finds its input empty. The holder also
//! syncs the files that must be durable before the input, so that the disk and the plugin's start do not wait for each other.
//!
//! A plugin that is started ahead of its turn waits for its input for longer, and must not find it empty. Its holder is in the
//! group before it is, and keeps the plugin's standard input open ([`Holder::keep_input`]) until its turn comes. If this process
//! is killed before that, the holder kills the group at once, and only then lets the input go.
//!
//! A holder that is no longer needed is dismissed by a byte in its lifeline and by a signal. Either is enough, in case a sandbox
//! forbids signals or the holder is stopped. A holder that does not exit because the disk does not answer is left behind, and
//! no call waits for it.

mod child;
mod grace;
mod handle;
mod lifeline;
mod sync_outcome;

pub(super) use grace::Grace;
pub(super) use handle::Holder;
pub(super) use sync_outcome::SyncOutcome;
