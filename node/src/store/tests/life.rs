//! What is stored is there, while the store is open and when it is opened again.

use super::*;

#[tokio::test]
async fn what_is_appended_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let (store, found) = open(dir.path());
    assert_eq!(found, []);
    store
        .append(key(1), vec![record("one"), payload(bytes(1, 200))], Sync::Synced)
        .await
        .unwrap();
    store
        .append(key(2), vec![record("other")], Sync::Written)
        .await
        .unwrap();
    store
        .append(key(1), vec![record("two"), payload(bytes(2, 5000))], Sync::Synced)
        .await
        .unwrap();
    store
        .append(
            key(1),
            vec![payload(bytes(3, 10)), responses(bytes(4, 90))],
            Sync::Written,
        )
        .await
        .unwrap();
    let whole = [bytes(1, 200), bytes(2, 5000), bytes(3, 10)].concat();
    assert_eq!(stream(&store, key(1), Stream::Payload).await, whole);
    store.close().await;

    let (store, found) = open(dir.path());
    let expected = |number, records: &[&'static str], payload_bytes, response_bytes| Found {
        key: key(number),
        records: records
            .iter()
            .map(|text| Bytes::from_static(text.as_bytes()))
            .collect(),
        payload_bytes,
        response_bytes,
        damage: None,
        doubt: None,
    };
    assert_eq!(
        found,
        [
            expected(1, &["one", "two"], 5210, 90),
            expected(2, &["other"], 0, 0)
        ]
    );
    assert_eq!(stream(&store, key(1), Stream::Payload).await, whole);
    assert_eq!(stream(&store, key(1), Stream::Responses).await, bytes(4, 90));
    store.close().await;
}

#[tokio::test]
async fn a_removed_key_is_gone_and_may_come_again() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let entries = || vec![record("first life"), payload(bytes(1, 2000))];
    store.append(key(1), entries(), Sync::Synced).await.unwrap();
    store.remove(key(1)).await.unwrap();
    store.remove(key(1)).await.unwrap();
    let read = store.read(key(1), Stream::Payload, 0, 10).await;
    assert!(matches!(read, Err(StoreError::NoSuchKey)));
    store
        .append(key(1), vec![record("second life")], Sync::Written)
        .await
        .unwrap();
    store.close().await;
    let (store, found) = open(dir.path());
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].records, [Bytes::from_static(b"second life")]);
    assert_eq!(found[0].payload_bytes, 0);
    assert_eq!(std::fs::read_dir(dir.path().join("data")).unwrap().count(), 0);
    store.close().await;
}
