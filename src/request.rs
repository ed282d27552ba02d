//! The runtime's request. This is the only reader of the environment and of standard input.

use std::io::{self, Read};
use std::path::PathBuf;

use crate::cni::args::ArgsError;
use crate::cni::config::{parse_object, spoken_version};
use crate::cni::error::code;
use crate::cni::validate::{self, InvalidName};
use crate::cni::{Args, CniError, Verb, Version};

/// The largest configuration accepted on standard input, in bytes.
pub const MAX_STDIN: u64 = 16 << 20;

/// Set in the environment of every plugin that Braid runs. A Braid that is called by one of its own delegates notices it, and
/// refuses.
pub const GUARD: &str = "BRAID_GUARD";

/// One call of the plugin (SPEC §2, "Parameters"). Only [`Request::read`] makes it, so its contents are valid.
#[derive(Debug, Clone)]
pub struct Request {
    /// The operation.
    pub verb: Verb,
    /// `CNI_CONTAINERID`. Empty for operations without a container.
    pub container_id: String,
    /// `CNI_NETNS`. Empty if the runtime gives none.
    pub netns: String,
    /// `CNI_NETNS_OVERRIDE`: whether `CNI_NETNS` may be the namespace of this process.
    pub own_netns_allowed: bool,
    /// `CNI_IFNAME`. Empty for operations without an interface.
    pub ifname: String,
    /// `CNI_ARGS`, read.
    pub args: Args,
    /// `CNI_ARGS`, as it came.
    pub args_text: String,
    /// `CNI_PATH`.
    pub cni_path: String,
    /// `TRACEPARENT`: the trace of the caller.
    pub traceparent: Option<String>,
    /// Whether the environment names a Kubernetes API server, because this process runs in a cluster.
    pub in_cluster: bool,
    /// Standard input.
    pub stdin: Vec<u8>,
}

/// A call that cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Variables are missing.
    #[error("{} must be set for {verb}", names.join(", "))]
    Missing {
        /// The operation.
        verb: Verb,
        /// All that are missing.
        names: Vec<&'static str>,
    },
    /// A variable is not text.
    #[error("{name} is not valid UTF-8")]
    NotText {
        /// The variable.
        name: &'static str,
    },
    /// `CNI_COMMAND` is no operation.
    #[error("CNI_COMMAND is {found:?}, expected ADD, DEL, CHECK, STATUS, GC or VERSION")]
    Command {
        /// What it is, shortened.
        found: String,
    },
    /// A variable breaks the rules for names.
    #[error("{name}: {source}")]
    Name {
        /// The variable.
        name: &'static str,
        /// The rule.
        source: InvalidName,
    },
    /// `CNI_ARGS` cannot be read.
    #[error(transparent)]
    Args(#[from] ArgsError),
    /// Braid was reached through one of its own delegates.
    #[error(
        "braid was called by one of its own delegates (on behalf of {on_behalf_of}); a delegate must not lead back to braid"
    )]
    Recursion {
        /// The container and interface of the outer call.
        on_behalf_of: String,
    },
    /// Standard input could not be read.
    #[error("standard input cannot be read: {0}")]
    Stdin(#[source] io::Error),
    /// Standard input holds nothing.
    #[error("standard input is empty, expected a network configuration")]
    Empty,
    /// Standard input holds too much.
    #[error("the network configuration is larger than {} MiB", MAX_STDIN >> 20)]
    TooLarge,
}

impl From<&RequestError> for CniError {
    /// The CNI error for an invalid call.
    fn from(error: &RequestError) -> Self {
        let code = match error {
            RequestError::Missing { .. }
            | RequestError::NotText { .. }
            | RequestError::Command { .. }
            | RequestError::Name { .. }
            | RequestError::Args(_) => code::INVALID_ENVIRONMENT,
            RequestError::Recursion { .. } | RequestError::TooLarge => code::INVALID_CONFIG,
            RequestError::Stdin(_) => code::IO,
            RequestError::Empty => code::DECODE,
        };
        Self::new(code, error.to_string())
    }
}

/// The value of an environment variable. All reads of the environment use this function.
#[expect(clippy::disallowed_methods, reason = "this module is the one reader of the environment")]
pub fn variable(name: &'static str) -> Result<Option<String>, RequestError> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(value)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(RequestError::NotText { name }),
    }
}

/// The path of this executable.
///
/// # Errors
/// When the kernel does not say.
#[expect(clippy::disallowed_methods, reason = "this module is the one reader of what this process was started with")]
pub fn own_executable() -> io::Result<PathBuf> {
    std::env::current_exe()
}

impl Request {
    /// An ADD of no particular container, for planning.
    pub fn of_no_container(args: Args) -> Self {
        Self {
            verb: Verb::Add,
            container_id: "container".into(),
            netns: String::new(),
            own_netns_allowed: false,
            ifname: "eth0".into(),
            args_text: args.to_string(),
            args,
            cni_path: String::new(),
            in_cluster: false,
            traceparent: None,
            stdin: Vec::new(),
        }
    }

    /// Reads the call, if this is one: without `CNI_COMMAND`, the program is a command line.
    ///
    /// # Errors
    /// When a variable or standard input is not as the specification says.
    pub fn read() -> Result<Option<Self>, RequestError> {
        let Some(command) = variable("CNI_COMMAND")? else { return Ok(None) };
        let verb = match command.as_str() {
            "ADD" => Verb::Add,
            "DEL" => Verb::Del,
            "CHECK" => Verb::Check,
            "STATUS" => Verb::Status,
            "GC" => Verb::Gc,
            "VERSION" => Verb::Version,
            _ => return Err(RequestError::Command { found: command.chars().take(64).collect() }),
        };
        let text = |name| variable(name).map(Option::unwrap_or_default);
        // Other operations do not have these parameters (SPEC §2), so errors in reading their variables are ignored.
        let is_of_attachment = verb.is_of_attachment();
        let of_attachment = |name| if is_of_attachment { text(name) } else { Ok(text(name).unwrap_or_default()) };
        let of_network = |name| if verb == Verb::Version { Ok(String::new()) } else { text(name) };
        let args_text = of_attachment("CNI_ARGS")?;
        let args = match args_text.parse::<Args>() {
            Err(error) if is_of_attachment => return Err(error.into()),
            args => args.unwrap_or_default(),
        };
        let netns_override = of_attachment("CNI_NETNS_OVERRIDE")?.to_ascii_uppercase();
        let mut request = Self {
            verb,
            container_id: of_attachment("CNI_CONTAINERID")?,
            netns: of_attachment("CNI_NETNS")?,
            own_netns_allowed: matches!(netns_override.as_str(), "TRUE" | "1"),
            ifname: of_attachment("CNI_IFNAME")?,
            args,
            args_text,
            cni_path: of_network("CNI_PATH")?,
            in_cluster: !of_network("KUBERNETES_SERVICE_HOST")?.is_empty()
                && !of_network("KUBERNETES_SERVICE_PORT")?.is_empty(),
            // One that is not UTF-8 counts as missing.
            traceparent: variable("TRACEPARENT").unwrap_or_default(),
            stdin: Vec::new(),
        };
        request.check_names()?;
        request.stdin = read_stdin()?;
        // A DEL by one of Braid's own delegates is answered without doing anything: see `verb::run`.
        let needs_none = verb == Verb::Version || verb == Verb::Del && request.refuse_recursion().is_err();
        if request.stdin.trim_ascii().is_empty() && !needs_none {
            return Err(RequestError::Empty);
        }
        Ok(Some(request))
    }

    /// Refuses a call by one of Braid's own delegates. Braid itself may call any other plugin.
    ///
    /// # Errors
    /// [`RequestError::Recursion`].
    pub fn refuse_recursion(&self) -> Result<(), RequestError> {
        match variable(GUARD)? {
            Some(on_behalf_of) if self.verb != Verb::Version => {
                Err(RequestError::Recursion { on_behalf_of: on_behalf_of.chars().take(256).collect() })
            }
            _ => Ok(()),
        }
    }

    fn check_names(&self) -> Result<(), RequestError> {
        let required: &[(&'static str, &str)] = match self.verb {
            Verb::Add | Verb::Check => {
                &[("CNI_CONTAINERID", &self.container_id), ("CNI_NETNS", &self.netns), ("CNI_IFNAME", &self.ifname)]
            }
            Verb::Del => &[("CNI_CONTAINERID", &self.container_id), ("CNI_IFNAME", &self.ifname)],
            Verb::Status | Verb::Gc | Verb::Version => return Ok(()),
        };
        let names: Vec<_> = required.iter().filter(|(_, value)| value.is_empty()).map(|(name, _)| *name).collect();
        if !names.is_empty() {
            return Err(RequestError::Missing { verb: self.verb, names });
        }
        validate::container_id(&self.container_id)
            .map_err(|source| RequestError::Name { name: "CNI_CONTAINERID", source })?;
        validate::interface_name(&self.ifname).map_err(|source| RequestError::Name { name: "CNI_IFNAME", source })
    }

    /// The version for an error's answer: the configuration's, if it can be read.
    pub fn version(&self) -> Version {
        parse_object(&self.stdin).and_then(|object| spoken_version(&object)).unwrap_or(Version::LATEST)
    }

    /// The same call with other arguments.
    #[must_use]
    pub fn with_args(&self, args: Args) -> Self {
        Self { args_text: args.to_string(), args, ..self.clone() }
    }

    /// The value of a key of `CNI_ARGS`.
    pub fn arg(&self, key: &str) -> Option<&str> {
        self.args.get(key)
    }
}

fn read_stdin() -> Result<Vec<u8>, RequestError> {
    let mut bytes = Vec::with_capacity(8 << 10);
    match io::stdin().lock().take(MAX_STDIN + 1).read_to_end(&mut bytes) {
        Ok(read) if read as u64 > MAX_STDIN => Err(RequestError::TooLarge),
        Ok(_) => Ok(bytes),
        Err(error) => Err(RequestError::Stdin(error)),
    }
}
