//! One-shot commands: started, read line by line or whole, signalled, and waited for within a limit.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde_json::Value;

use crate::{LIMIT, Log};

/// What a command gets on stdin.
#[derive(Debug)]
pub enum Stdin {
    /// Nothing.
    Null,
    /// What the test writes to [`Running::take_stdin`].
    Piped,
}

/// A command that has ended.
#[derive(Debug)]
pub struct Finished {
    /// The exit status; 128 plus the signal if one ended it.
    pub status: i32,
    /// What it wrote to stdout and nobody has read.
    pub stdout: Vec<u8>,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Finished {
    /// Stdout as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("the command prints UTF-8")
    }

    /// Stdout as one JSON value.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|error| panic!("stdout is no JSON: {error}: {self:?}"))
    }

    /// Stdout as JSON values, one a line.
    pub fn json_lines(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        self.text().lines().map(parse).collect()
    }

    /// Fails the test unless the status is 0.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(
            self.status,
            0,
            "{}\n{}",
            self.stderr,
            String::from_utf8_lossy(&self.stdout)
        );
        self
    }
}

/// A command that runs. Killed when dropped, and when it takes longer than the limit.
#[derive(Debug)]
pub struct Running {
    child: Arc<Mutex<Child>>,
    pid: Pid,
    stdin: Option<ChildStdin>,
    stdout: Option<BufReader<ChildStdout>>,
    stderr: Log,
    _watchdog: Option<Sender<()>>,
}

impl Running {
    /// Starts a command that has to end within the limit.
    pub fn start(command: Command, stdin: &Stdin) -> Self {
        Self::start_within(LIMIT, command, stdin)
    }

    /// Starts a command that is killed when it takes longer than `limit`.
    pub fn start_within(limit: Duration, command: Command, stdin: &Stdin) -> Self {
        let mut running = Self::start_without_limit(command, stdin);
        let (alive, watched) = channel();
        let child = running.child.clone();
        std::thread::spawn(move || watch(limit, &watched, &child));
        running._watchdog = Some(alive);
        running
    }

    /// Starts a command that runs for as long as the test.
    pub(crate) fn start_without_limit(mut command: Command, stdin: &Stdin) -> Self {
        command
            .stdin(match stdin {
                Stdin::Null => Stdio::null(),
                Stdin::Piped => Stdio::piped(),
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let stderr = Log::collect(child.stderr.take().expect("stderr is piped"));
        Self {
            pid: Pid::from_child(&child),
            stdin: child.stdin.take(),
            stdout: child
                .stdout
                .take()
                .map(|out| BufReader::with_capacity(256 * 1024, out)),
            stderr,
            child: Arc::new(Mutex::new(child)),
            _watchdog: None,
        }
    }

    /// The process.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Its stderr.
    pub fn stderr(&self) -> &Log {
        &self.stderr
    }

    /// Its stdin; dropped, the command sees the end.
    ///
    /// # Panics
    /// Unless started with [`Stdin::Piped`], or when taken before.
    pub fn take_stdin(&mut self) -> ChildStdin {
        self.stdin.take().expect("stdin is piped and was not taken")
    }

    /// Waits for the next line on stdout, without its end; `None` at the end of stdout.
    pub fn next_line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self
            .stdout
            .as_mut()
            .expect("stdout was not taken")
            .read_line(&mut line)
            .expect("the command prints UTF-8");
        (read > 0).then(|| line.trim_end_matches('\n').to_owned())
    }

    /// Waits for the next object of `--format json`.
    pub fn next_object(&mut self) -> Value {
        let line = self
            .next_line()
            .unwrap_or_else(|| panic!("the command ended early: {}", self.stderr.lines().join("\n")));
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    /// Its stdout, for a reader of many bytes.
    pub fn take_stdout(&mut self) -> impl Read + Send + use<> {
        self.stdout.take().expect("stdout was not taken")
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        // A process that has ended is none to signal.
        let _ended = kill_process(self.pid, signal);
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// When the command has to be killed because of the limit.
    #[track_caller]
    pub fn finish(self) -> Finished {
        let finished = self.end();
        let killed = finished.status == 128 + Signal::KILL.as_raw();
        assert!(
            !killed,
            "took longer than {LIMIT:?}, or was killed: {}",
            finished.stderr
        );
        finished
    }

    /// Waits for the end, whatever it is.
    pub fn end(mut self) -> Finished {
        drop(self.stdin.take());
        let mut stdout = Vec::new();
        if let Some(mut rest) = self.stdout.take() {
            rest.read_to_end(&mut stdout).expect("a pipe can be read");
        }
        Finished {
            status: self.wait(),
            stdout,
            stderr: self.stderr.lines().join("\n"),
        }
    }

    /// Waits for the end and gives the status.
    pub(crate) fn wait(&self) -> i32 {
        // Leaves the process as it is, so that its id can't be another's while it may still be signalled.
        let _ended = waitid(
            WaitId::Pid(self.pid),
            WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
        );
        self.stderr.wait_for_end();
        let status = lock(&self.child).wait().expect("a child can be waited for");
        use std::os::unix::process::ExitStatusExt as _;
        status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        lock(&self.child).try_wait().is_ok_and(|status| status.is_some())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut child = lock(&self.child);
        // It may have ended; in any case nothing of it is left behind.
        let _ended = child.kill();
        let _reaped = child.wait();
    }
}

/// Writes `bytes` in a thread, then ends the input.
pub fn feed(mut stdin: ChildStdin, bytes: Vec<u8>) {
    std::thread::spawn(move || {
        // A command that takes no more says why by its status.
        let _gone = stdin.write_all(&bytes);
    });
}

fn watch(limit: Duration, alive: &Receiver<()>, child: &Mutex<Child>) {
    if alive.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
        // A child that has been waited for is left alone by the standard library.
        let _ended = lock(child).kill();
    }
}

fn lock(child: &Mutex<Child>) -> std::sync::MutexGuard<'_, Child> {
    child.lock().unwrap_or_else(PoisonError::into_inner)
}
