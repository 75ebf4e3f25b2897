//! What a file of certificates holds, for people: `node cert show`.
//!
//! Describes certificates that are expired or of another mesh too; judging them is `Identity`'s part.

use std::path::Path;

use jiff::Timestamp;
use serde::Serialize;
use workmesh_proto::{MeshName, NodeId};

use super::certificate::{Certificate, parse_pem};
use super::{IdentityError, install, missing, paths, store};

/// One certificate, as `node cert show --json` prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CertificateSummary {
    /// `node`, `ca`, or `other` for one that this mesh has no use for.
    pub kind: &'static str,
    /// The subject.
    pub subject: String,
    /// The node, if it is a node's.
    pub node: Option<NodeId>,
    /// The mesh, if it is of one.
    pub mesh: Option<MeshName>,
    /// The serial number, lower-case hexadecimal.
    pub serial: String,
    /// The start of its validity.
    pub not_before: Timestamp,
    /// The end of its validity.
    pub not_after: Timestamp,
    /// Whole days that are left; negative once it has expired.
    pub days_left: i64,
    /// Who signed it.
    pub issuer: String,
    /// SHA-256 of the certificate, lower-case hexadecimal.
    pub fingerprint: String,
}

/// The certificates in the PEM file at `path` (`-`: the standard input), in the file's order.
///
/// # Errors
/// When the file can't be read or holds no certificates, or too many.
pub fn summaries(path: &Path, now: Timestamp) -> Result<Vec<CertificateSummary>, IdentityError> {
    let place = path.display().to_string();
    parse_pem(&install::read(path)?, path)?
        .iter()
        .map(|der| summary(&Certificate::parse(der, &place)?, now))
        .collect()
}

/// The certificate of the node that lives in `data_dir`.
///
/// # Errors
/// When there is none, or as [`summaries`].
pub fn installed_summaries(
    data_dir: &Path,
    now: Timestamp,
) -> Result<Vec<CertificateSummary>, IdentityError> {
    let path = paths::node_certificate(data_dir);
    if !store::exists(&path)? {
        return Err(missing(data_dir, &path, paths::node_key(data_dir).exists()));
    }
    summaries(&path, now)
}

fn summary(certificate: &Certificate<'_>, now: Timestamp) -> Result<CertificateSummary, IdentityError> {
    let (kind, node, mesh) = if certificate.is_ca() {
        ("ca", None, certificate.ca_mesh().ok())
    } else {
        match certificate.peer_identity() {
            Ok(peer) => ("node", Some(peer.node), Some(peer.mesh)),
            Err(_) => ("other", None, None),
        }
    };
    let not_after = certificate.not_after()?;
    Ok(CertificateSummary {
        kind,
        subject: certificate.subject(),
        node,
        mesh,
        serial: certificate.serial(),
        not_before: certificate.not_before()?,
        not_after,
        days_left: not_after.duration_since(now).as_secs().div_euclid(24 * 60 * 60),
        issuer: certificate.issuer(),
        fingerprint: certificate.fingerprint(),
    })
}
