//! What is in use on the node: the network namespaces that a process, a mount or an open file keeps, and the cgroups of processes.
//!
//! If something is not known, it counts as running. A namespace is identified by its cookie, or by device and inode if the cookie
//! is not known.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsString;
use std::fs;
use std::net::IpAddr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use crate::netns::{Identity, Netns, NetnsError, Sameness, sees_all_processes};

/// A shorter ID of a container can be in the name of a cgroup by chance.
const SHORTEST_ID: usize = 12;

/// A network namespace that is held.
#[derive(Debug, Clone)]
pub struct Namespace {
    /// Which it is.
    pub identity: Identity,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The hardware addresses of its links.
    pub macs: Vec<String>,
    /// The number that the host's namespace uses for it.
    pub number: Option<i32>,
    /// Whether a process that is visible here is in it.
    pub has_process: bool,
    /// Whether the rest is known.
    pub access: Access,
}

/// Whether the namespace could be entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It could.
    Entered,
    /// No path leads there any more, for example because something is mounted over it. No visible process is in it.
    Hidden,
    /// It must not be entered.
    Refused,
}

/// What a path leads to.
#[derive(Debug, Clone, Copy)]
pub enum PathTarget {
    /// A network namespace.
    Namespace(Identity),
    /// Nothing, where its directory is there.
    Nothing,
    /// Something that is not a namespace, left after an unmount.
    SomethingElse,
    /// Nothing is known: the directory does not exist, or may not be read.
    Unknown,
}

impl PathTarget {
    /// What is at a path.
    pub fn of(path: &Path) -> Self {
        match Netns::open(path) {
            Ok(netns) => netns.identity().map_or(Self::Unknown, Self::Namespace),
            Err(NetnsError::NotANamespace { .. }) => Self::SomethingElse,
            Err(NetnsError::Gone { .. }) if path.parent().is_some_and(Path::is_dir) => Self::Nothing,
            Err(_) => Self::Unknown,
        }
    }
}

/// The namespaces and cgroups that are in use.
#[derive(Debug, Clone, Default)]
pub struct Running {
    /// The namespaces.
    pub namespaces: Vec<Namespace>,
    /// The words in the names of the cgroups that have processes.
    pub cgroups: HashSet<String>,
    /// The containers that plugins are running for.
    pub called_for: HashSet<String>,
    /// Whether all processes are visible, and with them all namespaces that a process keeps.
    pub sees_all: bool,
    /// Whether something about a process may not be read.
    pub is_restricted: bool,
}

impl Running {
    /// Reads the state of the node. `host` is the host's own namespace.
    pub fn read(host: &mut Netns) -> Self {
        let mut running = Self { sees_all: sees_all_processes(), ..Self::default() };
        let processes = Processes::read();
        running.cgroups = processes.cgroups;
        running.called_for = processes.called_for;
        for (inode, paths) in &processes.namespaces {
            let has_process = processes.with_process.contains(inode);
            running.namespaces.push(Namespace { has_process, ..enter(host, *inode, paths) });
        }
        // Without the right to read others' files and namespaces, not all of them are visible.
        running.is_restricted = processes.is_restricted;
        running.sees_all &= !processes.is_restricted;
        running
    }

    /// Whether a namespace exists that has, or may have, this identity.
    pub fn has(&self, identity: &Identity) -> bool {
        self.namespaces.iter().any(|namespace| identity.compare(&namespace.identity) != Sameness::Different)
    }

    /// Whether an interface of an existing namespace has this address.
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.namespaces.iter().any(|namespace| namespace.addresses.contains(&address))
    }

    /// Whether a link of an existing namespace has this hardware address.
    pub fn has_mac(&self, mac: &str) -> bool {
        let is_it = |known: &String| known.eq_ignore_ascii_case(mac);
        self.namespaces.iter().any(|namespace| namespace.macs.iter().any(is_it))
    }

    /// Whether a process is in a cgroup of a container.
    pub fn has_process_of(&self, container_id: &str) -> bool {
        container_id.len() >= SHORTEST_ID && self.cgroups.contains(container_id)
    }

    /// Whether all namespaces could be entered.
    pub fn is_known(&self) -> bool {
        self.namespaces.iter().all(|namespace| namespace.access == Access::Entered)
    }

    /// Whether a namespace may not be entered, so that its contents are not known.
    pub fn has_refused_namespace(&self) -> bool {
        self.namespaces.iter().any(|namespace| namespace.access == Access::Refused)
    }
}

fn enter(host: &mut Netns, inode: u64, paths: &BTreeSet<PathBuf>) -> Namespace {
    let mut access = Access::Hidden;
    for path in paths {
        match look_into(host, inode, path) {
            Ok(Some(namespace)) => return namespace,
            Ok(None) | Err(NetnsError::Gone { .. } | NetnsError::NotANamespace { .. }) => {}
            Err(_) => access = Access::Refused,
        }
    }
    let own = host.identity().map(|own| own.of_inode(inode));
    let identity = own.unwrap_or_default();
    Namespace { identity, addresses: Vec::new(), macs: Vec::new(), number: None, has_process: false, access }
}

/// Enters the namespace at a path and reads it. `None` if it is another namespace by now.
fn look_into(host: &mut Netns, inode: u64, path: &Path) -> Result<Option<Namespace>, NetnsError> {
    let mut netns = Netns::open(path)?;
    let identity = netns.identity().map_err(|source| NetnsError::Open { path: path.into(), source })?;
    if identity.inode() != inode {
        return Ok(None);
    }
    Ok(Some(Namespace {
        identity,
        addresses: netns.addresses()?.iter().map(|address| address.net.addr()).collect(),
        macs: netns.links()?.into_iter().filter_map(|link| link.mac).collect(),
        number: host.number_of(&netns)?,
        has_process: false,
        access: Access::Entered,
    }))
}

/// What the processes hold.
#[derive(Debug, Default)]
struct Processes {
    /// The namespaces by inode, with paths that lead there.
    namespaces: BTreeMap<u64, BTreeSet<PathBuf>>,
    cgroups: HashSet<String>,
    /// The containers that plugins are running for.
    called_for: HashSet<String>,
    /// The inodes of the namespaces that have a process.
    with_process: HashSet<u64>,
    /// Whether something about a process could not be read, for another reason than its exit.
    is_restricted: bool,
    /// The mount namespaces that have been read.
    mounts: HashSet<OsString>,
    /// The device of the files of namespaces.
    device: Option<(u32, u32)>,
}

/// The container for which a plugin was called, from its environment.
fn container_of_call(environment: &[u8]) -> Option<String> {
    let mut variables = environment.split(|byte| *byte == 0);
    let id = variables.find_map(|variable| variable.strip_prefix(b"CNI_CONTAINERID="))?;
    (!id.is_empty()).then(|| String::from_utf8_lossy(id).into_owned())
}

/// How many paths to a namespace are kept. Another one is needed if a process exits meanwhile.
const PATHS: usize = 4;

impl Processes {
    fn read() -> Self {
        let own = statx(CWD, "/proc/self/ns/net", AtFlags::empty(), StatxFlags::INO).ok();
        let mut all = Self { device: own.map(|own| (own.stx_dev_major, own.stx_dev_minor)), ..Self::default() };
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let name = entry.file_name();
            if name.as_bytes()[0].is_ascii_digit() {
                let was_restricted = all.is_restricted;
                all.process(&entry.path());
                // The first process is the machine's own, and may have more rights than this one.
                all.is_restricted &= was_restricted || name != "1";
            }
        }
        all
    }

    fn process(&mut self, process: &Path) {
        if let Ok(text) = fs::read_to_string(process.join("cgroup")) {
            self.cgroups.extend(words_of_cgroups(&text));
        }
        match fs::read(process.join("environ")) {
            Ok(environment) => self.called_for.extend(container_of_call(&environment)),
            Err(error) => self.note(&error),
        }
        // Threads can be in other namespaces than their process.
        for task in self.entries(&process.join("task")) {
            let link = task.join("ns/net");
            let inode = fs::read_link(&link).ok().and_then(|target| inode_of(target.as_os_str().as_bytes()));
            self.with_process.extend(inode);
            self.link(&link);
        }
        for descriptor in self.entries(&process.join("fd")) {
            self.descriptor(&descriptor);
        }
        match fs::read_link(process.join("ns/mnt")) {
            Ok(mounts) if self.mounts.insert(mounts.clone().into_os_string()) => self.mountinfo(process),
            Ok(_) => {}
            Err(error) => self.note(&error),
        }
    }

    fn entries(&mut self, directory: &Path) -> Vec<PathBuf> {
        match fs::read_dir(directory) {
            Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
            Err(error) => {
                self.note(&error);
                Vec::new()
            }
        }
    }

    fn note(&mut self, error: &std::io::Error) {
        self.is_restricted |= error.kind() == std::io::ErrorKind::PermissionDenied;
    }

    fn link(&mut self, path: &Path) {
        match fs::read_link(path) {
            Ok(target) => {
                if let Some(inode) = inode_of(target.as_os_str().as_bytes()) {
                    self.found(inode, path.to_owned());
                }
            }
            Err(error) => self.note(&error),
        }
    }

    /// An open file. If a namespace is mounted on the file, its name does not show that it is a namespace.
    fn descriptor(&mut self, path: &Path) {
        let Ok(target) = fs::read_link(path) else { return self.link(path) };
        let target = target.as_os_str().as_bytes();
        if let Some(inode) = inode_of(target) {
            return self.found(inode, path.to_owned());
        }
        // This needs no answer from a file system, which may hang.
        if target.starts_with(b"/")
            && let Ok(file) = statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::INO)
            && self.device == Some((file.stx_dev_major, file.stx_dev_minor))
            && !matches!(Netns::open(path), Err(NetnsError::NotANamespace { .. }))
        {
            self.found(file.stx_ino, path.to_owned());
        }
    }

    fn mountinfo(&mut self, process: &Path) {
        match fs::read(process.join("mountinfo")) {
            Ok(text) => {
                for (inode, mount_point) in mounted(&text) {
                    let below = mount_point.strip_prefix("/").unwrap_or(&mount_point).to_owned();
                    self.found(inode, process.join("root").join(below));
                }
            }
            Err(error) => self.note(&error),
        }
    }

    fn found(&mut self, inode: u64, path: PathBuf) {
        let paths = self.namespaces.entry(inode).or_default();
        if paths.len() < PATHS {
            paths.insert(path);
        }
    }
}

/// The inode in `net:[4026531840]`.
fn inode_of(target: &[u8]) -> Option<u64> {
    let number = target.strip_prefix(b"net:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

/// The mounted network namespaces, by inode, with their paths.
fn mounted(mountinfo: &[u8]) -> Vec<(u64, PathBuf)> {
    let lines = mountinfo.split(|byte| *byte == b'\n');
    let found = lines.filter_map(|line| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let inode = inode_of(fields.get(3)?)?;
        Some((inode, PathBuf::from(OsString::from_vec(unescaped(fields.get(4)?)))))
    });
    found.collect()
}

/// A field of mountinfo, with its octal escapes decoded.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = (*first == b'\\').then(|| after.get(..3)).flatten();
        let code = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    bytes
}

/// The words in the names of a process's cgroups: `cri-containerd-ID.scope` has `ID`.
fn words_of_cgroups(text: &str) -> HashSet<String> {
    let is_in_a_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c: char| !is_in_a_word(c)).filter(|word| word.len() >= SHORTEST_ID);
    // An ID may contain characters that separate words elsewhere.
    let components = text.lines().flat_map(|line| line.split('/')).filter(|part| part.len() >= SHORTEST_ID);
    words.chain(components).map(str::to_owned).collect()
}

/// When a file was changed, and how long ago.
pub(super) fn age_of(path: &Path, now: std::time::SystemTime) -> Option<std::time::Duration> {
    let changed = path.symlink_metadata().ok()?;
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(u64::try_from(changed.mtime()).ok()?);
    Some(now.duration_since(at).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounted_namespaces_are_found_wherever_they_are_mounted() {
        let text = b"36 25 0:4 net:[4026532281] /run/netns/a\\040b rw shared:1 - nsfs nsfs rw\n\
            37 25 0:4 mnt:[4026532282] /run/snapd/ns/x rw - nsfs nsfs rw\n\
            38 25 8:1 / / rw - ext4 /dev/sda1 rw\n";
        assert_eq!(mounted(text), [(4_026_532_281, PathBuf::from("/run/netns/a b"))]);
    }

    #[test]
    fn a_containers_id_is_found_in_the_names_of_cgroups() {
        let id = "0123456789abcdef";
        for text in [
            format!("0::/kubepods.slice/cri-containerd-{id}.scope\n"),
            format!("12:cpu:/docker/{id}\n0::/\n"),
            format!("0::/machine.slice/libpod-{id}.scope/container\n"),
            format!("0::/k8s.io/{id}"),
        ] {
            assert!(words_of_cgroups(&text).contains(id), "{text}");
        }
        assert!(words_of_cgroups("0::/web-1-web-1-web").contains("web-1-web-1-web"));
        let running = Running { cgroups: words_of_cgroups("0::/system.slice/web"), ..Running::default() };
        assert!(!running.has_process_of("web"), "so short a word proves nothing");
    }
}
