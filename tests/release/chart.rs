//! The Helm chart: rendered by Helm's own library, compared with kustomize's output, and its DaemonSet run on the paths of each
//! kind of node.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use rstest::rstest;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::support::{Json as _, Machine, Network, Release, bridge};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Objects by kind and name.
type Objects = BTreeMap<(String, String), Value>;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Renders the chart. `None` if Helm's library is not installed.
fn try_render(chart: &Path, values: &Value) -> Option<Result<Objects, String>> {
    let python = std::env::var("BRAID_TEST_HELM_PYTHON").unwrap_or_else(|_| "python3".into());
    let has_helm = Command::new(&python).args(["-c", "import helm_python"]).stderr(Stdio::null()).status();
    if !has_helm.is_ok_and(|status| status.success()) {
        eprintln!("{python} has no helm_python (the package helm-python-sdk): skipped");
        return None;
    }
    let mut child = Command::new(python)
        .arg(repository().join("tests/release/render.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("run python");
    let wanted = json!({"chart": chart, "values": values, "namespace": "kube-system"});
    child.stdin.take().expect("a pipe").write_all(wanted.to_string().as_bytes()).expect("ask for it");
    let output = child.wait_with_output().expect("an answer");
    assert!(output.status.success(), "{output:?}");
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let errors = answer["errors"].as_array().expect("a list");
    if !errors.is_empty() {
        return Some(Err(answer["errors"].to_string()));
    }
    let manifests = answer["manifests"].as_object().expect("an object").iter();
    let text = manifests.filter(|(name, _)| !name.ends_with("NOTES.txt")).map(|(_, text)| text.as_str().expect("text"));
    Some(Ok(objects(&text.collect::<Vec<_>>().join("\n---\n"))))
}

#[track_caller]
fn render(values: &Value) -> Option<Objects> {
    try_render(&repository().join("conf/helm"), values).map(|rendered| rendered.expect("a chart without a fault"))
}

/// The objects in a text of YAML. Each is parsed as its Kubernetes type, and must have no unknown keys.
fn objects(text: &str) -> Objects {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).expect("YAML");
    documents.into_iter().filter(|document| !document.is_null()).map(known).collect()
}

fn known(object: Value) -> ((String, String), Value) {
    fn typed<T: Serialize + DeserializeOwned>(object: &Value) -> Value {
        let typed: T = serde_json::from_value(object.clone()).expect("an object of that kind");
        serde_json::to_value(typed).expect("JSON")
    }
    let kind = object["kind"].as_str().expect("a kind").to_owned();
    let typed = match &*kind {
        "DaemonSet" => typed::<DaemonSet>(&object),
        "ServiceAccount" => typed::<ServiceAccount>(&object),
        "ClusterRole" => typed::<ClusterRole>(&object),
        "ClusterRoleBinding" => typed::<ClusterRoleBinding>(&object),
        "Role" => typed::<Role>(&object),
        "RoleBinding" => typed::<RoleBinding>(&object),
        "CustomResourceDefinition" => typed::<CustomResourceDefinition>(&object),
        _ => panic!("{kind} is not among what Braid consists of"),
    };
    assert_eq!(typed, object, "Kubernetes's type leaves something out");
    let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
    ((kind, name), object)
}

/// The pod specification of the DaemonSet.
fn pod(objects: &Objects) -> &Value {
    &objects[&("DaemonSet".into(), "braid".into())]["spec"]["template"]["spec"]
}

#[test]
fn the_chart_has_the_version_of_the_package() {
    let chart = std::fs::read_to_string(repository().join("conf/helm/Chart.yaml")).unwrap();
    assert!(chart.contains(&format!("\nversion: {VERSION}\nappVersion: {VERSION}\n")), "{chart}");
    for folder in ["conf/kubernetes", "conf/kubernetes/live", "conf/kubernetes/profiles", "conf/kubernetes/webhook"] {
        let kustomization = std::fs::read_to_string(repository().join(folder).join("kustomization.yaml")).unwrap();
        assert!(kustomization.contains(&format!("newTag: {VERSION}\n")), "{kustomization}");
    }
    for page in ["docs/README.md", "docs/kubernetes.md", "conf/kubernetes/Containerfile"] {
        let text = std::fs::read_to_string(repository().join(page)).unwrap();
        let tags: Vec<_> = text.split("registry.example/braid:").skip(1).collect();
        let is_this = |rest: &&str| rest.starts_with(VERSION);
        assert!(!tags.is_empty() && tags.iter().all(is_this), "{page} names another version of the image");
    }
}

#[rstest]
#[case::without_the_agent(json!({}), "conf/kubernetes")]
#[case::with_profiles(json!({
    "seccompProfile": {"type": "Localhost", "localhostProfile": "braid/install.json"},
    "appArmorProfile": {"type": "Localhost", "localhostProfile": "braid-install"},
}), "conf/kubernetes/profiles")]
#[case::with_the_agent(json!({"agent": {"enabled": true}}), "conf/kubernetes/live")]
fn the_chart_applies_what_kustomize_applies(#[case] values: Value, #[case] folder: &str) {
    let Some(mut rendered) = render(&values) else { return };
    let kustomize = Command::new("kubectl").arg("kustomize").arg(repository().join(folder)).output();
    let Ok(kustomize) = kustomize else {
        eprintln!("there is no kubectl: skipped");
        return;
    };
    assert!(kustomize.status.success(), "{kustomize:?}");
    let mut expected = objects(&String::from_utf8(kustomize.stdout).expect("UTF-8"));
    // The labels that Helm adds to its objects.
    for object in rendered.values_mut().chain(expected.values_mut()) {
        let metadata = object["metadata"].as_object_mut().expect("an object");
        metadata.remove("labels");
        metadata.remove("annotations");
    }
    let by_name = |objects: &mut Objects| {
        let daemon_set = objects.get_mut(&("DaemonSet".into(), "braid".into())).expect("a DaemonSet");
        for list in ["volumes", "containers"] {
            let list = daemon_set.pointer_mut(&format!("/spec/template/spec/{list}")).and_then(Value::as_array_mut);
            list.expect("a list").sort_by_key(|one| one["name"].as_str().map(str::to_owned));
        }
        let containers = daemon_set.pointer_mut("/spec/template/spec/containers").and_then(Value::as_array_mut);
        let containers = containers.expect("containers");
        containers
            .iter_mut()
            .map(|one| one.as_object_mut().expect("an object").remove("imagePullPolicy"))
            .collect::<Vec<_>>()
    };
    let policies = by_name(&mut rendered);
    assert!(policies.iter().all(|policy| *policy == Some("IfNotPresent".into())), "{policies:?}");
    by_name(&mut expected);
    assert_eq!(rendered, expected);
}

#[test]
fn only_with_the_agent_is_there_any_right_on_the_node() {
    let Some(rendered) =
        render(&json!({"preset": "k3s", "agent": {"enabled": true, "listen": "none", "concurrency": 8}}))
    else {
        return;
    };
    let containers = pod(&rendered)["containers"].as_array().expect("containers");
    let agent = containers.iter().find(|one| one["name"] == "agent").expect("the agent");
    let args = [
        "agent",
        "--conf-dir=/var/lib/rancher/k3s/agent/etc/cni/net.d",
        "--bin-dir=/var/lib/rancher/k3s/data/cni",
        "--listen=none",
        "--concurrency=8",
    ];
    assert_eq!((&agent["args"], &agent["readinessProbe"]), (&json!(args), &Value::Null));
    assert_eq!(pod(&rendered)["hostPID"], true);
    let rendered = render(&json!({})).expect("as before");
    assert_eq!(
        (&pod(&rendered)["hostPID"], pod(&rendered)["containers"].as_array().map(Vec::len)),
        (&Value::Null, Some(1))
    );
    assert!(!rendered.keys().any(|(_, name)| name == "braid-agent"), "{rendered:?}");
}

/// A machine with the directories of a kind of node, and a primary network.
fn node(conf_dir: &str, bin_dir: &str) -> Machine {
    let machine = Machine::new();
    machine.run("mkdir /run/plugins; cp -a /opt/cni/bin/. /run/plugins; mount -t tmpfs tmpfs /var; mount -t tmpfs tmpfs /home").succeeds();
    machine
        .run(&format!(
            "mkdir -p {conf_dir} {bin_dir} /var/lib/cni/braid; cp -a /run/plugins/. {bin_dir}; rm {bin_dir}/braid"
        ))
        .succeeds();
    let network = Network::new("pods").plugin(bridge("br-pods", "10.10.1.0/24"));
    let conf = machine.write("primary", &network.into_json());
    machine.run(&format!("cp {} {conf_dir}/10-pods.conflist", conf.display())).succeeds();
    machine
}

#[rstest]
#[case::default("default", "/etc/cni/net.d", "/opt/cni/bin")]
#[case::aks("aks", "/etc/cni/net.d", "/opt/cni/bin")]
#[case::bottlerocket("bottlerocket", "/etc/cni/net.d", "/opt/cni/bin")]
#[case::eks("eks", "/etc/cni/net.d", "/opt/cni/bin")]
#[case::flatcar("flatcar", "/etc/cni/net.d", "/opt/cni/bin")]
#[case::gke("gke", "/etc/cni/net.d", "/home/kubernetes/bin")]
#[case::k3s("k3s", "/var/lib/rancher/k3s/agent/etc/cni/net.d", "/var/lib/rancher/k3s/data/cni")]
#[case::microk8s("microk8s", "/var/snap/microk8s/current/args/cni-network", "/var/snap/microk8s/current/opt/cni/bin")]
#[case::openshift("openshift", "/etc/kubernetes/cni/net.d", "/var/lib/cni/bin")]
#[case::rke2("rke2", "/etc/cni/net.d", "/opt/cni/bin")]
#[case::talos("talos", "/etc/cni/net.d", "/opt/cni/bin")]
fn each_preset_installs_on_the_paths_of_its_nodes(#[case] preset: &str, #[case] conf_dir: &str, #[case] bin_dir: &str) {
    let Some(rendered) = render(&json!({"preset": preset})) else { return };
    let pod = pod(&rendered);
    let container = &pod["containers"][0];
    let mounts = container["volumeMounts"].as_array().expect("a list").iter();
    for (mount, path) in mounts.zip([conf_dir, bin_dir, "/var/lib/cni/braid"]) {
        let volumes = pod["volumes"].as_array().expect("a list");
        let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]).expect("a volume");
        assert_eq!((&mount["mountPath"], &volume["hostPath"]["path"]), (&json!(path), &json!(path)));
    }
    let needs_type = ["bottlerocket", "openshift"].contains(&preset);
    assert_eq!(container["securityContext"]["seLinuxOptions"]["type"].is_string(), needs_type);

    let machine = node(conf_dir, bin_dir);
    let arguments =
        container["args"].as_array().expect("a list").iter().map(|argument| argument.as_str().expect("text"));
    let arguments = arguments.collect::<Vec<_>>().join("' '");
    machine.run(&format!("/run/plugins/braid '{arguments}' --once")).succeeds().says("this node is ready");
    machine.run(&format!("test -x {bin_dir}/braid; cat {conf_dir}/00-braid.conflist")).succeeds().prints("br-pods");
}

#[test]
fn values_reach_the_daemon_set() {
    let values = json!({
        "confDir": "/conf", "binDir": "/bin", "preset": "k3s", "stateDir": "/state",
        "global": {"systemDefaultRegistry": "mirror.example/"}, "image": {"tag": "edge", "pullPolicy": "Always"},
        "namespaceIsolation": true, "policy": [{"networks": ["a'b"]}], "config": {"logFile": "/var/log/braid.log"},
        "tolerations": [], "resources": {"limits": {"memory": "90Mi"}}, "crds": {"create": false}, "nodeSelector": {"a": "b"},
    });
    let Some(rendered) = render(&values) else { return };
    let pod = pod(&rendered);
    let container = &pod["containers"][0];
    let with = r#"--with={"logFile":"/var/log/braid.log","namespaceIsolation":true,"policy":[{"networks":["a'b"]}]}"#;
    assert_eq!(container["args"], json!(["install", "--conf-dir=/conf", "--bin-dir=/bin", "--state-dir=/state", with]));
    assert_eq!(container["image"], "mirror.example/braid:edge");
    assert_eq!(container["imagePullPolicy"], "Always");
    assert_eq!((&pod["tolerations"], &container["resources"]["limits"]), (&Value::Null, &json!({"memory": "90Mi"})));
    assert_eq!(pod["nodeSelector"], json!({"a": "b"}));
    assert!(!rendered.keys().any(|(kind, _)| kind == "CustomResourceDefinition"), "{rendered:?}");
}

#[rstest]
#[case::a_preset(json!({"preset": "k3d"}), "preset")]
#[case::a_key(json!({"tolerationz": []}), "tolerationz")]
#[case::a_relative_path(json!({"confDir": "cni"}), "confDir")]
#[case::a_rule(json!({"policy": [{"namespace": ["prod"]}]}), "namespace")]
fn a_value_that_is_not_right_is_named(#[case] values: Value, #[case] named: &str) {
    let Some(rendered) = try_render(&repository().join("conf/helm"), &values) else { return };
    let error = rendered.expect_err("it was to be refused");
    assert!(error.contains(named), "{error}");
}

#[test]
fn the_packed_chart_is_always_the_same_and_renders_as_the_folder_does() {
    let name = format!("braid-{VERSION}.tgz");
    let [one, other] = [(); 2].map(|()| Release::new().make(&["chart"]));
    assert_eq!(one.content(), other.content());
    let packed = try_render(&one.file(&name), &json!({}));
    assert_eq!(packed.map(|packed| packed.expect("a chart without a fault")), render(&json!({})));
}
