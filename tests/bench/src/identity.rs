//! The floor's certificates: a P-256 CA and a leaf for each end, made for one run in a directory that goes with it.
//!
//! The driver makes them, the roles read them. They never leave the run's directory and never name a real host.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::settings;

/// The name in the certificate of the end that answers.
pub(crate) const SERVER_NAME: &str = "floor-server";
const CLIENT_NAME: &str = "floor-client";
const ALPN: &[u8] = b"workmesh-floor/1";

/// Writes `ca.pem`, and a certificate and key for both ends, to `dir`.
pub(crate) fn create(dir: &Path) -> Result<()> {
    let mut ca = CertificateParams::new(Vec::new()).context("describe the CA")?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).context("make the CA's key")?;
    let certificate = ca.self_signed(&ca_key).context("sign the CA")?;
    std::fs::write(dir.join("ca.pem"), certificate.pem()).context("write the CA")?;
    let issuer = Issuer::new(ca, ca_key);
    issue(dir, &issuer, SERVER_NAME, ExtendedKeyUsagePurpose::ServerAuth)?;
    issue(dir, &issuer, CLIENT_NAME, ExtendedKeyUsagePurpose::ClientAuth)
}

fn issue(dir: &Path, issuer: &Issuer<'_, KeyPair>, name: &str, usage: ExtendedKeyUsagePurpose) -> Result<()> {
    let mut leaf = CertificateParams::new(vec![name.to_owned()]).context("describe a leaf")?;
    leaf.extended_key_usages = vec![usage];
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).context("make a leaf's key")?;
    let certificate = leaf.signed_by(&key, issuer).context("sign a leaf")?;
    std::fs::write(dir.join(name).with_extension("pem"), certificate.pem()).context("write a leaf")?;
    std::fs::write(dir.join(name).with_extension("key"), key.serialize_pem()).context("write a leaf's key")
}

/// The answering end's QUIC settings: TLS 1.3 only, a client certificate required.
pub(crate) fn server_config(dir: &Path) -> Result<quinn::ServerConfig> {
    let (chain, key) = leaf(dir, SERVER_NAME)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(dir)?), provider())
        .build()
        .context("make the verifier of clients")?;
    let mut tls = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .context("choose TLS 1.3")?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .context("use the server's certificate")?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let tls = QuicServerConfig::try_from(tls).context("use TLS for QUIC")?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    config.transport_config(settings::transport()?);
    Ok(config)
}

/// The asking end's QUIC settings: TLS 1.3 only, with a certificate of its own.
pub(crate) fn client_config(dir: &Path) -> Result<quinn::ClientConfig> {
    let (chain, key) = leaf(dir, CLIENT_NAME)?;
    let mut tls = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .context("choose TLS 1.3")?
        .with_root_certificates(roots(dir)?)
        .with_client_auth_cert(chain, key)
        .context("use the client's certificate")?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let tls = QuicClientConfig::try_from(tls).context("use TLS for QUIC")?;
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    config.transport_config(settings::transport()?);
    Ok(config)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn roots(dir: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(dir.join("ca.pem")).context("read the CA")?)
        .context("trust the CA")?;
    Ok(roots)
}

fn leaf(dir: &Path, name: &str) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let certificate =
        CertificateDer::from_pem_file(dir.join(name).with_extension("pem")).context("read a certificate")?;
    let key = PrivateKeyDer::from_pem_file(dir.join(name).with_extension("key")).context("read a key")?;
    Ok((vec![certificate], key))
}
