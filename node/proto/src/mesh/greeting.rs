//! From a hello to a neighbour: who may come in, and which of two links to one node stays.
//!
//! A second link to a node is either a new one in place of one that died unseen, or one of two that both ends dialled
//! at once, or comes from another life of the node, or from another node with the same id. Probes on both tell.

use super::link::{Contest, Link, Peer, Phase};
use super::{CloseReason, Mesh, Output};
use crate::id::{LinkId, NodeId};
use crate::wire::link::{
    Conflict, Hello, LinkFrame, MAX_ADJACENCIES, PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, Probe, ProbeReply,
};

impl Mesh {
    pub(super) fn send_hello(&mut self, link: LinkId) {
        let config = &self.config;
        let hello = Hello {
            version_min: PROTOCOL_VERSION_MIN,
            version_max: PROTOCOL_VERSION,
            features: Vec::new(),
            node: config.node.clone(),
            incarnation: config.incarnation,
            cost: config.cost,
            leaf: config.leaf,
        };
        self.send(link, LinkFrame::Hello(hello).encode());
    }

    pub(super) fn on_hello(&mut self, id: LinkId, hello: &Hello) {
        let Some(link) = self.links.get(&id) else {
            return;
        };
        if let Some(peer) = link.peer() {
            if *peer != Peer::of(hello) {
                self.close(id, CloseReason::SecondHello);
            }
            return;
        }
        if let Err(reason) = check(hello, &link.certified) {
            self.close(id, reason);
        } else if hello.node == self.config.node {
            self.on_own_hello(id, hello);
        } else if let Some(conflict) = self.conflicts.get(&hello.node, hello.incarnation) {
            self.refuse(id, &conflict);
        } else {
            self.admit(id, Peer::of(hello));
        }
    }

    /// The peer carries this node's id: it is this very process, or another one.
    fn on_own_hello(&mut self, link: LinkId, hello: &Hello) {
        let (own, theirs) = (self.config.incarnation, hello.incarnation);
        if theirs == own {
            self.close(link, CloseReason::Oneself);
        } else if theirs < own {
            self.stop(theirs);
        } else {
            let conflict = Conflict {
                node: hello.node.clone(),
                older: own,
                younger: theirs,
            };
            self.on_conflict(None, &conflict);
            self.refuse(link, &conflict);
        }
    }

    /// Brings the link up, unless another one to the same node is.
    fn admit(&mut self, id: LinkId, peer: Peer) {
        match self.neighbours.get(&peer.node).copied() {
            None if self.neighbours.len() >= MAX_ADJACENCIES => self.close(id, CloseReason::TooManyLinks),
            None => self.bring_up(id, peer),
            Some(incumbent) => self.challenge(id, peer, incumbent),
        }
    }

    fn bring_up(&mut self, id: LinkId, peer: Peer) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        link.phase = Phase::Up { peer: peer.clone() };
        self.neighbours.insert(peer.node.clone(), id);
        self.own.links_changed();
        self.pending.topology();
        self.outputs.push_back(Output::LinkUp {
            link: id,
            node: peer.node,
            incarnation: peer.incarnation,
            leaf: peer.leaf,
            cost: peer.cost.max(self.config.cost),
        });
        self.send_database(id, false);
    }

    fn challenge(&mut self, id: LinkId, peer: Peer, incumbent: LinkId) {
        let same = |old: &Link, new: &Link| {
            old.dialled == new.dialled && old.peer().is_some_and(|p| p.incarnation == peer.incarnation)
        };
        let replaces = match (self.links.get(&incumbent), self.links.get(&id)) {
            (Some(old), Some(new)) => same(old, new),
            _ => false,
        };
        let contest = Contest {
            incumbent,
            incumbent_token: self.take_token(),
            incumbent_lives: false,
            challenger_token: self.take_token(),
            challenger_lives: false,
            deadline: self.now + self.config.timings.probe_timeout,
        };
        if let Some(link) = self.links.get_mut(&id) {
            link.phase = Phase::Contending { peer, contest };
        }
        if replaces {
            self.close(incumbent, CloseReason::Replaced);
        } else {
            self.send_probe(incumbent, contest.incumbent_token);
            self.send_probe(id, contest.challenger_token);
        }
    }

    fn send_probe(&mut self, link: LinkId, token: u64) {
        self.send(link, LinkFrame::Probe(Probe { token }).encode());
    }

    pub(super) fn on_probe(&mut self, link: LinkId, token: u64) {
        self.send(link, LinkFrame::ProbeReply(ProbeReply { token }).encode());
    }

    pub(super) fn on_probe_reply(&mut self, from: LinkId, token: u64) {
        let mut both_live = None;
        for (id, link) in &mut self.links {
            if let Phase::Contending { contest, .. } = &mut link.phase {
                contest.incumbent_lives |= contest.incumbent == from && contest.incumbent_token == token;
                contest.challenger_lives |= *id == from && contest.challenger_token == token;
                if contest.incumbent_lives && contest.challenger_lives {
                    both_live = Some(*id);
                    break;
                }
            }
        }
        if let Some(challenger) = both_live {
            self.on_both_live(challenger);
        }
    }

    /// Both links have proved that they live. Both ends come to the same choice.
    fn on_both_live(&mut self, challenger: LinkId) {
        let Some((new, contest)) = self.links.get(&challenger).and_then(|l| Some((l, l.contest()?))) else {
            return;
        };
        let (Some(old), Some(newer)) = (
            self.links.get(&contest.incumbent).and_then(Link::neighbour),
            new.peer(),
        ) else {
            return;
        };
        if old.incarnation != newer.incarnation {
            let conflict = Conflict {
                node: newer.node.clone(),
                older: old.incarnation.min(newer.incarnation),
                younger: old.incarnation.max(newer.incarnation),
            };
            self.on_conflict(None, &conflict);
        } else if new.dialled == (self.config.node < newer.node) {
            self.close(contest.incumbent, CloseReason::Replaced);
        } else {
            self.close(challenger, CloseReason::Replaced);
        }
    }

    /// The probes had their time, and at least one has not been answered.
    pub(super) fn on_contest_over(&mut self, challenger: LinkId) {
        let Some((new, contest)) = self.links.get(&challenger).and_then(|l| Some((l, l.contest()?))) else {
            return;
        };
        if contest.incumbent_lives {
            self.close(challenger, CloseReason::Unresponsive);
            return;
        }
        let old = self.links.get(&contest.incumbent).and_then(Link::neighbour);
        let restarted = old.map(|p| p.incarnation) != new.peer().map(|p| p.incarnation);
        let reason = match restarted {
            true => CloseReason::Restarted,
            false => CloseReason::Replaced,
        };
        self.close(contest.incumbent, reason);
    }

    /// The link that was up is gone: the first challenger takes its place, further ones challenge that one.
    pub(super) fn promote_challengers(&mut self, gone: LinkId) {
        let waiting: Vec<(LinkId, Peer)> = self
            .links
            .iter()
            .filter(|(_, link)| link.contest().is_some_and(|c| c.incumbent == gone))
            .filter_map(|(id, link)| Some((*id, link.peer()?.clone())))
            .collect();
        for (id, peer) in waiting {
            match self.conflicts.get(&peer.node, peer.incarnation) {
                Some(conflict) => self.refuse(id, &conflict),
                None => self.admit(id, peer),
            }
        }
    }
}

fn check(hello: &Hello, certified: &NodeId) -> Result<(), CloseReason> {
    if hello.version_min > PROTOCOL_VERSION || hello.version_max < PROTOCOL_VERSION_MIN {
        Err(CloseReason::Version {
            min: hello.version_min,
            max: hello.version_max,
        })
    } else if hello.node.base() != *certified {
        Err(CloseReason::WrongIdentity {
            certified: certified.clone(),
            claimed: hello.node.clone(),
        })
    } else if hello.node.is_leaf() && !hello.leaf {
        Err(CloseReason::LeafId(hello.node.clone()))
    } else {
        Ok(())
    }
}
