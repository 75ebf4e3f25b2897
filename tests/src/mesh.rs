//! A mesh of its own CA in a temporary directory: nodes by their ids, commands at a node, waiting until it is so.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::command::feed;
use crate::process::{payload_files, without_settings};
use crate::{Finished, LIMIT, NodeProcess, Running, Stdin, node_program, own_node_program};

/// Pause between two looks at a state that has no event.
const LOOK: Duration = Duration::from_millis(20);
/// Lines of each log that a failed test shows.
const SHOWN_LINES: usize = 60;

/// How a node is started.
#[derive(Clone, Debug)]
pub struct Spec {
    pub(crate) id: String,
    pub(crate) peers: Vec<String>,
    pub(crate) args: Vec<String>,
    pub(crate) listens: bool,
    pub(crate) listen: String,
    /// The product's `node` if none is named.
    pub(crate) program: Option<PathBuf>,
    pub(crate) namespace: Option<String>,
}

impl Spec {
    /// A node of the product, listening on a free port of the loopback.
    pub fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            peers: Vec::new(),
            args: Vec::new(),
            listens: true,
            listen: "127.0.0.1:0".to_owned(),
            program: None,
            namespace: None,
        }
    }

    /// A process of another program, which is a node too.
    pub fn program(mut self, program: &Path) -> Self {
        self.program = Some(program.to_owned());
        self
    }

    /// With the workers of the tests besides those that ship.
    pub fn own_workers(self) -> Self {
        self.program(own_node_program())
    }

    /// Dials `peer` too.
    pub fn peer(mut self, peer: impl ToString) -> Self {
        self.peers.push(peer.to_string());
        self
    }

    /// With further flags.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|&arg| arg.to_owned()));
        self
    }

    /// Listening at another address.
    pub fn listen(mut self, address: impl ToString) -> Self {
        self.listen = address.to_string();
        self
    }

    /// Dialling only.
    pub fn no_listen(mut self) -> Self {
        self.listens = false;
        self
    }

    /// In a network namespace.
    pub fn namespace(mut self, name: &str) -> Self {
        self.namespace = Some(name.to_owned());
        self
    }

    pub(crate) fn in_namespace(&self) -> Command {
        let program = self.program.as_deref().unwrap_or_else(|| node_program());
        match &self.namespace {
            None => Command::new(program),
            Some(name) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name]).arg(program);
                command
            }
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct TestMesh {
    nodes: BTreeMap<String, NodeProcess>,
    stopped: Vec<NodeProcess>,
    program: PathBuf,
    dir: TempDir,
}

impl Default for TestMesh {
    fn default() -> Self {
        Self::new()
    }
}

impl TestMesh {
    /// A mesh named `test`, without nodes.
    pub fn new() -> Self {
        Self::named("test")
    }

    /// A mesh without nodes.
    pub fn named(name: &str) -> Self {
        Self::with(name, node_program())
    }

    /// A mesh without nodes, whose commands are run by this program.
    pub fn with(name: &str, program: &Path) -> Self {
        let mesh = Self {
            nodes: BTreeMap::new(),
            stopped: Vec::new(),
            program: program.to_owned(),
            dir: TempDir::with_prefix("workmesh-test-").expect("a temporary directory can be made"),
        };
        let ca = mesh.ca_dir();
        mesh.command(&["init", "--mesh", name, "--id", "ca-host", "--data-dir", text(&ca)])
            .ok();
        mesh
    }

    /// Nodes in a line, each dialling the one before, with every route known everywhere.
    pub fn line(ids: &[&str]) -> Self {
        let mut mesh = Self::new();
        let mut before = None;
        for id in ids {
            let mut spec = Spec::new(id);
            if let Some(address) = before {
                spec = spec.peer(address);
            }
            before = Some(mesh.start(spec).address());
        }
        mesh.wait_until_all_routes();
        mesh
    }

    /// Where files of the test may lie.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Leaves the directory when the mesh is dropped.
    pub fn keep_dir(&mut self) {
        self.dir.disable_cleanup(true);
    }

    /// The data directory that holds the CA.
    pub fn ca_dir(&self) -> PathBuf {
        self.dir.path().join("ca")
    }

    /// The data directory of a node, with an identity made out to it if there is none.
    pub fn identity(&self, id: &str) -> PathBuf {
        let dir = self.dir.path().join(id);
        if !dir.exists() {
            self.identity_in(id, &dir);
        }
        dir
    }

    /// Makes an identity in a directory of its own.
    pub fn identity_in(&self, id: &str, dir: &Path) {
        let ca = self.ca_dir();
        self.command(&[
            "cert",
            "issue",
            "--id",
            id,
            "--out",
            text(dir),
            "--data-dir",
            text(&ca),
        ])
        .ok();
    }

    /// Starts a node and waits until it runs.
    pub fn start(&mut self, spec: Spec) -> &NodeProcess {
        let (id, data_dir) = (spec.id.clone(), self.identity(&spec.id));
        if let Some(node) = self.nodes.remove(&id) {
            self.stopped.push(node);
        }
        self.nodes.entry(id).or_insert(NodeProcess::start(spec, data_dir))
    }

    /// Starts a process with a node's data directory without waiting for anything.
    pub fn spawn(&self, spec: &Spec, data_dir: &Path) -> Running {
        NodeProcess::spawn(spec, data_dir)
    }

    /// Starts a node that has ended as it was started before, at the address that it had.
    pub fn restart(&mut self, id: &str) -> &NodeProcess {
        let node = self.node(id);
        assert!(node.has_ended(), "{id} still runs");
        let mut spec = node.spec().clone();
        if spec.listens {
            spec.listen = node.address().to_string();
        }
        self.start(spec)
    }

    /// A node that was started.
    ///
    /// # Panics
    /// When there was none of this id.
    pub fn node(&self, id: &str) -> &NodeProcess {
        self.nodes
            .get(id)
            .unwrap_or_else(|| panic!("no node {id} was started"))
    }

    /// Runs a command at a node and waits for its end.
    #[track_caller]
    pub fn at(&self, id: &str, args: &[&str]) -> Finished {
        self.begin(id, args).finish()
    }

    /// Runs a command at a node with `input` on stdin.
    #[track_caller]
    pub fn at_with_input(&self, id: &str, args: &[&str], input: Vec<u8>) -> Finished {
        let mut running = self.begin_with(id, args, &Stdin::Piped);
        feed(running.take_stdin(), input);
        running.finish()
    }

    /// Begins a command at a node.
    pub fn begin(&self, id: &str, args: &[&str]) -> Running {
        self.begin_with(id, args, &Stdin::Null)
    }

    /// Begins a command at a node with an input of the test's.
    pub fn begin_with(&self, id: &str, args: &[&str], stdin: &Stdin) -> Running {
        Running::start(self.command_in(self.node(id).data_dir(), args), stdin)
    }

    /// A command for whatever node runs with this data directory, to be started by the caller.
    pub fn command_in(&self, data_dir: &Path, args: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).arg("--data-dir").arg(data_dir);
        without_settings(&mut command);
        command
    }

    /// Runs a command that names its data directory itself.
    #[track_caller]
    pub fn command(&self, args: &[impl AsRef<OsStr>]) -> Finished {
        self.begin_command(args).finish()
    }

    /// Begins such a command.
    pub fn begin_command(&self, args: &[impl AsRef<OsStr>]) -> Running {
        let mut command = Command::new(&self.program);
        command.args(args).current_dir(self.dir.path());
        without_settings(&mut command);
        Running::start(command, &Stdin::Null)
    }

    /// What a node knows.
    #[track_caller]
    pub fn status(&self, id: &str) -> Value {
        self.at(id, &["status", "--json"]).ok().json()
    }

    /// How a node is, asked from another.
    #[track_caller]
    pub fn ping(&self, from: &str, to: &str) -> Value {
        self.at(from, &["ping", to, "--json"]).ok().json()
    }

    /// The neighbour that `from` hands packets for `to` to.
    pub fn next_hop(&self, from: &str, to: &str) -> Option<String> {
        let status = self.status(from);
        let routes = status["routes"].as_array().expect("routes is an array");
        let route = routes.iter().find(|route| route["node"] == to)?;
        route["next_hop"].as_str().map(str::to_owned)
    }

    /// Waits until `from` has a way to `to`.
    pub fn wait_for_route(&self, from: &str, to: &str) {
        wait_until(&format!("{from} has a route to {to}"), || {
            self.next_hop(from, to).is_some()
        });
    }

    /// Waits until every node that runs has a way to every other.
    pub fn wait_until_all_routes(&self) {
        let running = || {
            self.nodes
                .iter()
                .filter(|(_, node)| !node.has_ended())
                .map(|(id, _)| id)
        };
        for from in running() {
            for to in running().filter(|to| *to != from) {
                self.wait_for_route(from, to);
            }
        }
    }

    /// Waits until no payload file lies in a node's spool.
    pub fn wait_until_spool_is_empty(&self, id: &str) {
        let data_dir = self.dir.path().join(id);
        wait_until(&format!("the spool of {id} is empty"), || {
            payload_files(&data_dir).is_empty()
        });
    }
}

impl Drop for TestMesh {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for node in self.stopped.iter().chain(self.nodes.values()) {
            let lines = node.log().lines();
            let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
            let ended = if node.has_ended() { ", which has ended" } else { "" };
            eprintln_log(&format!(
                "log of {}{ended}:\n{}\n",
                node.spec().id,
                shown.join("\n")
            ));
        }
    }
}

/// Looks again and again until `is_so`.
///
/// # Panics
/// When it is not so within [`LIMIT`].
#[track_caller]
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < LIMIT, "waited in vain until {what}");
        std::thread::sleep(LOOK);
    }
}

#[expect(
    clippy::print_stderr,
    reason = "the test harness shows it for a test that failed"
)]
fn eprintln_log(text: &str) {
    eprintln!("{text}");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}
