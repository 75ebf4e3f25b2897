//! How much may come in.

use super::*;

#[tokio::test]
async fn work_comes_in_up_to_the_quota_and_not_past_it() {
    let dir = tempfile::tempdir().unwrap();
    let settings = StoreSettings {
        quota_bytes: 10_000,
        ..small()
    };
    let (store, _) = Store::open(dir.path(), settings).unwrap();
    store
        .append(key(1), vec![payload(bytes(1, 5000))], Sync::Written)
        .await
        .unwrap();
    let used = store.usage().log_bytes + store.usage().data_bytes;
    assert!(used >= 5000);
    assert!(store.admit(10_000 - used).is_ok());
    let error = store.admit(10_001 - used).unwrap_err();
    assert!(
        error.is_no_room() && error.to_string().contains("raise work.quota"),
        "{error}"
    );
    store.close().await;
}

#[tokio::test]
async fn work_comes_in_while_it_leaves_the_reserve_free() {
    let dir = tempfile::tempdir().unwrap();
    let settings = StoreSettings {
        reserve_bytes: u64::MAX / 2,
        quota_bytes: u64::MAX,
        ..small()
    };
    let (store, _) = Store::open(dir.path(), settings).unwrap();
    let error = store.admit(0).unwrap_err();
    assert!(
        error.is_no_room() && error.to_string().contains("lower work.reserve"),
        "{error}"
    );
    store.close().await;

    let (store, _) = open(dir.path());
    assert!(store.admit(0).is_ok());
    assert!(matches!(
        store.admit(u64::MAX / 2),
        Err(StoreError::OverQuota { .. })
    ));
    store.close().await;
}

#[tokio::test]
async fn garbage_does_not_fill_a_small_store() {
    let dir = tempfile::tempdir().unwrap();
    let quota_bytes = 16 << 20;
    let (store, _) = Store::open(dir.path(), StoreSettings::within(quota_bytes, 0)).unwrap();
    store
        .append(key(1), vec![record("stays")], Sync::Written)
        .await
        .unwrap();
    for number in 2..1000 {
        let entries = vec![payload(bytes(1, 30_000))];
        store.append(key(number), entries, Sync::Written).await.unwrap();
        store.remove(key(number)).await.unwrap();
        store.admit(0).unwrap();
    }
    store.close().await;
}
