//! Replaces sessions if Kubernetes is not built in.

use std::convert::Infallible;
use std::path::Path;
use std::time::{Duration, Instant};

use super::scope::{is_configured, pod_of};
use super::status::{Claimed, Notice};
use crate::config::Config;
use crate::request::Request;
use crate::source::device::HeldDevice;
use crate::source::pod::{Definitions, Pod, PodNow};
use crate::source::{ClusterError, Gathered, SourceError, Surveyed};

/// The session of one call with the API server. It cannot exist in this build.
#[derive(Debug)]
pub struct Session(Infallible);

impl Session {
    /// Refuses to open a session if the configuration asks for one.
    ///
    /// # Errors
    /// [`ClusterError::NotBuiltIn`] if the configuration asks for Kubernetes.
    pub fn open(config: &Config, request: &Request, _deadline: Instant) -> Result<Option<Self>, ClusterError> {
        match pod_of(request) {
            Some(_) if is_configured(config, request) => Err(ClusterError::NotBuiltIn),
            _ => Ok(None),
        }
    }

    /// Never called.
    pub fn gather(&self, _: &Config, _: &Request) -> Result<(Request, Gathered, Pod), SourceError> {
        match self.0 {}
    }

    /// Never called.
    pub fn gather_for_operator(&self, _: &Config, _: &Request, _: &[HeldDevice]) -> Result<Gathered, SourceError> {
        match self.0 {}
    }

    /// Never called.
    pub fn pod_now(&self, _: &Request) -> Result<PodNow, ClusterError> {
        match self.0 {}
    }

    /// Never called.
    pub fn look_up(
        &self,
        _: &Config,
        _: &Pod,
        _: &[usize],
        _: &[HeldDevice],
    ) -> Result<Vec<Result<Gathered, SourceError>>, ClusterError> {
        match self.0 {}
    }

    /// Never called.
    pub fn survey(&self, _: &Config, _: &Request) -> Result<(Request, Surveyed), ClusterError> {
        match self.0 {}
    }

    /// Never called.
    pub fn write_claim_status(&self, _: &Pod, _: &str, _: &[Claimed]) {
        match self.0 {}
    }

    /// Never called.
    pub fn write_status(&self, _: &Pod, _: &str) -> Result<(), ClusterError> {
        match self.0 {}
    }

    /// Never called.
    pub fn edit_status(&self, _: &Request, _: impl FnOnce(&str) -> String) -> Result<Pod, ClusterError> {
        match self.0 {}
    }

    /// Never called.
    pub fn post_events(&self, _: &Pod, _: &[Notice]) {
        match self.0 {}
    }
}

/// Refuses to look at an API server.
///
/// # Errors
/// [`ClusterError::NotBuiltIn`] if the configuration asks for Kubernetes.
pub fn probe(config: &Config, request: &Request, _deadline: Instant) -> Result<Option<Definitions>, ClusterError> {
    if is_configured(config, request) { Err(ClusterError::NotBuiltIn) } else { Ok(None) }
}

/// Refuses to ask for a token.
///
/// # Errors
/// [`ClusterError::NotBuiltIn`], always.
pub fn lasting_token(_: &Path, _: (&str, &str), _: Duration) -> Result<(String, Duration), ClusterError> {
    Err(ClusterError::NotBuiltIn)
}
