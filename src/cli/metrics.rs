//! `metrics`: the metrics of this node that need no agent.

use std::path::Path;
use std::time::Duration;

use super::{CliError, Outcome, print};
use crate::metrics::{Format, Gauges, Node, write};
use crate::runtime::deadline;

/// How long to wait for another call's lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) fn metrics(state_dir: &Path) -> Outcome {
    let conf_dir = super::paths::conf_dir()?;
    let node = Node::read(state_dir, &conf_dir, deadline::after(LOCK_TIMEOUT))?;
    let text = write(&Gauges { node: &node, unfulfilled_pods: None }, None, Format::Plain);
    print(&text.map_err(|error| CliError::Plain(error.to_string()))?)
}
