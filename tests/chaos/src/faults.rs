//! Carries out the faults of a plan: those of one node, and those of one link, one after the other.

use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::interrupt;
use crate::mesh::Mesh;
use crate::plan::{Fault, Planned};

/// What a fault is done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Node(usize),
    Link(usize),
}

/// Begins to carry out `faults`, with a thread for each node and link that they hit. A thread ends once what it did is undone;
/// it panics when a node does not come back.
pub(crate) fn begin<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    mesh: &'scope Mesh,
    faults: &[Planned],
    start: Instant,
) -> Vec<ScopedJoinHandle<'scope, ()>> {
    let mut targets: Vec<_> = faults.iter().map(|planned| target(planned.fault)).collect();
    targets.sort_unstable();
    targets.dedup();
    let follow = |wanted: Target| {
        let mine: Vec<_> = faults
            .iter()
            .filter(|planned| target(planned.fault) == wanted)
            .copied()
            .collect();
        scope.spawn(move || {
            for planned in mine {
                if !interrupt::sleep_until(start + planned.at) {
                    break;
                }
                carry_out(mesh, planned.fault);
            }
        })
    };
    targets.into_iter().map(follow).collect()
}

fn target(fault: Fault) -> Target {
    match fault {
        Fault::Kill(node, _) | Fault::Pause(node, _) | Fault::Restart(node, _) => Target::Node(node),
        Fault::Cut(link, _) | Fault::Delay(link, ..) => Target::Link(link),
    }
}

fn carry_out(mesh: &Mesh, fault: Fault) {
    match fault {
        Fault::Kill(node, down) => mesh.restart(node, Signal::KILL, down),
        Fault::Restart(node, down) => mesh.restart(node, Signal::TERM, down),
        Fault::Pause(node, lasts) => {
            let process = mesh.process(node);
            process.signal(Signal::STOP);
            thread::sleep(lasts);
            process.signal(Signal::CONT);
        }
        Fault::Cut(link, lasts) => {
            mesh.proxy(link).cut();
            thread::sleep(lasts);
            mesh.proxy(link).mend();
        }
        Fault::Delay(link, by, lasts) => {
            mesh.proxy(link).delay(by);
            thread::sleep(lasts);
            mesh.proxy(link).delay(Duration::ZERO);
        }
    }
}
