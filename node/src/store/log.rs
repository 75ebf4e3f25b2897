//! The log's files: the one that is written, the sealed ones, and what moves from one to another. Owned by the store's thread.
//!
//! A segment whose sync failed is sealed where it was last known to be on the disk, and never written or synced again; what
//! was acknowledged without a sync behind that place is still in memory, and goes to the next segment.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use super::ahead::Ahead;
use super::blank::Blank;
use super::error::StoreError;
use super::files::{self, Files, OpenFile};
use super::index::Index;
use super::inventory::Inventory;
use super::moving::{Copies, Moved, Removals, Stretch};
use super::record::{self, Name};
use super::segment::{self, LOG, Number, Segment};

/// Bytes that are kept in memory until they are synced; more are synced at once.
const MAX_UNSYNCED_BYTES: usize = 8 << 20;

/// The segment that is written.
pub(super) struct Active {
    pub(super) number: Number,
    pub(super) file: Arc<dyn OpenFile>,
    /// Bytes that count.
    pub(super) length: u32,
    /// What of these may not survive the loss of power: the last ones.
    unsynced: Vec<u8>,
    /// What stands behind them.
    ahead: Ahead,
}

impl Active {
    /// A segment of which everything is synced.
    pub(super) fn new(number: Number, file: Arc<dyn OpenFile>, length: u32) -> Self {
        Self {
            number,
            file,
            length,
            unsynced: Vec::new(),
            ahead: Ahead::of(u64::from(length)),
        }
    }

    /// Bytes that survive the loss of power.
    pub(super) fn synced(&self) -> u32 {
        self.length - self.unsynced.len() as u32
    }
}

/// What has to be written again, because its segment could not be synced. Among it there may be what failed.
struct Rescue {
    number: Number,
    from: u32,
    bytes: Vec<u8>,
}

/// The log.
pub(super) struct Log {
    pub(super) files: Arc<dyn Files>,
    pub(super) mark: u64,
    pub(super) segment_bytes: u64,
    pub(super) active: Option<Active>,
    pub(super) next_number: Number,
    /// The record that was written last.
    pub(super) previous: Option<Name>,
    rescues: Vec<Rescue>,
    pub(super) inventory: Inventory,
    /// Until the disk has refused it, or a sync: it may have been that of what is ahead.
    writes_ahead: bool,
    /// Files synced.
    pub(super) syncs: u64,
}

impl Log {
    pub(super) fn new(files: Arc<dyn Files>, mark: u64, segment_bytes: u64, inventory: Inventory) -> Self {
        Self {
            files,
            mark,
            segment_bytes,
            active: None,
            next_number: 1,
            previous: None,
            rescues: Vec::new(),
            inventory,
            writes_ahead: true,
            syncs: 0,
        }
    }

    fn failed<'a>(&'a self, verb: &'a str, number: Number) -> impl Fn(io::Error) -> StoreError + 'a {
        move |error| StoreError::undone(verb, &self.files.path(&segment::path(number)), error)
    }

    /// Whether something waits to be written again.
    pub(super) fn is_owing(&self) -> bool {
        !self.rescues.is_empty()
    }

    /// Sees to it that there is a segment to write to. What is owed is written with its head.
    pub(super) fn make_ready(&mut self, index: &Mutex<Index>) -> Result<(), StoreError> {
        if self.active.is_none() {
            self.begin(index)
        } else {
            Ok(())
        }
    }

    /// Begins a segment. It is there once it holds what is owed and is synced with its name, or not at all: its head may say
    /// that what is owed does not count where it was.
    fn begin(&mut self, index: &Mutex<Index>) -> Result<(), StoreError> {
        let number = self.next_number;
        self.next_number += 1;
        let mut bytes = segment::encode_head(self.mark, number, &index.lock().cuts());
        let head = bytes.len() as u32;
        let mut copies = Copies::behind(self.previous);
        for rescue in &self.rescues {
            let stretch = Stretch {
                number: rescue.number,
                from: rescue.from,
                bytes: &rescue.bytes,
                complete: true,
            };
            copies.collect(index, self.mark, &stretch, Removals::Keep);
        }
        bytes.extend_from_slice(&copies.bytes);
        let file = match self.make(number, &bytes) {
            Ok(file) => file,
            Err(error) => {
                // What stays of it under its own name is whole, and says nothing that is not so.
                let _ = self.files.remove(&segment::new_path(number));
                let _ = self.files.remove(&segment::path(number));
                return Err(self.failed("write", number)(error));
            }
        };
        let length = bytes.len() as u32;
        let segment = Segment::new(Arc::clone(&file), length);
        index.lock().segments.insert(number, segment);
        self.previous = copies.last();
        copies.note(&mut index.lock(), number, head);
        self.rescues.clear();
        self.active = Some(Active::new(number, file, length));
        if let Err(error) = self.list(index, None) {
            tracing::warn!(%error, "the store's list of segments can't be written; it is tried again");
        }
        Ok(())
    }

    fn make(&mut self, number: Number, bytes: &[u8]) -> io::Result<Arc<dyn OpenFile>> {
        let (new, path) = (segment::new_path(number), segment::path(number));
        let file = self.files.create(&new)?;
        files::write_all(&*file, 0, bytes)?;
        self.syncs += 1;
        file.sync()?;
        self.files.rename(&new, &path)?;
        self.files.sync_dir(LOG)?;
        Ok(file)
    }

    /// Writes whole records, all or none; answers with where they stand. `last` is the name of the last of them. The first one says so
    /// if all before it is on the disk.
    pub(super) fn write(
        &mut self,
        index: &Mutex<Index>,
        bytes: &mut [u8],
        last: Name,
    ) -> Result<(Number, u32), StoreError> {
        self.rotate_for(index, bytes.len())?;
        let kept = |active: &Active| active.unsynced.len() + bytes.len();
        if self.active.as_ref().map_or(0, kept) > MAX_UNSYNCED_BYTES {
            self.sync(index)?;
        }
        self.put(index, bytes, last)
    }

    /// Seals the active segment if it has no room for so many bytes more.
    fn rotate_for(&mut self, index: &Mutex<Index>, bytes: usize) -> Result<(), StoreError> {
        let Some(active) = &self.active else {
            return self.begin(index);
        };
        let empty = index
            .lock()
            .segments
            .get(&active.number)
            .is_none_or(|segment| segment.live == 0 && segment.removals == 0);
        let full = u64::from(active.length) + bytes as u64 > self.segment_bytes;
        if !full || (empty && u64::from(active.length) < self.segment_bytes / 2) {
            return Ok(());
        }
        self.turn(index)
    }

    /// Seals the active segment, and begins another one.
    pub(super) fn turn(&mut self, index: &Mutex<Index>) -> Result<(), StoreError> {
        self.sync(index)?;
        if let Err(error) = self.trim(index) {
            tracing::warn!(%error, "a segment of the store keeps blank bytes behind its end");
        }
        self.active = None;
        self.begin(index)
    }

    /// Cuts off what the active segment, of which everything is synced, has ahead of its end. If that can't be done, or not
    /// be synced, the segment is given up.
    pub(super) fn trim(&mut self, index: &Mutex<Index>) -> Result<(), StoreError> {
        let Some(active) = &mut self.active else {
            return Ok(());
        };
        let length = u64::from(active.length);
        if !active.ahead.is_there(length) {
            return Ok(());
        }
        self.syncs += 1;
        let number = active.number;
        let cut = active.file.truncate(length).and_then(|()| active.file.sync());
        active.ahead = Ahead::of(length);
        cut.map_err(|error| {
            self.seal(index);
            self.failed("cut", number)(error)
        })
    }

    fn put(
        &mut self,
        index: &Mutex<Index>,
        bytes: &mut [u8],
        last: Name,
    ) -> Result<(Number, u32), StoreError> {
        let Some(active) = &mut self.active else {
            return Err(StoreError::Closed);
        };
        let (number, at) = (active.number, active.length);
        record::set_follows_sync(bytes, active.unsynced.is_empty());
        if let Err(error) = files::write_all(&*active.file, u64::from(at), bytes) {
            return Err(self.take_back(index, error));
        }
        active.length += bytes.len() as u32;
        active.unsynced.extend_from_slice(bytes);
        if self.writes_ahead {
            let (length, blank) = (u64::from(active.length), Blank::of(self.mark));
            let written = active
                .ahead
                .extend(&*active.file, length, self.segment_bytes, blank);
            if let Err(error) = written {
                self.writes_ahead = false;
                tracing::info!(%error, "nothing is written ahead in the store's log any more");
            }
        }
        self.previous = Some(last);
        if let Some(segment) = index.lock().segments.get_mut(&number) {
            segment.length = active.length;
        }
        Ok((number, at))
    }

    /// A write failed: cuts the segment back, durably, or seals it where it counts.
    fn take_back(&mut self, index: &Mutex<Index>, error: io::Error) -> StoreError {
        let Some(active) = &mut self.active else {
            return StoreError::Closed;
        };
        let number = active.number;
        let length = u64::from(active.length);
        let cut = active.file.truncate(length);
        active.ahead = Ahead::of(length);
        self.syncs += 1;
        let synced = active.file.sync();
        if synced.is_ok() {
            active.unsynced = Vec::new();
        }
        if cut.is_ok() && synced.is_ok() {
            return self.failed("write", number)(error);
        }
        self.seal(index);
        self.failed("write", number)(error).in_doubt(&self.files.path(&segment::path(number)))
    }

    /// Makes all that was written survive the loss of power.
    pub(super) fn sync(&mut self, index: &Mutex<Index>) -> Result<(), StoreError> {
        let Some(active) = &mut self.active else {
            return Ok(());
        };
        if active.unsynced.is_empty() {
            return Ok(());
        }
        self.syncs += 1;
        match active.file.sync() {
            Ok(()) => {
                active.unsynced.clear();
                active.unsynced.shrink_to(MAX_UNSYNCED_BYTES / 8);
                Ok(())
            }
            Err(error) => {
                self.writes_ahead = false;
                let path = self.files.path(&segment::path(active.number));
                self.seal(index);
                Err(StoreError::io("sync", &path, error))
            }
        }
    }

    /// Gives up the active segment behind what is known to be on the disk.
    fn seal(&mut self, index: &Mutex<Index>) {
        let Some(active) = self.active.take() else {
            return;
        };
        self.previous = None;
        let synced = active.synced();
        if let Some(segment) = index.lock().segments.get_mut(&active.number) {
            segment.length = synced;
            segment.cut = true;
        }
        if !active.unsynced.is_empty() {
            self.rescues.push(Rescue {
                number: active.number,
                from: synced,
                bytes: active.unsynced,
            });
        }
    }

    /// Copies a part of what is needed of a stretch of a sealed segment to the active one.
    pub(super) fn relocate(
        &mut self,
        index: &Mutex<Index>,
        number: Number,
        stretch: Range<u32>,
        removals: Removals,
    ) -> Result<Moved, StoreError> {
        let from = stretch.start;
        let (bytes, complete) = self.read(index, number, stretch)?;
        let stretch = Stretch {
            number,
            from,
            bytes: &bytes,
            complete,
        };
        let mut copies = Copies::behind(self.previous);
        copies.collect(index, self.mark, &stretch, removals);
        if let Some(last) = copies.last().filter(|_| !copies.bytes.is_empty()) {
            let (target, start) = self.write(index, &mut copies.bytes, last)?;
            copies.note(&mut index.lock(), target, start);
        }
        Ok(copies.moved(stretch.end()))
    }

    /// A stretch of a segment with at least one whole record, and whether that is all of it.
    fn read(
        &self,
        index: &Mutex<Index>,
        number: Number,
        stretch: Range<u32>,
    ) -> Result<(Vec<u8>, bool), StoreError> {
        const STRETCH_BYTES: usize = 1 << 20;
        let file = index
            .lock()
            .segments
            .get(&number)
            .map(|segment| Arc::clone(&segment.file))
            .ok_or(StoreError::Closed)?;
        let all = stretch.len();
        let mut bytes = vec![0; all.min(STRETCH_BYTES)];
        let at = u64::from(stretch.start);
        let mut length = files::read_full(&*file, at, &mut bytes).map_err(self.failed("read", number))?;
        let needed = record::header(&bytes, self.mark).map_or(0, |header| header.length.min(all));
        if needed > bytes.len() {
            bytes.resize(needed, 0);
            length = files::read_full(&*file, at, &mut bytes).map_err(self.failed("read", number))?;
        }
        // What the file does not have any more is read as zeros: damage.
        bytes[length..].fill(0);
        let complete = bytes.len() == all;
        Ok((bytes, complete))
    }
}
