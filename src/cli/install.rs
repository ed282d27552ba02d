//! `install` and `uninstall`: Braid on a Kubernetes node, in front of the primary network's own configuration.
//!
//! The configuration that is written holds a copy of the primary's, so that pods can still be attached while the agent
//! that wrote the primary's is being replaced. What is written is kept as it should be until the process ends: the
//! copy, the credentials, and the place before all other configurations.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use clap::Args;
use indexmap::IndexMap;
use serde_json::{Value, json};

use super::{CliError, Outcome};
use crate::cni::config::{get, parse_object, raw};
use crate::cni::{NetworkConfig, PluginConfig, RawObject, Version};
use crate::config::{DEFAULT_BIN_DIR, DEFAULT_STATE_DIR};
use crate::plan::Plan;
use crate::request::variable;
use crate::runtime::cache::{self, Cache};
use crate::runtime::load;
use crate::source::kubernetes::lasting_token;
use crate::transaction::journal::State;
use crate::transaction::{Sharing, Store};

/// The file that the runtime is to find first.
const CONFLIST: &str = "00-braid.conflist";
/// Where the credentials are, in the configurations' directory.
const KUBECONFIG: &str = "braid.d/kubeconfig";
/// Types whose configurations are never taken for a primary network's.
const OWN_TYPES: [&str; 3] = ["braid", "multus", "multus-shim"];
/// How long another call's lock is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a token that is asked for is to live. Until then pods are attached with it, even if none can be had any more.
const LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// How often a new one is asked for.
const RENEWAL: Duration = Duration::from_secs(3600);
/// When it is tried again, where there was none to be had.
const RETRY: Duration = Duration::from_secs(60);
/// How often everything is looked at.
const INTERVAL: Duration = Duration::from_secs(2);

/// The arguments of `install`.
#[derive(Debug, Args)]
pub(super) struct Install {
    #[command(flatten)]
    places: Places,
    /// Keys for Braid's configuration, a JSON object such as `{"namespaceIsolation": true}`
    #[arg(long, value_name = "JSON", default_value = "{}")]
    with: String,
    /// Where the service account is mounted
    #[arg(long, value_name = "DIR", default_value = "/var/run/secrets/kubernetes.io/serviceaccount")]
    service_account: PathBuf,
    /// Do it once, in place of keeping it so
    #[arg(long)]
    once: bool,
}

/// Where things are on the node. In a container these directories have to be mounted at the same paths.
#[derive(Debug, Args)]
#[expect(clippy::struct_field_names, reason = "they are the names of the options")]
pub(super) struct Places {
    /// Where the runtime looks for configurations
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    conf_dir: PathBuf,
    /// Where the runtime looks for plugins
    #[arg(long, value_name = "DIR", default_value = DEFAULT_BIN_DIR)]
    bin_dir: PathBuf,
    /// Where journals are kept
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
}

/// The arguments of `uninstall`.
#[derive(Debug, Args)]
pub(super) struct Uninstall {
    #[command(flatten)]
    places: Places,
    /// Remove the executable even if pods are still attached by it, whose clean-up then fails
    #[arg(long)]
    force: bool,
}

impl Places {
    fn conflist(&self) -> PathBuf {
        self.conf_dir.join(CONFLIST)
    }

    fn kubeconfig(&self) -> PathBuf {
        self.conf_dir.join(KUBECONFIG)
    }

    fn executable(&self) -> PathBuf {
        self.bin_dir.join("braid")
    }
}

/// Installs Braid on this node and keeps it installed.
pub(super) fn install(args: &Install) -> Outcome {
    let extra = parse_object(args.with.as_bytes())
        .map_err(|error| CliError::Plain(format!("--with is not a JSON object: {error}")))?;
    let places = &args.places;
    copy_executable(&places.executable())?;
    say(&format!("installed {}", places.executable().display()));
    let mut keeper = Keeper {
        args,
        extra,
        written: None,
        complaint: String::new(),
        is_checked: false,
        token: None,
        ask_at: Instant::now(),
        refusal: String::new(),
    };
    loop {
        let outcome = keeper.keep();
        if args.once {
            return match outcome {
                Ok(()) => Ok(ExitCode::SUCCESS),
                Err(reason) => Err(CliError::Plain(reason)),
            };
        }
        keeper.complain(outcome.err().unwrap_or_default());
        std::thread::sleep(INTERVAL);
    }
}

/// Puts the node back as it was. Nothing else ever removes what `install` wrote: pods must not start without their
/// networks because a container was restarted.
pub(super) fn uninstall(args: &Uninstall) -> Outcome {
    let places = &args.places;
    for path in [places.conflist(), places.kubeconfig()] {
        remove(&path)?;
    }
    if let Some(directory) = places.kubeconfig().parent() {
        // Whatever else is in it is not ours.
        drop(fs::remove_dir(directory));
    }
    detach_gone(places)?;
    let attached = fs::read_dir(places.state_dir.join("attachments")).map_or(0, Iterator::count);
    if attached > 0 && !args.force {
        let containers = if attached == 1 { "container is" } else { "containers are" };
        let message = format!(
            "new pods no longer get to braid; {attached} {containers} still attached by it, so that {} stays: run this \
             again when they are gone, or with --force",
            places.executable().display()
        );
        return Err(CliError::Plain(message));
    }
    remove(&places.executable())?;
    Ok(ExitCode::SUCCESS)
}

/// Undoes what is attached to containers that are gone. Not every runtime calls DEL with the configuration that ADD had:
/// for these, containerd has called the plugins of the one that comes first now.
fn detach_gone(places: &Places) -> Result<(), CliError> {
    let Some(store) = Store::open_existing(&places.state_dir, Sharing::Shared, Instant::now() + PATIENCE)? else {
        return Ok(());
    };
    for id in store.container_ids()? {
        let Some(container) = store.unlocked_container(&id)? else { continue };
        for ifname in container.entries()?.ifnames {
            let Some(Ok(state)) = State::peek(&container, &ifname)? else { continue };
            if !state.is_container_gone() {
                continue;
            }
            match detach(places, &state.header.plan) {
                Ok(()) => say(&format!("detached {id}, which is gone, from network {:?}", state.header.plan.network)),
                Err(reason) => loudly(&format!("{id} is gone and cannot be detached: {reason}")),
            }
        }
    }
    Ok(())
}

/// Calls DEL of the installed Braid.
fn detach(places: &Places, plan: &Plan) -> Result<(), String> {
    let config =
        json!({"cniVersion": plan.version, "name": plan.network, "type": "braid", "stateDir": places.state_dir});
    let variables = [
        ("CNI_COMMAND", "DEL"),
        ("CNI_CONTAINERID", &plan.container_id),
        ("CNI_IFNAME", &plan.ifname),
        ("CNI_NETNS", &plan.netns),
    ];
    call(places, &variables, config.to_string().as_bytes())?;
    // What the runtime's libcni keeps for the DEL that never comes now. Nobody reads it any more.
    drop(Cache::new(Path::new(cache::DEFAULT_DIR)).remove(&plan.network, &plan.container_id, &plan.ifname));
    Ok(())
}

/// Calls the installed Braid as a runtime does. An error is what it says.
fn call(places: &Places, variables: &[(&str, &str)], config: &[u8]) -> Result<(), String> {
    let call = || -> io::Result<std::process::Output> {
        let mut child = Command::new(places.executable())
            .env("CNI_PATH", &places.bin_dir)
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(config)?;
        }
        child.wait_with_output()
    };
    let output = call().map_err(|error| format!("{} cannot be run: {error}", places.executable().display()))?;
    if output.status.success() {
        return Ok(());
    }
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    Err(answer["msg"].as_str().unwrap_or("braid did not say why").to_owned())
}

/// What keeps the node as it should be.
struct Keeper<'a> {
    args: &'a Install,
    extra: RawObject,
    /// The configuration that was written last.
    written: Option<Vec<u8>>,
    /// What was said last to be wrong, so that it is said once.
    complaint: String,
    is_checked: bool,
    /// A token that outlives this pod, unlike the one that Kubernetes gives it.
    token: Option<Token>,
    /// When to ask for another.
    ask_at: Instant,
    /// Why there was none to be had the last time.
    refusal: String,
}

/// A token for the node.
struct Token {
    text: String,
    ends: Instant,
}

impl Keeper<'_> {
    /// Looks at everything and mends what is not as it should be.
    fn keep(&mut self) -> Result<(), String> {
        let places = &self.args.places;
        let has_kubeconfig = self.keep_kubeconfig()?;
        let Some(primary) = primary(&places.conf_dir)? else {
            return Err(format!(
                "{} holds no configuration of a primary network yet; what braid wrote before stays",
                places.conf_dir.display()
            ));
        };
        let wanted = configuration(places, &self.extra, &primary, has_kubeconfig);
        let path = places.conflist();
        let now = fs::read(&path).ok();
        if now.as_deref() != Some(&wanted[..]) {
            match (&self.written, &now) {
                (Some(written), Some(now)) if written != now => {
                    loudly(&format!("{} was changed by someone else; it is written again", path.display()));
                }
                (Some(_), None) => {
                    let beside = renamed(&places.conf_dir);
                    loudly(&format!(
                        "{} was removed or renamed by someone else{beside}; it is written again",
                        path.display()
                    ));
                }
                _ => {}
            }
            replace(&path, &wanted[..], 0o600).map_err(|error| format!("{}: {error}", path.display()))?;
            say(&format!("wrote {}, in front of network {:?}", path.display(), primary.name));
            self.is_checked = false;
        }
        self.written = Some(wanted.clone());
        if let Some(first) = first_file(&places.conf_dir).filter(|first| *first != path) {
            let first = first.display();
            return Err(format!(
                "{first} sorts before {}: the runtime uses it, and pods go without braid",
                path.display()
            ));
        }
        if !self.is_checked {
            status(places, &wanted)?;
            say("this node is ready");
            self.is_checked = true;
        }
        Ok(())
    }

    /// Says what is wrong when it is news.
    fn complain(&mut self, complaint: String) {
        if !complaint.is_empty() && complaint != self.complaint {
            loudly(&complaint);
        }
        self.complaint = complaint;
    }

    /// Writes a kubeconfig with a token for the node or, as long as there is none to be had, the one of this pod. False
    /// where there is no service account.
    fn keep_kubeconfig(&mut self) -> Result<bool, String> {
        let account = &self.args.service_account;
        let path = self.args.places.kubeconfig();
        let host = variable("KUBERNETES_SERVICE_HOST").ok().flatten().filter(|host| !host.is_empty());
        let port = variable("KUBERNETES_SERVICE_PORT").ok().flatten().filter(|port| !port.is_empty());
        let (Some(host), Some(port)) = (host, port) else { return Ok(path.exists()) };
        let read = |name: &str| {
            let path = account.join(name);
            fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
        };
        let of_pod = String::from_utf8_lossy(&read("token")?).trim().to_owned();
        let authority = STANDARD.encode(read("ca.crt")?);
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let server = format!("https://{host}:{port}");
        let now = Instant::now();
        self.token.take_if(|token| now >= token.ends);
        let in_use = self.token.as_ref().map_or(&of_pod, |token| &token.text);
        write_kubeconfig(&path, &server, &authority, in_use)?;
        if now < self.ask_at {
            return Ok(true);
        }
        match longer_lived(&path, &of_pod) {
            Ok((text, lifetime)) => {
                write_kubeconfig(&path, &server, &authority, &text)?;
                self.token = Some(Token { text, ends: now + lifetime });
                self.ask_at = now + RENEWAL.min(lifetime / 2);
                self.refusal.clear();
            }
            Err(refusal) => {
                self.ask_at = now + RETRY;
                if refusal != self.refusal {
                    let what = if self.token.is_some() { "is not renewed" } else { "ends with this pod" };
                    loudly(&format!("the token in {} {what}: {refusal}", path.display()));
                    self.refusal = refusal;
                }
            }
        }
        Ok(true)
    }
}

/// Writes a kubeconfig, if it is not there as it should be.
fn write_kubeconfig(path: &Path, server: &str, authority: &str, token: &str) -> Result<(), String> {
    // JSON is YAML.
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "local", "cluster": {"server": server, "certificate-authority-data": authority}}],
        "users": [{"name": "braid", "user": {"token": token}}],
        "contexts": [{"name": "braid", "context": {"cluster": "local", "user": "braid"}}],
        "current-context": "braid",
    });
    let mut wanted = serde_json::to_vec_pretty(&kubeconfig).unwrap_or_default();
    wanted.push(b'\n');
    if fs::read(path).ok().as_deref() == Some(&wanted[..]) {
        return Ok(());
    }
    let write = || {
        fs::create_dir_all(path.parent().unwrap_or(path))?;
        replace(path, &wanted[..], 0o600)
    };
    write().map_err(|error: io::Error| format!("{}: {error}", path.display()))?;
    say(&format!("wrote {}", path.display()));
    Ok(())
}

/// Asks for a token for the account of a pod's, and how long it lives.
fn longer_lived(kubeconfig: &Path, of_pod: &str) -> Result<(String, Duration), String> {
    let (namespace, name) = service_account(of_pod).ok_or("the one of this pod does not say whose it is")?;
    lasting_token(kubeconfig, (&namespace, &name), LIFETIME).map_err(|error| error.to_string())
}

/// Whose token this is, as it says itself: namespace and name of a service account.
fn service_account(token: &str) -> Option<(String, String)> {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    let (namespace, name) = claims["sub"].as_str()?.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    Some((namespace.to_owned(), name.to_owned()))
}

/// The primary network: of the configurations, in the runtime's order, the first that is neither Braid's nor Multus's.
fn primary(conf_dir: &Path) -> Result<Option<NetworkConfig>, String> {
    let mut broken = Vec::new();
    for file in configurations(conf_dir)? {
        match load::from_file(&file) {
            Ok(loaded) => {
                let is_own = |kind: &str| OWN_TYPES.contains(&kind);
                if !loaded.network.plugins.iter().any(|plugin| is_own(plugin.plugin_type())) {
                    return Ok(Some(loaded.network));
                }
            }
            Err(error) => broken.push(error.to_string()),
        }
    }
    if broken.is_empty() { Ok(None) } else { Err(broken.join("; ")) }
}

/// The configurations in the order of their names, in which runtimes take them.
fn configurations(conf_dir: &Path) -> Result<Vec<PathBuf>, String> {
    let mut files = load::files(conf_dir).map_err(|error| error.to_string())?;
    files.sort();
    Ok(files)
}

fn first_file(conf_dir: &Path) -> Option<PathBuf> {
    configurations(conf_dir).ok()?.into_iter().next()
}

/// What may have become of Braid's configuration, for whoever reads of its loss.
fn renamed(conf_dir: &Path) -> String {
    let is_ours = |name: &str| name.starts_with(CONFLIST) && name != CONFLIST;
    let entries = fs::read_dir(conf_dir).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| is_ours(name)).fold(String::new(), |text, name| text + " (there is " + &name + ")")
}

/// Braid's configuration in front of a primary network, with the capabilities that the runtime is to serve for it.
fn configuration(places: &Places, extra: &RawObject, primary: &NetworkConfig, has_kubeconfig: bool) -> Vec<u8> {
    let declared = primary.plugins.iter().flat_map(PluginConfig::capabilities);
    let capabilities: IndexMap<&String, bool> = declared.map(|name| (name, true)).collect();
    let mut plugin = RawObject::new();
    plugin.insert("type".into(), raw("braid"));
    plugin.insert("stateDir".into(), raw(&places.state_dir));
    if !capabilities.is_empty() {
        plugin.insert("capabilities".into(), raw(&capabilities));
    }
    if has_kubeconfig {
        plugin.insert("kubeconfig".into(), raw(&places.kubeconfig()));
    }
    plugin.extend(extra.clone());
    // As raw text all the way, so that the primary's plugins get what their author wrote.
    plugin.insert("delegates".into(), raw(&[primary]));
    let mut list = RawObject::new();
    list.insert("cniVersion".into(), raw(&primary.version));
    list.insert("name".into(), raw("braid"));
    list.insert("plugins".into(), raw(&[plugin]));
    let mut bytes = serde_json::to_vec(&list).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// Asks the installed Braid whether it could serve a pod.
fn status(places: &Places, conflist: &[u8]) -> Result<(), String> {
    let list: RawObject = serde_json::from_slice(conflist).map_err(|error| error.to_string())?;
    let plugins = get::<Vec<RawObject>>(&list, "plugins", "a list").map_err(|error| error.to_string())?;
    let mut config = plugins.and_then(|plugins| plugins.into_iter().next()).unwrap_or_default();
    config.insert("name".into(), raw("braid"));
    config.insert("cniVersion".into(), raw(&Version::V1_1_0));
    let config = serde_json::to_vec(&config).map_err(|error| error.to_string())?;
    call(places, &[("CNI_COMMAND", "STATUS")], &config).map_err(|reason| format!("this node is not ready: {reason}"))
}

/// Copies this executable: beside the old one and then over it, which may be running.
fn copy_executable(to: &Path) -> Result<(), CliError> {
    let wrong = |error: io::Error| CliError::Plain(format!("{}: {error}", to.display()));
    // It is large, and the agent's memory is limited: neither is read whole.
    let own = || File::open("/proc/self/exe");
    let is_there = || is_equal(BufReader::new(own()?), BufReader::new(File::open(to)?));
    if is_there().unwrap_or(false) {
        return Ok(());
    }
    own().and_then(|own| replace(to, own, 0o755)).map_err(wrong)
}

/// Whether two files hold the same.
fn is_equal(mut one: impl BufRead, mut other: impl BufRead) -> io::Result<bool> {
    loop {
        let (left, right) = (one.fill_buf()?, other.fill_buf()?);
        let common = left.len().min(right.len());
        if left[..common] != right[..common] {
            return Ok(false);
        }
        if common == 0 {
            return Ok(left.is_empty() && right.is_empty());
        }
        one.consume(common);
        other.consume(common);
    }
}

/// Writes a file whole or not at all.
fn replace(path: &Path, mut content: impl Read, mode: u32) -> io::Result<()> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Neither a dot at the front nor this ending is something that a runtime reads.
    let temporary = directory.join(format!(".{name}.{}.tmp", std::process::id()));
    let mut write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        // In large pieces, and not by the kernel's own copying: what is in memory in small ones is slower to start.
        let mut piece = Vec::with_capacity(1 << 20);
        while content.by_ref().take(1 << 20).read_to_end(&mut piece)? > 0 {
            file.write_all(&piece)?;
            piece.clear();
        }
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(directory)?.sync_all()
    };
    let outcome = write();
    if outcome.is_err() {
        drop(fs::remove_file(&temporary));
    }
    outcome
}

fn remove(path: &Path) -> Result<(), CliError> {
    match fs::remove_file(path) {
        Ok(()) => {
            say(&format!("removed {}", path.display()));
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(CliError::Plain(format!("{}: {error}", path.display()))),
    }
}

fn say(message: &str) {
    tell!("braid: {message}");
}

fn loudly(message: &str) {
    tell!("braid: WARNING: {message}");
}
