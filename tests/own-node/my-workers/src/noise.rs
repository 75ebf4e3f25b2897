//! Bytes that anybody can recompute from a unit's id: what `record:run` sends, and what tests expect.

use std::io::{self, Read};

use worker_api::Uuid;

/// The bytes of one response of a unit, as a reader: the same for the same unit and serial, unlike those of any other.
#[derive(Clone, Debug)]
pub struct Noise {
    seed: u64,
    next: u64,
    word: [u8; 8],
    /// Bytes of `word` that were given out.
    used: usize,
    left: u64,
}

impl Noise {
    /// The first `length` bytes for this unit and serial.
    pub fn new(unit: Uuid, serial: u64, length: u64) -> Self {
        let (high, low) = unit.as_u64_pair();
        Self {
            seed: mix(high ^ mix(low ^ mix(serial))),
            next: 0,
            word: [0; 8],
            used: 8,
            left: length,
        }
    }
}

impl Read for Noise {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = into.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let mut filled = 0;
        while filled < count {
            if self.used == self.word.len() {
                self.word = mix(self.seed.wrapping_add(self.next)).to_le_bytes();
                self.next += 1;
                self.used = 0;
            }
            let piece = (count - filled).min(self.word.len() - self.used);
            into[filled..filled + piece].copy_from_slice(&self.word[self.used..self.used + piece]);
            self.used += piece;
            filled += piece;
        }
        self.left -= count as u64;
        Ok(count)
    }
}

/// The mixing step of SplitMix64.
fn mix(word: u64) -> u64 {
    let mut z = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(unit: u128, serial: u64, length: u64) -> Vec<u8> {
        let mut read = Vec::new();
        Noise::new(Uuid::from_u128(unit), serial, length)
            .read_to_end(&mut read)
            .unwrap();
        read
    }

    #[test]
    fn the_same_response_has_the_same_bytes_and_no_other_has() {
        assert_eq!(bytes(1, 1, 100), bytes(1, 1, 100));
        assert_eq!(bytes(1, 1, 100)[..37], bytes(1, 1, 37));
        assert_ne!(bytes(1, 1, 100), bytes(1, 2, 100));
        assert_ne!(bytes(1, 1, 100), bytes(2, 1, 100));
        assert!(bytes(1, 1, 0).is_empty());
    }

    #[test]
    fn pieces_of_any_size_make_the_same_bytes() {
        let mut noise = Noise::new(Uuid::from_u128(7), 3, 64);
        let mut pieces = Vec::new();
        for length in [1, 2, 3, 5, 8, 13, 32] {
            let mut piece = vec![0; length];
            noise.read_exact(&mut piece).unwrap();
            pieces.extend(piece);
        }
        assert_eq!(pieces, bytes(7, 3, 64));
        assert_eq!(noise.read(&mut [0]).unwrap(), 0);
    }
}
