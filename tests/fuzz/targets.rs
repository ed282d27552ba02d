//! The fuzz targets: every parser, with what must hold for any input.
//!
//! The same functions are run by libFuzzer (see `Cargo.toml` beside this file) and, for a bounded time over mutated seeds,
//! by the suite.

use braid_cni::cni::config::{Defaults, Insert, NetworkConfig, RawObject, parse_object};
use braid_cni::cni::{AddResult, Args, CniError, Version, validate};
use braid_cni::config::policy::plugins_of;
use braid_cni::config::{Concurrency, Config, Problems, Selection};
use braid_cni::merge::merge;
use braid_cni::transaction::journal;

/// A parser under test.
pub(crate) struct Target {
    /// Its name, which is also the name of its folder in `seeds/`.
    pub(crate) name: &'static str,
    /// Runs it with an input, and returns whether the input is valid. Panics if something does not hold.
    pub(crate) run: fn(&[u8]) -> bool,
}

/// All of them.
pub(crate) const TARGETS: [Target; 6] = [
    Target { name: "config", run: config },
    Target { name: "selection", run: selection },
    Target { name: "result", run: result },
    Target { name: "error", run: error },
    Target { name: "journal", run: journal },
    Target { name: "args", run: args },
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
            assert!(config.state_dir.is_absolute() && config.concurrency != Concurrency::AtMost(0));
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
    let mut problems = Problems::new();
    let parsed = Selection::parse_all(text, "networks", &mut problems);
    match problems.or_first(parsed) {
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

/// A plugin's answer: it is the same after writing and reading it again, and merging it with itself gives itself.
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

/// A journal: whatever it contains, each owed step is a step of its plan.
pub(crate) fn journal(data: &[u8]) -> bool {
    let Ok(Some(journal::Reading { state, length, .. })) = journal::read(data) else { return false };
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
