//! Spans of traced calls as OTLP, in the JSON form of OTLP over HTTP.
//!
//! One request contains the spans of several calls. IDs are hexadecimal, unlike in other JSON forms of Protocol Buffers, and 64-bit
//! numbers are strings.

use serde_json::{Value, json};

use crate::telemetry::{PluginReport, Report};

/// A span within the process or its children (`SPAN_KIND_INTERNAL`).
const INTERNAL: u32 = 1;
/// `STATUS_CODE_ERROR`.
const ERROR: u32 = 2;

/// The body of a request to `/v1/traces` with the spans of these calls. `node` is the name of the node on which they ran. Calls
/// that are not traced have no spans.
pub(super) fn request(reports: &[Report<'_>], node: &str) -> Value {
    let version = env!("CARGO_PKG_VERSION");
    let resource = [text("service.name", "braid"), text("service.version", version), text("k8s.node.name", node)];
    let spans: Vec<Value> = reports.iter().flat_map(spans).collect();
    json!({"resourceSpans": [{
        "resource": {"attributes": resource},
        "scopeSpans": [{"scope": {"name": "braid", "version": version}, "spans": spans}],
    }]})
}

/// The span of a call and those of its plugins.
fn spans(report: &Report<'_>) -> Vec<Value> {
    let Some(trace) = &report.trace else { return Vec::new() };
    let mut attributes = vec![text("cni.command", &report.verb), text("cni.network", &report.network)];
    let optional =
        [("cni.container_id", &report.container), ("cni.ifname", &report.interface), ("k8s.pod.uid", &report.pod_uid)];
    attributes.extend(optional.iter().filter(|(_, value)| !value.is_empty()).map(|(key, value)| text(key, value)));
    let call = json!({
        "traceId": trace.id, "spanId": trace.span, "parentSpanId": trace.parent,
        "name": format!("{} {}", report.verb, report.network), "kind": INTERNAL,
    });
    let mut spans = vec![finished(call, (report.began, report.took), report.code, attributes)];
    spans.extend(report.plugins.iter().filter_map(|plugin| {
        let span = plugin.span.as_ref()?;
        let child = json!({
            "traceId": trace.id, "spanId": span, "parentSpanId": trace.span,
            "name": format!("{} {}", plugin.verb, plugin.plugin_type), "kind": INTERNAL,
        });
        Some(finished(child, (plugin.began, plugin.took), plugin.code, attributes_of(plugin)))
    }));
    spans
}

fn attributes_of(plugin: &PluginReport<'_>) -> Vec<Value> {
    let mut attributes = vec![text("cni.command", &plugin.verb), text("cni.plugin", &plugin.plugin_type)];
    if !plugin.interface.is_empty() {
        attributes.push(text("cni.ifname", &plugin.interface));
    }
    attributes
}

/// A span with its times, and with its error if it has one.
fn finished(mut span: Value, (began, took): (u64, u64), code: u32, mut attributes: Vec<Value>) -> Value {
    span["startTimeUnixNano"] = began.to_string().into();
    span["endTimeUnixNano"] = began.saturating_add(took).to_string().into();
    if code != 0 {
        attributes.push(json!({"key": "cni.error_code", "value": {"intValue": code.to_string()}}));
        span["status"] = json!({"code": ERROR, "message": format!("CNI error {code}")});
    }
    span["attributes"] = attributes.into();
    span
}

fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::common::v1::any_value;

    use super::*;
    use crate::telemetry::TraceReport;

    fn report(trace: Option<TraceReport<'static>>) -> Report<'static> {
        let plugin = |plugin_type: &'static str, span: &'static str, code| PluginReport {
            plugin_type: plugin_type.into(),
            verb: "ADD".into(),
            interface: "eth0".into(),
            began: 1_795_244_965_024_000_000,
            took: 5_000_000,
            code,
            span: trace.is_some().then(|| span.into()),
        };
        Report {
            format: 1,
            verb: "ADD".into(),
            network: "pods".into(),
            container: "c1".into(),
            interface: "eth0".into(),
            pod_uid: "".into(),
            began: 1_795_244_965_020_000_000,
            took: 49_000_000,
            code: 11,
            plugins: vec![plugin("bridge", "00000000000000b1", 0), plugin("portmap", "00000000000000b2", 11)],
            trace,
        }
    }

    /// The messages are those of the published schema.
    #[test]
    fn a_collector_reads_the_spans() {
        let trace = TraceReport {
            id: "0af7651916cd43dd8448eb211c80319c".into(),
            parent: "b7ad6b7169203331".into(),
            span: "00000000000000a1".into(),
        };
        let body = request(&[report(Some(trace)), report(None)], "node1").to_string();
        let read: ExportTraceServiceRequest = serde_json::from_str(&body).unwrap();
        let [of_node] = &read.resource_spans[..] else { panic!("{read:?}") };
        let node = of_node.resource.as_ref().unwrap().attributes.iter().find(|one| one.key == "k8s.node.name").unwrap();
        let node = node.value.as_ref().unwrap().value.as_ref().unwrap();
        assert_eq!(node, &any_value::Value::StringValue("node1".into()));
        let spans = &of_node.scope_spans[0].spans;
        let ids: Vec<(u8, u8)> =
            spans.iter().map(|span| (*span.span_id.last().unwrap(), *span.parent_span_id.last().unwrap())).collect();
        assert_eq!(ids, [(0xa1, 0x31), (0xb1, 0xa1), (0xb2, 0xa1)]);
        assert!(spans.iter().all(|span| span.trace_id.len() == 16 && span.trace_id[0] == 0x0a));
        let call = &spans[0];
        assert_eq!(call.end_time_unix_nano - call.start_time_unix_nano, 49_000_000);
        assert_eq!((call.name.as_str(), call.kind), ("ADD pods", 1));
        let statuses: Vec<Option<i32>> =
            spans.iter().map(|span| span.status.as_ref().map(|status| status.code)).collect();
        assert_eq!(statuses, [Some(2), None, Some(2)]);
    }
}
