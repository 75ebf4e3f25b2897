//! The clients of a run: each unit is submitted as the plan says, again while the answer is doubtful, and what is seen of it
//! is kept for the verdict.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, OnceLock};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::interrupt;
use crate::mesh::{Mesh, lock};
use crate::plan::{Unit, Way, Whim, name};
use crate::stream::{End, Stream};

/// Clients at work at once; with all of them waiting, units come later than planned.
const CLIENTS: usize = 32;
/// How long a single client may take before it is killed, and counts as one that hangs.
const CLIENT_LIMIT: Duration = Duration::from_secs(300);
/// Pause before a command is repeated whose answer was doubtful.
const AGAIN: Duration = Duration::from_millis(300);
/// Refusals after which a unit is not submitted again.
const REFUSALS: [&str; 12] = [
    "busy",
    "draining",
    "duplicate",
    "forbidden",
    "malformed_directive",
    "no_capable_node",
    "no_route",
    "no_space",
    "no_such_node",
    "payload_too_large",
    "unknown_function",
    "unknown_module",
];

/// What the clients saw of a unit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Whether a client was told that the unit is on its origin's disk.
    pub(crate) stored: bool,
    /// Why it was refused, if that was the last word.
    pub(crate) refused: Option<String>,
    /// Whether a client asked for it to be cancelled.
    pub(crate) cancel_asked: bool,
    /// The ends that clients saw, in order.
    pub(crate) ends: Vec<End>,
    /// What clients saw that must not be.
    pub(crate) wrong: Vec<String>,
}

/// Units under way: what is seen of each, by its number in the plan.
pub(crate) struct Load<'a> {
    mesh: &'a Mesh,
    units: &'a [Unit],
    seen: Vec<Mutex<Seen>>,
    next: AtomicUsize,
    /// When clients give up to repeat what nobody answers.
    until: OnceLock<Instant>,
}

impl<'a> Load<'a> {
    /// Nothing submitted yet.
    pub(crate) fn new(mesh: &'a Mesh, units: &'a [Unit]) -> Self {
        Self {
            mesh,
            units,
            seen: units.iter().map(|_| Mutex::default()).collect(),
            next: AtomicUsize::new(0),
            until: OnceLock::new(),
        }
    }

    /// Begins to submit units. The threads end once every client has.
    pub(crate) fn begin<'scope>(
        &'scope self,
        scope: &'scope thread::Scope<'scope, '_>,
        start: Instant,
    ) -> Vec<ScopedJoinHandle<'scope, ()>> {
        let client = move || {
            loop {
                let number = self.next.fetch_add(1, Ordering::Relaxed);
                let Some(unit) = self.units.get(number) else {
                    break;
                };
                if !interrupt::sleep_until(start + unit.at) {
                    break;
                }
                self.serve(unit, &self.seen[number]);
            }
        };
        (0..CLIENTS).map(|_| scope.spawn(client)).collect()
    }

    /// Lets clients repeat doubtful commands for no longer than this from here on.
    pub(crate) fn end_within(&self, limit: Duration) {
        let _set_before = self.until.set(Instant::now() + limit);
    }

    /// What was seen of each unit, in the order of the plan.
    pub(crate) fn into_seen(self) -> Vec<Seen> {
        let inner = |seen: Mutex<Seen>| seen.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.seen.into_iter().map(inner).collect()
    }

    /// Whether a client may repeat a command.
    fn may_repeat(&self) -> bool {
        thread::sleep(AGAIN);
        !interrupt::stopped() && self.until.get().is_none_or(|until| Instant::now() < *until)
    }

    fn serve(&self, unit: &Unit, seen: &Mutex<Seen>) {
        match unit.way {
            Way::Plain => {
                self.hold(unit, seen, self.submit_args(unit), unit.whim);
            }
            Way::Durable => self.serve_durable(unit, seen),
            Way::Detached => self.serve_detached(unit, seen),
        }
    }

    /// An attached client of a durable unit, and its successor if it is killed.
    fn serve_durable(&self, unit: &Unit, seen: &Mutex<Seen>) {
        let mut whim = unit.whim;
        loop {
            let done = self.hold(unit, seen, self.submit_args(unit), whim);
            let known = lock(seen).clone();
            if !known.ends.is_empty() || known.refused.is_some() {
                return;
            }
            if known.stored {
                if !done.signalled {
                    let text = format!("its client gave up after it was stored: {}", done.stderr);
                    lock(seen).wrong.push(text);
                }
                break;
            }
            // What a client asked for is asked once.
            if done.signalled {
                whim = Whim::None;
            }
            if !self.may_repeat() {
                return;
            }
        }
        let attach = ["work", "attach", &unit.id.to_string(), "--json"].map(str::to_owned);
        while lock(seen).ends.is_empty() && self.may_repeat() {
            self.hold(unit, seen, attach.to_vec(), Whim::None);
        }
    }

    fn serve_detached(&self, unit: &Unit, seen: &Mutex<Seen>) {
        if !self.detach(unit, seen) {
            return;
        }
        match unit.whim {
            Whim::Cancel(after) => {
                thread::sleep(after);
                self.cancel(unit, seen);
            }
            Whim::Repeat(after) => {
                thread::sleep(after);
                if !self.detach(unit, seen) && lock(seen).refused.take().is_some() {
                    let text = "was refused when it was submitted again".to_owned();
                    lock(seen).wrong.push(text);
                }
            }
            Whim::None | Whim::Die(_) => {}
        }
    }

    /// Submits a unit until there is an answer; gives whether it is stored.
    fn detach(&self, unit: &Unit, seen: &Mutex<Seen>) -> bool {
        loop {
            let args = self.submit_args(unit);
            let payload = unit.work.payload(unit.id, &self.mesh.runs_file());
            let done = self.mesh.begin(unit.origin, &args, payload, CLIENT_LIMIT).end();
            let mut seen = lock(seen);
            if done.status == 0 {
                let answer = serde_json::from_slice::<Value>(&done.stdout).unwrap_or_default();
                let told = answer["type"] == "stored" && answer["unit"] == unit.id.to_string();
                if !told {
                    let printed = String::from_utf8_lossy(&done.stdout).into_owned();
                    seen.wrong.push(format!("--detach printed {printed:?}"));
                }
                seen.stored |= told;
                return told;
            }
            if let Some(kind) = refusal(&done.stderr) {
                seen.refused = Some(kind.to_owned());
                return false;
            }
            drop(seen);
            if !self.may_repeat() {
                return false;
            }
        }
    }

    /// Cancels a stored unit until there is an answer.
    fn cancel(&self, unit: &Unit, seen: &Mutex<Seen>) {
        lock(seen).cancel_asked = true;
        let id = unit.id.to_string();
        while self.may_repeat() {
            let Some(reports) = self.mesh.ask(unit.origin, &["work", "cancel", &id, "--json"]) else {
                continue;
            };
            let state = reports.first().and_then(|report| report["state"].as_str());
            if state != Some("ended") {
                let text = format!("is {state:?} after it was cancelled at {}", name(unit.origin));
                lock(seen).wrong.push(text);
            }
            return;
        }
    }

    /// Holds one conversation that prints a unit's responses.
    fn hold(&self, unit: &Unit, seen: &Mutex<Seen>, args: Vec<String>, whim: Whim) -> Held {
        let payload = match args.first().map(String::as_str) {
            Some("submit") => unit.work.payload(unit.id, &self.mesh.runs_file()),
            _ => Vec::new(),
        };
        let mut client = self.mesh.begin(unit.origin, &args, payload, CLIENT_LIMIT);
        let mut stream = Stream::new(unit.id, unit.work);
        let pid = client.running.pid();
        let signalled = thread::scope(|scope| {
            let (over, watched) = channel::<()>();
            let timer = scope.spawn(move || {
                let (after, signal) = match whim {
                    Whim::Cancel(after) => (after, Signal::INT),
                    Whim::Die(after) => (after, Signal::KILL),
                    Whim::None | Whim::Repeat(_) => return false,
                };
                let due = watched.recv_timeout(after) == Err(RecvTimeoutError::Timeout);
                due && send(pid, signal)
            });
            let mut last = None;
            while let Some(line) = client.running.next_line() {
                if let Some(whole) = last.replace(line) {
                    stream.line(&whole);
                }
            }
            drop(over);
            let signalled = timer.join().unwrap_or_default();
            // A client that was killed may have left half a line.
            if let Some(line) = last.filter(|_| !(signalled && matches!(whim, Whim::Die(_)))) {
                stream.line(&line);
            }
            signalled
        });
        let done = client.end();
        let mut seen = lock(seen);
        seen.stored |= stream.stored;
        seen.cancel_asked |= signalled && matches!(whim, Whim::Cancel(_));
        seen.wrong.append(&mut stream.wrong);
        if done.status == 128 + Signal::KILL.as_raw() && !signalled && !interrupt::stopped() {
            seen.wrong
                .push(format!("its client took longer than {CLIENT_LIMIT:?}"));
        }
        if let [end] = &stream.ends[..] {
            if REFUSALS.contains(&end.kind.as_str()) && !seen.stored && !stream.accepted {
                seen.refused = Some(end.kind.clone());
            } else {
                seen.ends.push(end.clone());
            }
        }
        Held {
            signalled,
            stderr: done.stderr,
        }
    }

    fn submit_args(&self, unit: &Unit) -> Vec<String> {
        let directive = unit.work.directive(unit.idempotent);
        let mut args: Vec<String> = ["submit", "--format", "json", "--id", &unit.id.to_string()]
            .into_iter()
            .chain(["--directive", directive])
            .map(str::to_owned)
            .collect();
        let mut add = |words: &[&str]| args.extend(words.iter().map(|&word| word.to_owned()));
        match unit.way {
            Way::Detached => add(&["--detach"]),
            Way::Durable => add(&["--durable"]),
            Way::Plain => {}
        }
        if unit.idempotent && unit.way != Way::Plain {
            add(&["--idempotent"]);
        }
        if let Some(to) = unit.to {
            add(&["--to", &name(to)]);
        }
        if let Some(deadline) = unit.deadline {
            add(&["--deadline", &format!("{}ms", deadline.as_millis())]);
        }
        add(&["-"]);
        args
    }
}

/// How a conversation went.
struct Held {
    /// Whether its client was sent a signal.
    signalled: bool,
    stderr: String,
}

/// Sends a signal to a client that has not been waited for.
fn send(pid: Pid, signal: Signal) -> bool {
    kill_process(pid, signal).is_ok()
}

/// The kind of a refusal, from a command's last word.
fn refusal(stderr: &str) -> Option<&'static str> {
    // A unit whose earlier submission is still under way is no other one.
    let line = stderr
        .lines()
        .last()
        .filter(|line| !line.contains("being submitted"))?;
    REFUSALS
        .into_iter()
        .find(|kind| line.contains(&format!(": {kind}: ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_from_a_doubtful_answer() {
        let refused = "node: unit 0197: no_route: no way leads to n3; `node status` shows the nodes";
        assert_eq!(refusal(refused), Some("no_route"));
        assert_eq!(refusal("node: no node runs with data directory d"), None);
        let under_way = "node: unit 0197: duplicate: it is being submitted by somebody else: try again";
        assert_eq!(refusal(under_way), None);
        assert_eq!(refusal(""), None);
    }
}
