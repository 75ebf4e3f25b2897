//! Reads fail while the store is open: whoever asked is told, nothing is lost, and when they go well again every byte is there.

use super::faulty::{Crash, Fault, Faulty, Op};
use super::*;

/// Reads that fail, from the `nth` on.
fn no_read(nth: usize, times: usize) -> Fault {
    Fault::Fail {
        op: Op::Read,
        nth,
        times,
    }
}

/// A unit whose responses stand in the log and in a file, in many pieces.
async fn large_unit(store: &Store) -> Vec<u8> {
    let mut whole = Vec::new();
    for piece in 0..12 {
        let data = bytes(piece, if piece < 5 { 90 } else { 40_000 });
        whole.extend(&data);
        let entries = vec![record(&piece.to_string()), responses(data)];
        store.append(key(1), entries, Sync::Synced).await.unwrap();
    }
    whole
}

/// Reads a stream to its end, and again what could not be read. Answers also with the failures.
async fn read_on(store: &Store) -> (Vec<u8>, Vec<StoreError>) {
    let (mut all, mut errors) = (Vec::new(), Vec::new());
    loop {
        match store
            .read(key(1), Stream::Responses, all.len() as u64, 100_000)
            .await
        {
            Ok(piece) if piece.is_empty() => return (all, errors),
            Ok(piece) => all.extend(piece),
            Err(error) => errors.push(error),
        }
    }
}

#[tokio::test]
async fn a_read_that_fails_is_told_and_goes_well_the_next_time() {
    let disk = Faulty::new();
    let (store, _) = Store::open_with(Arc::new(disk.clone()), small()).unwrap();
    let whole = large_unit(&store).await;
    let (mut in_log, mut in_file) = (0, 0);
    for op in [Op::Read, Op::Open] {
        for nth in 0.. {
            disk.heal();
            // Another file, so that the one in question is opened again.
            let other = vec![responses(bytes(1, 900))];
            store.append(key(2), other, Sync::Synced).await.unwrap();
            store.read(key(2), Stream::Responses, 0, 900).await.unwrap();
            disk.fault(Fault::Fail { op, nth, times: 2 });
            let failures = store.usage().failures;
            let (read, errors) = read_on(&store).await;
            assert!(read == whole, "{op:?} {nth}: {} bytes", read.len());
            for error in &errors {
                let line = error.to_string();
                in_log += usize::from(line.contains("store/log/0000000001.log"));
                in_file += usize::from(line.contains("store/data/origin-"));
                assert!(matches!(error, StoreError::Io { .. }), "{line}");
            }
            assert_eq!(store.usage().failures, failures + errors.len() as u64);
            if errors.is_empty() {
                break;
            }
        }
    }
    assert!(in_log > 5 && in_file > 5, "{in_log} and {in_file}");
    disk.fault(no_read(0, usize::MAX));
    let more = store
        .append(key(1), vec![responses(bytes(20, 70_000))], Sync::Synced)
        .await;
    more.unwrap();
    assert!(store.read(key(1), Stream::Responses, 0, 10).await.is_err());
    disk.heal();
    let (read, errors) = read_on(&store).await;
    assert!(errors.is_empty() && read == [whole, bytes(20, 70_000).to_vec()].concat());
    store.close().await;
}

/// The units that stay: each has its record and its payload in the first segment.
const STAY: std::ops::Range<u128> = 1..6;

/// A store whose first segment is mostly garbage, but not so much that it is emptied at once.
async fn garbage(disk: &Faulty) -> Store {
    let (store, _) = Store::open_with(Arc::new(disk.clone()), small()).unwrap();
    for number in STAY {
        let entries = vec![record(&number.to_string()), payload(bytes(number as usize, 300))];
        store.append(key(number), entries, Sync::Synced).await.unwrap();
    }
    store
}

/// One unit comes and goes.
async fn pass(store: &Store) {
    let entries = vec![record("goes"), payload(bytes(7, 500))];
    store.append(key(1000), entries, Sync::Synced).await.unwrap();
    store.remove(key(1000)).await.unwrap();
}

async fn check_stays(store: &Store) {
    for number in STAY {
        let read = stream(store, key(number), Stream::Payload).await;
        assert!(read == bytes(number as usize, 300), "{number}");
    }
}

async fn check_left(disk: &Faulty) {
    for crash in [Crash::Written, Crash::Synced, Crash::Unlinked] {
        let left = disk.crash(crash);
        let (store, found) = Store::open_with(Arc::new(left), small()).unwrap();
        assert_eq!(store.usage().damaged, 0, "{crash:?}");
        let stays = found
            .iter()
            .filter(|unit| STAY.contains(&unit.key.unit.0.as_u128()));
        assert_eq!(stays.clone().count(), STAY.count(), "{crash:?}");
        for unit in stays {
            let text = unit.key.unit.0.as_u128().to_string();
            assert_eq!(unit.records, [text], "{crash:?}");
            assert_eq!((&unit.damage, &unit.doubt), (&None, &None), "{crash:?}");
        }
        check_stays(&store).await;
        store.close().await;
    }
}

#[tokio::test]
async fn what_is_found_damaged_when_its_segment_is_emptied_is_kept_and_said() {
    const OLDEST: &str = "log/0000000001.log";
    let disk = Faulty::new();
    let store = garbage(&disk).await;
    let content = disk.content(OLDEST);
    let record = |at: &usize| content[*at..].starts_with(&content[..8]);
    let records: Vec<_> = (24..content.len()).filter(record).collect();
    // In the body of the record of unit 3, and in the header of that of unit 4.
    disk.spoil(OLDEST, records[2] + 100);
    disk.spoil(OLDEST, records[3] + 40);
    let until_gone = async {
        while disk.has(OLDEST) {
            pass(&store).await;
        }
    };
    let patience = std::time::Duration::from_secs(60);
    tokio::time::timeout(patience, until_gone)
        .await
        .expect("the segment stays");
    for (at, byte) in [(2, 100), (3, 40)] {
        let (from, to) = (records[at], records[at + 1]);
        let mut damaged = content[from..to].to_vec();
        damaged[byte] ^= 1;
        let name = format!("damaged/0000000001-{from}");
        assert!(disk.has(&name), "{:?}", disk.files("damaged"));
        assert!(disk.content(&name) == damaged, "{name}");
    }
    for crash in [Crash::Written, Crash::Synced] {
        let left = disk.crash(crash);
        assert_eq!(left.files("damaged").len(), 2, "{crash:?}");
        let (store, found) = Store::open_with(Arc::new(left), small()).unwrap();
        for number in STAY {
            let unit = found.iter().find(|unit| unit.key == key(number));
            if [3, 4].contains(&number) {
                let told = unit.is_some_and(|unit| unit.damage.is_some());
                assert!(told, "{crash:?}: {unit:?}");
                continue;
            }
            assert!(
                unit.is_some_and(|unit| unit.damage.is_none()),
                "{crash:?}: {number}"
            );
            assert!(stream(&store, key(number), Stream::Payload).await == bytes(number as usize, 300));
        }
        store.close().await;
    }
    store.close().await;
}

#[tokio::test]
async fn a_segment_that_can_not_be_read_is_not_removed() {
    const OLDEST: &str = "log/0000000001.log";
    let mut failed = 0;
    for (nth, times) in [(0, 1), (1, 1), (2, 1), (0, usize::MAX), (1, usize::MAX)] {
        let disk = Faulty::new();
        let store = garbage(&disk).await;
        disk.fault(no_read(nth, times));
        let mut struck = disk.struck();
        let until_read = async {
            while struck.borrow_and_update().is_empty() && disk.has(OLDEST) {
                pass(&store).await;
            }
        };
        let patience = std::time::Duration::from_secs(60);
        tokio::time::timeout(patience, until_read)
            .await
            .expect("nothing is tidied up");
        let hit = !disk.struck().borrow().is_empty();
        failed += usize::from(hit);
        if times > 1 {
            for _ in 0..20 {
                pass(&store).await;
                assert!(disk.has(OLDEST), "from read {nth} on");
            }
            check_left(&disk).await;
        }
        disk.heal();
        check_stays(&store).await;
        let until_gone = async {
            while disk.has(OLDEST) {
                pass(&store).await;
            }
        };
        tokio::time::timeout(patience, until_gone)
            .await
            .expect("the segment stays");
        check_stays(&store).await;
        check_left(&disk).await;
        store.close().await;
        check_left(&disk).await;
    }
    assert!(failed >= 4, "{failed}");
}
