//! A batch: what is written to the log in one go, staged item by item. Data files are written while staging, the index is
//! changed only once the log has it.

use std::collections::{HashMap, HashSet};
use std::io;

use bytes::Bytes;
use parking_lot::Mutex;

use super::data::{DataFiles, FileId};
use super::error::StoreError;
use super::files::Files;
use super::index::{Change, Index, MAX_PIECES, Piece, Tail};
use super::key::{Entry, Key, Stream, Sync};
use super::queue::{Item, Queue, Work};
use super::record::{Encoder, MAX_ENTRIES_BYTES, Name};

/// Room that is made for a record, in bytes: most are shorter.
const USUAL_BYTES: usize = 384;
/// Bytes that an entry has beside its own, at most.
const ENTRY_OVERHEAD_BYTES: usize = 5;

/// What staging works with.
pub(super) struct Stage<'a> {
    pub(super) files: &'a dyn Files,
    pub(super) index: &'a Mutex<Index>,
    pub(super) queue: &'a Queue,
    pub(super) data: &'a mut DataFiles,
    pub(super) mark: u64,
    pub(super) inline_bytes: u64,
    pub(super) next_life: &'a mut u64,
}

/// An item whose record stands in the batch.
pub(super) struct Staged {
    pub(super) item: Item,
    pub(super) change: Change,
    /// Where its record begins in the batch.
    pub(super) at: usize,
    /// Whether it is done only once the log is synced.
    pub(super) waits: bool,
}

/// Where a key stands behind what is staged.
#[derive(Clone, Copy)]
struct Tip {
    life: u64,
    next: u32,
    tails: [Tail; 2],
    stored: bool,
    /// An item of the key waits for the sync: later ones of its wait too, so that none counts before it.
    waits: bool,
}

/// Records to be written together.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    pub(super) staged: Vec<Staged>,
    /// Data files written for it.
    pub(super) written: HashSet<FileId>,
    /// The record before the next one.
    previous: Option<Name>,
    tips: HashMap<Key, Tip>,
}

impl Batch {
    /// A batch of so many items that follows this record.
    pub(super) fn behind(previous: Option<Name>, items: usize) -> Self {
        Self {
            previous,
            bytes: Vec::with_capacity(items * USUAL_BYTES),
            staged: Vec::with_capacity(items),
            tips: HashMap::with_capacity(items),
            ..Self::default()
        }
    }

    /// Stages an item, or answers with it and why not. An item that has nothing to do is done.
    pub(super) fn stage(
        &mut self,
        stage: &mut Stage<'_>,
        mut item: Item,
    ) -> Result<(), Box<(Item, StoreError)>> {
        let mut tip = self.tip(stage, item.key);
        if tip.next == u32::MAX {
            let error = io::Error::other("it has too many records");
            let error = StoreError::io("append to", stage.files.root(), error);
            return Err(Box::new((item, error)));
        }
        let before = tip;
        let start = self.bytes.len();
        let mut pieces = Vec::new();
        let mut removed = false;
        let mut synced = false;
        let mut done = Ok(());
        let mut encoder = Encoder::new(&mut self.bytes);
        match &mut item.work {
            Work::Append(entries, sync) => {
                synced = *sync == Sync::Synced;
                done = append(
                    &mut encoder,
                    stage,
                    &mut tip,
                    item.key,
                    std::mem::take(entries),
                    &mut pieces,
                )
                .and_then(|files| {
                    self.written.extend(files);
                    if synced {
                        sync_streams(stage, &tip, item.key)
                    } else {
                        Ok(())
                    }
                });
            }
            Work::Damage(text) => encoder.damage(text),
            Work::Doubt(text) => encoder.doubt(text),
            Work::Remove => {
                encoder.removed();
                removed = true;
            }
        }
        if !tip.stored && !matches!(item.work, Work::Append(..)) {
            // Nothing to remove, or to note something of.
            self.bytes.truncate(start);
            stage.queue.forgive(&[item.key]);
            item.succeed();
            return Ok(());
        }
        if let Err(error) = done {
            self.bytes.truncate(start);
            undo(stage.data, item.key, tip, before.tails);
            return Err(Box::new((item, error)));
        }
        let name = Name {
            key: item.key,
            life: tip.life,
            sequence: tip.next,
        };
        let length = encoder.finish(stage.mark, name, self.previous.replace(name), synced);
        tip.next += 1;
        tip.stored = !removed;
        tip.waits |= synced;
        let waits = tip.waits;
        self.tips.insert(item.key, tip);
        let change = Change {
            name,
            length: length as u32,
            pieces,
            tails: tip.tails,
            removed,
        };
        self.staged.push(Staged {
            item,
            change,
            at: start,
            waits,
        });
        Ok(())
    }

    fn tip(&mut self, stage: &mut Stage<'_>, key: Key) -> Tip {
        let staged = self.tips.get(&key);
        let held = match staged {
            Some(tip) => Some(*tip).filter(|tip| tip.stored),
            None => stage.index.lock().keys.get(&key).map(|held| Tip {
                life: held.life,
                next: held.next,
                tails: held.tails,
                stored: true,
                waits: false,
            }),
        };
        let waits = staged.is_some_and(|tip| tip.waits);
        held.unwrap_or_else(|| {
            *stage.next_life += 1;
            Tip {
                life: *stage.next_life,
                next: 1,
                tails: [Tail::default(); 2],
                stored: false,
                waits,
            }
        })
    }
}

/// Writes an append's entries to its record and to data files; answers with the files.
fn append(
    encoder: &mut Encoder<'_>,
    stage: &mut Stage<'_>,
    tip: &mut Tip,
    key: Key,
    entries: Vec<Entry>,
    pieces: &mut Vec<Piece>,
) -> Result<Vec<FileId>, StoreError> {
    let own = |entry: &Entry| match entry {
        Entry::Record(bytes) => bytes.len() + ENTRY_OVERHEAD_BYTES,
        Entry::Data(..) => 0,
    };
    let bytes = entries.iter().map(own).sum();
    if bytes > MAX_ENTRIES_BYTES {
        return Err(StoreError::TooLarge {
            bytes,
            limit: MAX_ENTRIES_BYTES,
        });
    }
    let mut in_files = Vec::new();
    for entry in entries {
        let (stream, bytes) = match entry {
            Entry::Record(bytes) => {
                encoder.record(&bytes);
                continue;
            }
            Entry::Data(_, bytes) if bytes.is_empty() => continue,
            Entry::Data(stream, bytes) => (stream, bytes),
        };
        let tail = &mut tip.tails[stream.index()];
        let id = FileId {
            key,
            life: tip.life,
            stream,
        };
        if tail.closed {
            let path = stage.files.path(&id.path()).display().to_string();
            return Err(StoreError::StreamClosed { path });
        }
        let length = tail.length + bytes.len() as u64;
        if !tail.in_file && tail.pieces < MAX_PIECES && length <= stage.inline_bytes {
            pieces.push(inline(encoder, tail, stream, &bytes));
        } else {
            let new = !tail.in_file;
            if new {
                tail.in_file = true;
                tail.base = tail.length as u16;
            }
            in_files.push(id);
            stage.data.write(id, tail.file_bytes(), &bytes, new)?;
        }
        tail.length = length;
    }
    for stream in Stream::ALL {
        if in_files.iter().any(|id| id.stream == stream) {
            let tail = &tip.tails[stream.index()];
            encoder.extent(stream, u64::from(tail.base), tail.length);
        }
    }
    Ok(in_files)
}

fn inline(encoder: &mut Encoder<'_>, tail: &mut Tail, stream: Stream, bytes: &Bytes) -> Piece {
    let at = encoder.inline(stream, tail.length, bytes);
    tail.pieces += 1;
    Piece {
        segment: 0,
        at: at as u32,
        length: bytes.len() as u16,
        stream: stream.index() as u8,
    }
}

/// Syncs the files of a key's streams. A stream whose file could not be synced takes no more.
fn sync_streams(stage: &mut Stage<'_>, tip: &Tip, key: Key) -> Result<(), StoreError> {
    let mut answer = Ok(());
    for stream in Stream::ALL {
        let id = FileId {
            key,
            life: tip.life,
            stream,
        };
        if !tip.tails[stream.index()].in_file {
            continue;
        }
        if let Err(error) = stage.data.sync(id) {
            close_stream(stage.index, id);
            answer = Err(error);
        }
    }
    answer
}

/// A stream takes no more: what its file has on the disk is in doubt.
pub(super) fn close_stream(index: &Mutex<Index>, id: FileId) {
    if let Some(held) = index
        .lock()
        .keys
        .get_mut(&id.key)
        .filter(|held| held.life == id.life)
    {
        held.tails[id.stream.index()].closed = true;
    }
}

/// Takes what an append that failed wrote off the ends of its key's files.
fn undo(data: &mut DataFiles, key: Key, failed: Tip, before: [Tail; 2]) {
    for stream in Stream::ALL {
        if failed.tails[stream.index()].in_file {
            let (life, tail) = (failed.life, before[stream.index()]);
            data.undo(FileId { key, life, stream }, tail.file_bytes(), tail.in_file);
        }
    }
}

/// Takes what does not count off the ends of a batch's files.
pub(super) fn undo_all(data: &mut DataFiles, index: &Mutex<Index>, written: &HashSet<FileId>) {
    for id in written {
        let tail = match index.lock().keys.get(&id.key) {
            Some(held) if held.life == id.life => held.tails[id.stream.index()],
            _ => Tail::default(),
        };
        data.undo(*id, tail.file_bytes(), tail.in_file);
    }
}
