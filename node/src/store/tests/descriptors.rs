//! No file can be opened any more: what is open gives way, and what can't be done is refused for the moment.

use super::faulty::Faulty;
use super::*;

fn open_on(disk: &Faulty) -> (Store, Vec<Found>) {
    Store::open_with(Arc::new(disk.clone()), small()).unwrap()
}

/// Appends to the end of a unit's payload what goes to its file.
async fn grow(store: &Store, number: u128) -> Result<(), StoreError> {
    let data = vec![payload(bytes(number as usize, 2000))];
    store.append(key(number), data, Sync::Synced).await
}

#[tokio::test]
async fn files_that_are_kept_open_give_way() {
    let disk = Faulty::new();
    let (store, _) = open_on(&disk);
    for number in 0..40 {
        grow(&store, number).await.unwrap();
    }
    let open = disk.open_files();
    assert!(open > 40, "{open}");
    disk.set_descriptors(open);
    // Files and segments, new ones and old ones.
    for number in (0..60).chain(20..40) {
        grow(&store, number).await.unwrap();
        let text = record(&"x".repeat(300));
        store.append(key(number), vec![text], Sync::Synced).await.unwrap();
    }
    assert!(store.usage().segments > 4, "{:?}", store.usage());
    assert_eq!(store.usage().failures, 0);
    disk.heal();
    for number in [0, 59] {
        assert!(
            stream(&store, key(number), Stream::Payload)
                .await
                .starts_with(&bytes(number as usize, 2000))
        );
    }
    store.close().await;
}

#[tokio::test]
async fn the_files_that_are_kept_open_are_a_share_of_those_that_may_be() {
    let disk = Faulty::new();
    disk.set_descriptors(64);
    let (store, _) = open_on(&disk);
    for number in 0..40 {
        grow(&store, number).await.unwrap();
    }
    let segments = store.usage().segments as usize;
    assert_eq!(disk.open_files() - segments, 16);
    store.close().await;
}

#[tokio::test]
async fn without_a_descriptor_an_append_is_refused_for_the_moment() {
    let disk = Faulty::new();
    let (store, _) = open_on(&disk);
    for number in 0..3 {
        grow(&store, number).await.unwrap();
    }
    let no_descriptor = |result: Result<(), StoreError>| {
        let error = result.unwrap_err();
        assert!(
            matches!(error, StoreError::NoDescriptor { .. }) && error.may_pass(),
            "{error}"
        );
    };
    for _ in 0..2 {
        // The rest of the process has taken what there is.
        disk.set_descriptors(0);
        no_descriptor(grow(&store, 7).await);
        no_descriptor(grow(&store, 1).await);
        let read = store.read(key(2), Stream::Payload, 0, 10).await;
        no_descriptor(read.map(drop));
        let small = vec![record("in the log, which is open")];
        store.append(key(8), small, Sync::Synced).await.unwrap();
        disk.heal();
    }
    for number in [1, 2, 7, 8] {
        grow(&store, number).await.unwrap();
    }
    store.close().await;
    let (store, found) = open_on(&disk);
    let told = |found: &Found| (found.key, found.payload_bytes, found.damage.is_some());
    let expected = [(0, 2000), (1, 4000), (2, 4000), (8, 2000), (7, 2000)]
        .map(|(number, length)| (key(number), length, false));
    assert_eq!(found.iter().map(told).collect::<Vec<_>>(), expected);
    store.close().await;
}

#[tokio::test]
async fn a_segment_that_can_not_be_begun_is_begun_later() {
    let disk = Faulty::new();
    let (store, _) = open_on(&disk);
    disk.set_descriptors(0);
    let text = || vec![record(&"x".repeat(900))];
    let refused = store.append(key(1), text(), Sync::Synced).await;
    assert!(
        matches!(refused, Err(StoreError::NoDescriptor { .. })),
        "{refused:?}"
    );
    disk.heal();
    for number in 1..10 {
        store.append(key(number), text(), Sync::Synced).await.unwrap();
    }
    disk.set_descriptors(0);
    let mut refused = 0;
    for number in 10..20 {
        refused += usize::from(store.append(key(number), text(), Sync::Synced).await.is_err());
    }
    assert!(refused > 0);
    disk.heal();
    store.append(key(20), text(), Sync::Synced).await.unwrap();
    let keys = store.usage().keys;
    store.close().await;
    let (store, found) = open_on(&disk);
    assert_eq!((found.len() as u64, found.len()), (keys, 20 - refused));
    assert_eq!(store.usage().damaged, 0);
    store.close().await;
}
