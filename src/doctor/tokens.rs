//! Checks of the tokens with which Braid authenticates to the API server.

use std::time::{Duration, SystemTime};

use super::{Finding, Kind, Node};
use crate::source::bearer_token::Token;

/// A token should have been renewed when less than this fraction of its life is left: one divided by this number.
const RENEWAL_FRACTION: u32 = 6;
/// The same for a token that does not say when it was issued: the time that is left.
const RENEWAL_TIME: Duration = Duration::from_secs(24 * 3600);

/// All findings of this family.
pub(super) fn check(node: &Node) -> Vec<Finding> {
    let findings = node.tokens.iter().filter_map(|seen| {
        let meaning = match &seen.token {
            Ok(token) => {
                format!("its token ends in {} min and was not renewed", short_time_left(token, node.now)?.as_secs() / 60)
            }
            Err(error) => format!("Braid has no access to the API server: {error}"),
        };
        let remedy = "if `braid install` wrote it, the logs of its DaemonSet's pod on this node say why it was not renewed; \
            otherwise replace the token";
        Some(Finding::by_hand(Kind::TokenEnding, seen.file.display().to_string(), meaning, remedy))
    });
    findings.collect()
}

/// The time until a token expires, if it should have been renewed by now.
fn short_time_left(token: &Token, now: SystemTime) -> Option<Duration> {
    let expiry = token.expiry()?;
    let left = expiry.duration_since(now).unwrap_or_default();
    let life = token.issued().and_then(|issued| expiry.duration_since(issued).ok());
    let is_short = left < life.map_or(RENEWAL_TIME, |life| life / RENEWAL_FRACTION);
    is_short.then_some(left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use std::time::UNIX_EPOCH;

    fn token(claims: &str) -> Token {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let text = format!("{}.{}.{}", part(r#"{"alg":"none"}"#), part(claims), part("signature"));
        Token::parse(text.as_bytes(), UNIX_EPOCH).unwrap()
    }

    #[test]
    fn a_token_in_the_last_sixth_of_its_life_is_reported() {
        let week = token(r#"{"iat":0,"exp":604800}"#);
        let left = |token: &Token, now| short_time_left(token, UNIX_EPOCH + Duration::from_secs(now));
        assert_eq!(left(&week, 500_000), None);
        assert_eq!(left(&week, 504_800), Some(Duration::from_secs(100_000)));
        let hour = token(r#"{"iat":0,"exp":3600}"#);
        assert_eq!(left(&hour, 2900), None);
        assert_eq!(left(&hour, 3100), Some(Duration::from_secs(500)));
        let silent = token(r#"{"exp":604800}"#);
        assert_eq!(left(&silent, 500_000), None);
        assert_eq!(left(&silent, 600_000), Some(Duration::from_secs(4800)));
        assert_eq!(left(&token("{}"), 1), None);
    }
}
