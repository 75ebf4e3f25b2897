//! The nodes of a run, the proxies between them, and commands at them. Any thread may use any part.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use workmesh_tests::{Finished, LIMIT, NodeProcess, Running, Spec, Stdin, TestMesh, UdpProxy, feed};

use crate::plan::{links, name};

/// Flags of every node: small pools, so that units queue, and neighbours that are given up soon.
const FLAGS: [&str; 6] = ["--max-workers", "4", "--queue", "256", "--detection", "2s"];
/// A further flag of every other node: it offers each small durable unit in a batch.
const IN_BATCHES: [&str; 2] = ["--work-batch-from", "0"];
/// Units that run at once on a node.
pub(crate) const SLOTS: usize = 4;
/// Pause between two looks at something that has no event.
const LOOK: Duration = Duration::from_millis(50);

/// See the module. Nodes are killed when it is dropped.
pub(crate) struct Mesh {
    support: TestMesh,
    sites: Vec<Site>,
    proxies: Vec<UdpProxy>,
    /// Commands that run.
    clients: Mutex<BTreeSet<i32>>,
}

struct Site {
    id: String,
    data_dir: PathBuf,
    process: Mutex<NodeProcess>,
    falls: Mutex<Vec<Fall>>,
}

/// A time in which a node's process ended and was started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fall {
    pub(crate) began: Timestamp,
    pub(crate) ended: Timestamp,
}

/// A command at a node.
pub(crate) struct Client<'a> {
    pub(crate) running: Running,
    mesh: &'a Mesh,
}

impl Mesh {
    /// Starts so many nodes of `program`, and waits until each has a way to every other.
    pub(crate) fn start(nodes: usize, program: &Path) -> Self {
        let mut mesh = Self {
            support: TestMesh::with("chaos", program),
            sites: Vec::new(),
            proxies: Vec::new(),
            clients: Mutex::default(),
        };
        let links = links(nodes);
        for node in 0..nodes {
            let id = name(node);
            let mut spec = Spec::new(&id).program(program).args(&FLAGS);
            if node % 2 == 1 {
                spec = spec.args(&IN_BATCHES);
            }
            for (_, listener) in links.iter().filter(|(dialler, _)| *dialler == node) {
                let proxy = UdpProxy::start(mesh.process(*listener).address());
                spec = spec.peer(proxy.address());
                mesh.proxies.push(proxy);
            }
            let data_dir = mesh.support.identity(&id);
            mesh.sites.push(Site {
                process: Mutex::new(NodeProcess::start(spec, data_dir.clone())),
                falls: Mutex::default(),
                id,
                data_dir,
            });
        }
        mesh.wait_until_whole();
        mesh
    }

    /// How many nodes there are.
    pub(crate) fn nodes(&self) -> usize {
        self.sites.len()
    }

    /// The proxy of a link, by its number in [`links`].
    pub(crate) fn proxy(&self, link: usize) -> &UdpProxy {
        &self.proxies[link]
    }

    /// A node's data directory.
    pub(crate) fn data_dir(&self, node: usize) -> &Path {
        &self.sites[node].data_dir
    }

    /// The file in which recording workers leave their runs.
    pub(crate) fn runs_file(&self) -> PathBuf {
        self.dir().join("runs")
    }

    /// The directory of the run.
    pub(crate) fn dir(&self) -> &Path {
        self.support.dir()
    }

    /// Leaves the directory of the run when it is over.
    pub(crate) fn keep_dir(&mut self) {
        self.support.keep_dir();
    }

    /// When a node's process was down.
    pub(crate) fn falls(&self, node: usize) -> Vec<Fall> {
        lock(&self.sites[node].falls).clone()
    }

    /// A node's process; whoever holds it keeps it from being restarted.
    pub(crate) fn process(&self, node: usize) -> MutexGuard<'_, NodeProcess> {
        lock(&self.sites[node].process)
    }

    /// Ends a node by `signal`, and starts it again at the address that it had, `down` after its end.
    ///
    /// # Panics
    /// When it does not end, or does not start.
    pub(crate) fn restart(&self, node: usize, signal: Signal, down: Duration) {
        let site = &self.sites[node];
        let mut process = self.process(node);
        let began = Timestamp::now();
        process.signal(signal);
        let asked = Instant::now();
        while !process.has_ended() {
            assert!(
                asked.elapsed() < LIMIT,
                "{} does not end after {signal:?}",
                site.id
            );
            thread::sleep(LOOK);
        }
        // The log is a help for whoever reads it: what can't be written is missed by nobody else.
        let _unwritten = self.write_log(node, &process);
        thread::sleep(down);
        let spec = process.spec().clone().listen(process.address());
        *process = NodeProcess::start(spec, site.data_dir.clone());
        let ended = Timestamp::now();
        lock(&site.falls).push(Fall { began, ended });
    }

    /// Writes the logs of the processes that run behind those of their predecessors, and says where.
    pub(crate) fn write_logs(&self) -> Result<PathBuf> {
        for node in 0..self.nodes() {
            self.write_log(node, &self.process(node))
                .with_context(|| format!("write the log of {}", name(node)))?;
        }
        Ok(self.dir().to_owned())
    }

    fn write_log(&self, node: usize, process: &NodeProcess) -> std::io::Result<()> {
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.dir().join(format!("{}.log", name(node))))?;
        for line in process.log().lines() {
            writeln!(file, "{line}")?;
        }
        Ok(())
    }

    /// Begins a command at a node, with `input` on stdin; it is killed when it takes longer than `limit`.
    pub(crate) fn begin(&self, node: usize, args: &[String], input: Vec<u8>, limit: Duration) -> Client<'_> {
        let command = self.support.command_in(self.data_dir(node), args);
        let mut running = Running::start_within(limit, command, &Stdin::Piped);
        feed(running.take_stdin(), input);
        lock(&self.clients).insert(running.pid().as_raw_pid());
        Client { running, mesh: self }
    }

    /// Runs a short command at a node.
    pub(crate) fn run(&self, node: usize, args: &[&str]) -> Finished {
        let args: Vec<_> = args.iter().map(|&arg| arg.to_owned()).collect();
        self.begin(node, &args, Vec::new(), LIMIT).end()
    }

    /// The JSON values that a short command prints; `None` if it fails.
    pub(crate) fn ask(&self, node: usize, args: &[&str]) -> Option<Vec<Value>> {
        let done = self.run(node, args);
        if done.status != 0 {
            return None;
        }
        let values = serde_json::Deserializer::from_slice(&done.stdout).into_iter();
        values.collect::<Result<_, _>>().ok()
    }

    /// Waits until each node has a way to every other.
    ///
    /// # Panics
    /// When that takes too long.
    pub(crate) fn wait_until_whole(&self) {
        for from in 0..self.nodes() {
            workmesh_tests::wait_until(&format!("{} has all routes", name(from)), || {
                self.has_all_routes(from)
            });
        }
    }

    fn has_all_routes(&self, from: usize) -> bool {
        let Some(status) = self.ask(from, &["status", "--json"]) else {
            return false;
        };
        let routes = status.first().and_then(|status| status["routes"].as_array());
        let ways = routes
            .into_iter()
            .flatten()
            .filter(|route| route["next_hop"].is_string());
        ways.count() + 1 == self.nodes()
    }

    /// Kills all commands that run, for a run that is broken off.
    pub(crate) fn kill_clients(&self) {
        for pid in lock(&self.clients).iter().copied().filter_map(Pid::from_raw) {
            // It may have ended.
            let _ended = kill_process(pid, Signal::KILL);
        }
    }
}

impl Client<'_> {
    /// Waits for its end, whatever it is.
    pub(crate) fn end(self) -> Finished {
        let pid = self.running.pid().as_raw_pid();
        let done = self.running.end();
        lock(&self.mesh.clients).remove(&pid);
        done
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
