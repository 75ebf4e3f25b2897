//! Gives disk space back: removes segments that nobody needs, and moves what is alive out of the oldest one.
//! A part of the store's thread; each call does a piece, so that appends wait for no more than that.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::aside;
use super::error::StoreError;
use super::files;
use super::moving::Removals;
use super::queue::Work;
use super::scan::Lost;
use super::segment::{self, LOG, Number};
use super::writer::Writer;

/// Segments that a log may have beside those that its bytes fill.
const SPARE_SEGMENTS: u64 = 16;
/// The only segment goes once it has this part of a segment's bytes and none of them counts.
const EMPTY_PART: u64 = 8;

/// How far compaction is.
#[derive(Default)]
pub(super) struct Compaction {
    /// The segment that is being emptied, and up to where it is.
    emptying: Option<(Number, u32)>,
    /// A segment was removed, and its name may come back until the folder is synced.
    names_dirty: bool,
    /// The disk is full: every bit of room counts.
    pressed: bool,
}

impl Compaction {
    /// Takes note of a failure for want of room.
    pub(super) fn press(&mut self, error: &StoreError) {
        self.pressed |= matches!(error, StoreError::Full);
    }
}

/// What can be done next.
enum Step {
    /// Nothing in the only segment counts: another one takes its place.
    Turn,
    Remove(Number),
    Empty(Number),
}

impl Writer {
    /// Does a piece; answers whether there is more.
    pub(super) fn compact(&mut self) -> Result<bool, StoreError> {
        if self.compaction.names_dirty {
            self.sync_names()?;
        }
        match self.next_step() {
            None => Ok(false),
            Some(Step::Turn) => self.log.turn(&self.shared.index).map(|()| true),
            Some(Step::Remove(number)) => self.remove_segment(number).map(|()| true),
            Some(Step::Empty(number)) => self.empty(number).map(|()| true),
        }
    }

    fn next_step(&mut self) -> Option<Step> {
        let index = self.shared.index.lock();
        let active = self.log.active.as_ref().map(|active| active.number);
        let mut sealed = index
            .segments
            .iter()
            .filter(|(number, _)| Some(**number) != active);
        let Some((oldest, first)) = sealed.next() else {
            let only = index.segments.get(&active?)?;
            let worth_it = u64::from(only.length) > self.shared.settings.segment_bytes / EMPTY_PART;
            return (only.live == 0 && worth_it).then_some(Step::Turn);
        };
        if active.is_some_and(|active| active < *oldest) {
            return None;
        }
        if first.live == 0 {
            return Some(Step::Remove(*oldest));
        }
        if let Some((number, _)) = sealed.find(|(_, segment)| segment.live == 0 && segment.removals == 0) {
            return Some(Step::Remove(*number));
        }
        if self
            .compaction
            .emptying
            .is_some_and(|(number, _)| number == *oldest)
        {
            return Some(Step::Empty(*oldest));
        }
        let (all, live) = (index.log_bytes(), index.live_bytes());
        let garbage = all.saturating_sub(live);
        let settings = &self.shared.settings;
        let many = SPARE_SEGMENTS + 2 * all / settings.segment_bytes;
        let worth_it = garbage > live + settings.garbage_bytes
            || index.segments.len() as u64 > many
            || (self.compaction.pressed && first.live < u64::from(first.length) / 2);
        self.compaction.pressed = false;
        worth_it.then_some(Step::Empty(*oldest))
    }

    /// Moves a piece of what is alive in the oldest segment to the newest.
    fn empty(&mut self, number: Number) -> Result<(), StoreError> {
        let (at, end) = {
            let index = self.shared.index.lock();
            let end = index.segments.get(&number).map_or(0, |segment| segment.length);
            match self.compaction.emptying {
                Some((same, at)) if same == number => (at, end),
                _ => (self.head_length(number, &index)?, end),
            }
        };
        if at >= end {
            self.compaction.emptying = None;
            self.give_up(number);
            return Ok(());
        }
        let moved = self
            .log
            .relocate(&self.shared.index, number, at..end, Removals::Drop)?;
        for (range, lost) in moved.lost {
            let name = match lost {
                Lost::Named(name) => name.key.unit.to_string(),
                Lost::Hinted(_) => String::new(),
            };
            tracing::error!(
                segment = number,
                ?range,
                unit = name,
                "a record of the store is damaged"
            );
            self.set_aside(number, range);
        }
        self.compaction.emptying = Some((number, moved.end));
        Ok(())
    }

    /// Keeps a copy of what could not be read, before its segment goes.
    fn set_aside(&self, number: Number, range: Range<u32>) {
        let file = self
            .shared
            .index
            .lock()
            .segments
            .get(&number)
            .map(|segment| Arc::clone(&segment.file));
        let Some(file) = file else { return };
        let mut bytes = vec![0; range.len()];
        match files::read_full(&*file, u64::from(range.start), &mut bytes) {
            Ok(length) => {
                let range = range.start as usize..range.end as usize;
                aside::keep(&*self.log.files, number, &range, &bytes[..length]);
            }
            Err(error) => {
                let path = self.log.files.path(&segment::path(number));
                tracing::warn!(path = %path.display(), %error, "cannot keep a copy of what is damaged");
            }
        }
    }

    fn head_length(&self, number: Number, index: &super::index::Index) -> Result<u32, StoreError> {
        let mut head = vec![0; 64 << 10];
        let Some(segment) = index.segments.get(&number) else {
            return Ok(0);
        };
        let length = files::read_full(&*segment.file, 0, &mut head)
            .map_err(|error| StoreError::io("read", &self.log.files.path(&segment::path(number)), error))?;
        let head = segment::decode_head(&head[..length], self.log.mark, number);
        Ok(head.map_or(0, |(length, _)| length as u32))
    }

    /// Everything that could be read has moved: what is still counted there is lost.
    fn give_up(&mut self, number: Number) {
        let lost = self.shared.index.lock().give_up(number);
        if lost.is_empty() {
            return;
        }
        let text = format!("records in {} could not be read", segment::path(number));
        for key in &lost {
            let error = io::Error::other(text.clone());
            let error = StoreError::io("compact", self.shared.files.root(), error);
            self.shared.queue.fail_next(*key, &error);
        }
        let damage = |key| (key, Work::Damage(text.clone()));
        self.owe_notes(lost.into_iter().map(damage).collect());
    }

    /// Removes a segment, once what replaces it is on the disk.
    fn remove_segment(&mut self, number: Number) -> Result<(), StoreError> {
        self.log.sync(&self.shared.index)?;
        match self.log.list(&self.shared.index, Some(number)) {
            Ok(()) => {}
            // There is room for a list once the segment is gone. Until then there is none: it would miss the segment.
            Err(StoreError::Full) if !self.log.inventory.is_owing() => self.log.unlist()?,
            Err(error) => return Err(error),
        }
        let path = segment::path(number);
        match self.log.files.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StoreError::io("remove", &self.log.files.path(&path), error));
            }
            _ => {}
        }
        self.shared.index.lock().segments.remove(&number);
        self.compaction.names_dirty = true;
        self.sync_names()?;
        self.log.list_if_due(&self.shared.index)
    }

    fn sync_names(&mut self) -> Result<(), StoreError> {
        self.log
            .files
            .sync_dir(LOG)
            .map_err(|error| StoreError::io("sync", &self.log.files.path(LOG), error))?;
        self.compaction.names_dirty = false;
        Ok(())
    }
}
