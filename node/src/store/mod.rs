//! What a node keeps of durable units: for each key a list of opaque records and two streams of bytes.
//!
//! This module owns the folder `store` of the data directory, and when what in it is synced. [`Store`] is the handle; a thread
//! behind it writes ([`writer`]), another one reads ([`reader`]). What records mean is not known here. The files are
//! described in docs/STORE.md.
//!
//! What a caller may rely on:
//! - An append is stored whole or not at all, and only if all earlier ones of its key are, or are known to have failed to
//!   whoever made them: after a failure the key's appends fail until that failure was seen (its future resolved).
//! - After [`StoreError::Full`] nothing of the append is there, nor will be after a crash. After [`StoreError::Io`] it does not
//!   count while the store is open; after a crash it may be found.
//! - What is read is what has been acknowledged, or will be in this moment.

mod key;
mod settings;
mod error;
mod files;
mod sealed;
mod free;
mod record;
mod blank;
mod scan;
mod aside;
mod segment;
mod index;
mod inventory;
mod format;
mod attendant;
mod queue;
mod data;
mod batch;
mod moving;
mod ahead;
mod log;
mod writer;
mod notes;
mod compact;
mod gather;
mod recover;
mod reader;
mod starts;

use std::fs::TryLockError;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use bytes::Bytes;
use bytesize::ByteSize;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

pub(crate) use error::StoreError;
pub(crate) use key::{Entry, Found, Key, Role, Stream, Sync, Usage};
pub(crate) use queue::Pending;
pub(crate) use settings::StoreSettings;
pub(crate) use starts::{Noted, Starts};

use aside::DAMAGED;
use data::{DATA, DataFiles};
use files::{Disk, Files};
use format::Versions;
use free::FreeSpace;
use index::Index;
use queue::{Queue, Work};
use reader::{MAX_WAITING, Read, Request};
use segment::LOG;
use writer::Writer;

/// The lock that tells another process that the store is in use.
const LOCK: &str = "lock";

/// What both threads and the handles share.
struct Shared {
    files: Arc<dyn Files>,
    settings: StoreSettings,
    queue: Arc<Queue>,
    free: FreeSpace,
    index: Mutex<Index>,
    /// What the index says is used, for those who do not wait for it: while a batch is taken in it is locked for a while.
    used_bytes: AtomicU64,
    /// Only `damaged`, `syncs`, `appends` and `failures` are counted here; the index knows the rest.
    counts: Mutex<Usage>,
}

impl Shared {
    /// Lets those know who look without the lock. To be called when the index has changed, before anybody is answered.
    fn publish_use(&self, index: &Index) {
        self.used_bytes.store(index.used_bytes(), Ordering::Release);
    }
}

/// A store that is open. Clones are handles of one store; it closes by itself when the last one is gone.
#[derive(Clone)]
pub(crate) struct Store {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    /// Bytes that callers of `append` may still bring.
    room: Arc<Semaphore>,
    reads: mpsc::Sender<Request>,
    /// Threads that have ended.
    ended: watch::Receiver<usize>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.queue.close();
    }
}

impl Store {
    /// Opens the store in `dir`, and makes it if nothing is there. Blocks: reads the whole log.
    pub(crate) fn open(dir: &Path, settings: StoreSettings) -> Result<(Self, Vec<Found>), StoreError> {
        Self::open_as(Arc::new(Disk::new(dir)), settings, Versions::OWN)
    }

    /// The same, as a program that knows these versions does.
    fn open_as(
        files: Arc<dyn Files>,
        settings: StoreSettings,
        versions: Versions,
    ) -> Result<(Self, Vec<Found>), StoreError> {
        let settings = settings.clamped();
        let make = |name: &str| {
            let failed = |error| StoreError::io("make", &files.path(name), error);
            files.make_dir(name).map_err(failed)
        };
        make("")?;
        let lock = files.lock(LOCK).map_err(|error| match error {
            TryLockError::WouldBlock => StoreError::Locked {
                path: files.root().display().to_string(),
            },
            TryLockError::Error(error) => StoreError::io("lock", &files.path(LOCK), error),
        })?;
        let format = format::open(&*files, versions)?;
        for name in [LOG, DATA, DAMAGED] {
            make(name)?;
        }
        let recovered = recover::recover(&files, &format, settings.segment_bytes)?;
        let shared = Arc::new(Shared {
            files: Arc::clone(&files),
            settings,
            queue: Arc::default(),
            free: FreeSpace::default(),
            used_bytes: AtomicU64::new(recovered.index.used_bytes()),
            index: Mutex::new(recovered.index),
            counts: Mutex::new(Usage {
                damaged: recovered.damaged,
                ..Usage::default()
            }),
        });
        let data = DataFiles::new(Arc::clone(&files));
        let mut writer = Writer::new(Arc::clone(&shared), recovered.log, data, recovered.life);
        writer.owe_notes(recovered.unmarked);
        match writer
            .log
            .list(&shared.index, None)
            .and_then(|()| format.write(&*files))
        {
            Err(error) if format.is_due() => return Err(error),
            titled => {
                if let Err(error) = titled.and_then(|()| writer.settle()) {
                    tracing::warn!(%error, "what was found of the store can't be written down; it is tried again");
                }
            }
        }
        let handle = start(shared, writer, lock)?;
        Ok((Self { handle }, recovered.found))
    }

    /// Stores entries under a key, all or none, behind the caller's earlier ones. Waits while too many bytes wait for the disk.
    /// Resolves once written, or synced. If the future is dropped the entries may be stored all the same.
    pub(crate) async fn append(&self, key: Key, entries: Vec<Entry>, sync: Sync) -> Result<(), StoreError> {
        let work = Work::Append(entries, sync);
        let limit = self.handle.shared.settings.queue_bytes;
        // At most 2^30: the queue's bound.
        let bytes = work.bytes().min(limit) as u32;
        let room = Arc::clone(&self.handle.room).acquire_many_owned(bytes).await;
        let room = room.map_err(|_| StoreError::Closed)?;
        self.handle.shared.queue.push(key, work, Some(room)).await
    }

    /// The same, but for the waiting: the order is that of the calls. Callers bound what they have outstanding, because
    /// nothing else does.
    pub(crate) fn enqueue(&self, key: Key, entries: Vec<Entry>, sync: Sync) -> Pending {
        let work = Work::Append(entries, sync);
        let bytes = work.bytes().min(self.handle.shared.settings.queue_bytes) as u32;
        let room = Arc::clone(&self.handle.room).try_acquire_many_owned(bytes).ok();
        self.handle.shared.queue.push(key, work, room)
    }

    /// Bytes of a stream from `offset` on: at most `max`, at most 1 MiB, at most what is stored; none at its end.
    pub(crate) async fn read(
        &self,
        key: Key,
        stream: Stream,
        offset: u64,
        max: usize,
    ) -> Result<Bytes, StoreError> {
        let (done, answer) = oneshot::channel();
        let read = Read {
            key,
            stream,
            offset,
            max,
            done,
        };
        let sent = self.handle.reads.send(Request::Read(read)).await;
        sent.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Forgets a key, its records and its streams; a key that is not there is forgotten already. Done when that is written:
    /// after a loss of power within the next second it may be there again, whole.
    pub(crate) async fn remove(&self, key: Key) -> Result<(), StoreError> {
        self.handle.shared.queue.push(key, Work::Remove, None).await
    }

    /// Whether anything is stored under the key; what is on its way into the store or out of it may be missed.
    pub(crate) fn has(&self, key: Key) -> bool {
        self.handle.shared.index.lock().keys.contains_key(&key)
    }

    /// Whether work that needs so many bytes may come in: [`StoreError::OverQuota`], or [`StoreError::BelowReserve`] if less
    /// than that would be left free on the disk. What is under way may go on beyond both.
    pub(crate) fn admit(&self, bytes: u64) -> Result<(), StoreError> {
        let shared = &self.handle.shared;
        let used = shared.used_bytes.load(Ordering::Acquire);
        let (quota, reserve) = (shared.settings.quota_bytes, shared.settings.reserve_bytes);
        let wanted = used.saturating_add(bytes);
        if wanted > quota {
            return Err(StoreError::OverQuota {
                wanted: ByteSize(wanted),
                quota: ByteSize(quota),
            });
        }
        let failed = |error| StoreError::io("look at", shared.files.root(), error);
        let let_in = shared
            .free
            .let_in(&*shared.files, bytes, reserve)
            .map_err(failed)?;
        let_in.map_err(|free| StoreError::BelowReserve {
            left: ByteSize(free.saturating_sub(bytes)),
            reserve: ByteSize(reserve),
        })
    }

    /// Bytes that the store may take before it lets nothing more in.
    pub(crate) fn quota_bytes(&self) -> u64 {
        self.handle.shared.settings.quota_bytes
    }

    /// Gathers the wake-ups between the runtime and the store's threads, for ever; to be spawned on the runtime of those who
    /// append. Nothing needs it but speed.
    pub(crate) async fn attend(self) {
        self.handle.shared.queue.attend().await;
    }

    /// Where this `life` of the node notes which units begin, once it is told to, and what the one before has noted. Once for each life;
    /// blocks.
    pub(crate) fn starts(&self, life: u64) -> (Starts, Option<Noted>) {
        Starts::open(Arc::clone(&self.handle.shared.files), life)
    }

    /// How much is stored, and what was done since the store was opened.
    pub(crate) fn usage(&self) -> Usage {
        let index = self.handle.shared.index.lock();
        let counts = *self.handle.shared.counts.lock();
        Usage {
            keys: index.keys.len() as u64,
            log_bytes: index.log_bytes(),
            data_bytes: index.data_bytes,
            segments: index.segments.len() as u64,
            data_files: index.data_files,
            ..counts
        }
    }

    /// Does what waits, syncs everything, and ends the threads. The folder is free then; everything else is answered with
    /// [`StoreError::Closed`].
    pub(crate) async fn close(&self) {
        let handle = &self.handle;
        handle.shared.queue.close();
        // The thread has ended already: nothing is left to be told.
        let _ = handle.reads.send(Request::End).await;
        let mut ended = handle.ended.clone();
        let _ = ended.wait_for(|ended| *ended == 2).await;
    }
}

/// Starts the threads.
fn start(shared: Arc<Shared>, writer: Writer, lock: Box<dyn Send>) -> Result<Arc<Handle>, StoreError> {
    let (reads, requests) = mpsc::channel(MAX_WAITING);
    let (end, ended) = watch::channel(0);
    let end = Arc::new(end);
    let handle = Arc::new(Handle {
        shared: Arc::clone(&shared),
        room: Arc::new(Semaphore::new(shared.settings.queue_bytes)),
        reads,
        ended,
    });
    let failed = |error| StoreError::io("start a thread for", shared.files.root(), error);
    let last = Ending {
        shared: Arc::clone(&shared),
        end: Arc::clone(&end),
    };
    thread::Builder::new()
        .name("store".to_owned())
        .spawn(move || {
            let _last = last;
            let _lock = lock;
            writer.run();
        })
        .map_err(failed)?;
    let reading = Arc::clone(&shared);
    thread::Builder::new()
        .name("store-read".to_owned())
        .spawn(move || {
            reader::run(&reading, requests);
            end.send_modify(|ended| *ended += 1);
        })
        .map_err(failed)?;
    Ok(handle)
}

/// Runs when the writing thread ends, however it does: whoever waits is told.
struct Ending {
    shared: Arc<Shared>,
    end: Arc<watch::Sender<usize>>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.shared.queue.abandon();
        self.end.send_modify(|ended| *ended += 1);
    }
}

#[cfg(test)]
impl Store {
    /// Opens the store on a disk that fails when it is told to.
    pub(crate) fn open_faulty(
        disk: &faulty::Faulty,
        settings: StoreSettings,
    ) -> Result<(Self, Vec<Found>), StoreError> {
        Self::open_with(Arc::new(disk.clone()), settings)
    }
}

#[cfg(test)]
pub(crate) mod faulty;
#[cfg(test)]
mod tests;
