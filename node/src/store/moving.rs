//! Records on their way from one segment to another: which of them are needed, and their copies.

use std::ops::Range;

use parking_lot::Mutex;

use super::index::Index;
use super::record::{self, HEADER_BYTES, Header, Name, Part};
use super::scan::{Hint, Item, Lost, Scan};
use super::segment::{Number, Segment};

/// Bytes of a segment, from a record's beginning on.
pub(super) struct Stretch<'a> {
    pub(super) number: Number,
    pub(super) from: u32,
    pub(super) bytes: &'a [u8],
    /// Whether nothing follows them.
    pub(super) complete: bool,
}

impl Stretch<'_> {
    /// Where in the segment it ends.
    pub(super) fn end(&self) -> u32 {
        self.from + self.bytes.len() as u32
    }
}

/// What becomes of the removals in a stretch that moves.
#[derive(Clone, Copy)]
pub(super) enum Removals {
    /// They stay: older segments may have what they removed.
    Keep,
    /// They go: nothing is older.
    Drop,
}

/// What was seen of a stretch.
pub(super) struct Moved {
    /// Up to where it was read.
    pub(super) end: u32,
    /// Records that could not be read.
    pub(super) lost: Vec<(Range<u32>, Lost)>,
}

/// Copies of records, to be written in one go.
pub(super) struct Copies {
    pub(super) bytes: Vec<u8>,
    places: Vec<Place>,
    lost: Vec<(Range<u32>, Lost)>,
    /// Where the next stretch has to begin, if not behind the last one.
    resume: Option<u32>,
    previous: Option<Name>,
}

struct Place {
    header: Header,
    removal: bool,
    from: (Number, u32),
    /// Where in the copies it begins.
    to: u32,
}

impl Copies {
    /// None yet, to be written behind the record `previous`.
    pub(super) fn behind(previous: Option<Name>) -> Self {
        Self {
            bytes: Vec::new(),
            places: Vec::new(),
            lost: Vec::new(),
            resume: None,
            previous,
        }
    }

    /// The record that is the last one once these are written.
    pub(super) fn last(&self) -> Option<Name> {
        self.previous
    }

    /// Adds what is needed of a stretch.
    pub(super) fn collect(
        &mut self,
        index: &Mutex<Index>,
        mark: u64,
        stretch: &Stretch<'_>,
        removals: Removals,
    ) {
        let Stretch { number, from, .. } = *stretch;
        let scan = Scan {
            bytes: stretch.bytes,
            from: from as usize,
            at: 0,
            mark,
        };
        for item in scan {
            match item {
                Item::Record { at, header, parts } => {
                    let place = from + at as u32;
                    let removal = parts.contains(&Part::Removed);
                    let needed = match (removal, removals) {
                        (true, Removals::Drop) => false,
                        (true, Removals::Keep) => is_removed(index, &header.name),
                        (false, _) => is_live(index, number, place, &header.name),
                    };
                    if needed {
                        let record = &stretch.bytes[at..at + header.length];
                        self.copy(header, removal, (number, place), record);
                    }
                }
                Item::Damaged { mut range, lost } => {
                    if range.end == stretch.bytes.len() && !stretch.complete {
                        // The beginning of a sound header may stand at the end of the stretch.
                        range.end = (range.start + 1).max(range.end - HEADER_BYTES);
                        self.resume = Some(from + range.end as u32);
                    }
                    let range = from + range.start as u32..from + range.end as u32;
                    self.lost.push((range, lost));
                }
                Item::Torn { at } if stretch.complete || at == 0 => {
                    let range = from + at as u32..stretch.end();
                    self.lost.push((range, Lost::Hinted(Hint::default())));
                }
                Item::Torn { at } => self.resume = Some(from + at as u32),
            }
        }
    }

    fn copy(&mut self, header: Header, removal: bool, from: (Number, u32), record: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(record);
        record::follow(&mut self.bytes[start..], self.previous.replace(header.name));
        self.places.push(Place {
            header,
            removal,
            from,
            to: start as u32,
        });
    }

    /// Notes that the copies stand at `start` of a segment.
    pub(super) fn note(&mut self, index: &mut Index, target: Number, start: u32) {
        for place in self.places.drain(..) {
            let length = place.header.length as u32;
            if !place.removal {
                index.relocate(&place.header.name, length, place.from, (target, start + place.to));
            } else if let Some(segment) = index.segments.get_mut(&target) {
                segment.removals += 1;
            }
        }
    }

    /// What was seen of the stretch, which ends at `end`.
    pub(super) fn moved(self, end: u32) -> Moved {
        Moved {
            end: self.resume.unwrap_or(end),
            lost: self.lost,
        }
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
