//! `validate` with Kubernetes objects: networks, pods, and what pods are made from.

use rstest::rstest;

use crate::support::{Machine, Ran};

const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";

/// A NetworkAttachmentDefinition with these lines in its metadata and this spec.
fn definition(namespace: &str, name: &str, metadata: &str, spec: &str) -> String {
    format!(
        "apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata:\n  namespace: {namespace}\n  \
         name: {name}\n{metadata}spec:\n  {spec}\n---\n"
    )
}

/// One with this configuration.
fn network(namespace: &str, name: &str, config: &str) -> String {
    definition(namespace, name, "", &format!("config: '{config}'"))
}

const BRIDGE: &str = r#"{"cniVersion": "1.0.0", "type": "bridge"}"#;

/// A pod that asks for networks. `text` is in single quotes.
fn pod(namespace: &str, annotation: &str, text: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  namespace: {namespace}\n  name: shop\n  annotations:\n    \
         {annotation}: '{text}'\nspec:\n  containers: []\n---\n"
    )
}

/// The output of `validate` about files.
fn validate(machine: &Machine, files: &[(&str, &str)]) -> Ran {
    let paths: Vec<_> =
        files.iter().map(|(name, text)| machine.write(name, text).to_str().expect("UTF-8").to_owned()).collect();
    machine.run(&format!("braid validate {}", paths.join(" ")))
}

/// Its output without the folders of file names.
fn lines(machine: &Machine, ran: &Ran) -> Vec<String> {
    let folder = format!("{}/", machine.dir().display());
    ran.stdout.replace(&folder, "").lines().map(str::to_owned).collect()
}

#[test]
fn good_manifests_are_ok() {
    let machine = Machine::new();
    let text = "# networks\n---\n".to_owned()
        + &network("web", "one", BRIDGE)
        + &network("infra", "two", r#"{"cniVersion": "1.0.0", "plugins": [{"type": "bridge"}, {"type": "tuning"}]}"#)
        + &pod("web", NETWORKS, "one, infra/two@data")
        + "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: 5}\ndata: {80: x}\n";
    let ran = validate(&machine, &[("all.yaml", &text)]).succeeds();
    let expected = ["all.yaml: ok (2 NetworkAttachmentDefinition, 1 Pod, 1 ConfigMap)"];
    assert_eq!(lines(&machine, &ran), expected);
}

/// Each problem of a network with its object, its line and what is expected.
#[rstest]
#[case::no_json(network("web", "one", "{"), "spec.config (line 7): the configuration is not a JSON object: EOF")]
#[case::object(
    definition("web", "one", "", "config: {type: bridge}"),
    "spec.config (line 7) is an object, expected a string"
)]
#[case::spec(
    definition("web", "one", "", "x").replace("spec:\n  x", "spec: []"),
    "spec (line 6) is a list, expected an object"
)]
#[case::version(
    network("web", "one", r#"{"cniVersion": "3.0.0", "type": "bridge"}"#),
    "spec.config (line 7): \"cniVersion\": CNI version \"3.0.0\" is not one of 0.1.0, "
)]
#[case::plugin_type(
    network("web", "one", r#"{"cniVersion": "1.0.0", "plugins": [{"type": "a/b"}]}"#),
    "spec.config (line 7): \"plugins[0].type\": plugin type \"a/b\" is not valid"
)]
#[case::no_plugins(network("web", "one", r#"{"cniVersion": "1.0.0"}"#), "spec.config (line 7): \"plugins\" is missing")]
#[case::network_name(
    network("web", "one", r#"{"cniVersion": "1.0.0", "name": "my net", "type": "bridge"}"#),
    "spec.config (line 7): \"name\": network name \"my net\" is not valid"
)]
#[case::interface(
    network("web", "one", r#"{"cniVersion": "1.0.0", "type": "bridge", "bridge": "a-name-much-too-long"}"#),
    "spec.config (line 7): \"bridge\": interface name \"a-name-much-too-long\" is not valid, expected 1 to 15 bytes"
)]
#[case::ipam(
    network("web", "one", r#"{"cniVersion": "1.0.0", "type": "bridge", "ipam": {"subnet": "10.0.0.0/8"}}"#),
    "spec.config (line 7): \"ipam.type\" is missing"
)]
#[case::meta_plugin(
    network("web", "one", r#"{"cniVersion": "1.0.0", "type": "multus"}"#),
    "a plugin of type \"multus\" would lead back to braid"
)]
#[case::resource(
    definition("web", "one", "  annotations: {k8s.v1.cni.cncf.io/resourceName: a vf}\n", &format!("config: '{BRIDGE}'")),
    "k8s.v1.cni.cncf.io/resourceName (line 6) is \"a vf\", expected the name of a device resource such as vendor.com/vf"
)]
#[case::claim(
    definition("web", "one", "  annotations: {k8s.v1.cni.cncf.io/resourceClaim: nics}\n", &format!("config: '{BRIDGE}'")),
    "k8s.v1.cni.cncf.io/resourceClaim is \"nics\", expected a JSON object {\"claim\": …, \"request\": …} (line 6)"
)]
#[case::resource_kind(
    definition("web", "one", "  annotations: {k8s.v1.cni.cncf.io/resourceName: 5}\n", &format!("config: '{BRIDGE}'")),
    "metadata.annotations[\"k8s.v1.cni.cncf.io/resourceName\"] (line 6) is 5, expected a string; put it in quotes"
)]
#[case::api_version(
    network("web", "one", BRIDGE).replace("cncf.io/v1", "cncf.io/v2"),
    "apiVersion is \"k8s.cni.cncf.io/v2\", expected \"k8s.cni.cncf.io/v1\""
)]
fn a_problem_of_a_network_is_reported_with_its_place(#[case] text: String, #[case] problem: &str) {
    let machine = Machine::new();
    let ran = validate(&machine, &[("nets.yaml", &text)]).exits(1);
    assert_eq!(lines(&machine, &ran)[0], "nets.yaml: wrong (1 NetworkAttachmentDefinition)");
    assert_eq!(ran.stdout.matches("  error: ").count(), 1, "{}", ran.stdout);
    ran.prints("  error: NetworkAttachmentDefinition web/one (line 1): ").prints(problem);
}

#[rstest]
#[case::name(
    network("web", "One_1", BRIDGE),
    "NetworkAttachmentDefinition web/One_1 (line 1): metadata.name is \"One_1\""
)]
#[case::no_name(
    network("web", "one", BRIDGE).replace("name: one", "label: one"),
    "NetworkAttachmentDefinition web/ (line 1): metadata.name is missing"
)]
#[case::namespace(
    network("a.b", "one", BRIDGE),
    "metadata.namespace (line 4) is \"a.b\", expected at most 63 lower-case"
)]
fn names_are_those_that_kubernetes_takes(#[case] text: String, #[case] problem: &str) {
    let ran = validate(&Machine::new(), &[("nets.yaml", &text)]).exits(1);
    assert_eq!(ran.stdout.matches("  error: ").count(), 1, "{}", ran.stdout);
    ran.prints(problem);
}

#[rstest]
#[case::version(network("web", "one", r#"{"type": "bridge"}"#), "\"cniVersion\" is missing")]
#[case::misnamed_version(
    network("web", "one", r#"{"version": "1.0.0", "type": "bridge"}"#),
    "\"cniVersion\" is missing (\"version\" is another key, which nothing reads)"
)]
#[case::list_key(
    network("web", "one", r#"{"cniVersion": "1.0.0", "plugin": 1, "plugins": [{"type": "bridge"}]}"#),
    "the key \"plugin\" is not known, did you mean \"plugins\"?"
)]
#[case::executable(
    network("web", "one", r#"{"cniVersion": "1.0.0", "type": "absent"}"#),
    "spec.config (line 7): no executable called \"absent\" is in /opt/cni/bin"
)]
#[case::annotation(
    definition("web", "one", "  annotations: {k8s.v1.cni.cncf.io/resourcename: a.b/c}\n", &format!("config: '{BRIDGE}'")),
    "did you mean \"k8s.v1.cni.cncf.io/resourceName\"?"
)]
#[case::dra_resource(
    definition("web", "one", "  annotations: {k8s.v1.cni.cncf.io/resourceName: vf}\n", &format!("config: '{BRIDGE}'")),
    "is \"vf\", expected the name of a device resource such as vendor.com/vf, unless it is what a DRA driver calls"
)]
#[case::spec_key(
    definition("web", "one", "", "Config: x"),
    "spec: the key \"Config\" is not known, did you mean \"config\"?"
)]
#[case::twice(network("web", "one", BRIDGE) + &network("web", "one", BRIDGE), "it is given more than once")]
fn what_may_be_intended_is_only_a_warning(#[case] text: String, #[case] warning: &str) {
    let ran = validate(&Machine::new(), &[("nets.yaml", &text)]).succeeds();
    assert_eq!(ran.stdout.matches("  warning: ").count(), 1, "{}", ran.stdout);
    ran.prints(warning);
}

#[test]
fn a_definition_without_a_configuration_stands_for_one_on_disk() {
    for spec in ["config: ''", "x"] {
        let text = definition("web", "one", "", spec).replace("spec:\n  x\n", "");
        let ran = validate(&Machine::new(), &[("nets.yaml", &text)]).succeeds();
        ran.prints("  note: NetworkAttachmentDefinition web/one (line 1): it has no spec.config");
    }
}

/// Each problem of what a pod asks for, as ADD would report it, with the annotation's line.
#[rstest]
#[case::text(
    "one,,one",
    "networks is \"\" (element 2 of \"one,,one\"), expected [namespace/]name[@interface] (line 7)"
)]
#[case::json("[{\"name\": 1}]", "networks[0].name is 1, expected a string (line 7)")]
#[case::no_json("[{", "networks is not readable (EOF while parsing an object at line 1 column 2)")]
#[case::interface(
    "[{\"name\": \"one\", \"interface\": \"a/b\"}]",
    "networks[0].interface is the string \"a/b\", expected 1 to 15 bytes"
)]
#[case::ips(
    "[{\"name\": \"one\", \"ips\": [\"10.0.0.300\"]}]",
    "networks[0].ips is a list with \"10.0.0.300\" in it, expected a list of IP addresses"
)]
#[case::claim(
    "[{\"name\": \"one\", \"ips\": [\"10.0.0.3\"], \"ipam-claim-reference\": \"c\"}]",
    "networks[0]: \"ips\" and \"ipam-claim-reference\" cannot be asked for together (line 7)"
)]
#[case::same_interface(
    "one@data, one@data",
    "networks[0] and k8s.v1.cni.cncf.io/networks[1] would both get the interface \"data\""
)]
#[case::primary_interface("one@eth0", "the primary network and k8s.v1.cni.cncf.io/networks[0] would both get")]
#[case::capability(
    "[{\"name\": \"one\", \"bandwidth\": {\"ingressRate\": 1}}]",
    "networks[0]: \"bandwidth\" is asked for, but no plugin of network \"one\" declares that capability (line 7)"
)]
#[case::missing("two", "networks[0]: there is no network-attachment-definition web/two among those given (line 7)")]
#[case::spelling("onee", "given, did you mean \"one\"? (line 7)")]
#[case::elsewhere("other/one", "definition other/one among those given; of that name there is web/one (line 7)")]
fn a_problem_of_a_pod_is_reported_with_its_place(#[case] networks: &str, #[case] problem: &str) {
    let machine = Machine::new();
    let files = [("one.yaml", &*network("web", "one", BRIDGE)), ("pod.yml", &*pod("web", NETWORKS, networks))];
    let ran = validate(&machine, &files).exits(1);
    assert_eq!(lines(&machine, &ran)[1], "pod.yml: wrong (1 Pod)");
    assert_eq!(ran.stdout.matches("  error: ").count(), 1, "{}", ran.stdout);
    ran.prints("  error: Pod web/shop (line 1): ").prints(problem);
}

#[rstest]
#[case::danm("danm.io/interfaces", "DANM")]
#[case::genie("cni", "CNI-Genie")]
#[case::old_multus("kubernetes.v1.cni.cncf.io/networks", "the first releases of Multus")]
#[case::no_prefix("networks", "without its prefix")]
fn an_annotation_of_others_is_reported(#[case] key: &str, #[case] whose: &str) {
    let ran = validate(&Machine::new(), &[("pod.yaml", &pod("web", key, "one"))]).succeeds();
    ran.prints("  warning: ").prints(whose).prints("networks are asked for in \"k8s.v1.cni.cncf.io/networks\"");
}

/// The definition alone is valid, and so is a pod that asks for it once.
#[test]
fn two_attachments_that_get_in_each_others_way_are_reported() {
    let limited = r#"{"cniVersion": "1.0.0", "plugins": [{"type": "bridge"}, {"type": "bandwidth", "egressRate": 1000, "egressBurst": 1000}]}"#;
    for (networks, is_told) in [("one", false), ("one,one", true)] {
        let files = [("one.yaml", &*network("web", "one", limited)), ("pod.yml", &*pod("web", NETWORKS, networks))];
        let ran = validate(&Machine::new(), &files).succeeds();
        ran.require(ran.stdout.contains("adding link: file exists") == is_told, networks);
    }
}

#[test]
fn all_problems_are_reported_at_once() {
    let selections = r#"[{"name": "../x"}, {"name": "one", "mac": "zz"}, {"name": "one", "ips": ["x"]}]"#;
    let ran = validate(&Machine::new(), &[("pod.yaml", &pod("web", NETWORKS, selections))]).exits(1);
    for problem in ["networks[0].name is", "networks[1].mac is", "networks[2].ips is"] {
        ran.require(ran.stdout.matches(problem).count() == 1, problem);
    }
    let networks = "one@x, two@y, two@y, three";
    let one = network("web", "one", r#"{"type": 1}"#);
    let ran = validate(&Machine::new(), &[("all.yaml", &(one + &pod("web", NETWORKS, networks)))]).exits(1);
    for problem in [
        "web/one (line 1): spec.config",
        "networks[0]: network-attachment-definition web/one: \"type\"",
        "networks[1]: there is no",
        "networks[2]: there is no",
        "networks[3]: there is no",
    ] {
        ran.require(ran.stdout.matches(problem).count() == 1, problem);
    }
}

#[test]
fn a_default_network_is_one_network_of_the_operators_namespace() {
    let default = "v1.multus-cni.io/default-network";
    let given = network("kube-system", "one", BRIDGE);
    let validate =
        |text: &str| validate(&Machine::new(), &[("all.yaml", &(given.clone() + &pod("web", default, text)))]);
    validate("one").succeeds();
    validate("web/one")
        .exits(1)
        .prints("v1.multus-cni.io/default-network: there is no network-attachment-definition web/one");
    validate("one,one").exits(1).prints("v1.multus-cni.io/default-network names more than one network (line 15)");
}

#[test]
fn references_are_resolved_only_where_networks_are_given() {
    let ran = validate(&Machine::new(), &[("pod.yaml", &pod("web", NETWORKS, "one"))]).succeeds();
    ran.prints("  note: Pod web/shop (line 1): k8s.v1.cni.cncf.io/networks[0]: network-attachment-definition web/one")
        .prints(" is looked up in the cluster at ADD (line 7)\n");
    // An object without a namespace is in that of the command line.
    let machine = Machine::new();
    let text = network("web", "one", BRIDGE).replace("  namespace: web\n", "") + &pod("web", NETWORKS, "one");
    let path = machine.write("all.yaml", &text);
    let path = path.display();
    machine.run(&format!("braid validate {path}")).exits(1).prints("of that name there is default/one");
    machine.run(&format!("braid validate --namespace web {path}")).succeeds();
}

#[rstest]
#[case::deployment("Deployment", "spec:\n  template:\n    metadata:\n", 4, "")]
#[case::daemon_set("DaemonSet", "spec:\n  template:\n    metadata:\n", 4, "")]
#[case::stateful_set("StatefulSet", "spec:\n  template:\n    metadata:\n", 4, "")]
#[case::replica_set("ReplicaSet", "spec:\n  template:\n    metadata:\n", 4, "")]
#[case::job("Job", "spec:\n  template:\n    metadata:\n", 4, "")]
#[case::cron_job("CronJob", "spec:\n  jobTemplate:\n    spec:\n      template:\n        metadata:\n", 8, "")]
#[case::misplaced(
    "Deployment",
    "spec:\n  template:\n    spec: {}\nignored:\n",
    0,
    "metadata.annotations[\"k8s.v1.cni.cncf.io/networks\"] (line 4) has no effect there; pods get what is in \
     spec.template.metadata.annotations"
)]
fn what_pods_are_made_from_is_checked_as_they_are(
    #[case] kind: &str,
    #[case] template: &str,
    #[case] indent: usize,
    #[case] warning: &str,
) {
    let annotations = format!("annotations: {{{NETWORKS}: 'a b'}}\n");
    let own = if warning.is_empty() { "{name: shop}\n".to_owned() } else { format!("\n  name: shop\n  {annotations}") };
    let indent = " ".repeat(indent + 2);
    let text = format!("kind: {kind}\nmetadata: {own}{template}{indent}{annotations}");
    let ran = validate(&Machine::new(), &[("shop.yaml", &text)]);
    if warning.is_empty() {
        ran.exits(1).prints(&format!("{kind} default/shop (line 1): {NETWORKS} is \"a b\", expected"));
    } else {
        ran.succeeds().prints(&format!("  warning: {kind} default/shop (line 1): {warning}"));
    }
}

#[test]
fn devices_have_to_be_requested() {
    let resource = "  annotations: {k8s.v1.cni.cncf.io/resourceName: vendor.com/vf}\n";
    let given = definition("web", "one", resource, &format!("config: '{BRIDGE}'"));
    let requests = |count: &str| {
        pod("web", NETWORKS, "one,one").replace(
            "containers: []",
            &format!("containers:\n  - {{name: a, resources: {{limits: {{vendor.com/vf: {count}}}}}}}"),
        )
    };
    let validate = |pod: String| validate(&Machine::new(), &[("all.yaml", &(given.clone() + &pod))]).succeeds();
    let ran = validate(pod("web", NETWORKS, "one"));
    ran.prints("  warning: ")
        .prints("the pod has no device of resource \"vendor.com/vf\"; one of its containers has to");
    validate(requests("'1'")).prints("the pod has 1 devices of resource \"vendor.com/vf\", and all of them are taken");
    for enough in ["2", "'2'"] {
        let ran = validate(requests(enough));
        ran.require(!ran.stdout.contains("warning"), "no warning");
    }
}

/// A pod with these claims, whose network takes a device of this request of one.
fn pod_with_claims(claims: &str, claim: &str) -> String {
    let networks = format!(r#"[{{"name": "one", "resourceClaim": {claim}}}]"#);
    pod("web", NETWORKS, &networks).replace("containers: []", &format!("containers: []\n  resourceClaims: {claims}"))
}

/// A claim or a template with these requests.
fn claim(kind: &str, requests: &str) -> String {
    let spec = if kind == "ResourceClaim" { "{devices: @}" } else { "{spec: {devices: @}}" };
    let spec = spec.replace('@', &format!("{{requests: {requests}}}"));
    format!(
        "apiVersion: resource.k8s.io/v1\nkind: {kind}\nmetadata: {{namespace: web, name: nics}}\nspec: {spec}\n---\n"
    )
}

#[rstest]
#[case::no_claim(
    "[]",
    r#"{"claim": "nics"}"#,
    Some("error: Pod web/shop"),
    "has no resource claim \"nics\"; it has none"
)]
#[case::spelling(
    "[{name: nics, resourceClaimName: nics}]",
    r#"{"claim": "nic"}"#,
    Some("error: "),
    "no resource claim \"nic\"; it has nics, did you mean \"nics\"?"
)]
#[case::request(
    "[{name: a, resourceClaimTemplateName: nics}]",
    r#"{"claim": "a", "request": "fats"}"#,
    Some("error: "),
    "(ResourceClaimTemplate web/nics): it has no such request; it has fast, slow/one, slow/two, did you mean \"fast\"?"
)]
#[case::not_given(
    "[{name: a, resourceClaimTemplateName: other}]",
    r#"{"claim": "a", "request": "fast"}"#,
    None,
    "note: Pod web/shop (line 9): k8s.v1.cni.cncf.io/networks[0]: claim \"a\", request \"fast\": the claim is looked up"
)]
#[case::good("[{name: a, resourceClaimName: nics}]", r#"{"claim": "a", "request": "fast"}"#, None, "ok (")]
#[case::alternative("[{name: a, resourceClaimName: nics}]", r#"{"claim": "a", "request": "slow/two"}"#, None, "ok (")]
#[case::main("[{name: a, resourceClaimName: nics}]", r#"{"claim": "a", "request": "slow"}"#, None, "ok (")]
fn a_claim_has_to_have_the_request_that_a_network_names(
    #[case] claims: &str,
    #[case] wanted: &str,
    #[case] error: Option<&str>,
    #[case] text: &str,
) {
    let requests = "[{name: fast, exactly: {deviceClassName: c, count: 2}}, {name: slow, firstAvailable: [{name: one}, {name: two}]}]";
    let given = claim("ResourceClaim", requests) + &claim("ResourceClaimTemplate", requests);
    let network = network("web", "one", BRIDGE);
    let files = [("all.yaml", &*(network + &pod_with_claims(claims, wanted) + &given))];
    let ran = validate(&Machine::new(), &files);
    match error {
        Some(error) => ran.exits(1).prints(error).prints(text),
        None => ran.succeeds().prints(text),
    };
}

#[test]
fn a_request_has_no_more_devices_than_it_asks_for() {
    let network = network("web", "one", BRIDGE);
    let three = r#"{"name": "one", "resourceClaim": {"claim": "a", "request": "fast"}}"#;
    let networks = format!("[{three}, {three}, {three}]");
    let pod = pod("web", NETWORKS, &networks)
        .replace("containers: []", "containers: []\n  resourceClaims: [{name: a, resourceClaimName: nics}]");
    let given = claim("ResourceClaim", "[{name: fast, exactly: {deviceClassName: c, count: 2}}]");
    let ran = validate(&Machine::new(), &[("all.yaml", &(network + &pod + &given))]).exits(1);
    ran.prints("networks[2]: claim \"a\", request \"fast\" (ResourceClaim web/nics): all the devices that it requests are taken");
}

/// A request with alternatives gets devices for one of them.
#[rstest]
#[case::as_many_as_one_has(&["slow", "slow/two", "slow"], None)]
#[case::more(&["slow", "slow", "slow", "slow"], Some("networks[3]: claim \"a\", request \"slow\""))]
#[case::more_than_the_named_one(&["slow", "slow/one"], Some("networks[0]: claim \"a\", request \"slow\""))]
#[case::two_alternatives(&["slow/one", "slow/two"], Some("networks[1]: claim \"a\", request \"slow/two\""))]
fn a_request_with_alternatives_has_the_devices_of_one(#[case] wanted: &[&str], #[case] error: Option<&str>) {
    let network = network("web", "one", BRIDGE);
    let networks = wanted
        .iter()
        .map(|request| format!(r#"{{"name": "one", "resourceClaim": {{"claim": "a", "request": "{request}"}}}}"#));
    let pod = pod("web", NETWORKS, &format!("[{}]", networks.collect::<Vec<_>>().join(", ")))
        .replace("containers: []", "containers: []\n  resourceClaims: [{name: a, resourceClaimName: nics}]");
    let requests = "[{name: slow, firstAvailable: [{name: one, count: 1}, {name: two, count: 3}]}]";
    let ran = validate(&Machine::new(), &[("all.yaml", &(network + &pod + &claim("ResourceClaim", requests)))]);
    match error {
        Some(error) => ran.exits(1).prints(error).prints("all the devices that it requests are taken"),
        None => ran.succeeds(),
    };
}

#[test]
fn a_pods_claims_may_have_what_its_containers_do_not_request() {
    let resource = "  annotations: {k8s.v1.cni.cncf.io/resourceName: vendor.com/vf}\n";
    let given = definition("web", "one", resource, &format!("config: '{BRIDGE}'"));
    let claims = "containers: []\n  resourceClaims: [{name: a, resourceClaimName: nics}]";
    let pod = pod("web", NETWORKS, "one").replace("containers: []", claims);
    let ran = validate(&Machine::new(), &[("all.yaml", &(given + &pod))]).succeeds();
    ran.require(!ran.stdout.contains("warning"), "no warning");
    ran.prints("whether the pod's resource claims have a device of resource \"vendor.com/vf\" is known once");
}

#[test]
fn the_rules_of_a_configuration_that_is_given_too_hold() {
    let members = r#""kubeconfig": "/k", "confDir": "/nowhere", "namespaceIsolation": true,
        "policy": [{"namespaces": ["web"], "plugins": ["bridge"]}], "delegates": [{"type": "bridge"}]"#;
    let conf = format!(r#"{{"cniVersion":"1.0.0","name":"pods","plugins":[{{"type":"braid",{members}}}]}}"#);
    let macvlan = r#"{"cniVersion": "1.0.0", "type": "macvlan"}"#;
    let given = network("web", "one", BRIDGE) + &network("web", "two", macvlan) + &network("infra", "one", BRIDGE);
    let validate = |text: &str| {
        let files = [("all.yaml", &*(given.clone() + &pod("web", NETWORKS, text))), ("braid.conflist", &*conf)];
        validate(&Machine::new(), &files)
    };
    validate("one").succeeds();
    let ran = validate("infra/one, two").exits(1);
    ran.require(ran.stdout.matches("  error: ").count() == 2, "two errors");
    ran.prints("networks[0]: namespaceIsolation is on, and a pod of namespace \"web\" may not use infra/one")
        .prints("networks[1]: the policy of this node does not let namespace \"web\" use network \"web/two\"");
}

#[test]
fn a_configurations_networks_may_be_in_the_cluster_alone() {
    let conf = |kubeconfig: &str| {
        format!(
            r#"{{"cniVersion":"1.0.0","name":"pods","plugins":[{{"type":"braid",{kubeconfig}
            "confDir":"/etc/cni/net.d","clusterNetwork":"main","defaultNetworks":["infra/extra"]}}]}}"#
        )
    };
    let kubeconfig = "\"kubeconfig\":\"/k\",";
    let validate = |files: &[(&str, &str)]| validate(&Machine::new(), files);
    let ran = validate(&[("braid.conflist", &conf(kubeconfig))]).succeeds();
    for note in [
        "clusterNetwork: network-attachment-definition kube-system/main is looked up in the cluster at ADD",
        "defaultNetworks[0]: network-attachment-definition infra/extra is looked up in the cluster at ADD",
    ] {
        ran.require(ran.stdout.contains(&format!("  note: plugins[0] (braid): {note}\n")), note);
    }
    // If networks are given, missing ones are errors.
    let main = network("kube-system", "main", r#"{"cniVersion": "1.0.0", "type": "absent"}"#);
    let ran = validate(&[("braid.conflist", &conf(kubeconfig)), ("nets.yaml", &main)]).exits(1);
    ran.require(ran.stdout.matches("  error: ").count() == 1, "one error");
    ran.prints(
        "  error: plugins[0] (braid): defaultNetworks[0]: there is no network-attachment-definition infra/extra",
    )
    .prints("  warning: plugins[0] (braid): network \"main\": no executable called \"absent\"");
    // Without Kubernetes, networks are looked up only on disk.
    validate(&[("braid.conflist", &conf(""))]).exits(1).prints("clusterNetwork: no network is called \"main\"");
}

#[test]
fn json_and_lists_are_read_too() {
    let machine = Machine::new();
    let pod = r#"{"kind": "Pod", "metadata": {"name": "shop", "annotations": {"k8s.v1.cni.cncf.io/networks": "a b"}}}"#;
    let text = format!("{{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"List\",\n\t\"items\": [\n\t\t{pod}\n\t]\n}}\n");
    let ran = validate(&machine, &[("list.json", &text)]).exits(1);
    assert_eq!(lines(&machine, &ran)[0], "list.json: wrong (1 Pod)");
    ran.prints("Pod default/shop (line 5): k8s.v1.cni.cncf.io/networks is \"a b\"").prints("(line 5)\n");
}

#[test]
fn every_manifest_of_a_directory_is_listed() {
    let machine = Machine::new();
    machine.write("all/10-braid.conf", r#"{"cniVersion":"1.0.0","name":"n","type":"bridge"}"#);
    machine.write("all/20-one.yaml", &network("web", "one", BRIDGE));
    machine.write("all/30-broken.yml", "a: 1\nb: [\n");
    machine.write("all/40-values.yaml", "replicas: 1\n");
    machine.write("all/50-empty.yaml", "# nothing\n");
    let ran = machine.run(&format!("braid validate {}", machine.dir().join("all").display())).exits(1);
    let verdicts: Vec<_> = lines(&machine, &ran).into_iter().filter(|line| !line.starts_with(' ')).collect();
    assert_eq!(
        verdicts,
        [
            "all/10-braid.conf: ok (network \"n\", CNI 1.0.0, bridge)",
            "all/20-one.yaml: ok (1 NetworkAttachmentDefinition)",
            "all/30-broken.yml: wrong",
            "all/40-values.yaml: ok (1 object without a kind)",
            "all/50-empty.yaml: ok (no objects)",
        ]
    );
    ran.prints("  error: unclosed bracket '[' at line 2, column 4\n")
        .prints("  warning: line 1: it has no \"kind\", so it is no Kubernetes object\n");
}

#[test]
fn what_stands_in_a_file_cannot_change_how_the_rest_is_shown() {
    let text = network("web", "one", BRIDGE).replace("name: one", "name: \"a\\e[2K\\nall.yaml: ok\"");
    let ran = validate(&Machine::new(), &[("all.yaml", &text)]).exits(1);
    assert!(!ran.stdout.contains('\u{1b}') && ran.stdout.lines().count() == 2, "{:?}", ran.stdout);
}
