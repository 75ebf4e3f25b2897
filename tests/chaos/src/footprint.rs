//! What a node holds on to: descriptors, threads, memory, files. Compared before the load and after all of it is released.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::process::Pid;

use crate::mesh::SLOTS;

const MIB: u64 = 1024 * 1024;
/// Descriptors more than at the start that are no leak: a session's or a store's, of which any number below this may be open.
const FDS: u64 = 16;
/// Threads more: those of the pool are started when they are first needed, and a few may be about to end.
const THREADS: u64 = SLOTS as u64 + 2;
/// Memory more: the allocator keeps what passed through, up to the windows of the streams and the batches of the store.
const MEMORY_BYTES: u64 = 32 * MIB;
/// The store's log without live records: the segment in use, and what it may keep before it moves records together.
const LOG_BYTES: u64 = 192 * MIB;

/// A process at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Footprint {
    pub(crate) fds: u64,
    pub(crate) threads: u64,
    /// Resident memory that is no file's (`RssAnon`).
    pub(crate) memory_bytes: u64,
}

impl Footprint {
    /// Of a process that runs.
    pub(crate) fn of(pid: Pid) -> Result<Self> {
        let dir = format!("/proc/{}", pid.as_raw_pid());
        let fds = fs::read_dir(format!("{dir}/fd"))
            .with_context(|| format!("list {dir}/fd"))?
            .count();
        let status =
            fs::read_to_string(format!("{dir}/status")).with_context(|| format!("read {dir}/status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
                .with_context(|| format!("{dir}/status has no {name}"))
        };
        Ok(Self {
            fds: fds as u64,
            threads: field("Threads:")?,
            memory_bytes: field("RssAnon:")? * 1024,
        })
    }

    /// What has grown beyond its tolerance since `start`.
    pub(crate) fn leaks(self, start: Self) -> Vec<String> {
        let mut leaks = Vec::new();
        let mut check = |what: &str, now: u64, before: u64, tolerance: u64| {
            if now > before + tolerance {
                leaks.push(format!("{now} {what}, {before} at the start"));
            }
        };
        check("descriptors", self.fds, start.fds, FDS);
        check("threads", self.threads, start.threads, THREADS);
        check(
            "bytes of memory",
            self.memory_bytes,
            start.memory_bytes,
            MEMORY_BYTES,
        );
        leaks
    }
}

/// Files that a node without units must not have.
pub(crate) fn leftovers(data_dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for folder in ["spool", "store/data", "store/damaged"] {
        for (path, _) in files(&data_dir.join(folder)) {
            if !path.ends_with("/lock") {
                found.push(format!("{path} is left"));
            }
        }
    }
    let log_bytes = files(&data_dir.join("store/log"))
        .iter()
        .map(|(_, bytes)| bytes)
        .sum::<u64>();
    if log_bytes > LOG_BYTES {
        found.push(format!("the store's log has {log_bytes} bytes"));
    }
    found
}

/// Paths and lengths of the files of a folder; none if there is no such folder.
fn files(folder: &Path) -> Vec<(String, u64)> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let file = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.ok()?;
        Some((entry.path().display().to_string(), entry.metadata().ok()?.len()))
    };
    entries.filter_map(file).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_footprint() {
        let own = Footprint::of(rustix::process::getpid()).unwrap();
        assert!(
            own.fds >= 3 && own.threads >= 1 && own.memory_bytes > 0,
            "{own:?}"
        );
    }

    #[test]
    fn growth_up_to_the_tolerance_is_no_leak() {
        let start = Footprint {
            fds: 10,
            threads: 10,
            memory_bytes: 10 * MIB,
        };
        let more = |fds: u64, threads: u64, memory_bytes: u64| Footprint {
            fds: start.fds + fds,
            threads: start.threads + threads,
            memory_bytes: start.memory_bytes + memory_bytes,
        };
        assert_eq!(
            more(FDS, THREADS, MEMORY_BYTES).leaks(start),
            Vec::<String>::new()
        );
        assert_eq!(more(FDS + 1, THREADS + 1, MEMORY_BYTES + 1).leaks(start).len(), 3);
        assert_eq!(start.leaks(more(50, 50, 50)), Vec::<String>::new());
    }

    #[test]
    fn files_of_units_are_found_and_the_lock_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(leftovers(dir.path()), Vec::<String>::new());
        for (folder, file) in [
            ("spool", "lock"),
            ("spool", "payload"),
            ("store/data", "x"),
            ("store/log", "1.log"),
        ] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
            fs::write(dir.path().join(folder).join(file), "x").unwrap();
        }
        assert_eq!(leftovers(dir.path()).len(), 2);
    }
}
