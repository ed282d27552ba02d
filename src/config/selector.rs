//! `when`: which pods a selection applies to.

use globset::Glob;
use indexmap::IndexMap;
use regex_lite::{Regex, RegexBuilder};

use super::object::{KeyError, Keys};
use crate::cni::Args;
use crate::cni::config::RawObject;

/// The keys of a selector.
pub(super) const KEYS: [&str; 3] = ["namespace", "pod", "args"];

/// Globs, at least one of which must match. A match of a glob that starts with `!` excludes the value. If there are only `!` globs,
/// every other value matches.
#[derive(Debug, Clone)]
pub struct Globs {
    include: Vec<Matcher>,
    exclude: Vec<Matcher>,
    text: Vec<String>,
}

impl Globs {
    /// Compiles globs.
    ///
    /// # Errors
    /// The glob that does not compile, and why.
    pub fn new(globs: Vec<String>) -> Result<Self, String> {
        let compile =
            |glob: &str| Matcher::new(glob).map_err(|reason| format!("{glob:?}, which is no glob ({reason})"));
        let mut compiled = Self { include: Vec::new(), exclude: Vec::new(), text: Vec::new() };
        if globs.is_empty() {
            return Err("an empty list, which nothing could match".into());
        }
        for glob in &globs {
            match glob.strip_prefix('!') {
                Some(glob) => compiled.exclude.push(compile(glob)?),
                None => compiled.include.push(compile(glob)?),
            }
        }
        compiled.text = globs;
        Ok(compiled)
    }

    /// Whether a value matches. A missing value is neither matched nor excluded.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let any = |globs: &[Matcher]| value.is_some_and(|value| globs.iter().any(|glob| glob.matches(value)));
        (self.include.is_empty() || any(&self.include)) && !any(&self.exclude)
    }

    /// The globs as written.
    pub fn text(&self) -> String {
        self.text.join(", ")
    }
}

/// One glob.
///
/// globset's own matcher is made for thousands of globs at once, and would be a tenth of the executable.
#[derive(Debug, Clone)]
struct Matcher(Regex);

impl Matcher {
    fn new(glob: &str) -> Result<Self, String> {
        let glob = Glob::new(glob).map_err(|error| error.kind().to_string())?;
        // globset's regular expressions match bytes, which this prefix says.
        let expression = glob.regex().trim_start_matches("(?-u)");
        let regex = RegexBuilder::new(expression).dot_matches_new_line(true).build();
        regex.map(Self).map_err(|error| error.to_string())
    }

    fn matches(&self, value: &str) -> bool {
        // The regular expressions here match characters, so each byte is converted to the character of the same number.
        let bytes: String = value.bytes().map(char::from).collect();
        self.0.is_match(&bytes)
    }
}

/// The conditions for a selection to apply to a call. All must be true.
#[derive(Debug, Clone, Default)]
pub struct Selector {
    namespace: Option<Globs>,
    pod: Option<Globs>,
    args: IndexMap<String, Globs>,
}

/// The outcome of a selector, in words.
pub type Reason = Result<String, String>;

impl Selector {
    /// Reads a `when` object. `place` is its place, for errors.
    ///
    /// # Errors
    /// When a key is unknown, or not a glob or a list of globs.
    pub fn from_object(object: &RawObject, place: &str) -> Result<Self, KeyError> {
        let keys = Keys::new(object, place);
        keys.only(&KEYS)?;
        let mut selector = Self { namespace: keys.globs("namespace")?, pod: keys.globs("pod")?, args: IndexMap::new() };
        if let Some(args) = keys.object("args")? {
            let place = keys.path("args");
            let args_keys = Keys::new(&args, &place);
            for key in args.keys() {
                if let Some(globs) = args_keys.globs(key)? {
                    selector.args.insert(key.clone(), globs);
                }
            }
        }
        Ok(selector)
    }

    /// Whether the selection applies to a call with these arguments, and why.
    ///
    /// # Errors
    /// The reason why it does not.
    pub fn evaluate(&self, args: &Args) -> Reason {
        let checks = [("namespace", "K8S_POD_NAMESPACE", &self.namespace), ("pod", "K8S_POD_NAME", &self.pod)]
            .into_iter()
            .filter_map(|(what, key, globs)| globs.as_ref().map(|globs| (what.to_owned(), key, globs)))
            .chain(self.args.iter().map(|(key, globs)| (format!("args.{key}"), key.as_str(), globs)));
        let mut matched = Vec::new();
        for (what, key, globs) in checks {
            let value = args.get(key);
            let shown = value.map_or_else(|| format!("{key} is not set"), |value| format!("{key}={value}"));
            if !globs.matches(value) {
                return Err(format!("when.{what} [{}] does not match: {shown}", globs.text()));
            }
            matched.push(format!("when.{what} [{}] matches: {shown}", globs.text()));
        }
        Ok(if matched.is_empty() { "always".into() } else { matched.join("; ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::config::parse_object;

    fn applies(when: &str, args: &str) -> bool {
        let object = parse_object(when.as_bytes()).unwrap();
        Selector::from_object(&object, "when").unwrap().evaluate(&args.parse().unwrap()).is_ok()
    }

    #[test]
    fn all_must_match_and_an_exclamation_mark_excludes() {
        let prod = "K8S_POD_NAMESPACE=prod-eu;K8S_POD_NAME=web-1;NOMAD_JOB=a";
        assert!(applies(r#"{"namespace": ["prod-*"]}"#, prod));
        assert!(applies(r#"{"namespace": "prod-*", "pod": ["web-*"], "args": {"NOMAD_JOB": ["a", "b"]}}"#, prod));
        assert!(!applies(r#"{"namespace": ["prod-*", "!*-eu"]}"#, prod));
        assert!(!applies(r#"{"namespace": ["prod-*"], "pod": ["db-*"]}"#, prod));
        assert!(!applies(r#"{"args": {"OTHER": ["*"]}}"#, prod));
        assert!(applies(r#"{"namespace": ["!kube-system"]}"#, prod));
        assert!(applies(r#"{"namespace": ["!kube-system"]}"#, ""));
        assert!(!applies(r#"{"namespace": ["*"]}"#, ""));
    }

    proptest::proptest! {
        #[test]
        fn globs_match_what_globset_says(
            glob in r"([a-c/.é*?\-]|\*\*|\[[!a-cé-]{1,3}\]|\{[a-c*,]{1,3}\}|\\[a-c*]){0,6}",
            value in r"[a-c/.é*\-\n]{0,6}",
        ) {
            match (Glob::new(&glob), Matcher::new(&glob)) {
                (Ok(theirs), Ok(ours)) => proptest::prop_assert_eq!(
                    ours.matches(&value),
                    theirs.compile_matcher().is_match(&value)
                ),
                (theirs, ours) => proptest::prop_assert!(theirs.is_err() && ours.is_err(), "{theirs:?} {ours:?}"),
            }
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (when, message) in [
            (r#"{"namespaces": ["a"]}"#, "\"namespace\""),
            (r#"{"namespace": []}"#, "empty list"),
            (r#"{"namespace": ["[a"]}"#, "when.namespace"),
            (r#"{"args": {"K": 1}}"#, "when.args.K"),
        ] {
            let object = parse_object(when.as_bytes()).unwrap();
            let error = Selector::from_object(&object, "when").unwrap_err().to_string();
            assert!(error.contains(message), "{when}: {error}");
        }
    }
}
