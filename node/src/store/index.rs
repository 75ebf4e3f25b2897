//! What the store knows of its files while it is open: for each key where its inline bytes stand and how much of which
//! segment is its own; for each segment how much of it is alive. No content, and no place of a single record.

use std::collections::{BTreeMap, HashMap};

use super::key::{Key, Stream};
use super::record::Name;
use super::segment::{Cut, Number, Segment};

/// Pieces of a stream that are kept within the log at most; the next one goes to a file.
pub(super) const MAX_PIECES: u16 = 32;

/// A piece of a stream within the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) segment: Number,
    pub(super) at: u32,
    pub(super) length: u16,
    pub(super) stream: u8,
}

/// How much of a segment is a key's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) segment: Number,
    pub(super) bytes: u32,
}

/// Where a stream stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tail {
    /// Bytes that count.
    pub(super) length: u64,
    /// From where on they are in the file; only if there is one.
    pub(super) base: u16,
    /// Pieces within the log.
    pub(super) pieces: u16,
    /// Whether it goes on in a file.
    pub(super) in_file: bool,
    /// Whether it takes no more, because its end is damaged or its file could not be synced.
    pub(super) closed: bool,
}

impl Tail {
    /// Bytes in its file.
    pub(super) fn file_bytes(&self) -> u64 {
        if self.in_file {
            self.length.saturating_sub(u64::from(self.base))
        } else {
            0
        }
    }
}

/// A key that is stored.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) life: u64,
    /// The sequence number of its next record.
    pub(super) next: u32,
    pub(super) tails: [Tail; 2],
    pub(super) shares: Vec<Share>,
    /// Pieces of both streams, each stream's in order.
    pub(super) pieces: Vec<Piece>,
}

impl Held {
    pub(super) fn new(life: u64) -> Self {
        Self {
            life,
            next: 1,
            tails: [Tail::default(); 2],
            shares: Vec::new(),
            pieces: Vec::new(),
        }
    }

    pub(super) fn add_share(&mut self, segment: Number, bytes: u32) {
        match self.shares.iter_mut().find(|share| share.segment == segment) {
            Some(share) => share.bytes += bytes,
            None => {
                self.shares.reserve_exact(1);
                self.shares.push(Share { segment, bytes });
            }
        }
    }

    /// Takes back at most `bytes` of a share, and answers with how many.
    fn take_share(&mut self, segment: Number, bytes: u32) -> u32 {
        let Some(at) = self.shares.iter().position(|share| share.segment == segment) else {
            return 0;
        };
        let taken = self.shares[at].bytes.min(bytes);
        self.shares[at].bytes -= taken;
        if self.shares[at].bytes == 0 {
            self.shares.swap_remove(at);
        }
        taken
    }

    pub(super) fn add_piece(&mut self, piece: Piece) {
        self.pieces.reserve_exact(1);
        self.pieces.push(piece);
    }
}

/// Keys and segments.
#[derive(Default)]
pub(super) struct Index {
    pub(super) keys: HashMap<Key, Box<Held>>,
    pub(super) segments: BTreeMap<Number, Segment>,
    /// Bytes in data files that count.
    pub(super) data_bytes: u64,
    /// Data files of living keys.
    pub(super) data_files: u64,
}

/// A record that has been written, as the index has to know it.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) name: Name,
    pub(super) length: u32,
    /// Places of pieces count from the record's start until it is applied.
    pub(super) pieces: Vec<Piece>,
    pub(super) tails: [Tail; 2],
    pub(super) removed: bool,
}

impl Index {
    /// Takes in a record that stands at `at` of `segment`. Answers with the key if it was removed.
    pub(super) fn apply(&mut self, change: Change, segment: Number, at: u32) -> Option<Box<Held>> {
        let key = change.name.key;
        if change.removed {
            let held = self.keys.remove(&key);
            if self.keys.len() < self.keys.capacity() / 4 {
                self.keys.shrink_to(self.keys.len() * 2);
            }
            self.let_go(held.as_deref());
            if let Some(segment) = self.segments.get_mut(&segment) {
                segment.removals += 1;
            }
            return held;
        }
        let held = self
            .keys
            .entry(key)
            .or_insert_with(|| Box::new(Held::new(change.name.life)));
        for (before, after) in held.tails.iter_mut().zip(change.tails) {
            self.data_files += u64::from(after.in_file && !before.in_file);
            self.data_bytes = self.data_bytes + after.file_bytes() - before.file_bytes();
            let closed = before.closed;
            *before = after;
            before.closed |= closed;
        }
        held.next = change.name.sequence + 1;
        held.add_share(segment, change.length);
        for mut piece in change.pieces {
            piece.segment = segment;
            piece.at += at;
            held.add_piece(piece);
        }
        if let Some(segment) = self.segments.get_mut(&segment) {
            segment.live += u64::from(change.length);
        }
        None
    }

    fn let_go(&mut self, held: Option<&Held>) {
        let Some(held) = held else { return };
        for share in &held.shares {
            if let Some(segment) = self.segments.get_mut(&share.segment) {
                segment.live = segment.live.saturating_sub(u64::from(share.bytes));
            }
        }
        for tail in &held.tails {
            self.data_files -= u64::from(tail.in_file);
            self.data_bytes -= tail.file_bytes();
        }
    }

    /// Whether the record `name` belongs to a key as it is.
    pub(super) fn is_live(&self, name: &Name) -> bool {
        self.keys
            .get(&name.key)
            .is_some_and(|held| held.life == name.life && name.sequence < held.next)
    }

    /// Notes that a record of a key has moved.
    pub(super) fn relocate(&mut self, name: &Name, length: u32, from: (Number, u32), to: (Number, u32)) {
        let Some(held) = self.keys.get_mut(&name.key) else {
            return;
        };
        for piece in &mut held.pieces {
            if piece.segment == from.0 && (from.1..from.1 + length).contains(&piece.at) {
                piece.segment = to.0;
                piece.at = piece.at - from.1 + to.1;
            }
        }
        let taken = held.take_share(from.0, length);
        held.add_share(to.0, length);
        if let Some(segment) = self.segments.get_mut(&from.0) {
            segment.live = segment.live.saturating_sub(u64::from(taken));
        }
        if let Some(segment) = self.segments.get_mut(&to.0) {
            segment.live += u64::from(length);
        }
    }

    /// Forgets what a key has in a segment that could not be read, and answers with the keys that lost something.
    pub(super) fn give_up(&mut self, number: Number) -> Vec<Key> {
        let mut hit = Vec::new();
        for (key, held) in &mut self.keys {
            if held.take_share(number, u32::MAX) == 0 {
                continue;
            }
            hit.push(*key);
            for stream in Stream::ALL {
                let code = stream.index() as u8;
                let lost = held
                    .pieces
                    .iter()
                    .position(|piece| piece.stream == code && piece.segment == number);
                let Some(lost) = lost else { continue };
                let before: u64 = held.pieces[..lost]
                    .iter()
                    .filter(|piece| piece.stream == code)
                    .map(|piece| u64::from(piece.length))
                    .sum();
                let mut at = 0;
                held.pieces.retain(|piece| {
                    at += 1;
                    piece.stream != code || at <= lost
                });
                let tail = &mut held.tails[stream.index()];
                self.data_bytes -= tail.file_bytes();
                self.data_files -= u64::from(tail.in_file);
                *tail = Tail {
                    length: before,
                    closed: true,
                    ..Tail::default()
                };
            }
        }
        if let Some(segment) = self.segments.get_mut(&number) {
            segment.live = 0;
        }
        hit
    }

    /// The segments of which not everything counts.
    pub(super) fn cuts(&self) -> Vec<Cut> {
        let cut = |(number, segment): (&Number, &Segment)| {
            segment.cut.then_some(Cut {
                number: *number,
                length: segment.length,
            })
        };
        self.segments.iter().filter_map(cut).collect()
    }

    /// Bytes of the log.
    pub(super) fn log_bytes(&self) -> u64 {
        self.segments
            .values()
            .map(|segment| u64::from(segment.length))
            .sum()
    }

    /// Bytes of the log and of data files.
    pub(super) fn used_bytes(&self) -> u64 {
        self.log_bytes().saturating_add(self.data_bytes)
    }

    /// Bytes of the log that belong to keys.
    pub(super) fn live_bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.live).sum()
    }

    /// What the keys take in memory, rounded as allocators round.
    #[cfg(test)]
    pub(super) fn heap_bytes(&self) -> usize {
        let block = |bytes: usize| {
            if bytes == 0 {
                0
            } else {
                (bytes + 8).next_multiple_of(16).max(32)
            }
        };
        let held = |held: &Held| {
            block(size_of::<Held>())
                + block(held.shares.capacity() * size_of::<Share>())
                + block(held.pieces.capacity() * size_of::<Piece>())
        };
        let slot = size_of::<(Key, Box<Held>)>() + 1;
        let buckets = (self.keys.capacity() * 8 / 7).next_power_of_two();
        buckets * slot + self.keys.values().map(|key| held(key)).sum::<usize>()
    }
}
