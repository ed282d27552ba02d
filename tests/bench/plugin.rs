//! The plugin of the benchmark: reads all of its standard input, answers ADD with a fixed result, and does nothing.
//!
//! Three keys of its configuration change that: `benchSleep`, in milliseconds, `benchAnswer`, the least size of the
//! result in bytes, and `benchFail`, with which ADD fails. They are found by their text, since parsing JSON would be most of what the plugin does.

#![expect(clippy::disallowed_methods, reason = "a plugin of its own, not a part of Braid")]

mod answer;

use std::io::{self, Read as _, Write as _};
use std::time::Duration;

fn main() -> io::Result<()> {
    let mut stdin = Vec::with_capacity(8 << 10);
    io::stdin().read_to_end(&mut stdin)?;
    let number = |key: &str| answer::number_after(&stdin, key);
    if let Some(sleep) = number("\"benchSleep\":") {
        std::thread::sleep(Duration::from_millis(sleep as u64));
    }
    if std::env::var("CNI_COMMAND").as_deref() == Ok("ADD") {
        if number("\"benchFail\":").is_some() {
            return Err(io::Error::other("told to fail"));
        }
        let ifname = std::env::var("CNI_IFNAME").unwrap_or_default();
        io::stdout().write_all(answer::answer(&ifname, number("\"benchAnswer\":").unwrap_or(0)).as_bytes())?;
    }
    Ok(())
}
