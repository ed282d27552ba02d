//! Metrics as text: as `OpenMetrics`, or in the older format of Prometheus, which tools such as the node exporter and `promtool`
//! read.

use std::fmt::{self, Write as _};
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::calls::Calls;
use super::node::Node;

/// A format of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The older one of Prometheus, 0.0.4.
    Plain,
    /// `OpenMetrics` 1.0.0.
    OpenMetrics,
}

impl Format {
    /// The format that a reader accepts, according to its `Accept` header.
    pub fn accepted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Plain }
    }

    /// What the text is, for HTTP.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Plain => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What there is at one moment.
#[derive(Debug)]
pub struct Gauges<'a> {
    /// On the node.
    pub node: &'a Node,
    /// The number of pods that lack a network that they ask for, if it is known.
    pub unfulfilled_pods: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Network {
    network: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Addresses {
    network: String,
    state: &'static str,
}

/// Writes all metrics: those of the node, and those of calls if they are counted.
///
/// # Errors
/// Never: it is written to memory.
pub fn write(gauges: &Gauges<'_>, calls: Option<&Calls>, format: Format) -> Result<String, fmt::Error> {
    let mut text = String::new();
    if let Some(calls) = calls {
        encode_registry(&mut text, calls.registry())?;
    }
    encode_registry(&mut text, &registry(gauges))?;
    encode_eof(&mut text)?;
    Ok(if format == Format::Plain { plain(&text) } else { text })
}

/// Converts `OpenMetrics` to the older format. There, the name of a counter includes `_total`.
fn plain(text: &str) -> String {
    let comments = |line: &str| {
        let mut words = line.splitn(4, ' ');
        let (_, kind, name, rest) = (words.next()?, words.next()?, words.next()?, words.next()?);
        Some((kind.to_owned(), name.to_owned(), rest.to_owned()))
    };
    let lines: Vec<&str> = text.lines().filter(|line| *line != "# EOF").collect();
    let mut plain = String::with_capacity(text.len());
    for (index, line) in lines.iter().enumerate() {
        let comment = line.starts_with("# ").then(|| comments(line)).flatten();
        let Some((kind, name, rest)) = comment else {
            plain.extend([line, "\n"]);
            continue;
        };
        // The type comes after the help.
        let types = lines[index..].iter().filter_map(|line| line.strip_prefix("# TYPE "));
        let is_counter = types.take(1).any(|of| of.strip_prefix(&name) == Some(" counter"));
        let suffix = if is_counter { "_total" } else { "" };
        let _ = writeln!(plain, "# {kind} {name}{suffix} {rest}");
    }
    plain
}

fn registry(gauges: &Gauges<'_>) -> Registry {
    let mut registry = Registry::default();
    let node = gauges.node;
    let attachments = Family::<Network, Gauge<u64, AtomicU64>>::default();
    for (network, count) in &node.attachments {
        attachments.get_or_create(&Network { network: network.clone() }).set(*count);
    }
    registry.register("braid_attachments", "Attachments of containers to each network", attachments);
    let number = |count: u64| {
        let gauge = Gauge::<u64, AtomicU64>::default();
        gauge.set(count);
        gauge
    };
    let help = "Journals with a clean-up that has failed and is still to be done";
    registry.register("braid_debts", help, number(node.debts));
    let help = "How long the oldest of these clean-ups has been failing";
    registry.register("braid_oldest_debt_seconds", help, number(node.oldest_debt.as_secs()));
    let help = "Journals that cannot be used and were set aside";
    registry.register("braid_journals_set_aside", help, number(node.set_aside));
    if let Some(count) = gauges.unfulfilled_pods {
        registry.register("braid_pods_unfulfilled", "Pods that run without a network that they ask for", number(count));
    }
    let addresses = Family::<Addresses, Gauge<f64, AtomicU64>>::default();
    for (network, pool) in &node.pools {
        for (state, count) in [("used", pool.used), ("free", pool.free)] {
            let labels = Addresses { network: network.clone(), state };
            addresses.get_or_create(&labels).set(as_float(count));
        }
    }
    let help = "Addresses of each pool of host-local, of the list of ranges with the fewest that are free";
    registry.register("braid_ipam_addresses", help, addresses);
    registry
}

#[expect(clippy::cast_precision_loss, reason = "of so many addresses nobody counts single ones")]
fn as_float(count: u128) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::Pool;
    use crate::telemetry::{PluginReport, Report, Subject};

    fn plugin(plugin_type: &'static str, verb: &'static str) -> PluginReport<'static> {
        let (plugin_type, verb) = (plugin_type.into(), verb.into());
        PluginReport { plugin_type, verb, interface: "eth0".into(), began: 0, took: 4_000_000, code: 0, span: None }
    }

    fn report(verb: &'static str, code: u32, plugins: Vec<PluginReport<'static>>) -> Report<'static> {
        let subject = Subject { verb, network: "pods", container: "c1", interface: "eth0", pod_uid: "" };
        let runs = Box::leak(Box::default());
        Report { plugins, ..Report::of(subject, Duration::from_millis(30), code, (runs, 0)) }
    }

    #[test]
    fn what_is_counted_is_written() {
        let calls = Calls::default();
        calls.count(&report("ADD", 0, vec![plugin("bridge", "ADD")]));
        calls.count(&report("ADD", 11, vec![plugin("bridge", "ADD"), plugin("bridge", "DEL")]));
        calls.count(&report("ADD", 4_000_000_000, vec![]));
        calls.count(&report("update", 0, vec![]));
        calls.count(&report("detach", 7, vec![]));
        let mut node = Node { debts: 2, oldest_debt: Duration::from_secs(61), set_aside: 1, ..Node::default() };
        node.attachments.insert("default/\"lan\"".into(), 3);
        node.pools.insert("lan".into(), Pool { used: 3, free: 250 });
        let gauges = Gauges { node: &node, unfulfilled_pods: Some(4) };
        let text = write(&gauges, Some(&calls), Format::OpenMetrics).unwrap();
        for line in [
            r#"braid_operations_total{verb="ADD",code="0"} 1"#,
            r#"braid_operations_total{verb="ADD",code="11"} 1"#,
            r#"braid_operations_total{verb="ADD",code="other"} 1"#,
            r#"braid_operation_duration_seconds_bucket{le="0.05",verb="ADD"} 3"#,
            r#"braid_plugin_duration_seconds_bucket{le="0.005",plugin="bridge",verb="ADD"} 2"#,
            r#"braid_plugin_duration_seconds_count{plugin="bridge",verb="DEL"} 1"#,
            "braid_rollbacks_total 1",
            r#"braid_changes_total{kind="update",result="success"} 1"#,
            r#"braid_changes_total{kind="detach",result="failure"} 1"#,
            r#"braid_attachments{network="default/\"lan\""} 3"#,
            "braid_debts 2",
            "braid_oldest_debt_seconds 61",
            "braid_journals_set_aside 1",
            "braid_pods_unfulfilled 4",
            r#"braid_ipam_addresses{network="lan",state="used"} 3.0"#,
            r#"braid_ipam_addresses{network="lan",state="free"} 250.0"#,
        ] {
            assert!(text.lines().any(|one| one == line), "{line}\nis not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
        let plain = write(&gauges, Some(&calls), Format::Plain).unwrap();
        assert!(
            plain.contains("# HELP braid_operations_total ")
                && plain.contains("# TYPE braid_operations_total counter\n")
        );
        assert!(plain.contains("# TYPE braid_debts gauge\n") && !plain.contains("EOF"), "{plain}");
        assert!(plain.contains("# TYPE braid_plugin_duration_seconds histogram\n"), "{plain}");
    }
}
