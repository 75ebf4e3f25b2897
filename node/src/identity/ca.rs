//! The mesh's own certificate authority: made by `node init`, used by `node cert`.
//!
//! It decides every name, usage and date in a certificate, and writes each one into its ledger before handing it out.
//! A running node never needs it.

use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, GeneralSubtree,
    IsCa, Issuer, KeyUsagePurpose, NameConstraints, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use serde::Serialize;
use time::OffsetDateTime;
use workmesh_proto::{MeshName, NodeId};

use super::certificate::{Certificate, ca_common_name, hex, parse_pem};
use super::key::PrivateKey;
use super::{IdentityError, paths, store};

/// Days for which a node's certificate is valid where nothing else is asked for.
pub const DEFAULT_DAYS: u32 = 365;
/// The most days that can be asked for; a CA is valid for as many.
pub const MAX_DAYS: u32 = 3653;
/// A certificate is valid from a little before its making, for machines whose clock is late.
const CLOCK_SKEW: SignedDuration = SignedDuration::from_mins(5);

/// A certificate authority with its key.
#[derive(Debug)]
pub struct Ca {
    mesh: MeshName,
    certificate: CertificateDer<'static>,
    not_after: Timestamp,
    issuer: Issuer<'static, PrivateKey>,
    ledger: PathBuf,
}

/// One line of the ledger.
#[derive(Serialize)]
struct LedgerLine<'a> {
    serial: &'a str,
    id: &'a NodeId,
    not_after: Timestamp,
    issued: Timestamp,
}

/// A certificate just issued.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate.
    pub certificate: CertificateDer<'static>,
    /// Its serial number, lower-case hexadecimal.
    pub serial: String,
    /// The end of its validity.
    pub not_after: Timestamp,
}

impl Ca {
    /// Makes the CA of a new mesh and writes it to `data_dir`.
    ///
    /// # Errors
    /// When a CA is there already, or the disk refuses.
    pub fn create(data_dir: &Path, mesh: &MeshName, now: Timestamp) -> Result<Self, IdentityError> {
        let (certificate_path, key_path) = (paths::ca_certificate(data_dir), paths::ca_key(data_dir));
        if let Some(path) = [&key_path, &certificate_path]
            .into_iter()
            .find(|path| path.exists())
        {
            return Err(IdentityError::Exists { path: path.clone() });
        }
        let key = PrivateKey::generate()?;
        let not_after = now.saturating_add(days(MAX_DAYS)).unwrap_or(Timestamp::MAX);
        let params = ca_params(mesh, now, not_after)?;
        let certificate = params
            .self_signed(&key)
            .map_err(IdentityError::crypto("make a CA"))?;
        store::make_private_dir(&data_dir.join("ca"))?;
        store::create_new(&key_path, key.to_pem().as_bytes(), store::PRIVATE)?;
        store::create_new(&certificate_path, certificate.pem().as_bytes(), store::PUBLIC)?;
        Self::load(data_dir, now)
    }

    /// Reads the CA in `data_dir`.
    ///
    /// # Errors
    /// When there is none, its key can be read by others or does not fit, or it has expired.
    pub fn load(data_dir: &Path, now: Timestamp) -> Result<Self, IdentityError> {
        let path = paths::ca_certificate(data_dir);
        let pem = store::read(&path).map_err(|error| {
            if error.is_not_found() {
                IdentityError::NoCa {
                    data_dir: data_dir.to_owned(),
                    path: path.clone(),
                }
            } else {
                error
            }
        })?;
        let certificate = parse_pem(&pem, &path)?.swap_remove(0);
        let place = path.display().to_string();
        let parsed = Certificate::parse(&certificate, &place)?;
        let mesh = parsed.ca_mesh()?;
        parsed.check_time(now)?;
        let not_after = parsed.not_after()?;
        let key_path = paths::ca_key(data_dir);
        let key = PrivateKey::load(&key_path)?;
        if key.der_bytes() != parsed.public_key() {
            return Err(IdentityError::KeyMismatch {
                certificate: path,
                key: key_path,
                subject: parsed.subject(),
            });
        }
        let issuer =
            Issuer::from_ca_cert_der(&certificate, key).map_err(IdentityError::crypto("read the CA"))?;
        Ok(Self {
            mesh,
            certificate,
            not_after,
            issuer,
            ledger: paths::ca_ledger(data_dir),
        })
    }

    /// The mesh whose members this CA names.
    pub fn mesh(&self) -> &MeshName {
        &self.mesh
    }

    /// The CA's own certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Issues a certificate for `node` over `public_key`, valid for `days`, and enters it in the ledger.
    ///
    /// # Errors
    /// For a leaf instance, for a validity beyond the CA's own, or when the ledger can't be written: then nothing is issued.
    pub fn issue(
        &self,
        node: &NodeId,
        public_key: &impl PublicKeyData,
        days: u32,
        now: Timestamp,
    ) -> Result<Issued, IdentityError> {
        if node.is_leaf() {
            return Err(IdentityError::LeafId(node.clone()));
        }
        // Certificates know whole seconds; the ledger says what they say.
        let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
        let not_after = self.end_of_validity(days, now)?;
        let (serial, serial_text) = random_serial();
        let mut params = node_params(&self.mesh, node)?;
        params.serial_number = Some(serial);
        params.not_before = date(now.saturating_sub(CLOCK_SKEW).unwrap_or(Timestamp::MIN));
        params.not_after = date(not_after);
        let certificate = params
            .signed_by(public_key, &self.issuer)
            .map_err(IdentityError::crypto("sign a certificate"))?;
        let line = LedgerLine {
            serial: &serial_text,
            id: node,
            not_after,
            issued: now,
        };
        let line = serde_json::to_string(&line).expect("texts and dates are always JSON");
        store::append_line(&self.ledger, &line)?;
        Ok(Issued {
            certificate: certificate.into(),
            serial: serial_text,
            not_after,
        })
    }

    fn end_of_validity(&self, asked: u32, now: Timestamp) -> Result<Timestamp, IdentityError> {
        let not_after = now.saturating_add(days(asked)).unwrap_or(Timestamp::MAX);
        if not_after <= self.not_after {
            return Ok(not_after);
        }
        Err(IdentityError::OutlivesCa {
            ca_not_after: self.not_after,
            days_left: self.not_after.duration_since(now).as_hours() / 24,
            days: asked,
        })
    }
}

/// Whole days of 24 hours.
fn days(count: u32) -> SignedDuration {
    SignedDuration::from_hours(i64::from(count) * 24)
}

fn ca_params(
    mesh: &MeshName,
    now: Timestamp,
    not_after: Timestamp,
) -> Result<CertificateParams, IdentityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(ca_common_name(mesh));
    params.serial_number = Some(random_serial().0);
    params.not_before = date(now.saturating_sub(CLOCK_SKEW).unwrap_or(Timestamp::MIN));
    params.not_after = date(not_after);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName(mesh.dns_name())],
        excluded_subtrees: Vec::new(),
    });
    Ok(params)
}

fn node_params(mesh: &MeshName, node: &NodeId) -> Result<CertificateParams, IdentityError> {
    let name = |name: String| {
        Ia5String::try_from(name)
            .map(SanType::DnsName)
            .map_err(IdentityError::crypto("write a name"))
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(node.as_str().to_owned());
    params.subject_alt_names = vec![name(mesh.dns_name_of(node))?, name(mesh.dns_name())?];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn common_name(name: String) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

/// 16 random bytes, positive and of full length, and the same in hexadecimal.
fn random_serial() -> (SerialNumber, String) {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    let text = hex(&bytes);
    (SerialNumber::from(bytes.to_vec()), text)
}

fn date(timestamp: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(timestamp.as_second()).unwrap_or(rcgen::date_time_ymd(9999, 12, 31))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rcgen::KeyPair;

    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    fn ca() -> (tempfile::TempDir, Ca) {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::create(dir.path(), &MeshName::parse("lab").unwrap(), NOW).unwrap();
        (dir, ca)
    }

    fn id(text: &str) -> NodeId {
        NodeId::parse(text).unwrap()
    }

    #[test]
    fn a_node_certificate_has_its_names_usages_and_dates_and_nothing_else() {
        let (_dir, ca) = ca();
        let key = KeyPair::generate().unwrap();
        let issued = ca.issue(&id("b_2"), &key, 30, NOW).unwrap();
        let (_, x509) = x509_parser::parse_x509_certificate(&issued.certificate).unwrap();
        let names = x509.subject_alternative_name().unwrap().unwrap();
        let names: Vec<String> = names
            .value
            .general_names
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            names,
            ["DNSName(b_2.lab.mesh.internal)", "DNSName(lab.mesh.internal)"]
        );
        let usage = x509.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && usage.server_auth && !usage.any && !usage.code_signing);
        let usage = x509.key_usage().unwrap().unwrap().value;
        assert!(usage.digital_signature() && !usage.key_cert_sign());
        assert!(!x509.is_ca());
        assert_eq!(x509.subject().to_string(), "CN=b_2");
        assert_eq!(x509.issuer().to_string(), "CN=lab mesh CA");
        assert_eq!(x509.validity().not_before.timestamp(), NOW.as_second() - 300);
        assert_eq!(
            x509.validity().not_after.timestamp(),
            NOW.as_second() + 30 * 24 * 60 * 60
        );
        assert_eq!(x509.raw_serial().len(), 16);
        assert_eq!(hex(x509.raw_serial()), issued.serial);
        let oids: BTreeSet<String> = x509
            .extensions()
            .iter()
            .map(|extension| extension.oid.to_id_string())
            .collect();
        for oid in ["2.5.29.14", "2.5.29.35"] {
            assert!(oids.contains(oid), "{oids:?}");
        }
    }

    #[test]
    fn the_ca_signs_names_of_its_own_mesh_only_and_no_other_ca() {
        let (_dir, ca) = ca();
        let (_, x509) = x509_parser::parse_x509_certificate(ca.certificate()).unwrap();
        let basic = x509.basic_constraints().unwrap().unwrap();
        assert!(basic.value.ca && basic.value.path_len_constraint == Some(0));
        let names = x509.name_constraints().unwrap().unwrap();
        let permitted: Vec<String> = names
            .value
            .permitted_subtrees
            .iter()
            .flatten()
            .map(|tree| tree.base.to_string())
            .collect();
        assert_eq!(permitted, ["DNSName(lab.mesh.internal)"]);
    }

    #[test]
    fn each_certificate_is_in_the_ledger_with_a_serial_of_its_own() {
        let (dir, ca) = ca();
        let key = KeyPair::generate().unwrap();
        let serials: Vec<String> = ["a", "b"]
            .map(|node| ca.issue(&id(node), &key, 1, NOW).unwrap().serial)
            .into();
        assert_ne!(serials[0], serials[1]);
        let ledger = std::fs::read_to_string(paths::ca_ledger(dir.path())).unwrap();
        let expected = format!(
            "{{\"serial\":\"{}\",\"id\":\"a\",\"not_after\":\"2027-01-16T08:00:00Z\",\"issued\":\"2027-01-15T08:00:00Z\"}}",
            serials[0]
        );
        assert_eq!(ledger.lines().next().unwrap(), expected);
        assert_eq!(ledger.lines().count(), 2);
    }

    #[test]
    fn nothing_is_issued_without_the_ledger() {
        let (dir, ca) = ca();
        std::fs::create_dir(paths::ca_ledger(dir.path())).unwrap();
        let key = KeyPair::generate().unwrap();
        assert!(matches!(
            ca.issue(&id("a"), &key, 1, NOW),
            Err(IdentityError::Write { .. })
        ));
    }

    #[test]
    fn no_certificate_outlives_its_ca() {
        let (_dir, ca) = ca();
        let key = KeyPair::generate().unwrap();
        assert!(ca.issue(&id("a"), &key, MAX_DAYS, NOW).is_ok());
        let late = NOW + days(MAX_DAYS - 10);
        let text = ca.issue(&id("a"), &key, 11, late).unwrap_err().to_string();
        assert!(text.ends_with("expected at most --days 10, found 11"), "{text}");
    }

    #[test]
    fn leaf_instances_get_no_certificates() {
        let (_dir, ca) = ca();
        let key = KeyPair::generate().unwrap();
        assert!(matches!(
            ca.issue(&id("a+1"), &key, 1, NOW),
            Err(IdentityError::LeafId(_))
        ));
    }

    #[test]
    fn a_ca_is_never_overwritten() {
        let (dir, _ca) = ca();
        let again = Ca::create(dir.path(), &MeshName::parse("lab").unwrap(), NOW);
        assert!(matches!(again, Err(IdentityError::Exists { .. })));
        assert_eq!(Ca::load(dir.path(), NOW).unwrap().mesh().as_str(), "lab");
    }

    #[test]
    fn a_machine_without_a_ca_is_told_where_to_look() {
        let dir = tempfile::tempdir().unwrap();
        let text = Ca::load(dir.path(), NOW).unwrap_err().to_string();
        assert!(
            text.contains("run this on the machine where `node init` was run"),
            "{text}"
        );
    }

    #[test]
    fn serials_are_positive_and_of_full_length() {
        for _ in 0..200 {
            let (_, text) = random_serial();
            assert_eq!(text.len(), 32);
            assert!(matches!(text.as_bytes()[0], b'4'..=b'7'), "{text}");
        }
    }
}
