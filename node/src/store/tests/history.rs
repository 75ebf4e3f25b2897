//! What was done to a store and how it was answered, and whether what is found later fits to that.

use std::collections::BTreeMap;

use super::faulty::{Crash, Faulty};
use super::*;

/// How an operation was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Done,
    /// It must never be found.
    Full,
    /// It may be found after a crash.
    Doubtful,
}

/// An append: one record with a text of its own, and bytes for the streams.
#[derive(Clone, Debug)]
struct Appended {
    text: Bytes,
    data: [Vec<u8>; 2],
    sync: Sync,
    answer: Answer,
}

#[derive(Clone, Debug, Default)]
struct Past {
    appends: Vec<Appended>,
    removed: Option<Answer>,
}

/// Carries out operations and remembers them.
pub(super) struct History {
    store: Store,
    keys: BTreeMap<u128, Past>,
    count: usize,
    /// Failures that were answered.
    pub(super) failures: usize,
    /// Whether the disk may lose what it was given before a sync that failed: a file has what was synced then.
    pub(super) forgetful: bool,
}

fn judge(answer: &Result<(), StoreError>) -> Answer {
    match answer {
        Ok(()) => Answer::Done,
        Err(StoreError::Full) => Answer::Full,
        Err(_) => Answer::Doubtful,
    }
}

impl History {
    pub(super) fn new(store: Store) -> Self {
        Self {
            store,
            keys: BTreeMap::new(),
            count: 0,
            failures: 0,
            forgetful: false,
        }
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    pub(super) fn store_mut(&mut self) -> &mut Store {
        &mut self.store
    }

    /// Appends a record, `payload` and `responses` bytes; answers whether it is stored.
    pub(super) async fn append(&mut self, number: u128, sizes: [usize; 2], sync: Sync) -> bool {
        self.count += 1;
        let count = self.count;
        let text = Bytes::from(format!("{number}/{count}"));
        let data = sizes.map(|size| bytes(count, size).to_vec());
        let [sent, answered] = data.clone().map(Bytes::from);
        let entries = vec![Entry::Record(text.clone()), payload(sent), responses(answered)];
        let answer = judge(&self.store.append(key(number), entries, sync).await);
        self.failures += usize::from(answer != Answer::Done);
        let past = self.keys.entry(number).or_default();
        assert_eq!(past.removed, None, "a test removes a key once");
        past.appends.push(Appended {
            text,
            data,
            sync,
            answer,
        });
        answer == Answer::Done
    }

    pub(super) async fn remove(&mut self, number: u128) -> bool {
        let answer = judge(&self.store.remove(key(number)).await);
        self.failures += usize::from(answer != Answer::Done);
        self.keys.entry(number).or_default().removed = Some(answer);
        answer == Answer::Done
    }

    /// Reads everything: what is acknowledged is there, and what failed is not.
    pub(super) async fn check_reads(&self) {
        for (number, past) in &self.keys {
            let lives = past.appends.iter().any(|append| append.answer == Answer::Done);
            match past.removed {
                Some(Answer::Done) => continue,
                _ if !lives => continue,
                _ => {}
            }
            for which in Stream::ALL {
                let done = past.appends.iter().filter(|append| append.answer == Answer::Done);
                let expected = done.flat_map(|append| append.data[which.index()].clone());
                let expected: Vec<u8> = expected.collect();
                let found = stream(&self.store, key(*number), which).await;
                assert!(found == expected, "{which:?} of {number}: {} bytes", found.len());
            }
        }
    }

    /// Opens what a crash leaves of the disk, and compares.
    pub(super) async fn check_crash(&self, disk: &Faulty, crash: Crash) {
        let left = disk.crash(crash);
        let (store, found) = Store::open_with(Arc::new(left), small()).unwrap();
        self.check_found(&store, &found, crash).await;
        if !self.forgetful {
            assert_eq!(store.usage().damaged, 0, "{found:?}");
            assert!(found.iter().all(|unit| unit.doubt.is_none()), "{found:?}");
        }
        store.close().await;
    }

    /// Compares what was found with what may and must be there.
    pub(super) async fn check_found(&self, store: &Store, found: &[Found], crash: Crash) {
        for unit in found {
            assert!(
                self.keys.keys().any(|number| key(*number) == unit.key),
                "{unit:?}"
            );
        }
        for (number, past) in &self.keys {
            let unit = found.iter().find(|unit| unit.key == key(*number));
            match (unit, past.removed) {
                (Some(_), Some(Answer::Done)) if crash == Crash::Written => panic!("{number} is back"),
                (None, Some(_)) => {}
                (None, None) => assert_eq!(past.must(crash), 0, "{number} is gone: {past:?}"),
                (Some(unit), _) => past.compare(store, unit, crash, self.forgetful).await,
            }
        }
    }
}

impl Past {
    /// How many appends, from the first on, have to be there unless they failed.
    fn must(&self, crash: Crash) -> usize {
        let counts = |append: &Appended| {
            append.answer == Answer::Done && (crash == Crash::Written || append.sync == Sync::Synced)
        };
        self.appends.iter().rposition(counts).map_or(0, |last| last + 1)
    }

    async fn compare(&self, store: &Store, unit: &Found, crash: Crash, forgetful: bool) {
        let must = self.must(crash);
        let must_bytes = if forgetful { self.must(Crash::Synced) } else { must };
        let mut records = unit.records.iter().peekable();
        let mut whole = [Vec::new(), Vec::new()];
        let mut needed = [0, 0];
        let mut gap = false;
        for (at, append) in self.appends.iter().enumerate() {
            let there = records.next_if(|text| **text == append.text).is_some();
            match append.answer {
                Answer::Done if at < must => assert!(there, "{append:?} is missing in {unit:?}"),
                Answer::Done => {
                    assert!(!there || !gap, "{append:?} has a gap before it");
                    gap |= !there;
                }
                Answer::Full => assert!(!there, "{append:?} was refused: {unit:?}"),
                Answer::Doubtful => {}
            }
            if there {
                for (whole, data) in whole.iter_mut().zip(&append.data) {
                    whole.extend(data);
                }
            }
            if at < must_bytes {
                needed = [whole[0].len(), whole[1].len()];
            }
        }
        assert_eq!(records.next(), None, "more in {unit:?} than in {self:?}");
        for which in Stream::ALL {
            let found = stream(store, unit.key, which).await;
            let told = [unit.payload_bytes, unit.response_bytes][which.index()];
            assert_eq!(found.len() as u64, told, "{which:?} of {unit:?}");
            let whole = &whole[which.index()];
            assert!(
                whole.starts_with(&found),
                "{which:?} of {unit:?} is not what was sent"
            );
            assert!(
                found.len() >= needed[which.index()],
                "{which:?} of {unit:?} is too short: {self:?}"
            );
        }
        let doubtful = self.appends.iter().any(|append| append.answer != Answer::Done);
        assert!(unit.damage.is_none() || doubtful, "{unit:?}");
    }
}
