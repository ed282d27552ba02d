//! Decides which steps are redone.

use serde_json::value::RawValue;

use super::error::UpdateError;
use super::limits::{BANDWIDTH, LIMIT_KEYS, Limits};
use super::planned::{How, Kind, PlannedUpdate, Redo};
use super::values::{BandwidthUpdate, LimitUpdate, PluginUpdate, Update};
use crate::cni::capability::RateLimit;
use crate::cni::config::{PluginConfig, RawObject, find_folded, folds_to, raw};
use crate::config::selection::PortMapping;
use crate::plan::Attachment;

/// The capability with which `portmap` gets its mappings.
const PORT_MAPPINGS: &str = "portMappings";
/// The smallest default burst, in bits: ten full packets.
const LEAST_BURST: u64 = 10 * 1514 * 8;
/// The plugin counts a burst in bytes, in 32 bits.
const MOST_BURST: u64 = (u32::MAX as u64) * 8 - 1;
/// The keys of `firewall` whose effects its DEL does not undo.
const FIREWALL_KEYS: [&str; 2] = ["ingressPolicy", "iptablesAdminChainName"];

/// Decides which steps of an attachment are redone, and with which values.
///
/// # Errors
/// When there is no such step, or its plugin cannot be given these values while the container lives.
pub fn update(attachment: &Attachment, update: &Update) -> Result<PlannedUpdate, UpdateError> {
    let planner = Planner { old: attachment, label: attachment.label() };
    let mut new = attachment.clone();
    for one in &update.plugins {
        planner.set_keys(&mut new, one)?;
    }
    if let Some(bandwidth) = &update.bandwidth {
        planner.set_bandwidth(&mut new, bandwidth)?;
    }
    if let Some(mappings) = &update.port_mappings {
        planner.set_port_mappings(&mut new, mappings)?;
    }
    planner.steps(new)
}

/// Decides which steps of an attachment are redone after the pod has asked for other limits and mappings. The plugins get the
/// values as in ADD, in their capability arguments. Limits in a plugin's configuration stay, because they belong to the operator.
///
/// # Errors
/// As [`update`].
pub fn ask(attachment: &Attachment, asked: &RawObject) -> Result<PlannedUpdate, UpdateError> {
    let planner = Planner { old: attachment, label: attachment.label() };
    let was = attachment.asked();
    let mut new = Attachment { asked: Some(asked.clone()), ..attachment.clone() };
    if !same_value(get(&was, BANDWIDTH), get(asked, BANDWIDTH)) {
        planner.ask_bandwidth(&mut new, get(asked, BANDWIDTH))?;
    }
    if !same_value(get(&was, PORT_MAPPINGS), get(asked, PORT_MAPPINGS)) {
        let mappings: Option<Vec<PortMapping>> =
            get(asked, PORT_MAPPINGS).and_then(|raw| serde_json::from_str(raw.get()).ok());
        planner.set_port_mappings(&mut new, &mappings.unwrap_or_default())?;
    }
    planner.steps(new)
}

struct Planner<'a> {
    old: &'a Attachment,
    label: String,
}

impl Planner<'_> {
    /// The place of a plugin in the chain.
    fn find(&self, plugin_type: &str, number: Option<usize>) -> Result<usize, UpdateError> {
        let plugins = &self.old.network.plugins;
        let places: Vec<usize> = (0..plugins.len()).filter(|at| plugins[*at].plugin_type() == plugin_type).collect();
        let (label, plugin_type) = (self.label.clone(), plugin_type.to_owned());
        match (number, places.as_slice()) {
            (None, [one]) => Ok(*one),
            (None, [_, _, ..]) => Err(UpdateError::WhichStep { label, plugin_type, count: places.len() }),
            (Some(number), _) if (1..=places.len()).contains(&number) => Ok(places[number - 1]),
            (Some(number), [_, ..]) => Err(UpdateError::NoSuchStep { label, plugin_type, number, count: places.len() }),
            _ => {
                let chain = plugins.iter().map(|plugin| plugin.plugin_type().to_owned()).collect();
                Err(UpdateError::NoStep { label, plugin_type, chain })
            }
        }
    }

    fn set_keys(&self, new: &mut Attachment, update: &PluginUpdate) -> Result<(), UpdateError> {
        let plugin_type = update.plugin_type.clone();
        if Kind::of_type(&plugin_type).is_none() {
            return Err(UpdateError::Kind { label: self.label.clone(), plugin_type });
        }
        let at = self.find(&plugin_type, update.number)?;
        if update.set.is_empty() && update.unset.is_empty() {
            return Err(self.value(&plugin_type, "--plugin", "no key is given: --set KEY=JSON or --unset KEY"));
        }
        if let Some(key) = update.unset.iter().find(|key| update.set.keys().any(|set| folds_to(set, key))) {
            return Err(self.value(&plugin_type, key, "it is to be set and to be removed; give only one of them"));
        }
        let mut keys = new.network.plugins[at].keys().clone();
        for key in update.set.keys().chain(&update.unset) {
            if ["type", "name", "cniVersion", "prevResult", "runtimeConfig", "capabilities"]
                .iter()
                .any(|own| folds_to(key, own))
            {
                return Err(self.value(&plugin_type, key, "it is the protocol's, and cannot be changed"));
            }
            let is_limit = LIMIT_KEYS.iter().flatten().any(|own| folds_to(key, own));
            if plugin_type == BANDWIDTH && !is_limit {
                let why = "only its limits can be changed: ingressRate, ingressBurst, egressRate and egressBurst";
                return Err(self.value(&plugin_type, key, why));
            }
            // Go's parser, which most plugins use, takes the last of two keys that differ only in case.
            keys.retain(|own, _| !folds_to(own, key));
        }
        keys.extend(update.set.iter().map(|(key, value)| (key.clone(), value.clone())));
        new.network.plugins[at] = PluginConfig::from_object(keys).map_err(|source| UpdateError::Config {
            label: self.label.clone(),
            plugin_type,
            source,
        })?;
        Ok(())
    }

    fn set_bandwidth(&self, new: &mut Attachment, update: &BandwidthUpdate) -> Result<(), UpdateError> {
        let at = match self.find(BANDWIDTH, None) {
            Ok(at) => at,
            Err(UpdateError::NoStep { .. }) => {
                let mut keys = RawObject::new();
                keys.insert("type".into(), raw(BANDWIDTH));
                new.network.plugins.push(PluginConfig::from_object(keys).expect("it has a type"));
                new.network.plugins.len() - 1
            }
            Err(error) => return Err(error),
        };
        let plugin = &new.network.plugins[at];
        let old = Limits::of(plugin, &new.capability_args);
        let direction = |key: &str, update: Option<LimitUpdate>, old: Option<RateLimit>| match update {
            None => Ok(old),
            Some(LimitUpdate::Unlimited) => Ok(None),
            Some(LimitUpdate::Limited { rate, burst }) => {
                let burst =
                    burst.or(old.map(|old| old.burst)).unwrap_or_else(|| (rate / 10).clamp(LEAST_BURST, MOST_BURST));
                self.limit(key, RateLimit { rate, burst }).map(Some)
            }
        };
        let limits = Limits {
            ingress: direction("ingress", update.ingress, old.ingress)?,
            egress: direction("egress", update.egress, old.egress)?,
        };
        if limits == old {
            return Ok(());
        }
        let in_config = LIMIT_KEYS.iter().flatten().any(|key| find_folded(plugin.keys(), key).is_some());
        if in_config || !plugin.declares(BANDWIDTH) {
            new.network.plugins[at] = limits.in_config(plugin);
        } else {
            new.capability_args.insert(BANDWIDTH.into(), raw(&limits.to_object()));
        }
        Ok(())
    }

    fn ask_bandwidth(&self, new: &mut Attachment, asked: Option<&RawValue>) -> Result<(), UpdateError> {
        let asked: RawObject = asked.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default();
        let at = self.find(BANDWIDTH, None)?;
        if !new.network.plugins[at].declares(BANDWIDTH) {
            return Err(self.undeclared(BANDWIDTH, BANDWIDTH));
        }
        let [ingress, egress] = LIMIT_KEYS.map(|[rate, burst]| {
            let number =
                |key| get(&asked, key).and_then(|raw| serde_json::from_str::<u64>(raw.get()).ok()).filter(|n| *n > 0);
            number(rate).map_or(LimitUpdate::Unlimited, |rate| LimitUpdate::Limited { rate, burst: number(burst) })
        });
        let in_config =
            LIMIT_KEYS.iter().flatten().any(|key| find_folded(new.network.plugins[at].keys(), key).is_some());
        if in_config {
            new.capability_args.insert(BANDWIDTH.into(), raw(&asked));
            return Ok(());
        }
        self.set_bandwidth(new, &BandwidthUpdate { ingress: Some(ingress), egress: Some(egress) })
    }

    /// What the plugin, and the kernel, can do.
    fn limit(&self, key: &str, limit: RateLimit) -> Result<RateLimit, UpdateError> {
        let why = match limit {
            RateLimit { rate: 0..8, .. } => "a rate is at least 8 bits per second".to_owned(),
            RateLimit { burst: 0..8, .. } => "a burst is at least 8 bits".to_owned(),
            RateLimit { burst, .. } if burst > MOST_BURST => format!("a burst is at most {MOST_BURST} bits"),
            // The plugin counts the time of a burst in whole microseconds, and the kernel accepts any value.
            RateLimit { rate, burst } if burst / 8 < (rate / 8).div_ceil(1_000_000) => {
                let least = (rate / 8).div_ceil(1_000_000) * 8;
                format!(
                    "a burst of {burst} bits is too small for {rate} bits per second: give {key}Burst={least} or more"
                )
            }
            limit => return Ok(limit),
        };
        Err(self.value(BANDWIDTH, key, why))
    }

    fn set_port_mappings(&self, new: &mut Attachment, mappings: &[PortMapping]) -> Result<(), UpdateError> {
        let at = self.find("portmap", None)?;
        if !new.network.plugins[at].declares(PORT_MAPPINGS) {
            return Err(self.undeclared("portmap", PORT_MAPPINGS));
        }
        let twice = (1..mappings.len()).find(|at| mappings[..*at].iter().any(|other| other.overlaps(&mappings[*at])));
        if let Some(at) = twice {
            let why = format!("the host port {}/{} is given twice", mappings[at].host_port, mappings[at].protocol);
            return Err(self.value("portmap", PORT_MAPPINGS, why));
        }
        if mappings.is_empty() {
            new.capability_args.shift_remove(PORT_MAPPINGS);
        } else {
            new.capability_args.insert(PORT_MAPPINGS.into(), raw(mappings));
        }
        Ok(())
    }

    /// The steps whose plugin would get another input.
    fn steps(&self, new: Attachment) -> Result<PlannedUpdate, UpdateError> {
        let mut steps = Vec::new();
        let mut result_changes: Option<&str> = None;
        for (step, plugin) in new.network.plugins.iter().enumerate() {
            let Some(before) = self.old.network.plugins.get(step) else {
                if Limits::of(plugin, &new.capability_args) != Limits::default() {
                    steps.push(Redo { step, how: How::Add });
                }
                continue;
            };
            let is_changed = self.is_changed(before, plugin, &new);
            if !is_changed && result_changes.is_none() {
                continue;
            }
            let Some(kind) = Kind::of(plugin) else {
                return Err(self.cannot_be_redone(plugin, result_changes.filter(|_| !is_changed)));
            };
            let (how, changes_result) = self.how(kind, before, plugin, &new)?;
            if changes_result {
                result_changes = Some(plugin.plugin_type());
            }
            steps.push(Redo { step, how });
        }
        let mut attachment = new;
        // A step without a limit is not added.
        if attachment.network.plugins.len() > self.old.network.plugins.len()
            && !steps.iter().any(|redo| redo.how == How::Add)
        {
            attachment.network.plugins.truncate(self.old.network.plugins.len());
        }
        Ok(PlannedUpdate { attachment, steps })
    }

    /// Whether a plugin would get another configuration, or other capability arguments.
    fn is_changed(&self, before: &PluginConfig, after: &PluginConfig, new: &Attachment) -> bool {
        let differs =
            |name: &String| !same_value(get(&self.old.capability_args, name), get(&new.capability_args, name));
        !same(before.keys(), after.keys()) || after.capabilities().iter().any(differs)
    }

    /// The error for a plugin that cannot get new values, or cannot use the new result of the plugin `changed`.
    fn cannot_be_redone(&self, plugin: &PluginConfig, changed: Option<&str>) -> UpdateError {
        let (label, plugin_type) = (self.label.clone(), plugin.plugin_type().to_owned());
        match changed {
            Some(changed) => UpdateError::Later { label, plugin_type: changed.to_owned(), later: plugin_type },
            None => UpdateError::Kind { label, plugin_type },
        }
    }

    /// How a step is redone, and whether that changes its result.
    fn how(
        &self,
        kind: Kind,
        before: &PluginConfig,
        after: &PluginConfig,
        new: &Attachment,
    ) -> Result<(How, bool), UpdateError> {
        match kind {
            Kind::Bandwidth => {
                self.refuse_half_limits(after)?;
                let from = Limits::of(before, &self.old.capability_args);
                let to = Limits::of(after, &new.capability_args);
                for (key, before, after) in [("ingress", from.ingress, to.ingress), ("egress", from.egress, to.egress)]
                {
                    if let Some(limit) = after.filter(|_| before != after) {
                        self.limit(key, limit)?;
                    }
                }
                Ok((How::InPlace { from, to }, from.egress.is_some() != to.egress.is_some()))
            }
            Kind::Firewall => {
                self.refuse_firewall(before, after)?;
                Ok((How::Again(kind), false))
            }
            Kind::Tuning => {
                self.refuse_tuning_twice()?;
                let differs = |key: &&str| !same_value(find_folded(before.keys(), key), find_folded(after.keys(), key));
                let is_other_mac = !same_value(get(&self.old.capability_args, "mac"), get(&new.capability_args, "mac"));
                Ok((How::Again(kind), is_other_mac || ["mac", "mtu"].iter().any(differs)))
            }
            Kind::Portmap => Ok((How::Again(kind), false)),
        }
    }

    /// The plugin refuses a rate without a burst, and a burst without a rate.
    fn refuse_half_limits(&self, plugin: &PluginConfig) -> Result<(), UpdateError> {
        for [rate, burst] in LIMIT_KEYS {
            let number = |key| find_folded(plugin.keys(), key).map(|raw| serde_json::from_str::<u64>(raw.get()));
            for (key, other) in [(rate, burst), (burst, rate)] {
                match (number(key), number(other)) {
                    (Some(Err(_)), _) => return Err(self.value(BANDWIDTH, key, "it is not a number of bits")),
                    (Some(Ok(1..)), None | Some(Ok(0))) => {
                        return Err(self.value(BANDWIDTH, key, format!("it needs {other} beside it")));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn refuse_firewall(&self, before: &PluginConfig, after: &PluginConfig) -> Result<(), UpdateError> {
        let changed = FIREWALL_KEYS
            .iter()
            .find(|key| !same_value(find_folded(before.keys(), key), find_folded(after.keys(), key)));
        match changed {
            None => Ok(()),
            Some(key) => Err(self.value(
                "firewall",
                key,
                "its DEL does not take back what this key makes, as other containers of the bridge may depend on it; \
                 use braid detach and braid attach instead or, for the primary network, create the container again",
            )),
        }
    }

    /// The plugin keeps the original values in one file for each container and interface.
    fn refuse_tuning_twice(&self) -> Result<(), UpdateError> {
        if self.old.network.plugins.iter().filter(|plugin| Kind::of(plugin) == Some(Kind::Tuning)).count() < 2 {
            return Ok(());
        }
        let why = "the chain has two, which keep the original values in one file, so that neither can be undone alone";
        Err(self.value("tuning", "type", why))
    }

    fn undeclared(&self, plugin_type: &'static str, capability: &'static str) -> UpdateError {
        UpdateError::Undeclared { label: self.label.clone(), plugin_type, capability }
    }

    fn value(&self, plugin_type: &str, key: &str, why: impl Into<String>) -> UpdateError {
        UpdateError::Value {
            label: self.label.clone(),
            plugin_type: plugin_type.to_owned(),
            key: key.to_owned(),
            why: why.into(),
        }
    }
}

fn get<'a>(object: &'a RawObject, key: &str) -> Option<&'a RawValue> {
    object.get(key).map(|value| &**value)
}

fn same_value(a: Option<&RawValue>, b: Option<&RawValue>) -> bool {
    let read = |raw: &RawValue| serde_json::from_str::<serde_json::Value>(raw.get()).ok();
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => a.get() == b.get() || read(a) == read(b),
        _ => false,
    }
}

fn same(a: &RawObject, b: &RawObject) -> bool {
    a.len() == b.len() && a.iter().all(|(key, value)| same_value(Some(value), get(b, key)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::config::parse_object;

    fn attachment(plugins: &str, capability_args: &str) -> Attachment {
        serde_json::from_str(&format!(
            r#"{{"ifname":"eth0","network":{{"cniVersion":"1.0.0","name":"n","plugins":[{{"type":"bridge"}}{plugins}]}},
                "reference":"n","origin":"delegates[0]","capabilityArgs":{capability_args}}}"#
        ))
        .unwrap()
    }

    fn limit(rate: u64, burst: u64) -> RateLimit {
        RateLimit { rate, burst }
    }

    fn bandwidth(ingress: impl Into<Option<LimitUpdate>>, egress: impl Into<Option<LimitUpdate>>) -> Update {
        let (ingress, egress) = (ingress.into(), egress.into());
        Update { bandwidth: Some(BandwidthUpdate { ingress, egress }), ..Update::default() }
    }

    fn keys(plugin_type: &str, set: &str, unset: &[&str]) -> Update {
        Update {
            plugins: vec![PluginUpdate {
                plugin_type: plugin_type.into(),
                number: None,
                set: parse_object(set.as_bytes()).unwrap(),
                unset: unset.iter().map(ToString::to_string).collect(),
            }],
            ..Update::default()
        }
    }

    fn limited(rate: u64, burst: Option<u64>) -> LimitUpdate {
        LimitUpdate::Limited { rate, burst }
    }

    #[test]
    fn limits_are_where_the_plugin_reads_them() {
        let in_config =
            r#",{"type":"bandwidth","capabilities":{"bandwidth":true},"ingressRate":800,"ingressBurst":80}"#;
        let args = r#"{"bandwidth":{"ingressRate":1,"ingressBurst":1}}"#;
        let planned =
            update(&attachment(in_config, args), &bandwidth(limited(1600, None), limited(8000, Some(800)))).unwrap();
        let from = Limits { ingress: Some(limit(800, 80)), egress: None };
        let to = Limits { ingress: Some(limit(1600, 80)), egress: Some(limit(8000, 800)) };
        assert_eq!(planned.steps, [Redo { step: 1, how: How::InPlace { from, to } }]);
        assert_eq!(Limits::of(&planned.attachment.network.plugins[1], &planned.attachment.capability_args), to);
        assert_eq!(planned.attachment.capability_args["bandwidth"].get(), r#"{"ingressRate":1,"ingressBurst":1}"#);

        let declared = r#",{"type":"bandwidth","capabilities":{"bandwidth":true}}"#;
        let planned =
            update(&attachment(declared, args), &bandwidth(LimitUpdate::Unlimited, limited(8000, None))).unwrap();
        assert_eq!(
            planned.attachment.capability_args["bandwidth"].get(),
            r#"{"ingressRate":0,"ingressBurst":0,"egressRate":8000,"egressBurst":121120}"#
        );
        assert_eq!(planned.attachment.network.plugins[1].keys().len(), 2);
    }

    #[test]
    fn a_limit_adds_a_step_where_there_is_none_and_no_limit_does_not() {
        let planned = update(&attachment("", "{}"), &bandwidth(limited(8_000_000, None), None)).unwrap();
        assert_eq!(planned.steps, [Redo { step: 1, how: How::Add }]);
        assert_eq!(
            raw(planned.attachment.network.plugins[1].keys()).get(),
            r#"{"type":"bandwidth","ingressRate":8000000,"ingressBurst":800000,"egressRate":0,"egressBurst":0}"#
        );
        let planned = update(&attachment("", "{}"), &bandwidth(LimitUpdate::Unlimited, None)).unwrap();
        assert!(planned.steps.is_empty());
        assert_eq!(planned.attachment.network.plugins.len(), 1);
    }

    #[test]
    fn equal_values_redo_nothing() {
        let chain = r#",{"type":"bandwidth","ingressRate":800,"ingressBurst":80},{"type":"portmap","capabilities":{"portMappings":true}}"#;
        let args = r#"{"portMappings":[{"hostPort":80,"containerPort":8080,"protocol":"tcp"}]}"#;
        let attachment = attachment(chain, args);
        let mapping =
            PortMapping { host_port: 80, container_port: 8080, protocol: "tcp".into(), host_ip: String::new() };
        let same = Update { port_mappings: Some(vec![mapping]), ..bandwidth(limited(800, Some(80)), None) };
        assert!(update(&attachment, &same).unwrap().steps.is_empty());
        let none = Update { port_mappings: Some(Vec::new()), ..Update::default() };
        assert_eq!(update(&attachment, &none).unwrap().steps, [Redo { step: 2, how: How::Again(Kind::Portmap) }]);
    }

    #[test]
    fn steps_after_a_changed_result_are_redone_or_refused() {
        let tuned = |after: &str| attachment(&format!(r#",{{"type":"tuning","mtu":1400}},{{"type":"{after}"}}"#), "{}");
        let mtu = keys("tuning", r#"{"mtu":1300}"#, &[]);
        let steps = update(&tuned("firewall"), &mtu).unwrap().steps;
        assert_eq!(steps.iter().map(|redo| redo.step).collect::<Vec<_>>(), [1, 2]);
        let error = update(&tuned("sbr"), &mtu).unwrap_err().to_string();
        assert!(error.contains("\"sbr\" after \"tuning\""), "{error}");
        let sysctl = keys("tuning", r#"{"sysctl":{"net.core.somaxconn":"500"}}"#, &[]);
        assert_eq!(update(&tuned("sbr"), &sysctl).unwrap().steps.len(), 1);
    }

    #[test]
    fn what_cannot_be_is_refused_with_a_remedy() {
        let error = |attachment: &Attachment, wanted: &Update| update(attachment, wanted).unwrap_err().to_string();
        let plain = attachment("", "{}");
        assert!(error(&plain, &keys("portmap", "{}", &[])).contains("no plugin of type \"portmap\", only bridge"));
        for other in ["bridge", "host-local"] {
            let message = error(&plain, &keys(other, r#"{"mtu":1}"#, &[]));
            assert!(message.contains("braid detach and braid attach"), "{message}");
        }
        let two = attachment(r#",{"type":"tuning"},{"type":"tuning"}"#, "{}");
        let numbered = PluginUpdate { plugin_type: "tuning".into(), number: Some(3), ..PluginUpdate::default() };
        assert!(error(&two, &keys("tuning", r#"{"mtu":1}"#, &[])).contains("say which one, such as tuning#1"));
        let wall = attachment(r#",{"type":"firewall"}"#, "{}");
        assert!(error(&wall, &keys("firewall", r#"{"INGRESSPOLICY":"isolated"}"#, &[])).contains("ingressPolicy"));
        assert!(error(&wall, &keys("firewall", r#"{"type":"evil"}"#, &[])).contains("the protocol's"));
        assert!(update(&wall, &keys("firewall", r#"{"backend":"iptables"}"#, &[])).is_ok());
        let mappings = Update { port_mappings: Some(Vec::new()), ..Update::default() };
        let undeclared = attachment(r#",{"type":"portmap"}"#, "{}");
        assert!(error(&undeclared, &mappings).contains("does not declare"));
        assert!(error(&plain, &bandwidth(limited(7, None), None)).contains("at least 8 bits"));
        assert!(error(&plain, &bandwidth(limited(800, Some(1 << 40)), None)).contains("at most"));
        assert!(
            error(&plain, &bandwidth(limited(400_000_000_000, Some(80_000)), None)).contains("ingressBurst=400000 or")
        );
        assert!(update(&plain, &bandwidth(limited(400_000_000_000, None), None)).is_ok());
        assert!(error(&two, &Update { plugins: vec![numbered], ..Update::default() }).contains("no tuning#3, only 2"));
        assert!(
            error(&wall, &keys("firewall", r#"{"backend":"iptables"}"#, &["Backend"]))
                .contains("give only one of them")
        );
        let limited_step = attachment(r#",{"type":"bandwidth"}"#, "{}");
        assert!(error(&limited_step, &keys("bandwidth", r#"{"shapedSubnets":[]}"#, &[])).contains("only its limits"));
        let fast = keys("bandwidth", r#"{"ingressRate":400000000000,"ingressBurst":80000}"#, &[]);
        assert!(error(&limited_step, &fast).contains("ingressBurst=400000 or"));
        let mapping = |host_ip: &str| PortMapping {
            host_port: 80,
            container_port: 80,
            protocol: "tcp".into(),
            host_ip: host_ip.into(),
        };
        let mapped = attachment(r#",{"type":"portmap","capabilities":{"portMappings":true}}"#, "{}");
        let two = |a, b| Update { port_mappings: Some(vec![mapping(a), mapping(b)]), ..Update::default() };
        assert!(error(&mapped, &two("", "127.0.0.1")).contains("80/tcp is given twice"));
        assert!(update(&mapped, &two("0.0.0.0", "::")).is_ok());
    }
}
