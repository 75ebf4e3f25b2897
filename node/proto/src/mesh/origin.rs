//! What this node says of itself: its advertisement and its load, when they are due and how they are made.

use std::sync::Arc;
use std::time::Instant;

use super::{LoadFigures, Mesh};
use crate::id::NodeId;
use crate::wire::link::{Adjacency, LinkFrame, Load, Lsa};

/// The state of the own advertisement and the own load.
#[derive(Debug)]
pub(super) struct OwnAds {
    // advertisement
    pub(super) sequence: u64,
    need: Need,
    /// No advertisement before.
    lsa_allowed_at: Instant,
    pub(super) refresh_at: Instant,
    // load
    pub(super) figures: Option<LoadFigures>,
    flooded: Option<LoadFigures>,
    /// No load before.
    load_allowed_at: Instant,
    load_sequence: u64,
}

/// Whether a new advertisement is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    No,
    /// If the neighbours differ from those advertised.
    IfChanged,
    Yes,
}

impl OwnAds {
    pub(super) fn new(now: Instant, refresh_at: Instant) -> Self {
        Self {
            sequence: 0,
            need: Need::No,
            lsa_allowed_at: now,
            refresh_at,
            figures: None,
            flooded: None,
            load_allowed_at: now,
            load_sequence: 0,
        }
    }

    /// A link came up or went down.
    pub(super) fn links_changed(&mut self) {
        self.need = self.need.max(Need::IfChanged);
    }

    /// A new advertisement is needed even if nothing has changed.
    pub(super) fn renew(&mut self) {
        self.need = Need::Yes;
    }

    /// All have to hear everything again.
    pub(super) fn repeat_all(&mut self) {
        self.renew();
        self.flooded = None;
    }

    /// When the next advertisement is to be made, if one is needed.
    pub(super) fn lsa_due(&self) -> Option<Instant> {
        (self.need > Need::No).then_some(self.lsa_allowed_at)
    }

    /// When the next load is to be flooded, if it differs from the last one. An advertisement that is needed goes first.
    pub(super) fn load_due(&self) -> Option<Instant> {
        (self.figures != self.flooded && self.need == Need::No).then_some(self.load_allowed_at)
    }
}

impl Mesh {
    /// Makes a new advertisement if one is needed.
    pub(super) fn originate_if_needed(&mut self) {
        let advertised = self.lsdb.get(&self.config.node).map(|own| &own.lsa.adjacencies);
        if self.own.need == Need::Yes || advertised != Some(&self.own_adjacencies()) {
            self.originate(false);
        }
        self.own.need = Need::No;
    }

    /// Makes a new advertisement, takes it into the database and floods it.
    pub(super) fn originate(&mut self, leaving: bool) {
        let config = &self.config;
        self.own.sequence = self.own.sequence.saturating_add(1);
        let lsa = Arc::new(Lsa {
            origin: config.node.clone(),
            incarnation: config.incarnation,
            sequence: self.own.sequence,
            leaf: config.leaf,
            leaving,
            batches: true,
            version: config.version.clone(),
            adjacencies: if leaving {
                Vec::new()
            } else {
                self.own_adjacencies()
            },
            workers: config.workers.clone(),
            labels: config.labels.clone(),
        });
        let frame = LinkFrame::Lsa(Arc::clone(&lsa)).encode();
        self.lsdb.insert(self.now, &lsa, &frame);
        self.flood(&frame, None);
        if self.own.sequence > 1 {
            self.own.lsa_allowed_at = self.now + self.config.timings.lsa_interval;
        }
        self.own.refresh_at = self.now + self.config.timings.refresh;
        self.pending.changed(lsa.origin.clone());
    }

    fn own_adjacencies(&self) -> Vec<Adjacency> {
        let cost = self.config.cost;
        let adjacency = |node: &NodeId| Adjacency {
            node: node.clone(),
            cost,
        };
        self.neighbours.keys().map(adjacency).collect()
    }

    /// Floods the own load.
    pub(super) fn flood_own_load(&mut self) {
        let Some(figures) = self.own.figures else {
            return;
        };
        self.own.load_sequence += 1;
        self.own.flooded = Some(figures);
        self.own.load_allowed_at = self.now + self.config.timings.load_interval;
        let load = Load {
            origin: self.config.node.clone(),
            incarnation: self.config.incarnation,
            sequence: self.own.load_sequence,
            slots: figures.slots,
            running: figures.running,
            queued: figures.queued,
            queue_limit: figures.queue_limit,
        };
        let frame = LinkFrame::Load(load.clone()).encode();
        self.lsdb.insert_load(&load, &frame);
        self.pending.changed(load.origin);
        self.flood(&frame, None);
    }
}
