//! A sequence of calls of `braid`, as a runtime makes them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

use indexmap::IndexMap;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::namespace::PREFIX;
use super::networks::{Json, object};
use super::{Call, Namespace, Outcome, Running, Snapshot, braid, reference_plugins, wait_for};

/// The names under which the recording plugin can be called.
const RECORDERS: [&str; 8] = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"];

/// How long a call may take until the test fails.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// A configuration of Braid, a container, and a host of its own.
///
/// `@DIR@` in any configuration is replaced with the folder of this case.
pub(crate) struct Case {
    members: IndexMap<String, String>,
    delegates: Vec<String>,
    stdin: Option<Vec<u8>>,
    variables: BTreeMap<String, Option<OsString>>,
    path: Vec<PathBuf>,
    before: OnceLock<Snapshot>,
    pod: Namespace,
    host: Namespace,
    dir: TempDir,
}

impl Case {
    /// Braid at CNI 1.0.0 without delegates, and the recording plugins.
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}-{}-", process::id()))
            .tempdir()
            .expect("a temporary folder");
        let bin = dir.path().join("bin");
        for folder in
            ["bin", "recorder/calls", "recorder/state", "recorder/behaviour", "recorder/held", "recorder/released"]
        {
            fs::create_dir_all(dir.path().join(folder)).expect("make a folder");
        }
        for name in RECORDERS {
            install_recorder(&bin, name);
        }
        let case = Self {
            members: IndexMap::new(),
            delegates: Vec::new(),
            stdin: None,
            variables: BTreeMap::new(),
            path: vec![bin],
            before: OnceLock::new(),
            pod: Namespace::new("pod"),
            host: Namespace::new("host"),
            dir,
        };
        case.cni_version("1.0.0").key("name", "outer").key("type", "braid").key("stateDir", "@DIR@/state")
    }

    /// The same with the reference plugins.
    pub(crate) fn with_reference_plugins() -> Self {
        Self::new().plugins_in(reference_plugins())
    }

    /// Adds a folder to `CNI_PATH`.
    pub(crate) fn plugins_in(mut self, folder: PathBuf) -> Self {
        self.path.push(folder);
        self
    }

    pub(crate) fn cni_version(self, version: &str) -> Self {
        self.key("cniVersion", version)
    }

    /// A key of Braid's own configuration.
    pub(crate) fn key(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.members.insert(key.to_owned(), value.into().to_string());
        self
    }

    pub(crate) fn without(mut self, key: &str) -> Self {
        self.members.shift_remove(key);
        self
    }

    /// Braid's own configuration, unchanged. Only the state folder is added if it is missing.
    pub(crate) fn conf(mut self, conf: &Value) -> Self {
        let state_dir = self.members["stateDir"].clone();
        let members = conf.as_object().expect("a configuration is an object");
        self.members = members.iter().map(|(key, value)| (key.clone(), value.to_string())).collect();
        self.members.entry("stateDir".to_owned()).or_insert(state_dir);
        self
    }

    /// One more delegate.
    pub(crate) fn delegate(mut self, delegate: impl Json) -> Self {
        self.delegates.push(delegate.into_json());
        self
    }

    /// Removes all delegates.
    pub(crate) fn clear(mut self) -> Self {
        self.delegates.clear();
        self
    }

    pub(crate) fn prev_result(self, result: impl Into<Value>) -> Self {
        self.key("prevResult", result)
    }

    pub(crate) fn runtime_config(self, capability_arguments: impl Into<Value>) -> Self {
        self.key("runtimeConfig", capability_arguments)
    }

    /// `CNI_ARGS`
    pub(crate) fn args(self, args: &str) -> Self {
        self.env("CNI_ARGS", args)
    }

    /// `CNI_IFNAME`
    pub(crate) fn ifname(self, ifname: &str) -> Self {
        self.env("CNI_IFNAME", ifname)
    }

    /// `CNI_NETNS`, if it is not the case's own namespace.
    pub(crate) fn netns(self, path: &str) -> Self {
        self.env("CNI_NETNS", path)
    }

    pub(crate) fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.variables.insert(name.to_owned(), Some(value.into()));
        self
    }

    pub(crate) fn env_remove(mut self, name: &str) -> Self {
        self.variables.insert(name.to_owned(), None);
        self
    }

    /// Standard input, byte for byte, instead of a configuration.
    pub(crate) fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// A veth in the host's namespace, for plugins that need a link.
    pub(crate) fn host_link(self, name: &str) -> Self {
        self.host.ip(&format!("link add {name} type veth peer name {name}-peer"));
        self.host.ip(&format!("link set {name}-peer up"));
        self.host.ip(&format!("link set {name} up"));
        self
    }

    /// A plugin that is a shell script.
    pub(crate) fn script(self, name: &str, script: &str) -> Self {
        let path = self.path[0].join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("write the script");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&path, mode).expect("make the script executable");
        self
    }

    pub(crate) fn add(&self) -> Outcome<'_> {
        self.call("ADD").run()
    }

    pub(crate) fn del(&self) -> Outcome<'_> {
        self.call("DEL").run()
    }

    pub(crate) fn check(&self) -> Outcome<'_> {
        self.call("CHECK").run()
    }

    pub(crate) fn status(&self) -> Outcome<'_> {
        self.call("STATUS").run()
    }

    /// GC with these attachments as valid, each a container ID and an interface name.
    pub(crate) fn gc(&self, valid: &[(&str, &str)]) -> Outcome<'_> {
        let attachment = |(container, ifname): &(&str, &str)| json!({"containerID": container, "ifname": ifname});
        let valid: Vec<_> = valid.iter().map(attachment).collect();
        self.call("GC").key("cni.dev/valid-attachments", valid).run()
    }

    /// A call of Braid that has not been made yet, so that it can be changed.
    pub(crate) fn call(&self, command: &str) -> Invocation<'_> {
        self.call_plugin(&braid(), command)
    }

    /// A call of any plugin, as a runtime with this case's container would make it. Its configuration is Braid's unless `stdin` is
    /// called.
    pub(crate) fn call_plugin(&self, program: &Path, command: &str) -> Invocation<'_> {
        let variable = |name: &str, value: &str| (name.to_owned(), OsString::from(value));
        let mut variables = BTreeMap::from([
            variable("CNI_COMMAND", command),
            ("CNI_PATH".to_owned(), self.cni_path()),
            ("PATH".to_owned(), env::var_os("PATH").unwrap_or_default()),
            ("RECORDER_DIR".to_owned(), self.dir.path().join("recorder").into()),
        ]);
        // The other variables are set by the operations on one attachment, according to the specification's section 2.
        if ["ADD", "DEL", "CHECK"].contains(&command) {
            let netns = self.pod.path();
            variables.extend([
                variable("CNI_CONTAINERID", Self::CONTAINER),
                variable("CNI_IFNAME", "eth0"),
                ("CNI_NETNS".to_owned(), netns.into()),
            ]);
        }
        for (name, value) in &self.variables {
            match value {
                Some(value) => drop(variables.insert(name.clone(), value.clone())),
                None => drop(variables.remove(name)),
            }
        }
        Invocation {
            case: self,
            program: program.to_owned(),
            arguments: Vec::new(),
            variables,
            members: self.members.clone(),
            stdin: self.stdin.clone(),
        }
    }

    /// A command line, of Braid or another program, with this case's plugins, the configurations in `@DIR@/net.d` and a cache of
    /// its own.
    pub(crate) fn command(&self, program: &Path, words: &[&str]) -> Invocation<'_> {
        let mut invocation = self.call_plugin(program, "");
        invocation.variables.remove("CNI_COMMAND");
        for (name, folder) in [("NETCONFPATH", "net.d"), ("CNI_CACHE_DIR", "cache")] {
            invocation.variables.insert(name.to_owned(), self.dir.path().join(folder).into());
        }
        invocation.arguments = words.iter().map(|word| self.expand(word)).collect();
        invocation.stdin(Vec::new())
    }

    /// A command line of Braid's.
    pub(crate) fn braid(&self, words: &[&str]) -> Invocation<'_> {
        self.command(&braid(), words)
    }

    /// Writes a file below `@DIR@/net.d`.
    pub(crate) fn configuration(self, file: &str, json: impl Json) -> Self {
        let path = self.dir.path().join("net.d").join(file);
        fs::create_dir_all(path.parent().expect("a folder")).expect("make the folder");
        fs::write(path, self.expand(&json.into_json())).expect("write the configuration");
        self
    }

    /// The recording plugin under one more name.
    pub(crate) fn recorder_as(self, name: &str) -> Self {
        install_recorder(&self.path[0], name);
        self
    }

    /// The container's ID, unless `CNI_CONTAINERID` is set otherwise.
    pub(crate) const CONTAINER: &str = "container-1";

    pub(crate) fn cni_path(&self) -> OsString {
        env::join_paths(&self.path).expect("folders without a colon")
    }

    /// A reference plugin's executable, or a recorder's.
    pub(crate) fn plugin_path(&self, kind: &str) -> PathBuf {
        self.path.iter().map(|folder| folder.join(kind)).find(|path| path.is_file()).expect("a plugin of this name")
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The container's namespace.
    pub(crate) fn pod(&self) -> &Namespace {
        &self.pod
    }

    /// The namespace in which Braid and the plugins run.
    pub(crate) fn host(&self) -> &Namespace {
        &self.host
    }

    /// Changes the instructions of a recording plugin from now on. They take precedence over its configuration.
    pub(crate) fn behave(&self, kind: &str, instructions: impl Into<Value>) {
        let path = self.dir.path().join(format!("recorder/behaviour/{kind}.json"));
        fs::write(path, instructions.into().to_string()).expect("write the behaviour file");
    }

    /// Waits until a plugin with `hold` has reached its rendezvous, and returns the plugin's process ID.
    pub(crate) fn held(&self, name: &str) -> Pid {
        let held = self.dir.path().join("recorder/held").join(name);
        wait_for(&format!("a plugin at {name}"), || fs::read_to_string(&held).ok()?.parse().ok().map(Pid::from_raw))
    }

    /// Lets the plugins at a rendezvous continue, now or later.
    pub(crate) fn release(&self, name: &str) {
        fs::write(self.dir.path().join("recorder/released").join(name), "").expect("let the plugin go on");
    }

    /// All calls of recording plugins so far.
    pub(crate) fn calls(&self) -> Vec<Call> {
        Call::read_all(&self.dir.path().join("recorder/calls"))
    }

    /// All calls so far, each as `ADD alpha eth0`.
    pub(crate) fn order(&self) -> Vec<String> {
        self.calls().iter().map(ToString::to_string).collect()
    }

    /// Whether Braid has any journal, so that a DEL is owed.
    pub(crate) fn owes(&self) -> bool {
        let attachments = self.dir.path().join("state/attachments");
        fs::read_dir(attachments).is_ok_and(|mut containers| containers.next().is_some())
    }

    /// What has appeared and disappeared since before the first call, one line each.
    pub(crate) fn changes(&self) -> String {
        let before = self.before.get().expect("a call has been made");
        let deadline = Instant::now() + Duration::from_secs(2);
        loop {
            let changes = self.snapshot().since(before);
            // A process that was killed disappears only after the kernel has removed it.
            let only_processes = changes.lines().all(|line| line.starts_with("+ process"));
            if changes.is_empty() || !only_processes || Instant::now() > deadline {
                return changes;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn snapshot(&self) -> Snapshot {
        let folders = ["state", "ipam", "tuning", "recorder/state"].map(|name| self.dir.path().join(name));
        let folders: Vec<_> = folders.iter().map(PathBuf::as_path).collect();
        Snapshot::take(&self.host, &self.pod, &folders)
    }

    /// A text with its placeholders replaced.
    pub(crate) fn expand(&self, text: &str) -> String {
        text.replace("@DIR@", self.dir.path().to_str().expect("a UTF-8 path"))
    }
}

/// A call of a plugin that is not made yet.
pub(crate) struct Invocation<'a> {
    case: &'a Case,
    program: PathBuf,
    arguments: Vec<String>,
    variables: BTreeMap<String, OsString>,
    members: IndexMap<String, String>,
    stdin: Option<Vec<u8>>,
}

impl<'a> Invocation<'a> {
    pub(crate) fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.variables.insert(name.to_owned(), value.into());
        self
    }

    /// Removes every variable.
    pub(crate) fn env_clear(mut self) -> Self {
        self.variables.clear();
        self
    }

    pub(crate) fn key(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.members.insert(key.to_owned(), value.into().to_string());
        self
    }

    pub(crate) fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Makes the call, and checks the outcome against the rules of CNI for every plugin.
    pub(crate) fn run(self) -> Outcome<'a> {
        self.run_changed(|_| {})
    }

    /// The same as [`run`](Self::run), with another way of starting the program.
    pub(crate) fn run_changed(self, change: impl FnOnce(&mut Command)) -> Outcome<'a> {
        let case = self.case;
        let command = self.variables.get("CNI_COMMAND").map_or_else(String::new, |c| c.to_string_lossy().into_owned());
        let stdin = self.standard_input();
        let (first_call, started) = (case.calls().len(), Instant::now());
        let output = self.output_changed(change);
        Outcome::new(case, command, stdin, output, first_call, started.elapsed())
    }

    /// Makes the call, and does not check the outcome.
    pub(crate) fn output(&self) -> Output {
        self.output_changed(|_| {})
    }

    /// The same as [`output`](Self::output), with another way of starting the program.
    pub(crate) fn output_changed(&self, change: impl FnOnce(&mut Command)) -> Output {
        self.case.before.get_or_init(|| self.case.snapshot());
        let stdin = self.standard_input();
        let mut command = self.command();
        change(&mut command);
        self.case.host.inside(|| run_with_patience(&mut command, &stdin))
    }

    /// Starts it without input, and does not wait.
    pub(crate) fn spawn(&self) -> Child {
        self.case.before.get_or_init(|| self.case.snapshot());
        let mut command = self.command();
        command.stdin(Stdio::null());
        self.case.host.inside(|| command.spawn()).expect("start the program")
    }

    /// Makes one of several concurrent calls: its changes and its plugin calls are not told apart from those of the others.
    pub(crate) fn run_unrecorded(&self) -> Output {
        let output = self.output();
        let answer = serde_json::from_slice::<Value>(&output.stdout);
        let is_object = output.stdout.is_empty() || answer.is_ok_and(|answer| answer.is_object());
        assert!(is_object, "standard output is not one JSON object: {output:?}");
        output
    }

    /// Makes the call, and does not wait for its end.
    pub(crate) fn start(self) -> Running<'a> {
        self.case.before.get_or_init(|| self.case.snapshot());
        let first_call = self.case.calls().len();
        let verb = self.variables.get("CNI_COMMAND").map_or_else(String::new, |c| c.to_string_lossy().into_owned());
        let stdin = self.standard_input();
        let mut command = self.command();
        let child = self.case.host.inside(|| start(&mut command));
        Running::new(self.case, verb, stdin, child, first_call)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).env_clear().envs(&self.variables);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn standard_input(&self) -> Vec<u8> {
        if let Some(bytes) = &self.stdin {
            return bytes.clone();
        }
        let mut members = self.members.clone();
        if !self.case.delegates.is_empty() {
            members.insert("delegates".to_owned(), format!("[{}]", self.case.delegates.join(",")));
        }
        self.case.expand(&object(&members)).into_bytes()
    }
}

/// Starts a program that may just have been written: a process that another test is starting may still have the file open for a
/// moment.
fn start(command: &mut Command) -> Child {
    let began = Instant::now();
    loop {
        match command.spawn() {
            Ok(child) => return child,
            Err(e) if e.kind() == io::ErrorKind::ExecutableFileBusy && began.elapsed() < PATIENCE => {
                thread::sleep(Duration::from_millis(10));
            }
            Err(e) => panic!("{command:?}: {e}"),
        }
    }
}

fn run_with_patience(command: &mut Command, stdin: &[u8]) -> Output {
    let mut child = start(command);
    let pid = Pid::from_raw(child.id().try_into().expect("a process ID"));
    let mut pipe = child.stdin.take().expect("a pipe");
    let (ended, wait) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || match pipe.write_all(stdin) {
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => panic!("write standard input: {e}"),
            _ => {}
        });
        scope.spawn(move || {
            if wait.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                kill(pid, Signal::SIGKILL).expect("end a call that hangs");
            }
        });
        let output = child.wait_with_output().expect("wait for the call");
        drop(ended);
        output
    })
}

/// Links the recording plugin under a name in a folder.
pub(super) fn install_recorder(folder: &Path, name: &str) {
    let built = Path::new(env!("CARGO_BIN_EXE_braid")).parent().expect("a folder").join("examples/recorder");
    assert!(built.is_file(), "{} is missing: `cargo test` builds it, or `cargo build --examples`", built.display());
    install(&built, &folder.join(name));
}

/// Links a program at a path, or copies it if the temporary folder is on another file system.
pub(super) fn install(program: &Path, place: &Path) {
    if fs::hard_link(program, place).is_err() {
        fs::copy(program, place).expect("copy a program");
    }
}
