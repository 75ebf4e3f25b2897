//! What a certificate says: whose it is, of which mesh, for how long, and who signed it.
//!
//! Called with a node's own certificate by `Identity` and with a peer's by the links and sessions. Never touches the
//! disk, and never decides whether a peer's chain is good: the TLS library does that before.

use std::fmt::Write;

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use workmesh_proto::{MeshName, NodeId};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::{CertificateFault, IdentityError};

/// The longest certificate that is looked into, in bytes.
pub const MAX_CERTIFICATE_BYTES: usize = 16 * 1024;
/// What every name of a mesh ends with.
const SUFFIX: &str = ".mesh.internal";
const CA_SUFFIX: &str = " mesh CA";
/// A subject in a message is cut here, in characters.
const MAX_SHOWN: usize = 200;

/// Who a certificate says that its holder is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The node.
    pub node: NodeId,
    /// Its mesh.
    pub mesh: MeshName,
    /// The serial number, lower-case hexadecimal.
    pub serial: String,
    /// The start of its validity.
    pub not_before: Timestamp,
    /// The end of its validity: a connection must not live longer.
    pub not_after: Timestamp,
    /// The subject, fit for a message.
    pub subject: String,
}

/// Reads whose certificate `der` is. The chain, the validity and the mesh are checked by the caller.
///
/// # Errors
/// When it is no certificate, longer than [`MAX_CERTIFICATE_BYTES`], a CA's, or when its names are anything but one
/// node's name and the name of that node's mesh.
pub fn peer_identity(der: &[u8]) -> Result<PeerIdentity, IdentityError> {
    Certificate::parse(der, "peer")?.peer_identity()
}

/// One line about a certificate of any origin, for the log: its subject, its issuer and when it ends.
pub fn describe_certificate(der: &[u8]) -> String {
    let Ok(certificate) = Certificate::parse(der, "peer") else {
        return "no certificate".to_owned();
    };
    let not_after = certificate
        .not_after()
        .map_or_else(|_| "an unknown time".to_owned(), |at| at.to_string());
    format!(
        "{}, issued by {}, valid until {not_after}",
        certificate.subject(),
        certificate.issuer()
    )
}

/// One line that tells a CA from others of the same name: its subject and the start of its fingerprint.
pub fn describe_ca(der: &[u8]) -> String {
    let Ok(certificate) = Certificate::parse(der, "peer") else {
        return "no certificate".to_owned();
    };
    let fingerprint = certificate.fingerprint();
    format!(
        "{} ({})",
        certificate.subject(),
        &fingerprint[..fingerprint.len().min(16)]
    )
}

/// A certificate with the place it came from.
pub(super) struct Certificate<'a> {
    x509: X509Certificate<'a>,
    der: &'a [u8],
    place: &'a str,
}

impl<'a> Certificate<'a> {
    /// Parses a certificate; `place` is the file, or `peer`.
    pub(super) fn parse(der: &'a [u8], place: &'a str) -> Result<Self, IdentityError> {
        let refuse = |fault| IdentityError::Certificate {
            place: place.to_owned(),
            subject: "an unknown subject".to_owned(),
            fault,
        };
        if der.len() > MAX_CERTIFICATE_BYTES {
            return Err(refuse(CertificateFault::TooLarge {
                limit_bytes: MAX_CERTIFICATE_BYTES,
                found_bytes: der.len(),
            }));
        }
        match X509Certificate::from_der(der) {
            Ok(([], x509)) => Ok(Self { x509, der, place }),
            Ok((rest, _)) => Err(refuse(CertificateFault::Unreadable(format!(
                "{} bytes after one",
                rest.len()
            )))),
            Err(_) => Err(refuse(CertificateFault::Unreadable("something else".to_owned()))),
        }
    }

    pub(super) fn refuse(&self, fault: CertificateFault) -> IdentityError {
        IdentityError::Certificate {
            place: self.place.to_owned(),
            subject: self.subject(),
            fault,
        }
    }

    pub(super) fn subject(&self) -> String {
        shown(&self.x509.subject().to_string())
    }

    pub(super) fn issuer(&self) -> String {
        shown(&self.x509.issuer().to_string())
    }

    pub(super) fn serial(&self) -> String {
        hex(self
            .x509
            .raw_serial()
            .strip_prefix(&[0])
            .unwrap_or(self.x509.raw_serial()))
    }

    /// The SHA-256 of the whole certificate.
    pub(super) fn fingerprint(&self) -> String {
        hex(&Sha256::digest(self.der))
    }

    pub(super) fn is_ca(&self) -> bool {
        self.x509.is_ca()
    }

    pub(super) fn not_before(&self) -> Result<Timestamp, IdentityError> {
        self.timestamp(self.x509.validity().not_before.timestamp())
    }

    pub(super) fn not_after(&self) -> Result<Timestamp, IdentityError> {
        self.timestamp(self.x509.validity().not_after.timestamp())
    }

    fn timestamp(&self, seconds: i64) -> Result<Timestamp, IdentityError> {
        Timestamp::from_second(seconds)
            .map_err(|_| self.refuse(CertificateFault::Unreadable("a date out of range".to_owned())))
    }

    pub(super) fn public_key(&self) -> &[u8] {
        &self.x509.public_key().subject_public_key.data
    }

    pub(super) fn check_time(&self, now: Timestamp) -> Result<(), IdentityError> {
        let (not_before, not_after) = (self.not_before()?, self.not_after()?);
        if now > not_after {
            return Err(self.refuse(CertificateFault::Expired { not_after, now }));
        }
        if now < not_before {
            return Err(self.refuse(CertificateFault::NotYetValid { not_before, now }));
        }
        Ok(())
    }

    pub(super) fn check_mesh(&self, found: &MeshName, expected: &MeshName) -> Result<(), IdentityError> {
        if found == expected {
            return Ok(());
        }
        Err(self.refuse(CertificateFault::OtherMesh {
            expected: expected.clone(),
            found: found.clone(),
        }))
    }

    /// Checks that one of `cas` signed this certificate.
    pub(super) fn check_issuer(&self, cas: &[Certificate<'_>]) -> Result<(), IdentityError> {
        let signed_by = |ca: &Certificate<'_>| {
            self.x509.issuer().as_raw() == ca.x509.subject().as_raw()
                && self.x509.verify_signature(Some(ca.x509.public_key())).is_ok()
        };
        if cas.iter().any(signed_by) {
            return Ok(());
        }
        let name = |ca: &Certificate<'_>| format!("{} (SHA-256 {:.16})", ca.subject(), ca.fingerprint());
        let found = if cas.iter().any(|ca| ca.subject() == self.issuer()) {
            format!("another CA of the name {}", self.issuer())
        } else {
            self.issuer()
        };
        Err(self.refuse(CertificateFault::OtherCa {
            expected: cas.iter().map(name).collect::<Vec<_>>().join(" or "),
            found,
        }))
    }

    /// The mesh of a CA's certificate: its common name is `<mesh> mesh CA`.
    pub(super) fn ca_mesh(&self) -> Result<MeshName, IdentityError> {
        if !self.is_ca() {
            return Err(self.refuse(CertificateFault::Role {
                expected: "a CA's certificate",
                found: "a node's",
            }));
        }
        let name = self
            .common_name()
            .and_then(|name| name.strip_suffix(CA_SUFFIX))
            .ok_or_else(|| {
                self.refuse(CertificateFault::Role {
                    expected: "a CA with the common name \"<mesh> mesh CA\"",
                    found: "another name",
                })
            })?;
        MeshName::parse(name).map_err(|error| self.refuse(CertificateFault::BadName(error)))
    }

    fn common_name(&self) -> Option<&str> {
        let mut names = self.x509.subject().iter_common_name();
        match (names.next(), names.next()) {
            (Some(name), None) => name.as_str().ok(),
            _ => None,
        }
    }

    pub(super) fn peer_identity(&self) -> Result<PeerIdentity, IdentityError> {
        if self.is_ca() {
            return Err(self.refuse(CertificateFault::Role {
                expected: "a node's certificate",
                found: "a CA's",
            }));
        }
        let names = self.names()?;
        let no_match = || self.refuse(CertificateFault::Names { found: list(&names) });
        let dns = |name: &Name| match name {
            Name::Dns(name) => strip_suffix(name, SUFFIX).map(str::to_owned),
            Name::Other(_) => None,
        };
        let [first, second] = &names[..] else {
            return Err(no_match());
        };
        let (first, second) = dns(first).zip(dns(second)).ok_or_else(no_match)?;
        let (full, mesh) = match (first.contains('.'), second.contains('.')) {
            (true, false) => (first, second),
            (false, true) => (second, first),
            _ => return Err(no_match()),
        };
        let bad_name = |error| self.refuse(CertificateFault::BadName(error));
        let (node, mesh_of_node) = full.split_once('.').ok_or_else(no_match)?;
        let mesh = MeshName::parse(&mesh).map_err(bad_name)?;
        let node = NodeId::parse(node).map_err(bad_name)?;
        if node.is_leaf() {
            return Err(no_match());
        }
        if !mesh_of_node.eq_ignore_ascii_case(mesh.as_str()) {
            return Err(no_match());
        }
        Ok(PeerIdentity {
            node,
            mesh,
            serial: self.serial(),
            not_before: self.not_before()?,
            not_after: self.not_after()?,
            subject: self.subject(),
        })
    }

    fn names(&self) -> Result<Vec<Name>, IdentityError> {
        let extension = self.x509.subject_alternative_name().map_err(|_| {
            self.refuse(CertificateFault::Unreadable(
                "one whose alternative names are damaged".to_owned(),
            ))
        })?;
        let names = extension
            .iter()
            .flat_map(|names| &names.value.general_names)
            .map(|name| match name {
                GeneralName::DNSName(name) => Name::Dns((*name).to_owned()),
                other => Name::Other(other.to_string()),
            });
        Ok(names.collect())
    }
}

/// An alternative name of a certificate.
enum Name {
    Dns(String),
    Other(String),
}

fn list(names: &[Name]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    let texts: Vec<&str> = names
        .iter()
        .map(|name| match name {
            Name::Dns(name) | Name::Other(name) => name.as_str(),
        })
        .collect();
    shown(&texts.join(", "))
}

fn strip_suffix<'a>(name: &'a str, suffix: &str) -> Option<&'a str> {
    let (head, tail) = name.split_at_checked(name.len().checked_sub(suffix.len())?)?;
    tail.eq_ignore_ascii_case(suffix).then_some(head)
}

/// The common name of a mesh's CA.
pub(super) fn ca_common_name(mesh: &MeshName) -> String {
    format!("{mesh}{CA_SUFFIX}")
}

/// Text from a certificate on one line, without control characters, of bounded length.
pub(super) fn shown(text: &str) -> String {
    let mut safe: String = text
        .chars()
        .take(MAX_SHOWN)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if text.chars().nth(MAX_SHOWN).is_some() {
        safe.push('…');
    }
    safe
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes every write");
        text
    })
}

/// The certificates of a PEM file, in the file's order.
pub(super) fn parse_pem(
    pem: &[u8],
    path: &std::path::Path,
) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    use rustls_pki_types::pem::PemObject;
    let bad = |found: String| IdentityError::BadPem {
        path: path.to_owned(),
        expected: "1 to 16 certificates in PEM",
        found,
    };
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        if certificates.len() == MAX_CERTIFICATES {
            return Err(bad("more".to_owned()));
        }
        certificates.push(certificate.map_err(|error| bad(error.to_string()))?);
    }
    if certificates.is_empty() {
        return Err(bad("none".to_owned()));
    }
    Ok(certificates)
}

/// The most certificates in one file.
pub(super) const MAX_CERTIFICATES: usize = 16;

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, SanType};

    use super::*;

    fn certificate(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    fn fault(der: &[u8]) -> CertificateFault {
        match peer_identity(der) {
            Err(IdentityError::Certificate { fault, place, .. }) => {
                assert_eq!(place, "peer");
                fault
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_peer_is_named_by_its_two_dns_names_in_either_order_and_case() {
        for names in [
            ["nodeB.lab.mesh.internal", "lab.mesh.internal"],
            ["LAB.Mesh.Internal", "nodeB.lab.MESH.internal"],
        ] {
            let peer = peer_identity(&certificate(&names, |_| ())).unwrap();
            assert_eq!((peer.node.as_str(), peer.mesh.as_str()), ("nodeB", "lab"));
        }
    }

    #[test]
    fn any_other_set_of_names_is_refused() {
        let sets: [&[&str]; 12] = [
            &[],
            &["b.lab.mesh.internal"],
            &["lab.mesh.internal"],
            &["b.lab.mesh.internal", "c.lab.mesh.internal", "lab.mesh.internal"],
            &["b.lab.mesh.internal", "c.lab.mesh.internal"],
            &["b.lab.mesh.internal", "b.lab.mesh.internal"],
            &["b.lab.mesh.internal", "other.mesh.internal"],
            &["b.lab.mesh.internal", "lab.mesh.internal", "example.org"],
            &["b.lab.mesh.internal", "example.org"],
            &["b.c.lab.mesh.internal", "lab.mesh.internal"],
            &["b.lab.mesh.internal", "10.0.0.1"],
            &[".mesh.internal", "b.lab.mesh.internal"],
        ];
        for names in sets {
            let fault = fault(&certificate(names, |_| ()));
            assert!(
                matches!(
                    fault,
                    CertificateFault::Names { .. } | CertificateFault::BadName(_)
                ),
                "{names:?}: {fault}"
            );
        }
    }

    #[test]
    fn wildcards_and_leaf_instances_are_no_node_names() {
        for node in ["*", "b*", "b+12", "-b", ""] {
            let name = format!("{node}.lab.mesh.internal");
            let fault = fault(&certificate(&[&name, "lab.mesh.internal"], |_| ()));
            assert!(
                matches!(
                    fault,
                    CertificateFault::Names { .. } | CertificateFault::BadName(_)
                ),
                "{node}: {fault}"
            );
        }
    }

    #[test]
    fn names_that_are_not_of_dns_are_refused_and_shown() {
        let der = certificate(&["b.lab.mesh.internal", "lab.mesh.internal"], |params| {
            params
                .subject_alt_names
                .push(SanType::URI("spiffe://x/y".try_into().unwrap()));
        });
        assert!(fault(&der).to_string().contains("spiffe://x/y"));
    }

    #[test]
    fn a_ca_is_no_peer() {
        let der = certificate(&["b.lab.mesh.internal", "lab.mesh.internal"], |params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        });
        assert!(matches!(fault(&der), CertificateFault::Role { .. }));
    }

    #[test]
    fn noise_and_trailing_bytes_are_no_certificate() {
        assert!(matches!(fault(b""), CertificateFault::Unreadable(_)));
        assert!(matches!(fault(&[0x30; 100]), CertificateFault::Unreadable(_)));
        let mut der = certificate(&["b.lab.mesh.internal", "lab.mesh.internal"], |_| ());
        der.push(0);
        assert_eq!(
            fault(&der),
            CertificateFault::Unreadable("1 bytes after one".to_owned())
        );
    }

    #[test]
    fn a_certificate_is_looked_into_up_to_the_limit_and_not_past_it() {
        let unreadable = fault(&vec![0x30; MAX_CERTIFICATE_BYTES]);
        assert!(matches!(unreadable, CertificateFault::Unreadable(_)));
        let too_large = fault(&vec![0x30; MAX_CERTIFICATE_BYTES + 1]);
        assert!(matches!(too_large, CertificateFault::TooLarge { .. }));
    }

    #[test]
    fn a_file_holds_up_to_sixteen_certificates() {
        let path = std::path::Path::new("x");
        let one = rcgen::generate_simple_self_signed([]).unwrap().cert.pem();
        assert_eq!(
            parse_pem(one.repeat(MAX_CERTIFICATES).as_bytes(), path)
                .unwrap()
                .len(),
            MAX_CERTIFICATES
        );
        assert!(parse_pem(one.repeat(MAX_CERTIFICATES + 1).as_bytes(), path).is_err());
    }

    #[test]
    fn subjects_are_shown_on_one_line_of_bounded_length() {
        assert_eq!(shown("a\nb\u{1b}[31m"), "a\u{fffd}b\u{fffd}[31m");
        assert_eq!(shown(&"x".repeat(201)).chars().count(), 201);
        assert!(shown(&"x".repeat(201)).ends_with('…'));
        assert_eq!(shown(&"x".repeat(200)), "x".repeat(200));
    }
}
