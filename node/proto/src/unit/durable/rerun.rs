//! A second run of an idempotent unit: what it sends must begin with what is kept of the first.

use crate::unit::tally::ResponseTally;
use crate::wire::items::Piece;

/// Compares the beginning of another run with what was kept of the one before.
#[derive(Debug)]
pub(super) struct Rerun {
    seen: ResponseTally,
}

/// What a piece of the second run comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Compared {
    /// Nothing new in it.
    Known,
    /// The second run has caught up; this is what is new, if anything.
    CaughtUp(Option<Piece>),
    /// The runs differ.
    Differs,
}

impl Rerun {
    pub(super) fn new() -> Self {
        Self {
            seen: ResponseTally::new(),
        }
    }

    /// Takes the next piece. `kept` is what the first run has left.
    pub(super) fn compare(&mut self, piece: &Piece, kept: &ResponseTally) -> Compared {
        let missing = kept.bytes() - self.seen.bytes();
        let length = piece.data.len() as u64;
        let in_the_open_one = kept.is_open() && self.seen.next_serial() == kept.next_serial();
        let closes = piece.last && length == missing && in_the_open_one;
        if length <= missing && !closes {
            self.seen.add(&piece.data, piece.last);
            return match self.is_at(kept) {
                Some(true) => Compared::CaughtUp(None),
                Some(false) => Compared::Differs,
                None => Compared::Known,
            };
        }
        let new = piece.data.slice(missing as usize..);
        // A response may have been begun and nothing of it kept.
        if missing > 0 || (in_the_open_one && !self.seen.is_open()) {
            self.seen.add(&piece.data[..missing as usize], false);
        }
        match self.is_at(kept) {
            Some(true) => Compared::CaughtUp(Some(Piece {
                serial: piece.serial,
                data: new,
                last: piece.last,
            })),
            _ => Compared::Differs,
        }
    }

    /// The serial that the next piece has.
    pub(super) fn next_serial(&self) -> u64 {
        self.seen.next_serial()
    }

    /// What has been seen of the second run.
    pub(super) fn seen(&self) -> &ResponseTally {
        &self.seen
    }

    /// `None`: not there yet.
    fn is_at(&self, kept: &ResponseTally) -> Option<bool> {
        let place = |tally: &ResponseTally| (tally.next_serial() - 1, tally.bytes(), tally.is_open());
        let (seen, kept_at) = (place(&self.seen), place(kept));
        if seen == kept_at {
            return Some((self.seen.digest(), self.seen.cuts()) == (kept.digest(), kept.cuts()));
        }
        let beyond = seen.0 > kept_at.0 || seen.1 > kept_at.1;
        if beyond { Some(false) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn tally(pieces: &[(&str, bool)]) -> ResponseTally {
        let mut tally = ResponseTally::new();
        for (data, last) in pieces {
            tally.add(data.as_bytes(), *last);
        }
        tally
    }

    /// Runs `again` against what `kept` has; answers with what was new, or `None` if the runs differ.
    fn run(kept: &[(&str, bool)], again: &[(&str, bool)]) -> Option<Vec<(String, bool)>> {
        let kept = tally(kept);
        let mut rerun = Some(Rerun::new());
        if kept.bytes() == 0 && kept.responses() == 0 {
            rerun = None;
        }
        let mut new = Vec::new();
        for (data, last) in again {
            let piece = Piece {
                serial: 1,
                data: Bytes::copy_from_slice(data.as_bytes()),
                last: *last,
            };
            let fresh = match rerun.as_mut().map(|rerun| rerun.compare(&piece, &kept)) {
                None => Some(piece),
                Some(Compared::Known) => None,
                Some(Compared::CaughtUp(fresh)) => {
                    rerun = None;
                    fresh
                }
                Some(Compared::Differs) => return None,
            };
            new.extend(fresh.map(|p| (String::from_utf8(p.data.to_vec()).unwrap(), p.last)));
        }
        Some(new)
    }

    fn owned(pieces: &[(&str, bool)]) -> Option<Vec<(String, bool)>> {
        Some(pieces.iter().map(|(d, l)| ((*d).to_owned(), *l)).collect())
    }

    #[test]
    fn what_is_new_follows_what_was_kept() {
        let again = [("abc", true), ("", true), ("def", true)];
        assert_eq!(run(&[], &again), owned(&again));
        assert_eq!(run(&[("abc", true)], &again), owned(&again[1..]));
        assert_eq!(run(&[("abc", true), ("", true)], &again), owned(&again[2..]));
        assert_eq!(
            run(&[("ab", false)], &again),
            owned(&[("c", true), ("", true), ("def", true)])
        );
        assert_eq!(
            run(&[("abc", true), ("", true), ("d", false)], &again),
            owned(&[("ef", true)])
        );
    }

    #[test]
    fn a_response_that_was_kept_open_is_closed_by_the_second_run() {
        let again = [("abc", true), ("d", true)];
        assert_eq!(run(&[("abc", false)], &again), owned(&[("", true), ("d", true)]));
        assert_eq!(
            run(&[("abc", false)], &[("abc", false), ("", true)]),
            owned(&[("", true)])
        );
    }

    #[test]
    fn a_response_that_was_begun_without_a_byte_goes_on() {
        let again = [("ab", true), ("c", true)];
        assert_eq!(run(&[("", false)], &again), owned(&again));
        assert_eq!(run(&[("ab", true), ("", false)], &again), owned(&again[1..]));
        assert_eq!(run(&[("", false)], &[("", true)]), owned(&[("", true)]));
        assert_eq!(run(&[("", true), ("", false)], &again), None);
    }

    #[test]
    fn other_bytes_or_other_cuts_between_responses_differ() {
        assert_eq!(run(&[("abc", true)], &[("abX", true)]), None);
        assert_eq!(run(&[("abc", true)], &[("abcd", true)]), None);
        assert_eq!(run(&[("abc", true)], &[("ab", true), ("c", true)]), None);
        assert_eq!(
            run(&[("abc", true), ("", true)], &[("abc", true), ("d", true)]),
            None
        );
        assert_eq!(
            run(&[("", true), ("abc", false)], &[("a", true), ("bc", true)]),
            None
        );
        assert_eq!(
            run(
                &[("ab", true), ("c", true), ("d", false)],
                &[("a", true), ("bc", true), ("d", true)]
            ),
            None
        );
    }
}
