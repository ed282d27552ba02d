//! The address and the credentials of the API server: read from a kubeconfig, or from what Kubernetes mounts into a pod.
//!
//! All files are read here, and only if they are regular files of limited size: a pipe in the place of a file could block the call
//! for ever. The result is complete, so that connecting later opens no file, starts no process and reads no environment variables.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Uri};
use kube::config::{AuthInfo, Cluster, Config as ClientConfig, Kubeconfig};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;

use super::proxy::{self, Proxy};
use super::tls::{self, Identity};
use crate::request::variable;
use crate::runtime::load;

/// The largest file that is read, in bytes. A kubeconfig of a thousand clusters has less.
const MAX_FILE: u64 = 16 << 20;
/// Where Kubernetes mounts a service account into a pod.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// How to reach an API server.
pub(super) struct Access {
    /// The server, its certificates, and the headers of each request.
    pub(super) config: ClientConfig,
    /// Our certificate, if we show one.
    pub(super) identity: Option<Identity>,
    /// What is on the way.
    pub(super) proxy: Option<Proxy>,
    /// What must not be shown.
    pub(super) secrets: Secrets,
}

/// Strings that must not appear in messages, even if a server repeats them.
#[derive(Clone, Default)]
pub(super) struct Secrets(Vec<String>);

impl Secrets {
    /// Adds a secret. Very short strings are not treated as secrets, because removing them would make messages unreadable.
    pub(super) fn add(&mut self, secret: &str) {
        if secret.len() > 3 {
            self.0.push(secret.to_owned());
        }
    }

    /// The text without them.
    pub(super) fn hide(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "[secret]"))
    }
}

impl Access {
    /// Reads a kubeconfig, or the service account of this pod.
    ///
    /// # Errors
    /// What cannot be read or used, and in which file or key. No secret is in it.
    pub(super) fn read(kubeconfig: Option<&Path>) -> Result<Self, String> {
        match kubeconfig {
            Some(path) => Self::from_kubeconfig(path),
            None => Self::of_this_pod(),
        }
    }

    fn from_kubeconfig(path: &Path) -> Result<Self, String> {
        let text = read_text(path)?;
        let (cluster, user) = current(parse(&text)?)?;
        let directory = path.parent().unwrap_or(Path::new("/"));
        let (server, userinfo) = server(cluster.server.as_deref())?;
        let mut config = ClientConfig::new(server);
        config.accept_invalid_certs = cluster.insecure_skip_tls_verify.unwrap_or(false);
        config.tls_server_name.clone_from(&cluster.tls_server_name);
        config.root_cert = authority(&cluster, directory)?;
        let mut access = Self {
            proxy: proxy(&config.cluster_url, cluster.proxy_url.as_deref())?,
            config,
            identity: None,
            secrets: Secrets::default(),
        };
        access.show(user, userinfo, directory)?;
        Ok(access)
    }

    fn of_this_pod() -> Result<Self, String> {
        let variable = |name| variable(name).map(Option::unwrap_or_default).map_err(|error| error.to_string());
        let (host, port) = (variable("KUBERNETES_SERVICE_HOST")?, variable("KUBERNETES_SERVICE_PORT")?);
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let (server, _) = server(Some(&format!("https://{host}:{port}")))
            .map_err(|_| "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT name no server".to_owned())?;
        let directory = Path::new(SERVICE_ACCOUNT);
        let mut config = ClientConfig::new(server);
        config.root_cert = Some(certificates(&read_file(&directory.join("ca.crt"))?, "ca.crt")?);
        let proxy = proxy(&config.cluster_url, None)?;
        let mut access = Self { proxy, config, identity: None, secrets: Secrets::default() };
        access.show_token(&read_text(&directory.join("token"))?, "its token")?;
        Ok(access)
    }

    /// Adds the credentials to each request, or to the connection.
    fn show(&mut self, user: AuthInfo, userinfo: Option<(String, String)>, directory: &Path) -> Result<(), String> {
        if user.exec.is_some() {
            return Err(
                "its user has an \"exec\" credential plugin, and braid runs none: a call that a pod waits for must \
                        not depend on another program; use \"tokenFile\", \"token\" or a client certificate"
                    .into(),
            );
        }
        // As in client-go, a token in a file takes precedence over one in the kubeconfig.
        let token = match (&user.token_file, &user.token) {
            (Some(file), inline) => match (read_text(&directory.join(file)), inline) {
                (Ok(token), _) => Some((token, format!("the token in {}", directory.join(file).display()))),
                (Err(_), Some(inline)) => Some((inline.expose_secret().to_owned(), "user.token".to_owned())),
                (Err(error), None) => return Err(error),
            },
            (None, Some(inline)) => Some((inline.expose_secret().to_owned(), "user.token".to_owned())),
            (None, None) => None,
        };
        let password = user.password.as_ref().map(|password| password.expose_secret().to_owned());
        let basic = user.username.clone().zip(password).or(userinfo);
        match (token, basic, &user.auth_provider) {
            (Some((token, place)), ..) => self.show_token(&token, &place)?,
            (None, Some((name, password)), _) => self.show_password(&name, &password)?,
            (None, None, Some(provider)) => match provider.config.get("id-token") {
                Some(token) => self.show_token(token, "auth-provider.config.id-token")?,
                None => {
                    return Err(format!(
                        "its user has the \"auth-provider\" {:?}, which braid does not run; use \"tokenFile\", \"token\" or a \
                         client certificate",
                        provider.name
                    ));
                }
            },
            (None, None, None) => {}
        }
        let certificate = user.client_certificate_data.as_deref();
        let certificate = pem("client-certificate", certificate, user.client_certificate.as_deref(), directory)?;
        let key = user.client_key_data.as_ref().map(SecretString::expose_secret);
        let key = pem("client-key", key, user.client_key.as_deref(), directory)?;
        self.identity = match (certificate, key) {
            (Some(certificate), Some(key)) => Some(Identity::from_pem(&certificate, &key)?),
            (Some(_), None) => return Err("its user has a client certificate and no \"client-key\"".into()),
            (None, Some(_)) => return Err("its user has a client key and no \"client-certificate\"".into()),
            (None, None) => None,
        };
        self.config.auth_info = AuthInfo {
            impersonate: user.impersonate,
            impersonate_groups: user.impersonate_groups,
            impersonate_uid: user.impersonate_uid,
            impersonate_user_extra: user.impersonate_user_extra,
            ..AuthInfo::default()
        };
        Ok(())
    }

    fn show_token(&mut self, token: &str, place: &str) -> Result<(), String> {
        let token = token.trim();
        if token.is_empty() {
            return Err(format!("{place} is empty"));
        }
        self.secrets.add(token);
        self.authorize(format!("Bearer {token}"), place)
    }

    fn show_password(&mut self, name: &str, password: &str) -> Result<(), String> {
        let encoded = BASE64.encode(format!("{name}:{password}"));
        self.secrets.add(password);
        self.secrets.add(&encoded);
        self.authorize(format!("Basic {encoded}"), "user.password")
    }

    fn authorize(&mut self, value: String, place: &str) -> Result<(), String> {
        let mut value = HeaderValue::try_from(value)
            .ok()
            .filter(|value| value.to_str().is_ok())
            .ok_or_else(|| format!("{place} holds characters that no token has, such as a line break"))?;
        value.set_sensitive(true);
        self.config.headers.push((AUTHORIZATION, value));
        Ok(())
    }
}

/// Reads a kubeconfig.
fn parse(text: &str) -> Result<Kubeconfig, String> {
    // The text may contain a token, so the parser's message is not shown.
    let kubeconfig = kubeconfig_as_json(text).and_then(|json| serde_json::from_value(json).ok());
    kubeconfig.ok_or_else(|| "it is not a kubeconfig in YAML".to_owned())
}

/// Converts a kubeconfig's YAML to JSON, as client-go does. `None` if it is not YAML.
pub fn kubeconfig_as_json(text: &str) -> Option<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).ok()?;
    Some(documents.into_iter().next().unwrap_or_default())
}

/// The cluster and the user of the current context. If the user does not exist, no credentials are sent, as in client-go.
fn current(kubeconfig: Kubeconfig) -> Result<(Cluster, AuthInfo), String> {
    let name = kubeconfig.current_context.ok_or("it has no \"current-context\"")?;
    let context = kubeconfig.contexts.into_iter().find(|context| context.name == name);
    let context = context
        .and_then(|context| context.context)
        .ok_or_else(|| format!("it has no context {name:?}, its \"current-context\""))?;
    let cluster = kubeconfig.clusters.into_iter().find(|cluster| cluster.name == context.cluster);
    let cluster = cluster
        .and_then(|cluster| cluster.cluster)
        .ok_or_else(|| format!("it has no cluster {:?}, which context {name:?} names", context.cluster))?;
    let user = kubeconfig.auth_infos.into_iter().find(|user| Some(&user.name) == context.user.as_ref());
    Ok((cluster, user.and_then(|user| user.auth_info).unwrap_or_default()))
}

/// A server's address, and the name and password in it.
fn server(text: Option<&str>) -> Result<(Uri, Option<(String, String)>), String> {
    let text = text.ok_or("its cluster has no \"server\"")?;
    // The text may contain a password, so it is not shown.
    let wrong = || "cluster.server is no URL such as https://192.0.2.1:6443".to_owned();
    let (text, userinfo) = without_userinfo(text);
    let text = if text.contains("://") { text } else { format!("https://{text}") };
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    let is_web = matches!(uri.scheme_str(), Some("http" | "https"));
    if is_web && uri.host().is_some_and(|host| !host.is_empty()) { Ok((uri, userinfo)) } else { Err(wrong()) }
}

/// A URL without its name and password, and these.
pub(super) fn without_userinfo(url: &str) -> (String, Option<(String, String)>) {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let Some((userinfo, host)) = rest[..end].rsplit_once('@') else { return (url.to_owned(), None) };
    let (name, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    let separator = if scheme.is_empty() { "" } else { "://" };
    let stripped = format!("{scheme}{separator}{host}{}", &rest[end..]);
    (stripped, Some((percent_decoded(name), percent_decoded(password))))
}

fn percent_decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// The proxy of the kubeconfig, unchanged, or that of the environment.
fn proxy(server: &Uri, named: Option<&str>) -> Result<Option<Proxy>, String> {
    match named.filter(|url| !url.is_empty()) {
        Some(url) => Proxy::parse(url, "the kubeconfig's \"proxy-url\"").map(Some),
        None => proxy::Environment::read()?.proxy_for(server),
    }
}

/// The certificates that authenticate the server. `None` for those that the node trusts.
fn authority(cluster: &Cluster, directory: &Path) -> Result<Option<Vec<Vec<u8>>>, String> {
    let data = cluster.certificate_authority_data.as_deref().filter(|data| !data.is_empty());
    let file = cluster.certificate_authority.as_deref().filter(|file| !file.is_empty());
    match (data, file) {
        (Some(data), _) => {
            let place = "cluster.certificate-authority-data";
            let pem = BASE64.decode(data.trim()).map_err(|_| format!("{place} is not in base64"))?;
            certificates(&pem, place).map(Some)
        }
        (None, Some(file)) => certificates(&read_file(&directory.join(file))?, file).map(Some),
        (None, None) => Ok(None),
    }
}

fn certificates(pem: &[u8], place: &str) -> Result<Vec<Vec<u8>>, String> {
    let found = tls::chain(pem).ok_or_else(|| format!("{place} holds no certificates in PEM"))?;
    Ok(found.into_iter().map(|certificate| certificate.to_vec()).collect())
}

/// The base64 value of a key of the user, or the contents of the file that it names.
fn pem(key: &str, data: Option<&str>, file: Option<&str>, directory: &Path) -> Result<Option<Vec<u8>>, String> {
    match (data.filter(|data| !data.is_empty()), file.filter(|file| !file.is_empty())) {
        (Some(data), _) => {
            BASE64.decode(data.trim()).map(Some).map_err(|_| format!("user.{key}-data is not in base64"))
        }
        (None, Some(file)) => read_file(&directory.join(file)).map(Some),
        (None, None) => Ok(None),
    }
}

fn read_text(path: &Path) -> Result<String, String> {
    String::from_utf8(read_file(path)?).map_err(|_| format!("{} is not UTF-8", path.display()))
}

/// Reads a regular file of bounded size.
fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let read = load::read_regular_file(path, MAX_FILE).map_err(|error| format!("{}: {error}", path.display()))?;
    read.ok_or_else(|| format!("{} is no regular file of at most {} MiB", path.display(), MAX_FILE >> 20))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Reads a kubeconfig with this user and this server.
    fn read(server: &str, user: &str) -> Result<Access, String> {
        let dir = tempfile::tempdir().unwrap();
        nix::unistd::mkfifo(&dir.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs::write(dir.path().join("token"), "from-file\n").unwrap();
        let path = dir.path().join("kubeconfig");
        let text = format!(
            "clusters:\n- name: c\n  cluster: {{server: \"{server}\", proxy-url: \"http://u:hidden@p:1\"}}\nusers:\n- name: u\n  \
             user: {user}\ncontexts:\n- name: x\n  context: {{cluster: c, user: u}}\ncurrent-context: x\n"
        );
        fs::write(&path, text).unwrap();
        Access::read(Some(&path))
    }

    fn shown(user: &str) -> Result<String, String> {
        let access = read("https://192.0.2.1:6443", user)?;
        Ok(access.config.headers.iter().map(|(_, value)| value.to_str().unwrap().to_owned()).collect())
    }

    #[test]
    fn a_token_is_trimmed_and_is_a_header_or_refused() {
        assert_eq!(shown("{token: \"abcdef\\n\"}").unwrap(), "Bearer abcdef");
        assert_eq!(shown("{tokenFile: token}").unwrap(), "Bearer from-file");
        assert_eq!(shown("{tokenFile: token, token: older}").unwrap(), "Bearer from-file");
        assert_eq!(shown("{tokenFile: absent, token: older}").unwrap(), "Bearer older");
        assert_eq!(shown("{username: a, password: b}").unwrap(), "Basic YTpi");
        assert_eq!(shown("{}").unwrap(), "");
        for wrong in ["abc\\ndef", "abc\\0def", "abc\\x7fdef", "abc\\u00e9"] {
            let error = shown(&format!("{{token: \"{wrong}\"}}")).unwrap_err();
            assert!(error.contains("user.token") && !error.contains("abc"), "{error}");
        }
        assert!(shown("{token: \" \"}").unwrap_err().contains("empty"));
    }

    #[test]
    fn nothing_is_waited_for() {
        for user in ["{tokenFile: pipe}", "{client-certificate: pipe, client-key: pipe}"] {
            let error = shown(user).unwrap_err();
            assert!(error.contains("pipe is no regular file"), "{error}");
        }
        let error = shown("{exec: {apiVersion: v1, command: sleep, args: [hidden, \"60\"]}}").unwrap_err();
        assert!(error.contains("exec") && error.contains("tokenFile") && !error.contains("hidden"), "{error}");
    }

    #[test]
    fn a_client_certificate_has_a_key() {
        let certificate = rcgen::generate_simple_self_signed(["c".to_owned()]).unwrap();
        let (chain, key) =
            (BASE64.encode(certificate.cert.pem()), BASE64.encode(certificate.signing_key.serialize_pem()));
        let user = |chain: &str, key: &str| {
            read(
                "https://192.0.2.1:6443",
                &format!("{{client-certificate-data: \"{chain}\", client-key-data: \"{key}\"}}"),
            )
        };
        let whole = user(&chain, &key).unwrap();
        assert!(tls::client_config(&whole.config, whole.identity).is_ok());
        let other = rcgen::generate_simple_self_signed(["c".to_owned()]).unwrap();
        let other = user(&chain, &BASE64.encode(other.signing_key.serialize_pem())).unwrap();
        let error = tls::client_config(&other.config, other.identity).unwrap_err();
        assert!(error.contains("client key"), "{error}");
        for (chain, key, said) in [
            (&*chain, "", "no \"client-key\""),
            ("", &*key, "no \"client-certificate\""),
            (&*chain, "hidden!", "user.client-key-data is not in base64"),
            (&*key, &*key, "not a certificate in PEM"),
            (&*chain, &*chain, "not a private key in PEM"),
        ] {
            let error = user(chain, key).err().unwrap();
            assert!(error.contains(said) && !error.contains("hidden"), "{error}");
        }
    }

    #[test]
    fn a_password_in_the_servers_address_is_used_and_not_shown() {
        let access = read("https://admin:p%40ss@192.0.2.1:6443/sub", "{}").unwrap();
        assert_eq!(access.config.cluster_url, "https://192.0.2.1:6443/sub");
        assert_eq!(access.config.headers[0].1.to_str().unwrap(), format!("Basic {}", BASE64.encode("admin:p@ss")));
        assert_eq!(access.secrets.hide("no p@ss here"), "no [secret] here");
        for wrong in ["https://a:hidden@ /", "ftp://a:hidden@h", "https://a:hidden@"] {
            let error = read(wrong, "{}").err().unwrap();
            assert!(!error.contains("hidden"), "{error}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kubeconfig");
        for (text, said) in [
            ("{}", "current-context"),
            ("current-context: x", "context \"x\""),
            ("{current-context: x, contexts: [{name: x, context: {cluster: c}}]}", "cluster \"c\""),
            (
                "{current-context: x, contexts: [{name: x, context: {cluster: c}}], clusters: [{name: c, cluster: {}}]}",
                "server",
            ),
            ("[", "YAML"),
            // As in client-go, a name must not be a number, and only the first document is read.
            ("current-context: 5", "YAML"),
            ("current-context: x\n---\ncurrent-context: y", "context \"x\""),
        ] {
            fs::write(&path, text).unwrap();
            let error = Access::read(Some(&path)).err().unwrap();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
