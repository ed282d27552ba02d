//! Which proxy to use for the API server, by the rules of client-go.
//!
//! A `proxy-url` of the kubeconfig is always used. Otherwise `HTTPS_PROXY` is used (`HTTP_PROXY` for a server without TLS) unless
//! `NO_PROXY` matches the server: by names and their subdomains, `.suffixes`, `*.suffixes`, addresses, CIDRs, each but the last
//! with a port if one is given, or `*` for everything. A server on this machine never has a proxy.

use std::net::IpAddr;

use http::Uri;
use ipnet::IpNet;

use super::access::without_userinfo;
use crate::request::variable;

/// A proxy.
pub(super) struct Proxy {
    /// Its address, without name and password.
    pub(super) address: Uri,
    /// How it is asked for a connection.
    pub(super) kind: Kind,
    /// The name and password to show it.
    pub(super) user: Option<(String, String)>,
    /// Who names it, for messages.
    pub(super) origin: String,
}

/// How a proxy is asked for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// By HTTP's CONNECT.
    Http,
    /// SOCKS 5. The proxy resolves host names.
    Socks5,
}

impl Proxy {
    /// Reads a proxy's address. `origin` is its source, for messages.
    ///
    /// # Errors
    /// When it cannot be used, without what may be a password.
    pub(super) fn parse(url: &str, origin: &str) -> Result<Self, String> {
        let (url, user) = without_userinfo(url.trim());
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", &url));
        let (kind, port) = match scheme.to_ascii_lowercase().as_str() {
            "http" => (Kind::Http, 80),
            "socks5" | "socks5h" => (Kind::Socks5, 1080),
            _ => {
                return Err(format!(
                    "{origin} names a proxy with {scheme:?}, and braid uses proxies with http:// and socks5://; name one of \
                     these, or have NO_PROXY cover the API server"
                ));
            }
        };
        let wrong = || format!("{origin} names no proxy such as http://192.0.2.1:3128");
        let authority = rest.split('/').next().unwrap_or_default();
        let authority: http::uri::Authority = authority.parse().map_err(|_| wrong())?;
        if authority.host().is_empty() {
            return Err(wrong());
        }
        let port = authority.port_u16().unwrap_or(port);
        let address = format!("http://{}:{port}/", authority.host()).parse().map_err(|_| wrong())?;
        Ok(Self { address, kind, user, origin: origin.into() })
    }
}

/// What the environment says of proxies.
#[derive(Debug, Default)]
pub(super) struct Environment {
    /// For a server with TLS: the variable, and its value.
    https: Option<(&'static str, String)>,
    /// For a server without.
    http: Option<(&'static str, String)>,
    /// The servers that need no proxy.
    exceptions: String,
}

impl Environment {
    pub(super) fn read() -> Result<Self, String> {
        Ok(Self {
            https: first(["HTTPS_PROXY", "https_proxy"])?,
            http: first(["HTTP_PROXY", "http_proxy"])?,
            exceptions: first(["NO_PROXY", "no_proxy"])?.map(|(_, value)| value).unwrap_or_default(),
        })
    }

    /// The proxy for a server, if one is configured.
    pub(super) fn proxy_for(&self, server: &Uri) -> Result<Option<Proxy>, String> {
        let (named, port) = if server.scheme_str() == Some("http") { (&self.http, 80) } else { (&self.https, 443) };
        let host = server.host().unwrap_or_default();
        let port = server.port_u16().unwrap_or(port);
        match named {
            Some((name, url)) if !is_excepted(&self.exceptions, host, port) => Proxy::parse(url, name).map(Some),
            _ => Ok(None),
        }
    }
}

fn first(names: [&'static str; 2]) -> Result<Option<(&'static str, String)>, String> {
    for name in names {
        match variable(name).map_err(|error| error.to_string())? {
            Some(value) if !value.is_empty() => return Ok(Some((name, value))),
            _ => {}
        }
    }
    Ok(None)
}

/// Whether a server needs no proxy, according to the text of `NO_PROXY`.
fn is_excepted(exceptions: &str, host: &str, port: u16) -> bool {
    let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
    let address = host.parse::<IpAddr>().ok().map(|address| address.to_canonical());
    if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
        return true;
    }
    exceptions
        .split(',')
        .map(|entry| entry.trim().to_ascii_lowercase())
        .any(|entry| covers(&entry, &host, address, port))
}

/// Whether one entry of `NO_PROXY` matches a server.
fn covers(entry: &str, host: &str, address: Option<IpAddr>, port: u16) -> bool {
    if entry == "*" {
        return true;
    }
    if let Ok(network) = entry.parse::<IpNet>() {
        return address.is_some_and(|address| network.contains(&address));
    }
    let (name, only) = without_port(entry);
    if only.is_some_and(|only| only.parse() != Ok(port)) {
        return false;
    }
    let name = name.trim_matches(['[', ']']);
    if let Ok(excepted) = name.parse::<IpAddr>() {
        return address == Some(excepted.to_canonical());
    }
    if address.is_some() {
        // The end of an address is no domain.
        return false;
    }
    let suffix = name.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(name);
    match suffix.strip_prefix('.') {
        _ if suffix.is_empty() => false,
        Some(_) => host.ends_with(suffix),
        None => host == suffix || host.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.')),
    }
}

/// An entry without its port, and the port. In an IPv6 address without brackets, no colon is before a port.
fn without_port(entry: &str) -> (&str, Option<&str>) {
    match entry.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => {
            (name, Some(port).filter(|port| !port.is_empty()))
        }
        _ => (entry, None),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::nothing("", "api.example.com", false)]
    #[case::all("*", "api.example.com", true)]
    #[case::all_among("x, *", "10.0.0.1", true)]
    #[case::name("api.example.com", "api.example.com", true)]
    #[case::name_in_capitals("API.Example.com", "api.example.COM", true)]
    #[case::subdomain("example.com", "api.example.com", true)]
    #[case::part_of_a_name("ample.com", "api.example.com", false)]
    #[case::suffix(".example.com", "api.example.com", true)]
    #[case::suffix_is_not_the_name(".example.com", "example.com", false)]
    #[case::wildcard_suffix("*.example.com", "api.example.com", true)]
    #[case::wildcard_suffix_is_not_the_name("*.example.com", "example.com", false)]
    #[case::address("10.0.0.1", "10.0.0.1", true)]
    #[case::other_address("10.0.0.2", "10.0.0.1", false)]
    #[case::cidr("10.0.0.0/8", "10.1.2.3", true)]
    #[case::cidr_with_host_bits("10.9.9.9/8", "10.1.2.3", true)]
    #[case::other_cidr("10.0.0.0/16", "10.1.2.3", false)]
    #[case::cidr_of_a_name("0.0.0.0/0", "api.example.com", false)]
    #[case::port("10.0.0.1:6443", "10.0.0.1", true)]
    #[case::other_port("10.0.0.1:443", "10.0.0.1", false)]
    #[case::name_and_port("example.com:6443", "api.example.com", true)]
    #[case::name_and_other_port("example.com:443", "api.example.com", false)]
    #[case::v6("fd00::1", "[fd00::1]", true)]
    #[case::v6_and_port("[fd00::1]:6443", "[fd00::1]", true)]
    #[case::v6_and_other_port("[fd00::1]:443", "[fd00::1]", false)]
    #[case::v6_cidr("fd00::/8", "[fd00::1]", true)]
    #[case::end_of_an_address("0.0.1", "10.0.0.1", false)]
    #[case::end_of_an_address_after_a_dot(".0.0.1", "10.0.0.1", false)]
    #[case::empty_port("example.com:", "api.example.com", true)]
    #[case::spaces(" a.b , 10.0.0.0/8 ", "10.0.0.1", true)]
    #[case::malformed(":,/,.,::/", "api.example.com", false)]
    #[case::this_machine("", "localhost", true)]
    #[case::loopback("", "127.9.0.1", true)]
    #[case::loopback_v6("", "[::1]", true)]
    fn no_proxy_covers_what_it_covers_for_client_go(#[case] no: &str, #[case] host: &str, #[case] is_direct: bool) {
        let environment = Environment {
            https: Some(("HTTPS_PROXY", "http://proxy.example:3128".into())),
            http: None,
            exceptions: no.into(),
        };
        let server: Uri = format!("https://{host}:6443").parse().unwrap();
        assert_eq!(environment.proxy_for(&server).unwrap().is_none(), is_direct);
        // Its variable is not for a server without TLS.
        assert!(environment.proxy_for(&format!("http://{host}").parse().unwrap()).unwrap().is_none());
    }

    #[test]
    fn a_proxy_is_read_or_refused_without_its_password() {
        let read = |url: &str| Proxy::parse(url, "HTTPS_PROXY");
        let proxy = read("http://user:hid%20den@proxy.example").unwrap();
        assert_eq!(proxy.address, "http://proxy.example:80/");
        assert_eq!((proxy.kind, proxy.user), (Kind::Http, Some(("user".into(), "hid den".into()))));
        assert_eq!(read("proxy.example:3128").unwrap().address, "http://proxy.example:3128/");
        assert_eq!(read("[fd00::1]:3128").unwrap().address, "http://[fd00::1]:3128/");
        let socks = read("socks5://192.0.2.1").unwrap();
        assert_eq!((socks.kind, socks.address.port_u16()), (Kind::Socks5, Some(1080)));
        for wrong in ["https://u:hidden@p", "ftp://u:hidden@p", "http://u:hidden@", "http://", "http://u:hidden@a b"] {
            let error = read(wrong).err().unwrap();
            assert!(error.contains("HTTPS_PROXY") && !error.contains("hidden"), "{error}");
        }
    }
}
