//! How much memory a process has had resident.

use rustix::process::Pid;

/// Resident memory of a process at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    pid: Pid,
    resident_bytes: u64,
}

impl Memory {
    /// Takes the figure of a process, and lets the system forget its peak.
    ///
    /// # Panics
    /// When there is no such process.
    pub fn of(pid: Pid) -> Self {
        std::fs::write(format!("/proc/{}/clear_refs", pid.as_raw_pid()), "5")
            .expect("the peak of a child can be reset");
        Self {
            pid,
            resident_bytes: field(pid, "VmRSS:"),
        }
    }

    /// By how many bytes the peak since then is above the figure.
    pub fn growth_bytes(self) -> u64 {
        field(self.pid, "VmHWM:").saturating_sub(self.resident_bytes)
    }
}

fn field(pid: Pid, name: &str) -> u64 {
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_pid())).expect("the process runs");
    let line = status.lines().find(|line| line.starts_with(name));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.expect("the kernel gives this figure in KiB") * 1024
}
