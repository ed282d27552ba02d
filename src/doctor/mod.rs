//! What is wrong with a node, and what mends it: `braid doctor`.
//!
//! [`Node::read`] reads everything once: the state directories, libcni's results, host-local's addresses, the namespaces that
//! live, the host's links, the configurations and what they need. [`examine`] goes by that alone. What calls under way can look
//! like for a moment is looked at twice ([`examine_twice`]). [`mend`] does what is safe.
//!
//! | module | what it does |
//! |---|---|
//! | `node` | a node as it is |
//! | `running` | the network namespaces that something holds |
//! | `attached` | journals, debts, what cannot be used; what has become of a container |
//! | `records` | what libcni and host-local write down |
//! | `setup` | configurations, and what they need |
//! | `finding` | what can be wrong |
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
