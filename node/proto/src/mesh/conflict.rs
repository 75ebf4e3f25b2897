//! Two live nodes with one id: the older one stays, all others drop the younger one and remember it for a while.

use std::collections::BTreeMap;
use std::time::Instant;

use super::{CloseReason, Mesh, Output};
use crate::id::{Incarnation, LinkId, NodeId};
use crate::wire::link::{Conflict, LinkFrame, Lsa};

/// The most refused lives that are remembered. The one that expires first is forgotten first.
pub(super) const MAX_CONFLICTS: usize = 256;

/// The lives that have been refused.
#[derive(Debug, Default)]
pub(super) struct Conflicts {
    refused: BTreeMap<(NodeId, Incarnation), Refused>,
}

#[derive(Debug)]
struct Refused {
    older: Incarnation,
    until: Instant,
}

impl Conflicts {
    /// Remembers a refused life. Says whether that is news.
    fn insert(&mut self, conflict: &Conflict, until: Instant) -> bool {
        let key = (conflict.node.clone(), conflict.younger);
        if self.refused.contains_key(&key) {
            return false;
        }
        if self.refused.len() >= MAX_CONFLICTS
            && let Some(first) = self
                .refused
                .iter()
                .min_by_key(|(_, r)| r.until)
                .map(|(key, _)| key.clone())
        {
            self.refused.remove(&first);
        }
        let older = conflict.older;
        self.refused.insert(key, Refused { older, until });
        true
    }

    /// The conflict for which this life of a node has been refused.
    pub(super) fn get(&self, node: &NodeId, younger: Incarnation) -> Option<Conflict> {
        let refused = self.refused.get(&(node.clone(), younger))?;
        Some(Conflict {
            node: node.clone(),
            older: refused.older,
            younger,
        })
    }

    /// Forgets what is past its time.
    pub(super) fn expire(&mut self, now: Instant) {
        self.refused.retain(|_, refused| now < refused.until);
    }
}

impl Mesh {
    /// A conflict has arrived on a link, or was found here. It is not believed where this node knows better: an older
    /// life of this node does not give way to a younger one, but tells all again what the younger one had displaced.
    pub(super) fn on_conflict(&mut self, from: Option<LinkId>, conflict: &Conflict) {
        if conflict.node == self.config.node && conflict.younger == self.config.incarnation {
            self.stop(conflict.older);
            return;
        }
        let until = self.now + self.config.timings.max_age;
        if !self.conflicts.insert(conflict, until) {
            return;
        }
        self.flood(&LinkFrame::Conflict(conflict.clone()).encode(), from);
        if conflict.node == self.config.node {
            self.own.repeat_all();
        }
        if self.lsdb.remove_life(&conflict.node, conflict.younger) {
            self.pending.topology();
        }
        let refused: Vec<LinkId> = self
            .links
            .iter()
            .filter(|(_, link)| {
                link.peer()
                    .is_some_and(|peer| peer.node == conflict.node && peer.incarnation == conflict.younger)
            })
            .map(|(id, _)| *id)
            .collect();
        for link in refused {
            self.refuse(link, conflict);
        }
    }

    /// Tells the younger node that it has to go, and closes the link to it.
    pub(super) fn refuse(&mut self, link: LinkId, conflict: &Conflict) {
        if !self.links.contains_key(&link) {
            return;
        }
        self.send(link, LinkFrame::Conflict(conflict.clone()).encode());
        let reason = CloseReason::Duplicate {
            node: conflict.node.clone(),
            older: conflict.older,
            younger: conflict.younger,
        };
        self.close(link, reason);
    }

    /// Another node carries this node's id and is younger. All hear of it, and then again what this node says: the
    /// younger one's advertisement had taken its place.
    pub(super) fn on_younger_self(&mut self, link: LinkId, younger: &Lsa) {
        if let Some(known) = self.conflicts.get(&younger.origin, younger.incarnation) {
            self.send(link, LinkFrame::Conflict(known).encode());
            self.send_entry(link, younger);
        } else {
            let conflict = Conflict {
                node: self.config.node.clone(),
                older: self.config.incarnation,
                younger: younger.incarnation,
            };
            self.on_conflict(None, &conflict);
        }
    }

    /// An older live node carries this node's id.
    pub(super) fn stop(&mut self, older: Incarnation) {
        self.end(&CloseReason::Stopping);
        self.outputs.push_back(Output::DuplicateId { older });
    }
}
