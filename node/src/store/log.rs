//! The log's files: the one that is written, the sealed ones, and what moves from one to another. Owned by the store's thread.
//!
//! A segment whose sync failed is sealed where it was last known to be on the disk, and never written or synced again; what
//! was acknowledged without a sync behind that place is read back and written to the next segment.

use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use super::error::StoreError;
use super::files::{self, Files, OpenFile};
use super::index::Index;
use super::record::{self, HEADER_BYTES, Name, Part};
use super::scan::{Item, Lost, Scan};
use super::segment::{self, Cut, LOG, Number, Segment};

/// The segment that is written.
pub(super) struct Active {
    pub(super) number: Number,
    pub(super) file: Arc<dyn OpenFile>,
    /// Bytes that count.
    pub(super) length: u32,
    /// Bytes that survive the loss of power.
    pub(super) synced: u32,
}

/// What has to be written again, because its segment could not be synced.
#[derive(Clone, Copy)]
struct Rescue {
    number: Number,
    from: u32,
    to: u32,
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
    /// Files synced.
    pub(super) syncs: u64,
}

/// What becomes of the removals in a stretch that moves.
#[derive(Clone, Copy)]
pub(super) enum Removals {
    /// They stay: older segments may have what they removed.
    Keep,
    /// They go: nothing is older.
    Drop,
}

/// What a stretch of the log had that was to be moved.
pub(super) struct Moved {
    /// Up to where the stretch was read.
    pub(super) end: u32,
    /// Records that could not be read.
    pub(super) lost: Vec<(Range<u32>, Lost)>,
}

impl Log {
    pub(super) fn new(files: Arc<dyn Files>, mark: u64, segment_bytes: u64) -> Self {
        Self {
            files,
            mark,
            segment_bytes,
            active: None,
            next_number: 1,
            previous: None,
            rescues: Vec::new(),
            syncs: 0,
        }
    }

    fn failed<'a>(&'a self, verb: &'a str, number: Number) -> impl Fn(std::io::Error) -> StoreError + 'a {
        move |error| StoreError::undone(verb, &self.files.path(&segment::path(number)), error)
    }

    /// Whether something waits to be written again.
    pub(super) fn is_owing(&self) -> bool {
        !self.rescues.is_empty()
    }

    /// Sees to it that there is a segment to write to, and that nothing is owed. Answers with what could not be rescued.
    pub(super) fn make_ready(&mut self, index: &Mutex<Index>) -> Result<Vec<Lost>, StoreError> {
        if self.active.is_none() {
            self.begin(index)?;
        }
        let mut lost = Vec::new();
        while let Some(rescue) = self.rescues.last().copied() {
            let mut at = rescue.from;
            while at < rescue.to {
                let moved = self.relocate(index, rescue.number, at..rescue.to, Removals::Keep)?;
                lost.extend(moved.lost.into_iter().map(|(_, lost)| lost));
                at = moved.end;
                if let Some(rescue) = self.rescues.last_mut() {
                    rescue.from = at;
                }
            }
            self.rescues.pop();
        }
        Ok(lost)
    }

    /// Begins a segment. Its head and its name are synced before anything else is written.
    fn begin(&mut self, index: &Mutex<Index>) -> Result<(), StoreError> {
        let number = self.next_number;
        self.next_number += 1;
        let path = segment::path(number);
        let file = self.files.create(&path).map_err(self.failed("create", number))?;
        let cuts: Vec<Cut> = index
            .lock()
            .segments
            .iter()
            .filter(|(_, segment)| segment.cut)
            .map(|(number, segment)| Cut {
                number: *number,
                length: segment.length,
            })
            .collect();
        let head = segment::encode_head(self.mark, number, &cuts);
        self.syncs += 1;
        let made = files::write_all(&*file, 0, &head)
            .and_then(|()| file.sync())
            .and_then(|()| self.files.sync_dir(LOG));
        if let Err(error) = made {
            // A file that stays is empty for whoever reads it: nothing but a head.
            let _ = self.files.remove(&path);
            return Err(self.failed("write", number)(error));
        }
        let length = head.len() as u32;
        index
            .lock()
            .segments
            .insert(number, Segment::new(Arc::clone(&file), length));
        self.active = Some(Active {
            number,
            file,
            length,
            synced: length,
        });
        Ok(())
    }

    /// Writes whole records, all or none; answers with where they stand. `last` is the name of the last of them.
    pub(super) fn write(
        &mut self,
        index: &Mutex<Index>,
        bytes: &[u8],
        last: Name,
    ) -> Result<(Number, u32), StoreError> {
        self.rotate_for(index, bytes.len())?;
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
        self.sync(index)?;
        self.active = None;
        self.begin(index)
    }

    fn put(&mut self, index: &Mutex<Index>, bytes: &[u8], last: Name) -> Result<(Number, u32), StoreError> {
        let Some(active) = &mut self.active else {
            return Err(StoreError::Closed);
        };
        let (number, at) = (active.number, active.length);
        if let Err(error) = files::write_all(&*active.file, u64::from(at), bytes) {
            return Err(self.take_back(index, error));
        }
        active.length += bytes.len() as u32;
        self.previous = Some(last);
        if let Some(segment) = index.lock().segments.get_mut(&number) {
            segment.length = active.length;
        }
        Ok((number, at))
    }

    /// A write failed: cuts the segment back, durably, or seals it where it counts.
    fn take_back(&mut self, index: &Mutex<Index>, error: std::io::Error) -> StoreError {
        let Some(active) = &mut self.active else {
            return StoreError::Closed;
        };
        let number = active.number;
        let cut = active.file.truncate(u64::from(active.length));
        self.syncs += 1;
        let synced = active.file.sync();
        if cut.is_ok() && synced.is_ok() {
            active.synced = active.length;
            return self.failed("write", number)(error);
        }
        if synced.is_ok() {
            active.synced = active.length;
        }
        self.seal(index);
        self.failed("write", number)(error).in_doubt(&self.files.path(&segment::path(number)))
    }

    /// Makes all that was written survive the loss of power.
    pub(super) fn sync(&mut self, index: &Mutex<Index>) -> Result<(), StoreError> {
        let Some(active) = &mut self.active else {
            return Ok(());
        };
        if active.synced == active.length {
            return Ok(());
        }
        self.syncs += 1;
        match active.file.sync() {
            Ok(()) => {
                active.synced = active.length;
                Ok(())
            }
            Err(error) => {
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
        if let Some(segment) = index.lock().segments.get_mut(&active.number) {
            segment.length = active.synced;
            segment.cut = true;
        }
        if active.synced < active.length {
            self.rescues.push(Rescue {
                number: active.number,
                from: active.synced,
                to: active.length,
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
        let mut moved = Moved {
            end: from + bytes.len() as u32,
            lost: Vec::new(),
        };
        let mut copies = Vec::new();
        let mut places = Vec::new();
        let mut previous = self.previous;
        let scan = Scan {
            bytes: &bytes,
            at: 0,
            mark: self.mark,
        };
        for item in scan {
            match item {
                Item::Record { at, header, parts } => {
                    let removal = parts.contains(&Part::Removed);
                    let needed = match (removal, removals) {
                        (true, Removals::Drop) => false,
                        (true, Removals::Keep) => is_removed(index, &header.name),
                        (false, _) => is_live(index, number, from + at as u32, &header.name),
                    };
                    if !needed {
                        continue;
                    }
                    let start = copies.len();
                    copies.extend_from_slice(&bytes[at..at + header.length]);
                    record::follow(&mut copies[start..], previous);
                    previous = Some(header.name);
                    places.push((header, removal, from + at as u32, start as u32));
                }
                Item::Damaged { mut range, lost } => {
                    if range.end == bytes.len() && !complete {
                        // The beginning of a sound header may stand at the end of the stretch.
                        range.end = (range.start + 1).max(range.end - HEADER_BYTES);
                        moved.end = from + range.end as u32;
                    }
                    moved
                        .lost
                        .push((from + range.start as u32..from + range.end as u32, lost));
                }
                Item::Torn { at } if complete || at == 0 => {
                    moved.lost.push((from + at as u32..moved.end, Lost::Hinted(None)));
                }
                Item::Torn { at } => moved.end = from + at as u32,
            }
        }
        let Some((last, ..)) = places.last() else {
            return Ok(moved);
        };
        let name = last.name;
        let (target, start) = self.write(index, &copies, name)?;
        let mut index = index.lock();
        for (header, removal, from, to) in places {
            if removal {
                if let Some(segment) = index.segments.get_mut(&target) {
                    segment.removals += 1;
                }
            } else {
                index.relocate(
                    &header.name,
                    header.length as u32,
                    (number, from),
                    (target, start + to),
                );
            }
        }
        Ok(moved)
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

/// Whether the record at this place belongs to a key as it is.
fn is_live(index: &Mutex<Index>, number: Number, at: u32, name: &Name) -> bool {
    let index = index.lock();
    let void = |segment: &Segment| segment.void.contains(&at);
    index.is_live(name) && !index.segments.get(&number).is_some_and(void)
}

/// Whether the removal `name` has taken place, rather than failed.
fn is_removed(index: &Mutex<Index>, name: &Name) -> bool {
    let index = index.lock();
    index
        .keys
        .get(&name.key)
        .is_none_or(|held| held.life != name.life)
}
