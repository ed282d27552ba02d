//! Compares what a pod asks for now with what its container has: which attachments are detached, updated, replaced, and added.
//!
//! A selection that names an interface belongs to the attachment on that interface. Any other selection belongs to an attachment of
//! its network: to one that asked for the same, or else to the next one in order. So if one of several equal selections is removed
//! from the annotation, one attachment is detached and the others keep their names.
//!
//! | what is different | what is done |
//! |---|---|
//! | `bandwidth`, `portMappings` | an update, if the plugins of the attachment support it |
//! | anything else in a selection | detached and attached again |
//! | another network on the same interface name | detached and attached again |
//! | only the definition | nothing: a container keeps the network that it was attached to |

use serde_json::value::RawValue;

use super::Attachment;
use super::update::{PlannedUpdate, UpdateError, ask};
use crate::cni::RawObject;
use crate::config::Selection;

/// What can be given other values in place.
const VALUES: [&str; 2] = ["bandwidth", "portMappings"];
/// Facts about an attachment that an older journal does not contain.
const UNKNOWN: [&str; 4] = ["cni-args", "deviceID", "resourceClaim", "ipam-claim-reference"];

/// A selection of a pod.
#[derive(Debug, Clone)]
pub struct Asked<'a> {
    /// It.
    pub selection: &'a Selection,
    /// The references with which a selection can name its network.
    pub references: Vec<String>,
}

/// An attachment and the selection of the pod to which it belongs.
#[derive(Debug, Clone, Copy)]
pub struct Has<'a> {
    /// Its place in the container's journal.
    pub index: usize,
    /// It.
    pub attachment: &'a Attachment,
}

/// The changes to make. Selections are given by their index in the annotation, attachments by their index in the journal.
#[derive(Debug, Default)]
pub struct Difference {
    /// Attachments that the pod no longer asks for.
    pub detach: Vec<usize>,
    /// Attachments that get other values.
    pub update: Vec<Changed>,
    /// Attachments to be detached, with the selections that replace them.
    pub replace: Vec<Pair>,
    /// Selections without an attachment.
    pub attach: Vec<usize>,
    /// Selections whose attachments need no change.
    pub kept: Vec<Pair>,
}

/// A selection and its attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// The selection.
    pub selection: usize,
    /// The attachment.
    pub attachment: usize,
}

/// An attachment that gets other values.
#[derive(Debug)]
pub struct Changed {
    /// Which.
    pub pair: Pair,
    /// The planned update, or why the attachment cannot get the values.
    pub planned: Result<PlannedUpdate, UpdateError>,
}

/// How much an attachment differs from a selection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Distance {
    Same,
    Values,
    Other,
}

impl Difference {
    /// Finds out what is different.
    pub fn between(asked: &[Asked<'_>], has: &[Has<'_>]) -> Self {
        let mut difference = Self::default();
        let matched = matches(asked, has);
        let is_matched = |at: usize| matched.contains(&Some(at));
        difference.detach.extend((0..has.len()).filter(|at| !is_matched(*at)).map(|at| has[at].index));
        for (selection, (asked, at)) in asked.iter().zip(matched).enumerate() {
            let Some(at) = at else {
                difference.attach.push(selection);
                continue;
            };
            let Has { index, attachment } = has[at];
            let pair = Pair { selection, attachment: index };
            match distance(asked, attachment) {
                Distance::Same => difference.kept.push(pair),
                Distance::Other => difference.replace.push(pair),
                Distance::Values => match ask(attachment, &asked.selection.asked()) {
                    Err(error) if needs_another_chain(&error) => difference.replace.push(pair),
                    planned => difference.update.push(Changed { pair, planned }),
                },
            }
        }
        difference
    }

    /// Whether nothing is different.
    pub fn is_empty(&self) -> bool {
        self.detach.is_empty() && self.update.is_empty() && self.replace.is_empty() && self.attach.is_empty()
    }
}

/// The attachment of each selection.
fn matches(asked: &[Asked<'_>], has: &[Has<'_>]) -> Vec<Option<usize>> {
    let mut matched: Vec<Option<usize>> = vec![None; asked.len()];
    for selection in 0..asked.len() {
        if let Some(name) = &asked[selection].selection.interface {
            let at = has.iter().position(|has| has.attachment.ifname == *name);
            matched[selection] = at.filter(|at| !matched.contains(&Some(*at)));
        }
    }
    for most in [Distance::Same, Distance::Values, Distance::Other] {
        for selection in 0..asked.len() {
            let Asked { selection: wanted, references } = &asked[selection];
            if matched[selection].is_some() || wanted.interface.is_some() {
                continue;
            }
            let fits = |at: &usize| {
                !matched.contains(&Some(*at))
                    && references.contains(&has[*at].attachment.reference)
                    && distance(&asked[selection], has[*at].attachment) <= most
            };
            matched[selection] = (0..has.len()).find(fits);
        }
    }
    matched
}

fn distance(asked: &Asked<'_>, attachment: &Attachment) -> Distance {
    if !asked.references.contains(&attachment.reference) {
        return Distance::Other;
    }
    let (now, then) = (asked.selection.asked(), attachment.asked());
    let is_known = |key: &&str| attachment.asked.is_some() || !UNKNOWN.contains(key);
    let keys = now.keys().chain(then.keys()).map(String::as_str).filter(is_known);
    keys.filter(|key| !is_same(get(&now, key), get(&then, key)))
        .map(|key| if VALUES.contains(&key) { Distance::Values } else { Distance::Other })
        .max()
        .unwrap_or(Distance::Same)
}

/// Whether the attachment's plugins cannot get such values at all, but those that the definition has now may.
fn needs_another_chain(error: &UpdateError) -> bool {
    match error {
        UpdateError::NoStep { .. }
        | UpdateError::WhichStep { .. }
        | UpdateError::NoSuchStep { .. }
        | UpdateError::Kind { .. }
        | UpdateError::Undeclared { .. }
        | UpdateError::Later { .. } => true,
        UpdateError::Value { .. } | UpdateError::Config { .. } => false,
    }
}

fn get<'a>(object: &'a RawObject, key: &str) -> Option<&'a RawValue> {
    object.get(key).map(|value| &**value)
}

fn is_same(a: Option<&RawValue>, b: Option<&RawValue>) -> bool {
    let read = |raw: &RawValue| serde_json::from_str::<serde_json::Value>(raw.get()).ok();
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => a.get() == b.get() || read(a) == read(b),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::Problems;

    /// An attachment on an interface, of a network whose plugins accept limits and mappings.
    fn attachment(ifname: &str, reference: &str, asked: &Value) -> Attachment {
        serde_json::from_value(
            json!({"ifname": ifname, "reference": reference, "origin": "o", "author": "pod", "asked": asked,
            "capabilityArgs": asked, "network": {"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "bridge"},
                {"type": "bandwidth", "capabilities": {"bandwidth": true}},
                {"type": "portmap", "capabilities": {"portMappings": true}}]}}),
        )
        .unwrap()
    }

    fn selections(annotation: &Value) -> Vec<Selection> {
        let text = annotation.as_str().map_or_else(|| annotation.to_string(), str::to_owned);
        let mut problems = Problems::new();
        let parsed = Selection::parse_all(&text, "networks", &mut problems);
        assert!(problems.is_empty(), "{problems:?}");
        parsed.selections
    }

    /// The difference as text: `-ifname`, `~ifname` for an update, `!ifname` for a replacement, `+selection`, `=ifname`.
    fn between(annotation: &Value, has: &[Attachment]) -> String {
        let selections = selections(annotation);
        let references = |one: &Selection| {
            vec![format!("{}/{}", one.namespace.as_deref().unwrap_or("web"), one.name), one.name.clone()]
        };
        let asked: Vec<_> =
            selections.iter().map(|one| Asked { selection: one, references: references(one) }).collect();
        let had: Vec<_> = has.iter().enumerate().map(|(index, attachment)| Has { index, attachment }).collect();
        let difference = Difference::between(&asked, &had);
        let name = |index: usize| has[index].ifname.as_str();
        let mut words: Vec<String> = difference.detach.iter().map(|index| format!("-{}", name(*index))).collect();
        words.extend(difference.update.iter().map(|one| {
            let refused = if one.planned.is_err() { "?" } else { "" };
            format!("~{}{refused}", name(one.pair.attachment))
        }));
        words.extend(difference.replace.iter().map(|one| format!("!{}", name(one.attachment))));
        words.extend(difference.attach.iter().map(|selection| format!("+{selection}")));
        words.extend(difference.kept.iter().map(|one| format!("={}", name(one.attachment))));
        assert_eq!(difference.is_empty(), words.iter().all(|word| word.starts_with('=')));
        words.join(" ")
    }

    fn plain(names: &[(&str, &str)]) -> Vec<Attachment> {
        names.iter().map(|(ifname, reference)| attachment(ifname, reference, &json!({}))).collect()
    }

    #[test]
    fn without_names_they_match_by_network_and_order() {
        let three = plain(&[("net1", "web/a"), ("net2", "web/a"), ("net3", "web/a")]);
        assert_eq!(between(&json!("a,a,a"), &three), "=net1 =net2 =net3");
        assert_eq!(between(&json!("a,a"), &three), "-net3 =net1 =net2");
        assert_eq!(between(&json!("a,b,a,a"), &three), "+1 =net1 =net2 =net3");
        assert_eq!(between(&json!(""), &three), "-net1 -net2 -net3");
        let other = plain(&[("net1", "web/a"), ("net2", "other/a"), ("net3", "a")]);
        assert_eq!(between(&json!("other/a,a"), &other), "-net3 =net2 =net1");
        assert_eq!(between(&json!("a,a,other/a"), &other), "=net1 =net3 =net2");
        assert_eq!(between(&json!("b,a"), &three), "-net2 -net3 +0 =net1");
    }

    #[test]
    fn the_one_that_is_gone_is_the_one_that_asked_for_it() {
        let ip = |last: u8| json!({"ips": [format!("10.0.0.{last}/24")]});
        let has = [
            attachment("net1", "web/a", &ip(1)),
            attachment("net2", "web/a", &ip(2)),
            attachment("net3", "web/a", &ip(3)),
        ];
        let ask = |last: u8| json!({"name": "a", "ips": [format!("10.0.0.{last}/24")]});
        assert_eq!(between(&json!([ask(1), ask(3)]), &has), "-net2 =net1 =net3");
        assert_eq!(between(&json!([ask(3), ask(1), ask(2)]), &has), "=net3 =net1 =net2");
        assert_eq!(between(&json!([ask(1), ask(9), ask(3)]), &has), "!net2 =net1 =net3");
    }

    #[test]
    fn with_a_name_they_match_by_it() {
        let has = plain(&[("pod1", "web/a"), ("net2", "web/a")]);
        assert_eq!(between(&json!("a@pod1,a"), &has), "=pod1 =net2");
        assert_eq!(between(&json!("a@net2"), &has), "-pod1 =net2");
        assert_eq!(between(&json!("a,a@pod1"), &has), "=net2 =pod1");
        assert_eq!(between(&json!("a@pod2"), &has), "-pod1 -net2 +0");
        assert_eq!(between(&json!("b@pod1,a"), &has), "!pod1 =net2", "another network on the same name");
        assert_eq!(between(&json!("b@pod1,b@net2"), &has), "!pod1 !net2");
        assert_eq!(
            between(&json!("a@pod1,b@pod1"), &has),
            "-net2 +1 =pod1",
            "the second is refused when it is planned"
        );
    }

    #[test]
    fn limits_and_mappings_are_updated_and_all_else_is_made_anew() {
        let was = json!({"ips": ["10.0.0.1/24"], "bandwidth": {"ingressRate": 8000, "ingressBurst": 80000}});
        let has = [attachment("net1", "web/a", &was)];
        let with = |more: Value| {
            let mut one = was.as_object().unwrap().clone();
            one.insert("name".into(), json!("a"));
            one.extend(more.as_object().unwrap().clone());
            between(&json!([one]), &has)
        };
        assert_eq!(with(json!({})), "=net1");
        assert_eq!(with(json!({"bandwidth": {"ingressRate": 16000, "ingressBurst": 80000}})), "~net1");
        assert_eq!(with(json!({"bandwidth": {}})), "~net1");
        assert_eq!(with(json!({"portMappings": [{"hostPort": 80, "containerPort": 80}]})), "~net1");
        assert_eq!(
            with(json!({"bandwidth": {"ingressRate": 7, "ingressBurst": 80}})),
            "~net1?",
            "the kernel cannot do that"
        );
        for other in [
            json!({"ips": ["10.0.0.2/24"]}),
            json!({"mac": "02:00:00:00:00:01"}),
            json!({"infiniband-guid": "02:00:00:00:00:00:00:01"}),
            json!({"cni-args": {"a": 1}}),
            json!({"default-route": ["10.0.0.254"]}),
            json!({"default-route": []}),
            json!({"deviceID": "0000:00:1f.6"}),
            json!({"resourceClaim": {"claim": "c", "request": "r"}}),
            json!({"mac": "02:00:00:00:00:01", "bandwidth": {"ingressRate": 16000, "ingressBurst": 80000}}),
        ] {
            assert_eq!(with(other.clone()), "!net1", "{other}");
        }
    }

    #[test]
    fn what_a_chain_cannot_be_given_is_made_anew() {
        let mut bare = attachment("net1", "web/a", &json!({}));
        bare.network.plugins.truncate(1);
        let limit = json!([{"name": "a", "bandwidth": {"ingressRate": 8000, "ingressBurst": 80000}}]);
        assert_eq!(between(&limit, &[bare.clone()]), "!net1");
        let mapping = json!([{"name": "a", "portMappings": [{"hostPort": 80, "containerPort": 80}]}]);
        assert_eq!(between(&mapping, &[bare]), "!net1");
    }

    /// Values that an operator has given an attachment since are not the pod's, and an older journal does not contain everything.
    #[test]
    fn what_the_pod_asked_for_counts() {
        let mut limited = attachment("net1", "web/a", &json!({}));
        limited.capability_args = serde_json::from_value(json!({"bandwidth": {"ingressRate": 8000}})).unwrap();
        assert_eq!(between(&json!("a"), &[limited.clone()]), "=net1");
        limited.asked = None;
        assert_eq!(between(&json!("a"), &[limited]), "~net1");
        let mut older = attachment("net1", "web/a", &json!({"mac": "02:00:00:00:00:01", "deviceID": "d"}));
        older.asked = None;
        let same = json!([{"name": "a", "mac": "02:00:00:00:00:01", "cni-args": {"a": 1}}]);
        assert_eq!(between(&same, &[older]), "=net1");
    }

    /// The limits of a definition belong to the operator: a pod cannot remove them.
    #[test]
    fn limits_in_a_definition_stay() {
        let mut limited =
            attachment("net1", "web/a", &json!({"bandwidth": {"ingressRate": 8000, "ingressBurst": 80000}}));
        limited.network.plugins[1] =
            serde_json::from_value(json!({"type": "bandwidth", "capabilities": {"bandwidth": true},
            "ingressRate": 9000, "ingressBurst": 90000}))
            .unwrap();
        let asked = &selections(&json!("a"))[0];
        let planned = ask(&limited, &asked.asked()).unwrap();
        assert_eq!(planned.attachment.network.plugins[1].keys().len(), 4);
        let limits = |one: &Attachment| crate::plan::update::Limits::of(&one.network.plugins[1], &one.capability_args);
        assert_eq!(limits(&planned.attachment), limits(&limited));
    }
}
