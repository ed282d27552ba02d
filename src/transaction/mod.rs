//! Attaching as one transaction: all of it, or nothing.
//!
//! [`Transaction::run`] is the one place where a failed ADD is rolled back, and [`undo`] the one way in which anything is
//! undone: by the rollback, by DEL, by GC, by an ADD that finds what another one left half done, and where a [`Debt`] is tried
//! again.

mod bandwidth;
mod change;
mod claim;
mod debt;
mod detaching;
mod device_info;
mod forward;
pub mod journal;
pub mod multus;
mod released;
mod restore;
mod revert;
mod routes;
mod run;
pub mod store;
mod sysctls;
mod undo;

pub use bandwidth::BandwidthError;
pub use change::{ChangeError, Changed, Means, StepReport, attach_more, detach, merged, results, settle, update};
pub use claim::{Claim, Seen, absent};
pub use debt::{Debt, Parked, look_at_debt};
pub use device_info::read_device_info;
pub use forward::attach;
pub use journal::{Event, Journal, Opened, Step};
pub use released::{ReleasedClaims, remove_undone};
pub use routes::set_default_routes;
pub use run::{Failure, RolledBack, Tools, Transaction};
pub use store::{Container, DebtId, Sharing, Store, StoreError};
pub use undo::{CleanupFailure, UndoError, undo};
