//! The kind of each link, where its peer is, and which kinds the kernel can make.

use std::os::fd::{AsFd, AsRawFd};
use std::{fs::File, io, thread};

use netlink_packet_core::{DecodeError, NLM_F_CREATE, NLM_F_EXCL, NlasIterator, parse_i32, parse_string, parse_u32};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkExtentMask, LinkInfo, LinkMessage};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, unshare};

use super::links::{LINK_HEADER_LEN, link};
use super::socket::{Request, RouteSocket};
use super::{Link, Netns, NetnsError};

/// The attribute of `linux/if_link.h` for the number that this namespace uses for the peer's namespace.
const IFLA_LINK_NETNSID: u16 = 37;
/// Bytes of the header of a message about a namespace's number.
const NSID_HEADER_LEN: usize = 4;

/// A link, and its relations to other links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The link.
    pub link: Link,
    /// Its kind, such as `veth`. Empty for hardware.
    pub kind: String,
    /// The number of its peer, or of the link that it is based on.
    pub other_end: Option<u32>,
    /// The number that this namespace uses for the namespace of that link. `None` if it is in this namespace.
    pub other_netns: Option<i32>,
    /// The number of the bridge, bond or VRF of which it is a port.
    pub master: Option<u32>,
}

impl Netns {
    /// All links of the namespace.
    pub fn devices(&mut self) -> Result<Vec<Device>, NetnsError> {
        let mut request = LinkMessage::default();
        request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        self.socket.dump(&Request::GetLink(request), device).map_err(self.failed("list the links"))
    }

    /// The number that this namespace uses for another one. The kernel assigns it once a link leads there.
    pub fn number_of(&mut self, other: &Self) -> Result<Option<i32>, NetnsError> {
        let mut request = NsidMessage::default();
        request.attributes.push(NsidAttribute::Fd(other.file.as_fd().as_raw_fd().cast_unsigned()));
        let number = self.socket.get(Request::GetNsid(request), 0, nsid);
        let number = number.map_err(self.failed("look for a namespace's number"))?;
        Ok(number.flatten().filter(|number| *number >= 0))
    }

    /// A new network namespace, which exists as long as the handle. Nothing of it is visible outside.
    pub fn fresh() -> Result<Self, NetnsError> {
        let enter_new = || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Ok((File::open("/proc/thread-self/ns/net")?, RouteSocket::open()?))
        };
        let made = thread::scope(|scope| {
            let thread = thread::Builder::new().name("netns".into()).spawn_scoped(scope, enter_new)?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        let (file, socket) =
            made.map_err(|source: io::Error| NetnsError::Open { path: "a new namespace".into(), source })?;
        Ok(Self { name: "a new network namespace".into(), file, socket })
    }

    /// Whether the kernel supports a kind of link. This asks the kernel to make one here, without any options. Some kinds are then
    /// made, and others are refused because a parent or a key is missing.
    pub fn knows_kind(&mut self, kind: &str) -> Result<bool, NetnsError> {
        let mut request = LinkMessage::default();
        request.attributes.push(LinkAttribute::IfName("probe".into()));
        request.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Other(kind.into()))]));
        match self.socket.change(Request::NewLink(request), NLM_F_CREATE | NLM_F_EXCL) {
            Ok(()) => {
                if let Some(made) = self.link_by_name("probe")? {
                    self.remove_link(&made)?;
                }
                Ok(true)
            }
            Err(error) if error.errno() == Some(Errno::EOPNOTSUPP) => Ok(false),
            Err(error) if matches!(error.errno(), Some(Errno::EPERM | Errno::EACCES)) => {
                Err(self.failed(format!("make a link of kind {kind}"))(error))
            }
            Err(_) => Ok(true),
        }
    }
}

fn device(payload: &[u8]) -> Result<Option<Device>, DecodeError> {
    let Some(link) = link(payload)? else { return Ok(None) };
    let mut device = Device { link, kind: String::new(), other_end: None, other_netns: None, master: None };
    for attribute in NlasIterator::new(&payload[LINK_HEADER_LEN..]) {
        let attribute = attribute?;
        match attribute.kind() {
            libc::IFLA_LINK => device.other_end = Some(parse_u32(attribute.value())?).filter(|index| *index != 0),
            libc::IFLA_MASTER => device.master = Some(parse_u32(attribute.value())?),
            IFLA_LINK_NETNSID => device.other_netns = Some(parse_i32(attribute.value())?),
            libc::IFLA_LINKINFO => device.kind = kind(attribute.value())?,
            _ => {}
        }
    }
    Ok(Some(device))
}

fn kind(info: &[u8]) -> Result<String, DecodeError> {
    for attribute in NlasIterator::new(info) {
        let attribute = attribute?;
        if attribute.kind() == libc::IFLA_INFO_KIND {
            return parse_string(attribute.value());
        }
    }
    Ok(String::new())
}

fn nsid(payload: &[u8]) -> Result<Option<i32>, DecodeError> {
    // The attribute of `linux/net_namespace.h` with the number.
    const NETNSA_NSID: u16 = 1;
    for attribute in NlasIterator::new(payload.get(NSID_HEADER_LEN..).unwrap_or_default()) {
        let attribute = attribute?;
        if attribute.kind() == NETNSA_NSID {
            return parse_i32(attribute.value()).map(Some);
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_asked_for_without_leaving_anything() {
        let Ok(mut netns) = Netns::fresh() else {
            eprintln!("skipped: no network namespaces without root");
            return;
        };
        let before = netns.links().unwrap();
        assert!(!netns.knows_kind("no-such-kind").unwrap());
        // Every kernel that runs containers supports them.
        assert!(netns.knows_kind("veth").unwrap());
        assert_eq!(netns.links().unwrap(), before);
    }

    #[test]
    fn the_other_end_of_a_veth_is_found_in_whatever_namespace() {
        let (Ok(mut here), Ok(there)) = (Netns::fresh(), Netns::fresh()) else {
            eprintln!("skipped: no network namespaces without root");
            return;
        };
        assert_eq!(here.number_of(&there).unwrap(), None, "no link leads there");
        let mut request = LinkMessage::default();
        request.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]));
        here.socket.change(Request::NewLink(request), NLM_F_CREATE | NLM_F_EXCL).unwrap();
        let devices = here.devices().unwrap();
        let pair: Vec<_> = devices.iter().filter(|device| device.kind == "veth").collect();
        assert_eq!(pair.len(), 2, "{devices:?}");
        assert_eq!(pair[0].other_end, Some(pair[1].link.index));
        assert_eq!((pair[0].other_netns, pair[0].master), (None, None));

        let mut request = LinkMessage::default();
        request.header.index = pair[1].link.index;
        request.attributes.push(LinkAttribute::NetNsFd(there.file.as_raw_fd()));
        here.socket.change(Request::NewLink(request), 0).unwrap();
        let devices = here.devices().unwrap();
        let veth = devices.iter().find(|device| device.kind == "veth").unwrap();
        assert!(veth.other_netns.is_some());
        assert_eq!(here.number_of(&there).unwrap(), veth.other_netns);
    }
}
