//! The file operations that the store is made of, and their real implementation. Nothing else in the store touches the disk.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

/// A folder of the store, or a file in it. Names are relative to the store's folder.
pub(super) trait Files: Send + Sync {
    /// Where the names start, for messages.
    fn root(&self) -> &Path;
    /// Makes a folder (mode 0700) that survives the loss of power, unless it is there; the empty name is the store's own.
    fn make_dir(&self, name: &str) -> io::Result<()>;
    /// Takes the lock `name`, for as long as the answer lives.
    fn lock(&self, name: &str) -> Result<Box<dyn Send>, TryLockError>;
    /// The files of a folder, in no order.
    fn list(&self, dir: &str) -> io::Result<Vec<Listed>>;
    /// Makes a file (mode 0600) that must not be there.
    fn create(&self, name: &str) -> io::Result<Arc<dyn OpenFile>>;
    /// Opens a file that must be there.
    fn open(&self, name: &str) -> io::Result<Arc<dyn OpenFile>>;
    /// Gives a file another name, replacing what has it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes the names of a folder survive the loss of power. Opens nothing if the folder was made through here.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;
    /// Names the run of the system: while it is the same, what was written is there, synced or not. `None`: can't be known.
    fn boot(&self) -> Option<String>;
    /// What this process may still write to the disk.
    fn free_bytes(&self) -> io::Result<u64>;
    /// How many files this process may have open, if there is a limit.
    fn descriptors(&self) -> Option<u64>;

    /// The whole path of `name`, for messages.
    fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }
}

/// A file that is open for reading and writing.
pub(super) trait OpenFile: Send + Sync {
    /// Reads at most `into.len()` bytes; 0 at the end.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;
    /// Writes at most all of `bytes`.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize>;
    /// Makes content and length survive the loss of power.
    fn sync(&self) -> io::Result<()>;
    /// Cuts the file to `length`.
    fn truncate(&self, length: u64) -> io::Result<()>;
    /// Its length.
    fn length(&self) -> io::Result<u64>;
}

/// A file as a folder lists it.
pub(super) struct Listed {
    /// Its name within the folder.
    pub(super) name: String,
    /// Its length.
    pub(super) bytes: u64,
}

/// Writes all of `bytes`.
pub(super) fn write_all(file: &dyn OpenFile, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_at(offset, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                bytes = &bytes[count..];
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads until `into` is full or the file ends, and answers with what was read.
pub(super) fn read_full(file: &dyn OpenFile, offset: u64, into: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < into.len() {
        match file.read_at(offset + done as u64, &mut into[done..]) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Fills `into`. A file that ends before is an error: whoever asks knows that there is more.
pub(super) fn read_all(file: &dyn OpenFile, offset: u64, into: &mut [u8]) -> io::Result<()> {
    match read_full(file, offset, into)? == into.len() {
        true => Ok(()),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// The real disk.
pub(super) struct Disk {
    root: PathBuf,
    /// Open folders: a sync that fails for want of a descriptor would look like one that the disk has failed.
    dirs: Mutex<HashMap<String, Arc<File>>>,
}

impl Disk {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            dirs: Mutex::default(),
        }
    }

    fn dir(&self, name: &str) -> io::Result<Arc<File>> {
        let mut dirs = self.dirs.lock();
        if let Some(dir) = dirs.get(name) {
            return Ok(Arc::clone(dir));
        }
        let dir = Arc::new(File::open(self.path(name))?);
        dirs.insert(name.to_owned(), Arc::clone(&dir));
        Ok(dir)
    }

    fn options() -> OpenOptions {
        let mut options = File::options();
        options.read(true).write(true).mode(0o600);
        options
    }
}

impl Files for Disk {
    fn root(&self) -> &Path {
        &self.root
    }

    fn make_dir(&self, name: &str) -> io::Result<()> {
        let path = self.path(name);
        DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
        self.dir(name)?;
        match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
            _ => Ok(()),
        }
    }

    fn lock(&self, name: &str) -> Result<Box<dyn Send>, TryLockError> {
        let file = Self::options()
            .create(true)
            .truncate(false)
            .open(self.path(name))
            .map_err(TryLockError::Error)?;
        file.try_lock()?;
        Ok(Box::new(file))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<Listed>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.path(dir))? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
                let bytes = metadata.len();
                found.push(Listed { name, bytes });
            }
        }
        Ok(found)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn OpenFile>> {
        let file = Self::options().create_new(true).open(self.path(name))?;
        Ok(Arc::new(DiskFile(file)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn OpenFile>> {
        Ok(Arc::new(DiskFile(Self::options().open(self.path(name))?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.dir(dir)?.sync_all()
    }

    fn descriptors(&self) -> Option<u64> {
        rustix::process::getrlimit(rustix::process::Resource::Nofile).current
    }

    fn boot(&self) -> Option<String> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(boot.trim().to_owned()).filter(|boot| !boot.is_empty())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(&self.root)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }
}

struct DiskFile(File);

impl OpenFile for DiskFile {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(into, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}
