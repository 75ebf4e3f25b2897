//! Memory that is free goes back to the system: the C library's allocator keeps it after a burst of units, for ever. The only `unsafe` of
//! the project.

use std::time::Duration;

/// How often a node looks whether a burst is over.
const LOOK: Duration = Duration::from_secs(10);
/// Units and appends that make a burst.
const BURST: u64 = 10_000;

/// Gives memory back after each burst of what `activity` counts, for ever.
pub(crate) async fn give_back_after_bursts(activity: impl Fn() -> u64) {
    let (mut given, mut seen) = (activity(), activity());
    loop {
        tokio::time::sleep(LOOK).await;
        let now = activity();
        let quiet = now == seen;
        seen = now;
        if quiet && now.saturating_sub(given) >= BURST {
            given = now;
            // It takes milliseconds where much is free: not beside the sockets.
            let _given = tokio::task::spawn_blocking(give_back).await;
        }
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "a call of the C library that no safe crate offers")]
fn give_back() {
    unsafe extern "C" {
        fn malloc_trim(pad: usize) -> std::ffi::c_int;
    }
    // SAFETY: malloc_trim(3) is declared as in malloc.h; it takes no pointer, any thread may call it at any time (MT-Safe), and it
    // touches nothing but pages that no allocation uses.
    unsafe {
        malloc_trim(0);
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn give_back() {}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_node_looks_for_the_end_of_a_burst_and_not_more_often() {
        static COUNTED: AtomicU64 = AtomicU64::new(0);
        static LOOKS: AtomicU64 = AtomicU64::new(0);
        let giving = tokio::spawn(give_back_after_bursts(|| {
            LOOKS.fetch_add(1, Ordering::Relaxed);
            COUNTED.load(Ordering::Relaxed)
        }));
        COUNTED.store(BURST, Ordering::Relaxed);
        tokio::time::sleep(LOOK * 3 + LOOK / 2).await;
        assert_eq!(LOOKS.load(Ordering::Relaxed), 5);
        assert!(!giving.is_finished());
    }

    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[test]
    fn memory_that_is_free_is_given_back() {
        let resident = || {
            let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
            statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
        };
        // Small pieces below one that stays: the allocator does not give them back by itself.
        let pieces: Vec<Vec<u8>> = (0..200_000).map(|_| vec![1; 500]).collect();
        let last = vec![1u8; 500];
        drop(pieces);
        let before = resident();
        give_back();
        let after = resident();
        assert!(after + 50_000_000 < before, "{before} before, {after} after");
        drop(last);
    }
}
