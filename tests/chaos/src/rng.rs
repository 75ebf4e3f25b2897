//! A small generator of random numbers: the same seed gives the same plan on every machine and with every version.

use std::ops::RangeInclusive;
use std::time::Duration;

/// SplitMix64.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    /// A generator of its own for each seed and purpose.
    pub(crate) fn new(seed: u64, purpose: u64) -> Self {
        let mut rng = Self(seed);
        let first = rng.next();
        Self(first ^ purpose.wrapping_mul(0xd6e8_feb8_6659_fd93))
    }

    /// Any number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number of the range.
    pub(crate) fn range(&mut self, range: RangeInclusive<u64>) -> u64 {
        range.start() + self.next() % (range.end() - range.start() + 1)
    }

    /// An index below `length`, which is not 0.
    pub(crate) fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.next() % length as u64).unwrap_or_default()
    }

    /// True in `percent` of a hundred cases.
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.range(1..=100) <= percent
    }

    /// A time of so many milliseconds.
    pub(crate) fn millis(&mut self, range: RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.range(range))
    }

    /// One of the choices, each as often as its weight says.
    pub(crate) fn weighted<T: Copy>(&mut self, choices: &[(u64, T)]) -> Option<T> {
        let total = choices.iter().map(|(weight, _)| weight).sum::<u64>();
        let mut left = self.range(1..=total.max(1));
        choices.iter().find_map(|(weight, choice)| {
            let chosen = left <= *weight;
            left = left.saturating_sub(*weight);
            chosen.then_some(*choice)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_in_their_range_and_weights_decide() {
        let mut rng = Rng::new(7, 0);
        let mut seen = [0; 3];
        for _ in 0..10_000 {
            assert!((3..=5).contains(&rng.range(3..=5)));
            assert!(rng.index(3) < 3);
            seen[rng.weighted(&[(90, 0), (10, 1), (0, 2)]).unwrap()] += 1;
        }
        assert!(seen[0] > 5 * seen[1] && seen[1] > 0 && seen[2] == 0, "{seen:?}");
    }

    #[test]
    fn purposes_of_one_seed_have_numbers_of_their_own() {
        assert_ne!(Rng::new(1, 0).next(), Rng::new(1, 1).next());
        assert_eq!(Rng::new(1, 1).next(), Rng::new(1, 1).next());
    }
}
