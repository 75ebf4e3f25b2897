//! The handle: order, answers, reads, and who may open a store.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::faulty::{Crash, Fault, Faulty, Op};
use super::index::{Change, Piece, Tail};
use super::*;

fn on(disk: &Faulty) -> (Store, Vec<Found>) {
    Store::open_with(Arc::new(disk.clone()), small()).unwrap()
}

#[tokio::test]
async fn a_store_in_use_is_refused_and_free_once_it_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let second = Store::open(dir.path(), small()).err().unwrap();
    assert!(matches!(second, StoreError::Locked { .. }), "{second}");
    assert!(second.to_string().contains(&*dir.path().to_string_lossy()));
    store.close().await;
    let (again, _) = open(dir.path());
    again.close().await;
    let append = store.append(key(1), vec![record("late")], Sync::Synced).await;
    assert!(matches!(append, Err(StoreError::Closed)));
    let read = store.read(key(1), Stream::Payload, 0, 1).await;
    assert!(matches!(read, Err(StoreError::Closed)));
    assert!(matches!(store.remove(key(1)).await, Err(StoreError::Closed)));
    store.close().await;
}

#[tokio::test]
async fn folders_and_files_are_private() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("store");
    let (store, _) = open(&dir);
    store
        .append(key(1), vec![record("x"), payload(bytes(1, 2000))], Sync::Synced)
        .await
        .unwrap();
    store.close().await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let mut dirs = vec![dir];
    let mut files = 0;
    while let Some(dir) = dirs.pop() {
        assert_eq!(mode(&dir), 0o700, "{}", dir.display());
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                assert_eq!(mode(&path), 0o600, "{}", path.display());
                files += 1;
            }
        }
    }
    assert_eq!(files, 5, "FORMAT, SEGMENTS, lock, a segment, a payload");
}

#[tokio::test]
async fn enqueued_appends_keep_the_order_of_the_calls() {
    let disk = Faulty::new();
    let (store, _) = on(&disk);
    let mut pending = Vec::new();
    for number in 0..300_usize {
        let sync = if number % 7 == 0 {
            Sync::Synced
        } else {
            Sync::Written
        };
        let entries = vec![record(&number.to_string()), responses(bytes(number, 30))];
        pending.push(store.enqueue(key(1), entries, sync));
    }
    for pending in pending {
        pending.await.unwrap();
    }
    store.close().await;
    let (store, found) = on(&disk);
    let texts: Vec<_> = (0..300)
        .map(|number: usize| Bytes::from(number.to_string()))
        .collect();
    assert_eq!(found[0].records, texts);
    let whole: Vec<u8> = (0..300).flat_map(|number| bytes(number, 30)).collect();
    assert_eq!(stream(&store, key(1), Stream::Responses).await, whole);
    store.close().await;
}

#[tokio::test]
async fn what_follows_a_failure_fails_until_the_failure_was_seen() {
    let disk = Faulty::new();
    let (store, _) = on(&disk);
    store
        .append(key(1), vec![record("before")], Sync::Synced)
        .await
        .unwrap();
    disk.fault(Fault::Fail {
        op: Op::Write,
        nth: 0,
        times: 1,
    });
    let first = store.enqueue(key(1), vec![record("first")], Sync::Synced);
    // Stands behind the failure whichever thread is faster.
    let other = store.append(key(2), vec![record("other")], Sync::Synced).await;
    let second = store.enqueue(key(1), vec![record("second")], Sync::Synced);
    assert!(second.await.is_err());
    assert!(first.await.is_err());
    store
        .append(key(1), vec![record("third")], Sync::Synced)
        .await
        .unwrap();
    store.close().await;
    let (store, found) = on(&disk);
    assert_eq!(
        found[0].records,
        [Bytes::from_static(b"before"), Bytes::from_static(b"third")]
    );
    assert_eq!(found.len(), 1 + usize::from(other.is_ok()));
    store.close().await;
}

#[tokio::test]
async fn what_waits_behind_a_failure_fails_with_it() {
    let disk = Faulty::new();
    let (store, _) = on(&disk);
    store
        .append(key(1), vec![record("before")], Sync::Synced)
        .await
        .unwrap();
    disk.fault(Fault::Fail {
        op: Op::Write,
        nth: 0,
        times: 1,
    });
    let enqueue = |number, text| store.enqueue(key(number), vec![record(text)], Sync::Synced);
    let (first, others) = {
        let _paused = disk.pause();
        let first = enqueue(1, "first");
        while store.handle.shared.queue.waiting() > 0 {
            thread::yield_now();
        }
        // The thread has the first one, and can't write it yet.
        (
            first,
            [
                enqueue(1, "second"),
                enqueue(2, "another key's"),
                enqueue(1, "third"),
            ],
        )
    };
    assert!(first.await.is_err());
    let [second, another, third] = others;
    assert!(second.await.is_err());
    another.await.unwrap();
    assert!(third.await.is_err());
    store
        .append(key(1), vec![record("after")], Sync::Synced)
        .await
        .unwrap();
    store.close().await;
    let (store, found) = on(&disk);
    assert_eq!(
        found[0].records,
        [Bytes::from_static(b"before"), Bytes::from_static(b"after")]
    );
    store.close().await;
}

#[tokio::test]
async fn a_failure_that_nobody_saw_is_told_to_the_next_append() {
    let disk = Faulty::new();
    let (store, _) = on(&disk);
    store
        .append(key(1), vec![record("before")], Sync::Synced)
        .await
        .unwrap();
    disk.fault(Fault::Fail {
        op: Op::Write,
        nth: 0,
        times: 1,
    });
    let dropped = store.enqueue(key(1), vec![record("dropped")], Sync::Synced);
    while store.usage().failures == 0 {
        tokio::task::yield_now().await;
    }
    drop(dropped);
    assert!(
        store
            .append(key(1), vec![record("told")], Sync::Synced)
            .await
            .is_err()
    );
    store
        .append(key(1), vec![record("goes on")], Sync::Synced)
        .await
        .unwrap();
    store.close().await;
    let (store, found) = on(&disk);
    assert_eq!(
        found[0].records,
        [Bytes::from_static(b"before"), Bytes::from_static(b"goes on")]
    );
    store.close().await;
}

#[tokio::test]
async fn a_failure_that_nobody_waits_for_is_told_to_the_next_append() {
    let disk = Faulty::new();
    let (store, _) = on(&disk);
    store
        .append(key(2), vec![record("makes a segment")], Sync::Synced)
        .await
        .unwrap();
    disk.fault(Fault::Fail {
        op: Op::Write,
        nth: 0,
        times: 1,
    });
    {
        let _paused = disk.pause();
        drop(store.enqueue(key(1), vec![record("dropped")], Sync::Synced));
    }
    while store.usage().failures == 0 {
        tokio::task::yield_now().await;
    }
    assert!(
        store
            .append(key(1), vec![record("told")], Sync::Synced)
            .await
            .is_err()
    );
    store
        .append(key(1), vec![record("goes on")], Sync::Synced)
        .await
        .unwrap();
    store.close().await;
}

#[tokio::test]
async fn what_needs_no_sync_fails_with_what_needs_one_before_it() {
    let disk = Faulty::new();
    let (store, _) = on(&disk);
    store
        .append(key(1), vec![record("before")], Sync::Synced)
        .await
        .unwrap();
    disk.fault(Fault::Fail {
        op: Op::Sync,
        nth: 0,
        times: 1,
    });
    let enqueue = |number, text, sync| store.enqueue(key(number), vec![record(text)], sync);
    let (ahead, synced, written, other) = {
        let _paused = disk.pause();
        let ahead = enqueue(3, "keeps the thread", Sync::Written);
        while store.handle.shared.queue.waiting() > 0 {
            thread::yield_now();
        }
        let synced = enqueue(1, "synced", Sync::Synced);
        let written = enqueue(1, "written", Sync::Written);
        (ahead, synced, written, enqueue(2, "other", Sync::Written))
    };
    ahead.await.unwrap();
    assert!(synced.await.is_err());
    assert!(written.await.is_err());
    other.await.unwrap();
    store
        .append(key(1), vec![record("after")], Sync::Synced)
        .await
        .unwrap();
    store.close().await;
    let (store, found) = on(&disk);
    let texts: Vec<_> = found.iter().map(|found| found.records.concat()).collect();
    assert_eq!(texts, [&b"beforeafter"[..], b"keeps the thread", b"other"]);
    store.close().await;
}

#[tokio::test]
async fn a_removal_clears_what_failed() {
    let disk = Faulty::new();
    let (store, _) = on(&disk);
    disk.fault(Fault::Fail {
        op: Op::Write,
        nth: 0,
        times: 1,
    });
    let _unseen = store.enqueue(key(1), vec![record("fails")], Sync::Synced);
    store.append(key(2), vec![record("x")], Sync::Synced).await.ok();
    store
        .append(key(3), vec![record("x")], Sync::Synced)
        .await
        .unwrap();
    store.remove(key(1)).await.unwrap();
    store
        .append(key(1), vec![record("anew")], Sync::Synced)
        .await
        .unwrap();
    store.close().await;
}

#[tokio::test]
async fn reads_are_bounded_by_what_is_there_and_what_is_asked() {
    let disk = Faulty::new();
    let (store, _) = on(&disk);
    let missing = store.read(key(1), Stream::Payload, 0, 10).await;
    assert!(matches!(missing, Err(StoreError::NoSuchKey)));
    let big = 3 << 20;
    let entries = vec![payload(bytes(1, 500)), payload(bytes(2, big))];
    store.append(key(1), entries, Sync::Written).await.unwrap();
    let read = async |offset, max| store.read(key(1), Stream::Payload, offset, max).await.unwrap();
    let whole = [bytes(1, 500), bytes(2, big)].concat();
    assert_eq!(read(0, usize::MAX).await, whole[..1 << 20]);
    assert_eq!(
        read(490, 20).await,
        whole[490..510],
        "across the seam of log and file"
    );
    assert_eq!(read(whole.len() as u64 - 3, 100).await, whole[whole.len() - 3..]);
    assert!(read(whole.len() as u64, 100).await.is_empty());
    assert!(read(u64::MAX, usize::MAX).await.is_empty());
    assert!(read(5, 0).await.is_empty());
    assert!(
        store
            .read(key(1), Stream::Responses, 0, 10)
            .await
            .unwrap()
            .is_empty()
    );
    store.close().await;
}

#[tokio::test]
async fn records_of_an_append_have_a_limit() {
    let disk = Faulty::new();
    let (store, _) = on(&disk);
    let most = record::MAX_ENTRIES_BYTES - 5;
    let long = |length| vec![Entry::Record(bytes(1, length))];
    store.append(key(1), long(most), Sync::Synced).await.unwrap();
    let more = store.append(key(1), long(most + 1), Sync::Synced).await;
    assert!(matches!(more, Err(StoreError::TooLarge { .. })), "{more:?}");
    store
        .append(key(1), vec![record("after")], Sync::Synced)
        .await
        .unwrap();
    // Compaction moves records of any length.
    for number in 10..40 {
        store
            .append(key(number), long(1 << 20), Sync::Written)
            .await
            .unwrap();
        store.remove(key(number)).await.unwrap();
    }
    store.close().await;
    let (store, found) = on(&disk);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].records, [bytes(1, most), Bytes::from_static(b"after")]);
    store.close().await;
}

#[tokio::test]
async fn many_bytes_wait_in_their_callers() {
    let disk = Faulty::new();
    let settings = StoreSettings {
        queue_bytes: 1000,
        batch_bytes: 500,
        ..small()
    };
    let (store, _) = Store::open_with(Arc::new(disk.clone()), settings).unwrap();
    let appends = (0..50).map(|number| {
        let store = store.clone();
        tokio::spawn(async move {
            let size = if number % 10 == 0 { 5000 } else { 300 };
            store
                .append(key(number), vec![payload(bytes(1, size))], Sync::Synced)
                .await
        })
    });
    for append in appends.collect::<Vec<_>>() {
        append.await.unwrap().unwrap();
    }
    assert_eq!(store.usage().keys, 50);
    store.close().await;
}

#[tokio::test]
async fn opening_fails_cleanly_or_finds_everything() {
    let disk = Faulty::new();
    let (store, _) = on(&disk);
    for number in 1..5 {
        let entries = vec![record("x"), payload(bytes(1, 900))];
        store.append(key(number), entries, Sync::Synced).await.unwrap();
    }
    store.remove(key(4)).await.unwrap();
    let left = disk.crash(Crash::Written);
    store.close().await;
    let ops = [
        Op::Open,
        Op::Read,
        Op::Sync,
        Op::SyncDir,
        Op::Remove,
        Op::Truncate,
        Op::Create,
        Op::Rename,
    ];
    let mut refused = 0;
    for op in ops {
        for nth in 0..8 {
            let disk = left.crash(Crash::Written);
            disk.fault(Fault::Fail { op, nth, times: 1 });
            match Store::open_with(Arc::new(disk.clone()), small()) {
                Ok((store, found)) => {
                    assert_eq!(found.len(), 3, "{op:?} {nth}");
                    store.close().await;
                }
                Err(_) => refused += 1,
            }
            disk.heal();
            let (store, found) = on(&disk);
            assert_eq!(found.len(), 3, "{op:?} {nth}: {found:?}");
            assert!(
                found
                    .iter()
                    .all(|found| found.damage.is_none() && found.payload_bytes == 900)
            );
            store.close().await;
        }
    }
    assert!(refused > 5, "{refused}");
    for nth in 0..12 {
        let disk = Faulty::new();
        disk.fault(Fault::FailAny { nth, times: 1 });
        if let Ok((store, _)) = Store::open_with(Arc::new(disk.clone()), small()) {
            store.close().await;
        }
        disk.heal();
        let (store, _) = on(&disk);
        store
            .append(key(1), vec![record("x")], Sync::Synced)
            .await
            .unwrap();
        store.close().await;
    }
}

#[test]
fn a_hundred_thousand_keys_take_less_than_300_bytes_each() {
    let count = 100_000;
    let mut index = Index::default();
    // Of each key three records, with a piece of each stream.
    for number in 0..count {
        let mut tails = [Tail::default(); 2];
        for sequence in 1..=3 {
            let piece = |stream: Stream| Piece {
                segment: 0,
                at: 100,
                length: 50,
                stream: stream.index() as u8,
            };
            let pieces = Stream::ALL
                .into_iter()
                .take(sequence as usize - 1)
                .map(piece)
                .collect();
            tails = tails.map(|tail| Tail {
                length: tail.length + 50,
                ..tail
            });
            let change = Change {
                name: record::Name {
                    key: key(number),
                    life: number as u64,
                    sequence,
                },
                length: 300,
                pieces,
                tails,
                removed: false,
            };
            index.apply(change, 1, 500);
        }
    }
    let each = index.heap_bytes() / count as usize;
    assert!((100..300).contains(&each), "{each} bytes");
}

#[tokio::test]
async fn an_opened_store_takes_no_more_memory_than_one_that_was_filled() {
    let disk = Faulty::new();
    let (store, _) = on(&disk);
    let count = 3_000;
    for part in 0..3 {
        let append = |number| {
            let entries = vec![record("x"), payload(bytes(part, 100)), responses(bytes(part, 50))];
            store.enqueue(key(number), entries, Sync::Written)
        };
        for pending in (0..count).map(append).collect::<Vec<_>>() {
            pending.await.unwrap();
        }
    }
    let each = |store: &Store| store.handle.shared.index.lock().heap_bytes() / count as usize;
    assert!(each(&store) < 400, "{} bytes, with six pieces each", each(&store));
    let filled = each(&store);
    store.close().await;
    let (store, found) = on(&disk);
    assert_eq!(found.len(), count as usize);
    assert!(each(&store) <= filled, "{} bytes, {filled} before", each(&store));
    store.close().await;
}
