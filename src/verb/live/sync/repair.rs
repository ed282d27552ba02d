//! Pods that run without networks that they ask for, because another plugin has attached them: before Braid was configured, or
//! under another configuration. All that is known about them is the result of their primary network in the cache of the runtime's
//! libcni.

use std::path::Path;
use std::time::Duration;

use super::super::super::error::Error;
use super::super::changes::Live;
use super::super::error::LiveError;
use super::super::find::{self, ContainerRef};
use super::super::locked::request_of;
use super::super::pod_status::write_primary;
use super::planning::ContainerJournals;
use super::report::{Failed, Synced};
use super::work::{Syncing, cluster_error};
use crate::cni::AddResult;
use crate::cni::CniError;
use crate::cni::error::code;
use crate::config::Config;
use crate::netns::{Netns, NetnsError};
use crate::plan::{Plan, Position};
use crate::runtime::cache::{Cache, Cached};
use crate::runtime::deadline;
use crate::source::kubernetes::Session;
use crate::transaction::journal::{FORMAT, Header, State, boot_id, now_millis};
use crate::transaction::multus::{Asking, MultusState};
use crate::transaction::{Journal, Opened, Sharing, Store, Transaction};

/// The interface that containerd adds to every container.
const LOOPBACK: &str = "lo";
/// The interface of a pod's primary network, if the cache has several results.
const PRIMARY: &str = "eth0";

/// A container without a journal of Braid.
#[derive(Debug, Clone, Copy)]
pub struct ForeignContainer<'a> {
    /// Its whole ID.
    pub container: &'a str,
    /// The directory in which the runtime's libcni keeps its results.
    pub cache: &'a Path,
    /// The directories with plugins, as in `CNI_PATH`.
    pub cni_path: &'a str,
}

impl Live {
    /// Changes a running container that another plugin has attached to match what its pod asks for. If Braid's configuration has
    /// `repair`, its networks are attached in addition to the existing primary one, and from then on Braid has a journal of the
    /// container. Otherwise the outcome lists what is missing.
    ///
    /// # Errors
    /// When the runtime keeps no result of such a container, or as [`Live::sync`].
    pub fn repair(&self, config: &Config, foreign: ForeignContainer<'_>, is_trial: bool) -> Result<Synced, LiveError> {
        let live = self.clone().configured_by(config);
        let nobody = || LiveError::NoContainer { prefix: foreign.container.into(), state_dir: foreign.cache.into() };
        let cached = primary(foreign).ok_or_else(nobody)?;
        let state = as_attached(config, &cached, foreign.cni_path)?;
        let container_ref = ContainerRef { container: foreign.container, ifname: Some(&cached.if_name) };
        let syncing = Syncing { live: &live, config, container_ref, before: state.clone() };
        if is_by_multus(config, &cached) {
            let skipped = Some("multus has attached the container, and knows its networks".into());
            return Ok(Synced { skipped, ..syncing.report(None) });
        }
        let missing = syncing.run(ContainerJournals { state: state.clone(), others: Vec::new() }, true)?;
        let lacks_nothing = missing.is_whole() && missing.attached.is_empty();
        if missing.skipped.is_some() || lacks_nothing || (is_trial && config.kubernetes.repair) {
            return Ok(missing);
        }
        let until = deadline::from(std::time::Instant::now(), live.timeouts.total);
        let session = Session::open(config, &request_of(&state.header.plan)?, until).map_err(cluster_error)?;
        let session = session.ok_or_else(nobody)?;
        let now = session.pod_now(&request_of(&state.header.plan)?).map_err(cluster_error)?;
        if !config.kubernetes.repair || missing.attached.is_empty() {
            let report = as_unrepaired(missing, !config.kubernetes.repair);
            syncing.post_events(&session, &now.pod, &report, is_trial);
            return Ok(report);
        }
        live.begin_journal(&state)?;
        let result = state.complete.as_deref().map_or("{}", |raw| raw.get());
        let result = AddResult::parse(result.as_bytes(), state.header.plan.version).unwrap_or_default();
        let named = write_primary(&session, &state, &cached.network_name, &result, &now.status);
        let mut report = live.sync(config, container_ref, false)?;
        if let Err(error) = named {
            let (network, interface) = (cached.network_name.clone(), Some(cached.if_name.clone()));
            report.failed.push(Failed { selection: None, network, interface, error: CniError::from(&error) });
        }
        Ok(report)
    }

    /// Begins the journal of a container without any of Braid's attachments. An existing journal is kept.
    fn begin_journal(&self, state: &State) -> Result<(), LiveError> {
        let plan = &state.header.plan;
        let context = self.context(&plan.container_id);
        let store = Store::open(self.state_dir(), Sharing::Shared, context.deadline)?;
        let container = store.container(&plan.container_id, context.deadline)?;
        if let Opened::Journal(_) | Opened::Corrupt(_) = Journal::open(&container, &plan.ifname)? {
            return Ok(());
        }
        find::refuse_unfit(state)?;
        let finder = context.finder_for(&plan.path);
        let launcher = context.launcher(vec![store.lock_handle(), container.lock_handle()]);
        let tools = context.tools(&finder, &launcher);
        let transaction = Transaction::begin(&store, &container, plan, state.header.netns_id, tools)?;
        let answer = state.complete.clone().unwrap_or_else(|| serde_json::value::RawValue::NULL.to_owned());
        transaction.run(|tx| tx.complete(&answer, None, Duration::ZERO)).map_err(Error::from)?;
        Ok(())
    }
}

/// The state of a container that has only a primary attachment, made by another plugin.
fn as_attached(config: &Config, cached: &Cached, cni_path: &str) -> Result<State, LiveError> {
    let container_id = cached.container_id.clone();
    let gone = || LiveError::Gone { container_id: container_id.clone(), netns: cached.netns.clone() };
    let netns_id = match Netns::open(Path::new(&cached.netns)) {
        Ok(netns) => netns.identity().ok(),
        Err(NetnsError::Gone { .. } | NetnsError::NotANamespace { .. }) => return Err(gone()),
        Err(error) => return Err(LiveError::Namespace(error)),
    };
    let plan = Plan {
        network: config.name.clone(),
        version: config.version,
        container_id: cached.container_id.clone(),
        netns: cached.netns.clone(),
        ifname: cached.if_name.clone(),
        args: cached.attachment().args,
        path: config.plugin_path(cni_path),
        position: Position::Chained,
        is_repair: true,
        attachments: Vec::new(),
    };
    let header = Header { format: FORMAT, time: now_millis(), boot: boot_id().into(), netns_id, plan };
    let mut state = State::new(header);
    let raw = cached.result.as_deref().map_or("{}", |raw| raw.get());
    let result = AddResult::parse(raw.as_bytes(), config.version).unwrap_or_default();
    state.complete = Some(result.to_raw(config.version));
    Ok(state)
}

/// The cached result of the primary network of a running pod.
fn primary(foreign: ForeignContainer<'_>) -> Option<Cached> {
    let mut results = Cache::new(foreign.cache).of_container(foreign.container).unwrap_or_default();
    results.retain(|cached| {
        let is_of_pod = cached.cni_args.iter().flatten().any(|[key, value]| key == "K8S_POD_UID" && !value.is_empty());
        is_of_pod && cached.if_name != LOOPBACK && !cached.netns.is_empty() && cached.result.is_some()
    });
    let at = results.iter().position(|cached| cached.if_name == PRIMARY).unwrap_or(0);
    (!results.is_empty()).then(|| results.swap_remove(at))
}

/// Whether Multus has attached the container, with all networks that its pod asked for.
fn is_by_multus(config: &Config, cached: &Cached) -> bool {
    let args = cached.attachment().args;
    let cluster_error =
        Asking { container_id: &cached.container_id, ifname: &cached.if_name, netns: &cached.netns, args: &args };
    !matches!(MultusState::read(&config.multus_dir, cluster_error), Ok(None))
}

/// Reports the attachments that would be made as missing.
fn as_unrepaired(missing: Synced, needs_repair: bool) -> Synced {
    let why = "the pod asks for it, and another plugin has attached the pod without it; \"repair\": true in \
               \"kubernetes\" of braid's configuration has braid attach it";
    let unrepaired = missing.attached.into_iter().map(|one| Failed {
        selection: Some(one.selection),
        network: one.network,
        interface: Some(one.interface),
        error: CniError::new(code::TRY_AGAIN, why),
    });
    let mut report = Synced { attached: Vec::new(), failed: Vec::new(), notices: Vec::new(), needs_repair, ..missing };
    missing.failed.into_iter().chain(unrepaired).for_each(|failed| report.fail_to_attach(failed));
    // Each agent finds it anew.
    for notice in &mut report.notices {
        notice.is_said_once = needs_repair;
    }
    report
}
