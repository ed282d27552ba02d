//! The `braid` executable: hands over to the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    braid_cni::run()
}
