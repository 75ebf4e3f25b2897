//! How an identity comes to be: made in one step beside the CA, or requested, signed and installed; and renewed.
//!
//! Called by `cli/`. Each function leaves the files of an identity either as they were or complete.

use std::path::Path;

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use workmesh_proto::{MeshName, NodeId};
use zeroize::Zeroizing;

use super::ca::{Ca, Issued};
use super::certificate::{Certificate, parse_pem};
use super::key::PrivateKey;
use super::request::{self, Request};
use super::{Identity, IdentityError, paths, store};

/// A node's certificate and its CA's, as `node cert sign` hands them out.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// The node's certificate.
    pub issued: Issued,
    /// Both certificates in PEM, the node's first.
    pub pem: String,
}

/// Makes a key, has `ca` issue its certificate, and writes the identity to `data_dir`.
///
/// # Errors
/// When an identity or a waiting key is there already, or the disk refuses.
pub fn create_identity(
    ca: &Ca,
    data_dir: &Path,
    node: &NodeId,
    days: u32,
    now: Timestamp,
) -> Result<Identity, IdentityError> {
    refuse_existing(data_dir)?;
    let key = PrivateKey::generate()?;
    let issued = ca.issue(node, &key, days, now)?;
    store::make_private_dir(&data_dir.join("identity"))?;
    store::create_new(
        &paths::trusted_ca(data_dir),
        pem([ca.certificate()]).as_bytes(),
        store::PUBLIC,
    )?;
    store::create_new(
        &paths::node_key(data_dir),
        key.to_pem().as_bytes(),
        store::PRIVATE,
    )?;
    store::create_new(
        &paths::node_certificate(data_dir),
        pem([&issued.certificate]).as_bytes(),
        store::PUBLIC,
    )?;
    Identity::load_at(data_dir, now)
}

/// Makes a new mesh: its CA, and the identity of its first node, both in `data_dir`.
///
/// # Errors
/// When a CA or an identity is there already: then nothing has changed; or when the disk refuses.
pub fn create_mesh(
    data_dir: &Path,
    mesh: &MeshName,
    node: &NodeId,
    days: u32,
    now: Timestamp,
) -> Result<Identity, IdentityError> {
    if node.is_leaf() {
        return Err(IdentityError::LeafId(node.clone()));
    }
    refuse_existing(data_dir)?;
    let ca = Ca::create(data_dir, mesh, now)?;
    create_identity(&ca, data_dir, node, days, now)
}

/// Refuses a data directory that holds any part of an identity.
fn refuse_existing(data_dir: &Path) -> Result<(), IdentityError> {
    let parts = [
        paths::node_key(data_dir),
        paths::node_certificate(data_dir),
        paths::trusted_ca(data_dir),
    ];
    match parts.into_iter().find(|path| path.exists()) {
        Some(path) => Err(IdentityError::Exists { path }),
        None => Ok(()),
    }
}

/// A request in PEM over the key in `data_dir`, which is made if there is none: so a renewal keeps its key.
///
/// `node` is the id to ask for; without it, that of the installed certificate, else one made of the host name.
///
/// # Errors
/// When the key can't be read or written.
pub fn new_request(data_dir: &Path, node: Option<NodeId>) -> Result<(NodeId, String), IdentityError> {
    let node = match node {
        Some(node) if node.is_leaf() => return Err(IdentityError::LeafId(node)),
        Some(node) => node,
        None => installed_id(data_dir)?.unwrap_or_else(paths::host_node_id),
    };
    let path = paths::node_key(data_dir);
    let key = if path.exists() {
        PrivateKey::load(&path)?
    } else {
        let key = PrivateKey::generate()?;
        store::make_private_dir(&data_dir.join("identity"))?;
        store::create_new(&path, key.to_pem().as_bytes(), store::PRIVATE)?;
        key
    };
    let request = request::make(&key, &node)?;
    Ok((node, request))
}

/// Has `ca` issue a certificate for `node` over the key of `request`.
///
/// # Errors
/// As [`Ca::issue`].
pub fn sign_request(
    ca: &Ca,
    request: &Request,
    node: &NodeId,
    days: u32,
    now: Timestamp,
) -> Result<Bundle, IdentityError> {
    let issued = ca.issue(node, &request.public_key, days, now)?;
    let pem = pem([&issued.certificate, ca.certificate()]);
    Ok(Bundle { issued, pem })
}

/// Installs a bundle over the key that waits in `data_dir`, after all the checks of [`Identity::load`].
///
/// # Errors
/// When the bundle does not fit the key, is not good at this time, or is of another node than the installed one;
/// then nothing has changed.
pub fn install(data_dir: &Path, bundle: &Path, now: Timestamp) -> Result<Identity, IdentityError> {
    // Read first: in a pipe the bundle arrives after the key was made.
    let certificates = parse_pem(&read(bundle)?, bundle)?;
    let key_path = paths::node_key(data_dir);
    if !key_path.exists() {
        return Err(IdentityError::Missing {
            data_dir: data_dir.to_owned(),
            path: key_path,
        });
    }
    let key = PrivateKey::load(&key_path)?;
    let place = bundle.display().to_string();
    let (mut chain, mut roots) = (Vec::new(), Vec::new());
    for certificate in certificates {
        if Certificate::parse(&certificate, &place)?.is_ca() {
            roots.push(certificate);
        } else {
            chain.push(certificate);
        }
    }
    if chain.len() != 1 || roots.is_empty() {
        return Err(IdentityError::BadPem {
            path: bundle.to_owned(),
            expected: "one node's certificate and its CA's, as `node cert sign` makes it",
            found: format!("{} of nodes and {} of CAs", chain.len(), roots.len()),
        });
    }
    let (certificate_pem, roots_pem) = (pem(&chain), pem(&roots));
    let identity = Identity::check(key, chain, roots, [bundle, &key_path, bundle], now)?;
    if let Some(expected) = installed_id(data_dir)?.filter(|id| id != identity.node()) {
        return Err(IdentityError::OtherNode {
            path: paths::node_certificate(data_dir),
            expected,
            found: identity.node().clone(),
        });
    }
    store::replace(&paths::trusted_ca(data_dir), roots_pem.as_bytes(), store::PUBLIC)?;
    store::replace(
        &paths::node_certificate(data_dir),
        certificate_pem.as_bytes(),
        store::PUBLIC,
    )?;
    Ok(identity)
}

/// Issues a new certificate over the same key for the node that lives beside the CA, and installs it.
/// An expired certificate can be renewed too.
///
/// # Errors
/// When there is no CA or no identity in `data_dir`.
pub fn renew(data_dir: &Path, days: u32, now: Timestamp) -> Result<Identity, IdentityError> {
    let ca = Ca::load(data_dir, now)?;
    let path = paths::node_certificate(data_dir);
    let node = installed_id(data_dir)?.ok_or_else(|| IdentityError::Missing {
        data_dir: data_dir.to_owned(),
        path: path.clone(),
    })?;
    let key = PrivateKey::load(&paths::node_key(data_dir))?;
    let issued = ca.issue(&node, &key, days, now)?;
    store::replace(
        &paths::trusted_ca(data_dir),
        pem([ca.certificate()]).as_bytes(),
        store::PUBLIC,
    )?;
    store::replace(&path, pem([&issued.certificate]).as_bytes(), store::PUBLIC)?;
    Identity::load_at(data_dir, now)
}

/// The id in the installed certificate, whatever else is wrong with it.
fn installed_id(data_dir: &Path) -> Result<Option<NodeId>, IdentityError> {
    let path = paths::node_certificate(data_dir);
    if !path.exists() {
        return Ok(None);
    }
    let certificates = parse_pem(&store::read(&path)?, &path)?;
    let place = path.display().to_string();
    let peer = Certificate::parse(&certificates[0], &place)?.peer_identity()?;
    Ok(Some(peer.node))
}

/// Reads a request in PEM; `-` is the standard input.
///
/// # Errors
/// As [`Request::parse`], and when the file can't be read.
pub fn read_request(path: &Path) -> Result<Request, IdentityError> {
    Request::parse(&read(path)?, path)
}

/// Writes what `node cert request` and `node cert sign` make, over an older file if there is one.
///
/// # Errors
/// When the disk refuses.
pub fn write_public(path: &Path, text: &str) -> Result<(), IdentityError> {
    store::replace(path, text.as_bytes(), store::PUBLIC)
}

/// Reads a whole file; `-` is the standard input.
pub(super) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
    if path == Path::new("-") {
        return store::read_from(std::io::stdin().lock(), path);
    }
    store::read(path)
}

/// Certificates as PEM, in the given order.
fn pem<'a>(certificates: impl IntoIterator<Item = &'a CertificateDer<'static>>) -> String {
    certificates
        .into_iter()
        .map(|certificate| pem::encode_config(&pem::Pem::new("CERTIFICATE", certificate.to_vec()), LINE_FEED))
        .collect()
}

const LINE_FEED: pem::EncodeConfig = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::identity::{DEFAULT_DAYS, summaries};

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    fn id(text: &str) -> NodeId {
        NodeId::parse(text).unwrap()
    }

    fn ca(mesh: &str) -> (TempDir, Ca) {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::create(dir.path(), &mesh.parse().unwrap(), NOW).unwrap();
        (dir, ca)
    }

    /// A request of `data_dir`, signed by `ca` as `node`: the bundle's file.
    fn signed(ca: &Ca, data_dir: &Path, node: &str) -> std::path::PathBuf {
        let (_, pem) = new_request(data_dir, Some(id(node))).unwrap();
        let request = Request::parse(pem.as_bytes(), Path::new("csr")).unwrap();
        let bundle = sign_request(ca, &request, &id(node), DEFAULT_DAYS, NOW).unwrap();
        let path = data_dir.join("bundle.pem");
        write_public(&path, &bundle.pem).unwrap();
        path
    }

    #[test]
    fn a_request_signed_elsewhere_becomes_an_identity() {
        let (_ca_dir, ca) = ca("lab");
        let b = tempfile::tempdir().unwrap();
        let bundle = signed(&ca, b.path(), "b");
        let identity = install(b.path(), &bundle, NOW).unwrap();
        assert_eq!(identity.node().as_str(), "b");
        assert_eq!(
            Identity::load_at(b.path(), NOW).unwrap().serial(),
            identity.serial()
        );
    }

    #[test]
    fn a_renewal_keeps_the_key_and_the_id() {
        let (_ca_dir, ca) = ca("lab");
        let b = tempfile::tempdir().unwrap();
        let first = install(b.path(), &signed(&ca, b.path(), "b"), NOW).unwrap();
        let (node, _) = new_request(b.path(), None).unwrap();
        assert_eq!(node, id("b"));
        let second = install(b.path(), &signed(&ca, b.path(), "b"), NOW).unwrap();
        assert_ne!(first.serial(), second.serial());
        assert_eq!(first.key().secret_der(), second.key().secret_der());
    }

    #[test]
    fn the_node_beside_the_ca_renews_itself_even_after_expiry() {
        let (dir, ca) = ca("lab");
        let first = create_identity(&ca, dir.path(), &id("a"), 1, NOW).unwrap();
        let late = NOW + jiff::SignedDuration::from_hours(48);
        assert!(Identity::load_at(dir.path(), late).is_err());
        let second = renew(dir.path(), DEFAULT_DAYS, late).unwrap();
        assert_eq!(second.node(), first.node());
        assert!(Identity::load_at(dir.path(), late).is_ok());
    }

    #[test]
    fn a_bundle_for_another_key_changes_nothing() {
        let (_ca_dir, ca) = ca("lab");
        let (b, c) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let of_c = signed(&ca, c.path(), "b");
        install(b.path(), &signed(&ca, b.path(), "b"), NOW).unwrap();
        let before = fs::read(paths::node_certificate(b.path())).unwrap();
        let error = install(b.path(), &of_c, NOW).unwrap_err();
        assert!(matches!(error, IdentityError::KeyMismatch { .. }), "{error}");
        assert_eq!(fs::read(paths::node_certificate(b.path())).unwrap(), before);
    }

    #[test]
    fn a_node_does_not_become_another_one() {
        let (_ca_dir, ca) = ca("lab");
        let b = tempfile::tempdir().unwrap();
        install(b.path(), &signed(&ca, b.path(), "b"), NOW).unwrap();
        let error = install(b.path(), &signed(&ca, b.path(), "c"), NOW).unwrap_err();
        assert!(matches!(error, IdentityError::OtherNode { .. }), "{error}");
    }

    #[test]
    fn a_bundle_needs_one_certificate_of_a_node_and_its_ca() {
        let (ca_dir, ca) = ca("lab");
        let b = tempfile::tempdir().unwrap();
        let bundle = signed(&ca, b.path(), "b");
        let ca_pem = fs::read_to_string(paths::ca_certificate(ca_dir.path())).unwrap();
        let node_pem = fs::read_to_string(&bundle).unwrap().replace(&ca_pem, "");
        for (pem, found) in [
            (&ca_pem, "found 0 of nodes and 1 of CAs"),
            (&node_pem, "found 1 of nodes and 0 of CAs"),
        ] {
            fs::write(&bundle, pem).unwrap();
            let text = install(b.path(), &bundle, NOW).unwrap_err().to_string();
            assert!(text.ends_with(found), "{text}");
        }
    }

    #[test]
    fn a_bundle_signed_by_another_ca_than_it_carries_is_refused() {
        let ((own, ca), (other, _)) = (ca("lab"), ca("lab"));
        let b = tempfile::tempdir().unwrap();
        let bundle = signed(&ca, b.path(), "b");
        let own = fs::read_to_string(paths::ca_certificate(own.path())).unwrap();
        let foreign = fs::read_to_string(paths::ca_certificate(other.path())).unwrap();
        let pem = fs::read_to_string(&bundle).unwrap().replace(&own, &foreign);
        fs::write(&bundle, pem).unwrap();
        let text = install(b.path(), &bundle, NOW).unwrap_err().to_string();
        assert!(text.contains("another CA of the name"), "{text}");
        assert!(!paths::node_certificate(b.path()).exists());
    }

    #[test]
    fn a_mesh_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let make = || create_mesh(dir.path(), &"lab".parse().unwrap(), &id("a"), 1, NOW);
        assert_eq!(make().unwrap().node(), &id("a"));
        let text = make().unwrap_err().to_string();
        assert!(
            text.ends_with(
                "identity/node.key exists and is never overwritten; remove it first, or name another place"
            ),
            "{text}"
        );
        fs::remove_dir_all(dir.path().join("identity")).unwrap();
        assert!(make().unwrap_err().to_string().contains("ca/ca.key exists"));
    }

    #[test]
    fn an_identity_is_never_overwritten() {
        let (dir, ca) = ca("lab");
        create_identity(&ca, dir.path(), &id("a"), 1, NOW).unwrap();
        let again = create_identity(&ca, dir.path(), &id("a"), 1, NOW);
        assert!(matches!(again, Err(IdentityError::Exists { .. })));
    }

    #[test]
    fn a_bundle_is_described_with_both_certificates() {
        let (_ca_dir, ca) = ca("lab");
        let b = tempfile::tempdir().unwrap();
        let rows = summaries(&signed(&ca, b.path(), "b"), NOW).unwrap();
        let kinds: Vec<_> = rows
            .iter()
            .map(|row| (row.kind, row.node.clone(), row.days_left))
            .collect();
        assert_eq!(kinds, [("node", Some(id("b")), 365), ("ca", None, 3653)]);
        assert_eq!(rows[0].issuer, "CN=lab mesh CA");
        assert_eq!(rows[0].fingerprint.len(), 64);
    }
}
