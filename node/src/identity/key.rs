//! A private key in memory: made, read, and wiped when it is dropped.
//!
//! Used for a node's own key and for a CA's. Never leaves this module but as PKCS #8.

use std::path::Path;

use rcgen::{KeyPair, PublicKeyData, SignatureAlgorithm, SigningKey};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use zeroize::{Zeroize, Zeroizing};

use super::{IdentityError, store};

/// A key pair whose private half is wiped on drop. Its `Debug` shows nothing of it.
pub(super) struct PrivateKey(KeyPair);

impl PrivateKey {
    /// A new ECDSA P-256 key.
    pub(super) fn generate() -> Result<Self, IdentityError> {
        KeyPair::generate()
            .map(Self)
            .map_err(IdentityError::crypto("make a key"))
    }

    /// Reads a PKCS #8 key in PEM that nobody but its owner can read.
    pub(super) fn load(path: &Path) -> Result<Self, IdentityError> {
        let pem = store::read(path)?;
        store::check_private(path)?;
        let bad = |found: String| IdentityError::BadPem {
            path: path.to_owned(),
            expected: "a private key in PKCS #8 PEM (`openssl pkcs8 -topk8 -nocrypt` converts others)",
            found,
        };
        let mut der = PrivatePkcs8KeyDer::from_pem_slice(&pem).map_err(|error| bad(error.to_string()))?;
        let pair =
            KeyPair::try_from(&der).map_err(|_| bad("a key of an unknown kind, or a damaged one".into()));
        der.zeroize();
        pair.map(Self)
    }

    /// The key as PEM, wiped on drop.
    pub(super) fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.0.serialize_pem())
    }

    /// The key as PKCS #8 DER.
    pub(super) fn as_der(&self) -> &[u8] {
        self.0.serialized_der()
    }
}

impl Drop for PrivateKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrivateKey")
    }
}

impl PublicKeyData for PrivateKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for PrivateKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message)
    }
}
