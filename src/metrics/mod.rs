//! What can be counted of a node, for Prometheus.
//!
//! | module | what it does |
//! |---|---|
//! | `node` | what the state directory says: attachments, debts, journals set aside |
//! | `pool` | the address pools of `host-local` |
//! | `calls` | operations and plugins, from the [reports](crate::telemetry) of calls |
//! | `text` | all of it as text |
//!
//! No label has a value for each pod or container, so the number of series does not grow with them.

mod calls;
mod node;
mod pool;
mod text;

pub use calls::Calls;
pub use node::Node;
pub use pool::Pool;
pub use text::{Format, Gauges, write};
