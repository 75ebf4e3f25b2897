//! A node's disk: one log of all its units, of which a part is written and a part of that is synced.

use bytes::Bytes;

/// One append of one unit; atomic.
pub(crate) struct LogEntry {
    pub(crate) unit: usize,
    pub(crate) records: Vec<Bytes>,
    pub(crate) data: Bytes,
    /// All that was before of this unit is gone.
    pub(crate) removes: bool,
    /// Named in the answer.
    pub(crate) number: u64,
    pub(crate) sync: bool,
}

/// What has come of an append.
pub(crate) struct Told {
    pub(crate) number: u64,
    pub(crate) unit: usize,
    /// It is written.
    pub(crate) good: bool,
    /// It has to be synced.
    pub(crate) sync: bool,
    /// It has responses.
    pub(crate) data: bool,
}

/// How a node stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crash {
    /// What is written survives.
    Kill,
    /// What is synced survives, and perhaps some of what is written after it.
    Power,
    /// The last record that is not synced is gone.
    Torn,
}

/// How much of a log counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Written,
    Synced,
}

#[derive(Default)]
pub(crate) struct Log {
    entries: Vec<LogEntry>,
    written: usize,
    synced: usize,
}

impl Log {
    pub(crate) fn append(&mut self, entry: LogEntry) {
        self.entries.push(entry);
    }

    /// Writes what waits, but for what `fails`. Answers with all of it.
    pub(crate) fn write(&mut self, mut fails: impl FnMut() -> bool) -> Vec<Told> {
        let mut told = Vec::new();
        for entry in self.entries.split_off(self.written) {
            let good = !fails();
            told.push(Told {
                number: entry.number,
                unit: entry.unit,
                good,
                sync: entry.sync,
                data: !entry.data.is_empty(),
            });
            if good {
                self.entries.push(entry);
            }
        }
        self.written = self.entries.len();
        told
    }

    pub(crate) fn length(&self) -> usize {
        self.written
    }

    /// Syncs what is written, up to `length`.
    pub(crate) fn sync(&mut self, length: usize) {
        self.synced = self.synced.max(length.min(self.written));
    }

    pub(crate) fn is_synced(&self, length: usize) -> bool {
        self.synced >= length.min(self.entries.len())
    }

    pub(crate) fn crash(&mut self, crash: Crash, survives: impl FnOnce(usize) -> usize) {
        let unsynced = self.written - self.synced;
        let kept = match crash {
            Crash::Kill => unsynced,
            Crash::Power => survives(unsynced + 1),
            Crash::Torn => unsynced.saturating_sub(1),
        };
        self.entries.truncate(self.synced + kept);
        self.written = self.entries.len();
        self.synced = self.written;
    }

    fn of(&self, unit: usize, level: Level) -> impl Iterator<Item = &LogEntry> {
        let length = match level {
            Level::Written => self.written,
            Level::Synced => self.synced,
        };
        let mine = move |entry: &&LogEntry| entry.unit == unit;
        let entries = &self.entries[..length];
        let start = entries
            .iter()
            .rposition(|entry| entry.unit == unit && entry.removes)
            .map_or(0, |at| at + 1);
        entries[start..].iter().filter(mine)
    }

    pub(crate) fn records(&self, unit: usize, level: Level) -> impl Iterator<Item = &Bytes> {
        self.of(unit, level).flat_map(|entry| &entry.records)
    }

    /// The stream of response frames.
    pub(crate) fn data(&self, unit: usize, level: Level) -> Vec<u8> {
        self.of(unit, level)
            .flat_map(|entry| entry.data.to_vec())
            .collect()
    }
}
