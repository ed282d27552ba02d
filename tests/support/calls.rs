//! What the recording plugin wrote down.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use indexmap::IndexMap;
use serde_json::Value;
use serde_json::value::RawValue;

/// One call of a plugin.
pub(crate) struct Call {
    pub(crate) plugin: String,
    pub(crate) command: String,
    /// The whole environment of the plugin.
    pub(crate) env: BTreeMap<String, String>,
    /// Standard input, byte for byte.
    pub(crate) stdin: Vec<u8>,
    /// The descriptors with which it was started.
    pub(crate) descriptors: Vec<u32>,
}

impl Call {
    /// All calls recorded under a directory, in order, without VERSION.
    pub(crate) fn read_all(dir: &Path) -> Vec<Self> {
        let mut names: Vec<_> =
            fs::read_dir(dir).expect("the folder of calls").map(|entry| entry.expect("an entry").path()).collect();
        names.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
        names.sort();
        let calls = names.iter().map(|path| Self::read(path));
        calls.filter(|call| call.command != "VERSION").collect()
    }

    fn read(path: &Path) -> Self {
        let record: Value = serde_json::from_slice(&fs::read(path).expect("a record")).expect("a record is JSON");
        let text = |key: &str| record[key].as_str().expect("a string").to_owned();
        let hex = text("stdin");
        let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("base 16");
        Self {
            plugin: text("plugin"),
            command: text("command"),
            env: serde_json::from_value(record["env"].clone()).expect("an environment"),
            stdin: (0..hex.len()).step_by(2).map(byte).collect(),
            descriptors: serde_json::from_value(record["descriptors"].clone()).expect("numbers"),
        }
    }

    /// A variable of its environment. Empty if it is not set.
    pub(crate) fn var(&self, name: &str) -> &str {
        self.env.get(name).map_or("", String::as_str)
    }

    /// The configuration it was given.
    pub(crate) fn config(&self) -> Value {
        serde_json::from_slice(&self.stdin).expect("a configuration on standard input")
    }

    /// Its configuration: keys in order, each with its text without white space.
    pub(crate) fn members(&self) -> IndexMap<String, String> {
        members(std::str::from_utf8(&self.stdin).expect("UTF-8"))
    }
}

impl fmt::Display for Call {
    /// `ADD alpha eth0`: the form in which the tests write an order of calls.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.command, self.plugin)?;
        match self.var("CNI_IFNAME") {
            "" => Ok(()),
            ifname => write!(f, " {ifname}"),
        }
    }
}

/// The members of a JSON object, in order, each with its text without white space.
pub(crate) fn members(text: &str) -> IndexMap<String, String> {
    let raw: IndexMap<String, Box<RawValue>> = serde_json::from_str(text).expect("a JSON object");
    raw.into_iter().map(|(key, value)| (key, compact(value.get()))).collect()
}

/// A JSON text without white space between tokens. Numbers keep their spelling.
pub(crate) fn compact(text: &str) -> String {
    let (mut in_string, mut escaped) = (false, false);
    let mut keep = |c: &char| {
        if in_string {
            in_string = escaped || *c != '"';
            escaped = *c == '\\' && !escaped;
            return true;
        }
        in_string = *c == '"';
        !c.is_ascii_whitespace()
    };
    text.chars().filter(|c| keep(c)).collect()
}
