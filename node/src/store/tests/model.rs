//! Random lives of a store, compared with a model that keeps everything in memory.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::faulty::{Crash, Faulty};
use super::*;

#[derive(Clone, Debug)]
enum Step {
    Append {
        number: u128,
        sizes: [usize; 2],
        records: usize,
        sync: bool,
    },
    Remove {
        number: u128,
    },
    Reopen,
    /// The process dies, or the power goes; everything was synced before.
    Crash {
        power: bool,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let size = || prop_oneof![Just(0_usize), 1..400_usize, 400..3000_usize];
    let append = (0..6_u128, size(), size(), 0..3_usize, any::<bool>()).prop_map(
        |(number, payload, responses, records, sync)| Step::Append {
            number,
            sizes: [payload, responses],
            records,
            sync,
        },
    );
    let step = prop_oneof![
        12 => append,
        4 => (0..6_u128).prop_map(|number| Step::Remove { number }),
        1 => Just(Step::Reopen),
        1 => any::<bool>().prop_map(|power| Step::Crash { power }),
    ];
    prop::collection::vec(step, 1..60)
}

#[derive(Clone, Debug, Default)]
struct Unit {
    records: Vec<Bytes>,
    streams: [Vec<u8>; 2],
}

async fn compare(store: &Store, found: &[Found], model: &BTreeMap<u128, Unit>) {
    assert_eq!(found.len(), model.len());
    for (number, unit) in model {
        let found = found.iter().find(|found| found.key == key(*number)).unwrap();
        assert_eq!(found.records, unit.records);
        assert_eq!(found.damage, None);
        let lengths = [found.payload_bytes, found.response_bytes];
        assert_eq!(lengths, unit.streams.each_ref().map(|stream| stream.len() as u64));
        for which in Stream::ALL {
            let read = stream(store, key(*number), which).await;
            assert!(read == unit.streams[which.index()], "{which:?} of {number}");
        }
    }
}

async fn play(steps: Vec<Step>) {
    let mut disk = Faulty::new();
    let (mut store, _) = Store::open_with(Arc::new(disk.clone()), small()).unwrap();
    let mut model: BTreeMap<u128, Unit> = BTreeMap::new();
    for (count, step) in steps.into_iter().enumerate() {
        match step {
            Step::Append {
                number,
                sizes,
                records,
                sync,
            } => {
                let unit = model.entry(number).or_default();
                let mut entries = Vec::new();
                for part in 0..records {
                    entries.push(record(&format!("{count}.{part}")));
                    unit.records.push(Bytes::from(format!("{count}.{part}")));
                }
                for which in Stream::ALL {
                    let data = bytes(count, sizes[which.index()]);
                    unit.streams[which.index()].extend(&data);
                    entries.push(Entry::Data(which, data));
                }
                let sync = if sync { Sync::Synced } else { Sync::Written };
                store.append(key(number), entries, sync).await.unwrap();
            }
            Step::Remove { number } => {
                model.remove(&number);
                store.remove(key(number)).await.unwrap();
            }
            Step::Reopen => {
                store.close().await;
                let (opened, found) = Store::open_with(Arc::new(disk.clone()), small()).unwrap();
                store = opened;
                compare(&store, &found, &model).await;
            }
            Step::Crash { power } => {
                let crash = if power { Crash::Synced } else { Crash::Written };
                if power {
                    store.close().await;
                }
                disk = disk.crash(crash);
                let (opened, found) = Store::open_with(Arc::new(disk.clone()), small()).unwrap();
                compare(&opened, &found, &model).await;
                store.close().await;
                store = opened;
            }
        }
    }
    store.close().await;
    let (store, found) = Store::open_with(Arc::new(disk.clone()), small()).unwrap();
    compare(&store, &found, &model).await;
    let usage = store.usage();
    let data: usize = disk.files("data").iter().map(|(_, bytes)| bytes).sum();
    assert_eq!(usage.data_bytes, data as u64);
    assert_eq!(usage.data_files, disk.files("data").len() as u64);
    let log: usize = disk.files("log").iter().map(|(_, bytes)| bytes).sum();
    assert_eq!(usage.log_bytes, log as u64);
    store.close().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_store_is_what_a_model_says(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(play(steps));
    }
}
