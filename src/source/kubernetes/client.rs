//! Connections to the API server.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::TryFutureExt as _;
use http::{HeaderValue, Uri};
use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::Client;
use kube::client::ConfigExt as _;
use tokio::net::TcpStream;
use tower::{BoxError, Service, ServiceBuilder};

use super::access::Access;
use super::api::with_causes;
use super::proxy::{Kind, Proxy};
use super::tls;

/// How long a connection may be idle before the kernel checks whether its other end still exists.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// A client like kube's own, with some changes. It disables Nagle's algorithm, which would delay the second of two small writes by
/// 40 ms. It offers HTTP/2, so that all requests share one connection. It uses a proxy as client-go does.
///
/// # Errors
/// When the credentials cannot be used, and why.
pub(super) fn connect(access: Access, patience: Duration) -> Result<Client, String> {
    let Access { config, identity, proxy, .. } = access;
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(patience));
    // A connection that is kept for long is closed when its other end no longer exists.
    tcp.set_keepalive(Some(KEEP_ALIVE));
    tcp.set_keepalive_interval(Some(KEEP_ALIVE / 3));
    tcp.set_keepalive_retries(Some(3));
    let tls = tls::client_config(&config, identity)?;
    let mut https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    if let Some(name) = &config.tls_server_name {
        let name = name.clone().try_into().map_err(|_| format!("tls-server-name {name:?} is no name of a server"))?;
        https = https.with_server_name_resolver(FixedServerNameResolver::new(name));
    }
    let connector = https.enable_all_versions().wrap_connector(Connector::new(tcp, proxy)?);
    let transport = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .layer(config.extra_headers_layer().map_err(|error| with_causes(&error))?)
        .map_err(BoxError::from)
        .service(transport);
    Ok(Client::new(service, config.default_namespace))
}

/// Connects directly to the server, or through a proxy.
#[derive(Clone)]
enum Connector {
    Direct(HttpConnector),
    /// With who names the proxy, for messages.
    Http(Tunnel<HttpConnector>, Arc<str>),
    Socks5(SocksV5<HttpConnector>, Arc<str>),
}

impl Connector {
    fn new(tcp: HttpConnector, proxy: Option<Proxy>) -> Result<Self, String> {
        let Some(Proxy { address, kind, user, origin }) = proxy else { return Ok(Self::Direct(tcp)) };
        let named_by = Arc::from(origin.as_str());
        match kind {
            Kind::Http => {
                let mut tunnel = Tunnel::new(address, tcp);
                if let Some((name, password)) = user {
                    let value = format!("Basic {}", BASE64.encode(format!("{name}:{password}")));
                    let value = HeaderValue::try_from(value)
                        .map_err(|_| format!("the name and password of {origin} cannot be used"))?;
                    tunnel = tunnel.with_auth(value);
                }
                Ok(Self::Http(tunnel, named_by))
            }
            Kind::Socks5 => {
                let mut socks = SocksV5::new(address, tcp);
                if let Some((name, password)) = user {
                    if name.len() > 255 || password.len() > 255 {
                        return Err(format!("the name or password of {origin} is longer than SOCKS has room for"));
                    }
                    socks = socks.with_auth(name, password);
                }
                Ok(Self::Socks5(socks, named_by))
            }
        }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self {
            Self::Direct(tcp) => tcp.poll_ready(context).map_err(BoxError::from),
            Self::Http(tunnel, named_by) => {
                tunnel.poll_ready(context).map_err(|error| ThroughProxy::of(named_by, error.into()))
            }
            Self::Socks5(socks, named_by) => {
                socks.poll_ready(context).map_err(|error| ThroughProxy::of(named_by, error.into()))
            }
        }
    }

    fn call(&mut self, server: Uri) -> Self::Future {
        match self {
            Self::Direct(tcp) => Box::pin(tcp.call(server).map_err(BoxError::from)),
            Self::Http(tunnel, named_by) => {
                let named_by = Arc::clone(named_by);
                Box::pin(tunnel.call(server).map_err(move |error| ThroughProxy::of(&named_by, error.into())))
            }
            Self::Socks5(socks, named_by) => {
                let named_by = Arc::clone(named_by);
                Box::pin(socks.call(server).map_err(move |error| ThroughProxy::of(&named_by, error.into())))
            }
        }
    }
}

/// A connection that a proxy did not make.
#[derive(Debug, thiserror::Error)]
#[error("through the proxy that {named_by} names")]
struct ThroughProxy {
    named_by: Arc<str>,
    source: BoxError,
}

impl ThroughProxy {
    fn of(named_by: &Arc<str>, source: BoxError) -> BoxError {
        Self { named_by: Arc::clone(named_by), source }.into()
    }
}
