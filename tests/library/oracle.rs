//! The same calls through libcni's cnitool, where the machine has one: `CNITOOL`, or `cnitool` on the `PATH`.
//!
//! `docs/differences-from-libcni.md` lists the differences that are intended. They are excluded from the comparison below by name.

use std::path::PathBuf;
use std::process::Output;
use std::{env, fs};

use rstest::rstest;
use serde_json::{Map, Value, json};

use crate::support::{Call, Case, Network, Plugin, bridge, recorder};

fn cnitool() -> Option<PathBuf> {
    let on_path = || env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join("cnitool")).find(|file| file.is_file());
    let found = env::var_os("CNITOOL").map(PathBuf::from).or_else(on_path);
    if found.is_none() {
        eprintln!("skipped: there is no cnitool, on PATH or in CNITOOL");
    }
    found
}

/// The outcome of one tool's operations on an attachment.
struct Observed {
    outputs: Vec<Output>,
    calls: Vec<Call>,
    /// The cached attachment after ADD, and the number of those that are left in the end.
    cached: Option<Value>,
    left: usize,
    case: Case,
}

/// An attachment of the case's namespace, with arguments of both kinds. The path of cnitool's cache is fixed, so cnitool runs in a
/// mount namespace in which that path is the case's folder.
fn live(case: Case, tool: Option<&PathBuf>) -> Observed {
    let capability_arguments = json!({"mac": "02:00:00:00:00:01", "portMappings": [{"hostPort": 80}], "other": 1});
    let cache = case.dir().join("cache");
    fs::create_dir_all(cache.join("results")).expect("make the cache");
    let netns = case.pod().path().to_str().expect("UTF-8").to_owned();
    let mut outputs = Vec::new();
    let mut cached = None;
    for verb in ["add", "check", "del"] {
        let call = match tool {
            None => case.braid(&[verb, "n", &netns]),
            Some(tool) => {
                let script = "mkdir -p /var/lib/cni && mount --bind \"$CNI_CACHE_DIR\" /var/lib/cni && exec \"$@\"";
                let tool = tool.to_str().expect("UTF-8");
                case.command(
                    "/usr/bin/env".as_ref(),
                    &[
                        "unshare",
                        "--mount",
                        "--propagation",
                        "private",
                        "sh",
                        "-euc",
                        script,
                        "sh",
                        tool,
                        verb,
                        "n",
                        &netns,
                    ],
                )
            }
        };
        let call = call.env("CAP_ARGS", capability_arguments.to_string()).env("CNI_ARGS", "A=1;IgnoreUnknown=true");
        outputs.push(call.output());
        if verb == "add" {
            let files: Vec<_> = fs::read_dir(cache.join("results")).expect("the cache").flatten().collect();
            cached = files.first().map(|file| {
                let mut cached: Value =
                    serde_json::from_slice(&fs::read(file.path()).expect("a file")).expect("the cache is JSON");
                cached["file"] = json!(file.file_name().to_string_lossy());
                cached
            });
        }
    }
    let left = fs::read_dir(cache.join("results")).expect("the cache").count();
    Observed { outputs, calls: case.calls(), cached, left, case }
}

/// A JSON text in which the paths of the case are replaced with names.
fn placeless(observed: &Observed, value: &Value) -> Value {
    let netns = observed.case.pod().path().to_str().expect("UTF-8").to_owned();
    let text =
        value.to_string().replace(&netns, "@NETNS@").replace(observed.case.dir().to_str().expect("UTF-8"), "@DIR@");
    serde_json::from_str(&text).expect("still JSON")
}

/// libcni writes results again: without unknown keys, and with an empty `dns`. Braid passes them on unchanged.
fn normal(result: &Value) -> Value {
    let mut result = result.clone();
    if let Some(members) = result.as_object_mut() {
        if members.get("dns") == Some(&json!({})) {
            members.remove("dns");
        }
        members.retain(|key, _| {
            ["cniVersion", "interfaces", "ips", "routes", "dns", "ip4", "ip6"].contains(&key.as_str())
        });
    }
    result
}

/// A plugin's request in the form that both tools should send. libcni keeps `capabilities`, which SPEC §3 says "must not be set".
fn request(observed: &Observed, call: &Call) -> Value {
    let mut config = placeless(observed, &call.config());
    let members: &mut Map<_, _> = config.as_object_mut().expect("an object");
    members.remove("capabilities");
    if let Some(result) = members.get("prevResult") {
        let result = normal(result);
        members.insert("prevResult".into(), result);
    }
    config
}

fn variables(observed: &Observed, call: &Call) -> Value {
    let names = ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH"];
    let mut of_call: Map<String, Value> =
        names.iter().map(|name| ((*name).to_owned(), json!(call.var(name)))).collect();
    // It is derived from the namespace's path, which differs. Another test compares it with equal paths.
    assert!(call.var("CNI_CONTAINERID").starts_with("cnitool-"));
    of_call.remove("CNI_CONTAINERID");
    placeless(observed, &of_call.into())
}

/// Both tools on the same network.
fn compare(make: impl Fn() -> Case) -> Option<(Observed, Observed)> {
    let tool = cnitool()?;
    let (ours, theirs) = (live(make(), None), live(make(), Some(&tool)));
    let names = |observed: &Observed| observed.calls.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names(&ours), names(&theirs), "{:?}\n{:?}", ours.outputs, theirs.outputs);
    for (our, their) in ours.calls.iter().zip(&theirs.calls) {
        assert_eq!(request(&ours, our), request(&theirs, their), "{our}");
        assert_eq!(variables(&ours, our), variables(&theirs, their), "{our}");
    }
    for (our, their) in ours.outputs.iter().zip(&theirs.outputs) {
        assert_eq!(our.status.success(), their.status.success(), "{our:?}\n{their:?}");
    }
    assert_eq!(ours.left, theirs.left, "what is left in the cache");
    Some((ours, theirs))
}

fn result(observed: &Observed) -> Value {
    normal(&placeless(observed, &serde_json::from_slice(&observed.outputs[0].stdout).expect("a result")))
}

/// The cached attachment in the form that both tools should write, without what is derived from the namespace's path.
fn cached(observed: &Observed) -> Value {
    let mut cached = placeless(observed, observed.cached.as_ref().expect("a cached attachment"));
    let members = cached.as_object_mut().expect("an object");
    let id = members.remove("containerId").expect("an ID").as_str().expect("a string").to_owned();
    assert_eq!(members.remove("file"), Some(json!(format!("n-{id}-eth0"))));
    // libcni keeps the text of the file, Braid what was run: with the plugins of the folder beside it, in one version.
    assert!(members.remove("config").is_some_and(|config| config.is_string()));
    let result = normal(&members["result"]);
    members.insert("result".into(), result);
    cached
}

fn declares(plugin: Plugin) -> Plugin {
    plugin.key("capabilities", json!({"mac": true, "portMappings": true, "ips": true, "bandwidth": false}))
}

#[rstest]
fn a_chain_is_run_alike(#[values("0.4.0", "1.0.0", "1.1.0")] version: &str) {
    let make = || {
        let first =
            declares(recorder("alpha")).ip("10.1.0.5/24").instructed("gateway", "10.1.0.1").raw("n", "[1, 2.5, \"x\"]");
        let network = Network::new("n")
            .version(version)
            .plugin(first)
            .plugin(recorder("beta"))
            .plugin(declares(recorder("gamma")));
        Case::new().configuration("n.conflist", network)
    };
    let Some((ours, theirs)) = compare(make) else { return };
    assert_eq!(result(&ours), result(&theirs));
    assert_eq!(cached(&ours), cached(&theirs));
    assert_eq!(ours.calls.len(), 9);
}

/// CHECK is refused, and DEL gets no previous result.
#[rstest]
fn old_versions_are_run_alike(#[values("0.2.0", "0.3.0", "0.3.1")] version: &str) {
    let make = || {
        let network = Network::new("n").version(version).plugin(declares(recorder("alpha")).ip("10.1.0.5/24"));
        Case::new().configuration("n.conflist", network)
    };
    let Some((ours, theirs)) = compare(make) else { return };
    assert_eq!(result(&ours), result(&theirs));
    assert_eq!(ours.calls.len(), 2);
}

#[rstest]
#[case::versions(json!({"cniVersion": "0.4.0", "cniVersions": ["0.3.1", "1.0.0", "9.0.0"]}))]
#[case::no_check(json!({"cniVersion": "1.0.0", "disableCheck": true}))]
#[case::no_check_as_a_string(json!({"cniVersion": "1.0.0", "disableCheck": "True"}))]
#[case::inlined_only(json!({"cniVersion": "1.0.0", "loadOnlyInlinedPlugins": true}))]
#[case::inlined_only_as_a_string(json!({"cniVersion": "1.0.0", "loadOnlyInlinedPlugins": "TRUE"}))]
#[case::wrong_string(json!({"cniVersion": "1.0.0", "loadOnlyInlinedPlugins": "yes"}))]
#[case::wrong_check(json!({"cniVersion": "1.0.0", "disableCheck": 1}))]
#[case::no_plugins(json!({"cniVersion": "1.0.0", "plugins": null, "loadOnlyInlinedPlugins": true}))]
fn keys_of_the_list_mean_the_same(#[case] keys: Value) {
    compare(|| {
        let mut list = json!({"name": "n", "plugins": [{"type": "alpha"}, {"type": "beta"}]});
        list.as_object_mut().expect("an object").extend(keys.as_object().expect("an object").clone());
        if keys.get("plugins").is_some() {
            list.as_object_mut().expect("an object").remove("plugins");
        }
        Case::new()
            .configuration("n.conflist", list)
            .configuration("n/20-delta.conf", json!({"type": "delta", "key": [1]}))
            .configuration("n/10-gamma.conf", json!({"type": "gamma"}))
            .configuration("n/00-epsilon.json", json!({"type": "epsilon"}))
    });
}

#[rstest]
#[case::list_first(&[("10-n.conf", "alpha"), ("20-n.conflist", "beta")])]
#[case::sorted(&[("b.conflist", "alpha"), ("a.conflist", "beta")])]
#[case::single(&[("n.conf", "alpha")])]
#[case::json(&[("n.json", "alpha")])]
#[case::nothing(&[("n.txt", "alpha")])]
fn files_are_searched_in_the_same_order(#[case] files: &[(&str, &str)]) {
    compare(|| {
        files.iter().fold(Case::new(), |case, (file, kind)| {
            let plugin = recorder(kind).key("name", "n");
            if std::path::Path::new(file).extension().is_some_and(|extension| extension == "conflist") {
                case.configuration(file, Network::new("n").plugin(plugin))
            } else {
                case.configuration(file, plugin)
            }
        })
    });
}

/// With real plugins, both tools make the same addresses, routes and interfaces.
#[test]
fn a_real_network_comes_out_the_same() {
    let make = || {
        let network = Network::new("n").plugin(bridge("br-o", "10.10.1.0/24"));
        Case::with_reference_plugins().configuration("n.conflist", network)
    };
    let Some((ours, theirs)) = compare(make) else { return };
    let kept = |observed: &Observed| {
        let result = result(observed);
        (result["ips"].clone(), result["routes"].clone(), result["interfaces"].as_array().map(Vec::len))
    };
    assert_eq!(kept(&ours), kept(&theirs));
    assert_eq!((ours.case.changes(), theirs.case.changes()), (String::new(), String::new()));
}

/// After a failed ADD, libcni leaves the clean-up to its caller. Braid undoes the ADD.
#[test]
fn a_failed_add_is_undone_on_purpose() {
    let Some(tool) = cnitool() else { return };
    let make = || {
        let network = Network::new("n").plugin(recorder("alpha")).plugin(recorder("beta").failing("ADD", 142));
        Case::new().configuration("n.conflist", network)
    };
    let (ours, theirs) = (live(make(), None), live(make(), Some(&tool)));
    let order = |observed: &Observed| observed.calls.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(order(&theirs)[..3], ["ADD alpha eth0", "ADD beta eth0", "CHECK alpha eth0"]);
    assert_eq!(order(&ours)[..4], ["ADD alpha eth0", "ADD beta eth0", "DEL beta eth0", "DEL alpha eth0"]);
}
