//! The certificates that authenticate the API server and Braid to each other.

use std::sync::Arc;

use kube::config::Config as Server;
use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ConfigBuilder, DigitallySignedStruct, Error, RootCertStore, SignatureScheme, WantsVerifier,
};
use rustls_platform_verifier::BuilderVerifierExt as _;

/// A client certificate and its key.
pub(super) struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Reads both from PEM.
    ///
    /// # Errors
    /// What is missing, in words that hold nothing of what was read.
    pub(super) fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self, String> {
        Ok(Self {
            chain: chain(certificates).ok_or("the client certificate of its user is not a certificate in PEM")?,
            key: PrivateKeyDer::from_pem_slice(key)
                .map_err(|_| "the client key of its user is not a private key in PEM (PKCS#8, PKCS#1 or SEC1)")?,
        })
    }
}

/// The certificates in a PEM file. `None` if there are none, or if one is malformed.
pub(super) fn chain(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    found.ok().filter(|found| !found.is_empty())
}

/// The settings for a connection to a server: the certificates for the server (or those that the node trusts, if none are
/// configured), and the client certificate.
///
/// kube has such a function too. It includes credential plugins, which Braid never runs, and 0.5 MB of code for them.
///
/// # Errors
/// When a certificate or a key cannot be used, and why.
pub(super) fn client_config(server: &Server, identity: Option<Identity>) -> Result<ClientConfig, String> {
    let builder = match &server.root_cert {
        Some(certificates) => builder()?.with_root_certificates(root_store(certificates)?),
        None => trusting_node()?,
    };
    let mut config = match identity {
        Some(Identity { chain, key }) => builder
            .with_client_auth_cert(chain, key)
            .map_err(|error| format!("the client key of its user cannot be used: {error}"))?,
        None => builder.with_no_client_auth(),
    };
    if server.accept_invalid_certs {
        config.dangerous().set_certificate_verifier(Arc::new(AnyServer));
    }
    Ok(config)
}

/// The settings for a connection to a server whose certificate the node trusts, without a client certificate.
///
/// # Errors
/// When the node's certificates cannot be used, and why.
pub fn client_config_of_node() -> Result<ClientConfig, String> {
    Ok(trusting_node()?.with_no_client_auth())
}

fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, String> {
    let provider = Arc::new(ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())
}

fn trusting_node() -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, String> {
    let trusting = builder()?.with_platform_verifier();
    trusting.map_err(|error| format!("the certificates that the node trusts cannot be used: {error}"))
}

fn root_store(certificates: &[Vec<u8>]) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    for certificate in certificates {
        store
            .add(CertificateDer::from(certificate.clone()))
            .map_err(|error| format!("a certificate of its \"certificate-authority\" cannot be used: {error}"))?;
    }
    Ok(store)
}

/// Accepts any server certificate, as `insecure-skip-tls-verify` in the kubeconfig requires.
#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
