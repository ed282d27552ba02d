//! The floor of the benchmark: the least that a program between a runtime and plugins has to do.
//!
//! It reads the configuration, and runs the same plugins with the same input one after another. It looks at no answer
//! but to pass it on, checks nothing, keeps nothing, cannot undo anything, and waits for as long as a plugin takes.

#![expect(clippy::disallowed_methods, reason = "a program of its own, not a part of Braid")]

mod answer;

use std::error::Error;
use std::ffi::OsStr;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::resource::{UsageWho, getrusage};
use serde::Deserialize;
use serde_json::value::RawValue;

#[derive(Deserialize)]
struct Configuration<'a> {
    #[serde(borrow)]
    delegates: Vec<Delegate<'a>>,
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
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args_os().skip(1);
    if let (Some(_), Some(program)) = (words.next(), words.next()) {
        return peak(&program);
    }
    let mut stdin = Vec::with_capacity(8 << 10);
    io::stdin().read_to_end(&mut stdin)?;
    let configuration: Configuration<'_> = serde_json::from_slice(&stdin)?;
    let verb = std::env::var("CNI_COMMAND")?;
    let ifname = std::env::var("CNI_IFNAME")?;
    let directory = std::env::var("CNI_PATH")?;
    let mut primary = Vec::new();
    for (index, delegate) in configuration.delegates.iter().enumerate() {
        let ifname = if index == 0 { ifname.clone() } else { format!("net{index}") };
        let mut prev_result = None;
        if verb != "ADD" {
            let size = answer::number_after(delegate.plugins[0].get().as_bytes(), "\"benchAnswer\":").unwrap_or(0);
            prev_result = Some(answer::answer(&ifname, size));
        }
        for plugin in &delegate.plugins {
            let request = request(delegate.name, plugin, prev_result.as_deref());
            let plugin: Plugin<'_> = serde_json::from_str(plugin.get())?;
            let printed = run(&Path::new(&directory).join(plugin.r#type), &ifname, request.as_bytes())?;
            if verb == "ADD" {
                prev_result = Some(String::from_utf8(printed)?);
            }
        }
        if index == 0 && verb == "ADD" {
            primary = prev_result.unwrap_or_default().into_bytes();
        }
    }
    io::stdout().write_all(&primary)?;
    Ok(())
}

/// `--peak PROGRAM`: runs a program, and says how much memory it had resident at most, in KiB.
fn peak(program: &OsStr) -> Result<(), Box<dyn Error>> {
    let status = Command::new(program).stderr(Stdio::null()).status()?;
    if !status.success() {
        return Err(format!("{} ended with {status}", program.display()).into());
    }
    eprintln!("{}", getrusage(UsageWho::RUSAGE_CHILDREN)?.max_rss());
    Ok(())
}

/// What a plugin gets, put together as text.
fn request(name: &str, plugin: &RawValue, prev_result: Option<&str>) -> String {
    let plugin = plugin.get().trim_start_matches('{');
    let mut request = format!(r#"{{"cniVersion":"1.0.0","name":"{name}",{}"#, &plugin[..plugin.len() - 1]);
    if let Some(prev_result) = prev_result {
        request.push_str(r#","prevResult":"#);
        request.push_str(prev_result);
    }
    request.push('}');
    request
}

/// The standard library starts it by `posix_spawn`.
fn run(executable: &Path, ifname: &str, request: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut child =
        Command::new(executable).env("CNI_IFNAME", ifname).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().expect("piped").write_all(request)?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        return Err(format!("{} ended with {}", executable.display(), output.status).into());
    }
    Ok(output.stdout)
}
