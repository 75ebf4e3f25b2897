//! The mesh of the demo: three node processes of this program in a line on loopback, with identities of their own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::cli::connect::Access;
use crate::cli::exit::causes;
use crate::unit::report::StatusReport;

/// How long a node may take to listen, and a route to appear.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);
/// How long a node may take to stop.
const STOP: Duration = Duration::from_secs(5);
/// Pause between two looks at a node.
const PAUSE: Duration = Duration::from_millis(10);
/// Lines of a node's log that are shown when it fails.
const LOG_LINES: usize = 5;

/// The directory of the mesh and the processes that run in it. Dropping it stops them, unless they are kept.
pub(super) struct DemoMesh {
    directory: PathBuf,
    nodes: Vec<DemoNode>,
}

/// One node process.
pub(super) struct DemoNode {
    /// Its id.
    pub(super) id: &'static str,
    /// Where it listens.
    pub(super) address: String,
    process: Child,
}

impl DemoMesh {
    /// A mesh without nodes in `directory`, which exists.
    pub(super) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            nodes: Vec::new(),
        }
    }

    /// The data directory of node `id`.
    pub(super) fn data_dir(&self, id: &str) -> PathBuf {
        self.directory.join(id)
    }

    /// The way to node `id`.
    pub(super) fn access(&self, id: &str) -> Access {
        Access::Socket(self.data_dir(id))
    }

    /// The nodes that were started.
    pub(super) fn nodes(&self) -> &[DemoNode] {
        &self.nodes
    }

    /// Makes a CA with the identity of the first of `ids`, and identities for the others.
    pub(super) fn make_identities(&self, ids: &[&str]) -> anyhow::Result<()> {
        let (first, others) = ids.split_first().context("a mesh has nodes")?;
        let ca = self.data_dir(first);
        run_node(&ca, &["init", "--mesh", "demo", "--id", first])?;
        for id in others {
            let out = self.data_dir(id);
            let out = out.to_str().context("the directory's name is not UTF-8")?;
            run_node(&ca, &["cert", "issue", "--id", id, "--out", out])?;
        }
        Ok(())
    }

    /// Starts node `id` on a port that the system chooses, dialling `peer`, and waits until it listens.
    pub(super) async fn start(&mut self, id: &'static str, peer: Option<&str>) -> anyhow::Result<&DemoNode> {
        let data_dir = self.data_dir(id);
        let log = File::create(self.log(id)).context("making a log file")?;
        let mut command = node_command(&data_dir)?;
        command.args(["run", "--listen", "127.0.0.1:0"]);
        if let Some(peer) = peer {
            command.args(["--peers", peer]);
        }
        command.stdout(Stdio::null()).stderr(log);
        // Ctrl-C is for the demo, which then stops its nodes in order.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let process = command.spawn().context("starting a node process")?;
        self.nodes.push(DemoNode {
            id,
            address: String::new(),
            process,
        });
        let status = self.wait(id, "listen", |status| status.listen.is_some()).await?;
        let node = self.nodes.last_mut().context("the node was started")?;
        node.address = status.listen.unwrap_or_default();
        Ok(node)
    }

    /// Waits until the status of node `id` is as wanted; `what` says what is waited for.
    pub(super) async fn wait(
        &mut self,
        id: &str,
        what: &str,
        wanted: impl Fn(&StatusReport) -> bool,
    ) -> anyhow::Result<StatusReport> {
        let access = self.access(id);
        let started = Instant::now();
        loop {
            self.check()?;
            let asked = async { anyhow::Ok(access.connect().await?.status().await?) };
            let last = match asked.await {
                Ok(status) if wanted(&status) => return Ok(status),
                Ok(_) => String::new(),
                Err(error) => format!(": {}", causes(&error)),
            };
            if started.elapsed() > PATIENCE {
                bail!(
                    "node {id} did not {what} within {} s{last}\n{}",
                    PATIENCE.as_secs(),
                    self.log_tail(id)
                );
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Fails if a node has stopped.
    fn check(&mut self) -> anyhow::Result<()> {
        for node in &mut self.nodes {
            if let Some(status) = node.process.try_wait()? {
                let id = node.id;
                bail!("node {id} stopped with {status}\n{}", self.log_tail(id));
            }
        }
        Ok(())
    }

    /// The process ids, for those who keep the mesh.
    pub(super) fn process_ids(&self) -> Vec<u32> {
        self.nodes.iter().map(|node| node.process.id()).collect()
    }

    /// Leaves the nodes running.
    pub(super) fn keep(&mut self) {
        self.nodes.clear();
    }

    /// Stops all nodes in order: asks, waits, then kills.
    pub(super) async fn stop(&mut self) {
        for node in &self.nodes {
            node.signal(Signal::TERM);
        }
        let started = Instant::now();
        while self.nodes.iter_mut().any(DemoNode::runs) && started.elapsed() < STOP {
            tokio::time::sleep(PAUSE).await;
        }
        self.kill();
    }

    fn kill(&mut self) {
        for mut node in self.nodes.drain(..) {
            if node.runs() {
                node.signal(Signal::KILL);
                // A killed child can always be waited for; there is nothing to do about a system that can't.
                let _ = node.process.wait();
            }
        }
    }

    fn log(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}.log"))
    }

    fn log_tail(&self, id: &str) -> String {
        let log = std::fs::read_to_string(self.log(id)).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

impl Drop for DemoMesh {
    fn drop(&mut self) {
        self.kill();
    }
}

impl DemoNode {
    fn runs(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    fn signal(&self, signal: Signal) {
        // A node that has gone needs no signal.
        let _ = kill_process(Pid::from_child(&self.process), signal);
    }
}

/// This program on `data_dir`, without the settings of the environment.
fn node_command(data_dir: &Path) -> anyhow::Result<Command> {
    let program = std::env::current_exe().context("finding this program")?;
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("NODE_")) {
            command.env_remove(name);
        }
    }
    command.arg("--data-dir").arg(data_dir).stdin(Stdio::null());
    Ok(command)
}

fn run_node(data_dir: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    let output = node_command(data_dir)?.args(arguments).output()?;
    if !output.status.success() {
        let line = arguments.join(" ");
        bail!("node {line}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
