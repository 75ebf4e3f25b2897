//! What a store is allowed to use, and when it does its own work.

use std::time::Duration;

/// The sizes and times of a store. Bytes are counted as files have them, not as the disk rounds them.
#[derive(Clone, Debug)]
pub(crate) struct StoreSettings {
    /// Log and data files together, above which [`admit`](super::Store::admit) refuses new work.
    pub(crate) quota_bytes: u64,
    /// Free space on the disk, below which `admit` refuses new work: what work under way may still need.
    pub(crate) reserve_bytes: u64,
    /// Size at which a segment of the log is sealed, 1 KiB to 1 GiB.
    pub(crate) segment_bytes: u64,
    /// Garbage beyond as much as is alive, above which the oldest segment is compacted.
    pub(crate) garbage_bytes: u64,
    /// Longest stream that is kept within the log, at most 64 KiB - 1; a longer one goes on in a file.
    pub(crate) inline_bytes: u64,
    /// Bytes of [`append`](super::Store::append)s that may wait for the disk; further ones wait in their callers.
    pub(crate) queue_bytes: usize,
    /// Bytes that are written, and then synced, in one turn of the store's thread.
    pub(crate) batch_bytes: usize,
    /// How long an append that asked for no sync may stay without one.
    pub(crate) sync_after: Duration,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            quota_bytes: 64 << 30,
            reserve_bytes: 512 << 20,
            segment_bytes: 64 << 20,
            garbage_bytes: 64 << 20,
            inline_bytes: 32 << 10,
            queue_bytes: 32 << 20,
            batch_bytes: 8 << 20,
            sync_after: Duration::from_secs(1),
        }
    }
}

impl StoreSettings {
    /// For a store of `quota_bytes`: the smaller it is, the sooner its garbage goes, because that counts too.
    pub(crate) fn within(quota_bytes: u64, reserve_bytes: u64) -> Self {
        let default = Self::default();
        let share = quota_bytes / 8;
        Self {
            quota_bytes,
            reserve_bytes,
            segment_bytes: default.segment_bytes.min(share),
            garbage_bytes: default.garbage_bytes.min(share),
            ..default
        }
    }

    /// The same, with every value where the formats can hold it.
    pub(super) fn clamped(mut self) -> Self {
        self.segment_bytes = self.segment_bytes.clamp(1 << 10, 1 << 30);
        self.inline_bytes = self.inline_bytes.min(u64::from(u16::MAX));
        self.queue_bytes = self.queue_bytes.clamp(1, 1 << 30);
        self.batch_bytes = self.batch_bytes.clamp(1, 64 << 20);
        self
    }
}
