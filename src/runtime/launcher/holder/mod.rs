//! The holder: kills plugins when the process that called them dies.
//!
//! A [`Holder`] is a small child process in the process group of the plugins. Its *lifeline* is one end of a pair of sockets, whose
//! other end the parent has. When the parent dies for any reason, the kernel closes that other end. The holder then kills the whole
//! group, including the plugins' own children. It also keeps the parent's lock files open until the group is empty, so that a
//! process that waits for those locks starts only after the last plugin is dead. Some processes get a short time to finish
//! ([`Grace`]).
//!
//! A group begins with a plugin, and the holder joins it before that plugin gets its input. If this process is killed in between,
//! the kernel kills the plugin; on DEL the plugin is not killed, and finds its input empty. The holder also syncs the files that
//! must be on disk before the input is written, so that the sync and the plugin's start overlap.
//!
//! A plugin that is started ahead of its turn waits longer for its input, and must never find it empty. Its holder is in the group
//! before the plugin is, and keeps the plugin's standard input open ([`Holder::keep_input_open`]) until its turn comes. If this process
//! is killed before that, the holder immediately kills the group, and only then closes the input.
//!
//! A holder that is no longer needed is dismissed by a byte over its lifeline and by a signal. Either is enough, in case a sandbox
//! forbids signals or the holder is stopped. If a holder does not exit because the disk does not answer, nothing waits for it.

mod child;
mod grace;
mod handle;
mod lifeline;
mod sync_outcome;

pub(super) use grace::Grace;
pub(super) use handle::Holder;
pub(super) use sync_outcome::SyncOutcome;
