//! What a file of the disk in memory holds, and what of it would survive.

use rand::RngExt as _;
use rand::rngs::StdRng;

/// See the module.
#[derive(Clone, Default)]
pub(super) struct Content {
    /// What is read.
    pub(super) written: Vec<u8>,
    /// What survives.
    pub(super) synced: Vec<u8>,
    /// Bytes from here on were in a sync that failed, and are not synced by another one.
    pub(super) dropped: Option<usize>,
}

impl Content {
    /// What is on the disk as a whole.
    pub(super) fn all_synced(bytes: Vec<u8>) -> Self {
        Self {
            synced: bytes.clone(),
            written: bytes,
            dropped: None,
        }
    }

    /// What was synced, and of what was written since some sectors in its place and some of what follows it: a file grows with
    /// what it has.
    pub(super) fn torn(&self, chance: &mut StdRng) -> Vec<u8> {
        const SECTOR: usize = 512;
        let mut bytes = self.synced.clone();
        let grown = self.written.get(bytes.len()..).unwrap_or_default();
        let more = &grown[..chance.random_range(0..=grown.len())];
        let last = bytes.len() / SECTOR;
        for (at, (old, new)) in bytes
            .chunks_mut(SECTOR)
            .zip(self.written.chunks(SECTOR))
            .enumerate()
        {
            // What follows in a sector is there with what is before it.
            if chance.random() || (at == last && !more.is_empty()) {
                let length = old.len().min(new.len());
                old[..length].copy_from_slice(&new[..length]);
            }
        }
        bytes.extend_from_slice(more);
        bytes
    }
}
