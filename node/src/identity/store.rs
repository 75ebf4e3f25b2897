//! The files of an identity on disk: limited reads, private directories, atomic replacement.
//!
//! Called by the rest of `identity`. Never interprets what it reads or writes.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use tempfile::NamedTempFile;
use zeroize::Zeroizing;

use super::IdentityError;

/// The longest file that is read here, in bytes: a bundle of certificates, a key, a request.
pub const MAX_FILE_BYTES: u64 = 256 * 1024;

/// Permissions of a file that others may read.
pub(super) const PUBLIC: u32 = 0o644;
/// Permissions of a file that only its owner may read.
pub(super) const PRIVATE: u32 = 0o600;

/// Whether the file is there. An error: that can't be found out, as with a folder that is another user's.
pub(super) fn exists(path: &Path) -> Result<bool, IdentityError> {
    path.try_exists()
        .map_err(|error| IdentityError::read(path, error))
}

/// Reads a whole file of at most [`MAX_FILE_BYTES`].
pub(super) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
    let file = File::open(path).map_err(|error| IdentityError::read(path, error))?;
    read_from(file, path)
}

/// Reads all of `source`, at most [`MAX_FILE_BYTES`]; `path` is its name in errors.
pub(super) fn read_from(source: impl Read, path: &Path) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
    let mut bytes = Zeroizing::new(Vec::new());
    source
        .take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| IdentityError::read(path, error))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(IdentityError::TooLarge {
            path: path.to_owned(),
            limit_bytes: MAX_FILE_BYTES,
        });
    }
    Ok(bytes)
}

/// Refuses a key that anybody but its owner can read or write.
pub(super) fn check_private(path: &Path) -> Result<(), IdentityError> {
    let metadata = fs::metadata(path).map_err(|error| IdentityError::read(path, error))?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::LooseKey {
            path: path.to_owned(),
            mode,
        });
    }
    Ok(())
}

/// Makes `path` and its missing parents, for the owner alone. A directory that exists keeps its permissions.
pub(super) fn make_private_dir(path: &Path) -> Result<(), IdentityError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .and_then(|()| sync_dir(path.parent()))
        .map_err(|error| IdentityError::write(path, error))
}

/// Writes a file that must not exist yet: after a crash it is there in full or not at all.
pub(super) fn create_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), IdentityError> {
    write_beside(path, bytes, mode)
        .and_then(|file| Ok(file.persist_noclobber(path)?))
        .and_then(|_| sync_dir(path.parent()))
        .map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => IdentityError::Exists {
                path: path.to_owned(),
            },
            _ => IdentityError::write(path, error),
        })
}

/// Writes or replaces a file: after a crash it holds the old bytes or the new ones.
pub(super) fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), IdentityError> {
    write_beside(path, bytes, mode)
        .and_then(|file| Ok(file.persist(path)?))
        .and_then(|_| sync_dir(path.parent()))
        .map_err(|error| IdentityError::write(path, error))
}

/// Adds one line to a file in a single write, and waits for the disk.
pub(super) fn append_line(path: &Path, line: &str) -> Result<(), IdentityError> {
    let append = || {
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(PRIVATE)
            .open(path)?;
        file.write_all(format!("{line}\n").as_bytes())?;
        file.sync_all()
    };
    append().map_err(|error| IdentityError::write(path, error))
}

fn write_beside(path: &Path, bytes: &[u8], mode: u32) -> io::Result<NamedTempFile> {
    let mut file = tempfile::Builder::new()
        .prefix(".new-")
        .permissions(fs::Permissions::from_mode(mode))
        .tempfile_in(directory(path.parent()))?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    Ok(file)
}

fn sync_dir(path: Option<&Path>) -> io::Result<()> {
    File::open(directory(path))?.sync_all()
}

/// The parent of a bare file name is the current directory.
fn directory(parent: Option<&Path>) -> &Path {
    match parent {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_new_file_has_its_mode_and_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        create_new(&path, b"one", PRIVATE).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert!(matches!(
            create_new(&path, b"two", PRIVATE),
            Err(IdentityError::Exists { .. })
        ));
        assert_eq!(*read(&path).unwrap(), b"one");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn replacing_leaves_no_litter() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        replace(&path, b"one", PRIVATE).unwrap();
        replace(&path, b"two", PRIVATE).unwrap();
        assert_eq!(*read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn directories_are_for_the_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        make_private_dir(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
    }

    #[test]
    fn a_file_is_read_up_to_the_limit_and_not_past_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let limit = usize::try_from(MAX_FILE_BYTES).unwrap();
        fs::write(&path, vec![0; limit]).unwrap();
        assert_eq!(read(&path).unwrap().len(), limit);
        fs::write(&path, vec![0; limit + 1]).unwrap();
        assert!(matches!(read(&path), Err(IdentityError::TooLarge { .. })));
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, b"").unwrap();
        for (mode, good) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(check_private(&path).is_ok(), good, "{mode:o}");
        }
    }
}
