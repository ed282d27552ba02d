//! Braid's own work between reading its input and writing its output, without system calls: one measurement for each part of a call
//! with 4 delegates, and with 64. Also the datagram by which a call reports to the agent.
//!
//! Run it by `cargo bench --bench pure`.

use std::fmt::Write as _;
use std::hint::black_box;
use std::os::unix::net::UnixDatagram;
use std::thread;

use braid_cni::cni::Verb;
use braid_cni::cni::{AddResult, Args, Version};
use braid_cni::config::{Config, Problems};
use braid_cni::merge::merge;
use braid_cni::plan;
use braid_cni::request::Request;
use braid_cni::source;
use braid_cni::telemetry::{Report, send, socket_path};
use braid_cni::transaction::journal::{Event, FORMAT, Header, Step};
use criterion::{Criterion, criterion_group, criterion_main};

/// A configuration of a realistic size.
fn configuration(delegates: usize) -> String {
    let mut text = r#"{"cniVersion":"1.0.0","name":"bench","type":"braid","delegates":["#.to_owned();
    for delegate in 0..delegates {
        let comma = if delegate == 0 { "" } else { "," };
        let _ = write!(
            text,
            r#"{comma}{{"cniVersion":"1.0.0","name":"net-{delegate}","plugins":[{{"type":"bridge","bridge":"br{delegate}",
            "isGateway":true,"ipam":{{"type":"host-local","ranges":[[{{"subnet":"10.1.{delegate}.0/24"}}]]}}}},
            {{"type":"portmap","capabilities":{{"portMappings":true}},"snat":true}}]}}"#
        );
    }
    text + "]}"
}

/// The result of one attachment.
fn answer(number: usize) -> String {
    format!(
        r#"{{"cniVersion":"1.0.0","interfaces":[{{"name":"br{number}","mac":"02:00:00:00:00:{number:02x}"}},
        {{"name":"net{number}","mac":"02:00:00:00:01:{number:02x}","sandbox":"/run/netns/x"}}],
        "ips":[{{"address":"10.1.{number}.2/24","gateway":"10.1.{number}.1","interface":1}}],
        "routes":[{{"dst":"10.2.{number}.0/24","gw":"10.1.{number}.1"}}],
        "dns":{{"nameservers":["10.1.{number}.1"],"search":["net{number}.example.org"]}}}}"#
    )
}

fn request(configuration: &str) -> Request {
    Request {
        verb: Verb::Add,
        container_id: "bench".into(),
        netns: "/run/netns/x".into(),
        own_netns_allowed: false,
        ifname: "eth0".into(),
        args: Args::default(),
        args_text: String::new(),
        cni_path: "/opt/cni/bin".into(),
        in_cluster: false,
        traceparent: None,
        stdin: configuration.into(),
    }
}

fn planned(config: &Config, request: &Request) -> plan::Plan {
    let gathered = source::gather(config, request).expect("everything is in place");
    let candidates = gathered.candidates;
    let mut problems = Problems::new();
    let planned =
        plan::build(config, request, plan::Asked { candidates, dropped: &gathered.dropped, taken: &[] }, &mut problems);
    problems.or_first(planned).expect("a good plan").plan
}

fn parts(criterion: &mut Criterion) {
    for delegates in [4, 64] {
        let text = configuration(delegates);
        let request = request(&text);
        let config = Config::parse(text.as_bytes()).expect("a good configuration");
        let answers: Vec<String> = (0..delegates).map(answer).collect();
        let read = |answer: &String| AddResult::parse(answer.as_bytes(), Version::V1_0_0).expect("a good result");
        let results: Vec<AddResult> = answers.iter().map(read).collect();
        let header = Header {
            format: FORMAT,
            time: 0,
            boot: "00000000-0000-0000-0000-000000000000".into(),
            netns_id: None,
            plan: planned(&config, &request),
        };
        let event = Event::Done { step: Step(0, 0), micros: 700, result: results[0].to_raw(Version::V1_0_0) };
        let line = serde_json::to_vec(&header).expect("it serialises");
        let event_line = serde_json::to_vec(&event).expect("it serialises");

        let mut part = |name: &str, work: &mut dyn FnMut()| {
            criterion.bench_function(&format!("{name} ({delegates} delegates)"), |bencher| bencher.iter(&mut *work));
        };
        part("parse the configuration", &mut || drop(black_box(Config::parse(black_box(text.as_bytes())))));
        part("plan", &mut || drop(black_box(planned(black_box(&config), &request))));
        part("read the results", &mut || answers.iter().for_each(|answer| drop(black_box(read(answer)))));
        part("merge", &mut || drop(black_box(merge(black_box(&results)))));
        for version in [Version::V0_2_0, Version::V0_4_0, Version::V1_1_0] {
            part(&format!("convert the results to {version}"), &mut || {
                for result in &results {
                    drop(black_box(result.to_raw(version)));
                }
            });
        }
        part("encode the plan for the journal", &mut || drop(black_box(serde_json::to_vec(black_box(&header)))));
        part("read the plan from the journal", &mut || {
            drop(black_box(serde_json::from_slice::<Header>(black_box(&line))));
        });
        part("encode the journal's events", &mut || {
            (0..delegates).for_each(|_| drop(black_box(serde_json::to_vec(black_box(&event)))));
        });
        part("read the journal's events", &mut || {
            (0..delegates).for_each(|_| drop(black_box(serde_json::from_slice::<Event>(black_box(&event_line)))));
        });
    }
}

/// The cost of the report to the agent, with and without a listener.
fn report(criterion: &mut Criterion) {
    let plugins = (0..4).map(|number| {
        format!(
            r#"{{"type":"bridge","verb":"ADD","interface":"net{number}","began":1795244965031000000,"took":33432000,"code":0}}"#
        )
    });
    let plugins = plugins.collect::<Vec<_>>().join(",");
    let text = format!(
        r#"{{"format":1,"verb":"ADD","network":"pods","container":"{}","interface":"eth0","podUID":"{}",
        "began":1795244965024000000,"took":49704000,"code":0,"plugins":[{plugins}]}}"#,
        "0f".repeat(32),
        "0c16ee47-0000-0000-0000-000000000000"
    );
    let report: Report<'_> = serde_json::from_str(&text).expect("a report");
    let dir = tempfile::tempdir().expect("a directory");
    let mut reports = |name: &str| {
        criterion.bench_function(name, |bencher| bencher.iter(|| black_box(send(dir.path(), || report.clone()))));
    };
    reports("report to the agent (nobody listens)");
    let socket = UnixDatagram::bind(socket_path(dir.path())).expect("a socket");
    thread::spawn(move || {
        let mut datagram = [0; 4096];
        while socket.recv(&mut datagram).is_ok() {}
    });
    reports("report to the agent (it listens)");
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(50).measurement_time(std::time::Duration::from_secs(1))
        .warm_up_time(std::time::Duration::from_millis(300));
    targets = parts, report
}
criterion_main!(benches);
