//! Reading network configurations from files, as libcni does.
//!
//! A directory is searched by network name: first its `.conflist` files by name, then its `.conf` and `.json` files
//! by name. A list gets the plugin configurations of `<directory>/<network name>/*.conf` appended, unless it says
//! `loadOnlyInlinedPlugins`. A file that does not parse is skipped and reported, and never hides the files after it.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::libc::O_NONBLOCK;

use crate::cni::config::{ConfigError, Defaults, NetworkConfig, PluginConfig, RawObject, parse_object};

/// The largest configuration read, in bytes.
pub const MAX_CONFIG: u64 = 16 << 20;

/// A network configuration and its source.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration, with the plugins of its directory appended.
    pub network: NetworkConfig,
    /// Its file.
    pub file: PathBuf,
    /// The object in the file, as it was written.
    pub object: RawObject,
}

/// A file that was skipped, or could not be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It could not be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is too large, or no regular file.
    #[error("{}: it is not a regular file of at most {} MiB", path.display(), MAX_CONFIG >> 20)]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// Its content is wrong.
    #[error("{}: {source}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: ConfigError,
    },
    /// A `.conf` or `.json` file holds a list.
    #[error("{}: it holds a configuration list, expected a file name that ends in .conflist", path.display())]
    ListInConf {
        /// The file.
        path: PathBuf,
    },
}

/// What a search found.
#[derive(Debug, Default)]
pub struct Found {
    /// The configuration, if any file holds it.
    pub loaded: Option<Loaded>,
    /// The files that were skipped.
    pub skipped: Vec<LoadError>,
}

/// The configuration files of a directory in the order they are searched.
///
/// # Errors
/// When the directory cannot be read. One that does not exist is empty.
pub fn files(directory: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let mut lists = with_extensions(directory, &["conflist"])?;
    lists.extend(with_extensions(directory, &["conf", "json"])?);
    Ok(lists)
}

/// The files of a directory with one of these endings, by name.
pub(crate) fn with_extensions(directory: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>, LoadError> {
    let io = |source| LoadError::Io { path: directory.to_owned(), source };
    let entries = match directory.read_dir() {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(io)?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if extension.is_some_and(|extension| extensions.contains(&extension)) && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Searches a directory for the network `name`.
///
/// # Errors
/// When the directory cannot be read.
pub fn by_name(directory: &Path, name: &str) -> Result<Found, LoadError> {
    let mut found = Found::default();
    for file in files(directory)? {
        match from_file(&file) {
            Ok(loaded) if loaded.network.name == name => {
                found.loaded = Some(loaded);
                break;
            }
            Ok(_) => {}
            Err(error) => found.skipped.push(error),
        }
    }
    Ok(found)
}

/// The first configuration of a directory that can be used.
///
/// # Errors
/// When the directory cannot be read.
pub fn first(directory: &Path) -> Result<Found, LoadError> {
    let mut found = Found::default();
    for file in files(directory)? {
        match from_file(&file) {
            Ok(loaded) => {
                found.loaded = Some(loaded);
                break;
            }
            Err(error) => found.skipped.push(error),
        }
    }
    Ok(found)
}

/// Reads one file: a list from `.conflist`, a single plugin configuration from any other.
///
/// # Errors
/// When it cannot be read, or is not a complete network configuration.
pub fn from_file(path: &Path) -> Result<Loaded, LoadError> {
    let wrong = |source| LoadError::Config { path: path.to_owned(), source };
    let object = parse_object(&read(path)?).map_err(wrong)?;
    let is_list = path.extension().is_some_and(|extension| extension == "conflist");
    if !is_list {
        if !object.contains_key("type") && object.contains_key("plugins") {
            return Err(LoadError::ListInConf { path: path.to_owned() });
        }
        let network = NetworkConfig::complete_from_object(object.clone(), Defaults::default()).map_err(wrong)?;
        return Ok(Loaded { network, file: path.to_owned(), object });
    }
    let mut list = object.clone();
    list.shift_remove("type"); // A list has none; were it left, the list would be read as a plugin.
    let mut network = NetworkConfig::from_object(list, Defaults::default()).map_err(wrong)?;
    if !network.load_only_inlined_plugins
        && let Some(parent) = path.parent()
    {
        network.plugins.extend(plugins_of(&parent.join(&network.name))?);
    }
    if network.plugins.is_empty() {
        let expected = "at least one plugin, here or in the directory of the network's name";
        return Err(wrong(ConfigError::Missing { key: "plugins".into(), expected }));
    }
    Ok(Loaded { network, file: path.to_owned(), object })
}

/// The plugin configurations in a directory's `.conf` files, by file name.
///
/// # Errors
/// When the directory or one of the files cannot be used. A directory that does not exist is empty.
pub fn plugins_of(directory: &Path) -> Result<Vec<PluginConfig>, LoadError> {
    with_extensions(directory, &["conf"])?
        .into_iter()
        .map(|path| {
            let wrong = |source| LoadError::Config { path: path.clone(), source };
            PluginConfig::from_object(parse_object(&read(&path)?).map_err(wrong)?).map_err(wrong)
        })
        .collect()
}

/// Reads a configuration: a regular file of at most [`MAX_CONFIG`] bytes.
///
/// # Errors
/// When it is anything else, or reading fails.
pub fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    let read = read_regular_file(path, MAX_CONFIG);
    let bytes = read.map_err(|source| LoadError::Io { path: path.to_owned(), source })?;
    bytes.ok_or_else(|| LoadError::NotAFile { path: path.to_owned() })
}

/// Reads a regular file of at most `max` bytes. Returns nothing if it is another kind of file, or larger. Does not block on a named
/// pipe.
///
/// # Errors
/// When it cannot be opened or read.
pub fn read_regular_file(path: &Path, max: u64) -> io::Result<Option<Vec<u8>>> {
    let is_fit = |metadata: &Metadata| metadata.is_file() && metadata.len() <= max;
    // Opening a device can have effects, and a socket cannot be opened.
    if !is_fit(&path.metadata()?) {
        return Ok(None);
    }
    // Something else may stand there by now.
    let file = File::options().read(true).custom_flags(O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !is_fit(&metadata) {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    let read = file.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((read as u64 <= max).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn names(found: &Found) -> Option<(&str, usize)> {
        let loaded = found.loaded.as_ref()?;
        Some((loaded.file.file_name()?.to_str()?, loaded.network.plugins.len()))
    }

    #[test]
    fn lists_come_before_single_configurations_and_broken_files_hide_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("00.conf", r#"{"name":"a","type":"x"}"#);
        write("10.conflist", "{broken");
        write("20.conflist", r#"{"name":"a","plugins":[{"type":"x"},{"type":"y"}]}"#);
        write("30.json", r#"{"name":"j","type":"x"}"#);
        write("40.conf", r#"{"name":"l","plugins":[]}"#);
        write("50.txt", "ignored");
        let found = by_name(dir.path(), "a").unwrap();
        assert_eq!(names(&found), Some(("20.conflist", 2)));
        assert_eq!(found.skipped.len(), 1);
        assert_eq!(names(&by_name(dir.path(), "j").unwrap()), Some(("30.json", 1)));
        let none = by_name(dir.path(), "l").unwrap();
        assert!(none.loaded.is_none());
        assert!(none.skipped.iter().any(|error| error.to_string().contains(".conflist")), "{:?}", none.skipped);
        assert!(by_name(Path::new("/nonexistent"), "a").unwrap().loaded.is_none());
    }

    #[test]
    fn the_directory_of_the_networks_name_adds_plugins() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("n")).unwrap();
        fs::write(dir.path().join("n/20.conf"), r#"{"type":"late"}"#).unwrap();
        fs::write(dir.path().join("n/10.conf"), r#"{"type":"early"}"#).unwrap();
        let list = dir.path().join("n.conflist");
        let types = |text: &str| {
            fs::write(&list, text).unwrap();
            from_file(&list)
                .map(|loaded| loaded.network.plugins.iter().map(|p| p.plugin_type().to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(types(r#"{"name":"n","plugins":[{"type":"first"}]}"#).unwrap(), ["first", "early", "late"]);
        assert_eq!(types(r#"{"name":"n"}"#).unwrap(), ["early", "late"]);
        let only = r#"{"name":"n","loadOnlyInlinedPlugins":"True","plugins":[{"type":"first"}]}"#;
        assert_eq!(types(only).unwrap(), ["first"]);
        assert!(types(r#"{"name":"n","loadOnlyInlinedPlugins":true}"#).is_err());
        assert!(types(r#"{"name":"empty","plugins":[]}"#).is_err());
    }
}
