//! Responses that are kept: what was added last stays in memory for a while, because it is asked for at once; the rest is read from
//! the store.

use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::Mutex;
use workmesh_proto::unit::durable::ResponseCursor;
use workmesh_proto::wire::items::Piece;

use crate::store::{Key, Store, StoreError, Stream};

/// The latest bytes that stay in memory.
const TAIL_BYTES: usize = 256 * 1024;
/// Bytes asked of the store at once.
const READ_BYTES: usize = 256 * 1024;

/// The end of a stream of frames.
#[derive(Debug, Default)]
pub(super) struct Tail(Mutex<TailBytes>);

#[derive(Debug, Default)]
struct TailBytes {
    start: u64,
    chunks: VecDeque<Bytes>,
    bytes: usize,
}

impl Tail {
    /// A tail of a stream that has `length` bytes, none of them in memory.
    pub(super) fn after(length: u64) -> Self {
        Self(Mutex::new(TailBytes {
            start: length,
            ..TailBytes::default()
        }))
    }

    /// Adds what the store has got.
    pub(super) fn push(&self, data: Bytes) {
        let mut tail = self.0.lock();
        tail.bytes += data.len();
        tail.chunks.push_back(data);
        while tail.bytes > TAIL_BYTES
            && let Some(first) = tail.chunks.pop_front()
        {
            tail.bytes -= first.len();
            tail.start += first.len() as u64;
        }
    }

    /// What is in memory from `offset` on; `None` if that begins later.
    fn from(&self, offset: u64) -> Option<Bytes> {
        let tail = self.0.lock();
        let mut skip = usize::try_from(offset.checked_sub(tail.start)?).ok()?;
        for chunk in &tail.chunks {
            if skip < chunk.len() {
                return Some(chunk.slice(skip..));
            }
            skip -= chunk.len();
        }
        Some(Bytes::new())
    }
}

/// Reads a unit's kept responses from a position on.
pub(super) struct KeptReader {
    store: Store,
    key: Key,
    cursor: ResponseCursor,
    offset: u64,
}

impl KeptReader {
    pub(super) fn new(store: Store, key: Key, cursor: ResponseCursor) -> Self {
        Self {
            store,
            key,
            cursor,
            offset: 0,
        }
    }

    /// The next piece of what the stream has up to `end`; `None` once that is read. `tail` is asked before the store.
    pub(super) async fn next(&mut self, end: u64, tail: Option<&Tail>) -> Result<Option<Piece>, StoreError> {
        loop {
            if let Some(piece) = self.cursor.next_piece() {
                return Ok(Some(piece));
            }
            if self.offset >= end {
                return Ok(None);
            }
            let most = usize::try_from(end - self.offset)
                .unwrap_or(READ_BYTES)
                .min(READ_BYTES);
            let data = match tail
                .and_then(|tail| tail.from(self.offset))
                .filter(|data| !data.is_empty())
            {
                Some(data) => data.slice(..data.len().min(most)),
                None => {
                    self.store
                        .read(self.key, Stream::Responses, self.offset, most)
                        .await?
                }
            };
            if data.is_empty() {
                return Err(StoreError::NoSuchKey);
            }
            self.offset += data.len() as u64;
            self.cursor.feed(data).map_err(|error| StoreError::Io {
                what: "the kept responses can't be read".to_owned(),
                error: std::io::Error::other(error).into(),
            })?;
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;
    use workmesh_proto::UnitId;
    use workmesh_proto::unit::durable::ResponseFrames;
    use workmesh_proto::wire::durable::Position;

    use super::*;
    use crate::store::faulty::{Fault, Faulty, Op};
    use crate::store::{Entry, Role, StoreSettings, Sync};

    #[test]
    fn a_tail_has_the_latest_bytes() {
        let tail = Tail::after(10);
        tail.push(Bytes::from_static(b"abc"));
        tail.push(Bytes::from_static(b"def"));
        assert_eq!(tail.from(9), None);
        assert_eq!(tail.from(10).as_deref(), Some(&b"abc"[..]));
        assert_eq!(tail.from(14).as_deref(), Some(&b"ef"[..]));
        assert_eq!(tail.from(16).as_deref(), Some(&b""[..]));
    }

    #[test]
    fn a_tail_is_bounded() {
        let tail = Tail::default();
        for _ in 0..9 {
            tail.push(vec![0; TAIL_BYTES / 4].into());
        }
        let held = tail.0.lock();
        assert!(held.bytes <= TAIL_BYTES);
        assert_eq!(held.start + held.bytes as u64, 9 * (TAIL_BYTES as u64 / 4));
    }

    #[tokio::test]
    async fn a_reader_goes_on_behind_what_it_has_when_the_store_can_be_read_again() {
        let disk = Faulty::new();
        let (store, _) = Store::open_faulty(&disk, StoreSettings::default()).unwrap();
        let key = Key {
            role: Role::Origin,
            unit: UnitId(Uuid::from_u128(1)),
        };
        let responses: Vec<Vec<u8>> = (1..=20)
            .map(|serial| vec![serial; 3000 * usize::from(serial)])
            .collect();
        let mut frames = ResponseFrames::default();
        for (serial, response) in (1..).zip(&responses) {
            frames.push(serial, response, true);
        }
        let kept = frames.take();
        let end = kept.len() as u64;
        assert!(end as usize > 2 * READ_BYTES, "more than two reads");
        let data = Entry::Data(Stream::Responses, kept);
        store.append(key, vec![data], Sync::Synced).await.unwrap();
        for nth in 0.. {
            disk.fault(Fault::Fail {
                op: Op::Read,
                nth,
                times: 3,
            });
            let mut reader = KeptReader::new(store.clone(), key, ResponseCursor::new(Position::default()));
            let (mut read, mut failures) = (vec![Vec::new()], 0);
            loop {
                match reader.next(end, None).await {
                    Ok(Some(piece)) => {
                        read.last_mut().unwrap().extend_from_slice(&piece.data);
                        if piece.last {
                            read.push(Vec::new());
                        }
                    }
                    Ok(None) => break,
                    Err(error) => {
                        assert!(error.to_string().contains("store/data/origin-"), "{error}");
                        failures += 1;
                    }
                }
            }
            assert_eq!(read.pop().as_deref(), Some(&[][..]), "from read {nth} on");
            assert!(read == responses, "from read {nth} on");
            if failures == 0 {
                assert!(nth > 2);
                break;
            }
        }
        disk.heal();
        store.close().await;
    }
}
