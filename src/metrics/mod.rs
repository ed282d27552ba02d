//! Metrics of a node, for Prometheus.
//!
//! | module | what it does |
//! |---|---|
//! | `node` | metrics of the state directory: attachments, debts, journals set aside |
//! | `pool` | the address pools of `host-local` |
//! | `calls` | operations and plugins, from the [reports](crate::telemetry) of calls |
//! | `text` | all metrics as text |
//!
//! No label has values for single pods or containers, so the number of series does not grow with them.

mod calls;
mod node;
mod pool;
mod text;

pub use calls::Calls;
pub use node::Node;
pub use pool::Pool;
pub use text::{Format, Gauges, write};
