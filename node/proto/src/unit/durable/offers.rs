//! When to try again.

/// Waiting times that double with each failure, up to a limit; the caller adds the jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    least_ms: u64,
    most_ms: u64,
    next_ms: u64,
}

impl Backoff {
    /// From `least_ms`, doubling up to `most_ms`.
    pub fn new(least_ms: u64, most_ms: u64) -> Self {
        Self {
            least_ms,
            most_ms,
            next_ms: least_ms,
        }
    }

    /// How long to wait after a further failure, in milliseconds.
    pub fn fail(&mut self) -> u64 {
        let wait = self.next_ms;
        self.next_ms = wait.saturating_mul(2).min(self.most_ms);
        wait
    }

    /// Something has gone well.
    pub fn reset(&mut self) {
        self.next_ms = self.least_ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_limit_and_begin_anew() {
        let mut backoff = Backoff::new(100, 500);
        assert_eq!([(); 5].map(|()| backoff.fail()), [100, 200, 400, 500, 500]);
        backoff.reset();
        assert_eq!(backoff.fail(), 100);
    }
}
