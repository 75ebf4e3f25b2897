//! Every operation of a store's life fails once, in every way: what was acknowledged is there, and the store goes on.

use super::faulty::{Crash, Fault, Faulty, Op};
use super::history::History;
use super::*;

/// The life of several units: small ones, ones that grow into files, removals, several segments, compaction.
async fn live(history: &mut History) {
    use super::Sync::{Synced, Written};
    history.append(1, [100, 0], Synced).await;
    history.append(2, [0, 0], Written).await;
    history.append(1, [0, 50], Written).await;
    history.append(3, [1500, 10], Synced).await;
    history.append(3, [0, 2000], Written).await;
    history.append(4, [300, 300], Synced).await;
    history.append(2, [400, 400], Written).await;
    history.append(2, [400, 400], Synced).await;
    history.append(3, [5, 3000], Synced).await;
    history.remove(4).await;
    for round in 0..4 {
        let number = 10 + round;
        history.append(number, [550, 500], Synced).await;
        history.append(number, [0, 700], Written).await;
        history
            .append(1, [0, 60], if round % 2 == 0 { Synced } else { Written })
            .await;
        history.remove(number).await;
    }
    history.append(3, [0, 10], Synced).await;
    history.remove(2).await;
    history.append(20, [590, 590], Written).await;
    history.append(21, [0, 2000], Synced).await;
}

async fn live_with(fault: Fault, forgetful: bool) -> usize {
    let disk = Faulty::new();
    let (store, _) = Store::open_with(Arc::new(disk.clone()), small()).unwrap();
    if forgetful {
        disk.set_forgetful();
    }
    disk.fault(fault);
    let mut history = History::new(store);
    history.forgetful = forgetful;
    live(&mut history).await;
    if !forgetful {
        // Else what a sync dropped is in memory alone until it can be written again.
        history.check_crash(&disk, Crash::Written).await;
    }
    history.check_crash(&disk, Crash::Synced).await;
    history.check_crash(&disk, Crash::Unlinked).await;
    history
        .check_crash(&disk, Crash::Torn(history.failures as u64))
        .await;
    disk.heal();
    let again = history.append(30, [700, 20], Sync::Synced).await;
    assert!(again, "the store does not go on after {fault:?}");
    if !forgetful {
        history.check_reads().await;
    }
    history.store().close().await;
    for crash in [Crash::Written, Crash::Synced] {
        history.check_crash(&disk, crash).await;
    }
    history.failures
}

#[tokio::test]
async fn whichever_sectors_a_loss_of_power_leaves_what_was_synced_is_there_and_nothing_counts_as_damaged() {
    use super::Sync::{Synced, Written};
    // Several segments; and one in which what is written ahead is used up more than once.
    for (segment_bytes, rounds, size, crashes) in [(4 << 10, 60, 300, 12), (1 << 20, 150, 580, 2)] {
        let disk = Faulty::new();
        let settings = StoreSettings {
            segment_bytes,
            inline_bytes: segment_bytes / 4,
            ..small()
        };
        let (store, _) = Store::open_with(Arc::new(disk.clone()), settings).unwrap();
        let mut history = History::new(store);
        let mut seed = 0;
        for round in 0..rounds {
            let sync = if round % 4 == 3 { Synced } else { Written };
            let sizes = [size - (round * 37) % 300, size - (round * round * 11) % 300];
            history.append(round as u128 / 2, sizes, sync).await;
            if round % 7 == 6 {
                history.remove((round as u128 / 2).saturating_sub(1)).await;
            }
            for _ in 0..crashes {
                seed += 1;
                history.check_crash(&disk, Crash::Torn(seed)).await;
            }
        }
        let usage = history.store().usage();
        assert!(usage.segments > 2 || usage.log_bytes > 130 << 10, "{usage:?}");
        history.store().close().await;
        history.check_crash(&disk, Crash::Torn(0)).await;
    }
}

/// How many operations change something in that life.
async fn changes() -> usize {
    let disk = Faulty::new();
    let (store, _) = Store::open_with(Arc::new(disk.clone()), small()).unwrap();
    disk.heal();
    let mut history = History::new(store);
    live(&mut history).await;
    assert_eq!(history.failures, 0);
    history.check_reads().await;
    assert!(
        history.store().usage().segments < 6,
        "{:?}",
        history.store().usage()
    );
    history.store().close().await;
    disk.changes()
}

#[tokio::test]
async fn any_operation_may_fail_once() {
    let changes = changes().await;
    let mut failures = 0;
    for nth in 0..changes {
        failures += live_with(Fault::FailAny { nth, times: 1 }, false).await;
    }
    assert!(
        changes > 80 && failures > changes / 2,
        "{failures} failures in {changes} operations"
    );
}

#[tokio::test]
async fn any_write_may_stop_half_way() {
    let changes = changes().await;
    let mut failures = 0;
    for nth in 0..changes {
        failures += live_with(Fault::Halve { nth }, false).await;
    }
    assert!(failures > 20, "{failures}");
}

#[tokio::test]
async fn failures_may_come_together_and_last() {
    let changes = changes().await;
    for nth in 0..changes {
        for times in [2, 3, 7, 1000] {
            live_with(Fault::FailAny { nth, times }, false).await;
        }
    }
}

#[tokio::test]
async fn a_sync_that_fails_may_lose_what_it_had() {
    for nth in 0..40 {
        for times in [1, 2] {
            live_with(
                Fault::Fail {
                    op: Op::Sync,
                    nth,
                    times,
                },
                true,
            )
            .await;
        }
    }
}

#[tokio::test]
async fn what_a_killed_process_left_unsynced_is_synced_by_the_next_one() {
    let disk = Faulty::new();
    let (store, _) = Store::open_with(Arc::new(disk.clone()), small()).unwrap();
    let mut history = History::new(store);
    history.append(1, [300, 2000], Sync::Written).await;
    history.append(2, [3000, 10], Sync::Written).await;
    let disk = disk.kill();
    let (store, found) = Store::open_with(Arc::new(disk.clone()), small()).unwrap();
    assert_eq!(found.len(), 2);
    let synced = disk.crash(Crash::Synced);
    let (third, found_again) = Store::open_with(Arc::new(synced), small()).unwrap();
    assert_eq!(found_again, found, "what is found is on the disk");
    third.close().await;
    let before = std::mem::replace(history.store_mut(), store);
    history.append(1, [0, 0], Sync::Synced).await;
    history.append(2, [0, 0], Sync::Synced).await;
    history.check_crash(&disk, Crash::Synced).await;
    history.store().close().await;
    before.close().await;
}

#[tokio::test]
async fn segments_that_come_back_bring_nothing_back() {
    let disk = Faulty::new();
    let settings = StoreSettings {
        garbage_bytes: 1 << 20,
        ..small()
    };
    let (store, _) = Store::open_with(Arc::new(disk.clone()), settings).unwrap();
    let append = |number| store.append(key(number), vec![payload(bytes(1, 500))], Sync::Written);
    for number in 0..60 {
        append(number).await.unwrap();
        if number > 10 {
            // Removals stand in other segments than what they remove.
            store.remove(key(number - 10)).await.unwrap();
        }
    }
    assert!(store.usage().segments > 5);
    for number in 50..60 {
        store.remove(key(number)).await.unwrap();
    }
    store
        .append(key(1000), vec![record("stays")], Sync::Synced)
        .await
        .unwrap();
    assert!(store.usage().segments > 5);
    store.remove(key(0)).await.unwrap();
    // The oldest segment has nothing alive now, nor have the next ones: they go one after the other.
    while store.usage().segments > 1 {
        tokio::task::yield_now().await;
    }
    let left = disk.crash(Crash::Unlinked);
    let (again, found) = Store::open_with(Arc::new(left), small()).unwrap();
    assert_eq!(
        found.iter().map(|found| found.key).collect::<Vec<_>>(),
        [key(1000)]
    );
    again.close().await;
    store.close().await;
}

#[tokio::test]
async fn a_stream_that_could_not_be_synced_says_so_for_good() {
    let disk = Faulty::new();
    let (store, _) = Store::open_with(Arc::new(disk.clone()), small()).unwrap();
    let add = |data, sync| store.append(key(1), vec![data], sync);
    add(responses(bytes(1, 2000)), Sync::Synced).await.unwrap();
    disk.fault(Fault::Fail {
        op: Op::Sync,
        nth: 0,
        times: 1,
    });
    let failed = add(responses(bytes(2, 2000)), Sync::Synced).await;
    assert!(matches!(failed, Err(StoreError::Io { .. })), "{failed:?}");
    for _ in 0..2 {
        let closed = add(responses(bytes(3, 10)), Sync::Written).await;
        assert!(
            matches!(&closed, Err(StoreError::StreamClosed { path }) if path.contains("responses")),
            "{closed:?}"
        );
    }
    add(record("the end"), Sync::Synced).await.unwrap();
    add(payload(bytes(4, 2000)), Sync::Synced).await.unwrap();
    assert!(stream(&store, key(1), Stream::Responses).await == bytes(1, 2000));
    store.close().await;
}
