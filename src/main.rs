//! The `braid` executable: hands over to the library.

use std::process::ExitCode;

/// Replaces musl's allocator, which returns memory to the kernel all the time. Each time, every processor that has run a thread of
/// this process is interrupted.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// Runs before Rust's own start-up, which would replace a closed standard output with `/dev/null`. An answer that nobody gets must
/// be a failure, so writing to it must fail.
#[expect(unsafe_code, reason = "what is in this section is run before anything else")]
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_START: extern "C" fn() = braid_cni::refuse_closed_stdout;

#[expect(clippy::disallowed_methods, reason = "arguments come in here")]
fn main() -> ExitCode {
    braid_cni::run(std::env::args_os())
}
