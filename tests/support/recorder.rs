//! A CNI plugin for the tests: records how it was called, then does what its configuration says.
//!
//! Its file name is its plugin type, so the tests link it as `alpha`, `beta` and so on. Under `RECORDER_DIR` it writes
//! `calls/<sequence>.json`, one for each call (plugin, command, arguments, the whole environment, standard input in base 16), and
//! `state/<plugin>-<container>-<interface>`. ADD makes that file before anything can fail, and a successful DEL removes it: a file
//! that is left has leaked.
//!
//! Its instructions are the `"recorder"` object of its configuration, or `RECORDER_DIR/behaviour/<plugin>.json`, which takes
//! precedence and can be changed between calls, for example for a plugin that recovers.
//!
//! | key | what it does |
//! |---|---|
//! | `on` | the commands the other keys apply to, if not all |
//! | `result` | the answer to ADD, as it stands |
//! | `ip`, `gateway`, `routes`, `dns` | what goes into the answer to ADD where `result` is not given; `ip` is one or a list |
//! | `link` | ADD makes the interface, with the addresses of `ip`, and DEL removes it |
//! | `flush_gateway` | ADD takes the default routes out of the container, and out of the result before it |
//! | `fail` | by command: `{"ADD": {"code", "msg", "details", "times": n, "only_nth": n}}` |
//! | `raw_stdout`, `raw_stdout_base16` | printed in place of any answer |
//! | `stderr`, `flood_mb`, `flood_stderr_mb` | printed before the answer; `flood_mb` is white space on standard output |
//! | `sleep_ms`, `ignore_sigterm` | take that long; do not stop for SIGTERM |
//! | `grandchild` | `{"hold": "stdout\|stderr\|both", "ms", "detached"}`: leave a process that holds the pipes |
//! | `hold` | `{"at": "before\|after", "name"}`: wait for the test before or after anything is done, see `Case::release` |
//! | `exit`, `signal` | end with this status, or by this signal |
//! | `close_stdin` | do not read standard input (only from the behaviour file) |

#![expect(clippy::disallowed_methods, reason = "the rules are for the plugin under test, and this is another one")]

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;
use std::{env, fs, process, thread};

use nix::sys::signal::{SigSet, Signal, raise};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

fn main() -> ExitCode {
    let dir = PathBuf::from(env::var_os("RECORDER_DIR").expect("RECORDER_DIR says where to record"));
    let argv0 = env::args_os().next().expect("a program has a name");
    let plugin = Path::new(&argv0).file_name().expect("a file name").to_string_lossy().into_owned();
    let behaviour = fs::read(dir.join("behaviour").join(format!("{plugin}.json"))).ok();
    let behaviour: Option<Value> =
        behaviour.map(|text| serde_json::from_slice(&text).expect("the behaviour file is JSON"));

    let mut stdin = Vec::new();
    if behaviour.as_ref().is_some_and(|wish| wish["close_stdin"] == true) {
        nix::unistd::close(0).expect("close standard input");
    } else {
        io::stdin().read_to_end(&mut stdin).expect("read standard input");
    }
    // Raw values, so that any number can be read, even if it fits no type.
    let mut conf: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(&stdin).unwrap_or_default();
    let mut take = |key: &str| -> Value {
        conf.remove(key).map_or(Value::Null, |raw| serde_json::from_str(raw.get()).expect("a JSON value"))
    };
    let wish = behaviour.unwrap_or_else(|| take("recorder"));
    let call = Call {
        dir,
        plugin,
        command: variable("CNI_COMMAND"),
        container: variable("CNI_CONTAINERID"),
        ifname: variable("CNI_IFNAME"),
        netns: variable("CNI_NETNS"),
        version: take("cniVersion").as_str().unwrap_or("0.1.0").to_owned(),
        prev_result: take("prevResult"),
        wish,
    };
    let nth = call.record(&stdin);
    call.act(nth)
}

fn variable(name: &str) -> String {
    env::var_os(name).unwrap_or_default().to_string_lossy().into_owned()
}

struct Call {
    dir: PathBuf,
    plugin: String,
    command: String,
    container: String,
    ifname: String,
    netns: String,
    version: String,
    prev_result: Value,
    wish: Value,
}

impl Call {
    /// Writes the record of this call. Returns how many calls there have been of this plugin with this command on this interface,
    /// including this one.
    fn record(&self, stdin: &[u8]) -> u64 {
        let environment: Map<String, Value> = env::vars_os()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), json!(value.to_string_lossy())))
            .collect();
        let arguments: Vec<_> = env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
        let descriptors: Vec<u32> = fs::read_dir("/proc/self/fd")
            .expect("the descriptors of this process")
            .flatten()
            // The descriptor that reads the folder was not inherited.
            .filter(|entry| fs::read_link(entry.path()).is_ok_and(|to| !to.ends_with(format!("{}/fd", process::id()))))
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect();
        let hex = stdin.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        let record = json!({
            "plugin": self.plugin, "command": self.command, "arguments": arguments, "env": environment, "stdin": hex,
            "descriptors": descriptors,
        });
        let calls = self.dir.join("calls");
        let draft = calls.join(format!(".draft-{}", process::id()));
        fs::write(&draft, record.to_string()).expect("write the record");
        let (mut sequence, mut nth) = (1, 1);
        // A link is made atomically, and by one process only, so records are complete and numbered in order.
        loop {
            let place = calls.join(format!("{sequence:04}.json"));
            match fs::hard_link(&draft, &place) {
                Ok(()) => break,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    let other: Value =
                        serde_json::from_slice(&fs::read(&place).expect("read a record")).expect("a record is JSON");
                    let same = other["plugin"] == record["plugin"]
                        && other["command"] == record["command"]
                        && ["CNI_CONTAINERID", "CNI_IFNAME"]
                            .iter()
                            .all(|name| other["env"][name] == record["env"][name]);
                    nth += u64::from(same);
                    sequence += 1;
                }
                Err(e) => panic!("record the call: {e}"),
            }
        }
        fs::remove_file(draft).expect("remove the draft");
        nth
    }

    fn act(&self, nth: u64) -> ExitCode {
        if self.command == "VERSION" {
            let versions = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
            return print(&json!({"cniVersion": self.version, "supportedVersions": versions}).to_string());
        }
        let applies = self.wish["on"].as_array().is_none_or(|commands| commands.contains(&json!(self.command)));
        if applies && self.wish["ignore_sigterm"] == true {
            let mut blocked = SigSet::empty();
            blocked.add(Signal::SIGTERM);
            blocked.thread_block().expect("block SIGTERM");
        }
        if applies {
            self.hold("before");
        }
        if self.command == "ADD" {
            fs::write(self.state(), "").expect("make the state file");
        }
        let status = if applies { self.misbehave() } else { None };
        if let Some(error) = self.failure(nth) {
            let code = print(&error.to_string());
            return if code == ExitCode::SUCCESS { ExitCode::FAILURE } else { code };
        }
        let raw = applies.then(|| self.raw_stdout()).flatten();
        match self.command.as_str() {
            "ADD" => {
                if self.wish["link"] == true {
                    self.make_link();
                }
                if self.wish["flush_gateway"] == true {
                    assert!(self.ip(&["route", "flush", "default"]), "flush the default routes");
                }
                if raw.is_none() {
                    print(&self.result().to_string());
                }
            }
            "DEL" => {
                if self.wish["link"] == true {
                    // The link may have been removed with the namespace, or before. That is not a failure of DEL.
                    let _ = self.ip(&["link", "del", &self.ifname]);
                }
                let _ = fs::remove_file(self.state());
            }
            _ => {}
        }
        if applies {
            self.hold("after");
        }
        if let Some(raw) = raw {
            io::stdout().write_all(&raw).expect("write standard output");
        }
        status.map_or(ExitCode::SUCCESS, ExitCode::from)
    }

    fn state(&self) -> PathBuf {
        self.dir.join("state").join(format!("{}-{}-{}", self.plugin, self.container, self.ifname))
    }

    /// Everything that a plugin does apart from its answer and its work. Returns the exit status if one is requested.
    fn misbehave(&self) -> Option<u8> {
        let wish = &self.wish;
        if let Some(text) = wish["stderr"].as_str() {
            io::stderr().write_all(text.as_bytes()).expect("write standard error");
        }
        // A reader may close the pipe early. Then there is nothing more to write.
        let _ = flood(&mut io::stderr(), &wish["flood_stderr_mb"]);
        let _ = flood(&mut io::stdout(), &wish["flood_mb"]);
        if wish["grandchild"].is_object() {
            leave_grandchild(&wish["grandchild"]);
        }
        if let Some(ms) = wish["sleep_ms"].as_u64() {
            thread::sleep(Duration::from_millis(ms));
        }
        if let Some(number) = wish["signal"].as_i64() {
            let signal = i32::try_from(number).ok().and_then(|number| Signal::try_from(number).ok());
            // Rust's own handler, which detects stack overflows, handles the first fault and then gives way to the default.
            for _ in 0..2 {
                raise(signal.expect("a signal number")).expect("raise the signal");
            }
        }
        wish["exit"].as_u64().map(|status| u8::try_from(status).expect("an exit status"))
    }

    /// Reports to the test that this point is reached, and waits until the test lets it continue.
    fn hold(&self, at: &str) {
        let wish = &self.wish["hold"];
        if wish["at"] != at {
            return;
        }
        let name = wish["name"].as_str().expect("the name of the rendezvous");
        let held = self.dir.join("held").join(name);
        fs::write(held.with_extension("new"), process::id().to_string()).expect("say that the place is reached");
        fs::rename(held.with_extension("new"), &held).expect("say that the place is reached");
        while !self.dir.join("released").join(name).exists() {
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn failure(&self, nth: u64) -> Option<Value> {
        let fail = self.wish["fail"][&self.command].as_object()?;
        let number = |key| fail.get(key).and_then(Value::as_u64);
        if number("times").is_some_and(|times| nth > times) || number("only_nth").is_some_and(|only| nth != only) {
            return None;
        }
        let mut error = Map::new();
        error.insert("cniVersion".into(), json!(self.version));
        for key in ["code", "msg", "details"] {
            if let Some(value) = fail.get(key) {
                error.insert(key.into(), value.clone());
            }
        }
        Some(error.into())
    }

    fn raw_stdout(&self) -> Option<Vec<u8>> {
        if let Some(hex) = self.wish["raw_stdout_base16"].as_str() {
            let digits: Vec<_> = hex.chars().map(|c| c.to_digit(16).expect("base 16")).collect();
            return Some(digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).expect("a byte")).collect());
        }
        self.wish["raw_stdout"].as_str().map(|text| text.as_bytes().to_vec())
    }

    fn addresses(&self) -> Vec<&str> {
        match &self.wish["ip"] {
            Value::String(one) => vec![one],
            Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }

    /// The requested result, or else the previous one with this interface and its addresses added.
    fn result(&self) -> Value {
        let wish = &self.wish;
        if !wish["result"].is_null() {
            return wish["result"].clone();
        }
        if self.version.starts_with("0.1.") || self.version.starts_with("0.2.") {
            return self.result_020();
        }
        let mut result = match &self.prev_result {
            Value::Object(previous) => Value::Object(previous.clone()),
            _ => json!({}),
        };
        result["cniVersion"] = json!(self.version);
        let mut interfaces = result["interfaces"].as_array().cloned().unwrap_or_default();
        let own = json!({"name": self.ifname, "sandbox": self.netns});
        let same = |other: &Value| other["name"] == own["name"] && other["sandbox"] == own["sandbox"];
        let index = interfaces.iter().position(same).unwrap_or_else(|| {
            interfaces.push(own.clone());
            interfaces.len() - 1
        });
        result["interfaces"] = interfaces.into();
        let mut ips = result["ips"].as_array().cloned().unwrap_or_default();
        for address in self.addresses() {
            let mut ip = json!({"address": address, "interface": index});
            if !wish["gateway"].is_null() {
                ip["gateway"] = wish["gateway"].clone();
            }
            if self.version.starts_with("0.") {
                ip["version"] = json!(if address.contains(':') { "6" } else { "4" });
            }
            ips.push(ip);
        }
        if !ips.is_empty() {
            result["ips"] = ips.into();
        }
        for key in ["routes", "dns"] {
            if !wish[key].is_null() {
                result[key] = wish[key].clone();
            }
        }
        if wish["flush_gateway"] == true {
            let mut routes = result["routes"].as_array().cloned().unwrap_or_default();
            routes.retain(|route| route["dst"] != "0.0.0.0/0" && route["dst"] != "::/0");
            result["routes"] = routes.into();
        }
        result
    }

    fn result_020(&self) -> Value {
        let mut result = match &self.prev_result {
            Value::Object(previous) => Value::Object(previous.clone()),
            _ => json!({}),
        };
        result["cniVersion"] = json!(self.version);
        for address in self.addresses() {
            let mut ip = json!({"ip": address});
            for key in ["gateway", "routes"] {
                if !self.wish[key].is_null() {
                    ip[key] = self.wish[key].clone();
                }
            }
            result[if address.contains(':') { "ip6" } else { "ip4" }] = ip;
        }
        if !self.wish["dns"].is_null() {
            result["dns"] = self.wish["dns"].clone();
        }
        result
    }

    /// A bridge without ports is used as a container's interface, because every kernel that can run CNI plugins supports it.
    fn make_link(&self) {
        assert!(self.ip(&["link", "add", &self.ifname, "type", "bridge"]), "make the interface");
        assert!(self.ip(&["link", "set", &self.ifname, "up"]), "set the interface up");
        for address in self.addresses() {
            assert!(self.ip(&["addr", "add", address, "dev", &self.ifname, "nodad"]), "add the address");
        }
    }

    fn ip(&self, words: &[&str]) -> bool {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.netns)).arg("ip").args(words).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().expect("run nsenter").success()
    }
}

fn print(answer: &str) -> ExitCode {
    match io::stdout().write_all(answer.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(74),
    }
}

fn flood(to: &mut dyn io::Write, megabytes: &Value) -> io::Result<()> {
    let megabyte = vec![b' '; 1 << 20];
    for _ in 0..megabytes.as_u64().unwrap_or(0) {
        to.write_all(&megabyte)?;
    }
    Ok(())
}

/// Starts a process that outlives this one and keeps its standard output, standard error or both open.
#[expect(clippy::zombie_processes, reason = "a process that is left behind is what is asked for")]
fn leave_grandchild(wish: &Value) {
    let ms = wish["ms"].as_u64().expect("how long the grandchild lives");
    let held = |stream: &str| {
        let hold = wish["hold"].as_str().expect("what the grandchild holds");
        if hold == stream || hold == "both" { Stdio::inherit() } else { Stdio::null() }
    };
    let mut command = Command::new("sleep");
    command.arg(format!("{}.{:03}", ms / 1000, ms % 1000));
    command.stdin(Stdio::null()).stdout(held("stdout")).stderr(held("stderr"));
    if wish["detached"] == true {
        command.process_group(0);
    }
    command.spawn().expect("start the grandchild");
}
