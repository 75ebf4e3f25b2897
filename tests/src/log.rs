//! What a process writes to stderr: kept line by line, and waited on.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use serde_json::Value;

use crate::LIMIT;

/// Lines of a process's stderr, in order.
#[derive(Clone, Debug, Default)]
pub struct Log(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    text: Mutex<Text>,
    grown: Condvar,
}

#[derive(Debug, Default)]
struct Text {
    lines: Vec<String>,
    ended: bool,
}

impl Log {
    /// Collects `source` in a thread until it ends.
    pub(crate) fn collect(source: impl Read + Send + 'static) -> Self {
        let log = Self::default();
        let shared = log.0.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(source).split(b'\n') {
                let Ok(line) = line else { break };
                shared.change(|text| text.lines.push(String::from_utf8_lossy(&line).into_owned()));
            }
            shared.change(|text| text.ended = true);
        });
        log
    }

    /// All lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().lines.clone()
    }

    /// How many lines hold `text`.
    pub fn count(&self, text: &str) -> usize {
        self.0
            .lock()
            .lines
            .iter()
            .filter(|line| line.contains(text))
            .count()
    }

    /// Waits for a line that `wanted` accepts and gives what it makes of it; `None` once the source has ended
    /// without one.
    ///
    /// # Panics
    /// When neither happens within [`LIMIT`].
    pub fn wait_for<T>(&self, what: &str, mut wanted: impl FnMut(&str) -> Option<T>) -> Option<T> {
        let started = Instant::now();
        let mut seen = 0;
        let mut text = self.0.lock();
        loop {
            while let Some(line) = text.lines.get(seen) {
                seen += 1;
                if let Some(found) = wanted(line) {
                    return Some(found);
                }
            }
            if text.ended {
                return None;
            }
            let left = LIMIT.saturating_sub(started.elapsed());
            assert!(!left.is_zero(), "no line in the log says: {what}");
            (text, _) = self
                .0
                .grown
                .wait_timeout(text, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for an event of a node's JSON log that has this message, and gives it.
    ///
    /// # Panics
    /// When the process ends without one, or none comes within [`LIMIT`].
    pub fn wait_for_event(&self, message: &str) -> Value {
        self.wait_for(message, |line| event(line, message))
            .unwrap_or_else(|| {
                panic!(
                    "the process ended and never logged {message:?}:\n{}",
                    self.lines().join("\n")
                )
            })
    }

    /// Waits until the source has ended.
    pub(crate) fn wait_for_end(&self) {
        self.wait_for::<()>("the end of the process", |_| None);
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Text> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Text)) {
        change(&mut self.lock());
        self.grown.notify_all();
    }
}

fn event(line: &str, message: &str) -> Option<Value> {
    let event: Value = serde_json::from_str(line).ok()?;
    (event["message"] == message).then_some(event)
}
