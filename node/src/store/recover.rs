//! Opens what a store has left on the disk: reads the log from end to end, but no data file; cuts off what was torn,
//! sets damage aside, removes files that nobody owns.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::aside::{self, DAMAGED};
use super::blank::Blank;
use super::data::{DATA, FileId};
use super::error::{StoreError, is_full};
use super::files::{self, Files};
use super::format::Format;
use super::gather::{Gathering, Place};
use super::index::Index;
use super::inventory::{Inventory, Listing};
use super::key::{Found, Key};
use super::log::{Active, Log};
use super::queue::Work;
use super::record::{self, HEADER_BYTES, Name};
use super::scan::{Hint, Item, Lost, Scan};
use super::segment::{self, LOG, Number, Segment};

/// A store as it was found.
pub(super) struct Recovered {
    pub(super) index: Index,
    pub(super) log: Log,
    pub(super) found: Vec<Found>,
    /// The highest life that was given.
    pub(super) life: u64,
    /// What the log does not say yet of keys that are damaged or doubtful.
    pub(super) unmarked: Vec<(Key, Work)>,
    /// Ranges and files that are damaged or missing.
    pub(super) damaged: u64,
}

/// Reads the store in `files`.
pub(super) fn recover(
    files: &Arc<dyn Files>,
    format: &Format,
    segment_bytes: u64,
) -> Result<Recovered, StoreError> {
    let mark = format.mark;
    let mut recovery = Recovery {
        files: &**files,
        mark,
        gathering: Gathering::default(),
        gap: None,
        damaged: 0,
        short: Listing::new(),
    };
    for line in &format.damage {
        recovery.report(line);
    }
    let mut segments = recovery.open_segments()?;
    // With an older version in it, the file is written anew: it tells the version where `FORMAT` does not.
    let written = format.listing.clone().filter(|_| !format.is_due());
    let mut inventory = Inventory::new(format.version, mark, written);
    let listing = format.listing.clone().unwrap_or_default();
    recovery.compare(&listing, &segments);
    let newest = segments.keys().next_back().copied();
    for (number, opened) in &mut segments {
        let listed = listing.get(number).copied().unwrap_or(0);
        recovery.read_segment(*number, opened, Some(*number) == newest, listed)?;
    }
    recovery.settle_gap(None);
    inventory.owe(recovery.short.clone());
    let mut log = Log::new(Arc::clone(files), mark, segment_bytes, inventory);
    log.next_number = 1 + newest.max(listing.keys().next_back().copied()).unwrap_or(0);
    log.active = recovery.reuse(segments.last_key_value(), segment_bytes)?;
    let mut index = Index::default();
    for (number, opened) in segments {
        index.segments.insert(number, opened.segment);
    }
    let sizes = recovery.data_files()?;
    let gathered = recovery.gathering.settle(&mut index, &sizes);
    for id in &gathered.short {
        recovery.report(&format!("{} is missing or too short", id.path()));
    }
    recovery.sync_streams(&mut index, &gathered.unsynced);
    let hurt =
        recovery.damaged > 0 || format.is_new() || gathered.found.iter().any(|found| found.damage.is_some());
    recovery.take_orphans(&index, sizes.into_keys(), hurt)?;
    // The folder that files go to before the one that they come from.
    for dir in [DAMAGED, LOG, DATA] {
        let failed = |error| StoreError::io("sync", &files.path(dir), error);
        files.sync_dir(dir).map_err(failed)?;
    }
    Ok(Recovered {
        index,
        log,
        found: gathered.found,
        life: gathered.life,
        unmarked: gathered.unmarked,
        damaged: recovery.damaged,
    })
}

/// A segment, and where its records begin and end.
struct Opened {
    segment: Segment,
    records: Range<u32>,
    /// Whether its head is sound.
    headed: bool,
}

struct Recovery<'a> {
    files: &'a dyn Files,
    mark: u64,
    gathering: Gathering,
    /// Damage right before the next record, that does not say whose it is.
    gap: Option<Gap>,
    damaged: u64,
    /// Segments that are missing, or end before where they were synced, with where that was: once they are cut, grow or are removed,
    /// only the list says so.
    short: Listing,
}

/// Bytes in which there are records that can't be read.
struct Gap {
    at: Place,
    bytes: usize,
    hint: Hint,
}

impl Gap {
    fn text(&self) -> String {
        let (number, at) = self.at;
        format!("{} is damaged at {at}", segment::path(number))
    }
}

impl Recovery<'_> {
    fn failed<'a>(&'a self, verb: &'static str, number: Number) -> impl Fn(io::Error) -> StoreError + 'a {
        move |error| StoreError::io(verb, &self.files.path(&segment::path(number)), error)
    }

    fn open_segments(&self) -> Result<BTreeMap<Number, Opened>, StoreError> {
        let failed = |error| StoreError::io("list", &self.files.path(LOG), error);
        let listed = self.files.list(LOG).map_err(failed)?;
        for file in listed.iter().filter(|file| segment::is_new(&file.name)) {
            let path = format!("{LOG}/{}", file.name);
            if let Err(error) = self.files.remove(&path) {
                let path = self.files.path(&path);
                tracing::warn!(path = %path.display(), %error, "cannot remove a file of the store");
            }
        }
        let mut segments = BTreeMap::new();
        let mut cuts = Vec::new();
        for number in listed.iter().filter_map(|file| segment::number(&file.name)) {
            let path = segment::path(number);
            let file = self.files.open(&path).map_err(self.failed("open", number))?;
            let length = file.length().map_err(self.failed("read", number))?;
            let length = u32::try_from(length).unwrap_or(u32::MAX);
            let mut head = vec![0; (64 << 10).min(length as usize)];
            files::read_all(&*file, 0, &mut head).map_err(self.failed("read", number))?;
            let decoded = segment::decode_head(&head, self.mark, number);
            let headed = decoded.is_some();
            let (begin, found) = decoded.unwrap_or_default();
            cuts.extend(found);
            segments.insert(
                number,
                Opened {
                    segment: Segment::new(file, length),
                    records: begin as u32..length,
                    headed,
                },
            );
        }
        for cut in cuts {
            if let Some(opened) = segments
                .get_mut(&cut.number)
                .filter(|opened| cut.length < opened.records.end)
            {
                opened.records.end = cut.length.max(opened.records.start);
            }
        }
        Ok(segments)
    }

    /// Reports segments that are not there, or shorter than they were.
    fn compare(&mut self, listing: &Listing, segments: &BTreeMap<Number, Opened>) {
        for (number, bytes) in listing {
            let path = segment::path(*number);
            // Up to a cut, if there is one: a start that could not write down what it had found may have made it.
            let length = segments.get(number).map(|opened| opened.records.end);
            let line = match length {
                None => format!("{path} is missing"),
                Some(0) => format!("{path} is empty"),
                Some(length) if length < *bytes => format!("{path} has {length} bytes of {bytes}"),
                Some(_) => continue,
            };
            self.report(&line);
            self.gathering.doubt((*number, length.unwrap_or(0)), line);
            self.short.insert(*number, *bytes);
        }
    }

    /// Counts and logs what is not as it was left.
    fn report(&mut self, damage: &str) {
        self.damaged += 1;
        tracing::error!(store = %self.files.root().display(), damage, "the store is damaged");
    }

    fn read_segment(
        &mut self,
        number: Number,
        opened: &mut Opened,
        newest: bool,
        listed: u32,
    ) -> Result<(), StoreError> {
        let file = Arc::clone(&opened.segment.file);
        let mut bytes = vec![0; opened.records.end as usize];
        files::read_all(&*file, 0, &mut bytes).map_err(self.failed("read", number))?;
        let (whole, headed) = (opened.segment.length, opened.headed);
        let mut counts = opened.records.end;
        let scan = Scan {
            bytes: &bytes,
            from: 0,
            at: opened.records.start as usize,
            mark: self.mark,
        };
        if let Some(other) = segment::head_mark(&bytes, number).filter(|other| *other != self.mark) {
            let path = segment::path(number);
            self.report(&format!("{path} is another store's, whose mark is {other:016x}"));
        }
        let blank = Blank::of(self.mark);
        let mut torn = Vec::new();
        for item in scan {
            let at = item.at();
            let header = record::header(&bytes[at..], self.mark);
            if header.is_some_and(|header| header.follows_sync) {
                // All before it was on the disk once.
                for item in torn.drain(..) {
                    self.take(number, item, &bytes, listed);
                }
            }
            let may_be_torn =
                blank.is_all(at, &bytes[at..]) || (newest && headed && item.may_be_unwritten(&bytes, blank));
            if !torn.is_empty() || (may_be_torn && at as u32 >= listed) {
                torn.push(item);
            } else {
                self.take(number, item, &bytes, listed);
            }
        }
        if let Some(first) = torn.first() {
            counts = first.at() as u32;
        }
        if newest && counts < whole {
            let end = bytes.get(counts as usize..).unwrap_or_default();
            let written = blank.begins(counts as usize, end);
            if written > 0 {
                tracing::info!(
                    segment = number,
                    bytes = written,
                    "cut off what was being written at the end"
                );
            }
            let cut = file.truncate(u64::from(counts));
            opened.segment.cut = cut.is_err();
        } else {
            opened.segment.cut = counts < whole;
        }
        opened.segment.length = counts;
        if newest {
            self.write_again(number, opened, listed, &bytes)?;
        }
        Ok(())
    }

    /// Takes in what stands at a place of a segment, of which `listed` bytes were on the disk once.
    fn take(&mut self, number: Number, item: Item, bytes: &[u8], listed: u32) {
        match item {
            Item::Record { at, header, parts } => {
                self.settle_gap(header.previous);
                let record = &bytes[at..at + header.length];
                self.gathering.record(number, at as u32, &header, parts, record);
            }
            Item::Damaged { range, lost } => {
                self.set_aside(number, range.clone(), bytes);
                self.settle_gap(None);
                match lost {
                    Lost::Named(_) => self.gathering.lost(lost),
                    Lost::Hinted(hint) => self.set_gap(number, range, hint),
                }
            }
            // Damaged, and left as it is: until it stands in the records of the keys, nothing else says so.
            Item::Torn { at } => {
                if (at as u32) < listed {
                    self.short.insert(number, listed);
                }
                self.set_aside(number, at..bytes.len(), bytes);
                self.settle_gap(None);
                if let Some(header) = record::header(&bytes[at..], self.mark) {
                    self.gathering.lost(Lost::Named(header.name));
                }
                self.set_gap(number, at..usize::MAX, Hint::default());
            }
        }
    }

    /// Writes again what may not be on the disk yet. If another process could not sync it the system holds it for written, and a sync
    /// would say nothing.
    fn write_again(
        &self,
        number: Number,
        opened: &Opened,
        listed: u32,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        let from = listed.max(opened.records.start);
        let unsynced = bytes.get(from as usize..opened.segment.length as usize);
        match files::write_all(
            &*opened.segment.file,
            u64::from(from),
            unsynced.unwrap_or_default(),
        ) {
            Err(error) if !is_full(&error) => Err(self.failed("write", number)(error)),
            _ => Ok(()),
        }
    }

    fn set_gap(&mut self, number: Number, range: Range<usize>, hint: Hint) {
        self.gap = Some(Gap {
            at: (number, range.start as u32),
            bytes: range.len(),
            hint,
        });
    }

    /// Decides whose records they were that could not be read: the next one names the last of them, what is left of a header the
    /// first. If there may have been others, any key may have lost its last records there.
    fn settle_gap(&mut self, last: Option<Name>) {
        let Some(gap) = self.gap.take() else { return };
        let first = gap.hint.name;
        if let Some(last) = last {
            self.gathering.lost(Lost::Named(last));
        }
        let no_record = gap.bytes < HEADER_BYTES;
        let one = gap.hint.single || (first.is_some() && first == last);
        if no_record || (one && last.is_some()) {
            return;
        }
        self.gathering.lost(Lost::Hinted(gap.hint));
        if !one || first.is_none() {
            self.gathering.doubt(gap.at, gap.text());
        }
    }

    /// Keeps a copy of bytes that could not be read.
    fn set_aside(&mut self, number: Number, range: Range<usize>, bytes: &[u8]) {
        self.damaged += 1;
        let path = self.files.path(&aside::path(number, range.start));
        tracing::error!(segment = number, at = range.start, bytes = range.len(), kept = %path.display(), "the store is damaged");
        aside::keep(self.files, number, &range, &bytes[range.clone()]);
    }

    /// The newest segment is gone on with if it is in order and has room.
    fn reuse(
        &self,
        newest: Option<(&Number, &Opened)>,
        segment_bytes: u64,
    ) -> Result<Option<Active>, StoreError> {
        let Some((number, opened)) = newest else {
            return Ok(None);
        };
        let segment = &opened.segment;
        segment.file.sync().map_err(self.failed("sync", *number))?;
        let whole = opened.headed && !segment.cut && !self.short.contains_key(number);
        let sound = whole && u64::from(segment.length) < segment_bytes;
        Ok(sound.then(|| Active::new(*number, Arc::clone(&segment.file), segment.length)))
    }

    fn data_files(&self) -> Result<HashMap<FileId, u64>, StoreError> {
        let failed = |error| StoreError::io("list", &self.files.path(DATA), error);
        let listed = self.files.list(DATA).map_err(failed)?;
        let ours = |file: &files::Listed| FileId::parse(&file.name).map(|id| (id, file.bytes));
        Ok(listed.iter().filter_map(ours).collect())
    }

    /// Syncs files that a process may have left unsynced when it was killed.
    fn sync_streams(&self, index: &mut Index, unsynced: &[FileId]) {
        for id in unsynced {
            let path = id.path();
            if let Err(error) = self.files.open(&path).and_then(|file| file.sync()) {
                tracing::error!(path = %self.files.path(&path).display(), %error, "cannot sync a file of the store");
                if let Some(held) = index.keys.get_mut(&id.key) {
                    held.tails[id.stream.index()].closed = true;
                }
            }
        }
    }

    /// Removes data files that no key owns. If something is damaged they may be what is left of it: they are set aside.
    fn take_orphans(
        &mut self,
        index: &Index,
        present: impl Iterator<Item = FileId>,
        hurt: bool,
    ) -> Result<(), StoreError> {
        for id in present {
            let owned = index
                .keys
                .get(&id.key)
                .is_some_and(|held| held.life == id.life && held.tails[id.stream.index()].in_file);
            if owned {
                continue;
            }
            let (name, path) = (id.name(), id.path());
            let taken = if hurt {
                let unit = id.key.unit;
                self.report(&format!(
                    "{path} is of unit {unit}, of which nothing else is left"
                ));
                self.files.rename(&path, &format!("{DAMAGED}/{name}"))
            } else {
                self.files.remove(&path)
            };
            let Err(error) = taken else { continue };
            let whole = self.files.path(&path);
            // The next start may see no damage any more, and would remove it.
            if hurt && !is_full(&error) {
                return Err(StoreError::io("set aside", &whole, error));
            }
            tracing::warn!(path = %whole.display(), %error, "cannot take away a file of the store");
        }
        Ok(())
    }
}
