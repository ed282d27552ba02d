//! Devices that appear on the node. A network may have failed because its device was not there yet: a virtual function whose driver
//! was being bound, or the interface that it is on top of.
//!
//! The kernel sends a uevent for each, to whoever listens in the namespace of the device. A device without a network interface,
//! such as one for a virtual machine, belongs to no namespace.

use std::io;

use netlink_sys::protocols::NETLINK_KOBJECT_UEVENT;
use netlink_sys::{AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket};
use nix::errno::Errno;

/// The group of the kernel's own messages. The others are those of udev.
const KERNEL: u32 = 1;
/// The largest message that the kernel sends, with room to spare, in bytes.
const MAX_MESSAGE: usize = 16 << 10;
/// What a device does when it can be used from then on: it is made, gets a driver, or gets another name.
const ACTIONS: [&str; 4] = ["add", "bind", "move", "online"];
/// The buses of devices that a container can be given, and their network interfaces.
const SUBSYSTEMS: [&str; 4] = ["net", "pci", "auxiliary", "vdpa"];
/// The kinds of virtual interfaces that others are made on top of. Every container that is attached makes others.
const MASTERS: [&str; 4] = ["bridge", "bond", "vlan", "vxlan"];

/// Says when a device appears.
pub(super) struct Devices(TokioSocket);

impl Devices {
    /// Listens from now on.
    ///
    /// # Errors
    /// When the kernel does not allow that.
    pub(super) fn listen() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_KOBJECT_UEVENT)?;
        socket.socket_mut().bind(&SocketAddr::new(0, KERNEL))?;
        Ok(Self(socket))
    }

    /// Waits until a device appears.
    ///
    /// # Errors
    /// When the kernel does not say so any more.
    pub(super) async fn next(&self) -> io::Result<()> {
        let mut message = Vec::with_capacity(MAX_MESSAGE);
        loop {
            message.clear();
            match self.0.recv_from(&mut message).await {
                Ok(sender) if sender.port_number() == 0 && is_of_device(&message) => return Ok(()),
                Ok(_) => {}
                // There were more than the socket can hold, and any of them may have been one.
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether a uevent is about a device that a network may need.
fn is_of_device(message: &[u8]) -> bool {
    let fields = || message.split(|byte| *byte == 0).filter_map(|field| std::str::from_utf8(field).ok());
    let value = |key: &str| fields().find_map(|field| field.strip_prefix(key)?.strip_prefix('='));
    let is_one_of = |key: &str, values: &[&str]| value(key).is_some_and(|value| values.contains(&value));
    let is_virtual = value("DEVPATH").is_some_and(|path| path.starts_with("/devices/virtual/"));
    is_one_of("ACTION", &ACTIONS)
        && is_one_of("SUBSYSTEM", &SUBSYSTEMS)
        && (!is_virtual || is_one_of("DEVTYPE", &MASTERS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_told_from_what_containers_make() {
        let uevent = |action: &str, path: &str, rest: &str| {
            let head = format!("{action}@{path}\0ACTION={action}\0DEVPATH={path}\0");
            is_of_device((head + &rest.replace(' ', "\0") + "\0SEQNUM=7\0").as_bytes())
        };
        let card = "/devices/pci0000:00/0000:00:1f.6";
        assert!(uevent("bind", card, "DRIVER=vfio-pci SUBSYSTEM=pci"));
        assert!(uevent("add", &format!("{card}/net/eth0"), "SUBSYSTEM=net INTERFACE=eth0 IFINDEX=7"));
        assert!(uevent("move", &format!("{card}/net/ens5"), "SUBSYSTEM=net INTERFACE=ens5 IFINDEX=7"));
        assert!(uevent("add", "/devices/virtual/net/br0", "DEVTYPE=bridge SUBSYSTEM=net INTERFACE=br0"));
        assert!(!uevent("remove", &format!("{card}/net/eth0"), "SUBSYSTEM=net INTERFACE=eth0"));
        assert!(!uevent("add", &format!("{card}/net/eth0/queues/rx-0"), "SUBSYSTEM=queues"));
        assert!(!uevent("add", "/devices/virtual/net/veth1", "SUBSYSTEM=net INTERFACE=veth1"));
        assert!(!uevent("add", "/devices/pci0000:00/block/sda", "SUBSYSTEM=block"));
        assert!(!is_of_device(b"libudev\0") && !is_of_device(b""));
    }
}
