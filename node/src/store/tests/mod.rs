//! The store as its callers see it, on the real disk and on one that fails.

mod life;
mod admit;
mod history;
mod faults;
mod tripping;
mod opening;
mod reads;
mod damage;
mod format;
mod segments;
mod room;
mod descriptors;
mod handle;
mod queue;
mod model;

use std::path::Path;

use bytes::Bytes;
use uuid::Uuid;
use workmesh_proto::UnitId;

use super::*;

impl Store {
    pub(super) fn open_with(
        files: Arc<dyn Files>,
        settings: StoreSettings,
    ) -> Result<(Self, Vec<Found>), StoreError> {
        Self::open_as(files, settings, Versions::OWN)
    }
}

/// The origin's key of unit `number`.
fn key(number: u128) -> Key {
    Key {
        role: Role::Origin,
        unit: UnitId(Uuid::from_u128(number)),
    }
}

/// Bytes that differ from place to place and from seed to seed.
fn bytes(seed: usize, length: usize) -> Bytes {
    (0..length)
        .map(|at| (at * 31 + at / 251 + seed * 7 + 1) as u8)
        .collect()
}

fn record(text: &str) -> Entry {
    Entry::Record(Bytes::copy_from_slice(text.as_bytes()))
}

fn payload(bytes: Bytes) -> Entry {
    Entry::Data(Stream::Payload, bytes)
}

fn responses(bytes: Bytes) -> Entry {
    Entry::Data(Stream::Responses, bytes)
}

/// Small segments, no sync of its own, no reserve: what a test does is all that happens.
fn small() -> StoreSettings {
    StoreSettings {
        reserve_bytes: 0,
        segment_bytes: 4 << 10,
        garbage_bytes: 4 << 10,
        inline_bytes: 600,
        sync_after: std::time::Duration::from_secs(3600),
        ..StoreSettings::default()
    }
}

fn open(dir: &Path) -> (Store, Vec<Found>) {
    Store::open(dir, small()).unwrap()
}

/// The whole of a stream, read in pieces.
async fn stream(store: &Store, key: Key, stream: Stream) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let piece = store.read(key, stream, all.len() as u64, 700).await.unwrap();
        if piece.is_empty() {
            return all;
        }
        all.extend(piece);
    }
}
