//! Resource claims in files (`resource.k8s.io`).

use serde_saphyr::Spanned;

use super::Node;

/// The most devices that a claim is given.
const MAX_DEVICES: usize = 32;

/// A claim of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodClaim {
    /// Its name in the pod.
    pub name: String,
    /// The name of a `ResourceClaim` that exists independently of the pod.
    pub claim: Option<String>,
    /// The `ResourceClaimTemplate` from which it is made for the pod.
    pub template: Option<String>,
}

/// The requests of a `ResourceClaim` or a `ResourceClaimTemplate`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClaimSpec {
    /// The requests.
    pub requests: Vec<RequestSpec>,
}

/// A request of a claim. Devices are allocated for one of its alternatives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestSpec {
    /// Its name.
    pub name: String,
    /// The number of devices of each alternative, by the name `request/alternative`, or by the request's name if it has no
    /// alternatives.
    pub alternatives: Vec<(String, usize)>,
}

/// The claims of a pod.
pub(super) fn pod_claims(spec: &Node) -> Vec<PodClaim> {
    let claim = |claim: &Spanned<Node>| {
        let text = |key: &str| claim.value.at(key).and_then(Node::text).map(str::to_owned);
        let (claim, template) = (text("resourceClaimName"), text("resourceClaimTemplateName"));
        Some(PodClaim { name: text("name")?, claim, template })
    };
    list(spec, "resourceClaims").iter().filter_map(claim).collect()
}

/// The requests in the `spec` of a `ResourceClaim`.
pub(super) fn claim(spec: &Node) -> ClaimSpec {
    let requests = list(spec.at("devices").unwrap_or(&Node::Null), "requests");
    ClaimSpec { requests: requests.iter().filter_map(|request| self::request(&request.value)).collect() }
}

fn request(request: &Node) -> Option<RequestSpec> {
    let name = request.at("name").and_then(Node::text)?;
    let alternatives = list(request, "firstAvailable").iter().filter_map(|alternative| {
        let other = alternative.value.at("name").and_then(Node::text)?;
        Some((format!("{name}/{other}"), devices(&alternative.value)))
    });
    let mut alternatives: Vec<_> = alternatives.collect();
    if alternatives.is_empty() {
        // Before `v1beta2`, the request itself had the count.
        let exactly = request.at("exactly").unwrap_or(request);
        alternatives.push((name.to_owned(), devices(exactly)));
    }
    Some(RequestSpec { name: name.to_owned(), alternatives })
}

/// How many devices a request is for.
fn devices(request: &Node) -> usize {
    if request.at("allocationMode").and_then(Node::text) == Some("All") {
        return MAX_DEVICES;
    }
    let count = request.at("count").and_then(Node::text).and_then(|text| text.parse().ok());
    count.unwrap_or(1).min(MAX_DEVICES)
}

fn list<'a>(node: &'a Node, key: &str) -> &'a [Spanned<Node>] {
    match node.at(key) {
        Some(Node::List(items)) => items,
        _ => &[],
    }
}
