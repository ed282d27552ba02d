//! The files of the IPAM plugin host-local. `<dataDir>/<network>/` has one file for each address that it has given out. The file is
//! named after the address, and its first line is the container's ID.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// The default `dataDir`.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/cni/networks";

/// The addresses that are given out in the directory of a network. Other files there are the plugin's lock and the last address
/// that it gave out. A directory that does not exist or cannot be read has none.
pub fn addresses(pool: &Path) -> Vec<IpAddr> {
    let entries = fs::read_dir(pool).into_iter().flatten().flatten();
    entries.filter_map(|entry| address_of(&entry.path())).collect()
}

/// The address that a file stands for; nothing if it is another kind of file.
pub fn address_of(file: &Path) -> Option<IpAddr> {
    file.file_name()?.to_str()?.parse().ok()
}

/// The file that stands for an address.
pub fn file_of(pool: &Path, address: IpAddr) -> PathBuf {
    pool.join(address.to_string())
}

/// The container that has an address. Empty if host-local was killed before it wrote the ID.
///
/// # Errors
/// When the file is not there, is no file, or cannot be read.
pub fn container_of(file: &Path) -> io::Result<String> {
    if !file.symlink_metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
    }
    let text = fs::read_to_string(file)?;
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_files_named_like_them() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["10.1.0.2", "fd00::2", "lock", "last_reserved_ip.0"] {
            fs::write(dir.path().join(name), "c1\r\neth0").unwrap();
        }
        let mut found = addresses(dir.path());
        found.sort();
        assert_eq!(found, ["10.1.0.2", "fd00::2"].map(|text| text.parse::<IpAddr>().unwrap()));
        assert!(found.iter().all(|address| container_of(&file_of(dir.path(), *address)).unwrap() == "c1"));
        assert!(addresses(&dir.path().join("none")).is_empty());
        fs::create_dir(dir.path().join("10.1.0.3")).unwrap();
        assert!(container_of(&dir.path().join("10.1.0.3")).is_err());
    }
}
