//! `sys:info`: what machine the node runs on. Shows a worker without payload that returns JSON.
//! Reads `/proc`; where there is none, the fields are null.

use std::fs;

use serde::Serialize;
use worker_api::{Json, Result, worker};

/// The machine as it is at the moment.
#[derive(Debug, Serialize)]
struct Info {
    hostname: Option<String>,
    os: &'static str,
    arch: &'static str,
    kernel: Option<String>,
    /// Processors that this process may use; respects affinity and cgroup quotas.
    cpus: Option<usize>,
    memory: Option<Memory>,
    /// Over 1, 5 and 15 minutes.
    load_average: Option<[f64; 3]>,
    uptime_s: Option<f64>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Memory {
    total_bytes: u64,
    available_bytes: u64,
}

/// Describes the machine: host name, processors, memory, load, uptime.
#[worker("sys:info", version = "1.0.0", idempotent)]
fn info(_: ()) -> Result<Json<Info>> {
    Ok(Json(Info {
        hostname: proc("sys/kernel/hostname"),
        os: std::env::consts::OS,
        arch: std::env::consts::ARCH,
        kernel: proc("sys/kernel/osrelease"),
        cpus: std::thread::available_parallelism().ok().map(Into::into),
        memory: proc("meminfo").as_deref().and_then(memory),
        load_average: proc("loadavg").as_deref().and_then(load_average),
        uptime_s: proc("uptime").as_deref().and_then(uptime),
    }))
}

fn proc(file: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{file}")).ok()?;
    Some(text.trim_end().to_owned())
}

fn memory(meminfo: &str) -> Option<Memory> {
    let field = |name: &str| {
        let rest = meminfo
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        rest.trim()
            .strip_suffix("kB")?
            .trim()
            .parse::<u64>()
            .ok()?
            .checked_mul(1024)
    };
    Some(Memory {
        total_bytes: field("MemTotal")?,
        available_bytes: field("MemAvailable")?,
    })
}

fn load_average(loadavg: &str) -> Option<[f64; 3]> {
    let mut numbers = loadavg.split_whitespace().map(str::parse);
    let mut next = || numbers.next()?.ok();
    Some([next()?, next()?, next()?])
}

fn uptime(uptime: &str) -> Option<f64> {
    uptime.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use worker_api::testing::Unit;

    use super::*;

    #[test]
    fn meminfo_gives_bytes() {
        let text = "MemTotal:       16384 kB\nMemFree:  1 kB\nMemAvailable:    8 kB\n";
        assert_eq!(
            memory(text),
            Some(Memory {
                total_bytes: 16 << 20,
                available_bytes: 8 << 10
            })
        );
    }

    #[test]
    fn strange_files_give_nothing() {
        for text in [
            "",
            "MemTotal: 1 kB",
            "MemTotal: x kB\nMemAvailable: 1 kB",
            "MemTotal: 1\nMemAvailable: 1 kB",
        ] {
            assert_eq!(memory(text), None, "{text:?}");
        }
        assert_eq!(load_average("0.1 0.2"), None);
        assert_eq!(load_average("0.1 0.2 0.3 1/2 3"), Some([0.1, 0.2, 0.3]));
        assert_eq!(uptime(""), None);
        assert_eq!(uptime("12.5 3.0"), Some(12.5));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn linux_fills_every_field() {
        let done = Unit::new("sys:info").run();
        let info: serde_json::Map<String, serde_json::Value> = serde_json::from_str(done.text()[0]).unwrap();
        assert_eq!(info["os"], "linux");
        assert!(info.values().all(|value| !value.is_null()), "{info:?}");
    }

    #[test]
    fn a_payload_is_refused() {
        assert!(
            Unit::new("sys:info")
                .payload("x")
                .run()
                .error()
                .contains("takes no payload")
        );
    }
}
