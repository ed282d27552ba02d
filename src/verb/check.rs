//! CHECK: is everything as ADD left it?

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::value::RawValue;

use super::context::Context;
use super::error::{Error, Finding, What};
use super::later::LaterChanges;
use crate::cni::{AddResult, Verb};
use crate::config::{Author, Config, PodChecks};
use crate::merge::follow_default_route;
use crate::netns::{Netns, NetnsError};
use crate::plan::concurrency::Part;
use crate::plan::{Attachment, Position};
use crate::request::Request;
use crate::runtime::{Ahead, Chain, together};
use crate::transaction::journal::State;
use crate::transaction::{Claim, Container, Journal, Means, Opened, Seen, Sharing, Store, Tools, settle};

/// Checks every attachment: its interfaces, addresses and default routes, and its plugins' own CHECK. Reports all problems at once.
///
/// The expected state is what ADD left, with what plugins after Braid have changed since.
pub(super) fn check(context: &Context, request: &Request, config: &Config) -> Result<(), Error> {
    if !config.version.has_check() {
        return Err(Error::NoSuchVerb { verb: Verb::Check, version: config.version });
    }
    if config.disable_check {
        return Ok(());
    }
    let not_attached = || Error::NotAttached {
        container_id: request.container_id.clone(),
        ifname: request.ifname.clone(),
        state_dir: config.state_dir.clone(),
    };
    let store = Store::open_existing(&config.state_dir, Sharing::Shared, context.deadline)?.ok_or_else(not_attached)?;
    let container = store.existing_container(&request.container_id, context.deadline)?.ok_or_else(not_attached)?;
    let mut journal = open_journal(&container, &request.ifname)?.ok_or_else(not_attached)?;
    let launcher = context.launcher(vec![store.lock_handle(), container.lock_handle()]);
    let finder = context.finder_for(&journal.state.header.plan.path);
    let tools = context.tools(&finder, &launcher);
    settle_change(&container, &mut journal, tools)?;
    let call = Check { request, config, state: &journal.state, tools };
    let findings = call.findings();
    if findings.is_empty() { Ok(()) } else { Err(Error::Check(findings)) }
}

/// A change that did not finish is settled first: the container is then in neither the old nor the new state.
fn settle_change(container: &Container, journal: &mut Journal, tools: Tools<'_>) -> Result<(), Error> {
    let means = Means { container, tools, author: "CHECK" };
    let failures = if journal.state.netns_if_same().is_empty() { Vec::new() } else { settle(means, journal) };
    let findings = failures.into_iter().map(|failure| Finding {
        what: What::Changed(format!("an unfinished change cannot be settled: {}", failure.source)),
        label: failure.label,
    });
    let findings: Vec<Finding> = findings.collect();
    if findings.is_empty() { Ok(()) } else { Err(Error::Check(findings)) }
}

/// The journal; nothing if there is none.
fn open_journal(container: &Container, ifname: &str) -> Result<Option<Journal>, Error> {
    match Journal::open(container, ifname)? {
        Opened::Journal(journal) => Ok(Some(*journal)),
        Opened::None | Opened::Unfinished => Ok(None),
        Opened::Corrupt(reason) => {
            let what = What::Changed(format!("it cannot be used ({reason})"));
            Err(Error::Check(vec![Finding { label: "journal".into(), what }]))
        }
    }
}

/// A CHECK whose journal is read.
struct Check<'a> {
    request: &'a Request,
    config: &'a Config,
    state: &'a State,
    tools: Tools<'a>,
}

/// An existing attachment, and the state that it should be in.
struct Attached<'a> {
    attachment: &'a Attachment,
    /// The result of its plugins, with everything that has been changed since.
    prev_result: Box<RawValue>,
    /// What has to be in the namespace.
    claims: Vec<Claim>,
}

impl Check<'_> {
    fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        if self.state.complete.is_none() {
            let what = What::Changed("ADD did not finish".into());
            findings.push(Finding { label: "journal".into(), what });
        }
        for (index, attachment) in self.state.attachments() {
            if !self.state.is_attached(index) && !attachment.optional {
                let what = What::Changed("it is not attached".into());
                findings.push(Finding { label: attachment.label(), what });
            }
        }
        let attached = self.attached();
        findings.extend(self.look(&attached));
        findings.extend(self.ask_plugins(&attached));
        findings
    }

    /// Runs CHECK of the attachments' plugins. A plugin that hangs takes time from later ones, so the plugins that can make CHECK
    /// fail come first.
    fn ask_plugins(&self, attached: &BTreeMap<usize, Attached<'_>>) -> Vec<Finding> {
        let (by_pod, by_operator): (Vec<usize>, Vec<usize>) =
            attached.keys().partition(|index| attached[*index].attachment.author == Author::Pod);
        let mut in_order = by_operator;
        in_order.extend(by_pod.iter().filter(|_| self.config.pod_checks != PodChecks::Off));
        let parts = self.tools.parts(&self.state.header.plan, &in_order);
        let schedule = self.tools.schedule_parts(Verb::Check, &parts);
        let ahead = self.tools.ahead(schedule.at_once());
        for part in &parts {
            self.expect(&ahead, part);
        }
        let mut findings = Vec::new();
        together(
            &schedule,
            |index| self.check_part(&ahead, &parts[index], &attached[&parts[index].attachment]),
            |index, found| findings.extend(self.apply_pod_checks(attached[&parts[index].attachment].attachment, found)),
        );
        findings
    }

    /// Expects the CHECK of every plugin of a part.
    fn expect(&self, ahead: &Ahead<'_>, part: &Part) {
        let attachment = &self.state.header.plan.attachments[part.attachment];
        let chain = self.tools.chain(attachment);
        if chain.is_called(Verb::Check) {
            let parameters = attachment.parameters(&self.request.container_id, &self.request.netns);
            ahead.expect(part.attachment, &chain, Verb::Check, part.steps.clone(), Some(&parameters));
        }
    }

    /// Runs CHECK of the plugins of a part.
    fn check_part(&self, ahead: &Ahead<'_>, part: &Part, attached: &Attached<'_>) -> Vec<Finding> {
        let attachment = attached.attachment;
        let parameters = attachment.parameters(&self.request.container_id, &self.request.netns);
        let chain = Chain { exec: ahead, ..self.tools.chain(attachment) };
        let failures = chain.check_steps(part.steps.clone(), &parameters, Some(&attached.prev_result));
        let finding = |error| Finding { label: attachment.label(), what: What::Plugin(error) };
        failures.into_iter().map(finding).collect()
    }

    /// The existing attachments by their indexes in the plan, each in the state that it should be in.
    fn attached(&self) -> BTreeMap<usize, Attached<'_>> {
        let later = self.later_changes();
        self.state
            .attached()
            .filter_map(|(index, attachment)| {
                let version = attachment.network.version;
                let raw = self.state.result(index)?;
                let answered = AddResult::parse(raw.get().as_bytes(), version).ok()?;
                let mut result = answered.clone();
                for change in &self.state.routes {
                    follow_default_route([(Some(attachment.ifname.as_str()), &mut result)], change);
                }
                if let Some(later) = &later {
                    later.apply(&attachment.ifname, &mut result);
                }
                // Unchanged text, unless something has been changed since.
                let prev_result = if result == answered { raw.to_owned() } else { result.to_raw(version) };
                let claims = self.expected_claims(index, &result);
                Some((index, Attached { attachment, prev_result, claims }))
            })
            .collect()
    }

    /// The changes by plugins after Braid: the differences between the runtime's result of the whole list and Braid's answer.
    fn later_changes(&self) -> Option<LaterChanges> {
        let plan = &self.state.header.plan;
        let answer = self.state.complete.as_ref()?;
        let answered = AddResult::parse(answer.get().as_bytes(), plan.version).ok()?;
        Some(LaterChanges::between(&answered, self.config.prev_result.as_ref()?, plan))
    }

    /// The claims of a result that must be true: those that were true when ADD finished.
    fn expected_claims(&self, index: usize, result: &AddResult) -> Vec<Claim> {
        let plan = &self.state.header.plan;
        let mut claims = Claim::of(&plan.attachments[index].ifname, &plan.netns, result);
        match &self.state.absent {
            Some(absent) => claims.retain(|claim| !absent.iter().any(|absent| absent.is_about_same(claim))),
            None => claims.retain(|claim| self.is_certain(claim, index, result)),
        }
        claims
    }

    /// Whether a claim must be true even if it is not known what existed when ADD finished: the result names the interface
    /// directly, and no other attachment can have taken the default route.
    fn is_certain(&self, claim: &Claim, index: usize, result: &AddResult) -> bool {
        let plan = &self.state.header.plan;
        if let Claim::DefaultRoute { .. } = claim {
            let is_primary = index == 0 && plan.position == Position::Primary;
            return is_primary || plan.attachments[index].default_route.is_some();
        }
        result.interfaces_in(&self.request.netns).any(|(_, interface)| interface.name == claim.interface())
    }

    /// What is not in the namespace.
    fn look(&self, attached: &BTreeMap<usize, Attached<'_>>) -> Vec<Finding> {
        if attached.values().all(|attached| attached.claims.is_empty()) {
            return Vec::new();
        }
        let claims = attached.values().flat_map(|attached| &attached.claims);
        let seen = Netns::open(Path::new(&self.request.netns)).and_then(|mut netns| Seen::look(&mut netns, claims));
        attached
            .values()
            .flat_map(|attached| {
                let changed = missing(&seen, &attached.claims);
                changed.into_iter().map(|changed| (attached.attachment.label(), changed))
            })
            .map(|(label, changed)| Finding { label, what: What::Changed(changed) })
            .collect()
    }

    /// What the failures of an attachment's plugins mean for CHECK. For an attachment that a pod asked for, `podChecks` decides.
    fn apply_pod_checks(&self, attachment: &Attachment, found: Vec<Finding>) -> Vec<Finding> {
        if attachment.author != Author::Pod || self.config.pod_checks != PodChecks::Warn {
            return found;
        }
        for finding in found {
            tracing::warn!(
                network = attachment.network.name,
                interface = attachment.ifname,
                reference = attachment.reference,
                "CHECK goes on, as a pod asked for this attachment: {finding}"
            );
        }
        Vec::new()
    }
}

/// The claims that are no longer true. If an interface is missing, its addresses and routes are not listed.
fn missing(seen: &Result<Seen, NetnsError>, claims: &[Claim]) -> Vec<String> {
    let seen = match seen {
        Ok(seen) => seen,
        Err(_) if claims.is_empty() => return Vec::new(),
        Err(error) => return vec![error.to_string()],
    };
    let missing: Vec<&Claim> = claims.iter().filter(|claim| !seen.has(claim)).collect();
    let is_gone = |name: &str| missing.contains(&&Claim::Interface(name.to_owned()));
    let is_news = |claim: &&&Claim| matches!(claim, Claim::Interface(_)) || !is_gone(claim.interface());
    missing.iter().filter(is_news).map(|claim| claim.gone()).collect()
}
