//! Selections: requests for an attachment.
//!
//! A selection is the network selection element of the NPWG multi-network specification 1.3 (§4.1). It has the same form
//! everywhere: in `delegates`, in a pod's annotation, in `runtimeConfig.networks` and on the command line. The operator can also
//! write `config`, `when` and `optional`.
//!
//! | module | what |
//! |---|---|
//! | `values` | the values of its keys: port mappings, limits on traffic, addresses |
//! | `element` | the JSON form of one selection |
//! | `text` | the text form of one selection, `[namespace/]name[@interface]` |
//! | `list` | a list of selections in either form |
//! | `operator` | what only the operator can write |

mod element;
mod list;
mod operator;
#[cfg(test)]
mod tests;
mod text;
mod values;

#[cfg(test)]
pub(super) use element::KEYS;
pub use element::Selection;
pub use list::{MAX_ATTACHMENTS, Parsed};
#[cfg(test)]
pub(super) use operator::OPERATOR_KEYS;
pub use operator::{Author, OperatorSelection};
pub use values::{Bandwidth, PortMapping};
