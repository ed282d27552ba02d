//! The certificate that the webhook shows.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::runtime::load;

/// A certificate with its key. Both files are read for each new connection, because they may have been renewed.
#[derive(Debug)]
pub(super) struct Certificate {
    chain: PathBuf,
    key: PathBuf,
    read: Mutex<Read>,
}

/// What was in the files at the last look.
#[derive(Debug)]
struct Read {
    files: Option<Files>,
    /// The last pair that could be used.
    certified: Arc<CertifiedKey>,
}

/// The contents of both files.
#[derive(Debug, PartialEq, Eq)]
struct Files {
    chain: Vec<u8>,
    key: Vec<u8>,
}

impl Certificate {
    /// Reads a certificate.
    ///
    /// # Errors
    /// What cannot be read or used, and in which file. The key is in no message.
    pub(super) fn read(chain: PathBuf, key: PathBuf) -> Result<Self, String> {
        let files = read(&chain, &key)?;
        let certified = certified(&chain, &key, &files)?;
        Ok(Self { chain, key, read: Mutex::new(Read { files: Some(files), certified }) })
    }

    /// The TLS settings for this certificate.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub(super) fn into_config(self) -> Result<ServerConfig, rustls::Error> {
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let mut config =
            builder.with_safe_default_protocol_versions()?.with_no_client_auth().with_cert_resolver(Arc::new(self));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    /// The current certificate. While its files are being changed, or if they cannot be used, the previous one.
    fn current(&self) -> Arc<CertifiedKey> {
        let mut before = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let files = read(&self.chain, &self.key);
        if files.as_ref().ok() == before.files.as_ref() {
            return before.certified.clone();
        }
        match files.as_ref().map_err(Clone::clone).and_then(|files| certified(&self.chain, &self.key, files)) {
            Ok(certified) => {
                tracing::warn!("the certificate was changed, and is used from now on");
                before.certified = certified;
            }
            Err(reason) => tracing::warn!("the certificate was changed, and the one before stays in use: {reason}"),
        }
        before.files = files.ok();
        before.certified.clone()
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

fn read(chain: &Path, key: &Path) -> Result<Files, String> {
    let read = |path| load::read(path).map_err(|error| error.to_string());
    Ok(Files { chain: read(chain)?, key: read(key)? })
}

/// The pair of a certificate and its key.
fn certified(chain: &Path, key: &Path, files: &Files) -> Result<Arc<CertifiedKey>, String> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&files.chain)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{}: {error}", chain.display()))?;
    if certificates.is_empty() {
        return Err(format!("{} holds no certificate in PEM", chain.display()));
    }
    // The parser's message could contain a part of the key.
    let private = PrivateKeyDer::from_pem_slice(&files.key)
        .map_err(|_| format!("{} holds no private key in PEM", key.display()))?;
    let certified = CertifiedKey::from_der(certificates, private, &ring::default_provider())
        .map_err(|error| format!("{} and {} cannot be used: {error}", chain.display(), key.display()))?;
    Ok(Arc::new(certified))
}
