//! The command line: what runs when `CNI_COMMAND` is not set.

/// Writes a line to standard error. If that fails, the command goes on, where the standard library's macro panics.
macro_rules! eprint_line {
    ($($words:tt)*) => {{
        use ::std::io::Write as _;
        drop(writeln!(::std::io::stderr(), $($words)*));
    }};
}

#[cfg(feature = "kubernetes")]
mod agent;
mod attached;
mod doctor;
mod inspect;
mod install;
mod live;
#[cfg(feature = "kubernetes")]
mod manifest_devices;
#[cfg(feature = "kubernetes")]
mod manifests;
mod metrics;
mod operations;
mod options;
mod outcome;
mod paths;
mod plan;
mod run;
mod table;
mod validate;
#[cfg(feature = "kubernetes")]
mod webhook;

#[cfg(not(feature = "kubernetes"))]
use validate as validating;
/// What `validate` is: with Kubernetes, a webhook too.
#[cfg(feature = "kubernetes")]
use webhook as validating;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::answer;
use crate::config::LogConfig;
use options::{AttachmentArgs, Format, StateDir};
use outcome::{CliError, Outcome, print};

const AFTER_HELP: &str = "\
Examples:
  braid validate /etc/cni/net.d             is anything wrong with the configurations?
  braid plan pods --explain                 which plugins would run for a container, and why?
  braid run pods -- ip addr                 try a network, leaving nothing behind
  braid add pods web                        attach the namespace that `ip netns add web` made
  braid list                                what is attached on this machine?
  braid doctor                              is anything wrong with this machine?

Networks are looked up by name in NETCONFPATH (/etc/cni/net.d), plugins in CNI_PATH (/opt/cni/bin).
`braid help COMMAND` says more about each command.";

const AFTER_ADD: &str = "\
Environment: NETCONFPATH, CNI_PATH, CNI_ARGS, CAP_ARGS (a JSON object) and CNI_IFNAME, as for cnitool.

Examples:
  ip netns add web && braid add pods web
  braid add ./pods.conflist /proc/4711/ns/net --container-id web -i eth1
  CNI_ARGS='IgnoreUnknown=1;K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web-0' braid add pods web
  CAP_ARGS='{\"portMappings\":[{\"hostPort\":8080,\"containerPort\":80,\"protocol\":\"tcp\"}]}' braid add pods web";

const AFTER_CHECK: &str = "\
Give what `braid add` was given, the environment included. Exit status 0: all is as it was left.

Examples:
  braid check pods web
  braid check pods /proc/4711/ns/net --container-id web -i eth1";

const AFTER_DEL: &str = "\
Give what `braid add` was given. It succeeds where nothing is attached, and where the namespace has gone.

Examples:
  braid del pods web && ip netns del web
  braid del pods /proc/4711/ns/net --container-id web -i eth1";

const AFTER_GC: &str = "\
Without --valid, everything that was attached to the network with this cache of results is detached.

Examples:
  braid gc pods --valid web/eth0 --valid db/eth0";

const AFTER_VALIDATE: &str = "\
Of Kubernetes manifests (.yaml, .yml, .json) it reads NetworkAttachmentDefinitions, pods, and what pods are made from. What is
given together is checked together: pods by the definitions and by the rules of Braid's configuration, if any are given.
Exit status 0: nothing is wrong; warnings and notes do not count. 1: something is.
With --webhook, an API server asks the same about definitions and pods: `POST /validate` takes an AdmissionReview
(admission.k8s.io/v1), `GET /healthz` says that it serves. Pods are checked by the configurations that are given, and by the
definitions of the cluster. What cannot be checked, as when the API server does not answer, is refused, or admitted with a
warning where --failure-policy is `ignore`. It ends on SIGTERM.

Examples:
  braid validate /etc/cni/net.d
  braid validate manifests/ /etc/cni/net.d/00-braid.conflist
  CNI_PATH=/usr/lib/cni braid validate pods.conflist
  braid validate --webhook :9443 --tls-cert-file tls.crt --tls-key-file tls.key 00-braid.conflist";

const AFTER_PLAN: &str = "\
With --pod, and if that pod runs on this node, it also says which of its networks are attached, and which attachments the pod
no longer asks for.
Exit status 0: ADD would find all its plugins. 1: it would not, or could not make a plan.

Examples:
  braid plan pods --explain
  braid plan ./pods.conflist --args 'K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web-0' -o json";

const AFTER_LIST: &str = "\
A configuration with a `stateDir` of its own needs --state-dir.

States: attached; unfinished, where ADD is running or has crashed; clean-up owed, where a plugin failed to undo its part and
the next DEL tries again; left behind, where the container is gone and nobody has called DEL; parked, where DEL has given up on
what is owed, and GC tries again; unusable, where a journal is damaged and was set aside. The last two have the ID of a debt.

Examples:
  braid list
  braid list -o json | jq -r '.[] | select(.state != \"attached\") | .containerID'";

const AFTER_METRICS: &str = "\
NETCONFPATH is where the configurations are whose address pools are counted, beside those of what is attached.

Example:
  braid metrics >braid.prom.new && mv braid.prom.new /var/lib/prometheus/node-exporter/braid.prom";

const AFTER_DOCTOR: &str = "\
It looks at the state directories, libcni's cached results, the addresses of host-local, the interfaces of the host, the
configurations in NETCONFPATH and the plugins in CNI_PATH. What a container has whose network namespace is held by anything is
never touched, and what is not known counts as alive. docs/operations.md says what each finding means.
Exit status 0: nothing is wrong, or --fix has mended it all. 1: something is.

Examples:
  braid doctor
  braid doctor --fix
  braid doctor --forget 3f9a61/eth0
  braid doctor -o json | jq -r '.[] | .kind + \" \" + .subject'";

const AFTER_ATTACH: &str = "\
Several networks are one transaction: all of them, or none. NETCONFPATH and CNI_PATH are as for `braid add`.

Examples:
  braid attach web storage
  braid attach web lan@lan0 kube-system/storage
  braid attach web '{\"interface\":\"lan0\",\"config\":{\"cniVersion\":\"1.0.0\",\"name\":\"lan\",\"type\":\"macvlan\",\"master\":\"eth0\"}}'";

const AFTER_DETACH: &str = "\
It needs neither a configuration nor an API server. The primary network goes with DEL.

Example:
  braid detach web net1";

const AFTER_SYNC: &str = "\
It asks the API server for the pod, and holds the pod's annotation against the container's journal. The primary network, the
operator's own networks and what `braid attach` has attached stay.
With --network, the whole ID may be that of a container which another plugin has attached, as long as the runtime's
libcni keeps its result in CNI_CACHE_DIR (/var/lib/cni). Its networks are attached if the configuration says \"repair\": true.
Exit status 0: the container has what its pod asks for, or goes away. 1: something failed, and the output says what.

Examples:
  braid sync web --dry-run
  braid sync 4fd8a1 -o json | jq .failed";

const AFTER_UPDATE: &str = "\
Limits are changed without losing a packet. If a plugin refuses its new values, the old ones stay in force.

Examples:
  braid update web eth0 --bandwidth ingress=50M,egress=20M
  braid update web eth0 --bandwidth egress=none
  braid update web eth0 --port-mappings 8080:80/tcp,5353:53/udp
  braid update web eth0 --plugin tuning --set mtu=1400 --dry-run";

#[cfg(feature = "kubernetes")]
const AFTER_AGENT: &str = "\
It runs until it gets SIGTERM. Nothing else needs it. docs/agent.md says what it does and which rights it has.

Examples:
  braid agent --kubeconfig /etc/cni/net.d/braid.d/kubeconfig
  braid agent --node worker-1 --concurrency 8 --listen none";

/// Attaches containers to several networks, in one transaction.
///
/// As a CNI plugin Braid is called by a container runtime, through the environment and standard input. On the command
/// line it calls plugins as a runtime does, checks configurations, and lists what is attached.
#[derive(Debug, Parser)]
#[command(name = "braid", version, max_term_width = 100, arg_required_else_help = true, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Attach a network namespace to a network, and print the result
    #[command(after_help = AFTER_ADD)]
    Add(AttachmentArgs),
    /// Check that an attachment is as `add` left it
    #[command(after_help = AFTER_CHECK)]
    Check(AttachmentArgs),
    /// Detach a network namespace from a network
    #[command(after_help = AFTER_DEL)]
    Del(AttachmentArgs),
    /// Clean up what belongs to attachments other than those given
    #[command(after_help = AFTER_GC)]
    Gc {
        /// The network: its name, or its configuration's file
        network: String,
        /// An attachment that is still valid
        #[arg(long = "valid", value_name = "CONTAINER/INTERFACE")]
        valid: Vec<String>,
        /// A network namespace, as cnitool takes one; it does not matter
        netns: Option<PathBuf>,
    },
    /// Ask whether a network is ready
    Status {
        /// The network: its name, or its configuration's file
        network: String,
        /// A network namespace, as cnitool takes one; it does not matter
        netns: Option<PathBuf>,
    },
    /// Run a command in a fresh network namespace joined to networks, and clean up after it, whatever ends it
    Run(run::Run),
    /// Say of each configuration and Kubernetes manifest what is wrong with it, and where
    #[command(after_help = AFTER_VALIDATE)]
    Validate(validating::Validate),
    /// Print what ADD would run, running nothing
    #[command(after_help = AFTER_PLAN)]
    Plan(plan::PlanArgs),
    /// Show the attachments on this machine
    #[command(after_help = AFTER_LIST)]
    List {
        #[command(flatten)]
        state: StateDir,
        /// How to print them
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        output: Format,
    },
    /// Show all that is known of a container's attachments
    Show {
        /// The container's ID, or the beginning of it
        container: String,
        #[command(flatten)]
        state: StateDir,
        /// How to print them
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        output: Format,
    },
    /// Print gauges of this node for Prometheus, as the node exporter's textfile collector takes them
    #[command(after_help = AFTER_METRICS)]
    Metrics(StateDir),
    /// Say what is wrong with this node and what mends it: leaks, debts, hidden configurations, missing plugins
    #[command(after_help = AFTER_DOCTOR)]
    Doctor(doctor::Doctor),
    /// Attach a container that lives to more networks, and print its result as of now
    #[command(after_help = AFTER_ATTACH)]
    Attach(live::Attach),
    /// Detach a container that lives from networks, by their interfaces
    #[command(after_help = AFTER_DETACH)]
    Detach(live::Detach),
    /// Give plugins of a container that lives new values: limits, port mappings, a firewall, tuned parameters
    #[command(after_help = AFTER_UPDATE)]
    Update(live::UpdateArgs),
    /// Bring a container that lives to what its pod asks for now
    #[command(after_help = AFTER_SYNC)]
    Sync(live::Sync),
    /// Put Braid on this Kubernetes node, in front of its primary network, and keep it there
    Install(install::Install),
    /// Take Braid off this Kubernetes node
    Uninstall(install::Uninstall),
    /// Give the pods of this Kubernetes node what they ask for while they live
    #[cfg(feature = "kubernetes")]
    #[command(after_help = AFTER_AGENT)]
    Agent(agent::AgentArgs),
    /// Run a program in the mount and network namespaces of a process
    #[cfg(feature = "kubernetes")]
    #[command(hide = true)]
    Enter(agent::Enter),
    /// Print a script that completes this command line in a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
}

impl Command {
    /// What is logged.
    fn log(&self) -> LogConfig {
        match self {
            #[cfg(feature = "kubernetes")]
            Self::Agent(args) => args.log(),
            _ => LogConfig::default(),
        }
    }
}

/// Runs the command line.
pub(crate) fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    crate::log::start(&cli.command.log(), &[]);
    let outcome = match cli.command {
        Command::Add(attachment) => operations::add(&attachment),
        Command::Check(attachment) => operations::check(&attachment),
        Command::Del(attachment) => operations::del(&attachment),
        Command::Gc { network, valid, netns: _ } => operations::gc(&network, &valid),
        Command::Status { network, netns: _ } => operations::status(&network),
        Command::Run(run) => run::run(&run),
        Command::Validate(args) => validating::validate(&args),
        Command::Plan(args) => plan::plan(&args),
        Command::List { state, output } => inspect::list(&state.state_dir, output),
        Command::Show { container, state, output } => inspect::show(&container, &state.state_dir, output),
        Command::Metrics(state) => metrics::metrics(&state.state_dir),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Attach(args) => live::attach(&args),
        Command::Detach(args) => live::detach(&args),
        Command::Update(args) => live::update(&args),
        Command::Sync(args) => live::sync(&args),
        Command::Install(args) => install::install(&args),
        Command::Uninstall(args) => install::uninstall(&args),
        #[cfg(feature = "kubernetes")]
        Command::Agent(args) => agent::agent(&args),
        #[cfg(feature = "kubernetes")]
        Command::Enter(args) => agent::enter(&args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "braid", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
        Command::Man => manual(),
    };
    match outcome {
        Ok(code) => code,
        Err(CliError::Printed) => ExitCode::FAILURE,
        Err(CliError::Plain(message)) => {
            eprint_line!("braid: {}", table::message(&message));
            ExitCode::FAILURE
        }
        Err(CliError::Reported(error, whole)) => {
            eprint_line!("braid: {}", table::message(&error.to_string()));
            drop(answer::write(&whole));
            ExitCode::FAILURE
        }
        Err(CliError::Cni(error, version)) => {
            eprint_line!("braid: {}", table::message(&error.to_string()));
            drop(answer::write_cni_error(&error, version));
            ExitCode::FAILURE
        }
    }
}

fn manual() -> Outcome {
    let mut page = Vec::new();
    let command = Cli::command();
    let man = clap_mangen::Man::new(command.clone());
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
        let name = format!("braid {}", subcommand.get_name());
        let mut section = Vec::new();
        let man = clap_mangen::Man::new(subcommand.clone().bin_name(name.clone()).display_name(name.clone()));
        man.render_description_section(&mut section)?;
        man.render_options_section(&mut section)?;
        let section = String::from_utf8_lossy(&section)
            .replace(".SH DESCRIPTION", &format!(".SH \"{}\"", name.to_uppercase()))
            .replace(".SH OPTIONS", ".PP");
        page.extend_from_slice(section.as_bytes());
    }
    page.extend_from_slice(include_bytes!("../../docs/man/epilogue.roff"));
    print(&String::from_utf8_lossy(&page))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
