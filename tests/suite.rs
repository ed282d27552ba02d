//! The suite: tests of Braid through its executable.
//!
//! Each test runs the built `braid` on a host of its own, two network namespaces and a folder, and checks the outcome. Run it with
//! `tests/run.sh`, which installs what the tests need, or `cargo test` as root.

#![expect(clippy::disallowed_methods, reason = "the rules are for the plugin; the tests read their own environment")]

/// The builder, the recording plugin, the snapshots.
mod support;

/// The harness itself, without Braid.
mod harness;

/// What goes over the wire.
mod protocol {
    /// Input that must be refused, and how.
    mod bad_input;
    /// The log: one line for each event, with fields about the call.
    mod logs;
    /// Plugins that crash, hang, flood or answer nonsense.
    mod misbehaviour;
    /// What each plugin gets on standard input and in its environment.
    mod requests;
    /// What the runtime gets back.
    mod results;
    /// The report of a call to an agent, and traces.
    mod telemetry;
    /// GC and STATUS: what they need, which plugins they call, and what they must not touch.
    mod upkeep;
    /// VERSION, CHECK, STATUS, GC, and calls that come in the wrong order.
    mod verbs;
}

/// What is attached under which name.
mod plan {
    /// Names of interfaces and networks.
    mod naming;
    /// Attachments that may fail, because they are `optional`.
    mod optional;
    /// Selections: what they ask for, and when they apply.
    mod selectors;
    /// What known plugins do with some configurations.
    mod traps;
}

/// All or nothing.
mod transaction {
    /// Plugins started ahead of their turns.
    mod ahead;
    /// `concurrency` on every operation.
    mod at_once;
    /// Braid killed during a call.
    mod crash;
    /// The order of calls in ADD and rollback, and what a failed clean-up leaves for later.
    mod order;
}

/// Faults, load, and hostile input: nothing is lost, and nothing is left.
mod faults {
    /// Debts: what DEL cannot undo.
    mod debts;
    /// A file system that does not answer.
    mod frozen;
    /// Every parser on mutated input.
    mod fuzz;
    /// Input from pods' authors and runtimes: rejected or harmless, and no secret is shown.
    mod hostile;
    /// Braid killed at any point, and what DEL has to undo afterwards.
    mod killed;
    /// Few descriptors, small files, ignored signals: a careless parent may start Braid like this.
    mod limits;
    /// Many calls at once, and many in a row.
    mod load;
    /// Plugins that hang, lie, flood, vanish or are replaced.
    mod plugins;
    /// The state directory full, read-only, gone, torn and replaced.
    mod state;
    /// Readers that do not read, signals that are refused, endless answers: every wait has a limit.
    mod waits;
    /// Namespaces, interfaces, addresses and configurations that change between calls.
    mod world;
}

/// Changes of running containers.
mod live;

/// Real networks.
mod networks {
    /// `"concurrency": "auto"` with the reference plugins.
    mod at_once;
    /// CHECK of what real plugins make, and of changes by plugins after Braid.
    mod check;
    /// The default route on another network than the first.
    mod default_route;
    /// The reference plugins, as delegates and around Braid.
    mod reference;
}

/// Braid as a library and as a runtime.
mod library {
    /// The programs in `examples/`.
    mod examples;
    /// The same calls through libcni's cnitool, if the machine has it.
    mod oracle;
    /// The examples of the specification's appendix.
    mod specification;
}

/// Real container runtimes, each on a machine of its own: they do not see or change the `/etc/cni`, `/opt/cni`, state and packet
/// filters of the machine that runs the tests.
mod runtimes {
    /// containerd, by its own client.
    mod containerd;
    /// Pods made through containerd's CRI plugin, as the kubelet does.
    #[cfg(feature = "kubernetes")]
    mod cri;
    /// The container image that installs Braid on a node.
    mod image;
    /// The networks of the runtimes.
    mod networks;
    /// podman with its CNI back end.
    mod podman;
}

/// The command line.
mod cli {
    /// `add`, `check`, `del` and `gc` of networks with several plugins.
    mod commands;
    /// `doctor`.
    mod doctor;
    /// `list` and `show`.
    mod inspect;
    /// `validate` with Kubernetes objects.
    #[cfg(feature = "kubernetes")]
    mod manifests;
    /// Metrics without an agent, alert rules and the dashboard.
    mod metrics;
    /// `add`, `check` and `del` in place of cnitool: its environment, its files.
    mod operations;
    /// `plan`.
    mod plan;
    /// `run`, and whatever can end it.
    mod run;
    /// Help, versions, wrong command lines, readers that go away.
    mod usage;
    /// `validate`.
    mod validate;
}

/// What users copy.
mod examples {
    /// The configurations in `conf/`.
    mod configurations;
    /// The scripts in `examples/`.
    mod scripts;
}

/// What users read.
mod documentation {
    /// Links between pages.
    mod links;
    /// The tests that the promises name.
    mod promises;
    /// The output of commands, as shown in the documentation.
    mod screens;
}

/// What users download.
mod release {
    /// The archives, and rules for all downloads.
    mod archives;
    /// The Helm chart.
    #[cfg(feature = "kubernetes")]
    mod chart;
    /// The packages.
    mod packages;
}

/// Pods of a Kubernetes cluster.
#[cfg(feature = "kubernetes")]
mod kubernetes;

/// Installing Braid on a node, and uninstalling it.
#[path = "kubernetes/install.rs"]
mod install;

/// Differences between nodes: file systems, labels, versions, and changes by others between `install` and `uninstall`.
#[path = "kubernetes/node.rs"]
mod node;

/// Nodes that Multus served before.
#[path = "kubernetes/takeover.rs"]
mod takeover;
