//! The floor as a subject: raw quinn between two processes, blind UDP forwarders between them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::identity;
use crate::process::Process;
use crate::protocol::Handling;
use crate::reading::Place;
use crate::subject::{FLOOR, Keeping, OneShot, Running, Shape, Subject};

/// Raw quinn, with certificates made for the run.
pub(crate) struct Floor {
    program: PathBuf,
    directory: PathBuf,
}

impl Floor {
    /// Makes the certificates in a directory of `run`.
    pub(crate) fn create(run: &TempDir) -> Result<Self> {
        let directory = run.path().join(FLOOR);
        std::fs::create_dir(&directory).context("make the floor's directory")?;
        identity::create(&directory)?;
        Ok(Self {
            program: std::env::current_exe().context("find the own program")?,
            directory,
        })
    }

    fn role(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(verb);
        command
    }

    fn with_identity(&self, verb: &str) -> Command {
        let mut command = self.role(verb);
        command.arg("--identity").arg(&self.directory);
        command
    }
}

impl Subject for Floor {
    fn name(&self) -> &'static str {
        FLOOR
    }

    fn handlings(&self) -> &'static [Handling] {
        &[Handling::InPlace, Handling::Pool]
    }

    fn raise(&self, shape: Shape) -> Result<Running> {
        let answerer = Process::start("floor server", &mut self.with_identity("floor-server"))?;
        let mut address = answerer.wait_address()?;
        let start_cpu = answerer.cpu_time()?;
        let mut running = Running {
            asker: None,
            relays: Vec::new(),
            answerer,
            neighbours: Vec::new(),
            start_cpu,
        };
        let connect = |name: String, address| {
            let mut command = self.with_identity("floor-client");
            let client = Process::start(name, command.arg("--connect").arg(format!("{address}")))?;
            client.wait_ready()?;
            anyhow::Ok(client)
        };
        match shape {
            Shape::Line { relays } => {
                for number in (1..=relays).rev() {
                    let mut command = self.role("udp-forwarder");
                    let name = format!("floor forwarder {number}");
                    let relay = Process::start(name, command.arg("--to").arg(format!("{address}")))?;
                    address = relay.wait_address()?;
                    running.relays.insert(0, relay);
                }
                running.asker = Some(connect("floor client".to_owned(), address)?);
            }
            Shape::Star { neighbours } => {
                for number in 1..=neighbours {
                    running
                        .neighbours
                        .push(connect(format!("floor neighbour {number}"), address)?);
                }
            }
        }
        Ok(running)
    }

    fn raise_keeping(&self, _place: Place) -> Result<Keeping> {
        let mut command = self.role("disk-floor");
        command.arg("--log").arg(self.directory.join("log"));
        let asker = Process::start("floor of the disk", &mut command)?;
        asker.wait_ready()?;
        Ok(Keeping {
            asker,
            nodes: Vec::new(),
        })
    }

    fn commands(&self, _running: &Running) -> Result<Vec<OneShot>> {
        Ok(vec![OneShot {
            name: "true",
            argv: vec![Path::new("/bin/true").into()],
        }])
    }
}
