//! One node process: how it was started, where it listens, what it logs, how it ends.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal};

use crate::command::Running;
use crate::mesh::Spec;
use crate::{Log, Stdin};

/// A node that runs. Killed when dropped.
#[derive(Debug)]
pub struct NodeProcess {
    spec: Spec,
    data_dir: PathBuf,
    running: Running,
    listen: Option<SocketAddr>,
}

impl NodeProcess {
    /// Starts a node and waits until it says that it runs.
    ///
    /// # Panics
    /// When it ends before that, or does not say so within [`crate::LIMIT`].
    pub fn start(spec: Spec, data_dir: PathBuf) -> Self {
        let running = Self::spawn(&spec, &data_dir);
        let event = running.stderr().wait_for_event("node runs");
        let listen = event["listen"].as_str().and_then(|address| address.parse().ok());
        Self {
            spec,
            data_dir,
            running,
            listen,
        }
    }

    /// Starts a node process without waiting for anything.
    pub(crate) fn spawn(spec: &Spec, data_dir: &Path) -> Running {
        let mut command = spec.in_namespace();
        command.arg("run").arg("--data-dir").arg(data_dir);
        command.args(["--log-format", "json"]).args(&spec.args);
        if spec.listens {
            command.arg("--listen").arg(&spec.listen);
        } else {
            command.arg("--no-listen");
        }
        if !spec.peers.is_empty() {
            command.arg("--peers").arg(spec.peers.join(","));
        }
        without_settings(&mut command);
        Running::start_without_limit(command, &Stdin::Null)
    }

    /// How it was started.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Its data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The process.
    pub fn pid(&self) -> Pid {
        self.running.pid()
    }

    /// What it has logged.
    pub fn log(&self) -> &Log {
        self.running.stderr()
    }

    /// Where it listens.
    ///
    /// # Panics
    /// When it listens nowhere.
    pub fn address(&self) -> SocketAddr {
        self.listen.expect("the node listens")
    }

    /// Payload files that lie in its spool.
    pub fn payload_files(&self) -> Vec<PathBuf> {
        payload_files(&self.data_dir)
    }

    /// Whether the process has ended.
    pub fn has_ended(&self) -> bool {
        self.running.has_ended()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        self.running.signal(signal);
    }

    /// Kills the process, and waits for its end.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
        self.running.wait();
    }

    /// Waits for its end and gives the exit status.
    pub fn wait(&self) -> i32 {
        self.running.wait()
    }
}

/// Payload files in a node's data directory.
pub(crate) fn payload_files(data_dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(data_dir.join("spool")) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| name != "lock"))
        .collect()
}

/// Takes away what the test's own environment says about nodes.
pub(crate) fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("NODE_") {
            command.env_remove(name);
        }
    }
    command.env_remove("NOTIFY_SOCKET");
}
