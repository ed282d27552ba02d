//! Tests of every format, and the arbitrary results that other tests use too.

use proptest::prelude::*;

use super::*;

fn parse(version: Version, json: &str) -> Result<AddResult, ResultError> {
    AddResult::parse(json.as_bytes(), version)
}

#[test]
fn the_result_of_the_specification_survives_every_rich_shape() {
    let json = r#"{"interfaces":[{"name":"cni0","mac":"00:11:22:33:44:55"},
        {"name":"eth0","mac":"99:88:77:66:55:44","sandbox":"/var/run/netns/blue"}],
        "ips":[{"address":"10.1.0.5/16","gateway":"10.1.0.1","interface":1}],
        "routes":[{"dst":"0.0.0.0/0"}],"dns":{"nameservers":["10.1.0.1"]}}"#;
    let result = parse(Version::V1_1_0, json).unwrap();
    for version in [Version::V0_3_0, Version::V0_3_1, Version::V0_4_0, Version::V1_0_0, Version::V1_1_0] {
        let wire = result.to_raw(version);
        assert_eq!(parse(Version::V0_1_0, wire.get()).unwrap(), result, "{version}");
        assert_eq!(version_of(wire.get().as_bytes(), Version::V0_1_0).unwrap(), version);
        assert_eq!(wire.get().contains(r#""version":"4""#), version < Version::V1_0_0);
    }
}

#[test]
fn the_old_shape_has_one_address_of_each_family() {
    let json = r#"{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.2/24","gateway":"10.0.0.1","routes":[{"dst":"0.0.0.0/0"}]},
        "ip6":{"ip":"fd00::2/64","routes":[{"dst":"::/0","gw":"fd00::1"}]},"dns":{"domain":"x"}}"#;
    let result = parse(Version::V1_1_0, json).unwrap();
    assert_eq!(result.ips.len(), 2);
    assert_eq!(result.routes.len(), 2);
    assert_eq!(parse(Version::V0_1_0, result.to_raw(Version::V0_2_0).get()).unwrap(), result);
    assert_eq!(parse(Version::V0_1_0, result.to_raw(Version::V1_1_0).get()).unwrap(), result);
}

#[test]
fn nulls_and_empty_addresses_are_nothing() {
    let json = r#"{"interfaces":null,"ips":[{"address":"10.0.0.2/24","gateway":"","interface":null}],
        "routes":[{"dst":"10.0.0.0/8","gw":null}],"dns":null}"#;
    let result = parse(Version::V1_0_0, json).unwrap();
    assert_eq!(result.ips[0].gateway, None);
    assert_eq!(result.routes[0].gw, None);
}

#[test]
fn what_is_wrong_is_named() {
    for (version, json, message) in [
        (Version::V1_0_0, r#"{"ips":[{"address":"10.0.0.2/24","interface":0}]}"#, "one of 0 interfaces"),
        (Version::V1_0_0, r#"{"interfaces":[{"name":"a"}],"ips":[{"address":"10.0.0.2/24","interface":-1}]}"#, "is -1"),
        (Version::V1_0_0, r#"{"ips":[{"address":"10.0.0.2"}]}"#, "\"10.0.0.2\" is not an IP address with a prefix"),
        (Version::V0_4_0, r#"{"ips":[{"version":"6","address":"10.0.0.2/24"}]}"#, "not of that family"),
        (Version::V0_2_0, r#"{"ip4":{"ip":"fd00::1/64"}}"#, "other family"),
        (Version::V1_0_0, r#"{"cniVersion":"7"}"#, "\"7\" is not one of"),
        (Version::V1_0_0, "{} {}", "trailing characters"),
        (Version::V1_0_0, "[]", "expected a JSON object"),
        (Version::V1_0_0, "", "found nothing at all"),
    ] {
        let error = parse(version, json).unwrap_err().to_string();
        assert!(error.contains(message), "{json}: {error}");
    }
}

fn any_net() -> impl Strategy<Value = IpNet> {
    prop_oneof![
        (any::<u32>(), 0u8..=32).prop_map(|(ip, len)| IpNet::new(IpAddr::V4(ip.into()), len).unwrap()),
        (any::<u128>(), 0u8..=128).prop_map(|(ip, len)| IpNet::new(IpAddr::V6(ip.into()), len).unwrap()),
    ]
}

prop_compose! {
    fn any_interface()(name in "[a-z]{1,8}", mac in "([0-9a-f]{2}:){0,5}", mtu in any::<u32>(), sandbox in "(/[a-z]{3})?")
        -> Interface {
        Interface { name, mac, mtu, sandbox, ..Interface::default() }
    }
}

prop_compose! {
    fn any_route()(dst in any_net(), gw in proptest::option::of(any_net()), mtu in any::<u32>(), table in any::<Option<u32>>())
        -> Route {
        Route { mtu, table, ..Route::new(dst, gw.map(|net| net.addr())) }
    }
}

prop_compose! {
    pub(crate) fn any_result()(
        interfaces in proptest::collection::vec(any_interface(), 0..4),
        ips in proptest::collection::vec((any_net(), proptest::option::of(any::<proptest::sample::Index>())), 0..4),
        routes in proptest::collection::vec(any_route(), 0..4),
        search in proptest::collection::vec("[a-z]{1,4}", 0..3),
        domain in "[a-z]{0,4}",
    ) -> AddResult {
        let count = interfaces.len();
        let ips = ips.into_iter().map(|(address, index)| Ip {
            address,
            gateway: None,
            interface: index.filter(|_| count > 0).map(|index| index.index(count)),
        }).collect();
        AddResult { interfaces, ips, routes, dns: Dns { domain, search, ..Dns::default() } }
    }
}

proptest! {
    #[test]
    fn the_newest_shape_loses_nothing(result in any_result()) {
        for version in [Version::V1_0_0, Version::V1_1_0] {
            prop_assert_eq!(&AddResult::parse(result.to_raw(version).get().as_bytes(), version).unwrap(), &result);
        }
    }

    #[test]
    fn older_shapes_settle_after_one_conversion(result in any_result(), at in 0usize..Version::ALL.len()) {
        let version = Version::ALL[at];
        let once = AddResult::parse(result.to_raw(version).get().as_bytes(), version).unwrap();
        let twice = AddResult::parse(once.to_raw(version).get().as_bytes(), version).unwrap();
        prop_assert_eq!(&once, &twice);
        if version >= Version::V0_3_0 {
            prop_assert_eq!(once.ips, result.ips);
            prop_assert_eq!(once.routes, result.routes);
        }
    }

    #[test]
    fn no_input_panics(json in "\\PC{0,200}") {
        for version in Version::ALL {
            drop(AddResult::parse(json.as_bytes(), version));
        }
    }
}
