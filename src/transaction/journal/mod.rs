//! The journal of an attachment set: what is to be done, what was done, and what is still to be undone.
//!
//! A journal is a file of JSON lines. The first line is the [`Header`] with the whole plan, which is synced before the first plugin
//! gets its input. Then there is one [`Event`] a line, as steps start and end. Events are not synced: after a power failure the
//! containers are gone too, and the plan alone is enough to release what they held.
//!
//! [`State`] is the header with every event applied to it, in order. [`Journal`] appends events.
//!
//! Each line ends with a checksum, so that damage is noticed; `format` describes it. A line without a checksum was written before
//! checksums existed. The header's `boot` shows whether the machine has been restarted since. If so, events may be missing.

mod change;
mod format;
mod reader;
mod state;
mod writer;

pub use change::{Pending, Redone};
pub use format::{Change, Event, FORMAT, Header, NEWEST_FORMAT, Step, boot_id, now_millis};
pub use reader::{Reading, format_of, read};
pub use state::{State, StepState, ToUndo};
pub use writer::{Journal, Opened};
