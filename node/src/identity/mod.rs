//! Who this node is, and whom it trusts: keys, certificates and the CA, as files in the data directory.
//!
//! | file | what |
//! |---|---|
//! | `identity/node.key`, `identity/node.crt` | this node's key and certificate |
//! | `identity/ca.crt` | the CA certificates it trusts |
//! | `ca/ca.key`, `ca/ca.crt`, `ca/issued.jsonl` | the CA and its ledger, on the machine where `node init` was run |
//! | `incarnation` | the number of the last start |
//!
//! The links and sessions ask an [`Identity`] for their TLS configuration and [`peer_identity`] for who is at the
//! other end; `cli/` makes and renews identities. Nothing here prints, or opens a socket.

mod ca;
mod certificate;
mod error;
mod incarnation;
mod install;
mod key;
pub mod paths;
mod request;
mod store;
mod summary;

use std::path::Path;

use jiff::Timestamp;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use workmesh_proto::{MeshName, NodeId};

pub use self::ca::{Ca, DEFAULT_DAYS, Issued, MAX_DAYS};
pub use self::certificate::{
    MAX_CERTIFICATE_BYTES, PeerIdentity, describe_ca, describe_certificate, peer_identity,
};
pub use self::error::{CertificateFault, IdentityError};
pub use self::incarnation::next_incarnation;
pub use self::install::{
    Bundle, create_identity, create_mesh, install, new_request, read_request, renew, sign_request,
    write_public,
};
pub use self::paths::data_dir;
pub use self::request::Request;
pub use self::store::MAX_FILE_BYTES;
pub use self::summary::{CertificateSummary, installed_summaries, summaries};

use self::certificate::{Certificate, parse_pem};
use self::key::PrivateKey;

/// A node's identity, checked: the key fits the certificate, the CA signed it, and it is valid at the time of loading.
#[derive(Debug)]
pub struct Identity {
    peer: PeerIdentity,
    chain: Vec<CertificateDer<'static>>,
    roots: Vec<CertificateDer<'static>>,
    key: PrivateKey,
}

impl Identity {
    /// Reads and checks the identity in `data_dir`. Costs a few small files; call it again to see what has changed.
    ///
    /// # Errors
    /// When a file is missing or damaged, the key can be read by others or does not fit, or the certificate is of
    /// another CA or mesh, or not valid at this time.
    pub fn load(data_dir: &Path) -> Result<Self, IdentityError> {
        Self::load_at(data_dir, Timestamp::now())
    }

    /// As [`Identity::load`], at a given time.
    pub fn load_at(data_dir: &Path, now: Timestamp) -> Result<Self, IdentityError> {
        let paths = [
            paths::node_certificate(data_dir),
            paths::node_key(data_dir),
            paths::trusted_ca(data_dir),
        ];
        let [certificate_path, key_path, ca_path] = &paths;
        for path in &paths {
            if !store::exists(path)? {
                return Err(missing(data_dir, path, key_path.exists()));
            }
        }
        let key = PrivateKey::load(key_path)?;
        let chain = parse_pem(&store::read(certificate_path)?, certificate_path)?;
        let roots = parse_pem(&store::read(ca_path)?, ca_path)?;
        Self::check(key, chain, roots, [certificate_path, key_path, ca_path], now)
    }

    fn check(
        key: PrivateKey,
        chain: Vec<CertificateDer<'static>>,
        roots: Vec<CertificateDer<'static>>,
        [certificate_path, key_path, ca_path]: [&Path; 3],
        now: Timestamp,
    ) -> Result<Self, IdentityError> {
        use rcgen::PublicKeyData;
        let place = certificate_path.display().to_string();
        let ca_place = ca_path.display().to_string();
        let leaf = Certificate::parse(&chain[0], &place)?;
        let peer = leaf.peer_identity()?;
        if key.der_bytes() != leaf.public_key() {
            return Err(IdentityError::KeyMismatch {
                certificate: certificate_path.to_owned(),
                key: key_path.to_owned(),
                subject: leaf.subject(),
            });
        }
        let cas = roots
            .iter()
            .map(|root| Certificate::parse(root, &ca_place))
            .collect::<Result<Vec<_>, _>>()?;
        for ca in &cas {
            leaf.check_mesh(&peer.mesh, &ca.ca_mesh()?)?;
        }
        leaf.check_issuer(&cas)?;
        leaf.check_time(now)?;
        Ok(Self {
            peer,
            chain,
            roots,
            key,
        })
    }

    /// This node's id.
    pub fn node(&self) -> &NodeId {
        &self.peer.node
    }

    /// This node's mesh.
    pub fn mesh(&self) -> &MeshName {
        &self.peer.mesh
    }

    /// The certificate's serial number, lower-case hexadecimal.
    pub fn serial(&self) -> &str {
        &self.peer.serial
    }

    /// The start of the certificate's validity.
    pub fn not_before(&self) -> Timestamp {
        self.peer.not_before
    }

    /// The end of the certificate's validity.
    pub fn not_after(&self) -> Timestamp {
        self.peer.not_after
    }

    /// The certificate chain to present, this node's certificate first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The CA certificates to trust.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// A copy of the private key, for the TLS library.
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.as_der().to_vec()))
    }
}

fn missing(data_dir: &Path, path: &Path, has_key: bool) -> IdentityError {
    let (data_dir, path) = (data_dir.to_owned(), path.to_owned());
    if has_key {
        IdentityError::NotInstalled { data_dir, path }
    } else {
        IdentityError::Missing { data_dir, path }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    fn later(days: i64) -> Timestamp {
        NOW + jiff::SignedDuration::from_hours(24 * days)
    }

    /// A data directory with the CA of `mesh` and the identity of `node`.
    fn member(mesh: &str, node: &str) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::create(dir.path(), &MeshName::parse(mesh).unwrap(), NOW).unwrap();
        create_identity(&ca, dir.path(), &NodeId::parse(node).unwrap(), DEFAULT_DAYS, NOW).unwrap();
        dir
    }

    fn refusal(dir: &TempDir, now: Timestamp) -> String {
        let text = Identity::load_at(dir.path(), now).unwrap_err().to_string();
        assert!(!text.contains('\n'), "{text}");
        text.replace(dir.path().to_str().unwrap(), "DATA")
    }

    #[test]
    fn an_identity_is_read_as_it_was_made() {
        let dir = member("Lab", "nodeA");
        let identity = Identity::load_at(dir.path(), NOW).unwrap();
        assert_eq!(identity.node().as_str(), "nodeA");
        assert_eq!(identity.mesh().as_str(), "lab");
        assert_eq!(identity.not_after(), later(365));
        assert_eq!(identity.not_before(), NOW - jiff::SignedDuration::from_mins(5));
        assert_eq!(identity.serial().len(), 32);
        assert_eq!((identity.chain().len(), identity.roots().len()), (1, 1));
        assert!(matches!(identity.key(), PrivateKeyDer::Pkcs8(_)));
        let peer = peer_identity(&identity.chain()[0]).unwrap();
        assert_eq!((&peer.node, &peer.mesh), (identity.node(), identity.mesh()));
        assert_eq!(peer.subject, "CN=nodeA");
    }

    #[test]
    fn an_identity_does_not_show_its_key() {
        let dir = member("m", "a");
        let identity = Identity::load_at(dir.path(), NOW).unwrap();
        assert!(!format!("{identity:?}").contains("serialized_der"));
    }

    #[test]
    fn keys_are_for_their_owner_alone() {
        let dir = member("m", "a");
        let mode = |path: &str| fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o7777;
        for file in ["identity/node.key", "ca/ca.key", "ca/issued.jsonl"] {
            assert_eq!(mode(file), 0o600, "{file}");
        }
        for directory in ["identity", "ca"] {
            assert_eq!(mode(directory), 0o700, "{directory}");
        }
    }

    #[test]
    fn a_missing_identity_names_the_commands_that_make_one() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            refusal(&dir, NOW),
            "no identity in DATA: DATA/identity/node.crt does not exist; make a new mesh with `node init`, or join one \
             with `node cert request`"
        );
        new_request(dir.path(), None).unwrap();
        assert_eq!(
            refusal(&dir, NOW),
            "no certificate in DATA: DATA/identity/node.crt does not exist, but a key does; have the request signed with \
             `node cert sign` on the CA's machine, then run `node cert install FILE`"
        );
    }

    #[test]
    fn an_identity_that_can_not_be_looked_at_is_not_missing() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("identity"), "no folder").unwrap();
        let refusal = refusal(&dir, NOW);
        assert!(
            refusal.starts_with("can't read DATA/identity/node.crt: "),
            "{refusal}"
        );
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = member("m", "a");
        fs::set_permissions(paths::node_key(dir.path()), fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(
            refusal(&dir, NOW),
            "key DATA/identity/node.key has mode 0640, expected 0600: others can read it; run `chmod 600 \
             DATA/identity/node.key`"
        );
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let (dir, other) = (member("m", "a"), member("m", "b"));
        fs::copy(paths::node_key(other.path()), paths::node_key(dir.path())).unwrap();
        let text = refusal(&dir, NOW);
        assert!(
            text.starts_with(
                "DATA/identity/node.crt: certificate of CN=a is for another key than DATA/identity/node.key; install"
            ),
            "{text}"
        );
    }

    #[test]
    fn a_certificate_of_another_ca_is_refused_even_if_the_ca_has_the_same_name() {
        let (dir, other) = (member("m", "a"), member("m", "b"));
        fs::copy(paths::trusted_ca(other.path()), paths::trusted_ca(dir.path())).unwrap();
        let text = refusal(&dir, NOW);
        assert!(
            text.starts_with(
                "DATA/identity/node.crt: certificate of CN=a: expected a certificate signed by CN=m mesh CA (SHA-256 "
            ) && text.contains("found one signed by another CA of the name CN=m mesh CA; have a new one signed"),
            "{text}"
        );
    }

    #[test]
    fn a_certificate_of_another_mesh_is_refused() {
        let (dir, other) = (member("m", "a"), member("other", "a"));
        fs::copy(paths::trusted_ca(other.path()), paths::trusted_ca(dir.path())).unwrap();
        assert_eq!(
            refusal(&dir, NOW),
            "DATA/identity/node.crt: certificate of CN=a: expected mesh other, found mesh m; each mesh has its own CA, ask \
             the one of other"
        );
    }

    #[test]
    fn a_certificate_is_good_until_its_last_second_and_not_before_its_first() {
        let dir = member("m", "a");
        assert!(Identity::load_at(dir.path(), later(365)).is_ok());
        let second = jiff::SignedDuration::from_secs(1);
        assert_eq!(
            refusal(&dir, later(365) + second),
            "DATA/identity/node.crt: certificate of CN=a: expected it to be valid at 2028-01-15T08:00:01Z, found that it \
             expired at 2028-01-15T08:00:00Z; renew it with `node cert renew` on the CA's machine, with `node cert \
             request` elsewhere"
        );
        let first = NOW - jiff::SignedDuration::from_mins(5);
        assert!(Identity::load_at(dir.path(), first).is_ok());
        assert!(refusal(&dir, first - second).contains("check this machine's clock"));
    }

    #[test]
    fn damaged_files_are_named_with_what_was_expected() {
        let dir = member("m", "a");
        fs::write(paths::node_certificate(dir.path()), "nonsense").unwrap();
        assert_eq!(
            refusal(&dir, NOW),
            "DATA/identity/node.crt: expected 1 to 16 certificates in PEM, found none"
        );
        fs::write(paths::node_key(dir.path()), "nonsense").unwrap();
        assert!(
            refusal(&dir, NOW).starts_with("DATA/identity/node.key: expected a private key in PKCS #8 PEM")
        );
    }
}
