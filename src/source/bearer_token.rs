//! Tokens of a service account: the checks that need no API server.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

/// A bearer token with valid characters that, according to its own content, has not expired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token(String);

/// Why a text cannot be used as a token. No message contains the text itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// There is nothing.
    #[error("the token is empty")]
    Empty,
    /// It has invalid characters, or is only a part of a token.
    #[error("the token is malformed: {0}")]
    Malformed(&'static str),
    /// It is too old.
    #[error("the token expired {} s ago", .0.as_secs())]
    Expired(Duration),
}

impl Token {
    /// Reads a token. White space around it is not part of it.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn parse(text: &[u8], now: SystemTime) -> Result<Self, TokenError> {
        let text = text.trim_ascii();
        if text.is_empty() {
            return Err(TokenError::Empty);
        }
        // RFC 6750, section 2.1.
        let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(byte);
        if !text.iter().all(is_allowed) {
            return Err(TokenError::Malformed("it holds characters that no bearer token has"));
        }
        let token = Self(text.iter().copied().map(char::from).collect());
        // The beginning of a JSON object in base64: this is a JWT (RFC 7519), or a part of one.
        if token.0.starts_with("eyJ") && (token.0.split('.').count() != 3 || token.claims().is_none()) {
            return Err(TokenError::Malformed("it is only a part of a JSON web token"));
        }
        match token.expiry().map(|expiry| now.duration_since(expiry)) {
            Some(Ok(ago)) => Err(TokenError::Expired(ago)),
            _ => Ok(token),
        }
    }

    /// The text to send.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// The owner of the token, as the token names it: namespace and name of a service account.
    pub fn service_account(&self) -> Option<(String, String)> {
        let claims = self.claims()?;
        let (namespace, name) = claims["sub"].as_str()?.strip_prefix("system:serviceaccount:")?.split_once(':')?;
        Some((namespace.to_owned(), name.to_owned()))
    }

    /// When it expires, if it contains that.
    pub fn expiry(&self) -> Option<SystemTime> {
        self.time("exp")
    }

    /// When it was issued, if it contains that.
    pub fn issued(&self) -> Option<SystemTime> {
        self.time("iat")
    }

    fn time(&self, claim: &str) -> Option<SystemTime> {
        UNIX_EPOCH.checked_add(Duration::from_secs(self.claims()?[claim].as_u64()?))
    }

    fn claims(&self) -> Option<Value> {
        let claims = URL_SAFE_NO_PAD.decode(self.0.split('.').nth(1)?).ok()?;
        serde_json::from_slice(&claims).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jwt(claims: &str) -> String {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.{}", part(r#"{"alg":"none"}"#), part(claims), part("signature"))
    }

    fn parse(text: &str) -> Result<Token, TokenError> {
        Token::parse(text.as_bytes(), UNIX_EPOCH + Duration::from_secs(1000))
    }

    #[test]
    fn only_what_can_be_sent_and_has_not_expired_is_a_token() {
        let good = jwt(r#"{"exp":1001,"sub":"system:serviceaccount:kube-system:braid"}"#);
        let token = parse(&format!("{good}\n")).unwrap();
        assert_eq!(token.text(), good);
        assert_eq!(token.service_account().unwrap(), ("kube-system".to_owned(), "braid".to_owned()));
        assert!(parse("opaque-1").is_ok() && parse(&jwt("{}")).is_ok());
        assert_eq!(parse(" \n").unwrap_err(), TokenError::Empty);
        assert_eq!(parse(&jwt(r#"{"exp":940}"#)).unwrap_err(), TokenError::Expired(Duration::from_secs(60)));
        for text in ["a b", "a\nb", "a\0", "a\u{7f}", "ä", "\"a\"", "<html>"] {
            assert!(matches!(parse(text), Err(TokenError::Malformed(_))), "{text:?}");
        }
        let signature = good.rfind('.').unwrap();
        for end in 3..signature {
            assert!(matches!(parse(&good[..end]), Err(TokenError::Malformed(_))), "{}", &good[..end]);
        }
    }

    #[test]
    fn no_message_holds_the_token() {
        let error = parse("secret text").unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}
