//! Traffic control: reads the token buckets with which the reference plugin `bandwidth` limits a container's traffic, and changes
//! them in place.
//!
//! That plugin cannot change a limit: its DEL leaves the queueing disciplines ("qdiscs") until the interface is removed, and its
//! ADD refuses an interface that has some. So Braid changes the numbers of an existing qdisc, with the plugin's own formulas, and
//! no packet is lost. New qdiscs are made by the plugin.
//!
//! To limit traffic into the container, the plugin adds a `tbf` qdisc 1: at the root of the host's end of the veth. To limit
//! traffic out of it, the plugin adds one to an `ifb` device, to which a filter of the ingress qdisc `ffff:` redirects.

use netlink_packet_core::{DecodeError, DefaultNla, NLM_F_ECHO, NlasIterator, Parseable, parse_string, parse_u32};
use netlink_packet_route::{
    link::{LinkAttribute, LinkExtentMask, LinkHeader, LinkMessage},
    tc::{
        TcAction, TcActionAttribute, TcActionMirrorOption, TcActionOption, TcAttribute, TcFilterU32Option, TcHandle,
        TcMessage, TcOption,
    },
};
use nix::errno::Errno;
use nix::libc;

use super::{Link, Netns, NetnsError, links::LINK_HEADER_LEN, links::link, socket::Request};
use crate::cni::capability::RateLimit;

/// The plugin's qdisc at the root.
const ROOT_HANDLE: TcHandle = TcHandle { major: 1, minor: 0 };
/// The handle of the ingress qdisc, which is always the same.
const INGRESS_HANDLE: TcHandle = TcHandle { major: 0xffff, minor: 0 };
/// How many microseconds the plugin lets a packet wait in a bucket.
const LATENCY: f64 = 25_000.0;
const MICROS_PER_SECOND: f64 = 1_000_000.0;
/// `TCA_TBF_PARMS` and `TCA_TBF_RATE64` of `linux/pkt_sched.h`.
const TBF_PARAMETERS: u16 = 1;
const TBF_RATE64: u16 = 4;
/// Bytes of the header of a traffic control message, `struct tcmsg`.
const TC_HEADER_LEN: usize = 20;

/// A limit in the form of the kernel's token bucket filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenBucket {
    /// Bytes per second.
    pub rate: u64,
    /// Bytes that may wait.
    pub limit: u32,
    /// The burst, as the time that it takes at `rate`, in ticks of the packet scheduler.
    pub buffer: u32,
}

impl TokenBucket {
    /// The bucket that the plugin makes for a limit. `ticks` is the number of ticks of the packet scheduler in a microsecond.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "the plugin rounds and cuts off in this way, and compares on CHECK"
    )]
    pub fn new(limit: RateLimit, ticks: f64) -> Self {
        let rate = limit.rate / 8;
        let burst = (limit.burst / 8) as u32;
        let micros = (f64::from(burst) * MICROS_PER_SECOND / rate as f64) as u64 as u32;
        let waiting = (rate as f64 * LATENCY / MICROS_PER_SECOND) as u64 as u32;
        Self { rate, limit: waiting.wrapping_add(burst), buffer: (f64::from(micros) * ticks) as u64 as u32 }
    }
}

/// The number of ticks of the packet scheduler in a microsecond, read from the text of `/proc/net/psched`.
pub fn scheduler_ticks(psched: &str) -> Option<f64> {
    let words: Vec<u32> = psched.split_whitespace().map_while(|word| u32::from_str_radix(word, 16).ok()).collect();
    let [per_micro, per_tick, resolution, ..] = words.as_slice() else { return None };
    // A clock with a resolution of nanoseconds counts nanoseconds as ticks.
    let per_micro = if *resolution == 1_000_000_000 { per_tick } else { per_micro };
    Some(f64::from(*per_micro) / f64::from(*per_tick) * (f64::from(*resolution) / MICROS_PER_SECOND))
}

/// A queueing discipline of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qdisc {
    /// Its kind, such as `tbf`.
    pub kind: String,
    handle: TcHandle,
    /// What it holds, if it is a token bucket.
    pub bucket: Option<TokenBucket>,
}

impl Qdisc {
    /// Whether it is a token bucket of the plugin: at the root, with the handle `1:`.
    pub fn is_plugin_bucket(&self) -> bool {
        self.kind == "tbf" && self.handle == ROOT_HANDLE
    }

    /// Whether a program made it: the kernel's own qdiscs have no handle.
    pub fn is_configured(&self) -> bool {
        self.handle != TcHandle::UNSPEC
    }
}

/// A filter of an interface's ingress qdisc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Its kind, such as `u32`.
    pub kind: String,
    /// The link to which it redirects, if it does.
    pub redirects_to: Option<u32>,
}

impl Netns {
    /// The number of the peer of a veth, in whatever namespace that is. `None` if the link is not a veth.
    pub fn veth_peer(&mut self, name: &str) -> Result<Option<u32>, NetnsError> {
        let mut request = LinkMessage::default();
        request.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.socket
            .get(Request::GetLink(request), 0, veth_peer)
            .map(Option::flatten)
            .map_err(self.failed(format!("look for the link {name}")))
    }

    /// The link of this number, if it exists.
    pub fn link_by_index(&mut self, index: u32) -> Result<Option<Link>, NetnsError> {
        let mut request = LinkMessage::default();
        request.header.index = index;
        self.find_link(request, format!("look for the link {index}"))
    }

    /// The link of this name, if it exists. Unlike with [`link`](Self::link), the time does not depend on the number of links.
    pub fn link_by_name(&mut self, name: &str) -> Result<Option<Link>, NetnsError> {
        let mut request = LinkMessage::default();
        request.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.find_link(request, format!("look for the link {name}"))
    }

    fn find_link(&mut self, mut request: LinkMessage, action: String) -> Result<Option<Link>, NetnsError> {
        request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        match self.socket.get(Request::GetLink(request), 0, link) {
            Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(None),
            found => found.map(Option::flatten).map_err(self.failed(action)),
        }
    }

    /// The qdisc at the root of a link. `None` if it is the kernel's own.
    pub fn root_qdisc(&mut self, link: &Link) -> Result<Option<Qdisc>, NetnsError> {
        self.qdisc(link, TcHandle::ROOT)
    }

    /// The ingress qdisc of a link, if it has one.
    pub fn ingress_qdisc(&mut self, link: &Link) -> Result<Option<Qdisc>, NetnsError> {
        self.qdisc(link, TcHandle::INGRESS)
    }

    fn qdisc(&mut self, link: &Link, parent: TcHandle) -> Result<Option<Qdisc>, NetnsError> {
        let request = Request::GetQdisc(message(link, TcHandle::UNSPEC, parent));
        // Before Linux 6.10 the answer is a notification, which is sent only for a request with the echo flag.
        match self.socket.get(request, NLM_F_ECHO, qdisc) {
            // There is no qdisc, or one that the kernel does not show.
            Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::EINVAL)) => Ok(None),
            Ok(found) => Ok(found.flatten().filter(Qdisc::is_configured)),
            Err(error) => Err(self.failed(format!("read the qdisc of {}", link.name))(error)),
        }
    }

    /// The filters of a link's ingress qdisc.
    pub fn ingress_filters(&mut self, link: &Link) -> Result<Vec<Filter>, NetnsError> {
        let request = Request::GetFilter(message(link, TcHandle::UNSPEC, INGRESS_HANDLE));
        self.socket
            .dump(&request, |payload| Ok(filter(payload)))
            .map_err(self.failed(format!("list the filters of {}", link.name)))
    }

    /// Changes the numbers of the token bucket at the root of a link. Packets that wait in it stay.
    pub fn change_token_bucket(&mut self, link: &Link, bucket: TokenBucket) -> Result<(), NetnsError> {
        let mut request = message(link, ROOT_HANDLE, TcHandle::ROOT);
        request.attributes.push(TcAttribute::Kind("tbf".into()));
        request.attributes.push(TcAttribute::Options(options(bucket)));
        self.socket
            .change(Request::NewQdisc(request), 0)
            .map_err(self.failed(format!("change the token bucket of {}", link.name)))
    }

    /// Removes the plugin's qdisc from the root of a link. The kernel then adds its own.
    pub fn remove_root_qdisc(&mut self, link: &Link) -> Result<(), NetnsError> {
        self.remove_qdisc(link, ROOT_HANDLE, TcHandle::ROOT)
    }

    /// Removes the ingress qdisc of a link with all its filters.
    pub fn remove_ingress_qdisc(&mut self, link: &Link) -> Result<(), NetnsError> {
        self.remove_qdisc(link, INGRESS_HANDLE, TcHandle::INGRESS)
    }

    fn remove_qdisc(&mut self, link: &Link, handle: TcHandle, parent: TcHandle) -> Result<(), NetnsError> {
        match self.socket.change(Request::DelQdisc(message(link, handle, parent)), 0) {
            Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::EINVAL)) => Ok(()),
            outcome => outcome.map_err(self.failed(format!("remove the qdisc of {}", link.name))),
        }
    }

    /// Removes a link. Succeeds if it does not exist.
    pub fn remove_link(&mut self, link: &Link) -> Result<(), NetnsError> {
        let mut request = LinkMessage::default();
        request.header.index = link.index;
        match self.socket.change(Request::DelLink(request), 0) {
            Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(()),
            outcome => outcome.map_err(self.failed(format!("remove the link {}", link.name))),
        }
    }
}

fn message(link: &Link, handle: TcHandle, parent: TcHandle) -> TcMessage {
    let mut message = TcMessage::with_index(link.index.cast_signed());
    message.header.handle = handle;
    message.header.parent = parent;
    message
}

/// `struct tc_tbf_qopt`, and the rate separately if it needs more than 32 bits.
fn options(bucket: TokenBucket) -> Vec<TcOption> {
    let mut parameters = [0; 36];
    let rate = u32::try_from(bucket.rate).unwrap_or(u32::MAX);
    // Two rates (`struct tc_ratespec`, 12 bytes each, the rate last), the limit, the buffer and the MTU.
    for (at, value) in [(8, rate), (24, bucket.limit), (28, bucket.buffer)] {
        parameters[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    let mut options = vec![TcOption::Other(DefaultNla::new(TBF_PARAMETERS, parameters.to_vec()))];
    if bucket.rate > u64::from(u32::MAX) {
        options.push(TcOption::Other(DefaultNla::new(TBF_RATE64, bucket.rate.to_ne_bytes().to_vec())));
    }
    options
}

/// Reads an `RTM_NEWQDISC` payload.
fn qdisc(payload: &[u8]) -> Result<Option<Qdisc>, DecodeError> {
    let header = netlink_packet_route::tc::TcHeader::parse(payload)?;
    let mut qdisc = Qdisc { kind: String::new(), handle: header.handle, bucket: None };
    let mut bucket = None;
    for attribute in NlasIterator::new(payload.get(TC_HEADER_LEN..).unwrap_or_default()) {
        let attribute = attribute?;
        match attribute.kind() {
            libc::TCA_KIND => qdisc.kind = parse_string(attribute.value())?,
            libc::TCA_OPTIONS => bucket = token_bucket(attribute.value())?,
            _ => {}
        }
    }
    qdisc.bucket = bucket.filter(|_| qdisc.kind == "tbf");
    Ok(Some(qdisc))
}

/// Reads the options of a token bucket. Options of other kinds may look similar.
fn token_bucket(options: &[u8]) -> Result<Option<TokenBucket>, DecodeError> {
    let mut bucket = None;
    let mut wide = None;
    for option in NlasIterator::new(options) {
        let option = option?;
        let value = option.value();
        let number = |at: usize| value.get(at..at + 4).map(parse_u32).transpose();
        match option.kind() {
            TBF_PARAMETERS => {
                if let (Some(rate), Some(limit), Some(buffer)) = (number(8)?, number(24)?, number(28)?) {
                    bucket = Some(TokenBucket { rate: rate.into(), limit, buffer });
                }
            }
            TBF_RATE64 => wide = value.get(..8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_ne_bytes),
            _ => {}
        }
    }
    Ok(bucket.map(|bucket| TokenBucket { rate: wide.unwrap_or(bucket.rate), ..bucket }))
}

/// Reads an `RTM_NEWTFILTER` payload. The list also has the hash tables of `u32` classifiers, which are not filters.
fn filter(payload: &[u8]) -> Option<Filter> {
    let Ok(message) = TcMessage::parse(payload) else {
        return Some(Filter { kind: "one of an unknown form".into(), redirects_to: None });
    };
    let mut kind = String::new();
    let mut redirects_to = None;
    let mut is_table = true;
    for attribute in message.attributes {
        match attribute {
            TcAttribute::Kind(text) => kind = text,
            TcAttribute::Options(options) => {
                for option in options {
                    match option {
                        TcOption::U32(TcFilterU32Option::Action(actions)) => {
                            is_table = false;
                            redirects_to = actions.iter().find_map(target);
                        }
                        TcOption::U32(TcFilterU32Option::Selector(_)) => is_table = false,
                        TcOption::U32(_) => {}
                        _ => is_table = false,
                    }
                }
            }
            _ => {}
        }
    }
    // The first message for each filter kind and priority has neither.
    (!(kind == "u32" && is_table)).then_some(Filter { kind, redirects_to })
}

fn target(action: &TcAction) -> Option<u32> {
    action.attributes.iter().find_map(|attribute| match attribute {
        TcActionAttribute::Options(options) => options.iter().find_map(|option| match option {
            TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror)) => Some(mirror.ifindex),
            _ => None,
        }),
        _ => None,
    })
}

/// Reads the peer's number from the description of a veth.
fn veth_peer(payload: &[u8]) -> Result<Option<u32>, DecodeError> {
    LinkHeader::parse(payload)?;
    let (mut peer, mut is_veth) = (None, false);
    for attribute in NlasIterator::new(&payload[LINK_HEADER_LEN..]) {
        let attribute = attribute?;
        match attribute.kind() {
            libc::IFLA_LINK => peer = Some(parse_u32(attribute.value())?),
            libc::IFLA_LINKINFO => {
                for info in NlasIterator::new(attribute.value()) {
                    let info = info?;
                    is_veth |= info.kind() == libc::IFLA_INFO_KIND && parse_string(info.value())? == "veth";
                }
            }
            _ => {}
        }
    }
    Ok(peer.filter(|_| is_veth))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the plugin (1.9.1) made of the same limits on a kernel with these ticks, as `tc -s -d qdisc` and netlink showed it.
    #[test]
    fn a_bucket_is_computed_as_the_plugin_does() {
        let ticks = scheduler_ticks("000003e8 00000040 000f4240 3b9aca00\n").unwrap();
        assert!((ticks - 15.625).abs() < f64::EPSILON);
        let bucket = |rate, burst| TokenBucket::new(RateLimit { rate, burst }, ticks);
        assert_eq!(bucket(8_000_000, 800_000), TokenBucket { rate: 1_000_000, limit: 125_000, buffer: 1_562_500 });
        assert_eq!(bucket(1_000, 1_000), TokenBucket { rate: 125, limit: 128, buffer: 15_625_000 });
        assert_eq!(bucket(80_000_000_000, 8_000).rate, 10_000_000_000);
        assert_eq!(scheduler_ticks("00000001 00000001 3b9aca00 3b9aca00"), Some(1000.0));
        assert_eq!(scheduler_ticks("nonsense"), None);
    }

    #[test]
    fn a_rate_that_32_bits_do_not_hold_has_an_attribute_of_its_own() {
        for (rate, parts) in [(u64::from(u32::MAX), 1), (u64::from(u32::MAX) + 1, 2)] {
            assert_eq!(options(TokenBucket { rate, limit: 1, buffer: 1 }).len(), parts);
        }
    }
}
