//! What is wrong with a node, and what mends it: `braid doctor`.
//!
//! [`Node::read`] reads everything once: the state directories, libcni's results, host-local's addresses, the network namespaces, the
//! host's links, the configurations and what they require. [`examine`] uses nothing else. [`examine_twice`] reads the node a second
//! time where a call that is under way can look like a fault for a moment. [`mend`] mends what is safe to mend.
//!
//! | module | what it does |
//! |---|---|
//! | `node` | the state of a node, read once |
//! | `running` | the network namespaces that something holds |
//! | `attached` | journals, debts and unusable files; whether a container is alive or gone |
//! | `records` | the results that libcni keeps, and the addresses that host-local has assigned |
//! | `setup` | configurations, and what their plugins require |
//! | `finding` | the kinds of findings |
//! | `unexamined` | what could not be looked at |
//! | `containers`, `results`, `addresses`, `rules`, `interfaces`, `claims`, `configurations`, `requirements`, `tokens` | the checks, each family in a file, pure |
//! | `examination` | all checks together |
//! | `mend` | what `--fix` and `--forget` do |

mod addresses;
mod attached;
mod claims;
mod configurations;
mod containers;
mod examination;
mod finding;
mod interfaces;
mod mend;
mod node;
mod records;
mod requirements;
mod results;
mod rules;
mod running;
mod setup;
#[cfg(test)]
mod tests;
mod tokens;
mod unexamined;

pub use attached::{Attached, ContainerState, DebtRecord, JournalRecord, UnusableRecord};
pub use claims::ClaimsNote;
pub use containers::without_process;
pub use examination::{Examined, examine, examine_twice};
pub use finding::{Finding, Kind, Mending};
pub use mend::{ForgetError, Mended, Outcome, forget, mend};
pub use node::{KubeconfigToken, Node, Places};
pub use records::{Reservation, ResultRecord};
pub use rules::ContainerRule;
pub use running::{Access, Namespace, PathTarget, Running};
pub use setup::{Configuration, Missing, Requirement};
