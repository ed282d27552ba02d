//! `run`: a command in a new network namespace that is attached to networks.
//!
//! Two processes share the work, so that if one of them dies, the other cleans up. The user starts the *front*. It starts the
//! *keeper*, waits for it, and cleans up if the keeper is killed. The keeper makes the namespace, attaches it, runs the command,
//! and cleans up when the command exits, when it gets a signal to stop, or when the front is gone. All names are derived from the
//! front's process ID, so that the processes need not exchange any.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus};

use clap::Args;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use super::operations::{network, networks, parameters};
use super::{CliError, Outcome};
use crate::cni::NetworkConfig;
use crate::cni::config::{Defaults, parse_object};
use crate::netns::Identity;
use crate::runtime::chain::Limits;
use crate::runtime::{Attachment, Networks, pidfd, undo_in_reverse};

/// The directory in which namespaces are mounted, as by `ip netns`.
const NAMESPACES: &str = "/run/netns";
/// The signals that ask for an end.
const ENDING: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// The arguments of `run`.
#[derive(Debug, Args)]
pub(super) struct Run {
    /// The networks, by name or path; the first is on eth0, the next on eth1, and so on
    #[arg(required = true, value_delimiter = ',', value_name = "NETWORK[,NETWORK…]")]
    networks: Vec<String>,
    /// The command and its arguments
    #[arg(required = true, last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    /// Be the keeper of this front.
    #[arg(long, hide = true, value_name = "PID")]
    keeper_of: Option<i32>,
}

pub(super) fn run(args: &Run) -> Outcome {
    match args.keeper_of {
        Some(front) => keeper(args, front),
        None => front(args),
    }
}

/// Everything that a run makes, by name.
struct Resources {
    namespace: PathBuf,
    networks: Networks,
    attachments: Vec<(NetworkConfig, Attachment)>,
}

impl Resources {
    fn new(args: &Run, front: i32) -> Result<Self, CliError> {
        let container_id = format!("braid-run-{front}");
        let namespace = Path::new(NAMESPACES).join(&container_id);
        let networks = networks()?;
        let parameters_on = |ifname| parameters(container_id.clone(), namespace.to_string_lossy().into_owned(), ifname);
        let mut attachments = Vec::new();
        // As every container runtime does, set the loopback interface up, if there is a plugin for it.
        let loopback = parse_object(br#"{"cniVersion":"0.4.0","name":"cni-loopback","type":"loopback"}"#)?;
        let loopback = NetworkConfig::from_object(loopback, Defaults::default())?;
        if networks.executables(&loopback).is_ok() {
            attachments.push((loopback, parameters_on("lo".to_owned())?));
        }
        for (index, name) in args.networks.iter().enumerate() {
            attachments.push((network(name)?, parameters_on(format!("eth{index}"))?));
        }
        Ok(Self { namespace, networks, attachments })
    }

    /// Undoes everything, the last network first. Reports what could not be undone.
    fn clean_up(&self) -> Result<(), CliError> {
        // Processes that the command has left running would keep the namespace alive.
        kill_inside(&self.namespace);
        let failures = undo_in_reverse(&self.attachments, Limits::default(), |(network, attachment), _| {
            self.networks.del(network, attachment)
        });
        for error in &failures {
            eprint_line!("braid: cannot clean up: {error}");
        }
        let mut failed = !failures.is_empty();
        if let Err(error) = remove_namespace(&self.namespace) {
            let message = format!("cannot remove {}: {error}", self.namespace.display());
            eprint_line!("braid: {message}");
            failed = true;
        }
        if failed { Err(CliError::Printed) } else { Ok(()) }
    }
}

/// What the user started.
fn front(args: &Run) -> Outcome {
    let own = Pid::this().as_raw();
    // Also made here, so that problems with the configuration are reported before anything is done.
    let resources = Resources::new(args, own)?;
    let signals = take_signals()?;
    let mut keeper = Command::new("/proc/self/exe")
        .arg0("braid")
        .arg("run")
        .arg(format!("--keeper-of={own}"))
        .arg(args.networks.join(","))
        .arg("--")
        .args(&args.command)
        .spawn()?;
    let status = wait_passing_on(&mut keeper, &signals, None)?;
    if status.signal().is_some() {
        // The keeper was killed, and the command may still be running.
        resources.clean_up()?;
    }
    Ok(exit_code(status))
}

/// What does the work.
fn keeper(args: &Run, front: i32) -> Outcome {
    let resources = Resources::new(args, front)?;
    let signals = take_signals()?;
    let front = pidfd(Pid::from_raw(front))?;
    make_namespace(&resources.namespace)?;
    let joined_and_ran = || -> Outcome {
        for (network, attachment) in &resources.attachments {
            // Standard output is the command's.
            resources.networks.add(network, attachment).map_err(|error| CliError::Plain(error.to_string()))?;
        }
        let mut child = match spawn_inside(&resources.namespace, &args.command) {
            Ok(child) => child,
            Err(error) => {
                eprint_line!("braid: cannot run {}: {error}", args.command[0].display());
                // As shells say it.
                return Ok(ExitCode::from(if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 }));
            }
        };
        Ok(exit_code(wait_passing_on(&mut child, &signals, Some(front.as_fd()))?))
    };
    let outcome = joined_and_ran();
    let cleaned = resources.clean_up();
    let code = outcome?;
    cleaned?;
    Ok(code)
}

/// Blocks the signals that ask for an end, so that they are read and do not kill the process.
fn take_signals() -> Result<SignalFd, CliError> {
    let set: SigSet = ENDING.into_iter().collect();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// Waits for a child, and passes signals on to it. If the process `alive` exits, the child is killed.
fn wait_passing_on(
    child: &mut Child,
    signals: &SignalFd,
    mut alive: Option<std::os::fd::BorrowedFd<'_>>,
) -> Result<ExitStatus, CliError> {
    let pid = Pid::from_raw(child.id().cast_signed());
    let ended = pidfd(pid)?;
    loop {
        let mut fds =
            vec![PollFd::new(ended.as_fd(), PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        fds.extend(alive.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        if ready[0] {
            return Ok(child.wait()?);
        }
        while let Ok(Some(signal)) = signals.read_signal() {
            // A signal from the terminal goes to the child too. Sending it twice does no harm.
            if let Ok(signal) = Signal::try_from(signal.ssi_signo.cast_signed()) {
                let _ = kill(pid, signal);
            }
        }
        if ready.get(2) == Some(&true) {
            alive = None;
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

/// Kills every process in a namespace.
fn kill_inside(namespace: &Path) {
    let Ok(identity) = Identity::of_file(namespace) else { return };
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(pid) = pid
            && Identity::of_file(&entry.path().join("ns/net")).is_ok_and(|other| other.is_same_file(&identity))
        {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let number = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(number & 0xff).unwrap_or(1))
}

/// Makes a network namespace and mounts it at `path`.
fn make_namespace(path: &Path) -> io::Result<()> {
    fs::create_dir_all(NAMESPACES)?;
    File::options().write(true).create_new(true).open(path)?;
    let made = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET)?;
                mount(Some("/proc/thread-self/ns/net"), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            })
            .join()
            .unwrap_or(Err(Errno::EIO))
    });
    if made.is_err() {
        fs::remove_file(path)?;
    }
    Ok(made?)
}

fn remove_namespace(path: &Path) -> io::Result<()> {
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(Errno::ENOENT | Errno::EINVAL) => {}
        Err(error) => return Err(error.into()),
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Starts a command in a namespace. A thread enters the namespace, starts the command, and ends.
fn spawn_inside(namespace: &Path, command: &[OsString]) -> io::Result<Child> {
    let file = File::open(namespace)?;
    std::thread::scope(|scope| {
        scope
            .spawn(|| -> io::Result<Child> {
                setns(&file, CloneFlags::CLONE_NEWNET)?;
                // The command must get its signals as usual.
                let set: SigSet = ENDING.into_iter().collect();
                set.thread_unblock()?;
                Command::new(&command[0]).args(&command[1..]).spawn()
            })
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread that starts the command panicked")))
    })
}
