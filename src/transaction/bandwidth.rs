//! The limits of a `bandwidth` step, changed in place.
//!
//! What is there is given other numbers or removed over netlink; what is not there yet, the plugin itself makes, told of the
//! missing direction alone. So the qdiscs are those that a fresh ADD with the new limits would make, and its CHECK and DEL find
//! what they expect.

use std::path::Path;

use serde_json::value::RawValue;
use sha2::{Digest, Sha512};

use super::Tools;
use crate::cni::AddResult;
use crate::cni::capability::RateLimit;
use crate::netns::{Link, Netns, NetnsError, Qdisc, TokenBucket, scheduler_ticks};
use crate::plan::Attachment;
use crate::plan::update::Limits;
use crate::runtime::{Chain, StepError};

/// Why limits could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum BandwidthError {
    /// The kernel refused.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The plugin did.
    #[error(transparent)]
    Step(#[from] StepError),
    /// The interface is none that the plugin could limit.
    #[error("the interface {ifname:?} is no veth whose other end is on the host, so bandwidth cannot limit it")]
    NoVeth {
        /// The interface.
        ifname: String,
    },
    /// Something is there that no step of this attachment made.
    #[error(
        "{link} has {what} that no step of this attachment made; it stays. A bandwidth plugin that stands beside braid in the \
         runtime's list is the runtime's: move it into the delegate's chain"
    )]
    Foreign {
        /// The interface on the host.
        link: String,
        /// What it has.
        what: String,
    },
    /// The packet scheduler does not say what its clock is.
    #[error("/proc/net/psched does not tell the clock of the packet scheduler")]
    NoClock,
    /// The result of the step cannot be read.
    #[error("the result of the step cannot be read: {0}")]
    Result(String),
}

/// A `bandwidth` step whose limits are to be others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reshape<'a> {
    /// The attachment that the step belongs to.
    pub(super) attachment: &'a Attachment,
    /// The step's place in its chain.
    pub(super) step: usize,
    /// The container.
    pub(super) container_id: &'a str,
    /// The path of its namespace.
    pub(super) netns: &'a str,
    /// The limits that may be there.
    pub(super) ours: [Limits; 2],
    /// The limits that are to be there.
    pub(super) to: Limits,
    /// The result of the step before.
    pub(super) prev_result: Option<&'a RawValue>,
    /// The result that the step has.
    pub(super) result: &'a RawValue,
}

/// Gives a step these limits, whatever part of an earlier change is there, and returns its result.
///
/// # Errors
/// When something is there that is not the step's, or the kernel or the plugin refuses. What was changed before that stays.
pub(super) fn reshape(tools: Tools<'_>, wanted: Reshape<'_>) -> Result<Box<RawValue>, BandwidthError> {
    let ifname = &wanted.attachment.ifname;
    let no_veth = || BandwidthError::NoVeth { ifname: ifname.clone() };
    let peer = Netns::open(Path::new(wanted.netns))?.veth_peer(ifname)?.ok_or_else(no_veth)?;
    let mut host = Netns::current()?;
    let veth = host.link_by_index(peer)?.ok_or_else(no_veth)?;
    if !wanted.attachment_result()?.interfaces.iter().any(|one| one.sandbox.is_empty() && one.name == veth.name) {
        return Err(no_veth());
    }
    let psched = std::fs::read_to_string("/proc/net/psched").ok();
    let ticks = psched.as_deref().and_then(scheduler_ticks).ok_or(BandwidthError::NoClock)?;
    let mut shaper = Shaper { host, veth, ticks, tools, wanted };
    shaper.ingress()?;
    shaper.egress()
}

impl Reshape<'_> {
    fn attachment_result(&self) -> Result<AddResult, BandwidthError> {
        self.parse(self.result)
    }

    fn parse(&self, raw: &RawValue) -> Result<AddResult, BandwidthError> {
        AddResult::parse(raw.get().as_bytes(), self.attachment.network.version)
            .map_err(|error| BandwidthError::Result(error.to_string()))
    }

    /// The name of the step's `ifb` device: the beginning of a hash, as the plugin computes it.
    fn ifb_name(&self) -> String {
        const LENGTH: usize = 15;
        let hash = Sha512::digest(format!("{}{}", self.attachment.network.name, self.container_id));
        let mut name = "bwp".to_owned();
        name.extend(
            hash.iter()
                .flat_map(|byte| [byte >> 4, byte & 15])
                .map(|digit| char::from_digit(digit.into(), 16).expect("four bits are one digit")),
        );
        name.truncate(LENGTH);
        name
    }

    fn may_have(&self, direction: impl Fn(&Limits) -> Option<RateLimit>) -> bool {
        self.ours.iter().any(|limits| direction(limits).is_some())
    }
}

struct Shaper<'a> {
    host: Netns,
    /// The host's end of the veth.
    veth: Link,
    ticks: f64,
    tools: Tools<'a>,
    wanted: Reshape<'a>,
}

impl Shaper<'_> {
    /// Into the container: the token bucket at the root of the host's end.
    fn ingress(&mut self) -> Result<(), BandwidthError> {
        let root = self.host.root_qdisc(&self.veth)?;
        let is_ours = self.wanted.may_have(|limits| limits.ingress);
        match (&root, self.wanted.to.ingress) {
            (Some(qdisc), _) if !(is_ours && qdisc.is_plugin_bucket()) => Err(self.foreign(&self.veth, qdisc)),
            (Some(qdisc), Some(limit)) => {
                let bucket = TokenBucket::new(limit, self.ticks);
                if qdisc.bucket != Some(bucket) {
                    self.host.change_token_bucket(&self.veth, bucket)?;
                }
                Ok(())
            }
            (Some(_), None) => Ok(self.host.remove_root_qdisc(&self.veth)?),
            (None, Some(limit)) => self.make(Limits { ingress: Some(limit), egress: None }).map(drop),
            (None, None) => Ok(()),
        }
    }

    /// Out of the container: the token bucket of the `ifb` device that the host's end redirects to. Returns the step's result.
    fn egress(&mut self) -> Result<Box<RawValue>, BandwidthError> {
        let name = self.wanted.ifb_name();
        let ifb = self.host.link_by_name(&name)?;
        let ingress = self.host.ingress_qdisc(&self.veth)?;
        let filters = if ingress.is_some() { self.host.ingress_filters(&self.veth)? } else { Vec::new() };
        let is_ours = self.wanted.may_have(|limits| limits.egress);
        if let Some(qdisc) = &ingress {
            let redirects = |index| filters.iter().any(|filter| filter.redirects_to == Some(index));
            let only_ours =
                filters.iter().all(|filter| ifb.as_ref().is_some_and(|ifb| filter.redirects_to == Some(ifb.index)));
            if !is_ours || !only_ours {
                let foreign = filters
                    .iter()
                    .find(|filter| !ifb.as_ref().is_some_and(|ifb| filter.redirects_to == Some(ifb.index)));
                let what = match foreign {
                    Some(filter) => format!("a filter ({}) of its ingress qdisc", filter.kind),
                    None => format!("a qdisc ({})", qdisc.kind),
                };
                return Err(BandwidthError::Foreign { link: self.veth.name.clone(), what });
            }
            if let (Some(ifb), Some(limit)) = (&ifb, self.wanted.to.egress)
                && redirects(ifb.index)
                && let Some(root) = self.host.root_qdisc(ifb)?
            {
                if !root.is_plugin_bucket() {
                    return Err(self.foreign(ifb, &root));
                }
                let bucket = TokenBucket::new(limit, self.ticks);
                if root.bucket != Some(bucket) {
                    self.host.change_token_bucket(ifb, bucket)?;
                }
                return self.result_with(ifb);
            }
        }
        if ifb.is_some() && !is_ours {
            let what = format!("the device {name}");
            return Err(BandwidthError::Foreign { link: "the host".into(), what });
        }
        // Nothing, or a part of what was being made.
        if ingress.is_some() {
            self.host.remove_ingress_qdisc(&self.veth)?;
        }
        if let Some(ifb) = &ifb {
            self.host.remove_link(ifb)?;
        }
        match self.wanted.to.egress {
            Some(limit) => self.make(Limits { ingress: None, egress: Some(limit) }),
            None => self.result_without(&name),
        }
    }

    /// Has the plugin make one direction.
    fn make(&self, limits: Limits) -> Result<Box<RawValue>, BandwidthError> {
        let Reshape { attachment, step, container_id, netns, prev_result, .. } = self.wanted;
        let mut network = attachment.network.clone();
        network.plugins[step] = limits.in_config(&network.plugins[step]);
        let chain =
            Chain { network: &network, finder: self.tools.finder, exec: self.tools.exec, limits: self.tools.limits };
        Ok(chain.add_step(step, &attachment.parameters(container_id, netns), prev_result)?.raw)
    }

    fn foreign(&self, link: &Link, qdisc: &Qdisc) -> BandwidthError {
        BandwidthError::Foreign { link: link.name.clone(), what: format!("a qdisc ({})", qdisc.kind) }
    }

    /// The result that the step has, with the `ifb` device in it.
    fn result_with(&self, ifb: &Link) -> Result<Box<RawValue>, BandwidthError> {
        let mut result = self.wanted.attachment_result()?;
        if result.interfaces.iter().any(|one| one.name == ifb.name && one.sandbox.is_empty()) {
            return Ok(self.wanted.result.to_owned());
        }
        let mac = ifb.mac.clone().unwrap_or_default();
        result.interfaces.push(crate::cni::result::Interface { name: ifb.name.clone(), mac, ..Default::default() });
        Ok(result.to_raw(self.wanted.attachment.network.version))
    }

    /// The result that the step has, without the `ifb` device in it.
    fn result_without(&self, name: &str) -> Result<Box<RawValue>, BandwidthError> {
        let mut result = self.wanted.attachment_result()?;
        let Some(at) = result.interfaces.iter().position(|one| one.name == name && one.sandbox.is_empty()) else {
            return Ok(self.wanted.result.to_owned());
        };
        result.interfaces.remove(at);
        for ip in &mut result.ips {
            ip.interface = ip.interface.filter(|index| *index != at).map(|index| index - usize::from(index > at));
        }
        Ok(result.to_raw(self.wanted.attachment.network.version))
    }
}
