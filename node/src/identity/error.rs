//! What can be wrong with an identity, a CA or a peer's certificate; each text is one line and names the remedy.

use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use workmesh_proto::{MeshName, NodeId};

/// Why an identity can't be used or made. Nothing has changed on the disk unless a variant says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The directory holds no identity: the caller shows how to make one.
    #[error(
        "no identity in {}: {} does not exist; make a new mesh with `node init`, or join one with `node cert request`",
        data_dir.display(), path.display()
    )]
    Missing {
        /// The data directory.
        data_dir: PathBuf,
        /// The file that was looked for.
        path: PathBuf,
    },
    /// A key waits for its certificate.
    #[error(
        "no certificate in {}: {} does not exist, but a key does; have the request signed with `node cert sign` on the \
         CA's machine, then run `node cert install FILE`",
        data_dir.display(), path.display()
    )]
    NotInstalled {
        /// The data directory.
        data_dir: PathBuf,
        /// The file that was looked for.
        path: PathBuf,
    },
    /// This machine has no CA.
    #[error(
        "no CA in {}: {} does not exist; run this on the machine where `node init` was run, or name its data directory \
         with --data-dir",
        data_dir.display(), path.display()
    )]
    NoCa {
        /// The data directory.
        data_dir: PathBuf,
        /// The file that was looked for.
        path: PathBuf,
    },
    /// No flag, variable or home directory says where the data directory is.
    #[error("no data directory: HOME is not set; name one with --data-dir or NODE_DATA_DIR")]
    NoDataDir,
    /// A file can't be read.
    #[error("can't read {}: {error}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file can't be written; others written before it remain.
    #[error("can't write {}: {error}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file is longer than any identity's.
    #[error("{} is longer than {limit_bytes} bytes; expected certificates, a key or a request in PEM", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// The limit.
        limit_bytes: u64,
    },
    /// Something would be overwritten.
    #[error("{} exists and is never overwritten; remove it first, or name another place", path.display())]
    Exists {
        /// What exists.
        path: PathBuf,
    },
    /// A key that others can read.
    #[error("key {} has mode {mode:04o}, expected 0600: others can read it; run `chmod 600 {}`", path.display(), path.display())]
    LooseKey {
        /// Which file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A file does not hold what it should.
    #[error("{}: expected {expected}, found {found}", path.display())]
    BadPem {
        /// Which file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// A certificate is for another key.
    #[error(
        "{}: certificate of {subject} is for another key than {}; install the certificate that was made from this key's \
         request, or make a new request with `node cert request`",
        certificate.display(), key.display()
    )]
    KeyMismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Whose certificate it is.
        subject: String,
    },
    /// A certificate of a file or of a peer is not acceptable.
    #[error("{place}: certificate of {subject}: {fault}")]
    Certificate {
        /// The file, or `peer`.
        place: String,
        /// Whose certificate it is, as far as it can be read.
        subject: String,
        /// What is wrong with it.
        fault: CertificateFault,
    },
    /// A request to sign is not acceptable.
    #[error("{}: {fault}", path.display())]
    Request {
        /// The request's file.
        path: PathBuf,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// A request asks for no usable id.
    #[error("{}: the request is for {found}, expected a node id; name one with --id", path.display())]
    RequestId {
        /// The request's file.
        path: PathBuf,
        /// The name that it asks for.
        found: String,
    },
    /// A leaf instance has no certificate of its own.
    #[error("node id {0} names a leaf instance; certificates are for the part before the '+'")]
    LeafId(NodeId),
    /// A node is another one already.
    #[error(
        "{} is the identity of node {expected}, found a certificate of node {found}; use another --data-dir, or remove \
         this identity first",
        path.display()
    )]
    OtherNode {
        /// The installed certificate.
        path: PathBuf,
        /// Whose it is.
        expected: NodeId,
        /// Whose certificate was to be installed.
        found: NodeId,
    },
    /// A certificate would be valid longer than its CA.
    #[error(
        "the CA's own certificate ends at {ca_not_after}: expected at most --days {days_left}, found {days}"
    )]
    OutlivesCa {
        /// The end of the CA.
        ca_not_after: Timestamp,
        /// Days that are left.
        days_left: i64,
        /// Days that were asked for.
        days: u32,
    },
    /// The file that holds the last incarnation is damaged.
    #[error("{}: expected a number; remove it to start from the clock", path.display())]
    BadIncarnation {
        /// Which file.
        path: PathBuf,
    },
    /// The cryptographic library failed: our bug, or a machine without randomness.
    #[error("can't {action}: {reason}")]
    Crypto {
        /// What was being done.
        action: &'static str,
        /// What the library says.
        reason: String,
    },
}

impl IdentityError {
    pub(super) fn read(path: &Path, error: io::Error) -> Self {
        Self::Read {
            path: path.to_owned(),
            error,
        }
    }

    pub(super) fn write(path: &Path, error: io::Error) -> Self {
        Self::Write {
            path: path.to_owned(),
            error,
        }
    }

    pub(super) fn crypto(action: &'static str) -> impl FnOnce(rcgen::Error) -> Self {
        move |error| Self::Crypto {
            action,
            reason: error.to_string(),
        }
    }

    /// Whether a file was looked for and is not there.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Read { error, .. } if error.kind() == io::ErrorKind::NotFound)
    }
}

/// What is wrong with a certificate.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateFault {
    /// Not a certificate at all.
    #[error("expected an X.509 certificate, found {0}")]
    Unreadable(String),
    /// Longer than any that this program issues.
    #[error("expected at most {limit_bytes} bytes, found {found_bytes}")]
    TooLarge {
        /// The limit.
        limit_bytes: usize,
        /// Its length.
        found_bytes: usize,
    },
    /// Its DNS names do not say which node of which mesh it is for.
    #[error(
        "expected the DNS names <id>.<mesh>.mesh.internal and <mesh>.mesh.internal and no others, found {found}"
    )]
    Names {
        /// The names it has.
        found: String,
    },
    /// A name in it is no node id or mesh name.
    #[error("{0}")]
    BadName(workmesh_proto::NodeIdError),
    /// A node's certificate was expected, a CA's was found, or the other way round.
    #[error("expected {expected}, found {found}")]
    Role {
        /// The expected kind.
        expected: &'static str,
        /// The kind that was found.
        found: &'static str,
    },
    /// The certificate is of another mesh.
    #[error(
        "expected mesh {expected}, found mesh {found}; each mesh has its own CA, ask the one of {expected}"
    )]
    OtherMesh {
        /// This node's mesh.
        expected: MeshName,
        /// The certificate's mesh.
        found: MeshName,
    },
    /// Signed by a CA that is not trusted.
    #[error(
        "expected a certificate signed by {expected}, found one signed by {found}; have a new one signed by this mesh's CA"
    )]
    OtherCa {
        /// The trusted CA.
        expected: String,
        /// The issuer in the certificate.
        found: String,
    },
    /// No longer valid.
    #[error(
        "expected it to be valid at {now}, found that it expired at {not_after}; renew it with `node cert renew` on the \
         CA's machine, with `node cert request` elsewhere"
    )]
    Expired {
        /// The end of its validity.
        not_after: Timestamp,
        /// The time of the check.
        now: Timestamp,
    },
    /// Not valid yet.
    #[error(
        "expected it to be valid at {now}, found that it begins at {not_before}; check this machine's clock"
    )]
    NotYetValid {
        /// The start of its validity.
        not_before: Timestamp,
        /// The time of the check.
        now: Timestamp,
    },
}
