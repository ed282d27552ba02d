//! The plugin's side of the protocol: a plugin is an implementation of [`Plugin`] and a `main` of one line.
//!
//! [`run`] does what every plugin has to do (SPEC §2): it reads the call from the environment and standard input, rejects an
//! invalid call, checks the version, calls the operation, and writes one JSON object and a matching exit status. It answers VERSION
//! itself, and it answers a panic as an error.
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use braid_cni::cni::{AddResult, CniError};
//! use braid_cni::plugin::{self, Call, Plugin};
//!
//! /// What this plugin reads of its configuration.
//! #[derive(serde::Deserialize)]
//! struct Config {
//!     mtu: u32,
//! }
//!
//! struct Mtu;
//!
//! impl Plugin for Mtu {
//!     fn add(&self, call: &Call) -> Result<AddResult, CniError> {
//!         let config: Config = call.config()?;
//!         let mut result = call.chained()?.clone();
//!         for interface in result.interfaces.iter_mut().filter(|interface| interface.sandbox == call.netns) {
//!             interface.mtu = config.mtu;
//!         }
//!         Ok(result)
//!     }
//!
//!     fn del(&self, _call: &Call) -> Result<(), CniError> {
//!         Ok(())
//!     }
//! }
//!
//! fn main() -> ExitCode {
//!     plugin::run(&Mtu)
//! }
//! ```

use std::fmt;
use std::io;
use std::process::ExitCode;

use serde::de::DeserializeOwned;

use crate::answer;
use crate::cni::ValidAttachment;
use crate::cni::Verb;
use crate::cni::config::{ConfigError, RawObject, get, parse_object, spoken_version};
use crate::cni::error::code;
use crate::cni::{AddResult, Args, CniError, Version, validate};
use crate::panic::caught;
use crate::request::Request;
use crate::runtime::{self, Exec, Finder, Launcher};

/// The work of a plugin. An error is answered with its code: one of [`code`], or the plugin's own from 100 on.
pub trait Plugin {
    /// The versions that it supports. A call in another version is rejected with code 1. VERSION answers with these.
    fn versions(&self) -> &[Version] {
        &Version::ALL
    }

    /// Makes the interface `call.ifname` in `call.netns`, or changes it, and returns the result. A plugin that was given a previous
    /// result returns that with its changes (SPEC §2, ADD).
    fn add(&self, call: &Call) -> Result<AddResult, CniError>;

    /// Undoes ADD. Anything that is gone already, including the namespace, is not an error (SPEC §2, DEL).
    fn del(&self, call: &Call) -> Result<(), CniError>;

    /// Reports what has changed since ADD, from 0.4.0 on. `call.prev_result` is the final result of ADD.
    fn check(&self, _call: &Call) -> Result<(), CniError> {
        Ok(())
    }

    /// Reports why ADD could not be served, from 1.1.0 on: with [`code::UNAVAILABLE`] or [`code::LIMITED`].
    fn status(&self, _call: &Call) -> Result<(), CniError> {
        Ok(())
    }

    /// Cleans up attachments that are not in `call.valid_attachments`, from 1.1.0 on.
    fn gc(&self, _call: &Call) -> Result<(), CniError> {
        Ok(())
    }
}

/// One validated call of a plugin: names are valid, and the operation's required parameters exist.
#[derive(Debug, Clone)]
pub struct Call {
    /// The operation.
    pub verb: Verb,
    /// The container's ID. Empty for STATUS and GC.
    pub container_id: String,
    /// The path of the container's network namespace. Empty for STATUS and GC, and for DEL if the namespace is gone.
    pub netns: String,
    /// The interface's name in the namespace. Empty for STATUS and GC.
    pub ifname: String,
    /// `CNI_ARGS`.
    pub args: Args,
    /// `CNI_PATH`: where to look up a plugin to which this one delegates.
    pub path: String,
    /// The network's name.
    pub network: String,
    /// The version of the call and of its answer.
    pub version: Version,
    /// The result of the plugin before this one, or of the whole chain on CHECK and DEL.
    pub prev_result: Option<AddResult>,
    /// GC: the valid attachments. `None` if the runtime gave no list; then no attachment is known to be stale.
    pub valid_attachments: Option<Vec<ValidAttachment>>,
    /// The whole configuration, in its original text.
    pub object: RawObject,
    request: Request,
}

impl Call {
    fn new(request: &Request, spoken: &[Version]) -> Result<Self, CniError> {
        let wrong = |error: &ConfigError| CniError::from(error);
        let object = parse_object(&request.stdin).map_err(|error| wrong(&error))?;
        let version = spoken_version(&object).map_err(|error| wrong(&error))?;
        let exists = match request.verb {
            Verb::Check => version.has_check(),
            Verb::Status | Verb::Gc => version.has_status_and_gc(),
            Verb::Add | Verb::Del | Verb::Version => true,
        };
        if !exists {
            let message = format!("{} does not exist in CNI {version}", request.verb);
            return Err(CniError::new(code::INCOMPATIBLE_VERSION, message));
        }
        if !spoken.contains(&version) {
            let known: Vec<_> = spoken.iter().map(ToString::to_string).collect();
            return Err(CniError::new(code::INCOMPATIBLE_VERSION, format!("CNI {version} is not supported"))
                .with_details(format!("the supported versions are {}", known.join(", "))));
        }
        let network: String =
            get(&object, "name", "the network's name, a string").map_err(|error| wrong(&error))?.unwrap_or_default();
        validate::network_name(&network)
            .map_err(|error| CniError::new(code::INVALID_CONFIG, format!("\"name\": {error}")))?;
        let prev_result = match object.get("prevResult").filter(|raw| raw.get() != "null") {
            None => None,
            Some(raw) => Some(
                AddResult::parse(raw.get().as_bytes(), version)
                    .map_err(|error| CniError::new(code::DECODE, format!("\"prevResult\": {error}")))?,
            ),
        };
        let valid_attachments = ValidAttachment::in_config(&object).map_err(|error| wrong(&error))?;
        Ok(Self {
            verb: request.verb,
            container_id: request.container_id.clone(),
            netns: request.netns.clone(),
            ifname: request.ifname.clone(),
            args: request.args.clone(),
            path: request.cni_path.clone(),
            network,
            version,
            prev_result,
            valid_attachments,
            object,
            request: request.clone(),
        })
    }

    /// The configuration, parsed into the plugin's own type.
    ///
    /// # Errors
    /// Code 7 when it does not fit.
    pub fn config<T: DeserializeOwned>(&self) -> Result<T, CniError> {
        serde_json::from_slice(&self.request.stdin)
            .map_err(|error| CniError::new(code::INVALID_CONFIG, format!("the configuration cannot be used: {error}")))
    }

    /// The result of the previous plugin, which a chained plugin needs.
    ///
    /// # Errors
    /// Code 7 when this plugin is the first of its chain.
    pub fn chained(&self) -> Result<&AddResult, CniError> {
        let message = "there is no \"prevResult\": this plugin has to come after another one in its network";
        self.prev_result.as_ref().ok_or_else(|| CniError::new(code::INVALID_CONFIG, message))
    }

    /// Runs another plugin, such as an IPAM plugin, with the same call (SPEC §4). Returns its result on ADD.
    ///
    /// # Errors
    /// The other plugin's. When it fails on ADD, or this plugin does later, it is for the caller to run
    /// [`Self::delegate_del`].
    pub fn delegate(&self, plugin_type: &str) -> Result<Option<AddResult>, CniError> {
        self.run_other(plugin_type, self.verb)
    }

    /// Runs DEL of another plugin, whatever this call's own operation is.
    ///
    /// # Errors
    /// The other plugin's.
    pub fn delegate_del(&self, plugin_type: &str) -> Result<(), CniError> {
        self.run_other(plugin_type, Verb::Del).map(drop)
    }

    fn run_other(&self, plugin_type: &str, verb: Verb) -> Result<Option<AddResult>, CniError> {
        let failed = |error: &dyn fmt::Display| format!("plugin {plugin_type:?}: {error}");
        let outcome = Finder::new(&self.path).find(plugin_type).and_then(|executable| {
            let environment: Vec<(&'static str, &str)> = [
                ("CNI_CONTAINERID", &self.container_id),
                ("CNI_NETNS", &self.netns),
                ("CNI_IFNAME", &self.ifname),
                ("CNI_ARGS", &self.request.args_text),
                ("CNI_PATH", &self.path),
            ]
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| (name, value.as_str()))
            .collect();
            let stdin = &self.request.stdin;
            let call = runtime::Call {
                executable: &executable,
                verb,
                step: 0,
                environment: &environment,
                stdin,
                deadline: None,
                after: None,
            };
            let stdout = Launcher::new().run(&call)?;
            match CniError::parse(&stdout) {
                Some(error) => Err(runtime::PluginError::Reported(error)),
                None => Ok(stdout),
            }
        });
        let stdout = outcome.map_err(|error| {
            let own = CniError::from(&error);
            CniError { msg: failed(&own.msg), ..own }
        })?;
        if verb != Verb::Add {
            return Ok(None);
        }
        let result = AddResult::parse(&stdout, self.version);
        result.map(Some).map_err(|error| CniError::new(code::DECODE, failed(&error)))
    }
}

/// What a call is answered with.
#[derive(Debug)]
enum Answer {
    Result(AddResult),
    Nothing,
}

/// Runs a plugin on the call in the environment and standard input. This is everything that its `main` needs.
pub fn run(plugin: &impl Plugin) -> ExitCode {
    let request = match Request::read() {
        Ok(Some(request)) => request,
        Ok(None) => {
            let message = "CNI_COMMAND must be set: this is a CNI plugin, for a container runtime to call";
            return fail(&CniError::new(code::INVALID_ENVIRONMENT, message), Version::LATEST);
        }
        Err(error) => return fail(&CniError::from(&error), Version::LATEST),
    };
    if request.verb == Verb::Version {
        return exit_code(&answer::write_versions(&request.stdin, plugin.versions()));
    }
    let version = request.version();
    match caught(|| act(plugin, &request)).unwrap_or_else(|panicked| Err(CniError::from(&panicked))) {
        Ok(Answer::Result(result)) => exit_code(&answer::write(&result.to_raw(version))),
        Ok(Answer::Nothing) => ExitCode::SUCCESS,
        Err(error) => fail(&error, version),
    }
}

fn act(plugin: &impl Plugin, request: &Request) -> Result<Answer, CniError> {
    let call = Call::new(request, plugin.versions())?;
    let done = match request.verb {
        Verb::Add => return plugin.add(&call).map(Answer::Result),
        Verb::Del => plugin.del(&call),
        Verb::Check => plugin.check(&call),
        Verb::Status => plugin.status(&call),
        Verb::Gc => plugin.gc(&call),
        Verb::Version => Ok(()),
    };
    done.map(|()| Answer::Nothing)
}

fn fail(error: &CniError, version: Version) -> ExitCode {
    // If standard output cannot be written, only the exit status reports the error.
    drop(answer::write_cni_error(error, version));
    ExitCode::FAILURE
}

fn exit_code(written: &io::Result<()>) -> ExitCode {
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo;

    impl Plugin for Echo {
        fn versions(&self) -> &[Version] {
            &[Version::V0_4_0, Version::V1_1_0]
        }

        fn add(&self, call: &Call) -> Result<AddResult, CniError> {
            call.chained().cloned()
        }

        fn del(&self, _call: &Call) -> Result<(), CniError> {
            Err(CniError::new(142, "no"))
        }
    }

    fn request(verb: Verb, stdin: &str) -> Request {
        Request {
            verb,
            container_id: "c".into(),
            netns: "/ns".into(),
            own_netns_allowed: false,
            ifname: "eth0".into(),
            args: Args::default(),
            args_text: String::new(),
            cni_path: String::new(),
            in_cluster: false,
            traceparent: None,
            stdin: stdin.into(),
        }
    }

    fn refused(verb: Verb, stdin: &str) -> (u32, String) {
        let error = act(&Echo, &request(verb, stdin)).unwrap_err();
        (error.code, error.to_string())
    }

    #[test]
    fn the_previous_result_is_handed_on() {
        let stdin = r#"{"cniVersion":"0.4.0","name":"n","type":"x",
            "prevResult":{"ips":[{"version":"4","address":"10.0.0.2/24"}]}}"#;
        let Ok(Answer::Result(result)) = act(&Echo, &request(Verb::Add, stdin)) else { panic!("no result") };
        assert_eq!(result.ips[0].address.to_string(), "10.0.0.2/24");
    }

    #[test]
    fn what_is_wrong_has_the_code_of_the_specification() {
        for (verb, stdin, code, message) in [
            (Verb::Add, "{", 6, "JSON"),
            (Verb::Add, r#"{"cniVersion":"1.0.0","name":"n"}"#, 1, "1.0.0 is not supported: the supported versions"),
            (Verb::Add, r#"{"cniVersion":"7.0.0","name":"n"}"#, 1, "7.0.0"),
            (Verb::Add, r#"{"name":"n"}"#, 1, "0.1.0"),
            (Verb::Check, r#"{"cniVersion":"0.3.1","name":"n"}"#, 1, "CHECK does not exist in CNI 0.3.1"),
            (Verb::Gc, r#"{"cniVersion":"1.0.0","name":"n"}"#, 1, "GC does not exist"),
            (Verb::Status, r#"{"cniVersion":"1.0.0","name":"n"}"#, 1, "STATUS does not exist"),
            (Verb::Add, r#"{"cniVersion":"1.1.0"}"#, 7, "\"name\""),
            (Verb::Add, r#"{"cniVersion":"1.1.0","name":"a/b"}"#, 7, "\"name\""),
            (Verb::Add, r#"{"cniVersion":"1.1.0","name":"n","prevResult":{"ips":[{}]}}"#, 6, "prevResult"),
            (Verb::Add, r#"{"cniVersion":"1.1.0","name":"n"}"#, 7, "has to come after another one"),
            (Verb::Del, r#"{"cniVersion":"1.1.0","name":"n"}"#, 142, "no"),
        ] {
            let (found, text) = refused(verb, stdin);
            assert_eq!(found, code, "{stdin}: {text}");
            assert!(text.contains(message), "{stdin}: {text}");
        }
    }

    #[test]
    fn what_the_runtime_still_has_is_read_by_either_key() {
        for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
            let stdin = format!(r#"{{"cniVersion":"1.1.0","name":"n","{key}":[{{"containerID":"c","ifname":"i"}}]}}"#);
            let call = Call::new(&request(Verb::Gc, &stdin), &Version::ALL).unwrap();
            assert_eq!(call.valid_attachments.unwrap()[0].ifname, "i");
        }
        let call = Call::new(&request(Verb::Gc, r#"{"cniVersion":"1.1.0","name":"n"}"#), &Version::ALL).unwrap();
        assert!(call.valid_attachments.is_none());
    }
}
