//! Changes the limits of a `bandwidth` step in place.
//!
//! Braid changes or removes an existing limit over netlink. To add a limit, it calls the plugin with only that direction. So the
//! qdiscs are the same as after a fresh ADD with the new limits, and CHECK and DEL find what they expect.

use std::path::Path;

use serde_json::value::RawValue;
use sha2::{Digest, Sha512};

use super::Tools;
use crate::cni::AddResult;
use crate::cni::capability::RateLimit;
use crate::cni::result::Interface;
use crate::netns::{Filter, Link, Netns, NetnsError, Qdisc, TokenBucket, scheduler_ticks};
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
    /// The plugin could not limit this interface.
    #[error("the interface {ifname:?} is not a veth with its other end on the host, so bandwidth cannot limit it")]
    NoVeth {
        /// The interface.
        ifname: String,
    },
    /// There is a qdisc or filter that no step of this attachment made.
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
    /// The packet scheduler does not report the frequency of its clock.
    #[error("/proc/net/psched does not have the clock of the packet scheduler")]
    NoClock,
    /// The result of the step cannot be read.
    #[error("the result of the step cannot be read: {0}")]
    Result(String),
}

/// A `bandwidth` step that gets new limits.
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

/// Gives a step new limits, even if an earlier change has left only a part in place. Returns the step's result.
///
/// # Errors
/// When something is there that is not the step's, or the kernel or the plugin refuses. What was changed before that stays.
pub(super) fn reshape(tools: Tools<'_>, wanted: Reshape<'_>) -> Result<Box<RawValue>, BandwidthError> {
    Shaper::open(tools, wanted)?.reshape()
}

impl Reshape<'_> {
    fn attachment_result(&self) -> Result<AddResult, BandwidthError> {
        self.parse(self.result)
    }

    fn parse(&self, raw: &RawValue) -> Result<AddResult, BandwidthError> {
        AddResult::parse(raw.get().as_bytes(), self.attachment.network.version)
            .map_err(|error| BandwidthError::Result(error.to_string()))
    }

    /// The name of the step's `ifb` device: the beginning of a hash, computed as the plugin does.
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

/// The interface of a `bandwidth` step that gets new limits.
pub(super) struct Shaper<'a> {
    host: Netns,
    /// The host's end of the veth.
    veth: Link,
    ticks: f64,
    tools: Tools<'a>,
    wanted: Reshape<'a>,
}

/// The existing limit on traffic that leaves the container.
struct Egress {
    ifb: Option<Link>,
    has_ingress: bool,
    is_redirected: bool,
}

impl<'a> Shaper<'a> {
    /// Finds the interface.
    ///
    /// # Errors
    /// When it is none that the plugin could limit.
    pub(super) fn open(tools: Tools<'a>, wanted: Reshape<'a>) -> Result<Self, BandwidthError> {
        let ifname = &wanted.attachment.ifname;
        let no_veth = || BandwidthError::NoVeth { ifname: ifname.clone() };
        let peer = Netns::open(Path::new(wanted.netns))?.veth_peer(ifname)?.ok_or_else(no_veth)?;
        let mut host = Netns::current()?;
        let veth = host.link_by_index(peer)?.ok_or_else(no_veth)?;
        let is_made = |one: &Interface| one.sandbox.is_empty() && one.name == veth.name;
        if !wanted.attachment_result()?.interfaces.iter().any(is_made) {
            return Err(no_veth());
        }
        let psched = std::fs::read_to_string("/proc/net/psched").ok();
        let ticks = psched.as_deref().and_then(scheduler_ticks).ok_or(BandwidthError::NoClock)?;
        Ok(Self { host, veth, ticks, tools, wanted })
    }

    /// Checks, before anything is changed, that nothing on the interface was made by others.
    ///
    /// # Errors
    /// When there is something.
    pub(super) fn refuse_foreign(&mut self) -> Result<(), BandwidthError> {
        self.own_root()?;
        self.own_egress().map(drop)
    }

    /// Gives the step its new limits, as [`reshape`] describes.
    ///
    /// # Errors
    /// As there.
    pub(super) fn reshape(&mut self) -> Result<Box<RawValue>, BandwidthError> {
        self.ingress()?;
        self.egress()
    }

    /// The token bucket at the root of the host's interface, if there is one.
    fn own_root(&mut self) -> Result<Option<Qdisc>, BandwidthError> {
        let root = self.host.root_qdisc(&self.veth)?;
        let is_ours = self.wanted.may_have(|limits| limits.ingress);
        match root {
            Some(qdisc) if !(is_ours && qdisc.is_plugin_bucket()) => Err(foreign(&self.veth, &qdisc)),
            root => Ok(root),
        }
    }

    /// Traffic into the container: the token bucket at the root of the host's interface.
    fn ingress(&mut self) -> Result<(), BandwidthError> {
        match (self.own_root()?, self.wanted.to.ingress) {
            (Some(qdisc), Some(limit)) => self.change_bucket(&self.veth.clone(), &qdisc, limit),
            (Some(_), None) => Ok(self.host.remove_root_qdisc(&self.veth)?),
            (None, Some(limit)) => self.make(Limits { ingress: Some(limit), egress: None }).map(drop),
            (None, None) => Ok(()),
        }
    }

    fn change_bucket(&mut self, link: &Link, now: &Qdisc, limit: RateLimit) -> Result<(), BandwidthError> {
        let bucket = TokenBucket::new(limit, self.ticks);
        if now.bucket == Some(bucket) { Ok(()) } else { Ok(self.host.change_token_bucket(link, bucket)?) }
    }

    /// The `ifb` device and what leads to it.
    fn own_egress(&mut self) -> Result<Egress, BandwidthError> {
        let name = self.wanted.ifb_name();
        let ifb = self.host.link_by_name(&name)?;
        let ingress = self.host.ingress_qdisc(&self.veth)?;
        let filters = if ingress.is_some() { self.host.ingress_filters(&self.veth)? } else { Vec::new() };
        let is_ours = self.wanted.may_have(|limits| limits.egress);
        let leads_to_it = |filter: &Filter| ifb.as_ref().is_some_and(|ifb| filter.redirects_to == Some(ifb.index));
        if let Some(filter) = filters.iter().find(|filter| !leads_to_it(filter)) {
            let what = format!("a filter ({}) of its ingress qdisc", filter.kind);
            return Err(BandwidthError::Foreign { link: self.veth.name.clone(), what });
        }
        if let Some(qdisc) = ingress.as_ref().filter(|_| !is_ours) {
            return Err(foreign(&self.veth, qdisc));
        }
        if ifb.is_some() && !is_ours {
            return Err(BandwidthError::Foreign { link: "the host".into(), what: format!("the device {name}") });
        }
        let is_redirected = filters.iter().any(leads_to_it);
        Ok(Egress { ifb, has_ingress: ingress.is_some(), is_redirected })
    }

    /// Traffic out of the container: the token bucket of the `ifb` device that the host's interface redirects to. Returns the
    /// step's result.
    fn egress(&mut self) -> Result<Box<RawValue>, BandwidthError> {
        let Egress { ifb, has_ingress, is_redirected } = self.own_egress()?;
        if let (Some(ifb), Some(limit), true) = (&ifb, self.wanted.to.egress, is_redirected)
            && let Some(root) = self.host.root_qdisc(ifb)?
        {
            if !root.is_plugin_bucket() {
                return Err(foreign(ifb, &root));
            }
            self.change_bucket(ifb, &root, limit)?;
            return self.result(Some(ifb));
        }
        // Nothing, or a part of an earlier attempt.
        if has_ingress {
            self.host.remove_ingress_qdisc(&self.veth)?;
        }
        if let Some(ifb) = &ifb {
            self.host.remove_link(ifb)?;
        }
        match self.wanted.to.egress {
            Some(limit) => self.make(Limits { ingress: None, egress: Some(limit) }),
            None => self.result(None),
        }
    }

    /// Has the plugin make one direction.
    fn make(&self, limits: Limits) -> Result<Box<RawValue>, BandwidthError> {
        let Reshape { attachment, step, container_id, netns, prev_result, .. } = self.wanted;
        let mut network = attachment.network.clone();
        network.plugins[step] = limits.in_config(&network.plugins[step]);
        let chain = Chain { network: &network, ..self.tools.chain(attachment) };
        Ok(chain.add_step(step, &attachment.parameters(container_id, netns), prev_result)?.raw)
    }

    /// The result of the step: that of the previous step, and the `ifb` device if there is one. Unchanged if it already says that.
    fn result(&self, ifb: Option<&Link>) -> Result<Box<RawValue>, BandwidthError> {
        let own = self.wanted.attachment_result()?;
        let mut result = match self.wanted.prev_result {
            Some(prev_result) => self.wanted.parse(prev_result)?,
            None => AddResult::default(),
        };
        result.interfaces.extend(ifb.map(|ifb| Interface {
            name: ifb.name.clone(),
            mac: ifb.mac.clone().unwrap_or_default(),
            ..Interface::default()
        }));
        if result == own {
            return Ok(self.wanted.result.to_owned());
        }
        Ok(result.to_raw(self.wanted.attachment.network.version))
    }
}

fn foreign(link: &Link, qdisc: &Qdisc) -> BandwidthError {
    BandwidthError::Foreign { link: link.name.clone(), what: format!("a qdisc ({})", qdisc.kind) }
}
