//! Braid attaches a container to several networks in one transaction, or leaves nothing behind.
//!
//! The `braid` program is a [CNI](https://www.cni.dev) meta-plugin, and this library contains its code. Two parts of it can be used
//! alone: [`runtime`] is what a container runtime needs to run network configurations, like libcni in Go, and [`plugin`] is what a
//! CNI plugin needs besides its own work.
//!
//! # Being a runtime
//!
//! Read a configuration, attach a container, and detach it again. The results that CHECK and DEL need are kept where libcni keeps
//! them, in its format.
//!
//! ```no_run
//! use std::path::Path;
//! use braid_cni::runtime::{Attachment, Networks, load};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let networks = Networks::new("/opt/cni/bin");
//! let network = load::by_name(Path::new("/etc/cni/net.d"), "mynet")?.loaded.ok_or("no such network")?.network;
//! let eth0 = Attachment::new("container-1", "/run/netns/container-1", "eth0");
//! let result = networks.add(&network, &eth0)?;
//! for ip in &result.parsed.ips {
//!     eprintln!("{}", ip.address);
//! }
//! networks.check(&network, &eth0)?;
//! networks.del(&network, &eth0)?;
//! # Ok(())
//! # }
//! ```
//!
//! Plugins are run through a trait, so everything can be tried without any plugin:
//!
//! ```
//! use braid_cni::cni::NetworkConfig;
//! use braid_cni::runtime::exec::Stdout;
//! use braid_cni::runtime::{Attachment, Call, Exec, Finder, Networks, PluginError};
//!
//! /// Every plugin answers with one address.
//! struct OneAddress;
//!
//! impl Exec for OneAddress {
//!     fn run(&self, _call: &Call<'_>) -> Result<Stdout, PluginError> {
//!         Ok(br#"{"cniVersion":"1.0.0","ips":[{"address":"10.1.0.5/16"}]}"#.to_vec())
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let cache = tempfile::tempdir()?;
//! let network: NetworkConfig = r#"{"cniVersion":"1.0.0","name":"mynet","plugins":[{"type":"true"}]}"#.parse()?;
//! let networks = Networks::new("/bin").with_exec(OneAddress).with_cache_dir(cache.path());
//! let result = networks.add(&network, &Attachment::new("container-1", "/run/netns/container-1", "eth0"))?;
//! assert_eq!(result.parsed.ips[0].address.to_string(), "10.1.0.5/16");
//! # Ok(())
//! # }
//! ```
//!
//! # Speaking every version
//!
//! Results can be read and written in the format of every version of the specification:
//!
//! ```
//! use braid_cni::cni::{AddResult, Version};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let old = br#"{"cniVersion":"0.2.0","ip4":{"ip":"10.1.0.5/16","gateway":"10.1.0.1"}}"#;
//! let result = AddResult::parse(old, Version::LATEST)?;
//! assert_eq!(
//!     result.to_raw(Version::V1_0_0).get(),
//!     r#"{"cniVersion":"1.0.0","ips":[{"address":"10.1.0.5/16","gateway":"10.1.0.1"}]}"#
//! );
//! # Ok(())
//! # }
//! ```
//!
//! # Being a plugin
//!
//! [`plugin`] has an example: an implementation of [`plugin::Plugin`], and a `main` of one line.
//!
//! # The map
//!
//! The program handles a call in these modules, in this order:
//!
//! | module | input | output |
//! |---|---|---|
//! | [`request`] | environment and standard input | a call |
//! | [`config`] | the call's configuration | a validated one |
//! | [`source`] | configuration, directories | the requested networks |
//! | [`plan`] | these, and the call | what to run, with every name decided; pure |
//! | [`transaction`] | a plan | attachments, recorded in a journal, or nothing |
//! | [`netns`] | a namespace | its links, addresses and default routes |
//! | [`merge`] | results | one result; pure |
//! | [`answer`] | a result or an error | one JSON object and an exit status |
//!
//! [`verb`] combines these into each operation. Below all of them are [`cni`], the protocol as data, and [`runtime`], which runs
//! plugins. [`plugin`] is separate.

pub mod request;

pub mod config;

pub mod source;

pub mod plan;

pub mod transaction;

pub mod netns;

pub mod merge;

pub mod answer;

pub mod verb;

pub mod metrics;

pub mod doctor;

pub mod cni;

pub mod runtime;

pub mod plugin;

pub mod output;

pub mod telemetry;

pub mod panic;

#[cfg(feature = "kubernetes")]
mod agent;
mod cli;
#[cfg(test)]
mod layers;
mod log;

use std::ffi::OsString;
use std::process::ExitCode;

use cni::{CniError, Version};
use request::Request;

/// Runs the program: as a CNI plugin if `CNI_COMMAND` is set, and otherwise as a command line with these arguments.
///
/// A panic is answered like any other error.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    runtime::reset_signals();
    panic::log_panics();
    let request = match Request::read() {
        Ok(Some(request)) => request,
        Ok(None) => return cli::run(arguments),
        Err(error) => return fail(&(&verb::Error::from(error)).into(), Version::LATEST),
    };
    runtime::keep_descriptors_from_plugins();
    let verb = request.verb;
    match panic::caught(|| verb::run(&request)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => fail(&error.answer(Some(verb)), request.version()),
        Err(panicked) => fail(&CniError::from(&panicked), request.version()),
    }
}

/// Replaces a closed standard output with something that cannot be written.
pub extern "C" fn refuse_closed_stdout() {
    runtime::refuse_closed_stdout();
}

fn fail(error: &CniError, version: Version) -> ExitCode {
    // If standard output cannot be written, only the exit status reports the error.
    drop(answer::write_cni_error(error, version));
    ExitCode::FAILURE
}
