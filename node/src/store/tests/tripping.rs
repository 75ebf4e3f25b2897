//! A disk of which one operation fails, or all from one on, of whatever sort: looking, listing, opening and reading too. Around a [`Faulty`] one, which does
//! the rest: a sync that fails drops what it should have written.

use std::fs::TryLockError;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;

use super::super::faulty::{Fault, Faulty};
use super::super::files::{Files, Listed, OpenFile};

/// What can be asked of a disk, or of one of its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Call {
    MakeDir,
    Lock,
    List,
    Open,
    Length,
    Read,
    Create,
    Write,
    Truncate,
    Sync,
    Rename,
    Remove,
    SyncDir,
}

/// How much of an operation that fails is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Done {
    Nothing,
    Half,
    /// Nothing either, and a read answers as if the file ended there.
    NoneToRead,
    /// Nothing, nor anything of those after it.
    NothingAnyMore,
}

struct State {
    /// Operations until the one that fails.
    left: Option<usize>,
    done: Done,
    struck: Option<(Call, String)>,
}

/// The disk; clones are the same one.
#[derive(Clone)]
pub(super) struct Tripping {
    disk: Faulty,
    state: Arc<Mutex<State>>,
}

impl Tripping {
    /// Lets the `nth` operation from here on fail, counted from 0.
    pub(super) fn new(disk: &Faulty, nth: usize, done: Done) -> Self {
        Self {
            disk: disk.clone(),
            state: Arc::new(Mutex::new(State {
                left: Some(nth),
                done,
                struck: None,
            })),
        }
    }

    /// The operation that has failed last, and the file or folder that it was for.
    pub(super) fn struck(&self) -> Option<(Call, String)> {
        self.state.lock().struck.clone()
    }

    /// Nothing fails from here on.
    pub(super) fn heal(&self) {
        self.state.lock().left = None;
    }

    /// How this operation fails, if it does.
    fn step(&self, call: Call, name: &str) -> Option<Done> {
        let mut state = self.state.lock();
        let left = state.left?;
        if left > 0 {
            state.left = Some(left - 1);
            return None;
        }
        if state.done != Done::NothingAnyMore {
            state.left = None;
        }
        state.struck = Some((call, name.to_owned()));
        Some(state.done)
    }

    /// Looks at something, or fails.
    fn look<T>(&self, call: Call, name: &str, look: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match self.step(call, name) {
            Some(_) => Err(Errno::IO.into()),
            None => look(),
        }
    }

    /// Changes something, or fails as the disk does.
    fn change<T>(&self, call: Call, name: &str, change: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let Some(done) = self.step(call, name) else {
            return change();
        };
        self.disk.fault(match done {
            Done::Nothing | Done::NoneToRead | Done::NothingAnyMore => Fault::FailAny { nth: 0, times: 1 },
            Done::Half => Fault::Halve { nth: 0 },
        });
        let changed = change();
        // A write that was done half goes on, and fails then.
        if done != Done::Half || call != Call::Write {
            self.disk.heal();
        }
        changed
    }

    fn file(&self, name: &str, file: Arc<dyn OpenFile>) -> Arc<dyn OpenFile> {
        Arc::new(TrippingFile {
            disk: self.clone(),
            name: name.to_owned(),
            file,
        })
    }
}

impl Files for Tripping {
    fn root(&self) -> &Path {
        Path::new("store")
    }

    fn make_dir(&self, name: &str) -> io::Result<()> {
        self.look(Call::MakeDir, name, || self.disk.make_dir(name))
    }

    fn lock(&self, name: &str) -> Result<Box<dyn Send>, TryLockError> {
        self.look(Call::Lock, name, || Ok(()))
            .map_err(TryLockError::Error)?;
        self.disk.lock(name)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<Listed>> {
        self.look(Call::List, dir, || self.disk.list(dir))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn OpenFile>> {
        let file = self.change(Call::Create, name, || self.disk.create(name))?;
        Ok(self.file(name, file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn OpenFile>> {
        let file = self.look(Call::Open, name, || self.disk.open(name))?;
        Ok(self.file(name, file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change(Call::Rename, from, || self.disk.rename(from, to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.change(Call::Remove, name, || self.disk.remove(name))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.change(Call::SyncDir, dir, || self.disk.sync_dir(dir))
    }

    fn boot(&self) -> Option<String> {
        self.disk.boot()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }

    fn descriptors(&self) -> Option<u64> {
        self.disk.descriptors()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.disk.path(name)
    }
}

struct TrippingFile {
    disk: Tripping,
    name: String,
    file: Arc<dyn OpenFile>,
}

impl OpenFile for TrippingFile {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        match self.disk.step(Call::Read, &self.name) {
            None => self.file.read_at(offset, into),
            Some(Done::NoneToRead) => Ok(0),
            Some(Done::Nothing | Done::Half | Done::NothingAnyMore) => Err(Errno::IO.into()),
        }
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        let write = || self.file.write_at(offset, bytes);
        self.disk.change(Call::Write, &self.name, write)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.change(Call::Sync, &self.name, || self.file.sync())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        let truncate = || self.file.truncate(length);
        self.disk.change(Call::Truncate, &self.name, truncate)
    }

    fn length(&self) -> io::Result<u64> {
        self.disk.look(Call::Length, &self.name, || self.file.length())
    }
}
