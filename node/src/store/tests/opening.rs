//! Every operation of an opening fails once, the reading ones too: the store is refused, or opens with all that is there, and the next
//! opening finds what the failed one had before it.

use std::collections::{BTreeMap, BTreeSet};

use super::faulty::{Crash, Faulty};
use super::tripping::{Call, Done, Tripping};
use super::*;

/// Several small segments, and nothing is tidied up: what a test finds on the disk is what the opening has left.
fn settings() -> StoreSettings {
    StoreSettings {
        segment_bytes: 2 << 10,
        garbage_bytes: 1 << 20,
        ..small()
    }
}

/// Several segments, data files, and units that were removed; the last two appends are not synced.
async fn some_store() -> (Faulty, Store) {
    let disk = Faulty::new();
    let (store, _) = Store::open_with(Arc::new(disk.clone()), settings()).unwrap();
    for round in 0..14_u128 {
        for number in [1 + round % 4, 100 + round] {
            let mut entries = vec![record(&format!("{number} in {round}")), payload(bytes(3, 60))];
            if round % 6 == 1 {
                entries.push(responses(bytes(round as usize, 900)));
            }
            store.append(key(number), entries, Sync::Synced).await.unwrap();
        }
        if round % 5 == 3 {
            store.remove(key(100 + round - 1)).await.unwrap();
        }
    }
    store
        .append(key(1), vec![responses(bytes(50, 700))], Sync::Written)
        .await
        .unwrap();
    store
        .append(
            key(200),
            vec![record("small"), payload(bytes(51, 100))],
            Sync::Written,
        )
        .await
        .unwrap();
    assert!(store.usage().segments >= 3, "{:?}", store.usage());
    assert!(store.usage().data_files >= 4, "{:?}", store.usage());
    (disk, store)
}

fn segments(disk: &Faulty) -> Vec<String> {
    disk.files("log").into_iter().map(|(name, _)| name).collect()
}

fn newest(disk: &Faulty) -> String {
    segments(disk).pop().unwrap()
}

/// Where the last record of a segment begins.
fn last_record(content: &[u8]) -> usize {
    let record = |at: &usize| content[*at..].starts_with(&content[..8]);
    (24..content.len()).rfind(record).unwrap()
}

fn change(disk: &Faulty, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let mut content = disk.content(name);
    change(&mut content);
    disk.set_content(name, content);
}

/// The newest segment ends within a record.
fn tear(disk: &Faulty) {
    change(disk, &newest(disk), |content| {
        let last = last_record(content);
        content.truncate(last + 100);
    });
}

/// What a start of before has left undone.
fn leave_over(disk: &Faulty) {
    disk.set_content("log/0000000099.log.new", bytes(1, 300).to_vec());
    disk.set_content("FORMAT.new", b"workmesh".to_vec());
    disk.set_content("SEGMENTS.new", b"workmesh".to_vec());
    disk.set_content("data/notes.txt", vec![2; 10]);
    let gone = key(777).unit;
    disk.set_content(&format!("data/origin-{gone}-5-payload"), vec![7; 10]);
}

fn damage_record(disk: &Faulty) {
    change(disk, &segments(disk)[1], |content| {
        let last = last_record(content);
        content[last + 95] ^= 1;
    });
}

fn damage_several(disk: &Faulty) {
    change(disk, &segments(disk)[0], |content| content[300..900].fill(0xa5));
}

fn miss_segment(disk: &Faulty) {
    disk.take_away(&segments(disk)[1]);
}

fn damage_streams(disk: &Faulty) {
    let files = disk.files("data");
    let ours: Vec<_> = files
        .iter()
        .filter(|(name, _)| name.ends_with("responses"))
        .collect();
    disk.take_away(&ours[0].0);
    change(disk, &ours[1].0, |content| content.truncate(10));
}

fn behead(disk: &Faulty, name: &str) {
    change(disk, name, |content| content[20] ^= 1);
}

/// A store in some state, and what it is called when a test fails.
struct Scene {
    what: &'static str,
    disk: Faulty,
}

async fn scenes() -> Vec<Scene> {
    let (disk, store) = some_store().await;
    let killed = disk.kill();
    store.close().await;
    let closed = || disk.crash(Crash::Written);
    let synced = killed.crash(Crash::Written);
    let crashed = || synced.crash(Crash::Written);
    let mut scenes = Vec::new();
    let mut add = |what, disk: Faulty, happen: &dyn Fn(&Faulty)| {
        happen(&disk);
        scenes.push(Scene { what, disk });
    };
    add("new", Faulty::new(), &|_| {});
    add("closed", closed(), &leave_over);
    add("killed", killed, &|_| {});
    add("torn", crashed(), &tear);
    add("torn and damaged", crashed(), &|disk| {
        leave_over(disk);
        damage_record(disk);
        tear(disk);
    });
    add("closed and torn later", closed(), &tear);
    add("damaged", closed(), &|disk| {
        leave_over(disk);
        damage_record(disk);
        damage_several(disk);
        damage_streams(disk);
    });
    add("a segment is missing", closed(), &|disk| {
        leave_over(disk);
        miss_segment(disk);
    });
    add("the newest segment is missing", closed(), &|disk| {
        leave_over(disk);
        disk.take_away(&newest(disk));
    });
    add("FORMAT is damaged", closed(), &|disk| {
        change(disk, "FORMAT", |content| content[20] ^= 1);
    });
    add("FORMAT is missing", closed(), &|disk| disk.take_away("FORMAT"));
    add("SEGMENTS is missing", closed(), &|disk| {
        leave_over(disk);
        disk.take_away("SEGMENTS");
    });
    add("both are damaged", closed(), &|disk| {
        change(disk, "FORMAT", |content| content[45] ^= 1);
        change(disk, "SEGMENTS", |content| content[60] ^= 1);
    });
    add("the newest has no head, and is torn", crashed(), &|disk| {
        behead(disk, &newest(disk));
        tear(disk);
    });
    add(
        "an older one ends in zeros, and nothing lists it",
        closed(),
        &|disk| {
            disk.take_away("SEGMENTS");
            change(disk, &segments(disk)[1], |content| {
                let last = last_record(content);
                content[last..].fill(0);
            });
        },
    );
    scenes
}

/// What a store has, and what is known of it.
#[derive(Debug, PartialEq)]
struct Seen {
    units: BTreeMap<u128, (Found, [Vec<u8>; 2])>,
}

async fn see(store: &Store, found: Vec<Found>) -> Seen {
    let mut units = BTreeMap::new();
    for found in found {
        let mut streams = [Vec::new(), Vec::new()];
        for which in Stream::ALL {
            streams[which.index()] = stream(store, found.key, which).await;
        }
        units.insert(found.key.unit.0.as_u128(), (found, streams));
    }
    Seen { units }
}

/// Opens what is there, with nothing failing.
async fn look(disk: &Faulty) -> Seen {
    let (store, found) = Store::open_with(Arc::new(disk.clone()), settings()).unwrap();
    let seen = see(&store, found).await;
    store.close().await;
    seen
}

/// Everything is there, and what is damaged or in doubt is told to be.
fn check(whole: &Seen, seen: &Seen, what: &str) {
    let numbers = |seen: &Seen| seen.units.keys().copied().collect::<BTreeSet<_>>();
    assert_eq!(numbers(seen), numbers(whole), "{what}");
    for (number, (before, streams)) in &whole.units {
        let (found, read) = &seen.units[number];
        assert_eq!(found.records, before.records, "{what}: {number}");
        assert!(read == streams, "{what}: the streams of {number}");
        let told = |found: &Found| (found.damage.is_some(), found.doubt.is_some());
        assert_eq!(told(found), told(before), "{what}: {number}: {found:?}");
    }
}

/// Copies of what was damaged, and where they are.
fn copies(disk: &Faulty) -> BTreeMap<String, Vec<u8>> {
    let names = disk.files("damaged").into_iter().map(|(name, _)| name);
    names.map(|name| (name.clone(), disk.content(&name))).collect()
}

fn check_copies(kept: &BTreeMap<String, Vec<u8>>, disk: &Faulty, what: &str) {
    for (name, content) in kept {
        let copied = disk.has(name) && disk.content(name) == *content;
        assert!(copied, "{what}: {name} is not what was damaged");
    }
}

fn check_error(error: &StoreError, call: Call, name: &str, what: &str) {
    let line = error.to_string();
    let named = line.contains(name.trim_end_matches(".new"));
    assert!(named && !line.contains('\n'), "{what}: {call:?} {name}: {line}");
}

/// Which operations have failed, and how many openings with them.
#[derive(Default)]
struct Tally {
    struck: BTreeSet<Call>,
    refused: BTreeSet<Call>,
}

/// Whether everything is on the disk in spite of that. Of a file of a stream the system may have dropped what it could not sync.
fn is_all_synced(call: Call, name: &str) -> bool {
    !(matches!(call, Call::Sync | Call::Open) && name.starts_with("data/"))
}

async fn fail_each(scene: &Scene, done: Done, tally: &mut Tally) {
    let reference = scene.disk.kill();
    let whole = look(&reference).await;
    let kept = copies(&reference);
    for nth in 0.. {
        let disk = scene.disk.kill();
        let tripping = Tripping::new(&disk, nth, done);
        let opened = Store::open_with(Arc::new(tripping.clone()), settings());
        tripping.heal();
        disk.heal();
        let Some((call, name)) = tripping.struck() else {
            opened.unwrap().0.close().await;
            return assert!(nth > 10, "{}", scene.what);
        };
        let only = match done {
            Done::Nothing | Done::NothingAnyMore => call,
            Done::Half => Call::Write,
            Done::NoneToRead => Call::Read,
        };
        if call != only {
            continue;
        }
        let what = format!("{}, {call:?} of {name:?} (operation {nth}), {done:?}", scene.what);
        tally.struck.insert(call);
        let synced = is_all_synced(call, &name) && done != Done::NothingAnyMore;
        match opened {
            Err(error) => {
                check_error(&error, call, &name, &what);
                tally.refused.insert(call);
            }
            Ok((store, found)) => {
                check(&whole, &see(&store, found).await, &what);
                let crash = if synced { Crash::Unlinked } else { Crash::Written };
                let seen = look(&disk.crash(crash)).await;
                check(&whole, &seen, &format!("{what}, then {crash:?}"));
                store.close().await;
            }
        }
        check(&whole, &look(&disk).await, &format!("{what}, then again"));
        check_copies(&kept, &disk, &what);
        if synced {
            let left = disk.crash(Crash::Synced);
            let seen = look(&left).await;
            check(&whole, &seen, &format!("{what}, then again without power"));
            check_copies(&kept, &left, &what);
        }
    }
}

#[tokio::test]
async fn any_operation_of_an_opening_may_fail() {
    let mut tally = Tally::default();
    for scene in scenes().await {
        for done in [Done::Nothing, Done::Half, Done::NoneToRead, Done::NothingAnyMore] {
            fail_each(&scene, done, &mut tally).await;
        }
    }
    assert_eq!(tally.struck.len(), 13, "{:?}", tally.struck);
    for call in [Call::Open, Call::Read, Call::Length, Call::List] {
        assert!(tally.refused.contains(&call), "{call:?}: {:?}", tally.refused);
    }
}

#[tokio::test]
async fn a_store_that_could_not_be_taken_over_is_taken_over_by_the_next_opening() {
    let next = Versions {
        oldest: Versions::OWN.oldest,
        known: Versions::OWN.known + 1,
    };
    let (old, store) = some_store().await;
    store.close().await;
    let whole = look(&old.crash(Crash::Written)).await;
    let mut refused = BTreeSet::new();
    for nth in 0.. {
        let disk = old.kill();
        let tripping = Tripping::new(&disk, nth, Done::Nothing);
        let opened = Store::open_as(Arc::new(tripping.clone()), settings(), next);
        tripping.heal();
        let Some((call, name)) = tripping.struck() else {
            opened.unwrap().0.close().await;
            break;
        };
        let what = format!("{call:?} of {name:?} (operation {nth})");
        match opened {
            Err(error) => {
                check_error(&error, call, &name, &what);
                refused.insert(name);
            }
            Ok((store, _)) => store.close().await,
        }
        for crash in [Crash::Written, Crash::Synced] {
            let left = disk.crash(crash);
            let (store, found) = Store::open_as(Arc::new(left.clone()), settings(), next).unwrap();
            assert_eq!(store.usage().damaged, 0, "{what}, {crash:?}");
            check(&whole, &see(&store, found).await, &format!("{what}, {crash:?}"));
            store.close().await;
            for name in ["SEGMENTS", "FORMAT"] {
                let content = left.content(name);
                let title = format!("workmesh-store {}\n", next.known);
                assert!(content.starts_with(title.as_bytes()), "{what}: {name}");
            }
        }
    }
    for name in ["FORMAT.new", "SEGMENTS.new"] {
        assert!(refused.contains(name), "{refused:?}");
    }
}
