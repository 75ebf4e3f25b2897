//! What goes round: advertisements, loads, and the digests that find what was lost on the way.
//!
//! A leaf passes nothing on: it speaks for itself alone, so that it never joins two parts of a mesh.

use std::cmp::Ordering;
use std::sync::Arc;

use super::Mesh;
use crate::id::{LinkId, NodeId};
use crate::lsdb::{LoadVerdict, Verdict};
use crate::wire::frame::Frame;
use crate::wire::link::{Digest, LinkFrame, Load, Lsa, Synced};

impl Mesh {
    pub(super) fn on_lsa(&mut self, link: LinkId, lsa: &Arc<Lsa>, frame: &Frame) {
        if lsa.origin == self.config.node {
            self.on_own_lsa(link, lsa);
            return;
        }
        if let Some(conflict) = self.conflicts.get(&lsa.origin, lsa.incarnation) {
            let conflict = LinkFrame::Conflict(conflict).encode();
            self.send(link, conflict);
            self.send_entry(link, lsa);
            return;
        }
        match self.lsdb.insert(self.now, lsa, frame) {
            Verdict::Accepted { topology } => {
                if topology {
                    self.pending.topology();
                } else {
                    self.pending.changed(lsa.origin.clone());
                }
                self.pass_on(frame, Some(link));
            }
            Verdict::Known => {}
            Verdict::Stale(newer) => {
                self.counters.stale += 1;
                self.send(link, newer);
                self.send_load(link, &lsa.origin);
            }
            Verdict::Full => self.counters.over_limit += 1,
        }
    }

    /// Somebody passes on what carries this node's id.
    fn on_own_lsa(&mut self, link: LinkId, lsa: &Lsa) {
        match lsa.incarnation.cmp(&self.config.incarnation) {
            Ordering::Less => self.answer_stale(link, lsa),
            Ordering::Equal if lsa.sequence > self.own.sequence => {
                self.own.sequence = lsa.sequence;
                self.own.renew();
            }
            Ordering::Equal if lsa.sequence < self.own.sequence => self.answer_stale(link, lsa),
            Ordering::Equal => {}
            Ordering::Greater => self.on_younger_self(link, lsa),
        }
    }

    fn answer_stale(&mut self, link: LinkId, lsa: &Lsa) {
        self.counters.stale += 1;
        self.send_entry(link, lsa);
    }

    /// Sends what is held of the origin of `lsa`.
    pub(super) fn send_entry(&mut self, link: LinkId, lsa: &Lsa) {
        if let Some(entry) = self.lsdb.get(&lsa.origin) {
            let frame = entry.frame.clone();
            self.send(link, frame);
            self.send_load(link, &lsa.origin);
        }
    }

    /// Sends the load that belongs to what is held of `origin`: a new life at the other end has displaced the old load.
    fn send_load(&mut self, link: LinkId, origin: &NodeId) {
        let load = self.lsdb.get(origin).and_then(|entry| entry.load.as_ref());
        if let Some(frame) = load.map(|(_, frame)| frame.clone()) {
            self.send(link, frame);
        }
    }

    pub(super) fn on_load(&mut self, link: LinkId, load: &Load, frame: &Frame) {
        if load.origin == self.config.node {
            return;
        }
        match self.lsdb.insert_load(load, frame) {
            LoadVerdict::Accepted => {
                self.pending.changed(load.origin.clone());
                self.pass_on(frame, Some(link));
            }
            LoadVerdict::Stale => self.counters.stale += 1,
            LoadVerdict::Known | LoadVerdict::Stranger => {}
        }
    }

    /// Floods what another node has said, unless this node is a leaf.
    pub(super) fn pass_on(&mut self, frame: &Frame, from: Option<LinkId>) {
        if !self.config.leaf {
            self.flood(frame, from);
        }
    }

    pub(super) fn on_digest(&mut self, id: LinkId, theirs: &Digest) {
        let ours = self.lsdb.digest();
        let interval = self.config.timings.digest_interval;
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        if ours == *theirs {
            if !std::mem::replace(&mut link.synced, true) {
                self.pending.view_at_once(self.now);
            }
            return;
        }
        self.counters.digest_mismatches += 1;
        if link
            .digest_answered
            .is_some_and(|at| self.now < at + interval / 2)
            || link.neighbour().is_none()
        {
            return;
        }
        link.digest_answered = Some(self.now);
        let only_loads = (ours.entries, ours.hash) == (theirs.entries, theirs.hash);
        self.send_database(id, only_loads);
    }

    /// Sends all that the neighbour has to know, loads alone if that is enough, and then `Synced`.
    pub(super) fn send_database(&mut self, link: LinkId, only_loads: bool) {
        let (own, leaf) = (&self.config.node, self.config.leaf);
        let mut frames = Vec::new();
        for entry in self.lsdb.worth_sending(self.now, self.config.timings.settle) {
            if leaf && entry.lsa.origin != *own {
                continue;
            }
            if !only_loads {
                frames.push(entry.frame.clone());
            }
            frames.extend(entry.load.iter().map(|(_, frame)| frame.clone()));
        }
        frames.push(LinkFrame::Synced(Synced {}).encode());
        for frame in frames {
            self.send(link, frame);
        }
    }

    pub(super) fn on_synced(&mut self, id: LinkId) {
        if let Some(link) = self.links.get_mut(&id)
            && !std::mem::replace(&mut link.synced, true)
        {
            self.pending.topology_at_once(self.now);
        }
    }
}
