//! The store's thread: the one that writes. It takes what waits, writes it in one go, syncs once for all who asked, and
//! answers; between batches it syncs what nobody asked for, and keeps house.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shared;
use super::batch::{self, Batch, Stage, Staged};
use super::compact::Compaction;
use super::data::{DataFiles, FileId};
use super::error::StoreError;
use super::key::Stream;
use super::log::Log;
use super::notes::Note;
use super::queue::{Item, Turn, Work};

/// How long housekeeping that failed is left alone.
const PAUSE: Duration = Duration::from_secs(1);

/// The thread's state.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) log: Log,
    pub(super) data: DataFiles,
    /// The life that was given last.
    pub(super) life: u64,
    pub(super) compaction: Compaction,
    /// What was found, and is not in its keys' records yet.
    pub(super) notes: Vec<Note>,
    /// Why the latest items that failed did.
    pub(super) failed: Option<StoreError>,
    /// When the first append was written that is not synced.
    unsynced: Option<Instant>,
    /// Until when housekeeping is left alone, because it failed.
    paused: Option<Instant>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, log: Log, data: DataFiles, life: u64) -> Self {
        Self {
            shared,
            log,
            data,
            life,
            compaction: Compaction::default(),
            notes: Vec::new(),
            failed: None,
            unsynced: None,
            paused: None,
        }
    }

    /// Works until the queue is closed and empty, then syncs.
    pub(super) fn run(mut self) {
        loop {
            let busy = self.keep_house();
            self.shared.publish_use(&self.shared.index.lock());
            let until = if busy {
                Some(Instant::now())
            } else {
                self.next_look()
            };
            match self.shared.queue.take(until, self.shared.settings.batch_bytes) {
                Turn::Items(items) => self.carry_out(items),
                Turn::Idle => {}
                Turn::Closing => break,
            }
            if self
                .unsynced
                .is_some_and(|since| since.elapsed() >= self.shared.settings.sync_after)
            {
                self.sync_all();
            }
            self.count_syncs();
        }
        if let Err(error) = self.make_ready_if_owing() {
            tracing::error!(%error, "the store closes with records that are not synced");
        }
        self.sync_all();
        if let Err(error) = self.log.trim(&self.shared.index) {
            tracing::warn!(%error, "the store closes with blank bytes behind its end");
        }
        if let Err(error) = self.log.list(&self.shared.index, None) {
            tracing::warn!(%error, "the store closes without its list of segments");
        }
        self.count_syncs();
    }

    fn next_look(&self) -> Option<Instant> {
        let sync = self.unsynced.map(|since| since + self.shared.settings.sync_after);
        [sync, self.paused].into_iter().flatten().min()
    }

    fn count_syncs(&mut self) {
        let syncs = std::mem::take(&mut self.log.syncs) + std::mem::take(&mut self.data.syncs);
        self.shared.counts.lock().syncs += syncs;
    }

    pub(super) fn carry_out(&mut self, items: Vec<Item>) {
        if let Err(error) = self.make_ready() {
            return self.fail(items, &error);
        }
        let mut batch = Batch::behind(self.log.previous, items.len());
        self.stage(&mut batch, items);
        self.report_unsynced();
        let in_doubt = self.data.take_in_doubt();
        self.write_out(batch);
        // Again, now that the index knows the streams that began in this batch.
        for id in in_doubt {
            batch::close_stream(&self.shared.index, id);
        }
    }

    fn write_out(&mut self, mut batch: Batch) {
        let Some(last) = batch.staged.last() else { return };
        let last = last.change.name;
        let mut written = self.log.write(&self.shared.index, &mut batch.bytes, last);
        while matches!(&written, Err(error) if error.is_no_descriptor()) && self.data.give_back() {
            written = self.log.write(&self.shared.index, &mut batch.bytes, last);
        }
        let (segment, at) = match written {
            Ok(place) => place,
            Err(error) => {
                batch::undo_all(&mut self.data, &self.shared.index, &batch.written);
                self.compaction.press(&error);
                return self.fail(
                    batch.staged.into_iter().map(|staged| staged.item).collect(),
                    &error,
                );
            }
        };
        self.unsynced.get_or_insert_with(Instant::now);
        let (waiting, done): (Vec<_>, Vec<_>) = batch.staged.into_iter().partition(|staged| staged.waits);
        self.apply(done, segment, at);
        if waiting.is_empty() {
            return;
        }
        match self.log.sync(&self.shared.index) {
            Ok(()) => self.apply(waiting, segment, at),
            Err(error) => self.fail(waiting.into_iter().map(|staged| staged.item).collect(), &error),
        }
    }

    fn stage(&mut self, batch: &mut Batch, items: Vec<Item>) {
        let shared = Arc::clone(&self.shared);
        let mut stage = Stage {
            files: &*shared.files,
            index: &shared.index,
            queue: &shared.queue,
            data: &mut self.data,
            mark: self.log.mark,
            inline_bytes: shared.settings.inline_bytes,
            next_life: &mut self.life,
        };
        let mut items = VecDeque::from(items);
        while let Some(item) = items.pop_front() {
            let Err(failed) = batch.stage(&mut stage, item) else {
                continue;
            };
            let (item, error) = *failed;
            self.compaction.press(&error);
            // What was asked for behind it, without knowing of the failure, fails with it.
            let key = item.key;
            let mut failed = vec![item];
            let mut open = true;
            for item in std::mem::take(&mut items) {
                open &= item.key != key || !matches!(item.work, Work::Remove);
                if open && item.key == key {
                    failed.push(item);
                } else {
                    items.push_back(item);
                }
            }
            let count = shared.queue.fail(failed, &error);
            shared.counts.lock().failures += count;
        }
    }

    /// Lets staged items count, and answers them.
    fn apply(&mut self, staged: Vec<Staged>, segment: u32, at: u32) {
        let count = staged.len() as u64;
        let mut items = Vec::with_capacity(staged.len());
        let mut gone = Vec::new();
        let mut index = self.shared.index.lock();
        for staged in staged {
            let key = staged.change.name.key;
            let life = staged.change.name.life;
            let removed = matches!(staged.item.work, Work::Remove);
            if let Some(held) = index.apply(staged.change, segment, at + staged.at as u32) {
                for stream in Stream::ALL {
                    if held.tails[stream.index()].in_file {
                        self.data.doom(FileId { key, life, stream });
                    }
                }
            }
            if removed {
                gone.push(key);
            }
            items.push(staged.item);
        }
        self.shared.publish_use(&index);
        // Whoever sees what the index has now sees that it was counted.
        self.shared.counts.lock().appends += count;
        drop(index);
        if !gone.is_empty() {
            self.shared.queue.forgive(&gone);
            self.paused = None;
        }
        self.shared.queue.succeed(items);
    }

    fn fail(&mut self, items: Vec<Item>, error: &StoreError) {
        self.failed = Some(error.clone());
        self.shared.publish_use(&self.shared.index.lock());
        let count = self.shared.queue.fail(items, error);
        self.shared.counts.lock().failures += count;
    }

    /// Syncs everything, and then removes the files that nothing needs any more.
    pub(super) fn sync_all(&mut self) {
        self.unsynced = None;
        let failed = self.data.sync_all();
        self.close_streams(failed);
        match self.log.sync(&self.shared.index) {
            Ok(()) if !self.log.is_owing() => {
                self.data.remove_doomed();
                if self.data.is_owing() {
                    self.unsynced = Some(Instant::now());
                }
            }
            Ok(()) => {}
            Err(error) => {
                tracing::error!(%error, "cannot sync the store's log; going on in another segment");
                self.unsynced = Some(Instant::now());
            }
        }
    }

    fn report_unsynced(&mut self) {
        let failed = self.data.take_failed();
        self.close_streams(failed);
    }

    fn close_streams(&mut self, failed: Vec<(FileId, StoreError)>) {
        for (id, error) in failed {
            tracing::error!(%error, unit = %id.key.unit, "cannot sync a file of the store");
            batch::close_stream(&self.shared.index, id);
            self.shared.queue.fail_next(id.key, &error);
        }
    }

    /// Sees to it that the log can be written, and holds what it is to hold.
    fn make_ready(&mut self) -> Result<(), StoreError> {
        let owing = self.log.is_owing();
        let mut ready = self.log.make_ready(&self.shared.index);
        while matches!(&ready, Err(error) if error.is_no_descriptor()) && self.data.give_back() {
            ready = self.log.make_ready(&self.shared.index);
        }
        ready?;
        if owing {
            self.unsynced.get_or_insert_with(Instant::now);
        }
        Ok(())
    }

    fn make_ready_if_owing(&mut self) -> Result<(), StoreError> {
        if self.log.is_owing() {
            self.make_ready()
        } else {
            Ok(())
        }
    }

    /// Does a piece of what has to be done now and then; answers whether there is more.
    fn keep_house(&mut self) -> bool {
        if self.paused.is_some_and(|until| Instant::now() < until) {
            return false;
        }
        self.paused = None;
        match self.make_ready_if_owing().and_then(|()| self.tidy_up()) {
            Ok(busy) => busy,
            Err(error) => {
                tracing::warn!(%error, "cannot tidy up the store");
                self.paused = Some(Instant::now() + PAUSE);
                false
            }
        }
    }

    fn tidy_up(&mut self) -> Result<bool, StoreError> {
        if self.is_unsettled() {
            self.settle()?;
        }
        let listed = self.log.list_if_due(&self.shared.index);
        let busy = self.compact()?;
        listed.map(|()| busy)
    }
}
