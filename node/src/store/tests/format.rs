//! `FORMAT`: versions, older stores, and what is restored of it when it is damaged.

use super::super::sealed;
use super::faulty::{Crash, Faulty};
use super::*;

const LOG_FILE: &str = "log/0000000001.log";

fn open_on(disk: &Faulty) -> Result<(Store, Vec<Found>), StoreError> {
    Store::open_with(Arc::new(disk.clone()), small())
}

/// A store of several units, small and large, that is closed; and what is found in it.
async fn some_units() -> (Faulty, Vec<Found>) {
    let disk = Faulty::new();
    let (store, _) = open_on(&disk).unwrap();
    for number in 1..6 {
        let entries = vec![
            record(&number.to_string()),
            payload(bytes(1, number as usize * 300)),
        ];
        store.append(key(number), entries, Sync::Synced).await.unwrap();
    }
    store.close().await;
    let found = found_on(&disk).await;
    assert_eq!(found.len(), 5);
    (disk, found)
}

async fn found_on(disk: &Faulty) -> Vec<Found> {
    let (store, found) = open_on(disk).unwrap();
    store.close().await;
    found
}

fn text(disk: &Faulty) -> String {
    String::from_utf8(disk.content("FORMAT")).unwrap()
}

/// Takes away what a store had not when there was no list of segments.
fn make_old(disk: &Faulty) {
    let text = text(disk);
    let lines = &text[..text.find("sum ").unwrap()];
    disk.set_content("FORMAT", lines.as_bytes().to_vec());
    disk.take_away("SEGMENTS");
}

#[tokio::test]
async fn a_program_of_the_next_version_takes_the_store_over_and_this_one_refuses_it_then() {
    let (disk, units) = some_units().await;
    let next = Versions {
        oldest: Versions::OWN.oldest,
        known: Versions::OWN.known + 1,
    };
    let (store, found) = Store::open_as(Arc::new(disk.clone()), small(), next).unwrap();
    assert_eq!(found, units);
    assert!(
        text(&disk).starts_with("workmesh-store 3\nmark "),
        "{}",
        text(&disk)
    );
    store
        .append(key(9), vec![record("newer")], Sync::Synced)
        .await
        .unwrap();
    store.close().await;
    let before = (
        disk.content("FORMAT"),
        disk.content("SEGMENTS"),
        disk.content(LOG_FILE),
    );
    let error = open_on(&disk).err().unwrap();
    assert!(matches!(error, StoreError::Newer { found: 3, known: 2 }));
    assert_eq!(
        error.to_string(),
        "the store has version 3, this program knows versions up to 2: start the newer program again, or move the store away"
    );
    let after = (
        disk.content("FORMAT"),
        disk.content("SEGMENTS"),
        disk.content(LOG_FILE),
    );
    assert_eq!(after, before, "a refusal changes nothing");
    let (store, found) = Store::open_as(Arc::new(disk.clone()), small(), next).unwrap();
    assert_eq!(found.len(), units.len() + 1);
    store.close().await;
    // One that does not read this version any more.
    let (disk, _) = some_units().await;
    let later = Versions { oldest: 3, known: 4 };
    let error = Store::open_as(Arc::new(disk), small(), later).err().unwrap();
    assert!(matches!(error, StoreError::Unreadable { .. }), "{error}");
}

#[tokio::test]
async fn a_store_without_checksum_and_list_is_opened_and_gets_both() {
    let (disk, units) = some_units().await;
    let now = text(&disk);
    make_old(&disk);
    let (store, found) = open_on(&disk).unwrap();
    assert_eq!(found, units);
    assert_eq!(store.usage().damaged, 0);
    assert_eq!(text(&disk), now);
    store.close().await;
    // Power was lost between the two.
    let list = disk.content("SEGMENTS");
    make_old(&disk);
    disk.set_content("SEGMENTS", list);
    let (store, found) = open_on(&disk).unwrap();
    assert_eq!((found, store.usage().damaged), (units, 0));
    store.close().await;
    // Or before a new store had its first.
    let disk = Faulty::new();
    let (store, _) = open_on(&disk).unwrap();
    store.close().await;
    disk.take_away("FORMAT");
    let (store, found) = open_on(&disk).unwrap();
    assert_eq!((found.len(), store.usage().damaged), (0, 0));
    store.close().await;
}

#[tokio::test]
async fn a_damaged_format_is_restored_whichever_byte_it_is() {
    let (disk, units) = some_units().await;
    let whole = disk.content("FORMAT");
    let digit = "workmesh-store ".len();
    for at in 0..whole.len() {
        let disk = disk.crash(Crash::Written);
        let mut bad = whole.clone();
        bad[at] ^= 0x06;
        disk.set_content("FORMAT", bad);
        let opened = open_on(&disk);
        if at == digit {
            assert!(
                matches!(opened, Err(StoreError::Newer { .. })),
                "whether it is newer is not known"
            );
            continue;
        }
        let (store, found) = opened.unwrap();
        assert_eq!(found, units, "byte {at}");
        assert_eq!(store.usage().damaged, 1, "byte {at}");
        assert_eq!(disk.content("FORMAT"), whole, "byte {at}");
        store.close().await;
    }
    for lost in [
        None,
        Some(""),
        Some("workmesh-store 0\n"),
        Some("something else\n"),
    ] {
        let disk = disk.crash(Crash::Written);
        match lost {
            None => disk.take_away("FORMAT"),
            Some(text) => disk.set_content("FORMAT", text.into()),
        }
        let (store, found) = open_on(&disk).unwrap();
        assert_eq!((&found, store.usage().damaged), (&units, 1), "{lost:?}");
        assert_eq!(disk.content("FORMAT"), whole);
        store.close().await;
    }
}

#[tokio::test]
async fn without_a_list_the_mark_comes_from_the_segments_or_the_store_is_refused() {
    let (disk, units) = some_units().await;
    let whole = text(&disk);
    let old_mark = "workmesh-store 1\nmark 8000000000000001\n";
    let cut = &whole[..whole.len() - 3];
    for bad in [old_mark, "workmesh-store 1\n", cut] {
        let disk = disk.crash(Crash::Written);
        disk.set_content("FORMAT", bad.into());
        disk.take_away("SEGMENTS");
        let (store, found) = open_on(&disk).unwrap();
        assert_eq!(found, units, "{bad:?}");
        assert!(store.usage().damaged > 0, "{bad:?}");
        assert_eq!(text(&disk), whole);
        store.close().await;
    }
    for bad in [None, Some(""), Some("something else\n")] {
        let disk = disk.crash(Crash::Written);
        disk.take_away("SEGMENTS");
        match bad {
            None => disk.take_away("FORMAT"),
            Some(text) => disk.set_content("FORMAT", text.into()),
        }
        let error = open_on(&disk).err().unwrap().to_string();
        assert!(
            error.contains("FORMAT: expected `workmesh-store 2`, found"),
            "{error}"
        );
        assert!(
            error.ends_with("restore the file, or move the store away"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn the_log_of_another_store_is_refused_and_left_as_it_is() {
    let (disk, _) = some_units().await;
    let (other, units) = some_units().await;
    for file in ["FORMAT", "SEGMENTS", "both"] {
        let disk = disk.crash(Crash::Written);
        for (name, _) in disk.files("log") {
            disk.take_away(&name);
        }
        for (name, _) in other.files("log") {
            disk.set_content(&name, other.content(&name));
        }
        match file {
            "both" => {}
            "FORMAT" => disk.set_content("SEGMENTS", other.content("SEGMENTS")),
            _ => disk.take_away("SEGMENTS"),
        }
        let log = disk.files("log");
        let error = open_on(&disk).err().unwrap();
        assert!(matches!(error, StoreError::Foreign { .. }), "{file}: {error}");
        let error = error.to_string();
        assert!(
            error.contains("log of another store") && !error.contains('\n'),
            "{error}"
        );
        assert_eq!(disk.files("log"), log);
        // The remedy.
        for file in ["FORMAT", "SEGMENTS"] {
            disk.set_content(file, other.content(file));
        }
        for (name, _) in other.files("data") {
            disk.set_content(&name, other.content(&name));
        }
        assert_eq!(found_on(&disk).await, units);
    }
}

#[tokio::test]
async fn lines_of_later_programs_are_left_alone() {
    let (disk, units) = some_units().await;
    let text = text(&disk);
    let lines = format!("{}hint 7\n", &text[..text.find("sum ").unwrap()]);
    sealed::replace(&disk, "FORMAT", &lines).unwrap();
    let with_hint = disk.content("FORMAT");
    let (store, found) = open_on(&disk).unwrap();
    assert_eq!((found, store.usage().damaged), (units, 0));
    store.close().await;
    assert_eq!(disk.content("FORMAT"), with_hint);
}
