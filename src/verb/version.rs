//! VERSION: which versions of the protocol Braid supports.

use super::error::Error;
use crate::answer;
use crate::cni::Version;
use crate::request::Request;

/// Answers with the supported versions, in the format of the requested version.
pub(super) fn version(request: &Request) -> Result<(), Error> {
    answer::write_versions(&request.stdin, &Version::ALL).map_err(Error::Answer)
}
