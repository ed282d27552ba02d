//! The `braid` executable: hands over to the library.
#![cfg_attr(target_env = "gnu", no_main)]

/// What the C library calls. Rust's own start would come first, and be a twentieth of a small ADD.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "the C library looks for this name")]
#[unsafe(no_mangle)]
extern "C" fn main() -> i32 {
    braid_cni::run_bare()
}

#[cfg(not(target_env = "gnu"))]
fn main() -> std::process::ExitCode {
    braid_cni::run()
}
