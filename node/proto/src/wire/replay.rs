//! The replay window of a link in one direction: which sequence numbers of forward frames have come.
//!
//! The socket asks it for each frame whose tag is right, and for no other: a forged number must not move the window. A
//! ring of words in the manner of RFC 6479: a number costs one word, and moving on clears words without shifting any.

/// Words of the ring, a power of two.
const WORDS: u64 = 128;
/// Numbers of a word.
const WORD_BITS: u64 = u64::BITS as u64;

/// How far a frame may be behind the newest one and still be taken in. As wide as the largest implementations have it:
/// frames that wait while the socket is blocked leave with the numbers that they were given before.
pub const REPLAY_WINDOW: u64 = (WORDS - 1) * WORD_BITS;

/// See the module.
#[derive(Debug)]
pub struct ReplayWindow {
    /// A bit for each number of the newest [`WORDS`] words.
    seen: Box<[u64; WORDS as usize]>,
    /// The newest number that has come.
    newest: Option<u64>,
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self {
            seen: Box::new([0; WORDS as usize]),
            newest: None,
        }
    }
}

impl ReplayWindow {
    /// Takes in a number of a frame whose tag was right; false if it came before, or is more than [`REPLAY_WINDOW`] behind
    /// the newest one and may have.
    pub fn admit(&mut self, sequence: u64) -> bool {
        let word = sequence / WORD_BITS;
        if let Some(newest) = self.newest {
            if sequence > newest {
                self.move_on(newest / WORD_BITS, word);
            } else if newest - sequence > REPLAY_WINDOW {
                return false;
            }
        }
        let seen = &mut self.seen[Self::place(word)];
        let bit = 1 << (sequence % WORD_BITS);
        if *seen & bit != 0 {
            return false;
        }
        *seen |= bit;
        self.newest = self.newest.max(Some(sequence));
        true
    }

    /// Empties the words after `from` up to `to`: at most all of them.
    fn move_on(&mut self, from: u64, to: u64) {
        for step in 1..=(to - from).min(WORDS) {
            self.seen[Self::place(from + step)] = 0;
        }
    }

    fn place(word: u64) -> usize {
        (word % WORDS) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::super::forward::SEQUENCE_LIMIT;
    use super::*;

    #[test]
    fn numbers_in_order_come_once_each() {
        let mut window = ReplayWindow::default();
        for sequence in 0..3 * REPLAY_WINDOW {
            assert!(window.admit(sequence), "{sequence}");
            assert!(!window.admit(sequence), "{sequence}");
        }
    }

    #[test]
    fn numbers_out_of_order_come_once_each() {
        let mut window = ReplayWindow::default();
        let swapped = |sequence: u64| sequence ^ 1;
        assert!((0..1000).map(swapped).all(|sequence| window.admit(sequence)));
        assert!(!(0..1000).any(|sequence| window.admit(sequence)));
    }

    #[test]
    fn first_number_may_be_any() {
        for first in [0, 1, 63, 64, REPLAY_WINDOW, SEQUENCE_LIMIT - 1] {
            let mut window = ReplayWindow::default();
            assert!(window.admit(first));
            assert!(!window.admit(first));
            assert!(first == 0 || window.admit(first - 1));
        }
    }

    #[test]
    fn a_number_at_the_window_s_edge_is_taken_in_and_one_behind_it_is_not() {
        for newest in REPLAY_WINDOW + 1..REPLAY_WINDOW + 2 * WORD_BITS {
            let mut window = ReplayWindow::default();
            assert!(window.admit(newest));
            assert!(!window.admit(newest - REPLAY_WINDOW - 1), "newest {newest}");
            assert!(window.admit(newest - REPLAY_WINDOW), "newest {newest}");
            assert!(!window.admit(newest - REPLAY_WINDOW), "newest {newest}");
        }
    }

    #[test]
    fn a_jump_forgets_what_is_too_old_and_nothing_else() {
        for jump in [1, 63, 64, 65, REPLAY_WINDOW, REPLAY_WINDOW + 1, 1 << 30] {
            let mut window = ReplayWindow::default();
            assert!(window.admit(1000));
            assert!(window.admit(1000 + jump));
            assert!(!window.admit(1000), "jump {jump}");
            assert!(!window.admit(1000 + jump), "jump {jump}");
            assert!(window.admit(999 + jump) == (jump != 1), "jump {jump}");
        }
    }

    #[test]
    fn the_last_number_is_like_any_other() {
        let mut window = ReplayWindow::default();
        assert!(window.admit(0));
        for sequence in SEQUENCE_LIMIT - 3..SEQUENCE_LIMIT {
            assert!(window.admit(sequence));
            assert!(!window.admit(sequence));
        }
        assert!(!window.admit(0));
    }

    proptest! {
        /// Against a set of all that came.
        #[test]
        fn window_agrees_with_a_set(moves in proptest::collection::vec((0..4_u8, 0..3 * REPLAY_WINDOW), 1..400)) {
            let mut window = ReplayWindow::default();
            let mut came = BTreeSet::<u64>::new();
            let mut at = 0_u64;
            for (kind, by) in moves {
                let sequence = match kind {
                    0 => at + by,
                    1 => at + by % 100,
                    2 => at.saturating_sub(by % 100),
                    _ => at.saturating_sub(by),
                };
                let newest = came.last().copied().unwrap_or(0);
                let too_old = newest.saturating_sub(sequence) > REPLAY_WINDOW;
                prop_assert_eq!(window.admit(sequence), !too_old && came.insert(sequence));
                at = at.max(sequence);
            }
        }
    }
}
