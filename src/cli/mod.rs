//! The command line: what runs when `CNI_COMMAND` is not set.

/// Writes a line to standard error. If that fails, the command continues, whereas the standard library's macro panics.
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
mod help;
mod inspect;
mod install;
mod lazy;
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
/// The arguments of `validate`. With Kubernetes, they include the webhook's.
#[cfg(feature = "kubernetes")]
use webhook as validating;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::answer;
use crate::config::LogConfig;
use lazy::Lazy;
use options::{AttachmentArgs, Format, StateDir};
use outcome::{CliError, Outcome, print};

/// Attaches containers to several networks, in one transaction.
///
/// As a CNI plugin Braid is called by a container runtime, through the environment and standard input. On the command
/// line it calls plugins as a runtime does, checks configurations, and lists what is attached.
#[derive(Debug, Parser)]
#[command(name = "braid", version, max_term_width = 100, arg_required_else_help = true, after_help = help::AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Attach a network namespace to a network, and print the result
    #[command(after_help = help::AFTER_ADD)]
    Add(Lazy<AttachmentArgs>),
    /// Check that an attachment is still as `add` left it
    #[command(after_help = help::AFTER_CHECK)]
    Check(Lazy<AttachmentArgs>),
    /// Detach a network namespace from a network
    #[command(after_help = help::AFTER_DEL)]
    Del(Lazy<AttachmentArgs>),
    /// Detach all attachments of a network except those given
    #[command(after_help = help::AFTER_GC)]
    Gc {
        /// The network: its name, or the file of its configuration
        network: String,
        /// An attachment that is still valid
        #[arg(long = "valid", value_name = "CONTAINER/INTERFACE")]
        valid: Vec<String>,
        /// Not used: cnitool takes a network namespace here
        netns: Option<PathBuf>,
    },
    /// Ask whether a network is ready
    #[command(after_help = help::AFTER_STATUS)]
    Status {
        /// The network: its name, or the file of its configuration
        network: String,
        /// Not used: cnitool takes a network namespace here
        netns: Option<PathBuf>,
    },
    /// Run a command in a new network namespace that is attached to networks, and clean up afterwards
    #[command(after_help = help::AFTER_RUN)]
    Run(Lazy<run::Run>),
    /// Check configurations and Kubernetes manifests, and say what is wrong and where
    #[command(after_help = help::AFTER_VALIDATE)]
    Validate(Lazy<validating::Validate>),
    /// Print what ADD would run, and run nothing
    #[command(after_help = help::AFTER_PLAN)]
    Plan(Lazy<plan::PlanArgs>),
    /// Show the attachments on this machine
    #[command(after_help = help::AFTER_LIST)]
    List {
        #[command(flatten)]
        state: StateDir,
        /// How to print them
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        output: Format,
    },
    /// Show everything about a container's attachments
    #[command(after_help = help::AFTER_SHOW)]
    Show {
        /// The container's ID, or its first characters, or CONTAINER/INTERFACE as a debt is named
        container: String,
        #[command(flatten)]
        state: StateDir,
        /// How to print them
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        output: Format,
    },
    /// Print metrics of this node for Prometheus, for the node exporter's textfile collector
    #[command(after_help = help::AFTER_METRICS)]
    Metrics(Lazy<StateDir>),
    /// Say what is wrong with this node and how to mend it: leaks, debts, hidden configurations, missing plugins
    #[command(after_help = help::AFTER_DOCTOR)]
    Doctor(Lazy<doctor::Doctor>),
    /// Attach a running container to more networks, and print its current result
    #[command(after_help = help::AFTER_ATTACH)]
    Attach(Lazy<live::Attach>),
    /// Detach a running container from networks, by their interfaces
    #[command(after_help = help::AFTER_DETACH)]
    Detach(Lazy<live::Detach>),
    /// Give plugins of a running container new values: limits, port mappings, a firewall, tuned parameters
    #[command(after_help = help::AFTER_UPDATE)]
    Update(Lazy<live::UpdateArgs>),
    /// Give a running container what its pod asks for now
    #[command(after_help = help::AFTER_SYNC)]
    Sync(Lazy<live::Sync>),
    /// Put Braid on this Kubernetes node, in front of its primary network, and keep it there
    #[command(after_help = help::AFTER_INSTALL)]
    Install(Lazy<install::Install>),
    /// Remove Braid from this Kubernetes node
    #[command(after_help = help::AFTER_UNINSTALL)]
    Uninstall(Lazy<install::Uninstall>),
    /// Give running pods of this Kubernetes node the networks that they ask for
    #[cfg(feature = "kubernetes")]
    #[command(after_help = help::AFTER_AGENT)]
    Agent(Lazy<agent::AgentArgs>),
    /// Run a program in the mount and network namespaces of a process
    #[cfg(feature = "kubernetes")]
    #[command(hide = true)]
    Enter(Lazy<agent::Enter>),
    /// Print a script that completes Braid's commands and options in a shell
    #[command(after_help = help::AFTER_COMPLETIONS)]
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
            Self::Agent(Lazy(args)) => args.log(),
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
        Command::Add(Lazy(attachment)) => operations::add(&attachment),
        Command::Check(Lazy(attachment)) => operations::check(&attachment),
        Command::Del(Lazy(attachment)) => operations::del(&attachment),
        Command::Gc { network, valid, netns: _ } => operations::gc(&network, &valid),
        Command::Status { network, netns: _ } => operations::status(&network),
        Command::Run(Lazy(run)) => run::run(&run),
        Command::Validate(Lazy(args)) => validating::validate(&args),
        Command::Plan(Lazy(args)) => plan::plan(&args),
        Command::List { state, output } => inspect::list(&state.state_dir, output),
        Command::Show { container, state, output } => inspect::show(&container, &state.state_dir, output),
        Command::Metrics(Lazy(state)) => metrics::metrics(&state.state_dir),
        Command::Doctor(Lazy(args)) => doctor::doctor(&args),
        Command::Attach(Lazy(args)) => live::attach(&args),
        Command::Detach(Lazy(args)) => live::detach(&args),
        Command::Update(Lazy(args)) => live::update(&args),
        Command::Sync(Lazy(args)) => live::sync(&args),
        Command::Install(Lazy(args)) => install::install(&args),
        Command::Uninstall(Lazy(args)) => install::uninstall(&args),
        #[cfg(feature = "kubernetes")]
        Command::Agent(Lazy(args)) => agent::agent(&args),
        #[cfg(feature = "kubernetes")]
        Command::Enter(Lazy(args)) => agent::enter(&args),
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
