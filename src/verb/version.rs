//! VERSION: which versions of the protocol are spoken here?

use super::error::Error;
use crate::answer;
use crate::cni::Version;
use crate::request::Request;

/// Answers with the versions, in the version that was asked in.
pub(super) fn version(request: &Request) -> Result<(), Error> {
    answer::write_versions(&request.stdin, &Version::ALL).map_err(Error::Answer)
}
