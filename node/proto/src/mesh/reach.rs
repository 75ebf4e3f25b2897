//! From the database to routes and to the snapshot that readers see: when, and how.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Member, Mesh, Output, Reach, View};
use crate::id::{Cost, NodeHash, NodeId};
use crate::lsdb::Entry;
use crate::routes::{MAX_HOPS, Route, Routes};
use crate::spf::{Graph, Path, Vertex};

/// What has changed since the last snapshot.
#[derive(Debug)]
pub(super) struct Pending {
    topology: bool,
    view: bool,
    /// Nodes whose advertisement or load is new, at most as many as the database holds.
    members: BTreeSet<NodeId>,
    /// No computation before.
    allowed_at: Instant,
}

impl Pending {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            topology: true,
            view: true,
            members: BTreeSet::new(),
            allowed_at: now,
        }
    }

    /// Routes may have changed.
    pub(super) fn topology(&mut self) {
        self.topology = true;
    }

    /// Routes have changed, and nobody should wait for it.
    pub(super) fn topology_at_once(&mut self, now: Instant) {
        self.topology = true;
        self.allowed_at = self.allowed_at.min(now);
    }

    /// Something else in the snapshot may have changed, and nobody should wait for it.
    pub(super) fn view_at_once(&mut self, now: Instant) {
        self.view = true;
        self.allowed_at = self.allowed_at.min(now);
    }

    /// The advertisement or the load of `node` is new.
    pub(super) fn changed(&mut self, node: NodeId) {
        self.members.insert(node);
    }

    /// When the next computation is to be made, if one is needed.
    pub(super) fn due(&self) -> Option<Instant> {
        (self.topology || self.view || !self.members.is_empty()).then_some(self.allowed_at)
    }
}

impl Mesh {
    /// Makes a new snapshot, and new routes if the topology has changed.
    pub(super) fn compute(&mut self) {
        let changed = std::mem::take(&mut self.pending.members);
        let topology = std::mem::take(&mut self.pending.topology);
        let asked = std::mem::take(&mut self.pending.view);
        self.pending.allowed_at = self.now + self.paced();
        let synced = self.is_synced();
        if topology {
            let (members, routes) = self.compute_routes();
            self.view = Arc::new(View {
                node: self.config.node.clone(),
                synced,
                members,
                routes: Arc::new(routes),
            });
            self.ageing_at = self
                .lsdb
                .next_expiry(self.config.timings.settle, self.config.timings.max_age);
        } else if !changed.is_empty() || (asked && self.view.synced != synced) {
            let view = Arc::make_mut(&mut self.view);
            view.synced = synced;
            for node in changed {
                if let (Some(entry), Some(member)) = (self.lsdb.get(&node), view.members.get_mut(&node)) {
                    *member = Arc::new(member_of(entry, member.reach.clone()));
                }
            }
        } else {
            return;
        }
        self.outputs
            .push_back(Output::ViewChanged(Arc::clone(&self.view)));
    }

    /// Large meshes compute less often: a computation takes longer there.
    fn paced(&self) -> Duration {
        self.config.timings.spf_interval * (1 + self.lsdb.len() as u32 / 1000)
    }

    fn is_synced(&self) -> bool {
        self.links
            .values()
            .all(|link| link.synced || link.contest().is_some())
    }

    fn compute_routes(&mut self) -> (BTreeMap<NodeId, Arc<Member>>, Routes) {
        self.counters.spf_runs += 1;
        let paths = self.shortest_paths();
        let gone_for = self.config.timings.settle;
        let back = self
            .lsdb
            .mark_reach(self.now, paths.iter().map(Option::is_some), gone_for);
        for frame in back {
            self.pass_on(&frame, None);
        }
        let ids: Vec<&NodeId> = self.lsdb.entries().map(|(id, _)| id).collect();
        let mut members = BTreeMap::new();
        let mut routes = Routes::default();
        for ((id, entry), path) in self.lsdb.entries().zip(&paths) {
            let reach = match path {
                _ if *id == self.config.node => Reach::Here,
                Some(path) => self.route(&ids, path).map_or(Reach::Nowhere, Reach::Via),
                None => Reach::Nowhere,
            };
            if let Reach::Via(route) = &reach {
                routes.insert(entry.hash, id.clone(), route.clone());
            }
            if !(entry.lsa.leaf && reach == Reach::Nowhere) {
                members.insert(id.clone(), Arc::new(member_of(entry, reach)));
            }
        }
        (members, routes)
    }

    /// The way to each entry of the database, in its order. For this node its live links count, not those that it has
    /// advertised.
    fn shortest_paths(&self) -> Vec<Option<Path>> {
        let own = &self.config.node;
        let own_claims: Vec<(NodeHash, Cost)> = self
            .neighbours
            .keys()
            .filter_map(|node| Some((self.lsdb.get(node)?.hash, self.config.cost)))
            .collect();
        let mut source = 0;
        let vertices: Vec<Vertex<'_>> = (0u32..)
            .zip(self.lsdb.entries())
            .map(|(index, (id, entry))| {
                let claims = if id == own {
                    source = index;
                    &own_claims
                } else {
                    &entry.claims
                };
                Vertex {
                    node: entry.hash,
                    leaf: entry.lsa.leaf,
                    claims,
                }
            })
            .collect();
        Graph::new(&vertices).paths_from(source)
    }

    fn route(&self, ids: &[&NodeId], path: &Path) -> Option<Route> {
        let next_hop = *ids.get(path.first as usize)?;
        let link = *self.neighbours.get(next_hop)?;
        (path.hops <= MAX_HOPS).then(|| Route {
            next_hop: next_hop.clone(),
            link,
            cost: path.cost,
            hops: path.hops,
        })
    }
}

fn member_of(entry: &Entry, reach: Reach) -> Member {
    Member {
        lsa: Arc::clone(&entry.lsa),
        load: entry.load.as_ref().map(|(load, _)| load.clone()),
        reach,
    }
}
