//! Free space on the disk. To ask the system costs as much as to write a small record, so its answer is used for a moment, less what
//! has been let in since.

use std::io;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::files::Files;

/// How long an answer is used.
const FRESH: Duration = Duration::from_millis(100);
/// What is counted for work beside its payload.
const OVERHEAD_BYTES: u64 = 16 << 10;

/// See the module.
#[derive(Default)]
pub(super) struct FreeSpace(Mutex<Option<Answer>>);

struct Answer {
    at: Instant,
    /// What is left if all that was let in since is written.
    left_bytes: u64,
}

impl FreeSpace {
    /// Lets in work of `bytes` if that leaves `reserve` bytes free. An error of the second kind: so many bytes are free, and that is
    /// too little; that is never said without asking the system.
    pub(super) fn let_in(&self, files: &dyn Files, bytes: u64, reserve: u64) -> io::Result<Result<(), u64>> {
        let mut known = self.0.lock();
        let share = bytes.saturating_add(OVERHEAD_BYTES);
        if let Some(answer) = known.as_mut().filter(|answer| answer.at.elapsed() < FRESH)
            && let Some(left) = answer.left_bytes.checked_sub(share)
            && left >= reserve
        {
            answer.left_bytes = left;
            return Ok(Ok(()));
        }
        let free = files.free_bytes()?;
        *known = Some(Answer {
            at: Instant::now(),
            left_bytes: free.saturating_sub(share),
        });
        Ok(if free < reserve.saturating_add(bytes) {
            Err(free)
        } else {
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::faulty::Faulty;
    use super::*;

    #[test]
    fn what_was_let_in_counts_before_the_system_is_asked_again() {
        let (disk, space) = (Faulty::new(), FreeSpace::default());
        disk.set_budget(10 << 20);
        for _ in 0..9 {
            assert_eq!(space.let_in(&disk, 1 << 20, 0).unwrap(), Ok(()));
        }
        disk.set_budget(1 << 20);
        let mut let_in = 0;
        while space.let_in(&disk, 1 << 20, 1 << 20).unwrap().is_ok() {
            let_in += 1;
        }
        assert_eq!(let_in, 0, "less than it takes was left of the first answer");
    }

    #[test]
    fn a_refusal_tells_what_is_free_now() {
        let (disk, space) = (Faulty::new(), FreeSpace::default());
        disk.set_budget(100);
        assert_eq!(space.let_in(&disk, 90, 20).unwrap(), Err(100));
        disk.set_budget(110);
        assert_eq!(space.let_in(&disk, 90, 20).unwrap(), Ok(()));
    }
}
