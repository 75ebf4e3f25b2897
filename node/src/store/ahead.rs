//! Blank bytes ahead of the log's end. What takes their place leaves the file as long as it is: a sync of it has nothing to write
//! but itself, where one of a file that has grown has to write its length, too, and waits for the disk once more.
//!
//! They are never needed: where they can't be had, the file grows.

use std::io;

use super::blank::Blank;
use super::files::{self, OpenFile};

/// How many there are at least, and at most, once there are any: as many as there are bytes before them.
const LEAST_BYTES: u64 = 64 << 10;
const MOST_BYTES: u64 = 512 << 10;

/// What a file has ahead of the bytes that count.
pub(super) struct Ahead {
    /// Where it ends, if not before.
    end: u64,
}

impl Ahead {
    /// Nothing yet in a file of this length.
    pub(super) fn of(length: u64) -> Self {
        Self { end: length }
    }

    /// Writes more of it once what counts, which ends at `length` now, has used it up; none behind `limit`.
    pub(super) fn extend(
        &mut self,
        file: &dyn OpenFile,
        length: u64,
        limit: u64,
        blank: Blank,
    ) -> io::Result<()> {
        if length < self.end {
            return Ok(());
        }
        let wanted = limit.min(length + length.clamp(LEAST_BYTES, MOST_BYTES));
        self.end = length;
        while self.end < wanted {
            let bytes = blank.bytes(self.end, LEAST_BYTES.min(wanted - self.end) as usize);
            let written = files::write_all(file, self.end, &bytes);
            self.end += bytes.len() as u64;
            if written.is_err() {
                // Others may need the room. What can't be given back is there.
                if file.truncate(length).is_ok() {
                    self.end = length;
                }
                return written;
            }
        }
        Ok(())
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

    const MARK: u64 = 0x1234_5678_9abc_def0;

    #[test]
    fn there_is_as_much_ahead_as_there_is_within_bounds_and_under_the_limit() {
        let disk = Faulty::new();
        let file = disk.create("f").unwrap();
        let (mut ahead, blank) = (Ahead::of(10), Blank::of(MARK));
        for (length, limit, end) in [
            (10, u64::MAX, 10 + LEAST_BYTES),
            (9 + LEAST_BYTES, u64::MAX, 10 + LEAST_BYTES),
            (200 << 10, u64::MAX, 400 << 10),
            (4 << 20, u64::MAX, (4 << 20) + MOST_BYTES),
            (5 << 20, (5 << 20) + 7, (5 << 20) + 7),
            (6 << 20, 5 << 20, 6 << 20),
        ] {
            ahead.extend(&*file, length, limit, blank).unwrap();
            assert_eq!(ahead.end, end, "{length} of {limit}");
            assert_eq!(ahead.is_there(length), end > length);
        }
        let content = disk.content("f");
        assert!(blank.is_all(10, &content[10..][..LEAST_BYTES as usize]));
        assert!(blank.is_all(4 << 20, &content[4 << 20..][..MOST_BYTES as usize]));
    }

    #[test]
    fn a_disk_without_room_for_it_has_its_room_back() {
        let disk = Faulty::new();
        let file = disk.create("f").unwrap();
        files::write_all(&*file, 0, b"counts").unwrap();
        disk.set_budget(40_000);
        let mut ahead = Ahead::of(6);
        assert!(ahead.extend(&*file, 6, u64::MAX, Blank::of(MARK)).is_err());
        assert!(!ahead.is_there(6));
        assert_eq!(disk.free_bytes().unwrap(), 40_000);
        assert_eq!(disk.content("f"), b"counts");
    }

    #[test]
    fn what_can_not_be_cut_off_again_is_blank_and_known() {
        let disk = Faulty::new();
        let file = disk.create("f").unwrap();
        disk.fault(Fault::FailAny { nth: 1, times: 9 });
        let (mut ahead, blank) = (Ahead::of(0), Blank::of(MARK));
        assert!(ahead.extend(&*file, 0, u64::MAX, blank).is_err());
        assert_eq!(disk.struck().borrow().last(), Some(&Op::Truncate));
        assert!(ahead.is_there(0));
        assert!(blank.is_all(0, &disk.content("f")));
    }
}
