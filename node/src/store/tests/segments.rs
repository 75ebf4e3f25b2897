//! Segments that are gone, emptied, cut or replaced: the store opens, and says which, and whose records may have been there.

use super::faulty::{Crash, Fault, Faulty, Op};
use super::*;

fn open_on(disk: &Faulty) -> (Store, Vec<Found>) {
    let settings = StoreSettings {
        garbage_bytes: 1 << 20,
        ..small()
    };
    Store::open_with(Arc::new(disk.clone()), settings).unwrap()
}

/// A store of several segments. Units 1 to 9 have records in many of them, those from 100 on in one.
async fn some_segments() -> (Faulty, Store) {
    let disk = Faulty::new();
    let (store, _) = open_on(&disk);
    for round in 0..60_u128 {
        let number = 1 + round % 9;
        for number in [number, 100 + round] {
            let entries = vec![record(&format!("{number} in {round}")), payload(bytes(3, 60))];
            store.append(key(number), entries, Sync::Synced).await.unwrap();
        }
    }
    assert!(store.usage().segments >= 4, "{:?}", store.usage());
    (disk, store)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    Deleted,
    Emptied,
    Zeros,
    Noise,
    Foreign,
    HeadAlone,
    /// It ends where a record does.
    Shorter,
    /// Its last record is zeros.
    Blank,
}

const HARMS: [Harm; 7] = [
    Harm::Deleted,
    Harm::Emptied,
    Harm::Zeros,
    Harm::Noise,
    Harm::Foreign,
    Harm::HeadAlone,
    Harm::Shorter,
];

impl Harm {
    fn happen(self, disk: &Faulty, name: &str, foreign: &[u8]) {
        let whole = disk.content(name);
        let record = |at: &usize| whole[*at..].starts_with(&whole[..8]);
        let bad = match self {
            Self::Deleted => return disk.take_away(name),
            Self::Emptied => Vec::new(),
            Self::Zeros => vec![0; whole.len()],
            Self::Noise => bytes(9, whole.len()).to_vec(),
            Self::Foreign => foreign.to_vec(),
            Self::HeadAlone => whole[..24].to_vec(),
            Self::Shorter => {
                let last = (24..whole.len()).rfind(record).unwrap();
                whole[..last].to_vec()
            }
            Self::Blank => {
                let last = (24..whole.len()).rfind(record).unwrap();
                let mut bad = whole.clone();
                bad[last..].fill(0);
                bad
            }
        };
        disk.set_content(name, bad);
    }
}

/// What may be found: each unit whole, or told to be damaged or in doubt, or not at all.
fn check(whole: &[Found], found: &[Found], what: &str) {
    for unit in found {
        let before = whole.iter().find(|before| before.key == unit.key).unwrap();
        let told = unit.damage.is_some() || unit.doubt.is_some();
        assert!(told || unit == before, "{what}: {unit:?}");
    }
}

#[tokio::test]
async fn whatever_becomes_of_a_segment_the_store_opens_and_says_it() {
    let (disk, store) = some_segments().await;
    store.close().await;
    let (store, whole) = open_on(&disk);
    assert_eq!(store.usage().damaged, 0);
    store.close().await;
    let (other, store) = some_segments().await;
    store.close().await;
    let names: Vec<_> = disk.files("log").into_iter().map(|(name, _)| name).collect();
    for name in &names {
        for harm in HARMS {
            let disk = disk.crash(Crash::Written);
            harm.happen(&disk, name, &other.content(name));
            let (store, found) = open_on(&disk);
            let what = format!("{name} {harm:?}");
            assert!(store.usage().damaged > 0, "{what}");
            check(&whole, &found, &what);
            let gone = whole.len() - found.len();
            assert!(
                gone > 0 || harm == Harm::Shorter,
                "{what}: some were nowhere else"
            );
            let first = names.first() == Some(name);
            let told = |found: &&Found| found.damage.is_some() || found.doubt.is_some();
            let lost_ends = found.iter().filter(told).count();
            // What was written behind it can't have lost anything in it.
            let limit = if first { whole.len() / 2 } else { whole.len() };
            assert!(
                (1..limit).contains(&lost_ends),
                "{what}: {lost_ends} of {}",
                whole.len()
            );
            store
                .append(key(1000), vec![record("goes on")], Sync::Synced)
                .await
                .unwrap();
            store.close().await;
            let (store, again) = open_on(&disk);
            assert_eq!(again.len(), found.len() + 1, "{what}");
            for (again, found) in again.iter().zip(&found) {
                let known = |found: &Found| (found.key, found.damage.is_some(), found.doubt.clone());
                assert_eq!(known(again), known(found), "{what}: what was found stays known");
                assert_eq!(again.records, found.records, "{what}");
            }
            assert!(again.last().unwrap().doubt.is_none());
            store.close().await;
        }
    }
}

#[tokio::test]
async fn the_newest_segment_is_missed_after_a_crash_too() {
    let (disk, store) = some_segments().await;
    let newest = disk.files("log").pop().unwrap().0;
    for harm in [Harm::Deleted, Harm::Emptied, Harm::Zeros] {
        let disk = disk.crash(Crash::Synced);
        harm.happen(&disk, &newest, &[]);
        let (store, found) = open_on(&disk);
        assert!(store.usage().damaged > 0, "{harm:?}");
        assert!(found.iter().any(|found| found.doubt.is_some()), "{harm:?}");
        store.close().await;
    }
    store.close().await;
}

#[tokio::test]
async fn what_is_missing_is_found_again_until_it_could_be_written_down() {
    let (disk, store) = some_segments().await;
    store.close().await;
    disk.take_away("log/0000000002.log");
    disk.heal();
    disk.set_budget(0);
    let (store, found) = open_on(&disk);
    assert!(store.usage().damaged > 0);
    store.close().await;
    disk.heal();
    for damaged in [1, 0] {
        let (store, again) = open_on(&disk);
        assert_eq!(again, found);
        assert_eq!(store.usage().damaged, damaged);
        store.close().await;
    }
}

/// Units of which a part is left, and is told to be a part, or may be one.
fn in_question(found: &[Found]) -> Vec<Key> {
    let told = |found: &&Found| found.damage.is_some() || found.doubt.is_some();
    let parts = found.iter().filter(|found| !found.records.is_empty());
    parts.filter(told).map(|found| found.key).collect()
}

/// Disks on which a segment is missing or ends too early, the second one or the newest; and what is wrong.
async fn shortened() -> Vec<(Faulty, String)> {
    let (whole, store) = some_segments().await;
    store.close().await;
    let names: Vec<_> = whole.files("log").into_iter().map(|(name, _)| name).collect();
    let mut disks = Vec::new();
    for name in [&names[1], &names[names.len() - 1]] {
        for harm in [
            Harm::Deleted,
            Harm::Emptied,
            Harm::HeadAlone,
            Harm::Shorter,
            Harm::Blank,
        ] {
            let disk = whole.crash(Crash::Written);
            harm.happen(&disk, name, &[]);
            disks.push((disk, format!("{name} {harm:?}")));
        }
    }
    disks
}

#[tokio::test]
async fn what_a_start_finds_that_fails_or_is_killed_is_found_by_the_next_one() {
    for (harmed, what) in shortened().await {
        let (store, found) = open_on(&harmed.crash(Crash::Written));
        let known = in_question(&found);
        assert!(!known.is_empty(), "{what}");
        store.close().await;
        for nth in 0.. {
            let disk = harmed.crash(Crash::Written);
            disk.fault(Fault::FailAny {
                nth,
                times: usize::MAX,
            });
            // It may be refused: the disk fails.
            if let Ok((store, _)) = Store::open_with(Arc::new(disk.clone()), small()) {
                store.close().await;
            }
            for left in [Crash::Written, Crash::Synced] {
                let (store, found) = open_on(&disk.crash(left));
                let again = in_question(&found);
                let lost: Vec<_> = known.iter().filter(|key| !again.contains(key)).collect();
                assert!(lost.is_empty(), "{what}, {left:?} from {nth} on: {lost:?}");
                store.close().await;
            }
            if disk.struck().borrow().is_empty() {
                break;
            }
        }
    }
}

#[tokio::test]
async fn what_could_not_be_written_down_is_not_covered_by_what_follows() {
    for (harmed, what) in shortened().await {
        for count in [1, 20, 200] {
            let disk = harmed.crash(Crash::Written);
            disk.set_budget(0);
            let (store, found) = open_on(&disk);
            let known = in_question(&found);
            disk.heal();
            for number in 1000..1000 + count {
                let entries = vec![record("goes"), payload(bytes(3, 300))];
                store.append(key(number), entries, Sync::Synced).await.unwrap();
                store.remove(key(number)).await.unwrap();
            }
            let (again, found) = open_on(&disk.crash(Crash::Written));
            let told = in_question(&found);
            let lost: Vec<_> = known.iter().filter(|key| !told.contains(key)).collect();
            assert!(lost.is_empty(), "{what}, {count} units later: {lost:?}");
            again.close().await;
            store.close().await;
        }
    }
}

#[tokio::test]
async fn damage_that_could_not_be_written_down_at_once_outlives_its_segment() {
    let (whole, store) = some_segments().await;
    store.close().await;
    let name = whole.files("log")[1].0.clone();
    let content = whole.content(&name);
    let is_record = |at: &usize| content[*at..].starts_with(&content[..8]);
    let records: Vec<_> = (24..content.len()).filter(is_record).collect();
    for first in [0, records.len() / 2, records.len() - 3] {
        let disk = whole.crash(Crash::Written);
        let mut bad = content.clone();
        bad[records[first] + 8..records[first + 1] + 20].fill(0xa5);
        disk.set_content(&name, bad);
        disk.set_budget(0);
        let (store, found) = Store::open_with(Arc::new(disk.clone()), small()).unwrap();
        let known = in_question(&found);
        assert!(!known.is_empty(), "from record {first} on");
        disk.heal();
        for number in (100..160).filter(|number| !known.contains(&key(*number))) {
            store.remove(key(number)).await.unwrap();
        }
        let gone = async {
            while disk.files("log").iter().any(|(there, _)| *there == name) {
                let entries = vec![record("garbage"), payload(bytes(3, 300))];
                store.append(key(1000), entries, Sync::Synced).await.unwrap();
                store.remove(key(1000)).await.unwrap();
            }
        };
        let patience = std::time::Duration::from_secs(60);
        tokio::time::timeout(patience, gone)
            .await
            .expect("the segment stays");
        let (again, found) = open_on(&disk.crash(Crash::Written));
        let told = in_question(&found);
        let lost: Vec<_> = known.iter().filter(|key| !told.contains(key)).collect();
        assert!(lost.is_empty(), "from record {first} on: {lost:?}");
        again.close().await;
        store.close().await;
    }
}

#[tokio::test]
async fn a_full_disk_does_not_take_a_list_that_says_what_nothing_else_does() {
    for (harmed, what) in shortened().await {
        let mut refused = 0;
        for nth in 0..70 {
            let disk = harmed.crash(Crash::Written);
            disk.set_budget(0);
            let (store, found) = open_on(&disk);
            let known = in_question(&found);
            disk.fault(Fault::Full {
                nth,
                times: usize::MAX,
            });
            disk.set_budget(u64::MAX);
            for number in (1..10).chain(110..160) {
                // What can't be removed stays.
                let _full = store.remove(key(number)).await;
            }
            let _full = store.append(key(1000), vec![record("last")], Sync::Synced).await;
            let (again, found) = open_on(&disk.crash(Crash::Written));
            let told = in_question(&found);
            let left = found.iter().map(|found| found.key);
            let lost: Vec<_> = left
                .filter(|key| known.contains(key) && !told.contains(key))
                .collect();
            assert!(lost.is_empty(), "{what}, no room from {nth} on: {lost:?}");
            refused += usize::from(!disk.struck().borrow().is_empty());
            again.close().await;
            store.close().await;
        }
        assert!(refused > 0, "{what}: there was room all the time");
    }
}

#[tokio::test]
async fn a_lost_list_is_reported_once_and_written_again() {
    let (disk, store) = some_segments().await;
    store.close().await;
    let list = disk.content("SEGMENTS");
    let foreign = "workmesh-store 1\nmark 8000000000000001\n";
    for bad in [
        None,
        Some(vec![]),
        Some(list[..60].to_vec()),
        Some(foreign.into()),
    ] {
        match bad {
            None => disk.take_away("SEGMENTS"),
            Some(bad) => disk.set_content("SEGMENTS", bad),
        }
        let (store, found) = open_on(&disk);
        assert_eq!(store.usage().damaged, 1);
        assert!(
            found
                .iter()
                .all(|found| found.damage.is_none() && found.doubt.is_none())
        );
        store.close().await;
        assert_eq!(disk.content("SEGMENTS"), list);
    }
}

#[tokio::test]
async fn appends_write_no_list() {
    let disk = Faulty::new();
    let settings = StoreSettings {
        segment_bytes: 1 << 20,
        ..small()
    };
    let (store, _) = Store::open_with(Arc::new(disk.clone()), settings).unwrap();
    store
        .append(key(1), vec![record("begins a segment")], Sync::Synced)
        .await
        .unwrap();
    disk.heal();
    for number in 2..50 {
        store
            .append(key(number), vec![record("more")], Sync::Synced)
            .await
            .unwrap();
    }
    let done = [Op::Create, Op::Rename, Op::SyncDir].map(|op| disk.count(op));
    assert_eq!((done, disk.count(Op::Sync)), ([0; 3], 48));
    store.close().await;
}

#[tokio::test]
async fn a_segment_that_is_removed_when_there_is_no_room_for_a_list_is_not_missed() {
    let mut without_list = 0;
    for nth in 0..120 {
        let disk = Faulty::new();
        let (store, _) = Store::open_with(Arc::new(disk.clone()), small()).unwrap();
        for number in 1..=40 {
            let entries = vec![record("stays or goes"), payload(bytes(3, 300))];
            store.append(key(number), entries, Sync::Synced).await.unwrap();
        }
        disk.fault(Fault::Full {
            nth,
            times: usize::MAX,
        });
        for number in 1..=36 {
            // What can't be removed stays.
            let _full = store.remove(key(number)).await;
        }
        // The store's thread has done what it wanted to do before this.
        let _full = store.append(key(41), vec![record("last")], Sync::Synced).await;
        let left = disk.crash(Crash::Written);
        without_list += usize::from(!left.has("SEGMENTS"));
        let (again, found) = Store::open_with(Arc::new(left), small()).unwrap();
        for found in found {
            assert_eq!((found.damage, found.doubt), (None, None), "no room from {nth} on");
        }
        again.close().await;
        disk.heal();
        store.close().await;
    }
    assert!(without_list > 0);
}

/// Appends and removes until there are so many segments.
async fn waste_until(store: &Store, numbers: &mut std::ops::RangeFrom<u128>, segments: u64) {
    while store.usage().segments < segments {
        let key = key(numbers.next().unwrap());
        let entries = vec![payload(bytes(1, 500))];
        store.append(key, entries, Sync::Synced).await.unwrap();
        store.remove(key).await.unwrap();
    }
}

#[tokio::test]
async fn a_removal_outlives_what_it_removed_over_a_restart_too() {
    let disk = Faulty::new();
    let (store, _) = open_on(&disk);
    // The first segment has a unit that stays, and one that goes.
    for number in [1, 2] {
        let entries = vec![record("first"), payload(bytes(1, 500))];
        store.append(key(number), entries, Sync::Synced).await.unwrap();
    }
    let mut garbage = 100..;
    waste_until(&store, &mut garbage, 2).await;
    // The second one has its removal, and nothing that counts.
    store.remove(key(2)).await.unwrap();
    waste_until(&store, &mut garbage, 3).await;
    store.close().await;
    let (store, found) = open_on(&disk);
    assert_eq!(found.len(), 1);
    // What is tidied up is tidied up before the next append is carried out.
    for _ in 0..3 {
        store
            .append(key(1), vec![record("more")], Sync::Synced)
            .await
            .unwrap();
    }
    store.close().await;
    let (store, found) = open_on(&disk);
    assert_eq!(found.iter().map(|found| found.key).collect::<Vec<_>>(), [key(1)]);
    store.close().await;
}
