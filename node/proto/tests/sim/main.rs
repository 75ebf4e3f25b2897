//! Simulation of whole meshes in virtual time. `cargo sim` runs some random networks; `SIM_SEED=n cargo sim` runs one
//! again, `SIM_SEEDS=count` sets how many there are. Every seed that ever failed lives on as a named scenario.

mod chaos;
mod net;
mod reference;
mod rng;
mod scenarios;
mod world;

use std::panic::catch_unwind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Seeds of a run without `SIM_SEEDS`.
const SEEDS: u64 = 10;

#[test]
fn random_networks_come_to_rest_with_the_right_routes() {
    let number = |name| {
        std::env::var(name)
            .ok()
            .and_then(|text: String| text.parse::<u64>().ok())
    };
    let seeds = match number("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIM_SEEDS").unwrap_or(SEEDS),
    };
    let (next, frames) = (AtomicU64::new(seeds.start), AtomicU64::new(0));
    let failures = Mutex::new(Vec::new());
    let started = Instant::now();
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let outcome =
                catch_unwind(|| chaos::run(seed)).unwrap_or_else(|_| Err("panicked, see above".into()));
            match outcome {
                Ok(delivered) => _ = frames.fetch_add(delivered, Ordering::Relaxed),
                Err(problem) => failures.lock().unwrap().push((seed, problem)),
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| _ = scope.spawn(work)));
    let count = seeds.end - seeds.start;
    let seconds = started.elapsed().as_secs_f64();
    let frames = frames.into_inner();
    println!(
        "{count} seeds, {frames} frames in {seconds:.1} s on {threads} threads: {:.1} seeds/s",
        count as f64 / seconds
    );
    let mut failures = failures.into_inner().unwrap();
    failures.sort();
    for (seed, problem) in &failures {
        println!("seed {seed}: {problem}; again with SIM_SEED={seed} cargo sim -- --nocapture");
    }
    assert!(failures.is_empty(), "{} of {count} seeds failed", failures.len());
}
