//! Which pod needs a `braid sync`, and when. There is no I/O and no clock here: the time is a parameter.
//!
//! There is one item for each pod, found by the pod's UID. Events that arrive before the work on an item begins lead to one run. If
//! more arrive during that run, one more run follows. An item whose run fails is tried again, for as long as the pod exists.
//!
//! | module | what it does |
//! |---|---|
//! | `items` | all items, and what is reported about them |
//! | `events` | what pods, journals and definitions report, entered into the items |
//! | `work` | takes the item that is due next, and records the outcome of its run |
//! | `item` | one item, and when it is due |
//! | `pause` | the pauses after failures |

mod events;
mod item;
mod items;
mod pause;
#[cfg(test)]
mod tests;
mod work;

pub(super) use item::Container;
pub(super) use items::Queue;
#[cfg(test)]
use pause::{FIRST_PAUSE, LONGEST_PAUSE};
pub(super) use work::{Outcome, Work};
