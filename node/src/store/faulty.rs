//! A disk in memory that fails when it is told to, and that can be cut off from power. For tests.
//!
//! It keeps what was written apart from what was synced: contents by file, names by folder. A sync that fails leaves what it
//! should have written for ever out of the synced content, as Linux does: a later sync of the same file succeeds, and says nothing.

mod content;

use std::collections::BTreeMap;
use std::fs::TryLockError;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rustix::io::Errno;
use tokio::sync::watch;

use self::content::Content;
use super::files::{Files, Listed, OpenFile};

/// What can be told to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Op {
    Write,
    Sync,
    SyncDir,
    Create,
    Open,
    Rename,
    Remove,
    Truncate,
    Read,
}

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The `nth` operation of this sort from here on, counted from 0, and so many after it.
    Fail { op: Op, nth: usize, times: usize },
    /// The `nth` operation of any sort that changes something, and so many after it.
    FailAny { nth: usize, times: usize },
    /// Of the `nth` operation that changes something half is done, if it is a write; the next write fails.
    Halve { nth: usize },
    /// From the `nth` operation that changes something on there is no room for so many that need some: they write and create.
    Full { nth: usize, times: usize },
}

/// What is left after the power is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crash {
    /// Everything that was written: only the process died.
    Written,
    /// What was synced, and nothing else.
    Synced,
    /// The same, but of the files that were removed since their folder was synced only the first one is back.
    Unlinked,
    /// The same, and of what was written since some, chosen by this seed.
    Torn(u64),
}

type Inode = Arc<Mutex<Content>>;

#[derive(Default)]
struct World {
    names: BTreeMap<String, Inode>,
    synced_names: BTreeMap<String, Inode>,
    faults: Vec<Fault>,
    ops: Vec<Op>,
    /// Those that failed.
    struck: watch::Sender<Vec<Op>>,
    /// The power is gone: nothing is done any more.
    dead: bool,
    /// Bytes that may still be written.
    budget: Option<u64>,
    /// Files that may be open.
    descriptors: Option<usize>,
    /// Whether what a failed sync dropped can't be read any more either.
    forgetful: bool,
    /// How often the power was lost.
    boots: u64,
}

/// The disk; clones are the same one.
#[derive(Clone, Default)]
pub(crate) struct Faulty {
    world: Arc<Mutex<World>>,
    /// Files that are open.
    open: Arc<AtomicUsize>,
}

impl Faulty {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Lets operations fail from here on; what was told before is forgotten.
    pub(crate) fn fault(&self, fault: Fault) {
        let mut world = self.world.lock();
        world.faults = vec![fault];
        world.ops.clear();
        world.struck.send_replace(Vec::new());
    }

    /// Lets only so many files be open.
    pub(crate) fn set_descriptors(&self, files: usize) {
        self.world.lock().descriptors = Some(files);
    }

    /// Files that are open.
    pub(crate) fn open_files(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    fn opened(&self, inode: Inode) -> Arc<dyn OpenFile> {
        self.open.fetch_add(1, Ordering::SeqCst);
        Arc::new(FaultyFile {
            disk: self.clone(),
            inode,
        })
    }

    /// Nothing fails from here on.
    pub(crate) fn heal(&self) {
        let mut world = self.world.lock();
        world.faults.clear();
        world.budget = None;
        world.descriptors = None;
        world.ops.clear();
    }

    /// Lets nothing go on while the answer lives.
    pub(super) fn pause(&self) -> impl Drop + '_ {
        self.world.lock()
    }

    /// Lets only so many bytes more be written.
    pub(super) fn set_budget(&self, bytes: u64) {
        self.world.lock().budget = Some(bytes);
    }

    /// What a failed sync drops can't be read any more.
    pub(super) fn set_forgetful(&self) {
        self.world.lock().forgetful = true;
    }

    /// Operations of this sort since the last [`fault`](Self::fault) or [`heal`](Self::heal).
    pub(super) fn count(&self, op: Op) -> usize {
        self.world.lock().ops.iter().filter(|done| **done == op).count()
    }

    /// Operations that change something, since then.
    pub(crate) fn changes(&self) -> usize {
        self.world.lock().ops.iter().filter(|op| op.changes()).count()
    }

    /// The operations that have failed since the last [`fault`](Self::fault).
    pub(crate) fn struck(&self) -> watch::Receiver<Vec<Op>> {
        self.world.lock().struck.subscribe()
    }

    /// Another disk, with what is left of this one after a crash; this one does nothing more.
    pub(crate) fn cut(&self, crash: Crash) -> Self {
        let mut world = self.world.lock();
        world.dead = true;
        world.left(crash)
    }

    /// Another disk, with what is left of this one after a crash.
    pub(crate) fn crash(&self, crash: Crash) -> Self {
        self.world.lock().left(crash)
    }

    /// The same disk for another process, after this one was killed: what is not synced is there, and still not synced.
    pub(crate) fn kill(&self) -> Self {
        let world = self.world.lock();
        let mut copies: BTreeMap<*const Mutex<Content>, Inode> = BTreeMap::new();
        let mut copy = |(name, inode): (&String, &Inode)| {
            let fresh = || Arc::new(Mutex::new(inode.lock().clone()));
            let copy = copies.entry(Arc::as_ptr(inode)).or_insert_with(fresh);
            (name.clone(), Arc::clone(copy))
        };
        let names = world.names.iter().map(&mut copy).collect();
        let synced_names = world.synced_names.iter().map(&mut copy).collect();
        let world = World {
            names,
            synced_names,
            boots: world.boots,
            ..World::default()
        };
        Self {
            world: Arc::new(Mutex::new(world)),
            open: Arc::default(),
        }
    }

    /// Names and lengths of a folder's files.
    pub(crate) fn files(&self, dir: &str) -> Vec<(String, usize)> {
        let prefix = format!("{dir}/");
        let world = self.world.lock();
        let inside = world.names.iter().filter(|(name, _)| name.starts_with(&prefix));
        inside
            .map(|(name, inode)| (name.clone(), inode.lock().written.len()))
            .collect()
    }

    /// A file's bytes.
    pub(super) fn content(&self, name: &str) -> Vec<u8> {
        self.world.lock().names[name].lock().written.clone()
    }

    /// Lets every operation wait while the answer lives.
    pub(crate) fn hold(&self) -> impl Sized + '_ {
        self.world.lock()
    }

    /// Whether there is a file of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.world.lock().names.contains_key(name)
    }

    /// Takes a file away, for good.
    pub(super) fn take_away(&self, name: &str) {
        let mut world = self.world.lock();
        world.names.remove(name);
        world.synced_names.remove(name);
    }

    /// Changes a byte of a file under the hands of whoever has it open.
    pub(super) fn spoil(&self, name: &str, at: usize) {
        self.world.lock().names[name].lock().written[at] ^= 1;
    }

    /// Puts other bytes in a file, synced.
    pub(super) fn set_content(&self, name: &str, bytes: Vec<u8>) {
        let mut world = self.world.lock();
        let inode = content_of(bytes);
        world.names.insert(name.to_owned(), Arc::clone(&inode));
        world.synced_names.insert(name.to_owned(), inode);
    }
}

fn content_of(bytes: Vec<u8>) -> Inode {
    Arc::new(Mutex::new(Content::all_synced(bytes)))
}

impl Op {
    fn changes(self) -> bool {
        !matches!(self, Self::Open | Self::Read)
    }

    fn needs_room(self) -> bool {
        matches!(self, Self::Write | Self::Create)
    }
}

/// How an operation fails.
#[derive(Clone, Copy)]
struct Failure {
    /// Of a write so much is done all the same: this part of it, or nothing.
    share: Option<usize>,
    kind: io::ErrorKind,
}

impl Failure {
    const IO: Self = Self {
        share: None,
        kind: io::ErrorKind::Other,
    };
    const FULL: Self = Self {
        share: None,
        kind: io::ErrorKind::StorageFull,
    };
    const HALF: Self = Self {
        share: Some(2),
        kind: io::ErrorKind::Other,
    };

    fn error(self) -> io::Error {
        io::Error::new(self.kind, "told to fail")
    }
}

impl World {
    /// What is left after a crash.
    fn left(&self, crash: Crash) -> Faulty {
        let names = match crash {
            Crash::Written => self.names.clone(),
            Crash::Synced | Crash::Torn(_) => self.synced_names.clone(),
            Crash::Unlinked => {
                let mut names = self.synced_names.clone();
                let removed = names.keys().filter(|name| !self.names.contains_key(*name));
                for name in removed.skip(1).cloned().collect::<Vec<_>>() {
                    names.remove(&name);
                }
                names
            }
        };
        let mut chance = StdRng::seed_from_u64(match crash {
            Crash::Torn(seed) => seed,
            _ => 0,
        });
        let left = |(name, inode): (&String, &Inode)| {
            let content = inode.lock();
            let bytes = match crash {
                Crash::Written => content.written.clone(),
                Crash::Synced | Crash::Unlinked => content.synced.clone(),
                Crash::Torn(_) => content.torn(&mut chance),
            };
            (name.clone(), content_of(bytes))
        };
        let names: BTreeMap<_, _> = names.iter().map(left).collect();
        let world = Self {
            synced_names: names.clone(),
            names,
            boots: self.boots + u64::from(crash != Crash::Written),
            ..Self::default()
        };
        Faulty {
            world: Arc::new(Mutex::new(world)),
            open: Arc::default(),
        }
    }

    /// Counts an operation and answers with how it fails, if it does.
    fn step(&mut self, op: Op) -> Result<(), Failure> {
        if self.dead {
            return Err(Failure::IO);
        }
        let same = |wanted: Op| self.ops.iter().filter(|done| **done == wanted).count();
        let changes = self.ops.iter().filter(|op| op.changes()).count();
        let struck = self.struck.borrow().len();
        let fails = self.faults.iter().find_map(|fault| match *fault {
            Fault::Fail {
                op: wanted,
                nth,
                times,
            } => {
                (op == wanted && (nth..nth.saturating_add(times)).contains(&same(op))).then_some(Failure::IO)
            }
            Fault::FailAny { nth, times } => {
                let hit = changes >= nth && changes - nth < times;
                (op.changes() && hit).then_some(Failure::IO)
            }
            Fault::Halve { nth } if changes == nth => op.changes().then_some(Failure::HALF),
            Fault::Halve { nth } => (op == Op::Write && changes == nth + 1).then_some(Failure::IO),
            Fault::Full { nth, times } => {
                let hit = changes >= nth && struck < times;
                (op.needs_room() && hit).then_some(Failure::FULL)
            }
        });
        self.ops.push(op);
        let Some(failure) = fails else { return Ok(()) };
        self.struck.send_modify(|struck| struck.push(op));
        Err(failure)
    }

    fn check(&mut self, op: Op) -> io::Result<()> {
        self.step(op).map_err(Failure::error)
    }

    fn check_descriptors(&self, open: usize) -> io::Result<()> {
        match self.descriptors {
            Some(most) if open >= most => Err(Errno::MFILE.into()),
            _ => Ok(()),
        }
    }

    fn find(&self, name: &str) -> io::Result<Inode> {
        self.names
            .get(name)
            .cloned()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Files for Faulty {
    fn root(&self) -> &Path {
        Path::new("store")
    }

    fn make_dir(&self, _name: &str) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, _name: &str) -> Result<Box<dyn Send>, TryLockError> {
        Ok(Box::new(()))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<Listed>> {
        let strip = |name: String| name[dir.len() + 1..].to_owned();
        let listed = |(name, bytes)| Listed {
            name: strip(name),
            bytes: bytes as u64,
        };
        Ok(self.files(dir).into_iter().map(listed).collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn OpenFile>> {
        let mut world = self.world.lock();
        world.check(Op::Create)?;
        world.check_descriptors(self.open_files())?;
        if world.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if world.budget == Some(0) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let inode = Inode::default();
        world.names.insert(name.to_owned(), Arc::clone(&inode));
        Ok(self.opened(inode))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn OpenFile>> {
        let mut world = self.world.lock();
        world.check(Op::Open)?;
        world.check_descriptors(self.open_files())?;
        let inode = world.find(name)?;
        Ok(self.opened(inode))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut world = self.world.lock();
        world.check(Op::Rename)?;
        let inode = world.find(from)?;
        world.names.remove(from);
        world.names.insert(to.to_owned(), inode);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut world = self.world.lock();
        world.check(Op::Remove)?;
        let inode = world.find(name)?;
        world.names.remove(name);
        let freed = inode.lock().written.len() as u64;
        world.budget = world.budget.map(|budget| budget.saturating_add(freed));
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut world = self.world.lock();
        world.check(Op::SyncDir)?;
        let parent = |name: &str| name.rsplit_once('/').map_or("", |(parent, _)| parent).to_owned();
        world.synced_names.retain(|name, _| parent(name) != dir);
        let inside: Vec<_> = world
            .names
            .iter()
            .filter(|(name, _)| parent(name) == dir)
            .map(|(name, inode)| (name.clone(), Arc::clone(inode)))
            .collect();
        world.synced_names.extend(inside);
        Ok(())
    }

    fn boot(&self) -> Option<String> {
        Some(self.world.lock().boots.to_string())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.world.lock().budget.unwrap_or(u64::MAX))
    }

    fn descriptors(&self) -> Option<u64> {
        self.world.lock().descriptors.map(|most| most as u64)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }
}

struct FaultyFile {
    disk: Faulty,
    inode: Inode,
}

impl Drop for FaultyFile {
    fn drop(&mut self) {
        self.disk.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl OpenFile for FaultyFile {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.disk.world.lock().check(Op::Read)?;
        let content = self.inode.lock();
        let rest = content.written.get(offset as usize..).unwrap_or_default();
        // At most so many in one go, so that whoever reads has to ask again.
        let count = rest.len().min(into.len()).min(50_000);
        into[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        let mut world = self.disk.world.lock();
        let share = world.step(Op::Write);
        let mut content = self.inode.lock();
        let offset = offset as usize;
        let mut count = match share {
            Ok(()) => bytes.len().min(30_000),
            Err(Failure {
                share: Some(share), ..
            }) => bytes.len() / share,
            Err(failure) => return Err(failure.error()),
        };
        if let Some(budget) = world.budget {
            let grows = (offset + count).saturating_sub(content.written.len()) as u64;
            count -= grows.saturating_sub(budget) as usize;
            let grows = (offset + count).saturating_sub(content.written.len()) as u64;
            world.budget = Some(budget - grows);
            if count == 0 && !bytes.is_empty() {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        let end = offset + count;
        if content.written.len() < end {
            content.written.resize(end, 0);
        }
        content.written[offset..end].copy_from_slice(&bytes[..count]);
        // What is written again is not dropped any more.
        if content
            .dropped
            .is_some_and(|dropped| (offset..end).contains(&dropped))
        {
            content.dropped = (end < content.written.len()).then_some(end);
        }
        if share.is_err() && count == 0 {
            return Err(io::Error::other("told to fail"));
        }
        Ok(count)
    }

    fn sync(&self) -> io::Result<()> {
        let mut world = self.disk.world.lock();
        let mut content = self.inode.lock();
        if world.step(Op::Sync).is_err() {
            let same = content.synced.iter().zip(&content.written);
            let from = same.take_while(|(synced, written)| synced == written).count();
            content.dropped = Some(content.dropped.map_or(from, |dropped| dropped.min(from)));
            if world.forgetful {
                content.written.truncate(from);
            }
            return Err(io::Error::other("told to fail"));
        }
        let end = content.dropped.unwrap_or(usize::MAX).min(content.written.len());
        content.synced = content.written[..end].to_vec();
        Ok(())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        let mut world = self.disk.world.lock();
        world.check(Op::Truncate)?;
        let mut content = self.inode.lock();
        let freed = (content.written.len() as u64).saturating_sub(length);
        content.written.resize(length as usize, 0);
        if content.dropped.is_some_and(|dropped| dropped as u64 >= length) {
            content.dropped = None;
        }
        world.budget = world.budget.map(|budget| budget.saturating_add(freed));
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.inode.lock().written.len() as u64)
    }
}
