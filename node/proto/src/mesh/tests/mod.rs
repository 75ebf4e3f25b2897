//! The machine by calls and virtual time: a few machines on a table, with links that carry at once.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "tests pick the one output they ask about"
)]

mod any;
mod conflict;
mod flood;
mod greeting;
mod reach;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use worker_api::{Directive, PayloadKind};

use super::conflict::MAX_CONFLICTS;
use super::*;
use crate::id::{Cost, Incarnation};
use crate::wire::frame::{FrameType, MAX_BODY_BYTES};
use crate::wire::link::{
    Adjacency, Conflict, Hello, Lsa, MAX_LABELS, MAX_TEXT_BYTES, MAX_WORKERS, PROTOCOL_VERSION, Probe,
    WorkerAd,
};

/// Machines, and wires between them that carry at once.
struct Table {
    now: Instant,
    meshes: Vec<Mesh>,
    wires: Vec<Wire>,
    next_link: u64,
    log: Vec<(usize, Output)>,
}

struct Wire {
    ends: [(usize, LinkId); 2],
    open: [bool; 2],
    alive: bool,
    /// Loses everything, and nobody notices.
    silent: bool,
}

impl Table {
    fn new(nodes: &[&str]) -> Self {
        let mut table = Self {
            now: Instant::now(),
            meshes: Vec::new(),
            wires: Vec::new(),
            next_link: 0,
            log: Vec::new(),
        };
        nodes.iter().for_each(|id| _ = table.add(id, 1));
        table
    }

    fn add(&mut self, id: &str, incarnation: u64) -> usize {
        self.add_with(id, incarnation, |_| ())
    }

    fn add_with(&mut self, id: &str, incarnation: u64, change: impl FnOnce(&mut MeshConfig)) -> usize {
        let mut config = MeshConfig {
            node: node(id),
            incarnation: Incarnation(incarnation),
            cost: Cost::DEFAULT,
            leaf: false,
            version: "1.0.0".into(),
            workers: Vec::new(),
            labels: BTreeMap::new(),
            timings: Timings::default(),
        };
        change(&mut config);
        self.meshes.push(Mesh::new(config, self.now));
        self.meshes.len() - 1
    }

    /// A link of which only this end is on the table.
    fn open_half(&mut self, at: usize, certified: &str) -> LinkId {
        self.next_link += 1;
        let link = LinkId(self.next_link);
        self.meshes[at].handle_link_opened(self.now, link, node(certified), true);
        self.pump();
        link
    }

    fn wire(&mut self, dialler: usize, listener: usize) -> usize {
        self.next_link += 2;
        self.wires.push(Wire {
            ends: [
                (dialler, LinkId(self.next_link - 1)),
                (listener, LinkId(self.next_link)),
            ],
            open: [false; 2],
            alive: true,
            silent: false,
        });
        self.wires.len() - 1
    }

    fn open_end(&mut self, wire: usize, end: usize) {
        let (at, link) = self.wires[wire].ends[end];
        let certified = self.meshes[self.wires[wire].ends[1 - end].0].config.node.base();
        self.wires[wire].open[end] = true;
        self.meshes[at].handle_link_opened(self.now, link, certified, end == 0);
    }

    /// Brings a link up; returns its id at the dialler.
    fn connect(&mut self, dialler: usize, listener: usize) -> LinkId {
        let wire = self.wire(dialler, listener);
        self.open_end(wire, 0);
        self.open_end(wire, 1);
        self.pump();
        self.pass(Duration::from_millis(150));
        self.wires[wire].ends[0].1
    }

    fn load(&mut self, at: usize, running: u32) {
        let figures = LoadFigures {
            slots: 9,
            running,
            ..LoadFigures::default()
        };
        self.meshes[at].handle_load(self.now, figures);
        self.pump();
    }

    fn frame(&mut self, at: usize, link: LinkId, frame: &LinkFrame) {
        self.raw(at, link, &frame.encode());
    }

    fn raw(&mut self, at: usize, link: LinkId, frame: &Frame) {
        self.meshes[at].handle_frame(self.now, link, frame);
        self.pump();
    }

    /// Carries everything until all are quiet.
    fn pump(&mut self) {
        loop {
            let mut quiet = true;
            for at in 0..self.meshes.len() {
                while let Some(output) = self.meshes[at].poll_output() {
                    quiet = false;
                    self.carry(at, &output);
                    self.log.push((at, output));
                }
            }
            if quiet {
                return;
            }
        }
    }

    fn carry(&mut self, at: usize, output: &Output) {
        let (link, frame) = match output {
            Output::Send { link, frame } => (*link, Some(frame)),
            Output::Close { link, .. } => (*link, None),
            Output::LinkUp { .. }
            | Output::LinkDown { .. }
            | Output::ViewChanged(_)
            | Output::DuplicateId { .. } => return,
        };
        let now = self.now;
        let Some((wire, end)) = self.find(at, link) else {
            return;
        };
        let (to, their_link) = wire.ends[1 - end];
        if !wire.alive {
            return;
        }
        wire.alive = frame.is_some();
        match frame {
            _ if wire.silent => {}
            Some(frame) => self.meshes[to].handle_frame(now, their_link, frame),
            None => self.meshes[to].handle_link_closed(now, their_link),
        }
    }

    fn find(&mut self, at: usize, link: LinkId) -> Option<(&mut Wire, usize)> {
        self.wires.iter_mut().find_map(|wire| {
            let end = wire.ends.iter().position(|end| *end == (at, link))?;
            Some((wire, end))
        })
    }

    /// Lets time pass, waking machines when they ask for it.
    fn pass(&mut self, span: Duration) {
        let until = self.now + span;
        loop {
            self.pump();
            let next = self.meshes.iter().filter_map(Mesh::poll_timeout).min();
            let Some(at) = next.filter(|at| *at <= until) else {
                break;
            };
            self.now = self.now.max(at);
            let now = self.now;
            self.meshes
                .iter_mut()
                .filter(|m| m.poll_timeout().is_some_and(|t| t <= now))
                .for_each(|m| m.handle_timeout(now));
        }
        self.now = until;
    }

    fn sent(&self, at: usize, to: LinkId) -> Vec<FrameType> {
        let kind = |(from, output): &(usize, Output)| match output {
            Output::Send { link, frame } if *link == to && *from == at => frame.frame_type(),
            _ => None,
        };
        self.log.iter().filter_map(kind).collect()
    }

    fn closed(&self, at: usize, which: LinkId) -> Option<CloseReason> {
        let reason = |(from, output): &(usize, Output)| match output {
            Output::Close { link, reason } if *link == which && *from == at => Some(reason.clone()),
            _ => None,
        };
        self.log.iter().find_map(reason)
    }

    fn duplicate_of(&self, at: usize) -> Option<Incarnation> {
        let older = |(from, output): &(usize, Output)| match output {
            Output::DuplicateId { older } if *from == at => Some(*older),
            _ => None,
        };
        self.log.iter().find_map(older)
    }
}

fn node(id: &str) -> NodeId {
    NodeId::parse(id).unwrap()
}

fn hello(id: &str, incarnation: u64) -> Hello {
    Hello {
        version_min: PROTOCOL_VERSION,
        version_max: PROTOCOL_VERSION,
        features: Vec::new(),
        node: node(id),
        incarnation: Incarnation(incarnation),
        cost: Cost::DEFAULT,
        leaf: false,
    }
}

fn advertise(id: &str, incarnation: u64, sequence: u64) -> LinkFrame {
    LinkFrame::Lsa(Arc::new(Lsa {
        origin: node(id),
        incarnation: Incarnation(incarnation),
        sequence,
        leaf: false,
        leaving: false,
        batches: false,
        version: String::new(),
        adjacencies: Vec::new(),
        workers: Vec::new(),
        labels: BTreeMap::new(),
    }))
}
