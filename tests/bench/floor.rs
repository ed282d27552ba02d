//! The floor of the benchmark: the least that a program between a runtime and plugins has to do.
//!
//! It reads the configuration, and runs the same plugins with the same input one after another. It only passes answers on,
//! checks and stores nothing, and has no time limits. If a plugin fails in ADD, it runs DEL of all plugins in reverse. For CHECK
//! and DEL of real plugins, it is given their results of ADD.
//!
//! With `started` in its configuration it measures the bound instead: see `bound.rs`.

#![expect(clippy::disallowed_methods, reason = "a program of its own, not a part of Braid")]

mod answer;
mod bound;

use std::error::Error;
use std::ffi::OsStr;
use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use serde::Deserialize;
use serde_json::value::RawValue;

#[derive(Deserialize)]
struct Configuration<'a> {
    #[serde(borrow)]
    delegates: Vec<Delegate<'a>>,
    /// For real plugins: the results of ADD, which CHECK and DEL need. ADD prints such a list.
    #[serde(borrow)]
    results: Option<Vec<&'a RawValue>>,
    /// The `prevResult` for the first delegate, as from a runtime.
    #[serde(borrow, rename = "runtimeConfig")]
    runtime_config: Option<&'a RawValue>,
    /// Measures the bound, with this many attachments at once.
    started: Option<usize>,
}

#[derive(Deserialize)]
struct Delegate<'a> {
    name: &'a str,
    #[serde(borrow)]
    plugins: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Plugin<'a> {
    r#type: &'a str,
    #[serde(borrow)]
    capabilities: Option<&'a RawValue>,
}

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let mut words = std::env::args_os().skip(1);
    if let (Some(_), Some(program)) = (words.next(), words.next()) {
        return usage(&program);
    }
    let mut stdin = Vec::with_capacity(8 << 10);
    io::stdin().read_to_end(&mut stdin)?;
    let configuration: Configuration<'_> = serde_json::from_slice(&stdin)?;
    let launcher = Launcher {
        verb: std::env::var("CNI_COMMAND")?,
        ifname: std::env::var("CNI_IFNAME")?,
        directory: std::env::var("CNI_PATH")?.into(),
        configuration,
    };
    match launcher.verb.as_str() {
        _ if launcher.configuration.started.is_some() => launcher.bound(),
        "ADD" => launcher.add(),
        "DEL" => launcher.del(&launcher.results()),
        _ => launcher.check(),
    }
}

struct Launcher<'a> {
    verb: String,
    ifname: String,
    directory: PathBuf,
    configuration: Configuration<'a>,
}

impl Launcher<'_> {
    fn add(&self) -> Outcome<()> {
        let mut results = Vec::new();
        for (index, delegate) in self.configuration.delegates.iter().enumerate() {
            results.push(String::new());
            for plugin in &delegate.plugins {
                let prev_result = Some(results[index].as_str()).filter(|result| !result.is_empty());
                match self.run("ADD", index, plugin, prev_result) {
                    Ok(printed) => results[index] = String::from_utf8(printed)?,
                    Err(error) => {
                        self.del(&results)?;
                        return Err(error);
                    }
                }
            }
        }
        let answer =
            if self.configuration.results.is_some() { format!("[{}]", results.join(",")) } else { results.remove(0) };
        print(&answer)
    }

    fn check(&self) -> Outcome<()> {
        for (index, (delegate, result)) in self.configuration.delegates.iter().zip(self.results()).enumerate() {
            for plugin in &delegate.plugins {
                self.run(&self.verb, index, plugin, Some(&result))?;
            }
        }
        Ok(())
    }

    /// DEL of the attachments that have a result, even an empty one, in reverse.
    fn del(&self, results: &[String]) -> Outcome<()> {
        for (index, (delegate, result)) in self.configuration.delegates.iter().zip(results).enumerate().rev() {
            for plugin in delegate.plugins.iter().rev() {
                self.run("DEL", index, plugin, Some(result.as_str()).filter(|result| !result.is_empty()))?;
            }
        }
        Ok(())
    }

    /// The plugins' results of ADD.
    fn results(&self) -> Vec<String> {
        if let Some(results) = &self.configuration.results {
            return results.iter().map(|result| result.get().to_owned()).collect();
        }
        let of = |(index, delegate): (usize, &Delegate<'_>)| {
            let size = answer::number_after(delegate.plugins[0].get().as_bytes(), "\"benchAnswer\":").unwrap_or(0);
            answer::answer(&self.interface(index), size)
        };
        self.configuration.delegates.iter().enumerate().map(of).collect()
    }

    fn interface(&self, index: usize) -> String {
        if index == 0 { self.ifname.clone() } else { format!("net{index}") }
    }

    /// Runs one plugin. The standard library starts it by `posix_spawn`.
    fn run(&self, verb: &str, index: usize, raw: &RawValue, prev_result: Option<&str>) -> Outcome<Vec<u8>> {
        let plugin: Plugin<'_> = serde_json::from_str(raw.get())?;
        let child = self.start(verb, index, &plugin)?;
        self.finish(child, index, raw, &plugin, prev_result)
    }

    fn start(&self, verb: &str, index: usize, plugin: &Plugin<'_>) -> Outcome<Child> {
        let mut command = Command::new(self.directory.join(plugin.r#type));
        if verb != self.verb {
            command.env("CNI_COMMAND", verb);
        }
        command.env("CNI_IFNAME", self.interface(index)).stdin(Stdio::piped()).stdout(Stdio::piped());
        Ok(command.spawn()?)
    }

    /// Gives a started plugin its input, and waits for its answer.
    fn finish(
        &self,
        mut child: Child,
        index: usize,
        raw: &RawValue,
        plugin: &Plugin<'_>,
        prev_result: Option<&str>,
    ) -> Outcome<Vec<u8>> {
        let runtime_config = self.configuration.runtime_config.filter(|_| index == 0 && plugin.capabilities.is_some());
        let members = [("runtimeConfig", runtime_config.map(RawValue::get)), ("prevResult", prev_result)];
        let request = request(self.configuration.delegates[index].name, raw, &members);
        child.stdin.take().expect("piped").write_all(request.as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let answer = String::from_utf8_lossy(&output.stdout).into_owned();
            return Err(format!("{} exited with {}: {answer}", plugin.r#type, output.status).into());
        }
        Ok(output.stdout)
    }
}

fn print(answer: &str) -> Outcome<()> {
    io::stdout().write_all(answer.as_bytes())?;
    Ok(())
}

/// A plugin's input, assembled as text.
fn request(name: &str, plugin: &RawValue, members: &[(&str, Option<&str>)]) -> String {
    let plugin = plugin.get().trim_start_matches('{');
    let mut request = format!(r#"{{"cniVersion":"1.0.0","name":"{name}",{}"#, &plugin[..plugin.len() - 1]);
    for (key, value) in members {
        if let Some(value) = value {
            request.push_str(r#",""#);
            request.push_str(key);
            request.push_str(r#"":"#);
            request.push_str(value);
        }
    }
    request.push('}');
    request
}

/// `--usage PROGRAM`: runs a program, and prints its peak resident memory in KiB and the number of its own page faults. The first
/// figure is the highest of the program and its plugins.
fn usage(program: &OsStr) -> Outcome<()> {
    let mut child = Command::new(program).stderr(Stdio::null()).spawn()?;
    // While it is a zombie, its own faults can be separated from those of the processes that it has waited for.
    let ended = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
    waitid(Id::Pid(Pid::from_raw(child.id().cast_signed())), ended)?;
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id()))?;
    let status = child.wait()?;
    if !status.success() {
        return Err(format!("{} ended with {status}", program.display()).into());
    }
    // The tenth and the twelfth field: minor and major faults. They follow a name that may contain spaces.
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let faults = fields[7].parse::<u64>()? + fields[9].parse::<u64>()?;
    eprintln!("{} {faults}", getrusage(UsageWho::RUSAGE_CHILDREN)?.max_rss());
    Ok(())
}
