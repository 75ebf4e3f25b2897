//! Says in the log when forward frames are dropped: each reason once a minute, with how many there were and where the
//! latest came from.

use std::time::{Duration, Instant};

use tracing::warn;

use crate::link::{DROPS, ForwardCounters, plain_address};

/// For how long a reason is not logged again.
const SILENCE: Duration = Duration::from_secs(60);

/// What was logged of each reason, and when.
#[derive(Debug, Default)]
pub(super) struct DropLog {
    logged: [(u64, Option<Instant>); DROPS.len()],
}

impl DropLog {
    /// Logs what has been dropped since the last time.
    pub(super) fn report(&mut self, counters: &ForwardCounters, now: Instant) {
        for (reason, (logged, at)) in DROPS.into_iter().zip(&mut self.logged) {
            let dropped = counters.dropped(reason);
            let silent = at.is_some_and(|at| now.saturating_duration_since(at) < SILENCE);
            if dropped == *logged || silent {
                continue;
            }
            let peer = counters
                .offender(reason)
                .map_or_else(|| "-".to_owned(), |a| plain_address(a).to_string());
            warn!(
                peer,
                frames = dropped - *logged,
                reason = reason.as_str(),
                "dropped"
            );
            (*logged, *at) = (dropped, Some(now));
        }
    }
}
