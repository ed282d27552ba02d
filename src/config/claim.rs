//! `resourceClaim`, in a selection or an annotation: which device of a pod's resource claims an attachment uses.

use std::fmt;

use super::object::{KeyError, Keys};
use crate::cni::config::RawObject;

/// The longest name of a claim or a request, in characters (a DNS label).
const MAX_LABEL: usize = 63;

/// A request of one of a pod's resource claims, whose device an attachment uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimRequest {
    /// The claim's name in `pod.spec.resourceClaims`.
    pub claim: String,
    /// The request in the claim: `name`, or `name/alternative` for one of a list of alternatives. Without it, any request matches.
    pub request: Option<String>,
}

impl ClaimRequest {
    /// Reads the object `{"claim": …, "request": …}`.
    ///
    /// # Errors
    /// The first key that is wrong, and where.
    pub fn from_object(object: &RawObject, place: &str) -> Result<Self, KeyError> {
        let keys = Keys::new(object, place);
        keys.only(&["claim", "request"])?;
        let Some(claim) = keys.string("claim")? else {
            let expected = "\"claim\", a name of the pod's resourceClaims,".into();
            return Err(KeyError::Missing { place: place.into(), expected });
        };
        if !is_label(&claim) {
            return Err(keys.wrong("claim", "a name of the pod's resourceClaims"));
        }
        let request = keys.string("request")?;
        if request.as_deref().is_some_and(|request| !request.splitn(2, '/').all(is_label)) {
            return Err(keys.wrong("request", "the name of a request in the claim"));
        }
        Ok(Self { claim, request })
    }

    /// Reads the text of an annotation.
    ///
    /// # Errors
    /// When it is not such an object.
    pub fn parse(text: &str, place: &str) -> Result<Self, KeyError> {
        let object = serde_json::from_str(text).map_err(|_| KeyError::Wrong {
            path: place.into(),
            found: format!("{:?}", text.chars().take(64).collect::<String>()),
            expected: r#"a JSON object {"claim": …, "request": …}"#.into(),
        })?;
        Self::from_object(&object, place)
    }
}

impl fmt::Display for ClaimRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "claim {:?}", self.claim)?;
        self.request.as_ref().map_or(Ok(()), |request| write!(f, ", request {request:?}"))
    }
}

/// Whether this is a DNS label, as the names of claims and requests must be.
fn is_label(name: &str) -> bool {
    let is_end = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    name.len() <= MAX_LABEL
        && is_end(name.bytes().next())
        && is_end(name.bytes().last())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_and_perhaps_a_request() {
        let read = |text: &str| ClaimRequest::parse(text, "x").map(|claim| claim.to_string());
        assert_eq!(read(r#"{"claim": "nics"}"#).unwrap(), r#"claim "nics""#);
        assert_eq!(read(r#"{"claim": "nics", "request": "a/fast"}"#).unwrap(), r#"claim "nics", request "a/fast""#);
        for (text, message) in [
            ("nics", "a JSON object"),
            (r#"{"request": "a"}"#, "x: \"claim\""),
            (r#"{"claim": "../nics"}"#, "x.claim"),
            (r#"{"claim": "nics", "request": "a/b/c"}"#, "x.request"),
            (r#"{"claim": "nics", "request": ""}"#, "x.request"),
            (r#"{"claim": "nics", "requst": "a"}"#, "did you mean \"request\""),
            (r#"{"claim": 1}"#, "expected a string"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(message), "{text}: {error}");
        }
    }
}
