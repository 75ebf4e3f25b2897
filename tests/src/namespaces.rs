//! Hosts of their own on one machine: network namespaces joined by cables that can be cut, or swallow what they should
//! carry.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Whether namespaces can be made here.
///
/// # Panics
/// In continuous integration (`CI` is set), where partition tests have to run.
#[expect(clippy::print_stderr, reason = "says why a test shows nothing")]
pub fn may_make_namespaces() -> bool {
    let name = format!(
        "wm-probe-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    );
    let made = try_ip(&["netns", "add", &name]).and_then(|()| try_ip(&["netns", "exec", &name, "true"]));
    let _gone = try_ip(&["netns", "del", &name]);
    let Err(reason) = made else { return true };
    let text = format!("partition tests need root and `ip netns` (package iproute2): {reason}");
    assert!(std::env::var_os("CI").is_none_or(|ci| ci.is_empty()), "{text}");
    eprintln!("skipped: {text}");
    false
}

/// Network namespaces; deleted when dropped.
#[derive(Debug)]
pub struct Namespaces {
    prefix: String,
    hosts: Vec<String>,
    cables: u8,
}

impl Namespaces {
    /// Makes a namespace for each host, with its loopback up.
    pub fn new(hosts: &[&str]) -> Self {
        remove_orphans();
        let prefix = format!(
            "wm-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let mut made = Self {
            prefix,
            hosts: Vec::new(),
            cables: 0,
        };
        for host in hosts {
            let name = made.name(host);
            ip(&["netns", "add", &name]);
            made.hosts.push(name.clone());
            ip(&["-n", &name, "link", "set", "lo", "up"]);
        }
        made
    }

    /// The namespace of a host.
    pub fn name(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    /// Lays a cable between two hosts; each end gets an address of its own.
    pub fn connect(&mut self, left: &str, right: &str) -> Cable {
        self.cables += 1;
        let number = self.cables;
        let end = |host: &str, last: u8| End {
            namespace: self.name(host),
            device: format!("w{number}{}", if last == 1 { 'l' } else { 'r' }),
            address: format!("10.77.{number}.{last}"),
        };
        let cable = Cable {
            left: end(left, 1),
            right: end(right, 2),
        };
        let (l, r) = (&cable.left, &cable.right);
        ip(&[
            "link",
            "add",
            &l.device,
            "netns",
            &l.namespace,
            "type",
            "veth",
            "peer",
            "name",
            &r.device,
            "netns",
            &r.namespace,
        ]);
        for end in [l, r] {
            let address = format!("{}/24", end.address);
            ip(&[
                "-n",
                &end.namespace,
                "address",
                "add",
                &address,
                "dev",
                &end.device,
            ]);
        }
        cable.mend();
        cable
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for host in &self.hosts {
            // Processes in it keep it alive until they end; its name is gone.
            let _kept = try_ip(&["netns", "del", host]);
        }
    }
}

/// A cable between two hosts.
#[derive(Debug)]
pub struct Cable {
    left: End,
    right: End,
}

#[derive(Debug)]
struct End {
    namespace: String,
    device: String,
    address: String,
}

impl Cable {
    /// The address of the left host at this cable.
    pub fn left_address(&self) -> &str {
        &self.left.address
    }

    /// Takes the cable out: both ends see it.
    pub fn cut(&self) {
        self.set("down");
    }

    /// Puts it back in.
    pub fn mend(&self) {
        self.set("up");
    }

    /// Lets the cable swallow every packet, unseen by the ends: each believes the other at an address that nobody has.
    pub fn swallow(&self) {
        for (end, other) in [(&self.left, &self.right), (&self.right, &self.left)] {
            let nobody = "02:00:00:00:00:01";
            end.neighbour(&["replace", &other.address, "lladdr", nobody, "nud", "permanent"]);
        }
    }

    /// Lets it carry packets again.
    pub fn carry(&self) {
        for (end, other) in [(&self.left, &self.right), (&self.right, &self.left)] {
            end.neighbour(&["del", &other.address]);
        }
    }

    fn set(&self, state: &str) {
        for end in [&self.left, &self.right] {
            ip(&["-n", &end.namespace, "link", "set", &end.device, state]);
        }
    }
}

impl End {
    fn neighbour(&self, change: &[&str]) {
        ip(&[
            &["-n", &self.namespace, "neighbour"],
            change,
            &["dev", &self.device],
        ]
        .concat());
    }
}

/// Removes the namespaces of test runs that were killed.
fn remove_orphans() {
    let Ok(names) = std::fs::read_dir("/run/netns") else {
        return;
    };
    for name in names.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
        let owner = name.strip_prefix("wm-").and_then(|rest| rest.split('-').next());
        let Some(owner) = owner.and_then(|pid| pid.parse::<u32>().ok()) else {
            continue;
        };
        if !std::path::Path::new(&format!("/proc/{owner}")).exists() {
            let _other_run_was_first = try_ip(&["netns", "del", &name]);
        }
    }
}

#[track_caller]
fn ip(args: &[&str]) {
    if let Err(error) = try_ip(args) {
        panic!("ip {}: {error}", args.join(" "));
    }
}

fn try_ip(args: &[&str]) -> Result<(), String> {
    let output = Command::new("ip")
        .args(args)
        .output()
        .map_err(|error| format!("cannot run ip: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}
