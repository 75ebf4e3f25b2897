//! The processes of a run: started, talked to, measured, killed and reaped.
//!
//! Dropping a [`Process`] ends it; [`end_all`] ends every one at once, for a signal that leaves no time to unwind.
//! It never looks at what a process says beyond the line.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::de::DeserializeOwned;

use crate::accounting::{self, Memory};
use crate::protocol::{Answer, Order, Ready};

/// How long a process may take to its next line beyond what it was asked to do.
const PATIENCE: Duration = Duration::from_secs(60);

static RUNNING: Mutex<Vec<Arc<Mutex<Child>>>> = Mutex::new(Vec::new());

/// A child process that takes lines on its stdin and says lines: a role on its stdout, with the driver's stderr; a node in
/// its log.
pub(crate) struct Process {
    name: String,
    pid: u32,
    child: Arc<Mutex<Child>>,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Process {
    /// Starts a role under a name for reports.
    pub(crate) fn start(name: impl Into<String>, command: &mut Command) -> Result<Self> {
        Self::spawn(name.into(), command.stdout(Stdio::piped()), |child| {
            Box::new(child.stdout.take().expect("stdout was asked for as a pipe"))
        })
    }

    /// Starts a program that says what matters on its stderr.
    pub(crate) fn start_logging(name: impl Into<String>, command: &mut Command) -> Result<Self> {
        let command = command.stdout(Stdio::null()).stderr(Stdio::piped());
        Self::spawn(name.into(), command, |child| {
            Box::new(child.stderr.take().expect("stderr was asked for as a pipe"))
        })
    }

    fn spawn(
        name: String,
        command: &mut Command,
        take_voice: impl FnOnce(&mut Child) -> Box<dyn Read + Send>,
    ) -> Result<Self> {
        // Under the lock, so that no child is started behind the back of `end_all`.
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let mut child = command
            .stdin(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {name} ({})", command.get_program().display()))?;
        let stdin = child.stdin.take().expect("stdin was asked for as a pipe");
        let voice = take_voice(&mut child);
        let pid = child.id();
        let child = Arc::new(Mutex::new(child));
        running.push(Arc::clone(&child));
        drop(running);

        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(voice).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            name,
            pid,
            child,
            stdin,
            lines,
        })
    }

    /// Waits for a role's first line.
    pub(crate) fn wait_ready(&self) -> Result<Ready> {
        self.read(PATIENCE)
    }

    /// Waits for a role's first line; answers with its address.
    pub(crate) fn wait_address(&self) -> Result<SocketAddr> {
        let ready = self.wait_ready()?;
        ready
            .address
            .with_context(|| format!("{} has no address", self.name))
    }

    /// Waits for the line in which `find` finds what it looks for, and passes over those before.
    pub(crate) fn wait_for<T>(&self, find: impl Fn(&str) -> Option<T>) -> Result<T> {
        let mut last = String::new();
        loop {
            let line = self
                .read_line(PATIENCE)
                .with_context(|| format!("its last line: {last:?}"))?;
            if let Some(found) = find(&line) {
                return Ok(found);
            }
            last = line;
        }
    }

    /// Gives a role an order that takes `duration`, and waits for its answer.
    pub(crate) fn ask(&mut self, order: &Order, duration: Duration) -> Result<Answer> {
        let mut text = serde_json::to_vec(order).context("encode an order")?;
        text.push(b'\n');
        self.stdin
            .write_all(&text)
            .with_context(|| format!("give {} an order", self.name))?;
        match self.read(PATIENCE + duration)? {
            Answer::Failed { message } => bail!("{} failed {order:?}: {message}", self.name),
            answer => Ok(answer),
        }
    }

    fn read_line(&self, patience: Duration) -> Result<String> {
        match self.lines.recv_timeout(patience) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => bail!("{} said nothing for {patience:?}", self.name),
            Err(RecvTimeoutError::Disconnected) => bail!("{} ended", self.name),
        }
    }

    fn read<T: DeserializeOwned>(&self, patience: Duration) -> Result<T> {
        let line = self.read_line(patience)?;
        serde_json::from_str(&line).with_context(|| format!("understand {}: {line}", self.name))
    }

    /// CPU time since its start.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        accounting::cpu_time(self.pid).with_context(|| format!("measure {}", self.name))
    }

    /// Its resident memory.
    pub(crate) fn memory(&self) -> Result<Memory> {
        Memory::of(self.pid).with_context(|| format!("measure {}", self.name))
    }

    /// Makes its present memory its peak.
    pub(crate) fn forget_peak(&self) -> Result<()> {
        accounting::forget_peak(self.pid).with_context(|| format!("measure {}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        end(&self.child);
        RUNNING
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|child| !Arc::ptr_eq(child, &self.child));
    }
}

/// Kills and reaps every process of the run. No further one can be started: the lock stays held.
pub(crate) fn end_all() {
    let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    for child in running.iter() {
        end(child);
    }
    std::mem::forget(running);
}

fn end(child: &Mutex<Child>) {
    let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
    // Both fail only where it ended and was reaped before.
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_process_is_killed_and_reaped() {
        let process = Process::start("cat", &mut Command::new("cat")).unwrap();
        let proc = format!("/proc/{}", process.pid);
        assert!(std::path::Path::new(&proc).exists());
        drop(process);
        assert!(!std::path::Path::new(&proc).exists());
    }

    #[test]
    fn a_process_that_ended_is_named_in_the_error() {
        let mut process = Process::start("B", &mut Command::new("true")).unwrap();
        let error = process.ask(&Order::Release, Duration::ZERO).unwrap_err();
        assert!(format!("{error:#}").contains('B'), "{error:#}");
    }

    #[test]
    fn what_is_no_answer_is_quoted() {
        let mut command = Command::new("echo");
        let process = Process::start("B", command.arg("hello")).unwrap();
        let error = process.wait_ready().unwrap_err();
        assert!(format!("{error:#}").contains("hello"), "{error:#}");
    }
}
