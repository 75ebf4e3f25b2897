//! The files of the log: their names, and the head that each begins with.

use std::sync::Arc;

use twox_hash::XxHash3_64;

use super::files::OpenFile;

/// The folder of the log.
pub(super) const LOG: &str = "log";
const NEW: &str = ".new";
/// The shortest head, in bytes.
pub(super) const HEAD_BYTES: usize = 24;
const CUT_BYTES: usize = 8;

/// Number of a segment; rises from 1.
pub(super) type Number = u32;

/// A segment of the log, and what of it counts.
pub(super) struct Segment {
    pub(super) file: Arc<dyn OpenFile>,
    /// Bytes of it that count; behind them there may be what failed.
    pub(super) length: u32,
    /// Bytes of records of living keys.
    pub(super) live: u64,
    /// Removals that stand in it.
    pub(super) removals: u32,
    /// Places of records that don't count, because another one has their name.
    pub(super) void: Vec<u32>,
    /// Whether the file is longer than what counts, so that later heads have to say so.
    pub(super) cut: bool,
}

impl Segment {
    pub(super) fn new(file: Arc<dyn OpenFile>, length: u32) -> Self {
        Self {
            file,
            length,
            live: 0,
            removals: 0,
            void: Vec::new(),
            cut: false,
        }
    }
}

/// A segment's name, relative to the store's folder.
pub(super) fn path(number: Number) -> String {
    format!("{LOG}/{number:010}.log")
}

/// What a segment is called until it is complete.
pub(super) fn new_path(number: Number) -> String {
    format!("{}{NEW}", path(number))
}

/// Whether a file in the folder of the log is a segment that was not completed.
pub(super) fn is_new(name: &str) -> bool {
    name.strip_suffix(NEW).is_some_and(|name| number(name).is_some())
}

/// The number of the segment that has this name in the folder of the log.
pub(super) fn number(name: &str) -> Option<Number> {
    let digits = name.strip_suffix(".log")?;
    let number = digits.parse().ok()?;
    (path(number).strip_prefix(LOG)?.strip_prefix('/')? == name).then_some(number)
}

/// That of an earlier segment only so many bytes count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) number: Number,
    pub(super) length: u32,
}

/// Bytes of the head of segment `number`.
pub(super) fn encode_head(mark: u64, number: Number, cuts: &[Cut]) -> Vec<u8> {
    let mut head = Vec::with_capacity(HEAD_BYTES + cuts.len() * CUT_BYTES);
    head.extend(mark.to_be_bytes());
    head.extend(number.to_be_bytes());
    head.extend((cuts.len() as u32).to_be_bytes());
    for cut in cuts {
        head.extend(cut.number.to_be_bytes());
        head.extend(cut.length.to_be_bytes());
    }
    let sum = XxHash3_64::oneshot(&head);
    head.extend(sum.to_be_bytes());
    head
}

/// The mark in the head of segment `number`, if the head is sound: whose segment it is.
pub(super) fn head_mark(bytes: &[u8], number: Number) -> Option<u64> {
    let mark = u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?);
    decode_head(bytes, mark, number).map(|_| mark)
}

/// Reads the head of segment `number`: its length and its cuts, if it is sound.
pub(super) fn decode_head(bytes: &[u8], mark: u64, number: Number) -> Option<(usize, Vec<Cut>)> {
    let u32_at = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let u64_at = |at: usize| Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    if u64_at(0)? != mark || u32_at(8)? != number {
        return None;
    }
    let count = u32_at(12)? as usize;
    let sum_at = count.checked_mul(CUT_BYTES)?.checked_add(HEAD_BYTES - 8)?;
    if u64_at(sum_at)? != XxHash3_64::oneshot(bytes.get(..sum_at)?) {
        return None;
    }
    let mut cuts = Vec::with_capacity(count);
    for cut in 0..count {
        let at = HEAD_BYTES - 8 + cut * CUT_BYTES;
        cuts.push(Cut {
            number: u32_at(at)?,
            length: u32_at(at + 4)?,
        });
    }
    Some((sum_at + 8, cuts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_says_what_was_put_in_and_damage_is_noticed() {
        let cuts = [
            Cut {
                number: 3,
                length: 24,
            },
            Cut {
                number: 7,
                length: 90,
            },
        ];
        let head = encode_head(5, 9, &cuts);
        assert_eq!(decode_head(&head, 5, 9), Some((head.len(), cuts.to_vec())));
        assert_eq!(decode_head(&head, 5, 8), None);
        assert_eq!(head_mark(&head, 9), Some(5));
        assert_eq!(decode_head(&head, 6, 9), None);
        for at in 0..head.len() {
            let mut bad = head.clone();
            bad[at] ^= 0x40;
            assert_eq!(decode_head(&bad, 5, 9), None, "byte {at}");
            assert_eq!(decode_head(&head[..at], 5, 9), None, "cut at {at}");
        }
    }

    #[test]
    fn only_names_of_segments_are_segments() {
        assert_eq!(path(12), "log/0000000012.log");
        assert_eq!(number("0000000012.log"), Some(12));
        for other in [
            "12.log",
            "0000000012.tmp",
            "+000000012.log",
            "99999999999.log",
            "x",
        ] {
            assert_eq!(number(other), None, "{other}");
        }
    }
}
