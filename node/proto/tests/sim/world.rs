//! A network in virtual time: nodes with their machines, cables between them, transports that live and die.
//!
//! It plays the driver's part: dials, delivers frames, wakes machines when they ask for it. While `weather` is foul,
//! frames are lost, overtake each other and arrive twice, which no real transport does: the machine has to survive it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::{Duration, Instant};

use workmesh_proto::mesh::{LoadFigures, Mesh, MeshConfig, Output, Timings};
use workmesh_proto::wire::frame::Frame;
use workmesh_proto::{Cost, Incarnation, LinkId, NodeId};

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
    life: u32,
    /// Whether the machine has said that its id is taken.
    pub(crate) stopped: bool,
    pub(crate) up: BTreeMap<LinkId, NodeId>,
    ends: BTreeMap<LinkId, (usize, usize)>,
    next_link: u64,
    wake: Option<Instant>,
}

/// A way between two nodes, on which transports can be dialled.
pub(crate) struct Cable {
    pub(crate) ends: [usize; 2],
    cut: bool,
    latency: Duration,
}

/// One transport. It is dead once its cable was cut or one of its nodes ended.
struct Transport {
    cable: usize,
    dead: bool,
    sides: [Side; 2],
}

struct Side {
    node: usize,
    life: u32,
    link: LinkId,
    phase: SidePhase,
    /// Frames to this side do not arrive earlier, except overtaking ones.
    in_order: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum SidePhase {
    Opening,
    Open,
    Closed,
}

enum Event {
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
    transports: Vec<Transport>,
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

    /// A cable on which the nodes dial that are told to.
    pub(crate) fn add_cable(&mut self, ends: [usize; 2], dials: [bool; 2], latency: Duration) -> usize {
        let cable = self.cables.len();
        self.cables.push(Cable {
            ends,
            cut: false,
            latency,
        });
        for side in [0, 1] {
            if dials[side] {
                self.schedule(Duration::ZERO, Event::Dial { cable, side });
            }
        }
        cable
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

    /// Nothing passes the cable any more; both ends notice after a while, each in its own time.
    pub(crate) fn cut(&mut self, cable: usize) {
        self.cables[cable].cut = true;
        for transport in 0..self.transports.len() {
            if self.transports[transport].cable == cable {
                self.kill_transport(transport);
            }
        }
    }

    pub(crate) fn mend(&mut self, cable: usize) {
        self.cables[cable].cut = false;
    }

    fn kill_transport(&mut self, transport: usize) {
        if std::mem::replace(&mut self.transports[transport].dead, true) {
            return;
        }
        for side in [0, 1] {
            let after = self.rng.millis(100..5000);
            self.schedule(after, Event::Closed { transport, side });
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

    fn schedule(&mut self, after: Duration, event: Event) {
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

    fn dial(&mut self, cable: usize, side: usize) {
        let again = self.rng.millis(100..600);
        self.schedule(again, Event::Dial { cable, side });
        let Cable { ends, cut, latency } = self.cables[cable];
        let (here, there) = (ends[side], ends[1 - side]);
        let mut ends = self.nodes[here].ends.values();
        let busy = ends.any(|(transport, _)| self.transports[*transport].cable == cable);
        if busy || cut || self.nodes[here].mesh.is_none() || self.nodes[there].mesh.is_none() {
            return;
        }
        let transport = self.transports.len();
        let sides = [here, there].map(|index| {
            let node = &mut self.nodes[index];
            node.next_link += 1;
            Side {
                node: index,
                life: node.life,
                link: LinkId(node.next_link),
                phase: SidePhase::Opening,
                in_order: self.now,
            }
        });
        for (at, side) in sides.iter().enumerate() {
            self.nodes[side.node].ends.insert(side.link, (transport, at));
        }
        self.transports.push(Transport {
            cable,
            dead: false,
            sides,
        });
        self.schedule(latency, Event::Opened { transport, side: 1 });
        self.schedule(latency * 2, Event::Opened { transport, side: 0 });
    }

    fn opened(&mut self, transport: usize, side: usize) {
        if self.transports[transport].dead
            || self.transports[transport].sides[side].phase == SidePhase::Closed
        {
            return;
        }
        let peer = self.transports[transport].sides[1 - side].node;
        let certified = self.nodes[peer].config.node.base();
        let end = &mut self.transports[transport].sides[side];
        end.phase = SidePhase::Open;
        let (index, link, now) = (end.node, end.link, self.now);
        if let Some(mesh) = &mut self.nodes[index].mesh {
            mesh.handle_link_opened(now, link, certified, side == 0);
            self.drain(index);
        }
    }

    fn deliver(&mut self, transport: usize, side: usize, frame: &Frame) {
        let end = &self.transports[transport].sides[side];
        if self.transports[transport].dead || end.phase != SidePhase::Open {
            return;
        }
        self.frames += 1;
        let (index, link, now) = (end.node, end.link, self.now);
        if let Some(mesh) = &mut self.nodes[index].mesh {
            mesh.handle_frame(now, link, frame);
            self.drain(index);
        }
    }

    fn closed(&mut self, transport: usize, side: usize) {
        let end = &mut self.transports[transport].sides[side];
        if std::mem::replace(&mut end.phase, SidePhase::Closed) == SidePhase::Closed {
            return;
        }
        let (index, link, life, now) = (end.node, end.link, end.life, self.now);
        let node = &mut self.nodes[index];
        if node.life != life {
            return;
        }
        node.ends.remove(&link);
        if let Some(mesh) = &mut node.mesh {
            mesh.handle_link_closed(now, link);
            self.drain(index);
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
    fn drain(&mut self, index: usize) {
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

    fn send(&mut self, index: usize, link: LinkId, frame: Frame) {
        let (transport, side) = *self.nodes[index]
            .ends
            .get(&link)
            .expect("frames go to open links");
        if self.transports[transport].dead || self.rng.chance(self.weather.lost) {
            return;
        }
        let copies = 1 + u64::from(self.rng.chance(self.weather.twice));
        for _ in 0..copies {
            let latency = self.cables[self.transports[transport].cable].latency;
            let at = self.now + latency + self.rng.millis(0..2);
            let to = &mut self.transports[transport].sides[1 - side];
            let at = if self.rng.chance(self.weather.overtaking) {
                at + self.rng.millis(0..500)
            } else {
                to.in_order = to.in_order.max(at);
                to.in_order
            };
            let after = at - self.now;
            let frame = frame.clone();
            self.schedule(
                after,
                Event::Frame {
                    transport,
                    side: 1 - side,
                    frame,
                },
            );
        }
    }

    fn close(&mut self, index: usize, link: LinkId) {
        let (transport, side) = self.nodes[index]
            .ends
            .remove(&link)
            .expect("open links are closed");
        let whole = &mut self.transports[transport];
        whole.sides[side].phase = SidePhase::Closed;
        if whole.dead {
            return;
        }
        let at = whole.sides[1 - side].in_order.max(self.now) + self.cables[whole.cable].latency;
        let after = at - self.now;
        self.schedule(
            after,
            Event::Closed {
                transport,
                side: 1 - side,
            },
        );
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
