//! Zeros ahead of the log's end. Bytes that take their place leave the file as long as it is: a sync of them has nothing to write
//! but them, where one of a file that has grown has to write its length, too, and waits for the disk once more.
//!
//! They are never needed: what can't be had of them is done without.

use super::files::{self, OpenFile};

/// How many there are at least, and at most, once there are any: as many as there are bytes before them.
const LEAST_BYTES: u64 = 64 << 10;
const MOST_BYTES: u64 = 512 << 10;
const ZEROS: &[u8] = &[0; LEAST_BYTES as usize];

/// What a file has ahead of the bytes that count.
pub(super) struct Ahead {
    /// Where it ends.
    end: u64,
    /// The disk has refused some.
    refused: bool,
}

impl Ahead {
    /// Nothing yet in a file of this length.
    pub(super) fn of(length: u64) -> Self {
        Self {
            end: length,
            refused: false,
        }
    }

    /// Writes more of it once what counts, which ends at `length` now, has used it up; none behind `limit`.
    pub(super) fn extend(&mut self, file: &dyn OpenFile, length: u64, limit: u64) {
        if length < self.end || self.refused {
            return;
        }
        let wanted = limit.min(length + length.clamp(LEAST_BYTES, MOST_BYTES));
        self.end = length;
        while self.end < wanted {
            let zeros = &ZEROS[..LEAST_BYTES.min(wanted - self.end) as usize];
            let written = files::write_all(file, self.end, zeros);
            self.end += zeros.len() as u64;
            if written.is_err() {
                self.refused = true;
                // Others may need the room. What can't be given back is there.
                if file.truncate(length).is_ok() {
                    self.end = length;
                }
                return;
            }
        }
    }

    /// Whether there is some ahead of `length`.
    pub(super) fn is_there(&self, length: u64) -> bool {
        self.end > length
    }
}

#[cfg(test)]
mod tests {
    use super::super::faulty::{Fault, Faulty, Op};
    use super::super::files::Files as _;
    use super::*;

    #[test]
    fn there_is_as_much_ahead_as_there_is_within_bounds_and_under_the_limit() {
        let disk = Faulty::new();
        let file = disk.create("f").unwrap();
        let mut ahead = Ahead::of(10);
        for (length, limit, end) in [
            (10, u64::MAX, 10 + LEAST_BYTES),
            (9 + LEAST_BYTES, u64::MAX, 10 + LEAST_BYTES),
            (200 << 10, u64::MAX, 400 << 10),
            (4 << 20, u64::MAX, (4 << 20) + MOST_BYTES),
            (5 << 20, (5 << 20) + 7, (5 << 20) + 7),
            (6 << 20, 5 << 20, 6 << 20),
        ] {
            ahead.extend(&*file, length, limit);
            assert_eq!(ahead.end, end, "{length} of {limit}");
            assert_eq!(ahead.is_there(length), end > length);
        }
        assert!(disk.content("f").iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_disk_without_room_for_it_is_not_asked_again_and_has_its_room_back() {
        let disk = Faulty::new();
        let file = disk.create("f").unwrap();
        files::write_all(&*file, 0, b"counts").unwrap();
        disk.set_budget(40_000);
        let mut ahead = Ahead::of(6);
        ahead.extend(&*file, 6, u64::MAX);
        assert!(!ahead.is_there(6));
        assert_eq!(disk.free_bytes().unwrap(), 40_000);
        assert_eq!(disk.content("f"), b"counts");
        disk.heal();
        ahead.extend(&*file, 6, u64::MAX);
        assert_eq!(disk.count(Op::Write), 0);
    }

    #[test]
    fn what_can_not_be_cut_off_again_is_zeros_and_known() {
        let disk = Faulty::new();
        let file = disk.create("f").unwrap();
        disk.fault(Fault::FailAny { nth: 1, times: 9 });
        let mut ahead = Ahead::of(0);
        ahead.extend(&*file, 0, u64::MAX);
        assert_eq!(disk.struck().borrow().last(), Some(&Op::Truncate));
        assert!(ahead.is_there(0));
        let content = disk.content("f");
        assert!(!content.is_empty() && content.iter().all(|byte| *byte == 0));
    }
}
