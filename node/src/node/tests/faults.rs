//! Every file operation in the life of a durable unit fails, at its origin and at its executor: it never succeeds falsely, it runs at
//! most once and ends once, the nodes stay up, and other units are not harmed.
//!
//! A small unit's operations fail one by one, in every way; of the lives of larger ones, which have more of them, some trials are
//! taken. `DURABLE_FAULTS=count` sets how many trials each life has; all there are, if that is more.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::site::Identities;
use super::trial::{Class, Side, Then, Trial};
use crate::Kind;
use crate::store::faulty::{Crash, Fault, Op};

/// Trials that are under way at once: they wait for most of their time.
const THREADS: usize = 8;
/// Trials of a life with files, unless told otherwise.
const LARGE_TRIALS: usize = 32;

/// In which ways the `nth` operation can fail.
fn faults(nth: usize) -> [Fault; 5] {
    let ever = usize::MAX;
    [
        Fault::FailAny { nth, times: 1 },
        Fault::Halve { nth },
        Fault::Full { nth, times: 1 },
        Fault::Full { nth, times: ever },
        Fault::FailAny { nth, times: ever },
    ]
}

/// A life of a unit, with the disk that fails in it.
struct Life<'a> {
    identities: &'a Identities,
    class: Class,
    side: Side,
}

impl Life<'_> {
    /// Its operations that change something, when nothing fails.
    fn changes(&self) -> usize {
        let clean = Trial {
            class: self.class,
            side: self.side,
            fault: None,
            then: Then::Heal,
            left: Crash::Synced,
        };
        let seen = clean.run(self.identities);
        assert_eq!((seen.refused, seen.end), (None, Some(Kind::Ok)));
        seen.changes
    }

    /// Its trials: each operation fails in every way, then again with something else to follow.
    fn trials(&self) -> Vec<Trial> {
        let thens = [Then::Heal, Then::Cut, Then::Stop];
        let lefts = [Crash::Written, Crash::Synced];
        let changes = self.changes();
        let mut trials = Vec::new();
        for round in 0..thens.len() * lefts.len() {
            for nth in 0..changes {
                let mut faults = faults(nth);
                // So that a stride meets all of them.
                let ways = faults.len();
                faults.rotate_left(nth % ways);
                for (way, fault) in faults.into_iter().enumerate() {
                    let turn = round + nth + way;
                    trials.push(Trial {
                        class: self.class,
                        side: self.side,
                        fault: Some(fault),
                        then: thens[turn % thens.len()],
                        left: lefts[turn / thens.len() % lefts.len()],
                    });
                }
            }
        }
        let asked = std::env::var("DURABLE_FAULTS").ok();
        let count = asked.map(|count| count.parse().expect("DURABLE_FAULTS is a number"));
        let once = faults(0).len() * changes;
        match (count, self.class) {
            (Some(count), _) if count >= once => trials.truncate(count),
            (None, class) if class.is_small() => trials.truncate(once),
            (count, _) => {
                let count = count.unwrap_or(LARGE_TRIALS).min(once);
                trials = (0..count).map(|at| trials[at * once / count]).collect();
            }
        }
        trials
    }
}

/// Runs them all; answers with the operations that have failed, each once for a trial, and how many trials had one.
fn run(identities: &Identities, trials: &[Trial]) -> (BTreeSet<Op>, usize) {
    let next = AtomicUsize::new(0);
    let struck = Mutex::new((BTreeSet::new(), 0));
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(trial) = trials.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let seen = catch_unwind(AssertUnwindSafe(|| trial.run(identities)));
                    let seen = seen.unwrap_or_else(|_| {
                        next.store(trials.len(), Ordering::Relaxed);
                        panic!("{trial:?}")
                    });
                    let mut struck = struck.lock().unwrap();
                    struck.1 += usize::from(!seen.struck.is_empty());
                    struck.0.extend(seen.struck);
                }
            });
        }
    });
    struck.into_inner().unwrap()
}

#[test]
fn a_disk_may_fail_in_every_operation_of_a_units_life() {
    let identities = &Identities::new();
    let mut trials = Vec::new();
    for class in [Class::Small, Class::Batched, Class::Medium, Class::Large] {
        for side in [Side::Origin, Side::Executor] {
            let life = Life {
                identities,
                class,
                side,
            };
            trials.extend(life.trials());
        }
    }
    let (struck, hit) = run(identities, &trials);
    let expected = [
        Op::Write,
        Op::Sync,
        Op::SyncDir,
        Op::Create,
        Op::Rename,
        Op::Remove,
        Op::Truncate,
    ];
    assert!(expected.iter().all(|op| struck.contains(op)), "{struck:?}");
    // A life is not always as long as the clean one.
    assert!(
        hit > trials.len() * 3 / 4,
        "{hit} faults in {} trials",
        trials.len()
    );
}
