//! A synchronous route-netlink socket: it sends one request, and reads its whole answer.
//!
//! Payloads are not decoded here. A list has much that Braid does not need (links of every driver, routes of every table), and an
//! attribute that a library does not know must not prevent reading a default route.

use std::io;

use netlink_packet_core::{
    DecodeError, Emitable, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST,
    NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP, NLMSG_OVERRUN, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable, NlasIterator, parse_i32, parse_string, parse_u32,
};
use netlink_packet_route::{
    address::AddressMessage, link::LinkMessage, nsid::NsidMessage, route::RouteMessage, tc::TcMessage,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::errno::Errno;
use nix::libc;

use super::NetlinkError;

/// How often a list is read again because it changed during reading.
const DUMP_ATTEMPTS: usize = 16;

/// `NLMSGERR_ATTR_MSG` of linux/netlink.h: the kernel's explanation of an error.
const EXPLANATION: u16 = 1;

/// Bytes of a netlink message header, which an error message repeats.
const HEADER_LEN: usize = 16;

/// The requests that Braid needs.
#[derive(Debug, Clone)]
pub(super) enum Request {
    /// Links.
    GetLink(LinkMessage),
    /// Addresses.
    GetAddress(AddressMessage),
    /// Routes.
    GetRoute(RouteMessage),
    /// Make a route.
    NewRoute(RouteMessage),
    /// Remove a route.
    DelRoute(RouteMessage),
    /// Make or change a link.
    NewLink(LinkMessage),
    /// Remove a link.
    DelLink(LinkMessage),
    /// The number that a namespace uses for another one.
    GetNsid(NsidMessage),
    /// A queueing discipline.
    GetQdisc(TcMessage),
    /// Change a queueing discipline.
    NewQdisc(TcMessage),
    /// Remove a queueing discipline.
    DelQdisc(TcMessage),
    /// Filters.
    GetFilter(TcMessage),
}

impl NetlinkSerializable for Request {
    fn message_type(&self) -> u16 {
        match self {
            Self::GetLink(_) => libc::RTM_GETLINK,
            Self::GetAddress(_) => libc::RTM_GETADDR,
            Self::GetRoute(_) => libc::RTM_GETROUTE,
            Self::NewRoute(_) => libc::RTM_NEWROUTE,
            Self::DelRoute(_) => libc::RTM_DELROUTE,
            Self::NewLink(_) => libc::RTM_NEWLINK,
            Self::DelLink(_) => libc::RTM_DELLINK,
            Self::GetNsid(_) => libc::RTM_GETNSID,
            Self::GetQdisc(_) => libc::RTM_GETQDISC,
            Self::NewQdisc(_) => libc::RTM_NEWQDISC,
            Self::DelQdisc(_) => libc::RTM_DELQDISC,
            Self::GetFilter(_) => libc::RTM_GETTFILTER,
        }
    }

    fn buffer_len(&self) -> usize {
        match self {
            Self::GetLink(message) | Self::NewLink(message) | Self::DelLink(message) => message.buffer_len(),
            Self::GetNsid(message) => message.buffer_len(),
            Self::GetAddress(message) => message.buffer_len(),
            Self::GetRoute(message) | Self::NewRoute(message) | Self::DelRoute(message) => message.buffer_len(),
            Self::GetQdisc(message) | Self::NewQdisc(message) | Self::DelQdisc(message) | Self::GetFilter(message) => {
                message.buffer_len()
            }
        }
    }

    fn serialize(&self, buffer: &mut [u8]) {
        match self {
            Self::GetLink(message) | Self::NewLink(message) | Self::DelLink(message) => message.emit(buffer),
            Self::GetNsid(message) => message.emit(buffer),
            Self::GetAddress(message) => message.emit(buffer),
            Self::GetRoute(message) | Self::NewRoute(message) | Self::DelRoute(message) => message.emit(buffer),
            Self::GetQdisc(message) | Self::NewQdisc(message) | Self::DelQdisc(message) | Self::GetFilter(message) => {
                message.emit(buffer);
            }
        }
    }
}

/// A socket. It always belongs to the namespace in which it was opened, whatever thread uses it.
#[derive(Debug)]
pub(super) struct RouteSocket {
    socket: Socket,
    sequence: u32,
}

impl RouteSocket {
    /// Opens a socket in the namespace of the calling thread.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Kernels without these options (before 4.12) refuse requests too, but explain less.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        Ok(Self { socket, sequence: 0 })
    }

    /// The cookie of its namespace.
    pub(super) fn netns_cookie(&self) -> Option<u64> {
        super::identity::cookie(&self.socket)
    }

    /// Reads a whole list, and starts again if it changed meanwhile. `decode` reads the needed parts of each payload. It gets a
    /// payload again if the list is read again.
    pub(super) fn dump<T>(
        &mut self,
        request: &Request,
        mut decode: impl FnMut(&[u8]) -> Result<Option<T>, DecodeError>,
    ) -> Result<Vec<T>, NetlinkError> {
        for _ in 0..DUMP_ATTEMPTS {
            let sequence = self.send(request.clone(), NLM_F_DUMP)?;
            if let Some(items) = self.receive_dump(sequence, &mut decode)? {
                return Ok(items);
            }
        }
        Err(NetlinkError::Unstable { attempts: DUMP_ATTEMPTS })
    }

    /// Sends one request and waits for the kernel's whole answer, or its error.
    pub(super) fn ask(&mut self, request: Request) -> Result<(), NetlinkError> {
        let sequence = self.send(request, 0)?;
        loop {
            let datagram = self.receive()?;
            for message in messages(&datagram) {
                let message = message?;
                match (message.sequence_number() == sequence, message.message_type()) {
                    (true, NLMSG_ERROR) => return verdict(&message),
                    (true, NLMSG_NOOP) | (false, _) => {}
                    (true, _) => return Ok(()),
                }
            }
        }
    }

    /// Requests one thing and returns what `decode` makes of it. `None` if the answer is empty.
    pub(super) fn get<T>(
        &mut self,
        request: Request,
        flags: u16,
        decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, NetlinkError> {
        let sequence = self.send(request, flags | NLM_F_ACK)?;
        let mut found = None;
        loop {
            let datagram = self.receive()?;
            for message in messages(&datagram) {
                let message = message?;
                match (message.sequence_number() == sequence, message.message_type()) {
                    (true, NLMSG_ERROR) => return verdict(&message).map(|()| found),
                    (true, NLMSG_NOOP) | (false, _) => {}
                    (true, _) => found = Some(decode(message.payload())?),
                }
            }
        }
    }

    /// Requests a change and waits until the kernel has made or refused it.
    pub(super) fn change(&mut self, request: Request, flags: u16) -> Result<(), NetlinkError> {
        let sequence = self.send(request, flags | NLM_F_ACK)?;
        loop {
            let datagram = self.receive()?;
            for message in messages(&datagram) {
                let message = message?;
                if message.sequence_number() == sequence && message.message_type() == NLMSG_ERROR {
                    return verdict(&message);
                }
            }
        }
    }

    /// The items of one list. `None` if the list changed while it was read.
    ///
    /// The list is always read to its end, because the kernel works on only one for a socket.
    fn receive_dump<T>(
        &mut self,
        sequence: u32,
        decode: &mut impl FnMut(&[u8]) -> Result<Option<T>, DecodeError>,
    ) -> Result<Option<Vec<T>>, NetlinkError> {
        let mut items = Vec::new();
        let mut interrupted = false;
        let mut failure = None;
        loop {
            let datagram = self.receive()?;
            for message in messages(&datagram) {
                let message = message?;
                if message.sequence_number() != sequence {
                    continue;
                }
                interrupted |= message.flags() & NLM_F_DUMP_INTR != 0;
                match message.message_type() {
                    NLMSG_DONE | NLMSG_ERROR => {
                        verdict(&message)?;
                        return match failure {
                            Some(failure) if !interrupted => Err(failure),
                            _ => Ok((!interrupted).then_some(items)),
                        };
                    }
                    NLMSG_NOOP => {}
                    NLMSG_OVERRUN => failure = Some(NetlinkError::Overrun),
                    _ => match decode(message.payload()) {
                        Ok(item) => items.extend(item),
                        Err(error) => failure = Some(error.into()),
                    },
                }
            }
        }
    }

    /// Sends one request. Its answer has the returned sequence number.
    fn send(&mut self, request: Request, flags: u16) -> io::Result<u32> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags | NLM_F_REQUEST;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        uninterrupted(|| self.socket.send(&bytes, 0))?;
        Ok(self.sequence)
    }

    /// Reads one datagram of the kernel, of any length.
    fn receive(&self) -> io::Result<Vec<u8>> {
        loop {
            // Finds out the length first, so that no answer is cut off.
            let (datagram, sender) = uninterrupted(|| self.socket.recv_from_full())?;
            if sender.port_number() == 0 {
                return Ok(datagram);
            }
        }
    }
}

/// Repeats a system call as long as a signal interrupts it.
fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// The messages of one datagram, in order.
fn messages(datagram: &[u8]) -> impl Iterator<Item = Result<NetlinkBuffer<&[u8]>, DecodeError>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let message = NetlinkBuffer::new_checked(rest);
        rest = match &message {
            Ok(message) => rest.get(aligned(message.length())..).unwrap_or_default(),
            Err(_) => &[],
        };
        Some(message)
    })
}

/// The result at the end of an answer: both kinds of message start with zero or a negated error number.
fn verdict(message: &NetlinkBuffer<&[u8]>) -> Result<(), NetlinkError> {
    let payload = message.payload();
    match payload.get(..4).map(parse_i32).transpose()? {
        None | Some(0) => Ok(()),
        Some(code) => Err(NetlinkError::Refused {
            errno: Errno::from_raw(code.wrapping_neg()),
            explanation: explanation(message).filter(|text| !text.is_empty()),
        }),
    }
}

/// The kernel's explanation of an error, if there is one.
fn explanation(message: &NetlinkBuffer<&[u8]>) -> Option<String> {
    if message.flags() & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let payload = message.payload();
    let start = if message.message_type() == NLMSG_DONE {
        4
    } else if message.flags() & NLM_F_CAPPED != 0 {
        4 + HEADER_LEN
    } else {
        4 + aligned(parse_u32(payload.get(4..8)?).ok()?)
    };
    NlasIterator::new(payload.get(start..)?)
        .filter_map(Result::ok)
        .find(|attribute| attribute.kind() == EXPLANATION)
        .and_then(|attribute| parse_string(attribute.value()).ok())
}

/// Netlink messages start at multiples of four bytes.
fn aligned(length: u32) -> usize {
    usize::try_from(length).map_or(usize::MAX, |length| length.saturating_add(3) & !3)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A netlink message in the kernel's layout.
    fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER_LEN + payload.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// An error number, then the header of the refused request with some of its body, then `text` as an attribute.
    fn refusal(errno: Errno, body: usize, text: &[u8]) -> Vec<u8> {
        let mut payload = (-(errno as i32)).to_ne_bytes().to_vec();
        payload.extend(message(24, 0, &vec![0xff; body]));
        payload.extend(u16::try_from(4 + text.len()).unwrap().to_ne_bytes());
        payload.extend(EXPLANATION.to_ne_bytes());
        payload.extend(text);
        payload
    }

    fn only(bytes: &[u8]) -> NetlinkBuffer<&[u8]> {
        messages(bytes).next().unwrap().unwrap()
    }

    #[test]
    fn a_datagram_is_split_at_aligned_boundaries() {
        let mut datagram = message(24, 0, &[1, 2, 3]);
        datagram.extend(message(24, 0, &[4]));
        let payloads: Vec<Vec<u8>> = messages(&datagram).map(|message| message.unwrap().payload().to_vec()).collect();
        assert_eq!(payloads, [vec![1, 2, 3], vec![4]]);
    }

    #[test]
    fn a_message_cut_short_is_an_error_and_ends_the_datagram() {
        let mut datagram = message(24, 0, &[1, 2, 3, 4]);
        datagram.truncate(18);
        let all: Vec<_> = messages(&datagram).collect();
        assert!(matches!(all.as_slice(), [Err(_)]), "{all:?}");
    }

    #[test]
    fn the_kernels_words_are_found_after_a_capped_and_an_uncapped_request() {
        for (flags, body) in [(NLM_F_ACK_TLVS | NLM_F_CAPPED, 0), (NLM_F_ACK_TLVS, 10)] {
            let bytes =
                message(NLMSG_ERROR, flags, &refusal(Errno::ENETUNREACH, body, b"Nexthop has invalid gateway\0"));
            let error = verdict(&only(&bytes)).unwrap_err();
            assert_eq!(error.errno(), Some(Errno::ENETUNREACH));
            assert_eq!(
                error.to_string(),
                "the kernel refused: ENETUNREACH: Network is unreachable: Nexthop has invalid gateway"
            );
        }
    }

    #[test]
    fn a_refusal_without_words_names_the_error_number_alone() {
        let bytes = message(NLMSG_ERROR, 0, &refusal(Errno::EPERM, 0, b""));
        assert_eq!(
            verdict(&only(&bytes)).unwrap_err().to_string(),
            "the kernel refused: EPERM: Operation not permitted"
        );
    }

    #[test]
    fn an_acknowledgement_and_an_empty_end_of_a_dump_are_success() {
        for bytes in [message(NLMSG_ERROR, 0, &[0; 20]), message(NLMSG_DONE, 0, &[])] {
            verdict(&only(&bytes)).unwrap();
        }
    }
}
