//! Kernel parameters of a network namespace, `/proc/sys/net`. The reference plugin `tuning` sets them and does not restore them.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use indexmap::IndexMap;

use super::NetnsError;
use super::namespace::inside;

/// Parameters with the names that `tuning` uses, such as `net.core.somaxconn` or `net/ipv4/conf/IFNAME/arp_notify`.
pub type Sysctls = IndexMap<String, String>;

/// The current values of parameters. Parameters that do not exist are left out.
///
/// # Errors
/// When the namespace cannot be entered or a parameter cannot be read, or is none of the network's.
pub fn read_sysctls<'a>(
    netns: &Path,
    ifname: &str,
    names: impl IntoIterator<Item = &'a str>,
) -> Result<Sysctls, NetnsError> {
    let files = names.into_iter().map(|name| Ok((name.to_owned(), file(name, ifname)?)));
    let files = files.collect::<Result<Vec<_>, NetnsError>>()?;
    if files.is_empty() {
        return Ok(Sysctls::new());
    }
    inside(netns, || {
        let mut values = Sysctls::new();
        for (name, file) in files {
            match fs::read_to_string(&file) {
                Ok(value) => drop(values.insert(name, value.trim_end_matches('\n').to_owned())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(NetnsError::Sysctl { action: "read", name, source }),
            }
        }
        Ok(values)
    })?
}

/// Gives parameters these values.
///
/// # Errors
/// When the namespace cannot be entered or a parameter cannot be written, or is none of the network's.
pub fn write_sysctls(netns: &Path, ifname: &str, values: &Sysctls) -> Result<(), NetnsError> {
    let files = values.iter().map(|(name, value)| Ok((name, file(name, ifname)?, value)));
    let files = files.collect::<Result<Vec<_>, NetnsError>>()?;
    if files.is_empty() {
        return Ok(());
    }
    inside(netns, || {
        files.into_iter().try_for_each(|(name, file, value)| {
            fs::write(file, value).map_err(|source| NetnsError::Sysctl { action: "write", name: name.clone(), source })
        })
    })?
}

/// The file of a parameter, found as `tuning` does. Whatever the name, it is below `/proc/sys/net`.
fn file(name: &str, ifname: &str) -> Result<PathBuf, NetnsError> {
    let path = PathBuf::from(name.replace('.', "/").replacen("IFNAME", ifname, 1));
    let is_plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    if is_plain && path.starts_with("net") {
        return Ok(Path::new("/proc/sys").join(path.components().collect::<PathBuf>()));
    }
    let source = io::Error::new(io::ErrorKind::InvalidInput, "it is none of the network's parameters, net.…");
    Err(NetnsError::Sysctl { action: "find", name: name.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_files_below_net_alone() {
        let path = |name| file(name, "eth0").map(|path| path.display().to_string());
        assert_eq!(path("net.core.somaxconn").unwrap(), "/proc/sys/net/core/somaxconn");
        assert_eq!(path("net/ipv4/conf/IFNAME/arp_notify").unwrap(), "/proc/sys/net/ipv4/conf/eth0/arp_notify");
        // The plugin replaces dots with slashes, so no name leads to a parent directory.
        assert_eq!(path("net/../kernel/panic").unwrap(), "/proc/sys/net/kernel/panic");
        for name in ["kernel.panic", "/net/x", "", "netx", "../net"] {
            assert!(path(name).is_err(), "{name}");
        }
    }
}
