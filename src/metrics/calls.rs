//! Counters and durations of operations and plugins.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::telemetry::Report;

/// Buckets in seconds, from a millisecond, for the fastest plugin, to the time limit of a runtime.
const BUCKETS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];
/// The largest error code with a series of its own. A plugin may return any number.
const LARGEST_CODE: u32 = 999;
const NANOS: f64 = 1e9;

/// What the calls of a node have done since this process began to count.
#[derive(Debug)]
pub struct Calls {
    registry: Registry,
    operations: Family<Operation, Counter>,
    durations: Family<Verb, Histogram, Buckets>,
    plugins: Family<Plugin, Histogram, Buckets>,
    rollbacks: Counter,
    changes: Family<Change, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    verb: String,
    code: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Verb {
    verb: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Plugin {
    plugin: String,
    verb: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Change {
    kind: String,
    result: &'static str,
}

#[derive(Debug, Clone)]
struct Buckets;

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(BUCKETS)
    }
}

impl Default for Calls {
    fn default() -> Self {
        let mut calls = Self {
            registry: Registry::default(),
            operations: Family::default(),
            durations: Family::new_with_constructor(Buckets),
            plugins: Family::new_with_constructor(Buckets),
            rollbacks: Counter::default(),
            changes: Family::default(),
        };
        let Self { registry, operations, durations, plugins, rollbacks, changes } = &mut calls;
        registry.register("braid_operations", "Operations of CNI, by the code of their error", operations.clone());
        registry.register("braid_operation_duration_seconds", "How long operations of CNI took", durations.clone());
        let help = "How long plugins took, from their input to their end";
        registry.register("braid_plugin_duration_seconds", help, plugins.clone());
        registry.register("braid_rollbacks", "ADDs that failed and were undone", rollbacks.clone());
        registry.register("braid_changes", "Changes of running containers", changes.clone());
        calls
    }
}

impl Calls {
    /// Counts a call.
    pub fn count(&self, report: &Report<'_>) {
        let is_operation = report.verb.bytes().all(|byte| byte.is_ascii_uppercase());
        if is_operation {
            let code = if report.code > LARGEST_CODE { "other".to_owned() } else { report.code.to_string() };
            self.operations.get_or_create(&Operation { verb: report.verb.to_string(), code }).inc();
            self.durations.get_or_create(&Verb { verb: report.verb.to_string() }).observe(seconds(report.took));
        } else {
            let result = if report.code == 0 { "success" } else { "failure" };
            self.changes.get_or_create(&Change { kind: report.verb.to_string(), result }).inc();
        }
        if report.verb == "ADD" && report.code != 0 && report.plugins.iter().any(|plugin| plugin.verb == "DEL") {
            self.rollbacks.inc();
        }
        for plugin in &report.plugins {
            let labels = Plugin { plugin: plugin.plugin_type.to_string(), verb: plugin.verb.to_string() };
            self.plugins.get_or_create(&labels).observe(seconds(plugin.took));
        }
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds do not matter in a month")]
fn seconds(nanos: u64) -> f64 {
    nanos as f64 / NANOS
}
