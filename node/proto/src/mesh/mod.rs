//! The mesh machine: greets neighbours, floods what it hears, knows who is reachable and how. A plain value.
//!
//! The driver tells it what has happened (`handle_*`), does what it wants done ([`Mesh::poll_output`] until `None`), and
//! calls [`Mesh::handle_timeout`] at [`Mesh::poll_timeout`]. Routes are computed in `poll_output`, so that a driver that
//! handles many frames before it polls pays once. It never reads a clock, a socket or a random number.

#![deny(clippy::wildcard_enum_match_arm, clippy::iter_over_hash_type)]

mod config;
mod counters;
mod link;
mod output;
mod view;

mod conflict;
mod flood;
mod greeting;
mod origin;
mod reach;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

pub use config::{LoadFigures, MAX_WORKER_TEXT_BYTES, MeshConfig, Timings};
pub use counters::MeshCounters;
pub use output::{CloseReason, Output};
pub use view::{Member, Reach, View};

use crate::id::{LinkId, NodeId};
use crate::lsdb::Lsdb;
use crate::routes::Routes;
use crate::wire::frame::Frame;
use crate::wire::link::{Goodbye, LinkFrame, MAX_ADJACENCIES};
use conflict::Conflicts;
use link::{Link, Phase};
use origin::OwnAds;
use reach::Pending;

/// The most links whose transport is up at once, those that have not said hello included.
pub const MAX_LINKS: usize = 2 * MAX_ADJACENCIES;

/// See the module.
#[derive(Debug)]
pub struct Mesh {
    config: MeshConfig,
    now: Instant,
    life: Life,
    // links
    links: BTreeMap<LinkId, Link>,
    /// The one link that is up for each neighbour.
    neighbours: BTreeMap<NodeId, LinkId>,
    next_token: u64,
    // what is known
    lsdb: Lsdb,
    conflicts: Conflicts,
    ageing_at: Option<Instant>,
    // what this node says of itself
    own: OwnAds,
    // what readers see
    pending: Pending,
    view: Arc<View>,
    // to the driver; it drains this after each call
    outputs: VecDeque<Output>,
    counters: MeshCounters,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Running,
    /// Has left or had to stop: does nothing any more.
    Over,
}

impl Mesh {
    /// A machine without links. Whatever in `config` does not fit into an advertisement is cut.
    pub fn new(config: MeshConfig, now: Instant) -> Self {
        let config = config.fit();
        let view = View {
            node: config.node.clone(),
            synced: true,
            members: BTreeMap::new(),
            routes: Arc::new(Routes::default()),
        };
        let mut mesh = Self {
            now,
            life: Life::Running,
            links: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            next_token: 1,
            lsdb: Lsdb::default(),
            conflicts: Conflicts::default(),
            ageing_at: None,
            own: OwnAds::new(now, now + config.timings.refresh),
            pending: Pending::new(now),
            view: Arc::new(view),
            outputs: VecDeque::new(),
            counters: MeshCounters::default(),
            config,
        };
        mesh.originate(false);
        mesh.compute();
        mesh.outputs.clear();
        mesh
    }

    /// A link's transport is up and secured. `certified` is the id that the peer's certificate proves, `dialled` says
    /// whether this node opened the link. The machine answers with its hello.
    pub fn handle_link_opened(&mut self, now: Instant, link: LinkId, certified: NodeId, dialled: bool) {
        if !self.begin(now) || self.links.contains_key(&link) {
            return;
        }
        let timings = &self.config.timings;
        let opened = Link::new(
            link,
            certified,
            dialled,
            self.now,
            timings.hello_timeout,
            timings.digest_interval,
        );
        self.links.insert(link, opened);
        if self.links.len() > MAX_LINKS {
            self.close(link, CloseReason::TooManyLinks);
        } else {
            self.send_hello(link);
            self.pending.view_at_once(self.now);
        }
    }

    /// A frame of a link's control stream has arrived. Unknown types are skipped; a malformed frame ends the link.
    pub fn handle_frame(&mut self, now: Instant, link: LinkId, frame: &Frame) {
        if !self.begin(now) || !self.links.contains_key(&link) {
            return;
        }
        match LinkFrame::decode(frame) {
            Ok(Some(decoded)) => {
                *self.counters.received.entry(frame.kind).or_default() += 1;
                self.on_frame(link, decoded, frame);
            }
            Ok(None) => self.counters.unknown += 1,
            Err(error) => {
                self.counters.malformed += 1;
                self.close(link, CloseReason::Malformed(error.to_string()));
            }
        }
    }

    /// A link's transport is gone.
    pub fn handle_link_closed(&mut self, now: Instant, link: LinkId) {
        if self.begin(now) {
            self.forget(link);
        }
    }

    /// How full the own pool is. Flooded if it differs from what was flooded last, within `load_interval`.
    pub fn handle_load(&mut self, now: Instant, figures: LoadFigures) {
        if self.begin(now) {
            self.own.figures = Some(figures);
        }
    }

    /// This node takes no more work: it advertises no workers from here on, and all hear so at once.
    pub fn handle_withdrawal(&mut self, now: Instant) {
        if self.begin(now) && !self.config.workers.is_empty() {
            self.config.workers.clear();
            self.originate(false);
        }
    }

    /// This node leaves: tells all and closes all links. Later calls do nothing.
    pub fn handle_leave(&mut self, now: Instant) {
        if self.begin(now) {
            self.originate(true);
            self.end(&CloseReason::Leaving);
        }
    }

    /// Time has passed; to be called at [`Self::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Instant) {
        if !self.begin(now) {
            return;
        }
        let due: Vec<LinkId> = self
            .links
            .iter()
            .filter(|(_, link)| link.deadline() <= self.now)
            .map(|(id, _)| *id)
            .collect();
        for link in due {
            self.on_link_deadline(link);
        }
        self.conflicts.expire(self.now);
        if self.ageing_at.is_some_and(|at| at <= self.now) {
            self.age();
        }
        if self.own.refresh_at <= self.now {
            self.own.renew();
        }
    }

    /// The next thing to do; `None` when all is done until the next call of a `handle_*`.
    pub fn poll_output(&mut self) -> Option<Output> {
        if self.outputs.is_empty() && self.life == Life::Running {
            self.settle();
        }
        self.outputs.pop_front()
    }

    /// When [`Self::handle_timeout`] has to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.life == Life::Over {
            return None;
        }
        let links = self.links.values().map(Link::deadline);
        let own = [
            self.ageing_at,
            Some(self.own.refresh_at),
            self.own.lsa_due(),
            self.own.load_due(),
            self.pending.due(),
        ];
        links.chain(own.into_iter().flatten()).min()
    }

    /// The last snapshot; up to date once [`Self::poll_output`] has returned `None`, but for changes that wait for
    /// [`Timings::spf_interval`].
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.view)
    }

    /// What has been counted since the start.
    pub fn counters(&self) -> &MeshCounters {
        &self.counters
    }

    /// Takes note of the time. Says whether the machine still runs.
    fn begin(&mut self, now: Instant) -> bool {
        self.now = self.now.max(now);
        self.life == Life::Running
    }

    fn on_frame(&mut self, link: LinkId, decoded: LinkFrame, frame: &Frame) {
        let greeted = self.links.get(&link).is_some_and(|l| l.peer().is_some());
        match decoded {
            LinkFrame::Hello(hello) => self.on_hello(link, &hello),
            LinkFrame::Goodbye(goodbye) => self.on_goodbye(link, goodbye),
            _ if !greeted => self.close(link, CloseReason::HelloExpected),
            LinkFrame::Lsa(lsa) => self.on_lsa(link, &lsa, frame),
            LinkFrame::Load(load) => self.on_load(link, &load, frame),
            LinkFrame::Digest(digest) => self.on_digest(link, &digest),
            LinkFrame::Synced(_) => self.on_synced(link),
            LinkFrame::Conflict(conflict) => self.on_conflict(Some(link), &conflict),
            LinkFrame::Probe(probe) => self.on_probe(link, probe.token),
            LinkFrame::ProbeReply(reply) => self.on_probe_reply(link, reply.token),
        }
    }

    fn on_link_deadline(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        match &link.phase {
            Phase::Greeting { .. } => self.close(id, CloseReason::HelloTimeout),
            Phase::Contending { .. } => self.on_contest_over(id),
            Phase::Up { .. } => {
                link.next_digest = self.now + self.config.timings.digest_interval;
                let digest = LinkFrame::Digest(self.lsdb.digest()).encode();
                self.send(id, digest);
            }
        }
    }

    fn on_goodbye(&mut self, link: LinkId, goodbye: Goodbye) {
        self.outputs.push_back(Output::Close {
            link,
            reason: CloseReason::Goodbye(goodbye.reason),
        });
        self.forget(link);
    }

    fn age(&mut self) {
        let timings = self.config.timings;
        if self.lsdb.expire(self.now, timings.settle, timings.max_age) {
            self.pending.topology();
        }
        self.ageing_at = self.lsdb.next_expiry(timings.settle, timings.max_age);
    }

    /// Does what waits until the driver polls.
    fn settle(&mut self) {
        if self.own.lsa_due().is_some_and(|at| at <= self.now) {
            self.originate_if_needed();
        }
        if self.own.load_due().is_some_and(|at| at <= self.now) {
            self.flood_own_load();
        }
        if self.pending.due().is_some_and(|at| at <= self.now) {
            self.compute();
        }
    }

    fn send(&mut self, link: LinkId, frame: Frame) {
        *self.counters.sent.entry(frame.kind).or_default() += 1;
        self.outputs.push_back(Output::Send { link, frame });
    }

    /// Sends a frame on all links that are up, but not back to where it came from.
    fn flood(&mut self, frame: &Frame, from: Option<LinkId>) {
        let to: Vec<LinkId> = self
            .neighbours
            .values()
            .copied()
            .filter(|to| Some(*to) != from)
            .collect();
        for link in to {
            self.send(link, frame.clone());
        }
    }

    /// Says goodbye and closes.
    fn close(&mut self, link: LinkId, reason: CloseReason) {
        if !self.links.contains_key(&link) {
            return;
        }
        let mut text = reason.to_string();
        config::cut(&mut text);
        self.send(link, LinkFrame::Goodbye(Goodbye { reason: text }).encode());
        self.outputs.push_back(Output::Close { link, reason });
        self.forget(link);
    }

    /// The link is gone; another one to the same node takes its place if there is one.
    fn forget(&mut self, id: LinkId) {
        let Some(link) = self.links.remove(&id) else {
            return;
        };
        self.pending.view_at_once(self.now);
        if let Some(peer) = link.neighbour() {
            self.neighbours.remove(&peer.node);
            self.pending.topology_at_once(self.now);
            self.own.links_changed();
            self.outputs.push_back(Output::LinkDown {
                link: id,
                node: peer.node.clone(),
            });
            if self.life == Life::Running {
                self.promote_challengers(id);
            }
        }
    }

    fn end(&mut self, reason: &CloseReason) {
        self.life = Life::Over;
        let links: BTreeSet<LinkId> = self.links.keys().copied().collect();
        for link in links {
            self.close(link, reason.clone());
        }
    }

    fn take_token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }
}
