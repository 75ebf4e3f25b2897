//! Counts and digest of a unit's responses. Both ends keep one; the EOF carries the executor's, so that the
//! submitter's can be compared with it.

use std::fmt;
use std::hash::Hasher as _;

use twox_hash::xxhash3_64::Hasher;

use crate::wire::durable::Position;
use crate::wire::unit::EMPTY_DIGEST;

/// Running counts and XXH3-64 of the response bytes, in order.
#[derive(Clone, Default)]
pub struct ResponseTally {
    responses: u64,
    open: bool,
    bytes: u64,
    /// Of the places where responses ended.
    cuts: u64,
    hasher: Option<Box<Hasher>>,
}

/// An odd number without a pattern: the fraction of the golden ratio.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

impl ResponseTally {
    /// Nothing counted.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is before `position` was counted elsewhere; the digest is that of what is counted from here on.
    pub fn after(position: Position) -> Self {
        Self {
            responses: position.responses,
            bytes: position.bytes,
            ..Self::default()
        }
    }

    /// Counts the next piece and answers with the serial of its response; `last` ends that response.
    pub fn add(&mut self, data: &[u8], last: bool) -> u64 {
        self.responses = self.next_serial();
        self.open = !last;
        self.bytes = self.bytes.saturating_add(data.len() as u64);
        if !data.is_empty() {
            self.hasher.get_or_insert_default().write(data);
        }
        if last {
            self.cuts = (self.cuts ^ self.bytes).wrapping_mul(MIX).rotate_left(29);
        }
        self.responses
    }

    /// The serial that the next piece has.
    pub fn next_serial(&self) -> u64 {
        if self.open {
            self.responses
        } else {
            self.responses.saturating_add(1)
        }
    }

    /// Responses that have begun.
    pub fn responses(&self) -> u64 {
        self.responses
    }

    /// Bytes in these responses.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether the latest response lacks its last piece.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Differs, but for odds of about 1 in 2^64, where as many responses of as many bytes in all were cut at other places. It does not
    /// travel, and is kept nowhere.
    pub(crate) fn cuts(&self) -> u64 {
        self.cuts
    }

    /// XXH3-64 of all response bytes so far.
    pub fn digest(&self) -> u64 {
        self.hasher.as_ref().map_or(EMPTY_DIGEST, |h| h.finish())
    }
}

impl fmt::Debug for ResponseTally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseTally")
            .field("responses", &self.responses)
            .field("open", &self.open)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_of_nothing_is_the_constant() {
        assert_eq!(EMPTY_DIGEST, Hasher::oneshot(b""));
        assert_eq!(ResponseTally::new().digest(), EMPTY_DIGEST);
        let mut tally = ResponseTally::new();
        tally.add(b"", true);
        assert_eq!(tally.digest(), EMPTY_DIGEST);
    }

    #[test]
    fn digest_does_not_depend_on_the_cuts() {
        let data: Vec<u8> = (0..5000u32).map(|i| (i * 7) as u8).collect();
        for cut in [1, 63, 64, 255, 256, 257, 1400, 5000] {
            let mut tally = ResponseTally::new();
            data.chunks(cut).for_each(|piece| {
                tally.add(piece, true);
            });
            assert_eq!(tally.digest(), Hasher::oneshot(&data), "cut at {cut}");
            assert_eq!(tally.bytes(), 5000);
        }
    }

    #[test]
    fn pieces_up_to_the_last_share_a_serial() {
        let mut tally = ResponseTally::new();
        let serials = [(true), (false), (false), (true), (true)].map(|last| tally.add(b"x", last));
        assert_eq!(serials, [1, 2, 2, 2, 3]);
        assert_eq!((tally.responses(), tally.is_open()), (3, false));
    }
}
