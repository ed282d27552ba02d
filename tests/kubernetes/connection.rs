//! The connection to the API server: proxies, credentials, certificates, and wrong answers.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use rstest::rstest;
use serde_json::json;

use super::cluster::ApiServer as _;
use super::listener::Listener;
use super::{Cluster, Double, Fault, TOKEN, in_cluster};
use crate::support::{Case, Json as _, inside_network, recorder};

const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";
const POD: &str = "/api/v1/namespaces/web/pods/shop";

fn node() -> (Case, Cluster<Double>) {
    in_cluster(Case::new().delegate(recorder("alpha")).key("kubernetes", json!({"timeout": 2, "retries": 1})))
}

/// An HTTP proxy that connects every tunnel to one server, whatever is requested, and counts them.
fn proxy(case: &Case, server: String) -> (Listener, Arc<AtomicUsize>) {
    let tunnels = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tunnels);
    let host = case.host().path();
    let listener = Listener::start(case, move |stream| {
        counted.fetch_add(1, Ordering::Relaxed);
        drop(tunnel(&stream, || inside_network(&host, || TcpStream::connect(&server))));
    });
    (listener, tunnels)
}

fn tunnel(client: &TcpStream, connect: impl FnOnce() -> io::Result<TcpStream>) -> io::Result<()> {
    let mut lines = BufReader::new(client.try_clone()?);
    let mut head = lines.by_ref().lines();
    while head.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let server = connect()?;
    (&mut &*client).write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    let (mut back, mut to) = (server.try_clone()?, client.try_clone()?);
    let answers = thread::spawn(move || io::copy(&mut back, &mut to));
    io::copy(&mut lines, &mut &server)?;
    server.shutdown(std::net::Shutdown::Write)?;
    drop(answers.join());
    Ok(())
}

#[test]
fn a_proxy_of_the_environment_is_used_unless_no_proxy_covers_the_server() {
    let (case, api) = node();
    let (listener, tunnels) = proxy(&case, api.server.address());
    let url = format!("http://user:hidden@{}", listener.address());
    // No name server knows this name, so only the proxy can connect.
    api.write_kubeconfig_of("api.braid.invalid:6443", "tls-server-name: 127.0.0.1", &format!("token: {TOKEN}"));
    let case = case.env("HTTPS_PROXY", &url).env("NO_PROXY", "10.0.0.0/8,other.invalid");
    case.add().succeeds().called(&["ADD alpha eth0"]);
    case.del().succeeds();
    let used = tunnels.load(Ordering::Relaxed);
    assert!(used > 0);
    for covering in ["*", "braid.invalid", ".braid.invalid", "api.braid.invalid:6443"] {
        let case = case.call("ADD").env("NO_PROXY", covering);
        case.run().fails(11).called_nothing();
    }
    assert_eq!(tunnels.load(Ordering::Relaxed), used);
}

#[test]
fn a_server_that_needs_no_proxy_is_asked_whatever_the_environment_names() {
    let (case, _api) = node();
    // There is never a proxy for a server on this machine.
    for url in ["http://192.0.2.1:9", "https://user:hidden@192.0.2.1:9", "no proxy at all"] {
        case.call("ADD").env("HTTPS_PROXY", url).run().succeeds();
        case.del().succeeds();
    }
}

#[test]
fn an_unusable_proxy_is_reported_with_the_setting_that_names_it() {
    let (case, api) = node();
    api.write_kubeconfig_of("192.0.2.1:6443", "", "token: t");
    let outcome = case.call("ADD").env("HTTPS_PROXY", "https://user:hidden@192.0.2.1:9").run();
    let outcome = outcome.fails(106).says("HTTPS_PROXY").says("NO_PROXY").called_nothing();
    assert!(!outcome.error_text().contains("hidden"), "{}", outcome.error_text());
    api.write_kubeconfig_of("192.0.2.1:6443", "proxy-url: ftp://user:hidden@192.0.2.1:9", "token: t");
    let outcome = case.add().fails(106).says("proxy-url").called_nothing();
    assert!(!outcome.error_text().contains("hidden"), "{}", outcome.error_text());
}

/// No process listens on that port of the node.
#[test]
fn a_proxy_that_does_not_answer_is_reported_with_the_setting_that_names_it() {
    let (case, api) = node();
    api.write_kubeconfig_of("192.0.2.1:6443", "", "token: t");
    for (variable, url) in [("HTTPS_PROXY", "http://user:hidden@127.0.0.1:9"), ("https_proxy", "socks5://127.0.0.1:9")]
    {
        let outcome = case.call("ADD").env(variable, url).run().fails(11).called_nothing();
        let outcome = outcome.message_contains(&format!("through the proxy that {variable} names"));
        assert!(!outcome.error_text().contains("hidden"), "{}", outcome.error_text());
    }
    api.write_kubeconfig_of("192.0.2.1:6443", "proxy-url: http://127.0.0.1:9", "token: t");
    case.add().fails(11).message_contains("through the proxy that the kubeconfig's \"proxy-url\" names");
}

#[test]
fn a_proxy_of_the_kubeconfig_is_used_for_every_server() {
    let (case, api) = node();
    let (listener, tunnels) = proxy(&case, api.server.address());
    let key = format!("proxy-url: http://{}", listener.address());
    api.write_kubeconfig_of(&api.server.address(), &key, &format!("token: {TOKEN}"));
    case.env("NO_PROXY", "*").add().succeeds();
    assert!(tunnels.load(Ordering::Relaxed) > 0);
}

/// Braid never runs a program that a kubeconfig names.
#[test]
fn a_credential_plugin_is_refused_and_not_run() {
    let (case, api) = node();
    let plugin = "exec: {apiVersion: client.authentication.k8s.io/v1, command: touch, args: [hidden, \"@DIR@/ran\"]}";
    api.write_kubeconfig(&case.expand(plugin));
    let outcome = case.add().fails(106).says("exec").says("tokenFile").called_nothing().leaves_nothing();
    assert!(!outcome.error_text().contains("hidden"), "{}", outcome.error_text());
    assert!(!case.dir().join("ran").exists());
}

#[rstest]
#[case::trimmed("|\n      token-1\n", true)]
#[case::nul("\"secret\\0token\"", false)]
#[case::del("\"secret\\x7ftoken\"", false)]
#[case::line_break("\"secret\\ntoken\"", false)]
#[case::empty("\" \"", false)]
fn a_token_is_a_header_or_refused(#[case] token: &str, #[case] is_good: bool) {
    let (case, api) = node();
    api.write_kubeconfig(&format!("token: {token}"));
    if is_good {
        case.add().succeeds();
    } else {
        let outcome = case.add().fails(106).says("user.token").called_nothing().leaves_nothing();
        assert!(!outcome.error_text().contains("secret"), "{}", outcome.error_text());
    }
}

#[test]
fn a_pipe_in_the_place_of_a_file_is_not_waited_for() {
    let (case, api) = node();
    let pipe = case.dir().join("pipe");
    mkfifo(&pipe, Mode::S_IRWXU).expect("make a pipe");
    for key in ["tokenFile", "client-certificate"] {
        api.write_kubeconfig(&format!("{key}: {}", pipe.display()));
        case.add().fails(106).says("pipe is no regular file").called_nothing();
    }
    fs::rename(&pipe, case.dir().join("kubeconfig")).expect("move the pipe");
    case.add().fails(106).says("kubeconfig is no regular file").called_nothing().leaves_nothing();
}

#[rstest]
#[case::get("GET", "/pods/shop", 11, &[])]
#[case::status("PATCH", "/status", 11, &["ADD alpha eth0", "DEL alpha eth0"])]
fn a_pause_that_never_ends_is_not_waited_for(
    #[case] method: &'static str,
    #[case] path: &'static str,
    #[case] code: u64,
    #[case] calls: &[&str],
) {
    // The status may take the whole time of the call. Three seconds pass here.
    let pauses = if method == "GET" { &[1 << 63, u64::MAX, 3][..] } else { &[1 << 63, u64::MAX] };
    for pause in pauses.iter().copied() {
        let (case, api) = node();
        api.server.misbehave(method, path, Fault::Status(503, Some(pause)), 9);
        let outcome = case.add().fails(code).says("503").called(calls).leaves_nothing();
        assert!(outcome.took() < Duration::from_secs(30), "{:?}", outcome.took());
    }
}

/// A failure to post an event has no effect.
#[test]
fn an_event_that_is_to_be_posted_later_fails_no_pod() {
    let (case, api) = node();
    api.server.misbehave("POST", "/events", Fault::Status(429, Some(1 << 63)), 9);
    case.add().succeeds();
    case.del().succeeds().leaves_nothing();
}

#[rstest]
#[case::announced(true)]
#[case::not_announced(false)]
fn an_answer_has_a_size(#[case] is_announced: bool) {
    let (case, api) = in_cluster(Case::new().delegate(recorder("alpha")).key("kubernetes", json!({"timeout": 60})));
    api.server.misbehave("GET", "/pods/shop", Fault::Large { size: 17, is_announced }, 1);
    case.add().fails(106).says("more than 16 MiB").called_nothing().leaves_nothing();
    assert_eq!(api.server.requests().len(), 1);
}

#[test]
fn a_certificate_that_is_refused_is_asked_for_once() {
    let (case, api) = in_cluster(Case::new().delegate(recorder("alpha")));
    fs::write(case.dir().join("ca.crt"), Double::start(&case).authority()).expect("write another authority");
    case.add().fails(106).says("invalid peer certificate").says("kubeconfig").called_nothing().leaves_nothing();
    assert_eq!(api.server.connections(), 1);
}

#[test]
fn secrets_are_in_no_message_and_no_log() {
    let (case, api) = node();
    let case = case.key("logFile", "@DIR@/log").key("logLevel", "trace");
    api.server.misbehave("GET", "/pods/shop", Fault::Echo, 1);
    let outcome = case.add().fails(106).says("no right for").says("[secret]");
    assert!(!outcome.error_text().contains(TOKEN), "{}", outcome.error_text());
    let address = format!("admin:hidden-password@{}", api.server.address());
    api.write_kubeconfig_of(&address, "", "{}");
    let outcome = case.add().fails(106).says("401");
    assert!(!outcome.error_text().contains("hidden-password"), "{}", outcome.error_text());
    let log = fs::read_to_string(case.dir().join("log")).expect("a log");
    assert!(!log.contains(TOKEN) && !log.contains("hidden-password"), "{log}");
}

/// The policy judges by the names in the request.
#[test]
fn an_answer_about_another_object_is_refused() {
    const OTHER: &str = "/apis/k8s.cni.cncf.io/v1/namespaces/other/network-attachment-definitions/net";
    let (case, api) = node();
    api.definition("web", "net", &recorder("beta").into_json());
    api.definition("other", "net", &recorder("gamma").into_json());
    api.pod("other", "shop", &json!({}));
    api.pod("web", "shop", &json!({NETWORKS: "net"}));
    api.server.misbehave("GET", "/web/network-attachment-definitions/net", Fault::Other(OTHER), 1);
    case.add().fails(106).says("another object").says("other/net").called_nothing().leaves_nothing();
    api.server.misbehave("GET", POD, Fault::Other("/api/v1/namespaces/other/pods/shop"), 1);
    case.add().fails(106).says("another object").says("other/shop").called_nothing().leaves_nothing();
}

/// `debug` logs Braid's own work. Only `trace` logs the HTTP client's frames.
#[rstest]
#[case::debug("debug", false)]
#[case::trace("trace", true)]
fn the_clients_frames_are_logged_on_request(#[case] level: &str, #[case] has_more: bool) {
    let (case, _api) = node();
    let case = case.key("logFile", "@DIR@/log").key("logLevel", level);
    case.add().succeeds();
    let log = fs::read_to_string(case.dir().join("log")).expect("a log");
    let own =
        log.lines().filter(|line| line.contains("plugin done") || line.contains("attached") || line.contains("done"));
    assert_eq!(own.count() < log.lines().count(), has_more, "{log}");
}
