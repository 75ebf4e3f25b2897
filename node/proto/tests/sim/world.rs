//! A network in virtual time: nodes with their machines, and the order in which things happen to them.
//!
//! It plays the driver's part: starts and ends machines, does what they want done, wakes them when they ask for it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::{Duration, Instant};

use workmesh_proto::mesh::{LoadFigures, Mesh, MeshConfig, Output, Timings};
use workmesh_proto::wire::frame::Frame;
use workmesh_proto::{Cost, Incarnation, LinkId, NodeId};

use crate::net::{Cable, SidePhase, Transport};
use crate::rng::Rng;

/// How frames fare, in percent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    pub(crate) lost: u64,
    pub(crate) overtaking: u64,
    pub(crate) twice: u64,
}

/// One machine's place in the network, through all its lives.
pub(crate) struct Node {
    pub(crate) config: MeshConfig,
    pub(crate) figures: LoadFigures,
    pub(crate) mesh: Option<Mesh>,
    /// Counts starts and ends: events of a former life find nobody.
    pub(crate) life: u32,
    /// Whether the machine has said that its id is taken.
    pub(crate) stopped: bool,
    pub(crate) up: BTreeMap<LinkId, NodeId>,
    pub(crate) ends: BTreeMap<LinkId, (usize, usize)>,
    pub(crate) next_link: u64,
    wake: Option<Instant>,
}

pub(crate) enum Event {
    Dial {
        cable: usize,
        side: usize,
    },
    Opened {
        transport: usize,
        side: usize,
    },
    Frame {
        transport: usize,
        side: usize,
        frame: Frame,
    },
    Closed {
        transport: usize,
        side: usize,
    },
    Wake {
        node: usize,
        life: u32,
    },
}

/// A life of a node: who, when it was there.
pub(crate) struct LifeSpan {
    pub(crate) id: NodeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) born: Instant,
    pub(crate) ended: Option<Instant>,
}

pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) rng: Rng,
    pub(crate) weather: Weather,
    pub(crate) nodes: Vec<Node>,
    pub(crate) cables: Vec<Cable>,
    pub(crate) transports: Vec<Transport>,
    queue: BinaryHeap<Reverse<(Instant, u64)>>,
    events: BTreeMap<u64, Event>,
    next_event: u64,
    incarnations: u64,
    lives: Vec<LifeSpan>,
    pub(crate) frames: u64,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            now: Instant::now(),
            rng: Rng::new(seed),
            weather: Weather::default(),
            nodes: Vec::new(),
            cables: Vec::new(),
            transports: Vec::new(),
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            next_event: 0,
            incarnations: 1000,
            lives: Vec::new(),
            frames: 0,
        }
    }

    /// A node that has not been started.
    pub(crate) fn add_node(&mut self, node: NodeId, cost: u16, leaf: bool) -> usize {
        let config = MeshConfig {
            node,
            incarnation: Incarnation(0),
            cost: Cost(cost),
            leaf,
            version: "1.2.3".into(),
            workers: Vec::new(),
            labels: BTreeMap::new(),
            timings: Timings::default(),
        };
        self.nodes.push(Node {
            config,
            figures: LoadFigures::default(),
            mesh: None,
            life: 0,
            stopped: false,
            up: BTreeMap::new(),
            ends: BTreeMap::new(),
            next_link: 1,
            wake: None,
        });
        self.nodes.len() - 1
    }

    /// Starts a node, with a new incarnation.
    pub(crate) fn start(&mut self, index: usize) {
        self.incarnations += 1;
        let now = self.now;
        let node = &mut self.nodes[index];
        if node.mesh.is_some() {
            return;
        }
        node.life += 1;
        node.config.incarnation = Incarnation(self.incarnations);
        node.stopped = false;
        node.up.clear();
        node.ends.clear();
        node.wake = None;
        let mut mesh = Mesh::new(node.config.clone(), now);
        mesh.handle_load(now, node.figures);
        node.mesh = Some(mesh);
        self.lives.push(LifeSpan {
            id: node.config.node.clone(),
            incarnation: node.config.incarnation,
            born: now,
            ended: None,
        });
        self.drain(index);
    }

    /// A node ends without a word; its neighbours notice after a while.
    pub(crate) fn crash(&mut self, index: usize) {
        if self.nodes[index].mesh.take().is_none() {
            return;
        }
        let incarnation = self.nodes[index].config.incarnation;
        for life in &mut self.lives {
            if life.incarnation == incarnation {
                life.ended = Some(self.now);
            }
        }
        self.nodes[index].life += 1;
        self.nodes[index].up.clear();
        for transport in 0..self.transports.len() {
            let sides = &self.transports[transport].sides;
            if sides
                .iter()
                .any(|s| s.node == index && s.phase != SidePhase::Closed)
            {
                self.kill_transport(transport);
            }
        }
    }

    /// A node leaves gracefully.
    pub(crate) fn leave(&mut self, index: usize) {
        let now = self.now;
        if let Some(mesh) = &mut self.nodes[index].mesh {
            mesh.handle_leave(now);
            self.drain(index);
            self.crash(index);
        }
    }

    pub(crate) fn set_load(&mut self, index: usize, figures: LoadFigures) {
        self.nodes[index].figures = figures;
        let now = self.now;
        if let Some(mesh) = &mut self.nodes[index].mesh {
            mesh.handle_load(now, figures);
            self.drain(index);
        }
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, span: Duration) {
        let until = self.now + span;
        while let Some(Reverse((at, _))) = self.queue.peek()
            && *at <= until
            && let Some(Reverse((at, number))) = self.queue.pop()
        {
            self.now = at;
            if let Some(event) = self.events.remove(&number) {
                self.happen(event);
            }
        }
        self.now = until;
    }

    pub(crate) fn schedule(&mut self, after: Duration, event: Event) {
        let number = self.next_event;
        self.next_event += 1;
        self.queue.push(Reverse((self.now + after, number)));
        self.events.insert(number, event);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Dial { cable, side } => self.dial(cable, side),
            Event::Opened { transport, side } => self.opened(transport, side),
            Event::Frame {
                transport,
                side,
                frame,
            } => self.deliver(transport, side, &frame),
            Event::Closed { transport, side } => self.closed(transport, side),
            Event::Wake { node, life } => self.wake(node, life),
        }
    }

    fn wake(&mut self, index: usize, life: u32) {
        let now = self.now;
        let node = &mut self.nodes[index];
        if node.life != life || node.wake.is_none_or(|at| at > now) {
            return;
        }
        node.wake = None;
        if let Some(mesh) = &mut node.mesh {
            mesh.handle_timeout(now);
            self.drain(index);
            let next = self.nodes[index].mesh.as_ref().and_then(Mesh::poll_timeout);
            assert!(
                next.is_none_or(|at| at > now),
                "a machine asks for time that has come"
            );
        }
    }

    /// Does what a machine wants done.
    pub(crate) fn drain(&mut self, index: usize) {
        let mut stop = None;
        while let Some(output) = self.nodes[index].mesh.as_mut().and_then(Mesh::poll_output) {
            match output {
                Output::Send { link, frame } => self.send(index, link, frame),
                Output::Close { link, .. } => self.close(index, link),
                Output::LinkUp { link, node, .. } => {
                    let up = &mut self.nodes[index].up;
                    assert!(
                        !up.values().any(|other| *other == node),
                        "two links of {node} are up"
                    );
                    up.insert(link, node);
                }
                Output::LinkDown { link, node } => {
                    assert_eq!(self.nodes[index].up.remove(&link), Some(node), "down without up");
                }
                Output::ViewChanged(_) => {}
                Output::DuplicateId { older } => stop = Some(older),
            }
        }
        if let Some(older) = stop {
            self.check_stop(index, older);
            self.crash(index);
            self.nodes[index].stopped = true;
            return;
        }
        self.plan_wake(index);
    }

    /// A node may only stop for an older one that has lived beside it.
    fn check_stop(&self, index: usize, older: Incarnation) {
        let own = &self.nodes[index].config;
        let life = |incarnation| {
            self.lives
                .iter()
                .find(|l| l.incarnation == incarnation && l.id == own.node)
        };
        let (other, this) = (
            life(older).expect("the older node exists"),
            life(own.incarnation).expect("started"),
        );
        assert!(older < own.incarnation, "the older of two nodes was stopped");
        let both_lived = other.ended.is_none_or(|ended| ended > this.born);
        assert!(both_lived, "{} stopped for a node that was dead before", own.node);
    }

    fn plan_wake(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let Some(at) = node.mesh.as_ref().and_then(Mesh::poll_timeout) else {
            return;
        };
        if node.wake.is_none_or(|planned| at < planned || planned < self.now) {
            node.wake = Some(at);
            let (life, after) = (node.life, at.saturating_duration_since(self.now));
            self.schedule(after, Event::Wake { node: index, life });
        }
    }

    /// The live nodes that a live node could reach over cables that are not cut, itself included. Leafs end ways.
    pub(crate) fn component(&self, start: usize) -> BTreeSet<usize> {
        let mut seen = BTreeSet::from([start]);
        let mut todo = vec![start];
        while let Some(index) = todo.pop() {
            if self.nodes[index].config.leaf && index != start {
                continue;
            }
            for (other, _) in self.live_neighbours(index) {
                if seen.insert(other) {
                    todo.push(other);
                }
            }
        }
        seen
    }

    /// Live nodes at the other end of cables that are not cut, with the cost of the way.
    pub(crate) fn live_neighbours(&self, index: usize) -> Vec<(usize, u32)> {
        let live = |index: usize| self.nodes[index].mesh.is_some();
        let cost = |index: usize| u32::from(self.nodes[index].config.cost.0);
        self.cables
            .iter()
            .filter(|cable| !cable.cut && cable.ends.contains(&index))
            .map(|cable| cable.ends[usize::from(cable.ends[0] == index)])
            .filter(|other| live(*other))
            .map(|other| (other, cost(index).max(cost(other))))
            .collect()
    }
}
