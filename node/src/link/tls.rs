//! Mutual TLS 1.3 from an identity: what links and sessions check, and why a handshake was refused.
//!
//! The stock verifiers decide; a thin wrapper around them only notes which certificate was refused and why, because
//! the library's error names neither.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::LinkError;
use crate::identity::{Identity, describe_ca, describe_certificate};

/// ALPN of links (RFC 7301).
pub(super) const LINK_ALPN: &[u8] = b"workmesh-link/1";
/// ALPN of sessions.
pub(super) const SESSION_ALPN: &[u8] = b"workmesh-session/1";

/// What a handshake needs, made once from an identity.
pub(super) struct Tls {
    provider: Arc<CryptoProvider>,
    key: Arc<CertifiedKey>,
    server: Arc<dyn ServerCertVerifier>,
    client: Arc<dyn ClientCertVerifier>,
    /// The CAs that are trusted, for messages.
    expected: Arc<str>,
}

/// Why the verifier refused a peer's certificate; empty if it did not.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    expected: Arc<str>,
    reason: Arc<Mutex<Option<String>>>,
}

impl Refusal {
    pub(super) fn take(&self) -> Option<String> {
        self.reason.lock().take()
    }

    fn note(&self, certificate: &CertificateDer<'_>, error: &rustls::Error) {
        let found = describe_certificate(certificate);
        let expected = &self.expected;
        let reason = match error {
            rustls::Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature,
            ) => {
                format!(
                    "{found}: expected a certificate of the CA {expected}, found one that it has not signed"
                )
            }
            rustls::Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            ) => format!(
                "{found}: expected a valid certificate, found an expired one; `node cert renew` renews it"
            ),
            other => format!("{found}: expected a certificate of the CA {expected}, found {other}"),
        };
        *self.reason.lock() = Some(reason);
    }
}

impl Tls {
    pub(super) fn new(identity: &Identity) -> Result<Self, LinkError> {
        let config = |e: &dyn fmt::Display| LinkError::Configuration(e.to_string());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        for root in identity.roots() {
            roots.add(root.clone()).map_err(|e| config(&e))?;
        }
        let roots = Arc::new(roots);
        let signer = provider
            .key_provider
            .load_private_key(identity.key())
            .map_err(|e| config(&e))?;
        let server = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|e| config(&e))?;
        let client = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
            .build()
            .map_err(|e| config(&e))?;
        let expected = identity
            .roots()
            .iter()
            .map(|root| describe_ca(root))
            .collect::<Vec<_>>()
            .join(", ")
            .into();
        Ok(Self {
            provider,
            key: Arc::new(CertifiedKey::new(identity.chain().to_vec(), signer)),
            server,
            client,
            expected,
        })
    }

    fn refusal(&self) -> Refusal {
        Refusal {
            expected: self.expected.clone(),
            reason: Arc::default(),
        }
    }

    /// A configuration for one dialled connection, and where its refusal will stand.
    pub(super) fn client_config(&self, alpn: &[u8]) -> Result<(QuicClientConfig, Refusal), LinkError> {
        let refusal = self.refusal();
        let verifier = Arc::new(NotingServerVerifier {
            inner: self.server.clone(),
            refusal: refusal.clone(),
        });
        let mut config = rustls::ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| LinkError::Configuration(e.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::clone(&self.key))));
        config.alpn_protocols = vec![alpn.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        let config =
            QuicClientConfig::try_from(config).map_err(|e| LinkError::Configuration(e.to_string()))?;
        Ok((config, refusal))
    }

    /// A configuration for one accepted connection, and where its refusal will stand.
    pub(super) fn server_config(&self, alpn: &[u8]) -> Result<(QuicServerConfig, Refusal), LinkError> {
        let refusal = self.refusal();
        let verifier = Arc::new(NotingClientVerifier {
            inner: self.client.clone(),
            refusal: refusal.clone(),
        });
        let mut config = rustls::ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| LinkError::Configuration(e.to_string()))?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::clone(&self.key))));
        config.alpn_protocols = vec![alpn.to_vec()];
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        let config =
            QuicServerConfig::try_from(config).map_err(|e| LinkError::Configuration(e.to_string()))?;
        Ok((config, refusal))
    }
}

/// The stock check of an accepting node's certificate, with a note on refusal.
#[derive(Debug)]
struct NotingServerVerifier {
    inner: Arc<dyn ServerCertVerifier>,
    refusal: Refusal,
}

impl ServerCertVerifier for NotingServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.inner
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            .inspect_err(|e| self.refusal.note(end_entity, e))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// The stock check of a dialling node's certificate, with a note on refusal.
#[derive(Debug)]
struct NotingClientVerifier {
    inner: Arc<dyn ClientCertVerifier>,
    refusal: Refusal,
}

impl ClientCertVerifier for NotingClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.inner
            .verify_client_cert(end_entity, intermediates, now)
            .inspect_err(|e| self.refusal.note(end_entity, e))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
