//! Certificate requests: made on the machine that keeps the key, read on the machine that keeps the CA.
//!
//! Only the public key and, as a proposal, the id are taken from a request; what else it asks for is reported and ignored.

use std::path::Path;

use rcgen::{CertificateParams, DistinguishedName, DnType, SubjectPublicKeyInfo};
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use workmesh_proto::NodeId;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;

use super::IdentityError;
use super::certificate::shown;
use super::key::PrivateKey;

/// A request whose signature proves that the sender has the key.
#[derive(Debug)]
pub struct Request {
    pub(super) public_key: SubjectPublicKeyInfo,
    /// The common name that the request asks for, fit for a message; `None` without one.
    pub common_name: Option<String>,
    /// What else the request asks for, and does not get; fit for a message.
    pub ignored: Vec<String>,
}

impl Request {
    /// Reads a request in PEM; `path` is its name in errors.
    ///
    /// # Errors
    /// When it is no request, its signature is wrong, or its key is of a kind that the mesh does not use.
    pub fn parse(pem: &[u8], path: &Path) -> Result<Self, IdentityError> {
        let der =
            CertificateSigningRequestDer::from_pem_slice(pem).map_err(|error| IdentityError::BadPem {
                path: path.to_owned(),
                expected: "a certificate request in PEM, as `node cert request` makes it",
                found: error.to_string(),
            })?;
        let refuse = |fault| IdentityError::Request {
            path: path.to_owned(),
            fault,
        };
        let Ok(([], request)) = X509CertificationRequest::from_der(&der) else {
            return Err(refuse("expected a certificate request, found something else"));
        };
        let info = &request.certification_request_info;
        let public_key = SubjectPublicKeyInfo::from_der(info.subject_pki.raw)
            .ok()
            .filter(is_accepted)
            .ok_or_else(|| {
                refuse("expected an ECDSA P-256, P-384 or Ed25519 key, found a key of another kind")
            })?;
        request.verify_signature().map_err(|_| {
            refuse("the request is not signed by its own key; make a new one with `node cert request`")
        })?;
        let common_name = info
            .subject
            .iter_common_name()
            .next()
            .and_then(|name| name.as_str().ok())
            .map(shown);
        let ignored = request
            .requested_extensions()
            .into_iter()
            .flatten()
            .map(describe)
            .collect();
        Ok(Self {
            public_key,
            common_name,
            ignored,
        })
    }

    /// The node id that the request proposes.
    ///
    /// # Errors
    /// When its common name is no node id.
    pub fn proposed_id(&self, path: &Path) -> Result<NodeId, IdentityError> {
        self.common_name
            .as_deref()
            .and_then(|name| NodeId::parse(name).ok())
            .filter(|id| !id.is_leaf())
            .ok_or_else(|| IdentityError::RequestId {
                path: path.to_owned(),
                found: match &self.common_name {
                    Some(name) => format!("{name:?}"),
                    None => "nobody".to_owned(),
                },
            })
    }
}

fn is_accepted(key: &SubjectPublicKeyInfo) -> bool {
    use rcgen::PublicKeyData;
    [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
    ]
    .contains(&key.algorithm())
}

fn describe(extension: &ParsedExtension<'_>) -> String {
    match extension {
        ParsedExtension::SubjectAlternativeName(names) => {
            let names: Vec<String> = names.general_names.iter().map(ToString::to_string).collect();
            shown(&format!("names {}", names.join(", ")))
        }
        ParsedExtension::BasicConstraints(constraints) if constraints.ca => "the rights of a CA".to_owned(),
        ParsedExtension::KeyUsage(_) | ParsedExtension::ExtendedKeyUsage(_) => "key usages".to_owned(),
        _ => "another extension".to_owned(),
    }
}

/// A request for `node` in PEM, signed by `key`.
pub(super) fn make(key: &PrivateKey, node: &NodeId) -> Result<String, IdentityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, node.as_str());
    params
        .serialize_request(key)
        .and_then(|request| request.pem())
        .map_err(IdentityError::crypto("make a request"))
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, IsCa, KeyPair, SanType};

    use super::*;

    fn parse(pem: &str) -> Result<Request, IdentityError> {
        Request::parse(pem.as_bytes(), Path::new("b.csr"))
    }

    #[test]
    fn a_request_carries_the_key_and_proposes_the_id() {
        let key = PrivateKey::generate().unwrap();
        let request = parse(&make(&key, &NodeId::parse("nodeB").unwrap()).unwrap()).unwrap();
        assert_eq!(request.proposed_id(Path::new("b.csr")).unwrap().as_str(), "nodeB");
        assert!(request.ignored.is_empty());
        use rcgen::PublicKeyData;
        assert_eq!(request.public_key.der_bytes(), key.der_bytes());
    }

    #[test]
    fn names_and_rights_that_a_request_asks_for_are_shown_and_not_granted() {
        let mut params =
            CertificateParams::new(vec!["a.lab.mesh.internal".to_owned(), "*".to_owned()]).unwrap();
        params
            .subject_alt_names
            .push(SanType::URI("spiffe://evil\u{7}".try_into().unwrap()));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "b");
        let key = KeyPair::generate().unwrap();
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        let request = parse(&pem).unwrap();
        assert_eq!(
            request.ignored,
            [
                "names DNSName(a.lab.mesh.internal), DNSName(*), URI(spiffe://evil\u{fffd})",
                "the rights of a CA"
            ]
        );
        let dir = tempfile::tempdir().unwrap();
        let now = jiff::Timestamp::constant(1_800_000_000, 0);
        let ca = super::super::Ca::create(dir.path(), &"lab".parse().unwrap(), now).unwrap();
        let issued = ca
            .issue(&"b".parse().unwrap(), &request.public_key, 1, now)
            .unwrap();
        let peer = super::super::peer_identity(&issued.certificate).unwrap();
        assert_eq!(peer.node.as_str(), "b");
    }

    #[test]
    fn a_request_signed_by_another_key_is_refused() {
        let key = PrivateKey::generate().unwrap();
        let pem = make(&key, &NodeId::parse("b").unwrap()).unwrap();
        let mut der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
            .unwrap()
            .to_vec();
        let at = der.windows(3).position(|w| w == [0x0c, 0x01, b'b']).unwrap();
        der[at + 2] = b'c';
        let forged = pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", der));
        let text = parse(&forged).unwrap_err().to_string();
        assert!(
            text.starts_with("b.csr: the request is not signed by its own key"),
            "{text}"
        );
    }

    #[test]
    fn keys_of_other_kinds_are_refused() {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
        let pem = CertificateParams::default()
            .serialize_request(&key)
            .unwrap()
            .pem()
            .unwrap();
        let text = parse(&pem).unwrap_err().to_string();
        assert!(text.contains("found a key of another kind"), "{text}");
    }

    #[test]
    fn a_request_without_a_node_id_needs_one_from_the_ca() {
        for name in ["b c", "b+1", "*.lab"] {
            let mut params = CertificateParams::default();
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, name);
            let key = KeyPair::generate().unwrap();
            let request = parse(&params.serialize_request(&key).unwrap().pem().unwrap()).unwrap();
            let text = request.proposed_id(Path::new("b.csr")).unwrap_err().to_string();
            assert_eq!(
                text,
                format!("b.csr: the request is for {name:?}, expected a node id; name one with --id")
            );
        }
    }

    #[test]
    fn noise_is_no_request() {
        assert!(matches!(parse("nonsense"), Err(IdentityError::BadPem { .. })));
        let noise = pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", vec![0x30; 64]));
        assert!(matches!(parse(&noise), Err(IdentityError::Request { .. })));
    }
}
