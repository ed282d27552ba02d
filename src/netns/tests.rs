//! Tests with the kernel, in network namespaces that belong to waiting threads and end with them.
//!
//! They need `CAP_SYS_ADMIN` and `ip`. A test that has to be skipped says so.

use std::{
    net::IpAddr,
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::mpsc,
    thread::JoinHandle,
};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::gettid,
};

use super::*;
use crate::cni::capability::RateLimit;

/// A network namespace that exists as long as this value.
struct Namespace {
    path: PathBuf,
    park: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Namespace {
    /// A namespace with only a loopback. `None` if this process may not make one.
    fn empty() -> Option<Self> {
        let (park, parked) = mpsc::channel::<()>();
        let (sender, receiver) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let made = unshare(CloneFlags::CLONE_NEWNET).map(|()| gettid());
            sender.send(made).unwrap();
            // Ends when the other half is dropped.
            let _ = parked.recv();
        });
        match receiver.recv().unwrap() {
            Ok(tid) => Some(Self {
                path: format!("/proc/{}/task/{tid}/ns/net", std::process::id()).into(),
                park: Some(park),
                thread: Some(thread),
            }),
            Err(errno) => {
                eprintln!("skipped: a network namespace cannot be made here: {errno}");
                None
            }
        }
    }

    /// Two pairs of links, `eth0` (`10.1.0.2/24`, `fd01::2/64`) and `net1` (`10.2.0.2/24`, `fd02::2/64`).
    fn with_two_links() -> Option<Self> {
        let namespace = Self::empty()?;
        for (number, name) in [(1, "eth0"), (2, "net1")] {
            namespace.ip(&format!("link add {name} type veth peer name {name}p"));
            namespace.ip(&format!("link set {name} up"));
            namespace.ip(&format!("link set {name}p up"));
            namespace.ip(&format!("addr add 10.{number}.0.2/24 dev {name}"));
            namespace.ip(&format!("addr add fd0{number}::2/64 dev {name} nodad"));
        }
        Some(namespace)
    }

    fn run_ip(&self, arguments: &str) -> Output {
        Command::new("nsenter")
            .arg(format!("--net={}", self.path.display()))
            .arg("ip")
            .args(arguments.split_whitespace())
            .output()
            .expect("nsenter (util-linux) and ip (iproute2) are needed for these tests")
    }

    /// Runs `ip` inside and returns whether the kernel supports the command.
    fn can(&self, arguments: &str) -> bool {
        self.run_ip(arguments).status.success()
    }

    /// Runs `ip` inside and returns its output.
    fn ip(&self, arguments: &str) -> String {
        let output = self.run_ip(arguments);
        assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// All routes of the main tables of both families in the format of `ip`, without those of the links themselves.
    fn routes(&self) -> Vec<String> {
        let text = self.ip("-4 -details route show") + &self.ip("-6 -details route show");
        text.lines().filter(|line| !line.contains("fe80::/64")).map(|line| line.trim_end().to_owned()).collect()
    }

    /// The default routes in the format of `ip`, with continued lines joined.
    fn defaults(&self) -> Vec<String> {
        let text = self.ip("-oneline -4 route show default") + &self.ip("-oneline -6 route show default");
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    fn open(&self) -> Netns {
        Netns::open(&self.path).unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.park.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn request(interface: &str, gateways: &[&str]) -> DefaultRouteRequest {
    DefaultRouteRequest {
        interface: interface.into(),
        gateways: gateways.iter().map(|gateway| gateway.parse().unwrap()).collect(),
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The change as the journal gives it back.
fn journalled(change: &DefaultRouteChange) -> DefaultRouteChange {
    serde_json::from_str(&serde_json::to_string(change).unwrap()).unwrap()
}

/// Plans, applies and restores, and checks that the routes are then the same as before.
fn there_and_back(namespace: &Namespace, request: &DefaultRouteRequest, expected: &[&str]) {
    let before = namespace.routes();
    let mut netns = namespace.open();
    let change = plan_default_route(&mut netns, request).unwrap();
    assert_eq!(namespace.routes(), before, "planning changes nothing");

    apply(&mut netns, &change).unwrap();
    assert_eq!(namespace.defaults(), expected);
    apply(&mut netns, &change).unwrap();
    assert_eq!(namespace.defaults(), expected, "applying again changes nothing");
    let again = plan_default_route(&mut netns, request).unwrap();
    assert!(again.is_empty(), "nothing is left to do: {again:?}");

    let change = journalled(&change);
    restore(&mut netns, &change).unwrap();
    assert_eq!(namespace.routes(), before);
    restore(&mut netns, &change).unwrap();
    assert_eq!(namespace.routes(), before, "restoring again changes nothing");
}

#[test]
fn links_and_addresses_are_read() {
    let Some(namespace) = Namespace::with_two_links() else { return };
    namespace.ip("link set net1 address 02:42:AC:11:00:0f mtu 1400");
    namespace.ip("addr add 192.0.2.1 peer 192.0.2.9/30 dev net1");
    let mut netns = namespace.open();

    let links = netns.links().unwrap();
    let names: Vec<_> = links.iter().map(|link| link.name.as_str()).collect();
    assert_eq!(names, ["lo", "eth0p", "eth0", "net1p", "net1"]);
    let net1 = netns.link("net1").unwrap();
    assert_eq!((net1.mac.as_deref(), net1.mtu, net1.up), (Some("02:42:ac:11:00:0f"), 1400, true));
    let lo = netns.link("lo").unwrap();
    assert_eq!((lo.mac.as_deref(), lo.up), (Some("00:00:00:00:00:00"), false));

    let addresses: Vec<_> = netns
        .addresses()
        .unwrap()
        .into_iter()
        .filter(|address| address.link == net1.index && !address.net.to_string().starts_with("fe80"))
        .map(|address| address.net.to_string())
        .collect();
    assert_eq!(addresses, ["10.2.0.2/24", "192.0.2.1/30", "fd02::2/64"]);
}

#[test]
fn a_long_list_is_read_whole_also_while_it_changes() {
    let Some(namespace) = Namespace::empty() else { return };
    for number in 0..60 {
        namespace.ip(&format!("link add br{number} type bridge"));
    }
    let mut netns = namespace.open();
    assert_eq!(netns.links().unwrap().len(), 61);
    std::thread::scope(|scope| {
        let changing = scope.spawn(|| {
            for _ in 0..20 {
                namespace.ip("link del br0");
                namespace.ip("link add br0 type bridge");
            }
        });
        while !changing.is_finished() {
            let links = netns.links().unwrap();
            let others = links.iter().filter(|link| link.name != "br0").count();
            assert!(others == 60 && links.len() <= 61, "{links:?}");
        }
    });
}

#[test]
fn opening_leaves_the_calling_thread_in_its_namespace() {
    let Some(namespace) = Namespace::with_two_links() else { return };
    let own = || std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let before = own();
    let mut netns = namespace.open();
    assert_eq!(own(), before);
    assert_ne!(before, std::fs::read_link(&namespace.path).unwrap());
    assert!(netns.link("net1").is_ok());
    assert!(Netns::current().unwrap().link("net1").is_err());
}

#[test]
fn an_open_namespace_outlives_its_path() {
    let Some(namespace) = Namespace::with_two_links() else { return };
    let mut netns = namespace.open();
    let path = namespace.path.clone();
    drop(namespace);
    assert!(matches!(Netns::open(&path), Err(NetnsError::Gone { .. })));
    assert!(netns.link("net1").is_ok());
}

#[test]
fn the_namespace_of_a_process_that_has_exited_is_gone() {
    let mut child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
    let path = PathBuf::from(format!("/proc/{}/ns/net", child.id()));
    child.kill().unwrap();
    child.wait().unwrap();
    let error = Netns::open(&path).unwrap_err();
    assert!(matches!(error, NetnsError::Gone { .. }), "{error}");
    assert_eq!(error.to_string(), format!("open network namespace {}: it does not exist any more", path.display()));
}

#[test]
fn a_path_that_is_no_network_namespace_is_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("unmounted");
    std::fs::write(&file, "").unwrap();
    let missing = directory.path().join("missing");
    for path in [file.as_path(), directory.path()] {
        assert!(matches!(Netns::open(path), Err(NetnsError::NotANamespace { .. })), "{}", path.display());
    }
    assert!(matches!(Netns::open(&missing), Err(NetnsError::Gone { .. })));
    assert!(matches!(Netns::open(&file.join("below")), Err(NetnsError::Gone { .. })));

    if Namespace::empty().is_some() {
        let error = Netns::open("/proc/self/ns/uts".as_ref()).unwrap_err();
        assert!(matches!(error, NetnsError::NotANamespace { .. }), "{error}");
    }
}

#[test]
fn entering_a_namespace_without_the_right_is_forbidden() {
    if Namespace::empty().is_none() {
        let error = Netns::open("/proc/self/ns/net".as_ref()).unwrap_err();
        assert!(matches!(error, NetnsError::Forbidden { .. }), "{error}");
        return;
    }
    // The same again, as root without this right.
    let output = Command::new("setpriv")
        .args(["--bounding-set=-sys_admin", "--inh-caps=-all", "--ambient-caps=-all"])
        .arg(crate::request::own_executable().unwrap())
        .args(["--exact", "netns::tests::entering_a_namespace_without_the_right_is_forbidden"])
        .output()
        .expect("setpriv (util-linux) is needed for this test");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn a_namespace_without_routes_has_no_default_routes() {
    let Some(namespace) = Namespace::empty() else { return };
    for family in Family::ALL {
        assert_eq!(namespace.open().default_routes(family).unwrap(), []);
    }
}

#[test]
fn only_unicast_routes_of_the_main_table_to_everywhere_are_default_routes() {
    let Some(namespace) = Namespace::with_two_links() else { return };
    namespace.ip("route add default via 10.1.0.1 table 100");
    namespace.ip("route add 0.0.0.0/1 via 10.1.0.1");
    namespace.ip("route add blackhole default metric 9");
    namespace.ip("-6 route add unreachable default metric 9");
    let mut netns = namespace.open();
    for family in Family::ALL {
        assert_eq!(netns.default_routes(family).unwrap(), []);
    }
}

#[test]
fn both_families_are_replaced_and_restored_with_all_they_had() {
    let Some(namespace) = Namespace::with_two_links() else { return };
    namespace.ip("route add default via 10.1.0.1 dev eth0 proto static src 10.1.0.2 mtu 1300 advmss 1200");
    namespace.ip("route add default via 10.1.0.3 dev eth0 metric 50 mtu lock 1280 initcwnd 20 realm 3");
    namespace.ip("-6 route add default via fd01::1 dev eth0 metric 5 pref high");
    namespace.ip("-6 route add default via fd01::3 dev eth0 src fd01::2 mtu 1400");
    there_and_back(
        &namespace,
        &request("net1", &["10.2.0.1", "fd02::1"]),
        &["default via 10.2.0.1 dev net1", "default via fd02::1 dev net1 metric 1024 pref medium"],
    );
}

#[test]
fn a_route_is_added_where_there_was_none() {
    let Some(namespace) = Namespace::with_two_links() else { return };
    there_and_back(&namespace, &request("net1", &["10.2.0.1"]), &["default via 10.2.0.1 dev net1"]);
}

#[test]
fn a_family_without_a_gateway_is_left_alone() {
    let Some(namespace) = Namespace::with_two_links() else { return };
    namespace.ip("route add default via 10.1.0.1 dev eth0");
    namespace.ip("-6 route add default via fd01::1 dev eth0");
    there_and_back(
        &namespace,
        &request("net1", &["10.2.0.1"]),
        &["default via 10.2.0.1 dev net1", "default via fd01::1 dev eth0 metric 1024 pref medium"],
    );
}

#[test]
fn a_link_local_gateway_needs_no_address_in_its_subnet() {
    let Some(namespace) = Namespace::with_two_links() else { return };
    namespace.ip("-6 route add default via fe80::1 dev eth0");
    there_and_back(
        &namespace,
        &request("net1", &["fe80::1"]),
        &["default via fe80::1 dev net1 metric 1024 pref medium"],
    );
}

#[test]
fn no_gateways_keep_the_routes_that_the_interface_has() {
    let Some(namespace) = Namespace::with_two_links() else { return };
    namespace.ip("route add default via 10.1.0.1 dev eth0");
    namespace.ip("route add default via 10.2.0.1 dev net1 metric 300");
    namespace.ip("-6 route add default via fd01::1 dev eth0");
    there_and_back(
        &namespace,
        &request("net1", &[]),
        &["default via 10.2.0.1 dev net1 metric 300", "default via fd01::1 dev eth0 metric 1024 pref medium"],
    );
}

#[test]
fn no_gateways_for_an_interface_without_default_routes_are_an_error() {
    let Some(namespace) = Namespace::with_two_links() else { return };
    namespace.ip("route add default via 10.1.0.1 dev eth0");
    let error = plan_default_route(&mut namespace.open(), &request("net1", &[])).unwrap_err();
    assert!(matches!(&error, NetnsError::NoDefaultRoute { interface, .. } if interface == "net1"), "{error}");
}

#[test]
fn the_named_gateways_route_is_kept_with_its_metric() {
    let Some(namespace) = Namespace::with_two_links() else { return };
    namespace.ip("route add default via 10.2.0.1 dev net1 metric 300");
    namespace.ip("route add default via 10.2.0.9 dev net1");
    there_and_back(&namespace, &request("net1", &["10.2.0.1"]), &["default via 10.2.0.1 dev net1 metric 300"]);
}

#[test]
fn a_route_for_one_type_of_service_is_not_all_that_is_wanted() {
    let Some(namespace) = Namespace::with_two_links() else { return };
    namespace.ip("route add default tos 0x10 via 10.2.0.1 dev net1");
    namespace.ip("route add default tos 0x10 via 10.1.0.1 dev eth0 metric 4");
    there_and_back(
        &namespace,
        &request("net1", &["10.2.0.1"]),
        &["default tos 0x10 via 10.2.0.1 dev net1", "default via 10.2.0.1 dev net1"],
    );
}

#[test]
fn an_onlink_route_is_restored_onlink() {
    let Some(namespace) = Namespace::with_two_links() else { return };
    namespace.ip("route add default via 192.0.2.1 dev eth0 onlink");
    namespace.ip("-6 route add default via 2001:db8::1 dev eth0 onlink metric 77");
    there_and_back(
        &namespace,
        &request("net1", &["10.2.0.1", "fd02::1"]),
        &["default via 10.2.0.1 dev net1", "default via fd02::1 dev net1 metric 1024 pref medium"],
    );
}

#[test]
fn a_route_without_a_gateway_and_one_with_another_familys_are_restored() {
    let Some(namespace) = Namespace::with_two_links() else { return };
    namespace.ip("route add default dev eth0");
    namespace.ip("route add default via inet6 fe80::1 dev eth0 metric 8");
    namespace.ip("-6 route add default dev eth0 metric 1024");
    there_and_back(
        &namespace,
        &request("net1", &["10.2.0.1", "fd02::1"]),
        &["default via 10.2.0.1 dev net1", "default via fd02::1 dev net1 metric 1024 pref medium"],
    );
}

#[test]
fn a_multipath_route_that_partly_goes_elsewhere_is_replaced_and_restored() {
    let Some(namespace) = Namespace::with_two_links() else { return };
    namespace.ip("route add default metric 6 nexthop via 10.1.0.1 dev eth0 weight 3 \
         nexthop via 192.0.2.1 dev net1 weight 256 onlink");
    namespace.ip("-6 route add default nexthop via fd01::1 dev eth0 weight 2 nexthop via fe80::9 dev net1");
    there_and_back(
        &namespace,
        &request("net1", &["10.2.0.1", "fd02::1"]),
        &["default via 10.2.0.1 dev net1", "default via fd02::1 dev net1 metric 1024 pref medium"],
    );
}

#[test]
fn a_multipath_route_all_of_whose_hops_are_on_the_interface_is_kept() {
    let Some(namespace) = Namespace::with_two_links() else { return };
    namespace.ip("route add default nexthop via 10.2.0.1 dev net1 nexthop via 10.2.0.3 dev net1");
    namespace.ip("route add default via 10.1.0.1 dev eth0 metric 5");
    let mut netns = namespace.open();
    let change = plan_default_route(&mut netns, &request("net1", &[])).unwrap();
    assert_eq!((change.kept.len(), change.removed.len(), change.added.len()), (1, 1, 0));
    assert_eq!(change.kept[0].next_hops.len(), 2);
}

#[test]
fn a_route_by_a_next_hop_object_is_restored_by_it() {
    let Some(namespace) = Namespace::with_two_links() else { return };
    namespace.ip("nexthop add id 7 via 10.1.0.1 dev eth0");
    namespace.ip("nexthop add id 8 via fd01::1 dev eth0");
    namespace.ip("route add default nhid 7");
    namespace.ip("-6 route add default nhid 8");
    there_and_back(
        &namespace,
        &request("net1", &["10.2.0.1", "fd02::1"]),
        &["default via 10.2.0.1 dev net1", "default via fd02::1 dev net1 metric 1024 pref medium"],
    );
}

#[test]
fn routes_of_one_metric_are_restored_in_their_order() {
    let Some(namespace) = Namespace::with_two_links() else { return };
    namespace.ip("route add default via 10.1.0.1 dev eth0");
    namespace.ip("route append default via 10.1.0.3 dev eth0");
    namespace.ip("route append default via 10.9.0.1 dev eth0p onlink");
    there_and_back(&namespace, &request("net1", &["10.2.0.1"]), &["default via 10.2.0.1 dev net1"]);
}

#[test]
fn ipv6_routes_of_one_metric_that_are_not_one_multipath_route_are_restored() {
    let Some(namespace) = Namespace::with_two_links() else { return };
    namespace.ip("-6 route add default via fd01::1 dev eth0");
    namespace.ip("-6 route append default dev eth0 metric 1024");
    there_and_back(
        &namespace,
        &request("net1", &["fd02::1"]),
        &["default via fd02::1 dev net1 metric 1024 pref medium"],
    );
}

#[test]
fn a_route_for_some_sources_is_removed_and_restored() {
    let Some(namespace) = Namespace::with_two_links() else { return };
    if !namespace.can("-6 route add default from fd01::/64 via fd01::1") {
        eprintln!("skipped: this kernel has no routes by source (CONFIG_IPV6_SUBTREES)");
        return;
    }
    there_and_back(
        &namespace,
        &request("net1", &["fd02::1"]),
        &["default via fd02::1 dev net1 metric 1024 pref medium"],
    );
}

#[test]
fn a_same_metric_ipv6_route_is_replaced_and_not_joined() {
    let Some(namespace) = Namespace::with_two_links() else { return };
    namespace.ip("-6 route add default via fd01::1 dev eth0 metric 1024");
    let mut netns = namespace.open();
    let wanted = DefaultRoute::via("net1", address("fd02::1"));
    let error = netns.add_default_route(&wanted).unwrap_err();
    assert!(matches!(error, NetnsError::InTheWay { .. }), "{error}");
    there_and_back(
        &namespace,
        &request("net1", &["fd02::1"]),
        &["default via fd02::1 dev net1 metric 1024 pref medium"],
    );
}

#[test]
fn an_expiring_route_is_restored_with_the_time_that_is_left() {
    let Some(namespace) = Namespace::with_two_links() else { return };
    namespace.ip("-6 route add default via fd01::1 dev eth0 proto ra expires 1000");
    let mut netns = namespace.open();
    let change = plan_default_route(&mut netns, &request("net1", &["fd02::1"])).unwrap();
    apply(&mut netns, &change).unwrap();
    restore(&mut netns, &change).unwrap();
    let routes = netns.default_routes(Family::V6).unwrap();
    assert_eq!(routes.len(), 1);
    assert_eq!(routes[0].protocol, 9);
    assert!((900..=1000).contains(&routes[0].expires.unwrap()), "{routes:?}");
}

#[test]
fn an_unreachable_gateway_leaves_everything_as_it_was() {
    let Some(namespace) = Namespace::with_two_links() else { return };
    namespace.ip("route add default via 10.1.0.1 dev eth0 metric 7");
    namespace.ip("-6 route add default via fd01::1 dev eth0 metric 8");
    let before = namespace.routes();
    let mut netns = namespace.open();
    for (gateways, unreachable, addresses) in
        [(&["10.9.0.1", "fd02::1"], "10.9.0.1", "10.2.0.2/24"), (&["10.2.0.1", "fd09::1"], "fd09::1", "fd02::2/64")]
    {
        let change = plan_default_route(&mut netns, &request("net1", gateways)).unwrap();
        let error = apply(&mut netns, &change).unwrap_err();
        assert!(matches!(error, NetnsError::GatewayUnreachable { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(&format!("not reachable through net1 (its addresses: {addresses}")), "{text}");
        assert!(text.contains(&format!("via {unreachable}")), "{text}");
        assert_eq!(namespace.routes(), before);
    }
}

#[test]
fn a_gateway_that_cannot_be_one_is_refused_before_anything_is_changed() {
    let Some(namespace) = Namespace::with_two_links() else { return };
    let mut netns = namespace.open();
    for gateways in [&["0.0.0.0"][..], &["10.2.0.2"], &["10.1.0.2"], &["fd02::2"], &["10.2.0.1", "ff02::1"]] {
        let error = plan_default_route(&mut netns, &request("net1", gateways)).unwrap_err();
        assert!(matches!(error, NetnsError::InvalidGateway { .. }), "{gateways:?}: {error}");
    }
    let error = plan_default_route(&mut netns, &request("net1", &["10.2.0.1", "fd02::1", "10.2.0.9"])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "use 10.2.0.1 and 10.2.0.9 as the default gateways of net1: name at most one IPv4 gateway"
    );
}

#[test]
fn a_missing_interface_is_an_error_that_names_those_that_are_there() {
    let Some(namespace) = Namespace::with_two_links() else { return };
    let error = plan_default_route(&mut namespace.open(), &request("net2", &["10.2.0.1"])).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "find interface net2 in {}: the links there are lo, eth0p, eth0, net1p, net1",
            namespace.path.display()
        )
    );
    let route = DefaultRoute::via("net2", address("10.2.0.1"));
    assert!(matches!(namespace.open().add_default_route(&route), Err(NetnsError::NoSuchInterface { .. })));
    namespace.open().remove_default_route(&route).unwrap();
}

#[test]
fn an_interface_that_is_down_is_an_error_when_planned_and_when_made() {
    let Some(namespace) = Namespace::with_two_links() else { return };
    namespace.ip("route add default via 10.1.0.1 dev eth0");
    let mut netns = namespace.open();
    let change = plan_default_route(&mut netns, &request("net1", &["10.2.0.1"])).unwrap();
    namespace.ip("link set net1 down");
    let before = namespace.routes();
    let error = apply(&mut netns, &change).unwrap_err();
    assert!(matches!(error, NetnsError::InterfaceDown { .. }), "{error:?}");
    assert_eq!(namespace.routes(), before);
    let error = plan_default_route(&mut netns, &request("net1", &["10.2.0.1"])).unwrap_err();
    assert!(matches!(error, NetnsError::InterfaceDown { .. }), "{error:?}");
}

#[test]
fn a_blackhole_in_the_way_is_an_error_and_everything_is_put_back() {
    let Some(namespace) = Namespace::with_two_links() else { return };
    namespace.ip("route add default via 10.1.0.1 dev eth0 metric 5");
    namespace.ip("route add blackhole default");
    let before = namespace.routes();
    let mut netns = namespace.open();
    let change = plan_default_route(&mut netns, &request("net1", &["10.2.0.1"])).unwrap();
    let error = apply(&mut netns, &change).unwrap_err();
    assert!(matches!(error, NetnsError::InTheWay { .. }), "{error:?}");
    assert_eq!(namespace.routes(), before);
}

#[test]
fn a_route_that_appears_after_planning_fails_the_verification_and_everything_is_put_back() {
    let Some(namespace) = Namespace::with_two_links() else { return };
    namespace.ip("route add default via 10.1.0.1 dev eth0");
    let mut netns = namespace.open();
    let change = plan_default_route(&mut netns, &request("net1", &["10.2.0.1"])).unwrap();
    namespace.ip("route add default via 10.1.0.3 dev eth0 metric 9");
    let before = namespace.routes();
    let error = apply(&mut netns, &change).unwrap_err();
    match &error {
        NetnsError::NotAsWanted { missing, unexpected, .. } => {
            assert_eq!((missing.len(), unexpected.len()), (0, 1));
            assert_eq!(unexpected[0].to_string(), "default via 10.1.0.3 dev eth0 metric 9");
        }
        error => panic!("{error:?}"),
    }
    assert_eq!(namespace.routes(), before);
}

#[test]
fn restoring_leaves_out_what_goes_out_of_an_interface_that_is_gone() {
    let Some(namespace) = Namespace::with_two_links() else { return };
    namespace.ip("route add default via 10.1.0.1 dev eth0");
    namespace.ip("-6 route add default via fd01::1 dev eth0");
    let mut netns = namespace.open();
    let change = plan_default_route(&mut netns, &request("net1", &["10.2.0.1", "fd02::1"])).unwrap();
    apply(&mut netns, &change).unwrap();
    namespace.ip("link del eth0");
    restore(&mut netns, &change).unwrap();
    assert_eq!(namespace.defaults(), Vec::<String>::new());
    namespace.ip("link del net1");
    restore(&mut netns, &change).unwrap();
}

#[test]
fn what_cannot_be_restored_is_listed_and_the_rest_is_restored() {
    let Some(namespace) = Namespace::with_two_links() else { return };
    namespace.ip("route add default via 10.1.0.1 dev eth0");
    namespace.ip("-6 route add default via fd01::1 dev eth0");
    let mut netns = namespace.open();
    let change = plan_default_route(&mut netns, &request("net1", &["10.2.0.1", "fd02::1"])).unwrap();
    apply(&mut netns, &change).unwrap();
    namespace.ip("addr del 10.1.0.2/24 dev eth0");
    let error = restore(&mut netns, &change).unwrap_err();
    assert!(matches!(&error, NetnsError::NotRestored { failures, .. } if failures.len() == 1), "{error}");
    assert!(error.to_string().contains("Nexthop has invalid gateway"), "{error}");
    assert_eq!(namespace.defaults(), ["default via fd01::1 dev eth0 metric 1024 pref medium"]);
}

#[test]
fn a_route_that_is_gone_is_not_mistaken_for_its_sibling() {
    let Some(namespace) = Namespace::with_two_links() else { return };
    namespace.ip("route add default via 10.2.0.1 dev net1 metric 100");
    let mut netns = namespace.open();
    netns.remove_default_route(&DefaultRoute::via("net1", address("10.2.0.1"))).unwrap();
    assert_eq!(namespace.defaults(), ["default via 10.2.0.1 dev net1 metric 100"]);
}

#[test]
fn adding_a_route_twice_and_removing_it_twice_is_success() {
    let Some(namespace) = Namespace::with_two_links() else { return };
    let mut netns = namespace.open();
    for gateway in ["10.2.0.1", "fd02::1", "fe80::1"] {
        let route = DefaultRoute::via("net1", address(gateway));
        netns.add_default_route(&route).unwrap();
        netns.add_default_route(&route).unwrap();
        assert_eq!(netns.default_routes(route.family).unwrap(), std::slice::from_ref(&route));
        netns.remove_default_route(&route).unwrap();
        netns.remove_default_route(&route).unwrap();
        assert_eq!(netns.default_routes(route.family).unwrap(), []);
    }
}

/// Runs `tc` inside and returns its output.
fn tc(namespace: &Namespace, arguments: &str) -> String {
    let output = Command::new("nsenter")
        .arg(format!("--net={}", namespace.path.display()))
        .arg("tc")
        .args(arguments.split_whitespace())
        .output()
        .expect("tc (iproute2) is needed for these tests");
    assert!(output.status.success(), "tc {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_token_bucket_is_read_changed_and_removed() {
    let Some(namespace) = Namespace::with_two_links() else { return };
    let mut netns = namespace.open();
    let eth0 = netns.link("eth0").unwrap();
    assert_eq!(netns.root_qdisc(&eth0).unwrap(), None, "the kernel's own");
    // 1,000,000 bytes/s, with a burst of 100,000 bytes and 25 ms.
    tc(&namespace, "qdisc add dev eth0 root handle 1: tbf rate 8mbit burst 100000 limit 125000");
    let before = netns.root_qdisc(&eth0).unwrap().unwrap();
    assert!(before.is_plugin_bucket());
    let ticks = scheduler_ticks(&std::fs::read_to_string("/proc/net/psched").unwrap()).unwrap();
    let bucket = TokenBucket::new(RateLimit { rate: 8_000_000, burst: 800_000 }, ticks);
    assert_eq!(before.bucket, Some(bucket));

    for limit in [(16_000_000, 400_000), (80_000_000_000, 8_000_000), (1_000_000, 100_000)] {
        let bucket = TokenBucket::new(RateLimit { rate: limit.0, burst: limit.1 }, ticks);
        netns.change_token_bucket(&eth0, bucket).unwrap();
        assert_eq!(netns.root_qdisc(&eth0).unwrap().unwrap().bucket, Some(bucket));
    }
    assert!(tc(&namespace, "qdisc show dev eth0").contains("rate 1Mbit burst 12500b lat 25ms"));
    netns.remove_root_qdisc(&eth0).unwrap();
    netns.remove_root_qdisc(&eth0).unwrap();
    assert_eq!(netns.root_qdisc(&eth0).unwrap(), None);
}

#[test]
fn ingress_filters_name_where_they_redirect_to() {
    let Some(namespace) = Namespace::with_two_links() else { return };
    if !namespace.can("link add bwp0 type ifb") {
        eprintln!("skipped: this kernel has no ifb");
        return;
    }
    let mut netns = namespace.open();
    let (eth0, ifb) = (netns.link("eth0").unwrap(), netns.link_by_name("bwp0").unwrap().unwrap());
    assert_eq!(netns.ingress_qdisc(&eth0).unwrap(), None);
    assert_eq!(netns.ingress_filters(&eth0).unwrap_or_default(), []);
    tc(&namespace, "qdisc add dev eth0 ingress");
    tc(
        &namespace,
        "filter add dev eth0 parent ffff: prio 1 protocol all u32 match u32 0 0 flowid 1:1 action mirred egress redirect dev bwp0",
    );
    assert_eq!(netns.ingress_qdisc(&eth0).unwrap().unwrap().kind, "ingress");
    let expected = Filter { kind: "u32".into(), redirects_to: Some(ifb.index) };
    assert_eq!(netns.ingress_filters(&eth0).unwrap(), std::slice::from_ref(&expected));
    tc(&namespace, "filter add dev eth0 parent ffff: prio 2 protocol ip u32 match u32 0 0 flowid 1:2");
    let dropping = Filter { kind: "u32".into(), redirects_to: None };
    assert_eq!(netns.ingress_filters(&eth0).unwrap(), [expected, dropping]);
    netns.remove_ingress_qdisc(&eth0).unwrap();
    assert_eq!(netns.ingress_qdisc(&eth0).unwrap(), None);
    netns.remove_link(&ifb).unwrap();
    netns.remove_link(&ifb).unwrap();
    assert_eq!(netns.link_by_index(ifb.index).unwrap(), None);
}

#[test]
fn a_veth_names_its_peer() {
    let Some(namespace) = Namespace::with_two_links() else { return };
    let mut netns = namespace.open();
    let peer = netns.veth_peer("eth0").unwrap().unwrap();
    assert_eq!(netns.link_by_index(peer).unwrap().unwrap().name, "eth0p");
    assert_eq!(netns.veth_peer("lo").unwrap(), None);
}

#[test]
fn kernel_parameters_are_the_namespaces_own() {
    let Some(namespace) = Namespace::with_two_links() else { return };
    let before = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
    let names = ["net.ipv4.ip_forward", "net.ipv4.conf.IFNAME.arp_notify", "net.no.such"];
    let original = read_sysctls(&namespace.path, "eth0", names).unwrap();
    assert_eq!(original.len(), 2);
    let mut changed = Sysctls::new();
    changed.insert("net.ipv4.conf.IFNAME.arp_notify".into(), "1".into());
    changed.insert("net.ipv4.ip_forward".into(), "1".into());
    write_sysctls(&namespace.path, "eth0", &changed).unwrap();
    changed.sort_keys();
    let mut now = read_sysctls(&namespace.path, "eth0", names).unwrap();
    now.sort_keys();
    assert_eq!(now, changed);
    write_sysctls(&namespace.path, "eth0", &original).unwrap();
    assert_eq!(read_sysctls(&namespace.path, "eth0", names).unwrap(), original);
    assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap(), before);
}
