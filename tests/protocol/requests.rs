//! What each plugin gets on standard input and in its environment.

use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{Call, Case, Json as _, Network, members, recorder};

/// The keys that the protocol adds to a request. All others are the plugin's own.
const INSERTED: [&str; 4] = ["cniVersion", "name", "runtimeConfig", "prevResult"];

/// The plugin's own keys of a request, in order, each with the text of its value.
fn own_keys(call: &Call) -> Vec<(String, String)> {
    call.members().into_iter().filter(|(key, _)| !INSERTED.contains(&key.as_str())).collect()
}

/// Keys that a parser may change: their order, the spelling of numbers, escapes, two keys of one meaning.
const ODD_KEYS: &str = r#"
    "zeta": {"b": 1.50, "a": [1e400, -0, 0.1E-7], "": null},
    "type": "alpha",
    "big": 12345678901234567890123,
    "one": 1.0,
    "huge": 1e400,
    "escaped": "\u00e9\/\"\\ ü",
    "capabilities": {"portMappings": true, "bandwidth": true, "mac": false},
    "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}]], "routes": [ ]},
    "deep": [[[[{"x": [true, false]}]]]]"#;

#[test]
fn a_configuration_reaches_its_plugin_unchanged() {
    let text = format!(r#"{{"name": "own", {ODD_KEYS}, "cniVersion": "1.0.0"}}"#);
    let port_mappings = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
    let given = json!({"mac": "02:00:00:00:00:01", "portMappings": port_mappings, "dns": {"servers": ["10.0.0.1"]}});
    let case = Case::new().delegate(text.as_str()).runtime_config(given);

    let mut expected = members(&text);
    for key in ["name", "cniVersion", "capabilities"] {
        expected.shift_remove(key);
    }
    let expected: Vec<_> = expected.into_iter().collect();
    let calls = [case.add().succeeds().call_of("ADD", "alpha"), case.del().succeeds().call_of("DEL", "alpha")];
    for call in calls {
        assert_eq!(own_keys(&call), expected, "{call}");
        let members = call.members();
        assert_eq!(members["name"], r#""own""#, "{call}");
        assert_eq!(members["cniVersion"], r#""1.0.0""#, "{call}");
        // Declared true and given: neither `mac`, which is declared false, nor `bandwidth`, which is not given.
        let runtime_config: Value = serde_json::from_str(&members["runtimeConfig"]).expect("JSON");
        assert_eq!(runtime_config, json!({"portMappings": port_mappings}), "{call}");
    }
}

#[test]
fn a_chain_reaches_its_plugins_with_the_names_of_the_list() {
    let chain = format!(
        r#"{{"cniVersion": "0.4.0", "name": "own", "other": 1, "plugins": [{{{ODD_KEYS}}}, {{"type": "beta", "n": 2.50}}]}}"#
    );
    let case = Case::new().delegate(chain.as_str());
    let outcome = case.add().succeeds().called(&["ADD alpha eth0", "ADD beta eth0"]);
    let beta = outcome.call_of("ADD", "beta");
    assert_eq!(own_keys(&beta), [("type".into(), "\"beta\"".into()), ("n".into(), "2.50".into())]);
    for call in [outcome.call_of("ADD", "alpha"), beta] {
        let members = call.members();
        assert_eq!((&*members["name"], &*members["cniVersion"]), (r#""own""#, r#""0.4.0""#), "{call}");
    }
}

#[test]
fn runtime_config_is_absent_where_nothing_is_declared_and_given() {
    let declares = json!({"portMappings": true, "ips": false});
    let case = Case::new()
        .runtime_config(json!({"ips": ["10.1.0.9/24"], "mac": "02:00:00:00:00:01"}))
        .delegate(recorder("alpha").key("capabilities", declares))
        .delegate(recorder("beta"));
    let outcome = case.add().succeeds();
    assert!(outcome.call_of("ADD", "alpha").config().get("runtimeConfig").is_none());
    assert!(outcome.call_of("ADD", "beta").config().get("runtimeConfig").is_none());
}

#[test]
fn the_runtimes_capability_arguments_are_for_the_primary_alone() {
    let declares = json!({"portMappings": true});
    let given = json!({"portMappings": [{"hostPort": 80, "containerPort": 80}]});
    let case = Case::new()
        .runtime_config(given.clone())
        .delegate(recorder("alpha").key("capabilities", declares.clone()))
        .delegate(recorder("beta").key("capabilities", declares));
    let outcome = case.add().succeeds();
    assert_eq!(outcome.call_of("ADD", "alpha").config()["runtimeConfig"], given);
    assert!(outcome.call_of("ADD", "beta").config().get("runtimeConfig").is_none());
}

#[rstest]
#[case("0.3.0", false)]
#[case("0.3.1", false)]
#[case("0.4.0", true)]
#[case("1.0.0", true)]
fn the_previous_result_goes_along_the_chain_and_back(#[case] version: &str, #[case] on_del: bool) {
    let chain = |name, first, second, subnet: &str| {
        let ip = |host| format!("{subnet}.{host}/24");
        Network::new(name).version(version).plugin(recorder(first).ip(&ip(1))).plugin(recorder(second).ip(&ip(2)))
    };
    let case = Case::new()
        .delegate(chain("one", "alpha", "beta", "10.1.0"))
        .delegate(chain("two", "gamma", "delta", "10.2.0"));
    let outcome = case.add().succeeds();
    let netns = case.pod().path();
    let result = |ifname: &str, addresses: &[&str]| {
        let mut ips = Vec::new();
        for address in addresses {
            let mut ip = json!({"address": address, "interface": 0});
            if version.starts_with('0') {
                ip["version"] = json!("4");
            }
            ips.push(ip);
        }
        json!({"cniVersion": version, "interfaces": [{"name": ifname, "sandbox": netns}], "ips": ips})
    };
    for (first, second, ifname, addresses) in [
        ("alpha", "beta", "eth0", ["10.1.0.1/24", "10.1.0.2/24"]),
        ("gamma", "delta", "net1", ["10.2.0.1/24", "10.2.0.2/24"]),
    ] {
        assert_eq!(outcome.call_of("ADD", first).config().get("prevResult"), None, "{first}");
        let previous = &outcome.call_of("ADD", second).config()["prevResult"];
        assert_eq!(previous, &result(ifname, &addresses[..1]), "{second}");
    }

    let outcome = case.del().succeeds();
    for (first, second, ifname, addresses) in [
        ("alpha", "beta", "eth0", ["10.1.0.1/24", "10.1.0.2/24"]),
        ("gamma", "delta", "net1", ["10.2.0.1/24", "10.2.0.2/24"]),
    ] {
        let expected = on_del.then(|| result(ifname, &addresses));
        for plugin in [first, second] {
            let config = outcome.call_of("DEL", plugin).config();
            assert_eq!(config.get("prevResult"), expected.as_ref(), "{plugin}");
        }
    }
}

#[test]
fn a_rollback_gives_whole_attachments_their_result() {
    let case = Case::new()
        .delegate(Network::new("one").plugin(recorder("alpha").ip("10.1.0.1/24")).plugin(recorder("beta")))
        .delegate(recorder("gamma").failing("ADD", 142));
    let outcome = case.add().fails(142);
    let whole = json!({
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "eth0", "sandbox": case.pod().path()}],
        "ips": [{"address": "10.1.0.1/24", "interface": 0}],
    });
    for plugin in ["alpha", "beta"] {
        assert_eq!(outcome.call_of("DEL", plugin).config()["prevResult"], whole, "{plugin}");
    }
    // This attachment has no result.
    assert_eq!(outcome.call_of("DEL", "gamma").config().get("prevResult"), None);
}

#[test]
fn del_goes_by_what_add_ran_and_not_by_todays_configuration() {
    let original = r#"{"cniVersion": "1.0.0", "name": "own", "type": "alpha", "n": 1e400, "old": true}"#;
    let case = Case::new().delegate(original).delegate(recorder("beta"));
    let added = case.add().succeeds().call_of("ADD", "alpha");
    let changed = json!({
        "cniVersion": "1.0.0", "name": "outer", "type": "braid", "stateDir": "@DIR@/state",
        "delegates": [{"cniVersion": "1.0.0", "name": "own", "type": "gamma"}],
    });
    let outcome = case.call("DEL").stdin(case.expand(&changed.into_json())).run();
    let outcome = outcome.succeeds().called(&["DEL beta net1", "DEL alpha eth0"]).leaves_nothing();
    assert_eq!(own_keys(&outcome.call_of("DEL", "alpha")), own_keys(&added));
}

#[test]
fn every_plugin_gets_the_environment_of_the_call() {
    let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;FOO=a b";
    let case = Case::new()
        .args(args)
        .env("TRACEPARENT", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .delegate(recorder("alpha"))
        .delegate(recorder("beta"));
    let (add, del) = (case.add().succeeds(), case.del().succeeds());
    for (outcome, command) in [(add, "ADD"), (del, "DEL")] {
        for (plugin, ifname) in [("alpha", "eth0"), ("beta", "net1")] {
            let call = outcome.call_of(command, plugin);
            assert_eq!(call.var("CNI_COMMAND"), command, "{call}");
            assert_eq!(call.var("CNI_CONTAINERID"), Case::CONTAINER, "{call}");
            assert_eq!(call.var("CNI_NETNS"), case.pod().path().to_str().expect("UTF-8"), "{call}");
            assert_eq!(call.var("CNI_IFNAME"), ifname, "{call}");
            assert_eq!(call.var("CNI_ARGS"), args, "{call}");
            assert_eq!(call.var("CNI_PATH"), case.cni_path().to_str().expect("UTF-8"), "{call}");
            assert!(call.var("TRACEPARENT").starts_with("00-0af7"), "{call}");
            assert_ne!(call.var("BRAID_GUARD"), "", "{call}");
        }
    }
}

/// podman also passes `--ip` and `--mac-address` in `CNI_ARGS`, and only one interface can have them.
#[test]
fn the_address_in_cni_args_is_the_primary_networks() {
    let args = "IgnoreUnknown=1;K8S_POD_NAME=web;IP=10.1.0.7;MAC=02:00:5e:00:53:01;GATEWAY=10.1.0.1";
    let case = Case::new().args(args).delegate(recorder("alpha")).delegate(recorder("beta"));
    let (add, del) = (case.add().succeeds(), case.del().succeeds());
    for (outcome, command) in [(add, "ADD"), (del, "DEL")] {
        assert_eq!(outcome.call_of(command, "alpha").var("CNI_ARGS"), args);
        assert_eq!(outcome.call_of(command, "beta").var("CNI_ARGS"), "IgnoreUnknown=1;K8S_POD_NAME=web");
    }
    let chained = Case::new().args(args).prev_result(json!({"cniVersion": "1.0.0"})).delegate(recorder("alpha"));
    let add = chained.add().succeeds();
    assert_eq!(add.call_of("ADD", "alpha").var("CNI_ARGS"), "IgnoreUnknown=1;K8S_POD_NAME=web");
}

#[test]
fn a_delegate_without_a_name_gets_one_of_the_outer_network() {
    let case = Case::new()
        .delegate(recorder("alpha").without("name"))
        .delegate(recorder("beta"))
        .delegate(recorder("gamma").without("name"));
    let outcome = case.add().succeeds();
    for (plugin, name) in [("alpha", "outer"), ("beta", "net-beta"), ("gamma", "outer-2")] {
        assert_eq!(outcome.call_of("ADD", plugin).config()["name"], name, "{plugin}");
    }
}
