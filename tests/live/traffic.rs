//! Measures what changes do to traffic that flows meanwhile.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use serde_json::Value;

use super::{live, update};
use crate::support::{Case, Network, Plugin, bridge};

/// A container behind a bridge, with a limit of 8 Mbit/s into it and 100 kB at once.
fn case() -> Case {
    let limit = Plugin::new("net-bandwidth", "bandwidth").key("ingressRate", 8_000_000).key("ingressBurst", 800_000);
    let chain = Network::new("one").plugin(bridge("br-one", "10.66.1.0/24")).plugin(limit);
    let chain: Value = serde_json::from_str(&crate::support::Json::into_json(chain)).expect("JSON");
    live(Case::with_reference_plugins(), &[chain])
}

/// Bits per second into the container after the burst is used up. It is the highest of several measurements, because a busy machine
/// slows the sender. The interface's counters are used, because a busy reader may not have read what has already passed the limit.
fn rate(case: &Case, limit: f64) -> f64 {
    let received = || case.pod().ip_json("-s link show eth0")[0]["stats64"]["rx"]["bytes"].as_f64().expect("a number");
    thread::sleep(Duration::from_millis(700));
    let mut most = 0.0_f64;
    for _ in 0..12 {
        let (from, began) = (received(), Instant::now());
        thread::sleep(Duration::from_secs(1));
        most = most.max((received() - from) * 8.0 / began.elapsed().as_secs_f64());
        if most > limit * 0.85 {
            break;
        }
    }
    most
}

#[test]
fn a_flow_runs_at_the_old_rate_and_then_at_the_new_one() {
    let case = case();
    case.add().succeeds();
    let listener = case.pod().inside(|| TcpListener::bind("0.0.0.0:5201")).expect("listen");
    let address: SocketAddr = "10.66.1.2:5201".parse().expect("an address");
    let mut client = case.host().inside(|| TcpStream::connect(address)).expect("connect");
    let (mut served, _) = listener.accept().expect("a connection");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let block = [0; 16 << 10];
            while client.write_all(&block).is_ok() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
            drop(client.shutdown(std::net::Shutdown::Both));
        });
        scope.spawn(|| {
            let mut block = vec![0; 64 << 10];
            while let Ok(1..) = served.read(&mut block) {}
        });
        let before = rate(&case, 8e6);
        update(&case, &["eth0", "--bandwidth", "ingress=16M"]).succeeds();
        let after = rate(&case, 16e6);
        stop.store(true, Ordering::Relaxed);
        // If the bucket is full at the start of a second, a tenth more passes in that second.
        for (measured, limit) in [(before, 8e6), (after, 16e6)] {
            assert!((limit * 0.85..=limit * 1.15).contains(&measured), "{measured:.0} bit/s at a limit of {limit:.0}");
        }
    });
    case.del().succeeds().leaves_nothing();
}

/// 1500 datagrams at half the limit, while the limit changes six times.
#[test]
fn no_packet_is_lost_while_a_limit_changes() {
    const COUNT: u32 = 1500;
    let case = case();
    case.add().succeeds();
    let server = case.pod().inside(|| UdpSocket::bind("0.0.0.0:5202")).expect("listen");
    setsockopt(&server, sockopt::RcvBufForce, &(16 << 20)).expect("a large buffer, as root");
    server.set_read_timeout(Some(Duration::from_secs(2))).expect("a limit");
    let client = case.host().inside(|| UdpSocket::bind("0.0.0.0:0")).expect("a socket");
    client.connect("10.66.1.2:5202").expect("connect");
    thread::scope(|scope| {
        scope.spawn(|| {
            let (began, mut datagram) = (Instant::now(), [0; 1000]);
            for number in 0..COUNT {
                datagram[..4].copy_from_slice(&number.to_be_bytes());
                client.send(&datagram).expect("send");
                // The sender keeps to 4 Mbit/s on a busy machine too.
                let due = Duration::from_millis(u64::from(number) * 2);
                thread::sleep(due.saturating_sub(began.elapsed()));
            }
        });
        scope.spawn(|| {
            for limit in ["16M", "9M", "32M", "8M", "64M", "8M"] {
                update(&case, &["eth0", "--bandwidth", &format!("ingress={limit},ingressBurst=4M")]).succeeds();
            }
        });
        let mut seen = vec![false; COUNT as usize];
        let mut datagram = [0; 1500];
        while seen.iter().any(|seen| !seen) && server.recv(&mut datagram).is_ok() {
            let number = u32::from_be_bytes(datagram[..4].try_into().expect("four bytes"));
            seen[number as usize] = true;
        }
        let lost = seen.iter().filter(|seen| !**seen).count();
        assert_eq!(lost, 0, "of {COUNT} datagrams");
    });
    case.del().succeeds().leaves_nothing();
}
