//! Certificates of servers.

use rcgen::{BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

/// An authority, and the certificate of a server at 127.0.0.1 that it has signed.
pub(super) struct Certificates {
    pub(super) authority: Certificate,
    pub(super) server: Certificate,
    pub(super) key: KeyPair,
}

impl Certificates {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority =
            CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
        let server = params.signed_by(&key, &authority).expect("a certificate");
        Self { authority: authority.as_ref().clone(), server, key }
    }
}
