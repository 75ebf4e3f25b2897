//! The product as a subject: nodes between a program on the node library and a node with the workers of the benchmark.
//!
//! Relays, neighbours and commands are the `node` program beside this one; the answering end is this program as a node.

use std::cell::Cell;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use jiff::Timestamp;
use serde::Deserialize;
use tempfile::TempDir;
use workmesh_node::identity::{Ca, create_identity, create_mesh};
use workmesh_node::report::StatusReport;
use workmesh_node::{MeshName, NodeId};

use crate::gates::{PING, SUBMIT};
use crate::process::Process;
use crate::protocol::Handling;
use crate::reading::Place;
use crate::role::workers::NOOP;
use crate::settings::POOL_THREADS;
use crate::subject::{BASELINE, Keeping, OneShot, PRODUCT, Running, Shape, Subject};

/// The name by which this program is started as a node.
pub(crate) const NODE: &str = "node";

const ANSWERER: &str = "answerer";
const ASKER: &str = "asker";
/// What the nodes log: trouble, and the line that says where they listen.
const LOG: &str = "warn,workmesh_node::daemon=info";
const LISTENS: &str = "node runs";
/// Days for which the run's certificates are valid.
const DAYS: u32 = 2;
/// How long neighbours may take to be linked.
const JOIN: Duration = Duration::from_secs(60);
/// Between two looks at whether they are.
const LOOK: Duration = Duration::from_millis(100);

/// A mesh made for the run.
pub(crate) struct Product {
    name: &'static str,
    bench: PathBuf,
    node: PathBuf,
    directory: PathBuf,
    ca: Ca,
    raised: Cell<u32>,
}

/// The identities of one shape's nodes.
struct Homes<'a> {
    directory: PathBuf,
    ca: &'a Ca,
}

/// A line of a node's log.
#[derive(Deserialize)]
struct LogLine {
    message: String,
    listen: Option<String>,
}

impl Product {
    /// Makes the mesh's CA in a directory of `run`, and finds the `node` program beside this one.
    pub(crate) fn create(run: &TempDir) -> Result<Self> {
        let bench = std::env::current_exe().context("find the own program")?;
        Self::of(PRODUCT, bench, run)
    }

    /// The same with another build's programs, which are in `directory`.
    pub(crate) fn create_baseline(run: &TempDir, directory: &Path) -> Result<Self> {
        let bench = directory.join(env!("CARGO_BIN_NAME"));
        Self::of(BASELINE, bench, run)
    }

    fn of(name: &'static str, bench: PathBuf, run: &TempDir) -> Result<Self> {
        let node = bench.with_file_name(NODE);
        for program in [&bench, &node] {
            ensure!(
                program.exists(),
                "{} is not there: build it with `cargo build --release -p workmesh-node -p workmesh-bench`",
                program.display()
            );
        }
        let directory = run.path().join(name);
        let now = Timestamp::now();
        let mesh = MeshName::parse("bench").context("name the mesh")?;
        create_mesh(&directory, &mesh, &id("ca")?, DAYS, now).context("make the mesh")?;
        let ca = Ca::load(&directory, now).context("load the mesh's CA")?;
        Ok(Self {
            name,
            bench,
            node,
            directory,
            ca,
            raised: Cell::new(0),
        })
    }

    fn homes(&self) -> Homes<'_> {
        let serial = self.raised.get() + 1;
        self.raised.set(serial);
        Homes {
            directory: self.directory.join(serial.to_string()),
            ca: &self.ca,
        }
    }

    fn answerer(&self, home: &Path) -> Result<(Process, SocketAddr)> {
        let mut command = node_command(&self.bench, home, None);
        command.args(["--max-workers", &POOL_THREADS.to_string()]);
        start_node(ANSWERER, &mut command)
    }

    fn raise_line(&self, homes: &Homes<'_>, relays: usize) -> Result<Running> {
        let (answerer, mut address) = self.answerer(&homes.make(ANSWERER)?)?;
        let start_cpu = answerer.cpu_time()?;
        let mut chain = Vec::new();
        for number in (1..=relays).rev() {
            let name = format!("relay-{number}");
            let home = homes.make(&name)?;
            let (relay, listens) = start_node(&name, &mut node_command(&self.node, &home, Some(address)))?;
            address = listens;
            chain.insert(0, relay);
        }
        let mut command = Command::new(&self.bench);
        command
            .arg("product-client")
            .arg("--data-dir")
            .arg(homes.make(ASKER)?)
            .args(["--connect", &address.to_string(), "--answerer", ANSWERER]);
        let asker = Process::start("product client", &mut command)?;
        asker.wait_ready()?;
        Ok(Running {
            asker: Some(asker),
            relays: chain,
            answerer,
            neighbours: Vec::new(),
            start_cpu,
        })
    }

    fn raise_star(&self, homes: &Homes<'_>, neighbours: usize) -> Result<Running> {
        let home = homes.make(ANSWERER)?;
        let (answerer, address) = start_node(ANSWERER, &mut node_command(&self.node, &home, None))?;
        let mut running = Running {
            asker: None,
            relays: Vec::new(),
            start_cpu: answerer.cpu_time()?,
            answerer,
            neighbours: Vec::new(),
        };
        for number in 1..=neighbours {
            let name = format!("neighbour-{number}");
            let home = homes.make(&name)?;
            let (neighbour, _) = start_node(&name, &mut node_command(&self.node, &home, Some(address)))?;
            running.neighbours.push(neighbour);
        }
        let started = Instant::now();
        while self.links(&home)? < neighbours {
            ensure!(
                started.elapsed() < JOIN,
                "the neighbours were not linked in {JOIN:?}"
            );
            thread::sleep(LOOK);
        }
        Ok(running)
    }

    /// The neighbours that a node has links with.
    fn links(&self, home: &Path) -> Result<usize> {
        let output = Command::new(&self.node)
            .arg("--data-dir")
            .arg(home)
            .args(["status", "--json"])
            .stderr(Stdio::inherit())
            .output()
            .context("ask a node for its status")?;
        ensure!(output.status.success(), "a node does not say how it is");
        let report: StatusReport = serde_json::from_slice(&output.stdout).context("read a node's status")?;
        Ok(report.links.iter().filter(|link| link.state == "up").count())
    }
}

impl Subject for Product {
    fn name(&self) -> &'static str {
        self.name
    }

    fn handlings(&self) -> &'static [Handling] {
        &[Handling::Pool]
    }

    fn raise(&self, shape: Shape) -> Result<Running> {
        let homes = self.homes();
        match shape {
            Shape::Line { relays } => self.raise_line(&homes, relays),
            Shape::Star { neighbours } => self.raise_star(&homes, neighbours),
        }
    }

    fn raise_keeping(&self, place: Place) -> Result<Keeping> {
        let homes = self.homes();
        let executor = homes.make(ANSWERER)?;
        let mut nodes = Vec::new();
        let mut command = Command::new(&self.bench);
        command.arg("durable-client").args(["--to", ANSWERER]);
        match place {
            Place::Here => {
                command.arg("--origin").arg(executor);
            }
            Place::Neighbour => {
                let (answerer, address) = self.answerer(&executor)?;
                nodes.push(answerer);
                command.arg("--origin").arg(homes.make(ASKER)?);
                command.arg("--executor").arg(executor);
                command.arg("--connect").arg(address.to_string());
            }
        }
        let asker = Process::start("client of durable units", &mut command)?;
        asker.wait_ready()?;
        Ok(Keeping { asker, nodes })
    }

    fn commands(&self, _running: &Running) -> Result<Vec<OneShot>> {
        let home = self.directory.join(self.raised.get().to_string()).join(ANSWERER);
        let command = |name, verb: &[&str]| {
            let mut argv = vec![self.node.clone().into(), "--data-dir".into(), home.clone().into()];
            argv.extend(verb.iter().map(Into::into));
            OneShot { name, argv }
        };
        Ok(vec![
            command(SUBMIT, &["submit", "--to", ANSWERER, "--directive", NOOP]),
            command(PING, &["ping", ASKER]),
        ])
    }
}

impl Homes<'_> {
    /// A data directory with the identity of the node `name`.
    fn make(&self, name: &str) -> Result<PathBuf> {
        let home = self.directory.join(name);
        create_identity(self.ca, &home, &id(name)?, DAYS, Timestamp::now())
            .with_context(|| format!("make the identity of {name}"))?;
        Ok(home)
    }
}

fn id(name: &str) -> Result<NodeId> {
    NodeId::parse(name).with_context(|| format!("{name} as a node id"))
}

/// `program` as a node on a loopback port that the system chooses, whatever the caller's own configuration is.
fn node_command(program: &Path, home: &Path, peer: Option<SocketAddr>) -> Command {
    let mut command = Command::new(program);
    command.arg0(NODE).arg("--data-dir").arg(home).args([
        "--listen",
        "127.0.0.1:0",
        "--log",
        LOG,
        "--log-format",
        "json",
    ]);
    if let Some(peer) = peer {
        command.args(["--peers", &peer.to_string()]);
    }
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"NODE_") {
            command.env_remove(name);
        }
    }
    command
}

/// Starts a node, and returns when it listens, with its address.
fn start_node(name: &str, command: &mut Command) -> Result<(Process, SocketAddr)> {
    let node = Process::start_logging(name, command)?;
    let address = node.wait_for(|line| {
        let line: LogLine = serde_json::from_str(line).ok()?;
        line.listen.filter(|_| line.message == LISTENS)
    })?;
    match address.parse() {
        Ok(address) => Ok((node, address)),
        Err(_) => bail!("{name} listens at {address}"),
    }
}
