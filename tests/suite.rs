//! The suite: Braid as a runtime meets it, through its executable.
//!
//! Each test drives the built `braid` on a host of its own, two network namespaces and a folder, and says what must
//! come of it. Run it with `tests/run.sh`, which installs what the tests need, or `cargo test` as root.

mod support;

/// The harness itself: the recording plugin and the snapshot, without Braid.
mod harness;
