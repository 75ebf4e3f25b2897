//! Cables, and the transports that are dialled on them: they carry frames, and end with a cut, a crash or a close.
//!
//! While the weather is foul, frames are lost, overtake each other and arrive twice, which no real transport does: the
//! machine has to survive it.

use std::time::{Duration, Instant};

use workmesh_proto::LinkId;
use workmesh_proto::wire::frame::Frame;

use crate::world::{Event, World};

/// A way between two nodes, on which transports can be dialled.
pub(crate) struct Cable {
    pub(crate) ends: [usize; 2],
    pub(crate) cut: bool,
    pub(crate) latency: Duration,
}

/// One transport. It is dead once its cable was cut or one of its nodes ended.
pub(crate) struct Transport {
    pub(crate) cable: usize,
    pub(crate) dead: bool,
    pub(crate) sides: [Side; 2],
}

pub(crate) struct Side {
    pub(crate) node: usize,
    pub(crate) life: u32,
    pub(crate) link: LinkId,
    pub(crate) phase: SidePhase,
    /// Frames to this side do not arrive earlier, except overtaking ones.
    pub(crate) in_order: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum SidePhase {
    Opening,
    Open,
    Closed,
}

impl World {
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

    pub(crate) fn kill_transport(&mut self, transport: usize) {
        if std::mem::replace(&mut self.transports[transport].dead, true) {
            return;
        }
        for side in [0, 1] {
            let after = self.rng.millis(100..5000);
            self.schedule(after, Event::Closed { transport, side });
        }
    }

    pub(crate) fn dial(&mut self, cable: usize, side: usize) {
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

    pub(crate) fn opened(&mut self, transport: usize, side: usize) {
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

    pub(crate) fn deliver(&mut self, transport: usize, side: usize, frame: &Frame) {
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

    pub(crate) fn closed(&mut self, transport: usize, side: usize) {
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

    pub(crate) fn send(&mut self, index: usize, link: LinkId, frame: Frame) {
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

    pub(crate) fn close(&mut self, index: usize, link: LinkId) {
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
}
