//! A chained CNI plugin: adds name servers and search domains to the result of the plugins before it.
//!
//! ```json
//! {"cniVersion": "1.1.0", "name": "mynet", "plugins": [
//!     {"type": "bridge", "ipam": {"type": "host-local", "subnet": "10.1.0.0/16"}},
//!     {"type": "chained-plugin", "nameservers": ["10.1.0.1"], "search": ["example.org"]}
//! ]}
//! ```

use std::net::IpAddr;
use std::process::ExitCode;

use braid_cni::cni::{AddResult, CniError};
use braid_cni::plugin::{self, Call, Plugin};

#[derive(serde::Deserialize)]
struct Config {
    nameservers: Vec<IpAddr>,
    #[serde(default)]
    search: Vec<String>,
}

struct NameServers;

impl Plugin for NameServers {
    fn add(&self, call: &Call) -> Result<AddResult, CniError> {
        let config: Config = call.config()?;
        let mut result = call.chained()?.clone();
        result.dns.nameservers.extend(config.nameservers.iter().map(IpAddr::to_string));
        result.dns.search.extend(config.search);
        Ok(result)
    }

    fn del(&self, _call: &Call) -> Result<(), CniError> {
        Ok(()) // It only adds to the result, so there is nothing to undo.
    }

    fn check(&self, call: &Call) -> Result<(), CniError> {
        let (config, result): (Config, _) = (call.config()?, call.chained()?);
        match config.nameservers.iter().find(|server| !result.dns.nameservers.contains(&server.to_string())) {
            Some(server) => Err(CniError::new(101, format!("the result has lost the name server {server}"))),
            None => Ok(()),
        }
    }
}

fn main() -> ExitCode {
    plugin::run(&NameServers)
}
