//! What stands in a segment where nothing was written yet. It follows from the store's mark, so that nobody's bytes look like it, and
//! neither do those that a disk has lost.

const BYTES: usize = 8;

/// See the module. It repeats, counted from the segment's beginning.
#[derive(Clone, Copy)]
pub(super) struct Blank([u8; BYTES]);

impl Blank {
    /// That of the store with this mark.
    pub(super) fn of(mark: u64) -> Self {
        Self((!mark).to_be_bytes())
    }

    /// So much of it from the place `at` of a segment on.
    pub(super) fn bytes(self, at: u64, length: usize) -> Vec<u8> {
        let start = (at % BYTES as u64) as usize;
        let mut first = self;
        first.0.rotate_left(start);
        let mut bytes = first.0.repeat(length.div_ceil(BYTES));
        bytes.truncate(length);
        bytes
    }

    /// Whether that is all that stands in `bytes`, which begin at the place `at` of a segment.
    pub(super) fn is_all(self, at: usize, bytes: &[u8]) -> bool {
        let is_blank = |(at, byte): (usize, &u8)| *byte == self.0[at % BYTES];
        !bytes.is_empty() && (at..).zip(bytes).all(is_blank)
    }

    /// Where in `bytes`, which begin at the place `at` of a segment, it begins that stands at their end.
    pub(super) fn begins(self, at: usize, bytes: &[u8]) -> usize {
        let mut end = bytes.len();
        while end > 0 && bytes[end - 1] == self.0[(at + end - 1) % BYTES] {
            end -= 1;
        }
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_same_wherever_one_looks_from_and_nothing_else_is_it() {
        let blank = Blank::of(0x0102_0304_0506_0708);
        let whole = blank.bytes(0, 100);
        for from in 0..20 {
            assert_eq!(blank.bytes(from, 50), whole[from as usize..][..50]);
            assert!(blank.is_all(from as usize, &whole[from as usize..]));
            assert!(!blank.is_all(from as usize + 1, &whole[from as usize..]));
            assert!(!blank.is_all(from as usize, &[]));
        }
        let mut written = whole.clone();
        written[70] = 0;
        assert_eq!(blank.begins(0, &written), 71);
        assert_eq!(blank.begins(30, &written[30..]), 41);
        assert!(!blank.is_all(0, &[0; 100]));
        assert!(!blank.is_all(0, &0x0102_0304_0506_0708_u64.to_be_bytes()));
    }
}
