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
    /// Plugins that crash, hang, flood or answer nonsense.
    mod misbehaviour;
    /// What each plugin gets on standard input and in its environment.
    mod requests;
    /// What the runtime gets back.
    mod results;
    /// VERSION, CHECK, STATUS, GC, and calls that come when they should not.
    mod verbs;
}

/// What is attached under which name.
mod plan {
    /// Names of interfaces and networks.
    mod naming;
    /// Selections: what they ask for, and when they apply.
    mod selectors;
}

/// All or nothing.
mod transaction {
    /// Braid killed half-way.
    mod crash;
    /// The order of calls forward and back, and what a failed clean-up leaves to do.
    mod order;
}

/// Nothing lost, nothing left: faults, load, bad and hostile input.
mod faults {
    /// Every parser on mutated input.
    mod fuzz;
    /// What a pod's author or a runtime can write: refused or harmless, and no secret told.
    mod hostile;
    /// Braid killed anywhere, and what it leaves to the DEL that follows.
    mod killed;
    /// Many calls at once, and many in a row.
    mod load;
    /// Plugins that hang, lie, flood, vanish or are replaced.
    mod plugins;
    /// The state directory full, read-only, gone, torn and replaced.
    mod state;
    /// Namespaces, interfaces, addresses and configurations that change between calls.
    mod world;
}

/// Real networks.
mod networks {
    /// The default route on another network than the first.
    mod default_route;
    /// The reference plugins, in Braid and around it.
    mod reference;
}
