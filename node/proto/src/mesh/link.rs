//! One link as the mesh machine sees it: how far it has come, and who is at the other end.

use std::time::{Duration, Instant};

use crate::id::{Cost, Incarnation, LinkId, NodeId};
use crate::wire::link::Hello;

/// A link whose transport is up.
#[derive(Debug)]
pub(super) struct Link {
    /// From the peer's certificate.
    pub(super) certified: NodeId,
    /// Whether this node dialled.
    pub(super) dialled: bool,
    pub(super) phase: Phase,
    /// The peer has sent its whole database.
    pub(super) synced: bool,
    pub(super) next_digest: Instant,
    /// When a differing digest was last answered.
    pub(super) digest_answered: Option<Instant>,
}

/// How far a link has come.
#[derive(Debug)]
pub(super) enum Phase {
    /// Waits for the peer's hello.
    Greeting { deadline: Instant },
    /// Another link to the same node is up; both have to prove that they live.
    Contending { peer: Peer, contest: Contest },
    /// Carries control and packets.
    Up { peer: Peer },
}

/// Who is at the other end, from its hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) node: NodeId,
    pub(super) incarnation: Incarnation,
    pub(super) cost: Cost,
    pub(super) leaf: bool,
}

/// A new link to a node against the one that is up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Contest {
    pub(super) incumbent: LinkId,
    pub(super) incumbent_token: u64,
    pub(super) incumbent_lives: bool,
    pub(super) challenger_token: u64,
    pub(super) challenger_lives: bool,
    pub(super) deadline: Instant,
}

impl Link {
    /// A link that has just come up. Digests of different links are spread over the interval.
    pub(super) fn new(
        id: LinkId,
        certified: NodeId,
        dialled: bool,
        now: Instant,
        hello_timeout: Duration,
        digest_interval: Duration,
    ) -> Self {
        let sixteenths = (id.0 % 16) as u32 + 1;
        Self {
            certified,
            dialled,
            phase: Phase::Greeting {
                deadline: now + hello_timeout,
            },
            synced: false,
            next_digest: now + digest_interval * sixteenths / 16,
            digest_answered: None,
        }
    }

    /// The peer, once it has said hello.
    pub(super) fn peer(&self) -> Option<&Peer> {
        match &self.phase {
            Phase::Greeting { .. } => None,
            Phase::Contending { peer, .. } | Phase::Up { peer } => Some(peer),
        }
    }

    /// The peer of a link that is up.
    pub(super) fn neighbour(&self) -> Option<&Peer> {
        match &self.phase {
            Phase::Up { peer } => Some(peer),
            Phase::Greeting { .. } | Phase::Contending { .. } => None,
        }
    }

    pub(super) fn contest(&self) -> Option<Contest> {
        match &self.phase {
            Phase::Contending { contest, .. } => Some(*contest),
            Phase::Greeting { .. } | Phase::Up { .. } => None,
        }
    }

    /// When the link needs attention next.
    pub(super) fn deadline(&self) -> Instant {
        match &self.phase {
            Phase::Greeting { deadline } => *deadline,
            Phase::Contending { contest, .. } => contest.deadline,
            Phase::Up { .. } => self.next_digest,
        }
    }
}

impl Peer {
    pub(super) fn of(hello: &Hello) -> Self {
        Self {
            node: hello.node.clone(),
            incarnation: hello.incarnation,
            cost: hello.cost,
            leaf: hello.leaf,
        }
    }
}
