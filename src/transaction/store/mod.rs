//! Where journals are kept, and the locks on them.
//!
//! ```text
//! <stateDir>/                                     locked shared by ADD, DEL and CHECK, exclusively by GC
//! <stateDir>/attachments/<containerID>/           locked by whatever works on that container
//! <stateDir>/attachments/<containerID>/<ifname>.jsonl
//! <stateDir>/debts/<containerID>/<ifname>.jsonl   a journal that was parked: DEL has given up on it
//! <stateDir>/debts/<containerID>/<ifname>.jsonl.corrupt
//!                                                 one that cannot be used
//! ```
//!
//! The locks are `flock`s on the directories themselves. So no lock file is left behind, and the kernel releases a lock when its
//! holder dies. Directories have mode 0700 and files 0600. Below `stateDir`, links are not followed.

mod container;
mod debts;
mod directory;
mod error;
mod file;
mod root;

pub use container::{Container, Entries};
pub use debts::{DebtId, debts};
pub use directory::Sharing;
pub use error::StoreError;
pub(super) use file::{Content, JournalFile, MAX_JOURNAL};
pub use root::Store;
