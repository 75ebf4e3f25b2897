//! The folder for payloads of the file kind: private, swept at start, locked against a second node.
//! Files are made on the worker's threads; each removes itself when it is dropped.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::payload::PayloadReader;
use super::report::Meter;

/// What the name of every payload file begins with; nothing else in the folder is touched.
const PREFIX: &str = "payload-";
const LOCK: &str = "lock";

/// Why the folder can't be used. Our configuration; the node must not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpoolError {
    /// It can't be made, read or cleaned.
    #[error("spool folder {}: {source}", path.display())]
    Io {
        /// The folder, or a file in it.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another process uses it.
    #[error("spool folder {} is in use by another node: give each node its own data directory", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
}

/// Opens the folder: makes it if it is missing (mode 0700), takes its lock, removes what dead processes left.
///
/// The lock holds while the answer lives; the kernel releases it with the process, however that ends.
pub(super) fn open(dir: &Path) -> Result<File, SpoolError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| SpoolError::Io { path, source }
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(at(dir))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(at(dir))?;
    let lock_path = dir.join(LOCK);
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock_path)
        .map_err(at(&lock_path))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(SpoolError::InUse { path: dir.to_owned() }),
        Err(TryLockError::Error(source)) => return Err(at(&lock_path)(source)),
    }
    let swept = sweep(dir).map_err(at(dir))?;
    if swept > 0 {
        tracing::info!(files = swept, dir = %dir.display(), "removed payload files of an earlier run");
    }
    Ok(lock)
}

fn sweep(dir: &Path) -> io::Result<usize> {
    let mut swept = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        if ours && entry.file_type()?.is_file() {
            fs::remove_file(entry.path())?;
            swept += 1;
        }
    }
    Ok(swept)
}

/// Why a payload is not in a file.
#[derive(Debug)]
pub(super) enum StoreError {
    /// The unit has ended meanwhile.
    Ended,
    /// The disk's fault; one line for the EOF.
    Disk(String),
}

/// Writes a whole payload to a private file (mode 0600), blocking until it has arrived.
pub(super) fn store(
    dir: &Path,
    payload: &mut PayloadReader,
    written: &Meter,
) -> Result<NamedTempFile, StoreError> {
    let disk = |error: io::Error| StoreError::Disk(describe(dir, &error));
    let mut file = tempfile::Builder::new()
        .prefix(PREFIX)
        .tempfile_in(dir)
        .map_err(disk)?;
    while let Some(piece) = payload.next_piece().map_err(|_| StoreError::Ended)? {
        file.write_all(&piece).map_err(disk)?;
        written.add(piece.len());
    }
    Ok(file)
}

fn describe(dir: &Path, error: &io::Error) -> String {
    let dir = dir.display();
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            format!("the executor's disk is full: make room in {dir}")
        }
        _ => format!("the executor can't write the payload to {dir}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let names = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name());
        let mut names: Vec<_> = names.map(|n| n.into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn leftovers_are_swept_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["payload-abc", "payload-def", "note.txt"] {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        fs::create_dir(dir.path().join("payload-dir")).unwrap();
        let _lock = open(dir.path()).unwrap();
        assert_eq!(names(dir.path()), ["lock", "note.txt", "payload-dir"]);
    }

    #[test]
    fn the_folder_is_made_private() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("data/spool");
        let _lock = open(&dir).unwrap();
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_folder_in_use_is_refused_and_free_once_its_owner_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path()).unwrap();
        fs::write(dir.path().join("payload-live"), "x").unwrap();
        assert!(matches!(open(dir.path()), Err(SpoolError::InUse { .. })));
        assert!(dir.path().join("payload-live").exists());
        drop(first);
        assert!(open(dir.path()).is_ok());
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "x").unwrap();
        let error = open(&path).unwrap_err().to_string();
        assert!(error.contains(&*path.to_string_lossy()), "{error}");
    }

    #[test]
    fn a_full_disk_is_named_as_such() {
        let text = describe(Path::new("/spool"), &io::ErrorKind::StorageFull.into());
        assert_eq!(text, "the executor's disk is full: make room in /spool");
    }
}
