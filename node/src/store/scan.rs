//! Reads a stretch of the log record by record, and finds the next sound one after damage.
//!
//! Only a header with the store's own mark and a right checksum is taken for one: bytes that a submitter chose can't look
//! like a record, because the mark is random and never leaves the store.

use std::ops::Range;

use super::blank::Blank;
use super::record::{self, HEADER_BYTES, Header, Name, Part};

/// What stands at a place of the log.
#[derive(Debug)]
pub(super) enum Item {
    /// A sound record.
    Record {
        at: usize,
        header: Header,
        parts: Vec<Part>,
    },
    /// Bytes that are no sound record, with what is known of the one that stood there.
    Damaged { range: Range<usize>, lost: Lost },
    /// A record that was being written when the writing stopped: everything from here on.
    Torn { at: usize },
}

/// What is known of a damaged record.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lost {
    /// Its header is sound.
    Named(Name),
    /// Its header is not.
    Hinted(Hint),
}

/// What a damaged header gives away.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Hint {
    /// This may be the record's name, with damage in it.
    pub(super) name: Option<Name>,
    /// Whether no other record was there.
    pub(super) single: bool,
}

/// Reads `bytes` from the place `at` on.
pub(super) struct Scan<'a> {
    pub(super) bytes: &'a [u8],
    /// Where in the segment they begin.
    pub(super) from: usize,
    pub(super) at: usize,
    pub(super) mark: u64,
}

/// Bytes that a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

impl Item {
    /// Where it begins.
    pub(super) fn at(&self) -> usize {
        match self {
            Self::Record { at, .. } | Self::Torn { at } => *at,
            Self::Damaged { range, .. } => range.start,
        }
    }

    /// Whether this may be what is left of records that were being written: a sector of them is still blank. `bytes` are those of a
    /// segment from its beginning on.
    pub(super) fn may_be_unwritten(&self, bytes: &[u8], blank: Blank) -> bool {
        match self {
            Self::Record { .. } => false,
            Self::Torn { .. } => true,
            Self::Damaged { range, .. } => {
                let first = range.start / SECTOR_BYTES * SECTOR_BYTES;
                (first..range.end).step_by(SECTOR_BYTES).any(|sector| {
                    let at = sector.max(range.start);
                    let end = bytes.len().min(sector + SECTOR_BYTES);
                    blank.is_all(at, bytes.get(at..end).unwrap_or_default())
                })
            }
        }
    }
}

impl Iterator for Scan<'_> {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        let at = self.at;
        let rest = self.bytes.get(at..).filter(|rest| !rest.is_empty())?;
        match record::header(rest, self.mark) {
            Some(header) => Some(self.record(at, rest, header)),
            None => Some(self.resync(at, rest)),
        }
    }
}

impl Scan<'_> {
    fn record(&mut self, at: usize, rest: &[u8], header: Header) -> Item {
        let Some(whole) = rest.get(..header.length) else {
            self.at = self.bytes.len();
            return Item::Torn { at };
        };
        self.at = at + header.length;
        match record::parts(whole, &header) {
            Some(parts) => Item::Record { at, header, parts },
            None => Item::Damaged {
                range: at..self.at,
                lost: Lost::Named(header.name),
            },
        }
    }

    /// Goes on at the next sound header; without one, what is left is torn, or damaged up to the blank bytes at its end if it can't come
    /// from tearing.
    fn resync(&mut self, at: usize, rest: &[u8]) -> Item {
        let mark = self.mark.to_be_bytes();
        let sound = |from: &usize| record::header(&rest[*from..], self.mark).is_some();
        let next = (1..rest.len())
            .filter(|from| rest[*from] == mark[0] && rest[*from..].starts_with(&mark))
            .find(sound);
        let blank = Blank::of(self.mark).begins(self.from + at, rest);
        let torn = rest.len() < HEADER_BYTES || blank == 0 || rest.iter().all(|byte| *byte == 0);
        if next.is_none() && torn {
            self.at = self.bytes.len();
            return Item::Torn { at };
        }
        self.at = at + next.unwrap_or_else(|| record::end_before_blank(rest, blank));
        let lost = Hint {
            name: record::hint(rest),
            single: record::is_one(&rest[..self.at - at]),
        };
        Item::Damaged {
            range: at..self.at,
            lost: Lost::Hinted(lost),
        }
    }
}
