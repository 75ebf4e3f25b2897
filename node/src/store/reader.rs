//! Reads of streams, on a thread of their own: a read waits for no sync.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::{mpsc, oneshot};

use super::Shared;
use super::data::FileId;
use super::error::StoreError;
use super::files::{self, OpenFile};
use super::index::{Held, Index};
use super::key::{Key, Stream};
use super::segment::{self, Number};

/// The most that one read answers with, in bytes.
pub(super) const MAX_READ_BYTES: usize = 1 << 20;
/// Reads that may wait; further ones wait in their callers.
pub(super) const MAX_WAITING: usize = 256;

/// What the reading thread is asked.
pub(super) enum Request {
    Read(Read),
    /// Ends the thread.
    End,
}

/// A read, and who waits for it.
pub(super) struct Read {
    pub(super) key: Key,
    pub(super) stream: Stream,
    pub(super) offset: u64,
    pub(super) max: usize,
    pub(super) done: oneshot::Sender<Result<Bytes, StoreError>>,
}

/// Where bytes are that were asked for.
struct Place {
    file: Where,
    at: u64,
    bytes: usize,
}

enum Where {
    Log(Number, Arc<dyn OpenFile>),
    Data(FileId),
}

/// Answers reads until told to end, or until nobody can ask.
pub(super) fn run(shared: &Shared, mut requests: mpsc::Receiver<Request>) {
    while let Some(Request::Read(read)) = requests.blocking_recv() {
        let answer = answer(shared, &read);
        if answer.is_err() {
            shared.counts.lock().failures += 1;
        }
        // Nobody waits: the caller has gone.
        let _ = read.done.send(answer);
    }
}

fn answer(shared: &Shared, read: &Read) -> Result<Bytes, StoreError> {
    let places = places(&shared.index.lock(), read)?;
    match collect(shared, &places) {
        // Its files may have gone since, with the key.
        Err(error) => places_still(shared, read).and(Err(error)),
        done => done,
    }
}

fn collect(shared: &Shared, places: &[Place]) -> Result<Bytes, StoreError> {
    let mut bytes = BytesMut::zeroed(places.iter().map(|place| place.bytes).sum());
    let mut done = 0;
    for place in places {
        let into = &mut bytes[done..done + place.bytes];
        let (file, path) = match &place.file {
            Where::Log(number, file) => (Arc::clone(file), segment::path(*number)),
            Where::Data(id) => (open(shared, *id)?, id.path()),
        };
        let failed = |error| StoreError::io("read", &shared.files.path(&path), error);
        files::read_all(&*file, place.at, into).map_err(failed)?;
        done += place.bytes;
    }
    Ok(bytes.freeze())
}

/// Opens a data file for one read: one that stayed open would keep its room on the disk when it is removed.
fn open(shared: &Shared, id: FileId) -> Result<Arc<dyn OpenFile>, StoreError> {
    let path = id.path();
    let failed = |error| StoreError::io("open", &shared.files.path(&path), error);
    shared.files.open(&path).map_err(failed)
}

fn places_still(shared: &Shared, read: &Read) -> Result<(), StoreError> {
    places(&shared.index.lock(), read).map(drop)
}

fn places(index: &Index, read: &Read) -> Result<Vec<Place>, StoreError> {
    let held = index.keys.get(&read.key).ok_or(StoreError::NoSuchKey)?;
    let tail = &held.tails[read.stream.index()];
    let end = tail
        .length
        .min(read.offset.saturating_add(read.max.min(MAX_READ_BYTES) as u64));
    let mut places = Vec::new();
    in_log(index, held, read.stream, read.offset..end, &mut places);
    let base = u64::from(tail.base);
    if tail.in_file && end > base {
        let from = read.offset.max(base);
        if from < end {
            places.push(Place {
                file: Where::Data(FileId {
                    key: read.key,
                    life: held.life,
                    stream: read.stream,
                }),
                at: from - base,
                bytes: (end - from) as usize,
            });
        }
    }
    Ok(places)
}

fn in_log(index: &Index, held: &Held, stream: Stream, wanted: std::ops::Range<u64>, places: &mut Vec<Place>) {
    let mut start = 0;
    for piece in &held.pieces {
        if usize::from(piece.stream) != stream.index() {
            continue;
        }
        let end = start + u64::from(piece.length);
        let (from, to) = (start.max(wanted.start), end.min(wanted.end));
        if let (true, Some(segment)) = (from < to, index.segments.get(&piece.segment)) {
            places.push(Place {
                file: Where::Log(piece.segment, Arc::clone(&segment.file)),
                at: u64::from(piece.at) + from - start,
                bytes: (to - from) as usize,
            });
        }
        start = end;
    }
}
