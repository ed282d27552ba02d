//! The arguments of the webhook, and its start.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use clap::Args;

use super::certificate::Certificate;
use super::server::Server;
use super::validator::{Cluster, FailurePolicy, Validator};
use crate::cli::validate::{self as files, ValidateArgs};
use crate::cli::{CliError, Outcome};
use crate::request::variable;

/// The arguments of `validate`, the webhook's included.
#[derive(Debug, Args)]
pub(in crate::cli) struct Validate {
    #[command(flatten)]
    files: ValidateArgs,
    #[command(flatten)]
    webhook: Webhook,
}

/// The arguments of `validate` that are about the webhook.
#[derive(Debug, Args)]
struct Webhook {
    /// Serve a validating admission webhook at this address
    #[arg(id = "webhook", long = "webhook", value_name = "ADDR", requires_all = ["tls_cert_file", "tls_key_file"])]
    address: Option<Address>,
    /// The webhook's certificate in PEM, which is read again when it changes
    #[arg(long, value_name = "FILE", requires = "webhook")]
    tls_cert_file: Option<PathBuf>,
    /// The certificate's private key in PEM, which is read again when it changes
    #[arg(long, value_name = "FILE", requires = "webhook")]
    tls_key_file: Option<PathBuf>,
    /// Whether to admit what the webhook cannot check
    #[arg(long, value_enum, value_name = "POLICY", default_value_t = FailurePolicy::Fail, requires = "webhook")]
    failure_policy: FailurePolicy,
    /// The credentials for looking up definitions [default: the cluster that it runs in]
    #[arg(long, value_name = "FILE", requires = "webhook")]
    kubeconfig: Option<PathBuf>,
}

/// An address to listen at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Address {
    /// This one.
    One(SocketAddr),
    /// A port on every address of the machine.
    Every(u16),
}

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = "expected an IP address and a port, such as 0.0.0.0:9443, [::1]:9443 or :9443";
        match text.strip_prefix(':') {
            Some(port) => port.parse().map(Self::Every).map_err(|_| expected),
            None => text.parse().map(Self::One).map_err(|_| expected),
        }
    }
}

impl Address {
    fn listen(self) -> std::io::Result<TcpListener> {
        match self {
            Self::One(address) => TcpListener::bind(address),
            // If there is IPv6, its socket accepts IPv4 connections as well.
            Self::Every(port) => TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
                .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))),
        }
    }
}

/// Checks the given files or, as a webhook, the objects that an API server sends.
pub(in crate::cli) fn validate(args: &Validate) -> Outcome {
    match args.webhook.address {
        Some(address) => serve(address, args),
        None => files::validate(&args.files),
    }
}

/// Serves until it gets a signal to stop.
fn serve(address: Address, args: &Validate) -> Outcome {
    let Webhook { tls_cert_file: Some(chain), tls_key_file: Some(key), .. } = &args.webhook else {
        return Err(CliError::Plain("--webhook needs --tls-cert-file and --tls-key-file".into()));
    };
    // Problems with the configurations themselves are reported once, and not for every pod.
    let given = files::validate_files(&args.files, None)?;
    let certificate = Certificate::read(chain.clone(), key.clone()).map_err(CliError::Plain)?;
    let cluster = match &args.webhook.kubeconfig {
        Some(path) => Some(Cluster { kubeconfig: Some(path.clone()) }),
        None if is_in_cluster()? => Some(Cluster { kubeconfig: None }),
        None => None,
    };
    if cluster.is_none() {
        eprint_line!(
            "braid: WARNING: there is no --kubeconfig, and this process runs in no cluster: only the definitions given are known"
        );
    }
    let listener = address.listen().map_err(|error| {
        let at = match address {
            Address::One(address) => address.to_string(),
            Address::Every(port) => format!(":{port}"),
        };
        CliError::Plain(format!("cannot listen at {at}: {error}"))
    })?;
    let validator = Validator { given, cluster, failure_policy: args.webhook.failure_policy };
    Server { listener, certificate, validator }.run()?;
    Ok(ExitCode::SUCCESS)
}

fn is_in_cluster() -> Result<bool, CliError> {
    let is_set = |name| Ok::<_, CliError>(variable(name)?.is_some_and(|value| !value.is_empty()));
    Ok(is_set("KUBERNETES_SERVICE_HOST")? && is_set("KUBERNETES_SERVICE_PORT")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_port() {
        assert_eq!(":9443".parse(), Ok(Address::Every(9443)));
        assert_eq!("[::1]:9443".parse(), Ok(Address::One((Ipv6Addr::LOCALHOST, 9443).into())));
        for text in ["", ":", ":x", ":70000", "9443", "127.0.0.1", "localhost:9443", "::1:9443x"] {
            assert!(text.parse::<Address>().is_err(), "{text:?}");
        }
    }
}
