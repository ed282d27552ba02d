//! The `braid` executable: hands over to the library.

use std::process::ExitCode;

/// In place of musl's, which gives memory back to the kernel all the time. Each time, every processor that has run a thread of
/// this process is interrupted.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// Runs before Rust's own start, which puts `/dev/null` in the place of a standard output that is closed: an answer that nobody
/// gets is a failure, so that what stands there must refuse to be written.
#[expect(unsafe_code, reason = "what is in this section is run before anything else")]
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_START: extern "C" fn() = braid_cni::refuse_closed_stdout;

#[expect(clippy::disallowed_methods, reason = "arguments come in here")]
fn main() -> ExitCode {
    braid_cni::run(std::env::args_os())
}
