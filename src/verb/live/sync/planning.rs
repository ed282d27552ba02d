//! Plans what to do for a container, given its journal and its pod.

use super::super::super::error::Error;
use super::super::super::preflight::preflight;
use super::super::error::LiveError;
use super::super::locked::config_for;
use crate::cni::CniError;
use crate::config::{Author, Config, Problems};
use crate::plan::difference::{Asked, Difference, Has};
use crate::plan::{self, Attachment, refuse_two_default_routes};
use crate::request::Request;
use crate::runtime::Finder;
use crate::source::kubernetes::Session;
use crate::source::pod::{NETWORKS, Pod};
use crate::source::{Gathered, SourceError};
use crate::transaction::journal::State;

/// The journals of a container, as `sync` has read them.
pub(super) struct ContainerJournals {
    /// Its journal.
    pub(super) state: State,
    /// The attachments that its other journals record.
    pub(super) others: Vec<Attachment>,
}

/// What is to be done.
pub(super) struct Work {
    /// What is different.
    pub(super) difference: Difference,
    /// The attachments to be made, in the order of the annotation.
    pub(super) new: Vec<New>,
}

/// An attachment to be made.
pub(super) struct New {
    /// Its selection.
    pub(super) selection: usize,
    /// The network, as named in the annotation, and the interface if it is known.
    pub(super) network: String,
    pub(super) interface: Option<String>,
    /// The index of the attachment that is detached first.
    pub(super) replaced: Option<usize>,
    /// It, or why it cannot be.
    pub(super) planned: Result<Attachment, CniError>,
}

/// Where a selection stands.
pub(super) fn origin(selection: usize) -> String {
    format!("{NETWORKS}[{selection}]")
}

/// The attachments that come from selections of the pod's annotation.
fn asked_by_pod(state: &State) -> Vec<Has<'_>> {
    let is_asked = |attachment: &Attachment| {
        let place = attachment.origin.strip_prefix(NETWORKS);
        attachment.author == Author::Pod && place.is_some_and(|place| place.starts_with('['))
    };
    state
        .attached()
        .filter(|(index, attachment)| !state.is_changing(*index) && is_asked(attachment))
        .map(|(index, attachment)| Has { index, attachment })
        .collect()
}

/// Compares what a pod asks for with what its container has.
pub(super) fn difference(state: &State, pod: &Pod) -> Difference {
    let asked: Vec<Asked<'_>> =
        pod.networks.iter().map(|selection| Asked { selection, references: pod.references(selection) }).collect();
    Difference::between(&asked, &asked_by_pod(state))
}

/// Plans the new attachments by the rules of ADD, each separately.
pub(super) struct Planner<'a> {
    pub(super) config: &'a Config,
    pub(super) request: &'a Request,
    pub(super) session: &'a Session,
    pub(super) pod: &'a Pod,
    pub(super) finder: &'a Finder,
}

impl Planner<'_> {
    pub(super) fn plan(&self, journals: &ContainerJournals, difference: Difference) -> Result<Work, LiveError> {
        let mut places: Vec<(usize, Option<usize>)> =
            difference.replace.iter().map(|pair| (pair.selection, Some(pair.attachment))).collect();
        places.extend(difference.attach.iter().map(|selection| (*selection, None)));
        places.sort_unstable();
        if places.is_empty() {
            return Ok(Work { difference, new: Vec::new() });
        }
        let mut pod = self.pod.clone();
        for (selection, replaced) in &places {
            if let Some(index) = replaced {
                let name = &journals.state.header.plan.attachments[*index].ifname;
                pod.networks[*selection].interface.get_or_insert_with(|| name.clone());
            }
        }
        let mut staying = staying(journals, &difference);
        let held: Vec<_> = staying.iter().filter_map(Attachment::held_device).collect();
        let selections: Vec<usize> = places.iter().map(|(selection, _)| *selection).collect();
        let found = self.session.look_up(self.config, &pod, &selections, &held);
        let found = found.map_err(|error| LiveError::Plan(SourceError::from(error).into()))?;
        let names: Vec<String> =
            selections.iter().filter_map(|selection| pod.networks[*selection].interface.clone()).collect();
        let mut new = Vec::new();
        for ((selection, replaced), gathered) in places.into_iter().zip(found) {
            let is_named = pod.networks[selection].interface.is_some();
            let reserved = if is_named { &[][..] } else { &names };
            let planned = gathered.map_err(Error::from).and_then(|one| self.attachment(one, &staying, reserved));
            let planned = planned.map_err(|error| CniError::from(&error));
            staying.extend(planned.as_ref().ok().cloned());
            let network = self.pod.references(&pod.networks[selection]).swap_remove(0);
            let interface = pod.networks[selection].interface.clone();
            new.push(New { selection, network, interface, replaced, planned });
        }
        Ok(Work { difference, new })
    }

    /// Plans one attachment in addition to the future ones, with a name that is not `reserved`.
    fn attachment(&self, gathered: Gathered, beside: &[Attachment], reserved: &[String]) -> Result<Attachment, Error> {
        let mut taken: Vec<String> = beside.iter().map(|attachment| attachment.ifname.clone()).collect();
        taken.extend(reserved.iter().cloned());
        taken.push(self.request.ifname.clone());
        let asked = plan::Asked { candidates: gathered.candidates, dropped: &gathered.dropped, taken: &taken };
        let mut problems = Problems::new();
        let planned = plan::build(&config_for(self.config, Vec::new()), self.request, asked, &mut problems);
        let planned = problems.or_first(planned)?;
        for warning in gathered.warnings.iter().chain(&planned.warnings) {
            tracing::warn!("{warning}");
        }
        preflight(&planned.plan, self.finder)?;
        let attachment = planned.plan.attachments.into_iter().next().expect("one was asked for");
        let all: Vec<Attachment> = beside.iter().cloned().chain([attachment.clone()]).collect();
        if attachment.default_route.is_some() {
            refuse_two_default_routes(&all)?;
        }
        Ok(attachment)
    }
}

/// The attachments that stay.
fn staying(journals: &ContainerJournals, difference: &Difference) -> Vec<Attachment> {
    let leaves = |index: usize| {
        difference.detach.contains(&index) || difference.replace.iter().any(|pair| pair.attachment == index)
    };
    let own = journals.state.attachments().filter(|(index, _)| !leaves(*index)).map(|(_, attachment)| attachment);
    own.chain(&journals.others).cloned().collect()
}
