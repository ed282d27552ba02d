//! What is fuzzed: every parser, and what must hold of whatever it is given.
//!
//! The same functions are run by libFuzzer (see `Cargo.toml` beside this file) and, for a bounded time over mutated seeds,
//! by the suite.

use braid_cni::cni::config::{Defaults, Insert, NetworkConfig, RawObject, parse_object};
use braid_cni::cni::{AddResult, Args, CniError, Version, validate};
use braid_cni::config::Config;
use braid_cni::merge::merge;
use braid_cni::plan::policy::plugins_of;
use braid_cni::plan::selection::Selection;
use braid_cni::transaction::journal::State;

/// A parser under test: its name, and inputs that it takes.
pub(crate) struct Target {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it does with an input, and whether it takes it. It panics if something does not hold.
    pub(crate) run: fn(&[u8]) -> bool,
    /// Inputs to begin with.
    pub(crate) seeds: &'static [&'static str],
}

/// All of them.
pub(crate) const TARGETS: [Target; 6] = [
    Target {
        name: "config",
        run: config,
        seeds: &[
            r#"{"cniVersion":"1.1.0","name":"n","type":"braid","delegates":[{"type":"a","capabilities":{"mac":true},"ipam":{"type":"b"}},{"name":"l","plugins":[{"type":"c"}]},"ns/d@net1",{"name":"e","when":{"namespace":["a*","!b"],"args":{"K":"v"}},"optional":true,"config":{"type":"f"}}],"timeouts":{"plugin":1.5,"total":9},"policy":[{"namespaces":["x"],"plugins":["*"]}],"runtimeConfig":{"networks":"a,b","mac":"02:00:00:00:00:01"}}"#,
            r#"{"cniVersion":"0.3.1","name":"n","type":"multus","clusterNetwork":"c","defaultNetworks":["d"],"kubeconfig":"/k","logLevel":"debug","prevResult":{"cniVersion":"0.3.1","ips":[{"version":"4","address":"10.0.0.1/8"}]},"cni.dev/valid-attachments":[{"containerID":"c","ifname":"eth0"}]}"#,
        ],
    },
    Target {
        name: "selection",
        run: selection,
        seeds: &[
            "a, ns/b@net1,c",
            r#"[{"name":"a","namespace":"n","interface":"if0","ips":["10.0.0.1/24","fd00::1"],"mac":"02:00:00:00:00:01","portMappings":[{"hostPort":80,"containerPort":80,"protocol":"tcp"}],"bandwidth":{"ingressRate":1,"ingressBurst":2},"cni-args":{"a":[1]},"default-route":["10.0.0.9"],"deviceID":"0000:00:1f.6"}]"#,
        ],
    },
    Target {
        name: "result",
        run: result,
        seeds: &[
            r#"{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","mac":"02:00:00:00:00:01","mtu":1500,"sandbox":"/n"}],"ips":[{"address":"10.0.0.2/24","gateway":"10.0.0.1","interface":0}],"routes":[{"dst":"0.0.0.0/0","gw":"10.0.0.1","table":254}],"dns":{"nameservers":["1.1.1.1"],"domain":"d","search":["s"],"options":["o"]}}"#,
            r#"{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.2/24","routes":[{"dst":"0.0.0.0/0"}]},"ip6":{"ip":"fd00::2/64"}}"#,
            r#"{"cniVersion":"0.4.0","ips":[{"version":"6","address":"fd00::1/64"}]}"#,
        ],
    },
    Target {
        name: "error",
        run: error,
        seeds: &[r#"{"cniVersion":"1.0.0","code":7,"msg":"m","details":"d"}"#, r#"{"code":"x","msg":1}"#],
    },
    Target {
        name: "journal",
        run: journal,
        seeds: &[concat!(
            r#"{"format":1,"time":5,"boot":"b","netnsId":{"device":4,"inode":5},"plan":{"network":"n","cniVersion":"1.0.0","containerID":"c","netns":"/n","ifname":"eth0","path":"/p","position":"primary","attachments":[{"ifname":"eth0","network":{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"a"},{"type":"b"}]},"reference":"n","origin":"delegates[0]"}]}}"#,
            "\n",
            r#"{"start":[0,0]}"#,
            "\n",
            r#"{"done":{"step":[0,0],"micros":7,"result":{"cniVersion":"1.0.0"}}}"#,
            "\n",
            r#"{"failed":{"step":[0,1],"error":{"code":5,"msg":"m"}}}"#,
            "\n",
            r#"{"undone":[0,1]}"#,
            "\n",
            r#"{"owed":{"step":[9,9],"error":{"code":5,"msg":"m"}}}"#,
            "\n\"routesUndone\"\n",
        )],
    },
    Target { name: "args", run: args, seeds: &["IgnoreUnknown=true;K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;X=y=z;;"] },
];

/// Braid's own configuration, and every plugin's request made from it.
pub(crate) fn config(data: &[u8]) -> bool {
    if let Ok(object) = parse_object(data)
        && let Ok(network) = NetworkConfig::from_object(object, Defaults::default())
    {
        requests(&network);
    }
    match Config::parse(data) {
        Ok(config) => {
            assert!(validate::network_name(&config.name).is_ok());
            assert!(config.state_dir.is_absolute() && config.concurrency > 0);
            for delegate in &config.delegates {
                if let braid_cni::config::Delegate::Network(network) = delegate {
                    requests(network);
                }
            }
            true
        }
        // A message is shown to people.
        Err(error) => error.to_string().is_empty(),
    }
}

fn requests(network: &NetworkConfig) {
    assert!(plugins_of(network).len() >= network.plugins.len());
    for plugin in &network.plugins {
        assert!(validate::plugin_type(plugin.plugin_type()).is_ok());
        let none = RawObject::new();
        let insert = Insert {
            name: &network.name,
            version: network.version,
            capability_args: &none,
            args: None,
            prev_result: None,
            valid_attachments: None,
        };
        let request = parse_object(&plugin.request(&insert)).expect("a request is a JSON object");
        let name: String = serde_json::from_str(request["name"].get()).expect("the name is a string");
        assert_eq!(name, network.name);
    }
}

/// A request for attachments, in either form.
pub(crate) fn selection(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    match Selection::parse(text, "networks") {
        Ok(parsed) => {
            for selection in parsed.selections {
                assert!(validate::network_name(&selection.name).is_ok());
                assert!(selection.namespace.is_none_or(|namespace| validate::network_name(&namespace).is_ok()));
                assert!(selection.interface.is_none_or(|interface| validate::interface_name(&interface).is_ok()));
            }
            true
        }
        Err(error) => error.to_string().is_empty(),
    }
}

/// A plugin's answer: what is read is written and read again as the same, and merges with itself to itself.
pub(crate) fn result(data: &[u8]) -> bool {
    let mut taken = false;
    for spoken in [Version::V0_2_0, Version::V0_4_0, Version::V1_1_0] {
        match AddResult::parse(data, spoken) {
            Ok(result) => {
                taken = true;
                let written = result.to_raw(Version::V1_1_0);
                let again = AddResult::parse(written.get().as_bytes(), Version::V1_1_0).expect("it can be read again");
                assert_eq!(result, again);
                for version in Version::ALL {
                    AddResult::parse(result.to_raw(version).get().as_bytes(), version)
                        .expect("every version can be read");
                }
                let merged = merge([&result]);
                assert_eq!(merge([&merged, &merged]), merged);
            }
            Err(error) => drop(error.to_string()),
        }
    }
    taken
}

/// A plugin's error.
pub(crate) fn error(data: &[u8]) -> bool {
    let error = CniError::parse(data);
    assert!(error.as_ref().is_none_or(|error| error.code != 0));
    error.is_some()
}

/// A journal: whatever is in it, what is owed is a step of its plan.
pub(crate) fn journal(data: &[u8]) -> bool {
    let Ok(Some((state, length))) = State::parse(data, "c", "eth0") else { return false };
    assert!(length <= data.len());
    for step in state.owed() {
        assert!(step.1 < state.header.plan.attachments[step.0].network.plugins.len());
    }
    let _ = state.is_being_undone();
    true
}

/// `CNI_ARGS`.
pub(crate) fn args(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let Ok(args) = text.parse::<Args>() else { return false };
    assert_eq!(args.to_string().parse::<Args>().as_ref(), Ok(&args));
    true
}
