//! What was found to be damaged or doubtful, on its way into the records of the keys that it concerns. Until it is there nothing is tidied
//! up: what the log lost says so itself only as long as it stays where it is.

use std::collections::HashSet;

use super::error::StoreError;
use super::key::Key;
use super::queue::{Item, Work};
use super::writer::Writer;

/// Notes that are written in one go.
const MAX_NOTES: usize = 1024;

/// What a key's records are to say.
pub(super) struct Note {
    key: Key,
    /// The key's life that is meant: another one has lost nothing.
    life: u64,
    work: Work,
}

impl Writer {
    /// Takes note of damage and doubts, to be written by [`settle`](Self::settle).
    pub(super) fn owe_notes(&mut self, found: Vec<(Key, Work)>) {
        let index = self.shared.index.lock();
        let mut seen = HashSet::new();
        let first = found.into_iter().filter(|(key, _)| seen.insert(*key));
        self.notes.extend(first.filter_map(|(key, work)| {
            let life = index.keys.get(&key)?.life;
            Some(Note { key, life, work })
        }));
    }

    /// Writes down what was found: which units it concerns, and then which segments there are.
    pub(super) fn settle(&mut self) -> Result<(), StoreError> {
        self.write_notes()?;
        self.log.sync(&self.shared.index)?;
        if !self.log.is_owing() {
            self.log.inventory.settle();
            self.notes.clear();
        }
        self.log.list(&self.shared.index, None)
    }

    /// Whether there is something to write down.
    pub(super) fn is_unsettled(&self) -> bool {
        !self.notes.is_empty() || self.log.inventory.is_owing()
    }

    fn write_notes(&mut self) -> Result<(), StoreError> {
        let due: Vec<_> = {
            let index = self.shared.index.lock();
            let there = |note: &&Note| {
                index
                    .keys
                    .get(&note.key)
                    .is_some_and(|held| held.life == note.life)
            };
            let item = |note: &Note| (note.key, note.work.clone());
            self.notes.iter().filter(there).map(item).collect()
        };
        self.failed = None;
        let mut items = due.into_iter().map(|(key, work)| Item::internal(key, work));
        loop {
            let some: Vec<_> = items.by_ref().take(MAX_NOTES).collect();
            if some.is_empty() {
                return Ok(());
            }
            self.carry_out(some);
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
        }
    }
}
