//! Torn ends and damaged bytes: the store opens, and what is lost is the damaged units' own, and said.

use super::faulty::{Crash, Faulty};
use super::*;

const LOG_FILE: &str = "log/0000000001.log";

/// A store of four units, in one segment; the last record is that of unit 9.
async fn four_units() -> Faulty {
    let (disk, store) = four_units_open().await;
    store.close().await;
    disk
}

/// The same, while it is open.
async fn four_units_open() -> (Faulty, Store) {
    let disk = Faulty::new();
    let (store, _) = open_on(&disk);
    for number in [1, 2, 3] {
        for part in 0..3 {
            let entries = vec![record(&format!("{number}.{part}")), payload(bytes(part, 20))];
            store.append(key(number), entries, Sync::Synced).await.unwrap();
        }
    }
    store
        .append(key(9), vec![record("last")], Sync::Synced)
        .await
        .unwrap();
    (disk, store)
}

fn open_on(disk: &Faulty) -> (Store, Vec<Found>) {
    let settings = StoreSettings {
        segment_bytes: 64 << 10,
        ..small()
    };
    Store::open_with(Arc::new(disk.clone()), settings).unwrap()
}

/// Where the records of the segment begin, and where the last one ends.
fn bounds(content: &[u8]) -> Vec<usize> {
    let mark = &content[..8];
    let marks = (8..content.len()).filter(|at| content[*at..].starts_with(mark));
    marks.chain([content.len()]).collect()
}

fn texts(found: &Found) -> Vec<String> {
    let text = |record: &Bytes| String::from_utf8(record.to_vec()).unwrap();
    found.records.iter().map(text).collect()
}

#[tokio::test]
async fn a_torn_last_record_is_cut_off_wherever_it_ends() {
    let (disk, store) = four_units_open().await;
    let ahead = disk.content(LOG_FILE);
    let content = ahead[..store.usage().log_bytes as usize].to_vec();
    assert!(ahead.len() > content.len());
    let bounds = bounds(&content);
    let last = bounds[bounds.len() - 2];
    let zeros = vec![0; ahead.len()];
    let blank: Vec<u8> = (0..ahead.len()).map(|at| !ahead[at % 8]).collect();
    for end in last..content.len() {
        // Some file systems grow a file before its content is there.
        let tails = [&[][..], &zeros, &blank];
        let tails = if end == last { &tails[..] } else { &tails[..1] };
        for tail in tails {
            let disk = disk.crash(Crash::Written);
            let mut torn = content[..end].to_vec();
            torn.extend_from_slice(tail.get(end..).unwrap_or_default());
            disk.set_content(LOG_FILE, torn);
            let (store, found) = open_on(&disk);
            assert_eq!(found.len(), 3, "cut at {end}");
            assert!(found.iter().all(|found| found.damage.is_none()), "{found:?}");
            assert_eq!(store.usage().damaged, 0);
            assert_eq!(disk.content(LOG_FILE).len(), last);
            store
                .append(key(9), vec![record("again")], Sync::Synced)
                .await
                .unwrap();
            store.close().await;
            let (store, found) = open_on(&disk);
            assert_eq!(texts(&found[3]), ["again"]);
            store.close().await;
        }
    }
    store.close().await;
}

#[tokio::test]
async fn blank_sectors_are_torn_in_what_was_last_written_and_damaged_before_that_and_zeros_are_damaged() {
    const SECTOR: usize = 512;
    let (disk, store) = four_units_open().await;
    let start = store.usage().log_bytes as usize;
    let zeros = Bytes::from(vec![0; 2000]);
    let append = vec![Entry::Record(zeros), record("long")];
    store.append(key(4), append, Sync::Synced).await.unwrap();
    let end = store.usage().log_bytes as usize;
    let sectors = (end - 1) / SECTOR - start / SECTOR + 1;
    let lose = |content: &[u8], chosen: usize, blank: bool| {
        let mut left = content.to_vec();
        for at in start..end {
            if chosen & 1 << (at / SECTOR - start / SECTOR) != 0 {
                left[at] = if blank { !content[at % 8] } else { 0 };
            }
        }
        let left_disk = disk.crash(Crash::Written);
        left_disk.set_content(LOG_FILE, left);
        left_disk
    };
    let content = disk.content(LOG_FILE);
    for chosen in 1..1 << sectors {
        let (again, found) = open_on(&lose(&content, chosen, true));
        assert_eq!((again.usage().damaged, found.len()), (0, 4), "{chosen:b}");
        assert!(
            found
                .iter()
                .all(|unit| unit.damage.is_none() && unit.doubt.is_none())
        );
        again.close().await;
        // Sectors between the first and the last hold zeros already.
        let changes = chosen & (1 | 1 << (sectors - 1)) != 0;
        let (again, found) = open_on(&lose(&content, chosen, false));
        assert_eq!(again.usage().damaged > 0, changes, "{chosen:b}");
        assert_eq!(
            found.iter().any(|unit| unit.damage.is_some()),
            changes && found.len() == 5
        );
        again.close().await;
    }
    store
        .append(key(6), vec![record("behind a sync")], Sync::Synced)
        .await
        .unwrap();
    let content = disk.content(LOG_FILE);
    for chosen in 1..1 << sectors {
        let (again, found) = open_on(&lose(&content, chosen, true));
        assert!(again.usage().damaged > 0, "{chosen:b}");
        assert!(found.iter().any(|unit| unit.key == key(6)), "{chosen:b}");
        again.close().await;
    }
    store.close().await;
}

#[tokio::test]
async fn a_changed_byte_in_what_was_last_written_is_damage_whatever_it_holds() {
    let (disk, store) = four_units_open().await;
    let start = store.usage().log_bytes as usize;
    let zeros = Bytes::from(vec![0; 1500]);
    store
        .append(key(1), vec![Entry::Record(zeros)], Sync::Synced)
        .await
        .unwrap();
    let content = disk.content(LOG_FILE);
    for at in start..store.usage().log_bytes as usize {
        let disk = disk.crash(Crash::Written);
        let mut bad = content.clone();
        bad[at] ^= 0x10;
        disk.set_content(LOG_FILE, bad);
        let (again, found) = open_on(&disk);
        assert_eq!((again.usage().damaged, found.len()), (1, 4), "byte {at}");
        let told = |unit: &&Found| unit.damage.is_some() || unit.doubt.is_some();
        assert!(
            found.iter().any(|unit| told(&unit) && unit.key == key(1)),
            "byte {at}"
        );
        again.close().await;
    }
    store.close().await;
}

#[tokio::test]
async fn what_is_ahead_is_no_damage_behind_a_damaged_head_either() {
    let (disk, store) = four_units_open().await;
    let mut content = disk.content(LOG_FILE);
    content[20] ^= 1;
    let left = disk.crash(Crash::Written);
    left.set_content(LOG_FILE, content);
    let (again, _) = open_on(&left);
    assert_eq!(again.usage().damaged, 1, "the head");
    again.close().await;
    let (again, _) = open_on(&left);
    assert_eq!(again.usage().damaged, 1, "the head");
    again.close().await;
    store.close().await;
}

#[tokio::test]
async fn an_end_that_was_there_when_the_store_closed_is_not_torn_but_damaged() {
    let disk = four_units().await;
    let content = disk.content(LOG_FILE);
    let bounds = bounds(&content);
    for (from, cut) in [(bounds[3], 0), (bounds[6] + 5, 0), (bounds[7], 1)] {
        let disk = disk.crash(Crash::Written);
        let mut bad = content.clone();
        match cut {
            0 => bad[from..].fill(0),
            _ => bad.truncate(from),
        }
        disk.set_content(LOG_FILE, bad);
        let (store, found) = open_on(&disk);
        assert!(store.usage().damaged > 0, "from {from}");
        for found in &found {
            let told = found.damage.is_some() || found.doubt.is_some();
            assert!(told, "from {from}: {found:?}");
        }
        store.close().await;
        let (store, again) = open_on(&disk);
        assert_eq!(again, found, "what is in doubt stays so");
        store.close().await;
    }
}

#[tokio::test]
async fn a_hole_over_several_records_leaves_those_in_doubt_that_nothing_tells_of_later() {
    for random in [false, true] {
        let (disk, store) = four_units_open().await;
        store
            .append(key(1), vec![record("1.3")], Sync::Synced)
            .await
            .unwrap();
        store
            .append(key(10), vec![record("later")], Sync::Synced)
            .await
            .unwrap();
        store.close().await;
        let mut content = disk.content(LOG_FILE);
        let bounds = bounds(&content);
        // From within the second record of unit 2 to within the last one of unit 3.
        let hole = &mut content[bounds[4] + 100..bounds[8] + 3];
        for (at, byte) in hole.iter_mut().enumerate() {
            *byte = if random { (at * 31 + at / 7) as u8 | 1 } else { 0 };
        }
        disk.set_content(LOG_FILE, content);
        let (store, found) = open_on(&disk);
        let unit = |number| found.iter().find(|found| found.key == key(number)).unwrap();
        assert!(
            unit(1).damage.is_none() && unit(1).doubt.is_none(),
            "its later record is there"
        );
        assert!(
            unit(2).damage.is_some(),
            "the header of the first lost one names it"
        );
        assert!(
            unit(3).damage.is_some(),
            "the record behind the hole names the last one in it"
        );
        assert!(
            unit(9).damage.is_none() && unit(9).doubt.is_none(),
            "{:?}",
            unit(9)
        );
        assert!(
            unit(10).damage.is_none() && unit(10).doubt.is_none(),
            "it came later"
        );
        store.close().await;
    }
}

#[tokio::test]
async fn a_hole_puts_a_unit_in_doubt_whose_last_record_may_have_been_in_it_for_good() {
    let disk = Faulty::new();
    let (store, _) = open_on(&disk);
    for (number, text) in [
        (1, "1.0"),
        (2, "2.0"),
        (1, "1.1"),
        (3, "3.0"),
        (4, "4.0"),
        (5, "5.0"),
    ] {
        let appended = store.append(key(number), vec![record(text)], Sync::Synced).await;
        appended.unwrap();
    }
    store.close().await;
    let mut content = disk.content(LOG_FILE);
    let bounds = bounds(&content);
    // The last records of units 1 and 3, as a whole, and that of unit 4.
    content[bounds[2]..bounds[5]].fill(0);
    disk.set_content(LOG_FILE, content);
    let (store, found) = open_on(&disk);
    let seen: Vec<_> = found
        .iter()
        .map(|found| (found.key, found.damage.is_some(), found.doubt.is_some()))
        .collect();
    // Nothing is left that would name 3; 4 is named by what follows it.
    assert_eq!(
        seen,
        [
            (key(1), false, true),
            (key(2), false, true),
            (key(4), true, false),
            (key(5), false, false)
        ]
    );
    assert!(
        found[0].doubt.as_ref().unwrap().contains(LOG_FILE),
        "{:?}",
        found[0]
    );
    // Everything moves, the damaged segment goes: what is known stays known, and nobody else is blamed.
    store.close().await;
    let (store, _) = Store::open_with(Arc::new(disk.clone()), small()).unwrap();
    for number in 20..60 {
        let entries = vec![record(&"x".repeat(400))];
        store.append(key(number), entries, Sync::Synced).await.unwrap();
        store.remove(key(number)).await.unwrap();
    }
    store
        .append(key(6), vec![record("6.0")], Sync::Synced)
        .await
        .unwrap();
    store.close().await;
    assert!(!disk.files("log").iter().any(|(name, _)| name == LOG_FILE));
    let (store, found) = open_on(&disk);
    let doubted = found
        .iter()
        .filter(|found| found.doubt.is_some() || found.damage.is_some());
    assert_eq!(
        doubted.map(|found| found.key).collect::<Vec<_>>(),
        [key(1), key(2), key(4)]
    );
    assert_eq!(store.usage().damaged, 0);
    store.close().await;
}

#[tokio::test]
async fn a_flipped_byte_costs_only_the_unit_that_it_hits() {
    let disk = four_units().await;
    let content = disk.content(LOG_FILE);
    let bounds = bounds(&content);
    let (_, whole) = open_on(&disk);
    for (at, range) in bounds.windows(2).enumerate() {
        let hit = [1, 1, 1, 2, 2, 2, 3, 3, 3, 9][at];
        for place in range[0]..range[1] {
            let disk = disk.crash(Crash::Written);
            let mut bad = content.clone();
            bad[place] ^= 0x24;
            disk.set_content(LOG_FILE, bad);
            let (store, found) = open_on(&disk);
            for unit in &whole {
                let now = found.iter().find(|found| found.key == unit.key);
                if unit.key == key(hit) {
                    let header_of_an_only_record = hit == 9 && place < range[0] + 88;
                    assert!(
                        header_of_an_only_record || now.is_some_and(|now| now.damage.is_some()),
                        "byte {place} of record {at}: {now:?}"
                    );
                } else {
                    assert_eq!(now, Some(unit), "byte {place} of record {at}");
                }
            }
            assert!(found.len() <= whole.len(), "byte {place}: {found:?}");
            let usage = store.usage();
            assert!(usage.damaged > 0, "byte {place} of record {at}");
            assert_eq!(disk.files("damaged").len() as u64, usage.damaged);
            store.close().await;
        }
    }
}

#[tokio::test]
async fn damage_is_still_known_when_the_segment_is_gone() {
    let disk = four_units().await;
    let mut content = disk.content(LOG_FILE);
    let bounds = bounds(&content);
    content[bounds[2] + 95] ^= 1;
    disk.set_content(LOG_FILE, content);
    let (store, found) = open_on(&disk);
    assert_eq!(texts(&found[0]), ["1.0", "1.1"]);
    assert!(found[0].damage.is_some());
    assert_eq!(found[0].payload_bytes, 40);
    // What follows in the stream would not follow what was there; records still may.
    let more = store.append(key(1), vec![record("end")], Sync::Synced).await;
    more.unwrap();
    store.close().await;
    // Small segments: the first one is compacted, for its garbage.
    let (store, _) = Store::open_with(Arc::new(disk.clone()), small()).unwrap();
    for number in 20..60 {
        store
            .append(key(number), vec![record(&"x".repeat(400))], Sync::Synced)
            .await
            .unwrap();
        store.remove(key(number)).await.unwrap();
    }
    store.close().await;
    assert!(
        disk.files("log").iter().all(|(name, _)| name != LOG_FILE),
        "{:?}",
        disk.files("log")
    );
    let (store, found) = open_on(&disk);
    assert_eq!(texts(&found[0]), ["1.0", "1.1", "end"]);
    assert!(found[0].damage.is_some(), "{:?}", found[0]);
    store.close().await;
}

#[tokio::test]
async fn a_lost_middle_is_found_by_what_follows() {
    let disk = four_units().await;
    let content = disk.content(LOG_FILE);
    let bounds = bounds(&content);
    let mut bad = content.clone();
    // The second record of unit 2, all of it.
    bad[bounds[4]..bounds[5]].fill(0);
    disk.set_content(LOG_FILE, bad);
    let (store, found) = open_on(&disk);
    assert_eq!(texts(&found[1]), ["2.0", "2.2"]);
    assert!(found[1].damage.is_some());
    assert_eq!(found[1].payload_bytes, 20, "only what is in front of the hole");
    assert_eq!(stream(&store, key(2), Stream::Payload).await, bytes(0, 20));
    assert!(found[0].damage.is_none() && found[2].damage.is_none() && found[3].damage.is_none());
    let more = store
        .append(key(2), vec![payload(bytes(1, 5))], Sync::Synced)
        .await;
    assert!(matches!(more, Err(StoreError::StreamClosed { .. })), "{more:?}");
    let more = store.append(key(2), vec![record("end")], Sync::Synced).await;
    more.unwrap();
    store.close().await;
}

#[tokio::test]
async fn bytes_that_look_like_a_record_are_not_taken_for_one() {
    let disk = Faulty::new();
    let (store, _) = open_on(&disk);
    store
        .append(key(1), vec![record("true")], Sync::Synced)
        .await
        .unwrap();
    store.close().await;
    // A record of another store, within a payload whose own record is damaged.
    let other = Faulty::new();
    let (store, _) = open_on(&other);
    store
        .append(key(7), vec![record("forged")], Sync::Synced)
        .await
        .unwrap();
    store.close().await;
    let forged = other.content(LOG_FILE)[24..].to_vec();
    let (store, _) = open_on(&disk);
    store
        .append(key(2), vec![payload(Bytes::from(forged))], Sync::Synced)
        .await
        .unwrap();
    store
        .append(key(3), vec![record("after")], Sync::Synced)
        .await
        .unwrap();
    store.close().await;
    let mut content = disk.content(LOG_FILE);
    let bounds = bounds(&content);
    content[bounds[1] + 20] ^= 0xff;
    disk.set_content(LOG_FILE, content);
    let (store, found) = open_on(&disk);
    let keys: Vec<_> = found.iter().map(|found| found.key).collect();
    assert!(!keys.contains(&key(7)), "{found:?}");
    assert!(keys.contains(&key(1)) && keys.contains(&key(3)), "{found:?}");
    store.close().await;
}

#[tokio::test]
async fn a_data_file_that_is_too_short_is_damage_if_it_was_synced() {
    for (sync, damaged) in [(Sync::Synced, true), (Sync::Written, false)] {
        let disk = Faulty::new();
        let (store, _) = open_on(&disk);
        store
            .append(key(1), vec![payload(bytes(1, 3000))], sync)
            .await
            .unwrap();
        store.close().await;
        let (name, _) = disk.files("data").remove(0);
        disk.set_content(&name, bytes(1, 1000).to_vec());
        let (store, found) = open_on(&disk);
        assert_eq!(found[0].payload_bytes, 1000);
        assert_eq!(found[0].damage.is_some(), damaged, "{:?}", found[0]);
        assert_eq!(stream(&store, key(1), Stream::Payload).await, bytes(1, 1000));
        store.close().await;
    }
}

#[tokio::test]
async fn a_data_file_that_is_missing_is_damage_once_anything_behind_it_was_synced() {
    for synced_later in [true, false] {
        let disk = Faulty::new();
        let (store, _) = open_on(&disk);
        let data = vec![payload(bytes(1, 3000)), responses(bytes(2, 4000))];
        store.append(key(1), data, Sync::Written).await.unwrap();
        if synced_later {
            // As a unit's end is, which brings no data itself.
            let end = store.append(key(1), vec![record("end")], Sync::Synced);
            end.await.unwrap();
        }
        store.close().await;
        let (name, _) = disk.files("data").pop().unwrap();
        assert!(name.ends_with("responses"), "{name}");
        disk.take_away(&name);
        for _ in 0..2 {
            let (store, found) = open_on(&disk);
            assert_eq!((found[0].payload_bytes, found[0].response_bytes), (3000, 0));
            let damage = found[0].damage.as_deref();
            let told = "the file of its responses is missing, with 4000 bytes";
            assert_eq!(damage, synced_later.then_some(told));
            let usage = store.usage();
            assert_eq!((usage.data_files, usage.damaged), (1, u64::from(synced_later)));
            store.close().await;
        }
    }
}

#[tokio::test]
async fn files_that_nobody_owns_are_removed_and_strangers_are_left() {
    let disk = four_units().await;
    let orphan = format!("data/origin-{}-5-payload", key(1).unit);
    disk.set_content(&orphan, vec![1; 10]);
    disk.set_content("data/notes.txt", vec![2; 10]);
    let (store, _) = open_on(&disk);
    let names: Vec<_> = disk.files("data").into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["data/notes.txt"]);
    store.close().await;
}
