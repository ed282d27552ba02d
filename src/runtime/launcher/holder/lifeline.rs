//! The orders that a holder gets over its lifeline.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

/// The order to exit.
pub(super) const DISMISS: u8 = 1;
/// The order to keep open the standard input of a plugin, which is sent with it.
pub(super) const KEEP_INPUT_OPEN: u8 = 2;
/// The order to close that standard input.
pub(super) const CLOSE_INPUT: u8 = 3;

/// Sends the order to keep the standard input of a plugin open.
///
/// # Errors
/// When the message cannot be sent.
pub(super) fn send_input(lifeline: &UnixStream, input: BorrowedFd<'_>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let inputs = [input];
    let _has_room = control.push(SendAncillaryMessage::ScmRights(&inputs));
    sendmsg(lifeline, &[IoSlice::new(&[KEEP_INPUT_OPEN])], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Reads the next order, and the input that comes with it. Nothing if the parent is gone.
pub(super) fn read_order(
    lifeline: BorrowedFd<'_>,
    input: &mut Option<OwnedFd>,
) -> Result<Option<u8>, rustix::io::Errno> {
    let mut order = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(lifeline, &mut [IoSliceMut::new(&mut order)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(inputs) = message {
            *input = inputs.last();
        }
    }
    Ok((received.bytes == 1).then_some(order[0]))
}
