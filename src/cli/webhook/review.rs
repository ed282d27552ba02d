//! The messages between an API server and a webhook: the `AdmissionReview` of `admission.k8s.io/v1`.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::table::cell;

/// The one version that there is.
const API_VERSION: &str = "admission.k8s.io/v1";
/// The limit on the errors or warnings in an answer.
const LINES: usize = 16;
/// The limit on their length, in characters: one may repeat the content of an annotation.
const LINE: usize = 1024;

/// The object to check.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Request {
    /// The ID of the request, which the answer repeats.
    pub(super) uid: String,
    /// What is about to happen.
    #[serde(default)]
    pub(super) operation: String,
    /// The namespace of the object.
    #[serde(default)]
    pub(super) namespace: String,
    /// The part of the object that is about to change, such as `status`, if it is only a part.
    #[serde(default)]
    pub(super) sub_resource: String,
    /// The object as it is to become.
    #[serde(default)]
    pub(super) object: Value,
    /// The object as it is.
    #[serde(default)]
    pub(super) old_object: Value,
}

/// Whether an object is admitted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Why it is refused, if it is.
    pub(super) refusal: Option<Refusal>,
    /// What the client gets to see in any case.
    pub(super) warnings: Vec<String>,
}

/// Why an object is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is wrong.
    Wrong(Vec<String>),
    /// It cannot be checked.
    Unknown(Vec<String>),
}

impl Request {
    /// Reads a review.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let review: Review =
            serde_json::from_slice(bytes).map_err(|error| format!("the body is not an AdmissionReview: {error}"))?;
        if review.api_version != API_VERSION || review.kind != "AdmissionReview" {
            let (kind, version) = (cut(&review.kind), cut(&review.api_version));
            return Err(format!("the body is {kind:?} of {version:?}, expected an AdmissionReview of {API_VERSION:?}"));
        }
        review.request.ok_or_else(|| "the AdmissionReview has no \"request\"".into())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    request: Option<Request>,
}

impl Verdict {
    /// The answer to a request.
    pub(super) fn answer(&self, uid: &str) -> Vec<u8> {
        let mut response = json!({"uid": uid, "allowed": self.refusal.is_none()});
        if let Some(refusal) = &self.refusal {
            let (code, reason) = match refusal {
                Refusal::Wrong(_) => (403, "Forbidden"),
                Refusal::Unknown(_) => (500, "InternalError"),
            };
            let message = refusal.message();
            response["status"] = json!({"status": "Failure", "code": code, "reason": reason, "message": message});
        }
        if !self.warnings.is_empty() {
            response["warnings"] = lines(&self.warnings).into();
        }
        let review = json!({"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response});
        review.to_string().into_bytes()
    }
}

impl Refusal {
    /// What the client gets to see.
    pub(super) fn message(&self) -> String {
        match self {
            Self::Wrong(reasons) => lines(reasons).join("; "),
            Self::Unknown(reasons) => format!("it cannot be checked: {}", lines(reasons).join("; ")),
        }
    }
}

/// At most as many lines as an answer can have, each cut to its limit.
fn lines(all: &[String]) -> Vec<String> {
    let mut lines: Vec<String> = all.iter().take(LINES).map(|line| cell(&cut(line))).collect();
    if all.len() > LINES {
        lines.push(format!("and {} more", all.len() - LINES));
    }
    lines
}

fn cut(line: &str) -> String {
    match line.char_indices().nth(LINE) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_bounded_and_cannot_change_a_terminal() {
        let reasons = vec!["\u{1b}[2J".to_owned() + &"ä".repeat(5000); 100];
        let verdict = Verdict { refusal: Some(Refusal::Wrong(reasons.clone())), warnings: reasons };
        let answer = verdict.answer("u");
        assert!(answer.len() < 80_000, "{}", answer.len());
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        let message = answer["response"]["status"]["message"].as_str().unwrap();
        assert!(message.starts_with("\u{fffd}[2J") && message.ends_with("; and 84 more"), "{message}");
        assert_eq!(answer["response"]["warnings"].as_array().unwrap().len(), 17);
    }

    #[test]
    fn only_a_review_of_the_known_version_is_read() {
        for (text, part) in [
            ("", "not an AdmissionReview"),
            ("[]", "not an AdmissionReview"),
            ("{}", "expected an AdmissionReview"),
            (r#"{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview","request":{"uid":"u"}}"#, "v1beta1"),
            (r#"{"apiVersion":"admission.k8s.io/v1","kind":"Pod","request":{"uid":"u"}}"#, "Pod"),
            (r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}"#, "no \"request\""),
            (r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{}}"#, "uid"),
        ] {
            let error = Request::parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
