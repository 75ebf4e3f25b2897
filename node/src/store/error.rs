//! Why the store did not do what was asked, and what its caller may assume then.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytesize::ByteSize;
use rustix::io::Errno;

/// Why the store refused or failed. Cheap to clone: one failure may be told to many.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// No room on the disk. Nothing of the append is stored, now or after a crash; the store goes on.
    #[error("the store's disk is full: make room on it, or release ended units with `node work release`")]
    Full,
    /// New work would take more than the store may have. Nothing was stored.
    #[error(
        "the store would hold {wanted}, and work.quota allows {quota}: release ended units with `node work release`, or \
         raise work.quota"
    )]
    OverQuota {
        /// What the store holds, and what the work brings.
        wanted: ByteSize,
        /// What it may hold.
        quota: ByteSize,
    },
    /// New work would leave too little of the disk. Nothing was stored.
    #[error(
        "the store's disk would have {left} free, and work.reserve asks for {reserve}: make room on it, or lower work.reserve"
    )]
    BelowReserve {
        /// What would be free.
        left: ByteSize,
        /// What has to be free.
        reserve: ByteSize,
    },
    /// The disk failed. An append that got this may or may not be found after a crash; until then it does not count.
    #[error("store: {what}: {error}: check the disk and its file system")]
    Io {
        /// What was tried, with the file's path.
        what: String,
        /// What the system says.
        error: Arc<io::Error>,
    },
    /// The process, or the system, has no file descriptor left for another file. Nothing of the append is stored; it may go well the
    /// next time.
    #[error(
        "store: {what}: too many files are open: raise the limit of open files (LimitNOFILE), or try again later"
    )]
    NoDescriptor {
        /// What was tried, with the file's path.
        what: String,
    },
    /// A stream's end is damaged, or what was written there could not be synced: it takes no more for as long as the store is open.
    /// Trying again is of no use. Records and the key's other stream are not concerned, and nothing of the append is stored.
    #[error("the end of {path} is damaged, or could not be synced: check the disk and its file system")]
    StreamClosed {
        /// The stream's file.
        path: String,
    },
    /// The files are not what this program can read. Our configuration or a damaged `FORMAT`; nothing was changed.
    #[error(
        "{path}: expected `workmesh-store {known}`, found {found}: restore the file, or move the store away"
    )]
    Unreadable {
        /// The file `FORMAT`.
        path: String,
        /// What stands there, quoted and cut short.
        found: String,
        /// The version that this program writes.
        known: u32,
    },
    /// No segment of the log begins with the mark that `FORMAT` has, and one of them begins with another: they are of two stores. Nothing
    /// was changed.
    #[error(
        "{path} is the log of another store: its segments have the mark {found:016x}, FORMAT has {expected:016x}: \
         put back the log or the FORMAT that belongs to the other, or move the store away"
    )]
    Foreign {
        /// The folder of the log.
        path: String,
        /// A mark that the segments have.
        found: u64,
        /// The store's.
        expected: u64,
    },
    /// A newer program has written this store. Nothing was changed.
    #[error(
        "the store has version {found}, this program knows versions up to {known}: \
         start the newer program again, or move the store away"
    )]
    Newer {
        /// The store's version.
        found: u32,
        /// The newest version that this program knows.
        known: u32,
    },
    /// Another process has the store open. Nothing was changed.
    #[error("store {path} is in use by another node: give each node its own data directory")]
    Locked {
        /// The store's folder.
        path: String,
    },
    /// The store is closed, or its thread has ended. What was not answered before may or may not be stored.
    #[error("the store is closed: the node is stopping")]
    Closed,
    /// Nothing is stored under this key; it was removed, or never there.
    #[error("the store has no such unit: it was released, or never stored")]
    NoSuchKey,
    /// The records of one append are longer than the log takes. Nothing of it is stored; a bug of the caller.
    #[error("the records of an append have {bytes} bytes, at most {limit} are stored: shorten them")]
    TooLarge {
        /// What was to be stored.
        bytes: usize,
        /// What can be stored.
        limit: usize,
    },
}

impl StoreError {
    /// Whether there is no room, for whatever reason: nothing was stored.
    pub(crate) fn is_no_room(&self) -> bool {
        matches!(
            self,
            Self::Full | Self::OverQuota { .. } | Self::BelowReserve { .. }
        )
    }

    /// Whether the same may go well the next time: the system was short of something, or the node stops.
    pub(crate) fn may_pass(&self) -> bool {
        const SHORT: [Errno; 2] = [Errno::NOMEM, Errno::INTR];
        match self {
            Self::NoDescriptor { .. } | Self::Closed => true,
            Self::Io { error, .. } => Errno::from_io_error(error).is_some_and(|no| SHORT.contains(&no)),
            _ => false,
        }
    }

    /// Whether a file more could not be opened.
    pub(super) fn is_no_descriptor(&self) -> bool {
        matches!(self, Self::NoDescriptor { .. })
    }

    /// A failure at `path`, which `verb` was done to.
    pub(super) fn io(verb: &str, path: &Path, error: io::Error) -> Self {
        let what = format!("cannot {verb} {}", path.display());
        if is_no_descriptor(&error) {
            return Self::NoDescriptor { what };
        }
        Self::Io {
            what,
            error: Arc::new(error),
        }
    }

    /// The same, where "no room" is a case of its own: nothing of what was tried is left on the disk.
    pub(super) fn undone(verb: &str, path: &Path, error: io::Error) -> Self {
        if is_full(&error) {
            return Self::Full;
        }
        Self::io(verb, path, error)
    }

    /// The same failure, of something that may have been done: not [`Full`](Self::Full), which promises that it was not.
    pub(super) fn in_doubt(self, path: &Path) -> Self {
        match self {
            Self::Full => Self::io("write", path, io::ErrorKind::StorageFull.into()),
            other => other,
        }
    }
}

/// Whether a file more could not be opened: nothing else answers so.
pub(super) fn is_no_descriptor(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// Whether the disk, or the share of it that we may use, has no room.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}
