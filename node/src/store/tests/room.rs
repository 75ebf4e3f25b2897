//! Room: a full disk, quotas, and what compaction gives back.

use super::faulty::{Crash, Faulty, Op};
use super::history::History;
use super::*;

#[tokio::test]
async fn nothing_of_what_a_full_disk_refused_is_ever_found() {
    for budget in (0..9000).step_by(37) {
        let disk = Faulty::new();
        let (store, _) = Store::open_with(Arc::new(disk.clone()), small()).unwrap();
        let mut history = History::new(store);
        history.append(1, [50, 50], Sync::Synced).await;
        disk.heal();
        disk.set_budget(budget);
        for size in [10, 400, 900, 3000] {
            history.append(1, [size, 0], Sync::Synced).await;
            history.append(2, [0, size], Sync::Written).await;
            history.append(3, [size, size], Sync::Synced).await;
        }
        history.check_reads().await;
        history.check_crash(&disk, Crash::Written).await;
        history.check_crash(&disk, Crash::Synced).await;
        disk.heal();
        assert!(history.append(1, [10, 10], Sync::Synced).await, "budget {budget}");
        assert!(
            history.append(3, [0, 2000], Sync::Synced).await,
            "budget {budget}"
        );
        history.check_reads().await;
        history.store().close().await;
        history.check_crash(&disk, Crash::Written).await;
    }
}

#[tokio::test]
async fn of_appends_that_were_refused_together_none_is_found() {
    let mut refused = 0;
    for budget in (100..3000).step_by(90) {
        let disk = Faulty::new();
        let (store, _) = Store::open_with(Arc::new(disk.clone()), small()).unwrap();
        store
            .append(key(0), vec![record("makes a segment")], Sync::Synced)
            .await
            .unwrap();
        disk.set_budget(budget);
        let entries = |number: u128| vec![record(&number.to_string()), payload(bytes(1, 100))];
        let enqueue = |number| (number, store.enqueue(key(number), entries(number), Sync::Synced));
        let mut stored = vec![key(0)];
        for (number, pending) in (1..=40).map(enqueue).collect::<Vec<_>>() {
            match pending.await {
                Ok(()) => stored.push(key(number)),
                Err(error) => {
                    assert!(matches!(error, StoreError::Full), "{error}");
                    refused += 1;
                }
            }
        }
        for crash in [Crash::Written, Crash::Synced] {
            let left = disk.crash(crash);
            let (again, found) = Store::open_with(Arc::new(left), small()).unwrap();
            assert_eq!(found.iter().map(|found| found.key).collect::<Vec<_>>(), stored);
            again.close().await;
        }
        store.close().await;
    }
    assert!(refused > 50, "{refused}");
}

#[tokio::test]
async fn a_full_disk_is_told_as_such_and_removals_make_room() {
    let disk = Faulty::new();
    let (store, _) = Store::open_with(Arc::new(disk.clone()), small()).unwrap();
    disk.set_budget(20_000);
    let mut stored = 0;
    let refused = loop {
        match store
            .append(key(stored), vec![payload(bytes(1, 2000))], Sync::Synced)
            .await
        {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, StoreError::Full), "{refused}");
    assert!(stored >= 5, "{stored}");
    // Somebody makes a little room; the rest of it is the store's own.
    disk.set_budget(3_000);
    for number in 0..stored {
        store.remove(key(number)).await.unwrap();
    }
    store
        .append(
            key(1000),
            vec![record("the files go once the log is synced")],
            Sync::Synced,
        )
        .await
        .unwrap();
    store.close().await;
    assert!(disk.files("data").is_empty(), "{:?}", disk.files("data"));
    let (store, found) = Store::open_with(Arc::new(disk.clone()), small()).unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    for number in 0..stored - 1 {
        let entries = vec![payload(bytes(1, 2000))];
        store.append(key(number), entries, Sync::Synced).await.unwrap();
    }
    store.close().await;
}

#[tokio::test]
async fn compaction_gives_back_what_removed_units_had() {
    let disk = Faulty::new();
    let (store, _) = Store::open_with(Arc::new(disk.clone()), small()).unwrap();
    store
        .append(
            key(1),
            vec![record("stays"), payload(bytes(1, 300))],
            Sync::Synced,
        )
        .await
        .unwrap();
    for number in 10..400 {
        let entries = vec![record("goes"), payload(bytes(2, 500)), responses(bytes(3, 700))];
        store.append(key(number), entries, Sync::Written).await.unwrap();
        store.remove(key(number)).await.unwrap();
    }
    store
        .append(key(2), vec![record("too")], Sync::Synced)
        .await
        .unwrap();
    store.close().await;
    let bytes_left: usize = disk.files("log").iter().map(|(_, bytes)| bytes).sum();
    assert!(
        bytes_left < 16 << 10,
        "{bytes_left} bytes: {:?}",
        disk.files("log")
    );
    assert!(disk.files("data").is_empty(), "{:?}", disk.files("data"));
    let (store, found) = Store::open_with(Arc::new(disk.clone()), small()).unwrap();
    assert_eq!(
        found.iter().map(|found| found.key).collect::<Vec<_>>(),
        [key(1), key(2)]
    );
    assert_eq!(stream(&store, key(1), Stream::Payload).await, bytes(1, 300));
    let usage = store.usage();
    assert_eq!((usage.keys, usage.data_bytes, usage.data_files), (2, 0, 0));
    store.close().await;
}

#[tokio::test]
async fn once_all_units_are_removed_the_log_is_as_good_as_empty() {
    let disk = Faulty::new();
    let (store, _) = Store::open_with(Arc::new(disk.clone()), small()).unwrap();
    let empty = || store.usage().log_bytes < 100;
    for round in 0..3 {
        for number in 0..6 {
            let entries = vec![record("goes"), payload(bytes(2, 200))];
            store.append(key(number), entries, Sync::Synced).await.unwrap();
        }
        assert!(!empty());
        for number in 0..6 {
            store.remove(key(number)).await.unwrap();
        }
        let emptied = async {
            while !empty() {
                tokio::task::yield_now().await;
            }
        };
        let patience = std::time::Duration::from_secs(60);
        tokio::time::timeout(patience, emptied)
            .await
            .expect("the log stays");
        assert_eq!(store.usage().segments, 1);
        for crash in [Crash::Written, Crash::Synced] {
            let (again, found) = Store::open_with(Arc::new(disk.crash(crash)), small()).unwrap();
            assert_eq!((found.len(), again.usage().keys), (0, 0), "round {round}");
            again.close().await;
        }
    }
    store.close().await;
}

#[tokio::test]
async fn new_work_is_refused_above_the_quota() {
    let disk = Faulty::new();
    let settings = StoreSettings {
        quota_bytes: 10_000,
        ..small()
    };
    let (store, _) = Store::open_with(Arc::new(disk.clone()), settings).unwrap();
    assert!(store.admit(10_000).is_ok());
    let refused = store.admit(10_001).unwrap_err();
    assert!(matches!(refused, StoreError::OverQuota { .. }), "{refused}");
    store
        .append(key(1), vec![payload(bytes(1, 4000))], Sync::Synced)
        .await
        .unwrap();
    let usage = store.usage();
    let used = usage.log_bytes + usage.data_bytes;
    assert_eq!(usage.data_bytes, 4000);
    assert!(store.admit(10_000 - used).is_ok());
    let refused = store.admit(10_001 - used).unwrap_err();
    assert!(matches!(refused, StoreError::OverQuota { .. }), "{refused}");
    store.close().await;
}

#[tokio::test]
async fn new_work_is_refused_below_the_reserve() {
    let disk = Faulty::new();
    let settings = StoreSettings {
        reserve_bytes: 5_000,
        ..small()
    };
    let (store, _) = Store::open_with(Arc::new(disk.clone()), settings).unwrap();
    disk.set_budget(5_100);
    assert!(store.admit(100).is_ok());
    let refused = store.admit(101).unwrap_err();
    assert!(matches!(refused, StoreError::BelowReserve { .. }), "{refused}");
    // What is under way goes on.
    store
        .append(key(1), vec![payload(bytes(1, 4000))], Sync::Synced)
        .await
        .unwrap();
    store.close().await;
}

#[tokio::test]
async fn appends_that_wait_together_are_synced_together() {
    let disk = Faulty::new();
    let (store, _) = Store::open_with(Arc::new(disk.clone()), small()).unwrap();
    store
        .append(key(0), vec![record("first")], Sync::Synced)
        .await
        .unwrap();
    disk.heal();
    // The thread takes some of them before it waits for the disk, and then all others: a batch takes what it finds.
    let held = disk.hold();
    let pending: Vec<_> = (1..=200)
        .map(|number| store.enqueue(key(number), vec![record("x")], Sync::Synced))
        .collect();
    drop(held);
    for pending in pending {
        pending.await.unwrap();
    }
    let syncs = disk.count(Op::Sync);
    assert!(syncs < 10, "{syncs} syncs for 200 appends");
    assert_eq!(store.usage().appends, 201);
    store.close().await;
}

#[tokio::test]
async fn what_nobody_asked_to_sync_is_synced_all_the_same() {
    let disk = Faulty::new();
    let settings = StoreSettings {
        sync_after: std::time::Duration::from_millis(1),
        ..small()
    };
    let (store, _) = Store::open_with(Arc::new(disk.clone()), settings).unwrap();
    store
        .append(key(1), vec![record("x"), payload(bytes(1, 900))], Sync::Written)
        .await
        .unwrap();
    loop {
        let left = disk.crash(Crash::Synced);
        let (found_store, found) = Store::open_with(Arc::new(left), small()).unwrap();
        found_store.close().await;
        if found.first().is_some_and(|found| found.payload_bytes == 900) {
            break;
        }
        tokio::task::yield_now().await;
    }
    store.close().await;
}
