//! Durable units in simulation: one origin, some executors, disks that forget, conversations that break, nodes that crash between any two
//! effects. `DURABLE_SEEDS=count` sets how many worlds there are, `DURABLE_SEED=n` runs one again and prints what happens in it;
//! `DURABLE_CASES=count` sets how many records and inputs each property is tried with.
//! Every fault that was ever found lives on as a named scenario.

mod chaos;
mod executor;
mod ledger;
mod log;
mod net;
mod origin;
mod plan;

#[path = "../sim/rng.rs"]
#[expect(dead_code, reason = "the mesh is simulated by the microsecond")]
mod rng;
mod records;
mod scenarios;
mod worker;
mod world;

use std::collections::BTreeMap;
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use ledger::Ledger;
use world::{Trace, World};

/// Seeds of a run without `DURABLE_SEEDS`.
const SEEDS: u64 = 300;
/// Lines of a failing world that are printed.
const LINES: usize = 120;

#[test]
fn every_unit_ends_exactly_once_whatever_fails() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let one = number("DURABLE_SEED");
    let seeds = match one {
        Some(seed) => seed..seed + 1,
        None => 0..number("DURABLE_SEEDS").unwrap_or(SEEDS),
    };
    let next = AtomicU64::new(seeds.start);
    let (failures, seen) = (Mutex::new(Vec::new()), Mutex::new(BTreeMap::new()));
    let started = Instant::now();
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || failures.lock().unwrap().len() >= 20 {
                return;
            }
            match run(seed, None) {
                Ok(ledger) => {
                    let mut seen = seen.lock().unwrap();
                    for (what, count) in ledger.seen {
                        *seen.entry(what).or_insert(0) += count;
                    }
                }
                Err(problem) => failures.lock().unwrap().push((seed, problem)),
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| _ = scope.spawn(work)));
    let count = seeds.end - seeds.start;
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{count} worlds in {seconds:.1} s on {threads} threads; seen: {:?}",
        seen.lock().unwrap()
    );
    let mut failures = failures.into_inner().unwrap();
    failures.sort();
    for (seed, problem) in &failures {
        println!("seed {seed}: {problem}; again with DURABLE_SEED={seed}");
    }
    if let Some(seed) = failures.first().map(|(seed, _)| *seed).or(one) {
        let lines = trace(seed);
        let most = if one.is_some() { usize::MAX } else { LINES };
        for line in &lines[lines.len().saturating_sub(most)..] {
            println!("{}", line.chars().take(400).collect::<String>());
        }
    }
    assert!(failures.is_empty(), "{} of {count} worlds failed", failures.len());
}

fn run(seed: u64, trace: Trace) -> Result<Ledger, String> {
    catch_unwind(|| World::new(seed, trace).run()).unwrap_or_else(|_| Err("panicked, see above".into()))
}

/// Runs a world again, and tells what happens in it.
fn trace(seed: u64) -> Vec<String> {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let _same = run(seed, Some(lines.clone()));
    std::mem::take(&mut lines.lock().unwrap_or_else(PoisonError::into_inner))
}
