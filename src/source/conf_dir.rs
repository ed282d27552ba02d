//! Looks up networks by name, or by path if the operator wrote one.

use std::path::{Path, PathBuf};

use crate::runtime::load::{self, Found, LoadError};

/// What a reference leads to on disk.
///
/// # Errors
/// When the file or directory cannot be read. A name that no file has is not an error here.
pub fn look_up(conf_dir: &Path, reference: &str) -> Result<Found, LoadError> {
    if !reference.starts_with('/') {
        return load::by_name(conf_dir, reference);
    }
    let path = PathBuf::from(reference);
    if path.is_dir() {
        return load::first(&path);
    }
    let loaded = Some(load::from_file(&path)?);
    Ok(Found { loaded, skipped: Vec::new() })
}
