//! Looking up plugin executables (SPEC §3: the executable named by `type`, in the directories of `CNI_PATH`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use nix::unistd::{AccessFlags, access};

use super::exec::PluginError;
use crate::cni::validate;

/// The directories that hold plugins, in the order they are searched.
#[derive(Debug, Clone, Default)]
pub struct Finder {
    path: String,
    directories: Vec<PathBuf>,
    fallback: Option<(String, PathBuf)>,
    /// The executables found so far, if they are remembered.
    found: Option<Arc<Mutex<BTreeMap<String, PathBuf>>>>,
}

impl Finder {
    /// A finder for directories separated by `:`, as in `CNI_PATH`. Empty and relative directories are skipped, because what is run
    /// must not depend on the working directory.
    pub fn new(path: &str) -> Self {
        let directories = path.split(':').map(PathBuf::from).filter(|dir| dir.is_absolute()).collect();
        Self { path: path.to_owned(), directories, fallback: None, found: None }
    }

    /// Searches for each plugin once and remembers the result. Use this for a single call.
    #[must_use]
    pub fn remembering(mut self) -> Self {
        self.found = Some(Arc::default());
        self
    }

    /// Uses `executable` for `plugin_type` if no directory contains it.
    #[must_use]
    pub fn with_fallback(mut self, plugin_type: &str, executable: PathBuf) -> Self {
        self.fallback = Some((plugin_type.into(), executable));
        self
    }

    /// The directories in the form of `CNI_PATH`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The path of a plugin's executable: the first regular file of that name that may be executed.
    ///
    /// # Errors
    /// [`PluginError::NotFound`] when there is none.
    ///
    /// # Panics
    /// If another thread has panicked in here.
    pub fn find(&self, plugin_type: &str) -> Result<PathBuf, PluginError> {
        let known = self.found.as_ref().map(|found| found.lock().expect("no holder panics"));
        if let Some(path) = known.as_ref().and_then(|known| known.get(plugin_type)) {
            return Ok(path.clone());
        }
        let found = validate::plugin_type(plugin_type).is_ok().then(|| {
            let candidates = self.directories.iter().map(|dir| dir.join(plugin_type));
            let fallback = self.fallback.iter().filter(|(name, _)| name == plugin_type).map(|(_, path)| path.clone());
            candidates.chain(fallback).find(|path| is_executable(path))
        });
        let path = found.flatten().ok_or_else(|| PluginError::NotFound {
            plugin_type: plugin_type.chars().take(64).collect(),
            searched: self.path.clone(),
        })?;
        if let Some(mut known) = known {
            known.insert(plugin_type.to_owned(), path.clone());
        }
        Ok(path)
    }
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file()) && access(path, AccessFlags::X_OK).is_ok()
}
