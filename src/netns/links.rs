//! Links and their addresses, as they are.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{DecodeError, NlasIterator, Parseable, parse_string, parse_u32};
use netlink_packet_route::{
    address::{AddressAttribute, AddressMessage},
    link::{LinkAttribute, LinkExtentMask, LinkFlags, LinkHeader, LinkMessage},
};
use nix::errno::Errno;
use nix::libc;

use super::{Netns, NetnsError, socket::Request};

/// Bytes of `struct ifinfomsg`, which the attributes follow.
pub(super) const LINK_HEADER_LEN: usize = 16;

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number in this namespace.
    pub index: u32,
    /// Its name in this namespace.
    pub name: String,
    /// Its hardware address in lower case, octets separated by colons. All zeros for a loopback. `None` if links of its kind have
    /// no address.
    pub mac: Option<String>,
    /// Its maximum transmission unit in bytes.
    pub mtu: u32,
    /// Whether it is set up. It may still have no carrier.
    pub up: bool,
}

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The index of its link.
    pub link: u32,
    /// The address with the prefix length of its subnet.
    pub net: IpNet,
}

impl Netns {
    /// All links of the namespace.
    pub fn links(&mut self) -> Result<Vec<Link>, NetnsError> {
        let mut request = LinkMessage::default();
        // Leave out the traffic counters, which are the larger part of a link's description.
        request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        self.socket.dump(&Request::GetLink(request), link).map_err(self.failed("list the links"))
    }

    /// Whether a link has this name, or has it as an alternative name.
    pub fn has_link(&mut self, name: &str) -> Result<bool, NetnsError> {
        let mut request = LinkMessage::default();
        request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        request.attributes.push(LinkAttribute::IfName(name.to_owned()));
        match self.socket.ask(Request::GetLink(request)) {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(false),
            Err(error) => Err(self.failed(format!("look for the link {name}"))(error)),
        }
    }

    /// All addresses of the namespace, of both families.
    pub fn addresses(&mut self) -> Result<Vec<Address>, NetnsError> {
        self.socket
            .dump(&Request::GetAddress(AddressMessage::default()), address)
            .map_err(self.failed("list the addresses"))
    }

    /// The link of that name.
    ///
    /// # Errors
    ///
    /// [`NoSuchInterface`](NetnsError::NoSuchInterface) lists the existing links.
    pub fn link(&mut self, name: &str) -> Result<Link, NetnsError> {
        let mut links = self.links()?;
        match links.iter().position(|link| link.name == name) {
            Some(position) => Ok(links.swap_remove(position)),
            None => Err(self.no_such_interface(name, links)),
        }
    }

    /// The error for a name that none of the `links` has.
    pub(super) fn no_such_interface(&self, name: &str, links: Vec<Link>) -> NetnsError {
        NetnsError::NoSuchInterface {
            netns: self.name.clone(),
            interface: name.into(),
            present: links.into_iter().map(|link| link.name).collect(),
        }
    }
}

/// Reads the needed parts of an `RTM_NEWLINK` payload.
pub(super) fn link(payload: &[u8]) -> Result<Option<Link>, DecodeError> {
    let header = LinkHeader::parse(payload)?;
    let mut link =
        Link { index: header.index, name: String::new(), mac: None, mtu: 0, up: header.flags.contains(LinkFlags::Up) };
    for attribute in NlasIterator::new(&payload[LINK_HEADER_LEN..]) {
        let attribute = attribute?;
        match attribute.kind() {
            libc::IFLA_IFNAME => link.name = parse_string(attribute.value())?,
            libc::IFLA_ADDRESS => link.mac = mac(attribute.value()),
            libc::IFLA_MTU => link.mtu = parse_u32(attribute.value())?,
            _ => {}
        }
    }
    Ok(Some(link))
}

/// `02:42:ac:11:00:02`, for hardware addresses of any length except zero.
fn mac(octets: &[u8]) -> Option<String> {
    let octets: Vec<String> = octets.iter().map(|octet| format!("{octet:02x}")).collect();
    (!octets.is_empty()).then(|| octets.join(":"))
}

/// Reads an `RTM_NEWADDR` payload.
fn address(payload: &[u8]) -> Result<Option<Address>, DecodeError> {
    let message = AddressMessage::parse(payload)?;
    let mut local: Option<IpAddr> = None;
    let mut address: Option<IpAddr> = None;
    for attribute in message.attributes {
        match attribute {
            // If both attributes exist, this is the host's own address and the other is its peer's.
            AddressAttribute::Local(ip) => local = Some(ip),
            AddressAttribute::Address(ip) => address = Some(ip),
            _ => {}
        }
    }
    let net = local.or(address).and_then(|ip| IpNet::new(ip, message.header.prefix_len).ok());
    Ok(net.map(|net| Address { link: message.header.index, net }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_of_any_length_are_written_with_colons() {
        assert_eq!(mac(&[]), None);
        assert_eq!(mac(&[0x02, 0x42, 0xAC, 0x11, 0, 0x0f]).as_deref(), Some("02:42:ac:11:00:0f"));
        assert_eq!(mac(&[0; 20]).map(|text| text.len()), Some(59));
    }
}
