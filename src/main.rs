//! The `braid` executable: hands over to the library.
#![no_main]

use std::ffi::{CStr, OsStr, c_char, c_int};
use std::os::unix::ffi::OsStrExt;

/// In place of musl's, which gives memory back to the kernel all the time. Each time, every processor is interrupted that has
/// run a process with this memory, and the holder of the plugins is one.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// What the C library calls. Rust's own start would come first, and be a twentieth of a small ADD.
#[expect(unsafe_code, reason = "the C library looks for this name, and gives pointers")]
#[unsafe(no_mangle)]
extern "C" fn main(count: c_int, words: *const *const c_char) -> c_int {
    let words = (0..usize::try_from(count).unwrap_or(0)).map(|at| {
        // SAFETY: `at` is less than `count`; there are so many strings, for as long as the process is there.
        let word = unsafe { CStr::from_ptr(*words.add(at)) };
        OsStr::from_bytes(word.to_bytes()).to_owned()
    });
    braid_cni::run(words)
}
