//! `metrics`: what can be counted of this node, without an agent.

use std::path::Path;
use std::time::Duration;

use super::{CliError, Outcome, print};
use crate::metrics::{Format, Gauges, Node, write};
use crate::runtime::deadline;

/// How long another call's lock is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn metrics(state_dir: &Path) -> Outcome {
    let conf_dir = super::paths::conf_dir()?;
    let node = Node::read(state_dir, &conf_dir, deadline::after(PATIENCE))?;
    let text = write(&Gauges { node: &node, unfulfilled_pods: None }, None, Format::Plain);
    print(&text.map_err(|error| CliError::Plain(error.to_string()))?)
}
