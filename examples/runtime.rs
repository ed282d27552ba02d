//! A small container runtime: attaches a network namespace to a network, runs a command in it, and detaches it again.
//!
//! ```console
//! # ip netns add blue
//! # cargo run --example runtime -- /etc/cni/net.d /opt/cni/bin mynet /run/netns/blue ip address
//! ```
//!
//! Results are kept in libcni's directory, so that other tools find them. `--cache DIR` as the first argument changes that.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use braid_cni::runtime::{Attachment, Networks, load};

const USAGE: &str = "usage: runtime [--cache DIR] CONF-DIR PLUGIN-DIRS NETWORK NETNS COMMAND...";

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let cache = words.first().is_some_and(|word| word == "--cache").then(|| words.drain(..2).nth(1)).flatten();
    let [conf_dir, plugin_dirs, name, netns, command @ ..] = words.as_slice() else { return Err(USAGE.into()) };
    let [program, arguments @ ..] = command else { return Err(USAGE.into()) };

    let mut networks = Networks::new(plugin_dirs);
    if let Some(cache) = cache {
        networks = networks.with_cache_dir(&PathBuf::from(cache));
    }
    let found = load::by_name(Path::new(conf_dir), name)?;
    for skipped in &found.skipped {
        eprintln!("passed over {skipped}");
    }
    let network = found.loaded.ok_or_else(|| format!("no network is called {name:?} in {conf_dir}"))?.network;
    networks.validate(&network)?;

    let id = format!("example-{}", std::process::id());
    let eth0 = Attachment::new(&id, netns, "eth0");
    let result = networks.add(&network, &eth0)?;
    for ip in &result.parsed.ips {
        eprintln!("{id} has {}", ip.address);
    }
    // From here on there is something to undo, whatever happens.
    let status = Command::new("nsenter").arg(format!("--net={netns}")).arg(program).args(arguments).status();
    let checked = networks.check(&network, &eth0);
    networks.del(&network, &eth0)?;
    checked?;
    Ok(ExitCode::from(u8::try_from(status?.code().unwrap_or(1))?))
}
