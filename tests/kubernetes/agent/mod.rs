//! The agent of a node.

/// Containers that are gone, and debts.
mod gone;
/// An agent that is killed again and again, and a clock that jumps.
mod killed;
/// Limits: many pods, many changes, nothing to do.
mod limits;
/// Metrics, and spans for a collector.
mod observe;
/// Pods whose networks change.
mod pods;
/// The real Braid.
mod real;
/// Pods that another plugin has attached.
mod repair;
/// A stand-in for the node's own Braid, and an agent that runs it.
pub(super) mod stand_in;
/// The unit of systemd.
mod unit;
/// A watch that breaks, and an API server that misbehaves.
mod watch;
