//! The allocator of a process with a node in it: jemalloc. Units take and give back memory on three threads; the C library's allocator
//! takes twice the time for it once some hundred thousand units have come and gone, and keeps for ever what a burst has taken.
//!
//! A program on the library that wants another one builds without the feature `jemalloc`.

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    /// How long an allocator may take until it gives back what nobody uses.
    const PATIENCE: Duration = Duration::from_secs(120);

    #[cfg(target_os = "linux")]
    fn resident_bytes() -> u64 {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
        pages * rustix::param::page_size() as u64
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_that_is_free_goes_back_to_the_system() {
        let pieces: Vec<Vec<u8>> = (0..400_000).map(|_| vec![1; 500]).collect();
        // A small piece behind them all that stays, as the row of a unit does.
        let last = vec![1u8; 500];
        let full = resident_bytes();
        drop(pieces);
        let started = Instant::now();
        while resident_bytes() + 100_000_000 > full {
            assert!(started.elapsed() < PATIENCE, "{} of {full}", resident_bytes());
            std::thread::sleep(Duration::from_millis(50));
        }
        drop(last);
    }
}
