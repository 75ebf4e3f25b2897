//! Puts records together to keys: which of them count, what is missing, where the streams end.

use std::collections::HashMap;

use bytes::Bytes;

use super::data::FileId;
use super::index::{Held, Index, Piece, Tail};
use super::key::{Found, Key, Stream};
use super::queue::Work;
use super::record::{Header, Name, Part};
use super::scan::Lost;
use super::segment::Number;

/// A place of the log: a segment, and where in it.
pub(super) type Place = (Number, u32);

/// Records by key, as the log has them.
#[derive(Default)]
pub(super) struct Gathering {
    keys: HashMap<Key, Gathered>,
    lost: Vec<Lost>,
    doubts: Vec<Doubt>,
    /// Removals by segment: as long as an older one stands there, what they removed may be in it.
    removals: HashMap<Number, u32>,
    life: u64,
}

/// Records of any key may have been lost at this place.
struct Doubt {
    at: Place,
    text: String,
}

/// What came of it.
pub(super) struct Settled {
    pub(super) found: Vec<Found>,
    pub(super) life: u64,
    /// Damaged and doubtful keys whose records don't say so yet, with what they are to say.
    pub(super) unmarked: Vec<(Key, Work)>,
    /// Data files that may not be synced.
    pub(super) unsynced: Vec<FileId>,
    /// Data files that are missing or too short.
    pub(super) short: Vec<FileId>,
}

struct Gathered {
    life: u64,
    removed: bool,
    records: Vec<Record>,
    /// Sequence numbers of records that are known to be lost; 0 if the number is not known.
    lost: Vec<u32>,
}

struct Record {
    sequence: u32,
    segment: Number,
    at: u32,
    length: u32,
    /// Where it was written, if that is known: a copy may stand behind later ones.
    written: Option<Place>,
    streams_synced: bool,
    parts: Vec<Kept>,
}

enum Kept {
    Record(Bytes),
    Piece { offset: u64, piece: Piece },
    Extent { stream: Stream, base: u64, end: u64 },
    Damage(String),
    Doubt(String),
}

impl Gathering {
    /// Takes in the record at `at` of `segment`, whose bytes are `bytes`.
    pub(super) fn record(
        &mut self,
        segment: Number,
        at: u32,
        header: &Header,
        parts: Vec<Part>,
        bytes: &[u8],
    ) {
        let name = header.name;
        if parts.contains(&Part::Removed) {
            *self.removals.entry(segment).or_default() += 1;
        }
        let gathered = self.of(name.key, name.life);
        if gathered.life > name.life || gathered.removed {
            return;
        }
        if parts.contains(&Part::Removed) {
            gathered.removed = true;
            gathered.records = Vec::new();
            return;
        }
        let keep = |part| match part {
            Part::Record(range) => Some(Kept::Record(Bytes::copy_from_slice(&bytes[range]))),
            Part::Inline {
                stream,
                offset,
                bytes,
            } => {
                let piece = Piece {
                    segment,
                    at: at + bytes.start as u32,
                    length: u16::try_from(bytes.len()).ok()?,
                    stream: stream.index() as u8,
                };
                Some(Kept::Piece { offset, piece })
            }
            Part::Extent { stream, base, end } => Some(Kept::Extent { stream, base, end }),
            Part::Damage(range) => Some(Kept::Damage(String::from_utf8_lossy(&bytes[range]).into_owned())),
            Part::Doubt(range) => Some(Kept::Doubt(String::from_utf8_lossy(&bytes[range]).into_owned())),
            Part::Removed => None,
        };
        gathered
            .records
            .reserve_exact(usize::from(gathered.records.is_empty()));
        gathered.records.push(Record {
            sequence: name.sequence,
            segment,
            at,
            length: header.length as u32,
            written: (!header.copied).then_some((segment, at)),
            streams_synced: header.streams_synced,
            parts: parts.into_iter().filter_map(keep).collect(),
        });
    }

    /// Takes note of a record that could not be read.
    pub(super) fn lost(&mut self, lost: Lost) {
        self.lost.push(lost);
    }

    /// Takes note of a place where records were lost that don't say whose they are.
    pub(super) fn doubt(&mut self, at: Place, text: String) {
        self.doubts.push(Doubt { at, text });
    }

    /// The key in its latest life.
    fn of(&mut self, key: Key, life: u64) -> &mut Gathered {
        self.life = self.life.max(life);
        let fresh = || Gathered {
            life,
            removed: false,
            records: Vec::new(),
            lost: Vec::new(),
        };
        let gathered = self.keys.entry(key).or_insert_with(fresh);
        if gathered.life < life {
            *gathered = fresh();
        }
        gathered
    }

    fn attribute_lost(&mut self) {
        for lost in std::mem::take(&mut self.lost) {
            match lost {
                Lost::Named(name) => self.lose(name, name.sequence),
                Lost::Hinted(hint) => {
                    if let Some(name) = hint.name {
                        self.lose_hinted(name);
                    }
                }
            }
        }
    }

    fn lose(&mut self, name: Name, sequence: u32) {
        let gathered = self.of(name.key, name.life);
        let there = gathered.records.iter().any(|record| record.sequence == sequence);
        if gathered.life == name.life && !gathered.removed && !there {
            gathered.lost.push(sequence);
        }
    }

    /// The header is damaged itself, but key and life name the same thing: one of them may be right.
    fn lose_hinted(&mut self, hint: Name) {
        let by_key = self.keys.get(&hint.key).map(|_| hint.key);
        let by_life = || {
            let same = |(_, gathered): &(&Key, &Gathered)| gathered.life == hint.life;
            self.keys.iter().find(same).map(|(key, _)| *key)
        };
        let Some(key) = by_key.or_else(by_life) else {
            return;
        };
        let Some(gathered) = self.keys.get(&key) else {
            return;
        };
        let life = gathered.life;
        let there = |record: &Record| record.sequence == hint.sequence;
        if !gathered.records.iter().any(there) {
            self.lose(Name { key, life, ..hint }, 0);
        }
    }

    /// Fills the index; `sizes` are the lengths of the data files.
    pub(super) fn settle(&mut self, index: &mut Index, sizes: &HashMap<FileId, u64>) -> Settled {
        self.attribute_lost();
        for (number, count) in &self.removals {
            if let Some(segment) = index.segments.get_mut(number) {
                segment.removals = *count;
            }
        }
        let mut living: Vec<_> = std::mem::take(&mut self.keys)
            .into_iter()
            .filter(|(_, gathered)| !gathered.removed)
            .collect();
        living.sort_unstable_by_key(|(_, gathered)| gathered.life);
        let mut settled = Settled {
            found: Vec::with_capacity(living.len()),
            life: self.life,
            unmarked: Vec::new(),
            unsynced: Vec::new(),
            short: Vec::new(),
        };
        for (key, gathered) in living {
            settle_key(key, gathered, &self.doubts, index, sizes, &mut settled);
        }
        settled
    }
}

fn settle_key(
    key: Key,
    mut gathered: Gathered,
    doubts: &[Doubt],
    index: &mut Index,
    sizes: &HashMap<FileId, u64>,
    settled: &mut Settled,
) {
    gathered.leave_out_copies(index);
    let life = gathered.life;
    let mut damage = gathered.missing();
    let mut held = Held::new(life);
    let doubt = gathered.doubt(doubts);
    let (mut marked, mut doubted) = (None, None);
    let mut records = Vec::new();
    let mut ends = [End::default(), End::default()];
    for record in &mut gathered.records {
        held.next = record.sequence.saturating_add(1);
        held.add_share(record.segment, record.length);
        if let Some(segment) = index.segments.get_mut(&record.segment) {
            segment.live += u64::from(record.length);
        }
        for part in std::mem::take(&mut record.parts) {
            match part {
                Kept::Record(bytes) => records.push(bytes),
                Kept::Damage(text) => marked = Some(text),
                Kept::Doubt(text) => doubted = Some(text),
                Kept::Piece { offset, piece } => {
                    if ends[usize::from(piece.stream)].piece(offset, piece) {
                        held.add_piece(piece);
                    }
                }
                Kept::Extent { stream, base, end } => {
                    ends[stream.index()].extent(base, end);
                }
            }
        }
        if record.streams_synced {
            ends.iter_mut().for_each(End::synced);
        }
    }
    let last_lost = gathered.lost.iter().max().copied().unwrap_or(0);
    held.next = held.next.max(last_lost.saturating_add(1));
    for stream in Stream::ALL {
        let id = FileId { key, life, stream };
        let end = &mut ends[stream.index()];
        if end.tail.in_file && end.synced_to == 0 && !sizes.contains_key(&id) {
            tracing::warn!(unit = %key.unit, file = id.path(), "a file of the store is missing, that was written but perhaps not synced");
        }
        if let Some(text) = end.settle(stream, sizes.get(&id).copied()) {
            damage.get_or_insert(text);
            settled.short.push(id);
        }
        if end.tail.in_file && !end.synced {
            settled.unsynced.push(id);
        }
        index.data_files += u64::from(end.tail.in_file);
        index.data_bytes += end.tail.file_bytes();
        held.tails[stream.index()] = end.tail;
    }
    match (&marked, &damage, &doubted, &doubt) {
        (Some(_), ..) => {}
        (None, Some(text), ..) => settled.unmarked.push((key, Work::Damage(text.clone()))),
        (None, None, None, Some(text)) => settled.unmarked.push((key, Work::Doubt(text.clone()))),
        (None, None, ..) => {}
    }
    let damage = damage.or(marked);
    settled.found.push(Found {
        key,
        records,
        payload_bytes: held.tails[Stream::Payload.index()].length,
        response_bytes: held.tails[Stream::Responses.index()].length,
        doubt: doubted.or(doubt).filter(|_| damage.is_none()),
        damage,
    });
    index.keys.insert(key, Box::new(held));
}

impl Gathered {
    /// Brings the records in order, and of those with one name keeps the one that was written last.
    fn leave_out_copies(&mut self, index: &mut Index) {
        let records = &mut self.records;
        if records.is_sorted_by(|a, b| a.sequence < b.sequence) {
            return;
        }
        records.sort_by_key(|record| record.sequence);
        let mut kept: Vec<Record> = Vec::with_capacity(records.len());
        for mut record in records.drain(..) {
            if let Some(copy) = kept.pop_if(|last| last.sequence == record.sequence) {
                record.written = record.written.max(copy.written);
                if let Some(segment) = index.segments.get_mut(&copy.segment) {
                    segment.void.push(copy.at);
                }
            }
            kept.push(record);
        }
        self.records = kept;
    }

    /// A line on the damage behind which nothing was written for this key, if there is one.
    fn doubt(&self, doubts: &[Doubt]) -> Option<String> {
        let last = self.records.last().and_then(|record| record.written);
        let doubt = doubts
            .iter()
            .find(|doubt| last.is_none_or(|last| last < doubt.at))?;
        Some(doubt.text.clone())
    }

    /// A line on the records that are not there.
    fn missing(&self) -> Option<String> {
        let last = self.records.last().map_or(0, |record| record.sequence);
        let in_between = last as usize - self.records.len();
        let behind = self
            .lost
            .iter()
            .filter(|lost| **lost == 0 || **lost > last)
            .count();
        match in_between + behind {
            0 => None,
            1 => Some("one of its records is damaged or missing".to_owned()),
            count => Some(format!("{count} of its records are damaged or missing")),
        }
    }
}

/// Where a stream ends, as its records tell.
#[derive(Default)]
struct End {
    tail: Tail,
    /// Up to where it was synced when a record said so.
    synced_to: u64,
    synced: bool,
    holed: bool,
}

impl End {
    fn piece(&mut self, offset: u64, piece: Piece) -> bool {
        if self.holed || self.tail.in_file || offset != self.tail.length {
            self.holed = true;
            return false;
        }
        self.tail.length += u64::from(piece.length);
        self.tail.pieces += 1;
        true
    }

    fn extent(&mut self, base: u64, end: u64) {
        let begins = !self.tail.in_file && base == self.tail.length;
        let goes_on = self.tail.in_file && base == u64::from(self.tail.base);
        let Some(base) = u16::try_from(base)
            .ok()
            .filter(|_| !self.holed && (begins || goes_on))
        else {
            self.holed = true;
            return;
        };
        self.tail = Tail {
            in_file: true,
            base,
            length: end,
            ..self.tail
        };
        self.synced = false;
    }

    /// What there is of it so far was synced.
    fn synced(&mut self) {
        if self.tail.in_file {
            self.synced = true;
            self.synced_to = self.tail.length;
        }
    }

    /// Compares with the file; a line on what is missing.
    fn settle(&mut self, stream: Stream, file_bytes: Option<u64>) -> Option<String> {
        self.tail.closed = self.holed;
        if !self.tail.in_file {
            return None;
        }
        let there = u64::from(self.tail.base) + file_bytes.unwrap_or(0);
        self.tail.length = self.tail.length.min(there);
        if file_bytes.is_none() {
            self.tail.in_file = false;
        }
        if there >= self.synced_to {
            return None;
        }
        self.tail.closed = true;
        let (name, missing) = (stream.name(), self.synced_to - there);
        Some(match file_bytes {
            None => format!("the file of its {name} is missing, with {missing} bytes"),
            Some(_) => format!("{missing} bytes at the end of its {name} are missing"),
        })
    }
}
