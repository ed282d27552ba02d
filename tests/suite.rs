//! The suite: Braid as a runtime meets it, through its executable.
//!
//! Each test drives the built `braid` on a host of its own, two network namespaces and a folder, and says what must
//! come of it. Run it with `tests/run.sh`, which installs what the tests need, or `cargo test` as root.

#![expect(clippy::disallowed_methods, reason = "the rules are for the plugin; the tests read their own environment")]

/// The builder, the recording plugin, the snapshots.
mod support;

/// The harness itself, without Braid.
mod harness;

/// What goes over the wire.
mod protocol {
    /// Input that must be refused, and how.
    mod bad_input;
    /// The log: one line an event, with what it is about.
    mod logs;
    /// Plugins that crash, hang, flood or answer nonsense.
    mod misbehaviour;
    /// What each plugin gets on standard input and in its environment.
    mod requests;
    /// What the runtime gets back.
    mod results;
    /// What a call reports to a listener, and traces.
    mod telemetry;
    /// GC and STATUS: what they need, whom they ask, and what they leave alone.
    mod upkeep;
    /// VERSION, CHECK, STATUS, GC, and calls that come when they should not.
    mod verbs;
}

/// What is attached under which name.
mod plan {
    /// Names of interfaces and networks.
    mod naming;
    /// What `optional` forgives.
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
    /// Braid killed half-way.
    mod crash;
    /// The order of calls forward and back, and what a failed clean-up leaves to do.
    mod order;
}

/// Nothing lost, nothing left: faults, load, bad and hostile input.
mod faults {
    /// Debts: what DEL cannot undo.
    mod debts;
    /// A file system that does not answer.
    mod frozen;
    /// Every parser on mutated input.
    mod fuzz;
    /// What a pod's author or a runtime can write: refused or harmless, and no secret is shown.
    mod hostile;
    /// Braid killed anywhere, and what it leaves to the DEL that follows.
    mod killed;
    /// Few descriptors, small files, ignored signals: what a careless parent starts Braid with.
    mod limits;
    /// Many calls at once, and many in a row.
    mod load;
    /// Plugins that hang, lie, flood, vanish or are replaced.
    mod plugins;
    /// The state directory full, read-only, gone, torn and replaced.
    mod state;
    /// Readers that do not read, signals that are refused, answers without end: every wait has an end.
    mod waits;
    /// Namespaces, interfaces, addresses and configurations that change between calls.
    mod world;
}

/// Containers that change while they live.
mod live;

/// Real networks.
mod networks {
    /// `"concurrency": "auto"` with the reference plugins.
    mod at_once;
    /// CHECK of what real plugins make, and of what other plugins change after Braid.
    mod check;
    /// The default route on another network than the first.
    mod default_route;
    /// The reference plugins, in Braid and around it.
    mod reference;
}

/// Braid as its library and as a runtime of its own.
mod library {
    /// The programs in `examples/`.
    mod examples;
    /// The same calls through libcni's cnitool, where the machine has one.
    mod oracle;
    /// The examples of the specification's appendix.
    mod specification;
}

/// Real container runtimes, each on a machine of its own: the `/etc/cni`, `/opt/cni`, state and packet filters of the
/// machine that the tests run on are not seen, let alone touched.
mod runtimes {
    /// containerd, by its own client.
    mod containerd;
    /// Pods as the kubelet makes them, through containerd's CRI plugin.
    #[cfg(feature = "kubernetes")]
    mod cri;
    /// The container image that installs Braid on a node.
    mod image;
    /// The networks that the runtimes are given.
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
    /// `add`, `check` and `del` where cnitool would be: its environment, its files.
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
    /// What commands print, as the pages show it.
    mod screens;
}

/// What users download.
mod release {
    /// The archives, and what holds for all downloads.
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

/// Braid put on a node, and taken off it.
#[path = "kubernetes/install.rs"]
mod install;

/// What nodes differ in: file systems, labels, versions, and what somebody changes between `install` and `uninstall`.
#[path = "kubernetes/node.rs"]
mod node;

/// Nodes that Multus served before.
#[path = "kubernetes/takeover.rs"]
mod takeover;
