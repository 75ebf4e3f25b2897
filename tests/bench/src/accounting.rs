//! What a process costs, read from outside: CPU time and resident memory.
//!
//! CPU time is user and system time of all threads of a process, those that ended included, to the nanosecond: the kernel's
//! CPU clock of the process (`clock_getcpuclockid`), not the ticks of `/proc/PID/stat`.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::unistd::Pid;

/// CPU time of a process since its start.
pub(crate) fn cpu_time(pid: u32) -> Result<Duration> {
    let pid = Pid::from_raw(pid.try_into().context("a process id")?);
    let clock =
        nix::time::clock_getcpuclockid(pid).with_context(|| format!("find the CPU clock of {pid}"))?;
    let time = clock
        .now()
        .with_context(|| format!("read the CPU clock of {pid}"))?;
    Ok(time.into())
}

/// Resident memory of a process, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    /// `VmRSS`: what is resident.
    pub(crate) resident: u64,
    /// `VmHWM`: the most that was, since the start or since [`forget_peak`].
    pub(crate) peak: u64,
}

impl Memory {
    /// Reads the memory of a process.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/status");
        let status = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        Self::parse(&status).with_context(|| format!("{path} has no VmRSS and VmHWM"))
    }

    fn parse(status: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
            kib.checked_mul(1024)
        };
        Some(Self {
            resident: field("VmRSS:")?,
            peak: field("VmHWM:")?,
        })
    }
}

/// Makes the present memory of a process its peak.
pub(crate) fn forget_peak(pid: u32) -> Result<()> {
    let path = format!("/proc/{pid}/clear_refs");
    fs::write(&path, "5").with_context(|| format!("write {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        let status = "Name:\tnode\nVmHWM:\t    9000 kB\nVmRSS:\t    8192 kB\nThreads:\t3\n";
        let expected = Memory {
            resident: 8192 * 1024,
            peak: 9000 * 1024,
        };
        assert_eq!(Memory::parse(status), Some(expected));
    }

    #[test]
    fn a_process_without_memory_has_no_reading() {
        assert_eq!(Memory::parse("Name:\tnode\nState:\tZ (zombie)\n"), None);
    }

    #[test]
    fn cpu_time_of_a_process_grows_with_its_work() {
        let before = cpu_time(std::process::id()).unwrap();
        let mut sum = 0u64;
        for number in 0..1_000_000 {
            sum = std::hint::black_box(sum.wrapping_add(number));
        }
        assert!(cpu_time(std::process::id()).unwrap() > before);
    }
}
