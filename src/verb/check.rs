//! CHECK: is everything still as ADD left it?

use std::path::Path;

use serde_json::value::RawValue;

use super::context::Context;
use super::error::{Error, Finding, What};
use crate::cni::AddResult;
use crate::cni::Verb;
use crate::config::Config;
use crate::merge::follow_default_route;
use crate::netns::{Family, Netns};
use crate::plan::Attachment;
use crate::request::Request;
use crate::transaction::journal::State;
use crate::transaction::{Journal, Opened, Sharing, Store};

/// Looks at every attachment: its interfaces, addresses and default routes, and what its plugins say. Reports all that
/// is wrong at once.
pub(super) fn check(request: &Request, config: &Config) -> Result<(), Error> {
    if !config.version.has_check() {
        return Err(Error::NoSuchVerb { verb: Verb::Check, version: config.version });
    }
    if config.disable_check {
        return Ok(());
    }
    let context = Context::new(request, config);
    let not_attached = || Error::NotAttached {
        container_id: request.container_id.clone(),
        ifname: request.ifname.clone(),
        state_dir: config.state_dir.clone(),
    };
    let store = Store::open_existing(&config.state_dir, Sharing::Shared, context.deadline)?.ok_or_else(not_attached)?;
    let container = store.existing_container(&request.container_id, context.deadline)?.ok_or_else(not_attached)?;
    let journal = match Journal::open(&container, &request.ifname)? {
        Opened::Journal(journal) => journal,
        Opened::None | Opened::Unborn => return Err(not_attached()),
        Opened::Corrupt(reason) => {
            let what = What::Changed(format!("it cannot be used ({reason})"));
            return Err(Error::Check(vec![Finding { label: "journal".into(), what }]));
        }
    };
    let locks = vec![store.lock_handle(), container.lock_handle()];
    let launcher = context.launcher(locks);
    let state = &journal.state;
    let finder = context.finder_for(&state.header.plan.path);
    let tools = context.tools(&finder, &launcher);
    let mut findings = Vec::new();
    if state.complete.is_none() {
        let what = What::Changed("ADD did not end well".into());
        findings.push(Finding { label: "journal".into(), what });
    }
    for (index, attachment) in state.header.plan.attachments.iter().enumerate() {
        let finding = |what| Finding { label: attachment.label(), what };
        if !state.is_attached(index) {
            if !attachment.optional {
                findings.push(finding(What::Changed("it is not attached".into())));
            }
            continue;
        }
        let Some(result) = settled_result(state, index) else { continue };
        let changed = look(attachment, &result, &request.netns);
        findings.extend(changed.into_iter().map(|what| finding(What::Changed(what))));
        let chain = tools.chain(attachment);
        let parameters = attachment.parameters(&request.container_id, &request.netns);
        let prev_result = prev_result(state, index, &result);
        let failures = chain.check(&parameters, prev_result.as_deref());
        findings.extend(failures.into_iter().map(|error| finding(What::Plugin(error))));
    }
    if findings.is_empty() { Ok(()) } else { Err(Error::Check(findings)) }
}

/// The result of an attachment as it was once the default routes had been set.
fn settled_result(state: &State, index: usize) -> Option<AddResult> {
    let attachment = &state.header.plan.attachments[index];
    let raw = state.result(index)?;
    let mut result = AddResult::parse(raw.get().as_bytes(), attachment.network.version).ok()?;
    for change in &state.routes {
        follow_default_route([(Some(attachment.ifname.as_str()), &mut result)], change);
    }
    Some(result)
}

/// What the plugins get: their own result, word for word unless default routes have been changed since.
fn prev_result(state: &State, index: usize, settled: &AddResult) -> Option<Box<RawValue>> {
    if state.routes.is_empty() {
        return state.result(index).map(ToOwned::to_owned);
    }
    Some(settled.to_raw(state.header.plan.attachments[index].network.version))
}

/// What is not in the namespace as the result says.
fn look(attachment: &Attachment, result: &AddResult, netns: &str) -> Vec<String> {
    let inside: Vec<_> = result.interfaces_in(netns).collect();
    let has_default = result.routes.iter().any(crate::cni::result::Route::is_default);
    if inside.is_empty() && !has_default {
        return Vec::new();
    }
    match look_inside(attachment, result, netns, &inside) {
        Ok(changed) => changed,
        Err(error) => vec![error.to_string()],
    }
}

fn look_inside(
    attachment: &Attachment,
    result: &AddResult,
    netns: &str,
    inside: &[(usize, &crate::cni::result::Interface)],
) -> Result<Vec<String>, crate::netns::NetnsError> {
    let mut changed = Vec::new();
    let mut namespace = Netns::open(Path::new(netns))?;
    let links = namespace.links()?;
    let addresses = namespace.addresses()?;
    for (index, interface) in inside {
        let Some(link) = links.iter().find(|link| link.name == interface.name) else {
            changed.push(format!("interface {:?} is gone", interface.name));
            continue;
        };
        for ip in result.ips.iter().filter(|ip| ip.interface == Some(*index)) {
            let is_there =
                addresses.iter().any(|address| address.link == link.index && address.net.addr() == ip.address.addr());
            if !is_there {
                changed.push(format!("address {} is gone from {:?}", ip.address, interface.name));
            }
        }
    }
    for family in Family::ALL {
        let told = |route: &&crate::cni::result::Route| route.is_default() && Family::of(route.dst.addr()) == family;
        let Some(route) = result.routes.iter().find(told) else { continue };
        let there = namespace.default_routes(family)?;
        let goes_here = there.iter().any(|found| found.leads_through(&attachment.ifname, route.gw));
        // Without `default-route`, the plugin that came first may have it, and this one's told route never was.
        let is_decided = attachment.default_route.is_some();
        if !goes_here && (is_decided || there.is_empty()) {
            let via = route.gw.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
            changed.push(format!("the {family} default route{via} is gone from {:?}", attachment.ifname));
        }
    }
    Ok(changed)
}
