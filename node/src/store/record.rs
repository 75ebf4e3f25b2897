//! A record of the log as bytes: encoded, decoded, checked. docs/STORE.md has the layout.
//!
//! Every record names its key, the key's life and its place there, and the record before it in the log, so that a damaged
//! one can be told by its neighbours.

use std::ops::Range;

use twox_hash::XxHash3_64;
use uuid::Uuid;
use workmesh_proto::UnitId;

use super::key::{Key, Role, Stream};

/// Bytes before a record's entries.
pub(super) const HEADER_BYTES: usize = 88;
/// The longest record, in bytes.
pub(super) const MAX_RECORD_BYTES: usize = 8 << 20;
/// The longest that an append's entries may be within the log, in bytes: what else a record has fits beside them.
pub(super) const MAX_ENTRIES_BYTES: usize = MAX_RECORD_BYTES - (512 << 10);

const NAME_BYTES: usize = 29;
const LENGTH_AT: usize = 8;
const FLAGS_AT: usize = 12;
const NAME_AT: usize = 14;
const PREVIOUS_AT: usize = NAME_AT + NAME_BYTES;
const BODY_SUM_AT: usize = PREVIOUS_AT + NAME_BYTES;
const HEADER_SUM_AT: usize = BODY_SUM_AT + 8;
/// The flag of a record whose streams were synced before it was written.
const STREAMS_SYNCED: u16 = 1;
/// The flag of a record that was copied from another place of the log.
const COPIED: u16 = 2;
/// The flag of a record before which everything in its segment was synced when it was written there.
const FOLLOWS_SYNC: u16 = 4;

/// Bytes at a record's end that may look blank by chance.
const OWN_BLANK_BYTES: usize = 4;

const RECORD: u8 = 1;
const INLINE: u8 = 2;
const EXTENT: u8 = 3;
const REMOVED: u8 = 4;
const DAMAGE: u8 = 5;
const DOUBT: u8 = 6;

/// Which record: no two of a store have the same name, but a copy, or one that failed and the one in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) key: Key,
    /// Which life of the key: rises when a removed key is stored again, and differs between keys.
    pub(super) life: u64,
    /// Which record of that life, from 1.
    pub(super) sequence: u32,
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The whole record, header included, in bytes.
    pub(super) length: usize,
    pub(super) name: Name,
    /// The record before this one in the log, if this is not the first.
    pub(super) previous: Option<Name>,
    /// Whether the key's streams were synced up to what this record says before it was written.
    pub(super) streams_synced: bool,
    /// Whether it stood elsewhere before: later ones of its key may stand in front of it.
    pub(super) copied: bool,
    /// Whether everything before it in its segment was synced when it was written there.
    pub(super) follows_sync: bool,
    body_sum: u64,
}

/// A part of a record; ranges are places of bytes within the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// A record of the caller.
    Record(Range<usize>),
    /// Bytes of a stream, from `offset` on.
    Inline {
        stream: Stream,
        offset: u64,
        bytes: Range<usize>,
    },
    /// The stream's file has the bytes from `base` to `end`, at its beginning.
    Extent { stream: Stream, base: u64, end: u64 },
    /// The key's life ends here.
    Removed,
    /// Something of the key was lost; a line on what.
    Damage(Range<usize>),
    /// The key's last records may have been lost; a line on why.
    Doubt(Range<usize>),
}

/// A record being written at the end of `out`.
pub(super) struct Encoder<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Encoder<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>) -> Self {
        let start = out.len();
        out.resize(start + HEADER_BYTES, 0);
        Self { out, start }
    }

    pub(super) fn record(&mut self, bytes: &[u8]) {
        self.counted(RECORD, bytes);
    }

    pub(super) fn damage(&mut self, text: &str) {
        self.counted(DAMAGE, text.as_bytes());
    }

    pub(super) fn doubt(&mut self, text: &str) {
        self.counted(DOUBT, text.as_bytes());
    }

    pub(super) fn removed(&mut self) {
        self.out.push(REMOVED);
    }

    /// Answers where within the record the bytes stand.
    pub(super) fn inline(&mut self, stream: Stream, offset: u64, bytes: &[u8]) -> usize {
        self.out.extend([INLINE, stream.index() as u8]);
        self.out.extend(offset.to_be_bytes());
        self.out.extend((bytes.len() as u32).to_be_bytes());
        self.out.extend(bytes);
        self.out.len() - bytes.len() - self.start
    }

    pub(super) fn extent(&mut self, stream: Stream, base: u64, end: u64) {
        self.out.extend([EXTENT, stream.index() as u8]);
        self.out.extend(base.to_be_bytes());
        self.out.extend(end.to_be_bytes());
    }

    fn counted(&mut self, kind: u8, bytes: &[u8]) {
        self.out.push(kind);
        self.out.extend((bytes.len() as u32).to_be_bytes());
        self.out.extend(bytes);
    }

    /// Writes the header and answers with the record's length.
    pub(super) fn finish(self, mark: u64, name: Name, previous: Option<Name>, streams_synced: bool) -> usize {
        let record = &mut self.out[self.start..];
        let flags = if streams_synced { STREAMS_SYNCED } else { 0 };
        let body_sum = XxHash3_64::oneshot(&record[HEADER_BYTES..]);
        record[..LENGTH_AT].copy_from_slice(&mark.to_be_bytes());
        let length = (record.len() as u32).to_be_bytes();
        record[LENGTH_AT..FLAGS_AT].copy_from_slice(&length);
        record[FLAGS_AT..NAME_AT].copy_from_slice(&flags.to_be_bytes());
        put_name(&mut record[NAME_AT..PREVIOUS_AT], Some(name));
        put_name(&mut record[PREVIOUS_AT..BODY_SUM_AT], previous);
        record[BODY_SUM_AT..HEADER_SUM_AT].copy_from_slice(&body_sum.to_be_bytes());
        put_header_sum(record);
        record.len()
    }
}

fn put_header_sum(record: &mut [u8]) {
    let sum = XxHash3_64::oneshot(&record[..HEADER_SUM_AT]);
    record[HEADER_SUM_AT..HEADER_BYTES].copy_from_slice(&sum.to_be_bytes());
}

/// Gives a whole record another neighbour, as it moves to another place.
pub(super) fn follow(record: &mut [u8], previous: Option<Name>) {
    put_name(&mut record[PREVIOUS_AT..BODY_SUM_AT], previous);
    let flags = flags(record) & !FOLLOWS_SYNC | COPIED;
    record[FLAGS_AT..NAME_AT].copy_from_slice(&flags.to_be_bytes());
    put_header_sum(record);
}

/// Has the first of some whole records say whether everything before it is synced.
pub(super) fn set_follows_sync(records: &mut [u8], synced: bool) {
    if records.len() >= HEADER_BYTES {
        let others = flags(records) & !FOLLOWS_SYNC;
        let flags = others | if synced { FOLLOWS_SYNC } else { 0 };
        records[FLAGS_AT..NAME_AT].copy_from_slice(&flags.to_be_bytes());
        put_header_sum(records);
    }
}

fn flags(record: &[u8]) -> u16 {
    u16::from_be_bytes([record[FLAGS_AT], record[FLAGS_AT + 1]])
}

fn put_name(at: &mut [u8], name: Option<Name>) {
    at.fill(0);
    if let Some(name) = name {
        at[0] = name.key.role.code();
        at[1..17].copy_from_slice(name.key.unit.0.as_bytes());
        at[17..25].copy_from_slice(&name.life.to_be_bytes());
        at[25..].copy_from_slice(&name.sequence.to_be_bytes());
    }
}

fn take_name(at: &[u8]) -> Option<Name> {
    let mut reader = Reader { bytes: at, at: 0 };
    let role = Role::from_code(reader.u8()?)?;
    let unit: [u8; 16] = reader.array()?;
    Some(Name {
        key: Key {
            role,
            unit: UnitId(Uuid::from_bytes(unit)),
        },
        life: reader.u64()?,
        sequence: reader.u32()?,
    })
}

/// Reads the header at the start of `bytes`, if one is there whose checksum is right.
pub(super) fn header(bytes: &[u8], mark: u64) -> Option<Header> {
    let header = bytes.get(..HEADER_BYTES)?;
    let mut reader = Reader { bytes: header, at: 0 };
    let found_mark = reader.u64()?;
    let length = reader.u32()? as usize;
    let flags = reader.u16()?;
    let sum = u64::from_be_bytes(header[HEADER_SUM_AT..].try_into().ok()?);
    let sound = found_mark == mark
        && (HEADER_BYTES..=MAX_RECORD_BYTES).contains(&length)
        && sum == XxHash3_64::oneshot(&header[..HEADER_SUM_AT]);
    if !sound {
        return None;
    }
    Some(Header {
        length,
        name: take_name(&header[NAME_AT..PREVIOUS_AT])?,
        previous: take_name(&header[PREVIOUS_AT..BODY_SUM_AT]),
        streams_synced: flags & STREAMS_SYNCED != 0,
        copied: flags & COPIED != 0,
        follows_sync: flags & FOLLOWS_SYNC != 0,
        body_sum: u64::from_be_bytes(header[BODY_SUM_AT..HEADER_SUM_AT].try_into().ok()?),
    })
}

/// What a header that is damaged says of its record: worth a comparison with what else is known, no more. Its role may be
/// anybody's.
pub(super) fn hint(bytes: &[u8]) -> Option<Name> {
    let mut name: [u8; NAME_BYTES] = bytes.get(NAME_AT..PREVIOUS_AT)?.try_into().ok()?;
    if Role::from_code(name[0]).is_none() {
        name[0] = Role::Origin.code();
    }
    take_name(&name).filter(|name| name.life > 0)
}

/// Whether bytes that begin with a damaged header are one record: what is left of the header fits to all of them.
pub(super) fn is_one(bytes: &[u8]) -> bool {
    let Some(header) = bytes.get(..HEADER_BYTES) else {
        return false;
    };
    let length = header[LENGTH_AT..FLAGS_AT] == (bytes.len() as u32).to_be_bytes();
    let body_sum = XxHash3_64::oneshot(&bytes[HEADER_BYTES..]).to_be_bytes();
    length || header[BODY_SUM_AT..HEADER_SUM_AT] == body_sum
}

/// Where a record with a damaged header ends that has nothing but blank bytes from `blank` on: there or little behind it, if it is whole
/// there; else where it says, if that can be; else not before its header does.
pub(super) fn end_before_blank(bytes: &[u8], blank: usize) -> usize {
    let most = bytes.len().min(blank + OWN_BLANK_BYTES);
    if let Some(whole) = (blank..=most).find(|end| is_one(&bytes[..*end])) {
        return whole;
    }
    let said = bytes
        .get(LENGTH_AT..FLAGS_AT)
        .and_then(|said| said.try_into().ok());
    let said = said.map_or(0, |said| u32::from_be_bytes(said) as usize);
    match (blank..=bytes.len()).contains(&said) {
        true => said,
        false => bytes.len().min(blank.max(HEADER_BYTES)),
    }
}

/// Reads the parts of a whole record, if its checksum is right.
pub(super) fn parts(record: &[u8], header: &Header) -> Option<Vec<Part>> {
    let body = record.get(HEADER_BYTES..header.length)?;
    if XxHash3_64::oneshot(body) != header.body_sum {
        return None;
    }
    let mut reader = Reader {
        bytes: record,
        at: HEADER_BYTES,
    };
    let mut parts = Vec::new();
    while reader.at < record.len() {
        parts.push(reader.part()?);
    }
    Some(parts)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn part(&mut self) -> Option<Part> {
        match self.u8()? {
            RECORD => Some(Part::Record(self.counted()?)),
            INLINE => Some(Part::Inline {
                stream: Stream::from_code(self.u8()?)?,
                offset: self.u64()?,
                bytes: self.counted()?,
            }),
            EXTENT => {
                let stream = Stream::from_code(self.u8()?)?;
                let (base, end) = (self.u64()?, self.u64()?);
                (base <= end).then_some(Part::Extent { stream, base, end })
            }
            REMOVED => Some(Part::Removed),
            DAMAGE => Some(Part::Damage(self.counted()?)),
            DOUBT => Some(Part::Doubt(self.counted()?)),
            _ => None,
        }
    }

    fn counted(&mut self) -> Option<Range<usize>> {
        let length = self.u32()? as usize;
        let range = self.at..self.at.checked_add(length)?;
        self.bytes.get(range.clone())?;
        self.at = range.end;
        Some(range)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let found = self.bytes.get(self.at..self.at.checked_add(N)?)?;
        self.at += N;
        found.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }
}
