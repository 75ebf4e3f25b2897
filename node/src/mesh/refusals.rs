//! Logs each refusal once: a peer that tries again with the same fault is counted, not logged.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// For how long a refusal is not logged again.
const SILENCE: Duration = Duration::from_secs(60);
/// How many refusals are remembered; beyond that all are forgotten, and logged anew.
const MAX_REMEMBERED: usize = 1024;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    logged: Mutex<HashMap<String, Instant>>,
}

impl Refusals {
    /// Whether `reason` of `peer` is to be logged.
    pub(crate) fn is_news(&self, peer: &str, reason: &str, now: Instant) -> bool {
        let host = peer
            .parse::<SocketAddr>()
            .map_or_else(|_| peer.to_owned(), |a| a.ip().to_string());
        let mut logged = self.logged.lock();
        if logged.len() >= MAX_REMEMBERED {
            logged.clear();
        }
        let key = format!("{host} {reason}");
        match logged.get(&key) {
            Some(at) if now.saturating_duration_since(*at) < SILENCE => false,
            _ => {
                logged.insert(key, now);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_news_once_a_minute_and_host() {
        let (refusals, now) = (Refusals::default(), Instant::now());
        assert!(refusals.is_news("10.0.0.1:5", "expired", now));
        assert!(!refusals.is_news("10.0.0.1:6", "expired", now));
        assert!(refusals.is_news("10.0.0.2:5", "expired", now));
        assert!(refusals.is_news("10.0.0.1:5", "expired", now + SILENCE));
    }

    #[test]
    fn remembered_refusals_are_bounded() {
        let (refusals, now) = (Refusals::default(), Instant::now());
        for peer in 0..=MAX_REMEMBERED {
            refusals.is_news(&format!("peer {peer}"), "x", now);
        }
        assert!(refusals.logged.lock().len() <= MAX_REMEMBERED);
    }
}
