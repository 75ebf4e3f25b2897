//! Where a unit may run: the nodes that have its worker, the best first.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use worker_api::Directive;
use workmesh_proto::NodeId;
use workmesh_proto::mesh::{Member, Reach, View};

/// How many nodes one unit is offered to.
pub(super) const MAX_OFFERS: usize = 16;

/// A node that could run the unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Which node.
    pub(super) node: NodeId,
    /// Whether running the unit twice does no harm there.
    pub(super) idempotent: bool,
    /// Whether pool and queue are full, as far as is known.
    pub(super) full: bool,
}

/// Units that this node has placed and that have not ended: loads that others advertise are a little old.
#[derive(Debug, Default)]
pub(super) struct Outstanding {
    by_node: Mutex<HashMap<NodeId, u32>>,
}

/// One placed unit; taken off the count when dropped.
#[derive(Debug)]
pub(super) struct Placed {
    outstanding: Arc<Outstanding>,
    node: NodeId,
}

impl Outstanding {
    pub(super) fn place(self: &Arc<Self>, node: &NodeId) -> Placed {
        *self.by_node.lock().entry(node.clone()).or_default() += 1;
        Placed {
            outstanding: self.clone(),
            node: node.clone(),
        }
    }

    pub(super) fn on(&self, node: &NodeId) -> u32 {
        self.by_node.lock().get(node).copied().unwrap_or(0)
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        let mut by_node = self.outstanding.by_node.lock();
        if let Some(count) = by_node.get_mut(&self.node) {
            *count -= 1;
            if *count == 0 {
                by_node.remove(&self.node);
            }
        }
    }
}

/// The nodes that can run `directive`: those with room before full ones, then the nearest, of these the least loaded.
pub(super) fn candidates(view: &View, directive: &Directive, outstanding: &Outstanding) -> Vec<Candidate> {
    let mut ranked: Vec<_> = view
        .members
        .values()
        .filter_map(|member| {
            let cost = reach_cost(member)?;
            let ad = member.workers().iter().find(|ad| ad.directive == *directive)?;
            let (full, load) = fullness(member, outstanding.on(member.node()));
            let candidate = Candidate {
                node: member.node().clone(),
                idempotent: ad.idempotent,
                full,
            };
            Some(((full, cost, load), candidate))
        })
        .collect();
    ranked.sort_by(|(a, x), (b, y)| a.cmp(b).then_with(|| x.node.cmp(&y.node)));
    ranked
        .into_iter()
        .map(|(_, candidate)| candidate)
        .take(MAX_OFFERS)
        .collect()
}

fn reach_cost(member: &Member) -> Option<u32> {
    match &member.reach {
        Reach::Here => Some(0),
        Reach::Via(route) => Some(route.cost),
        Reach::Nowhere => None,
    }
}

/// Whether pool and queue are full, and how loaded the node is in thousandths of its slots.
pub(super) fn fullness(member: &Member, placed: u32) -> (bool, u64) {
    let Some(load) = &member.load else {
        return (false, u64::from(placed) * 1000);
    };
    let busy = u64::from(load.running + load.queued).max(u64::from(placed));
    let room = u64::from(load.slots) + u64::from(load.queue_limit);
    (busy >= room, busy * 1000 / u64::from(load.slots.max(1)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use worker_api::PayloadKind;
    use workmesh_proto::routes::Route;
    use workmesh_proto::wire::link::{Load, Lsa, WorkerAd};
    use workmesh_proto::{Incarnation, LinkId};

    use super::*;

    fn id(name: &str) -> NodeId {
        NodeId::parse(name).unwrap()
    }

    fn member(name: &str, cost: u32, running: u32, queued: u32) -> Member {
        let directive = Directive::parse("echo:bytes").unwrap();
        let worker = WorkerAd {
            directive,
            kind: PayloadKind::Bytes,
            version: String::new(),
            idempotent: false,
            description: String::new(),
        };
        let lsa = Lsa {
            origin: id(name),
            incarnation: Incarnation(1),
            sequence: 1,
            leaf: false,
            leaving: false,
            batches: false,
            version: String::new(),
            adjacencies: Vec::new(),
            workers: vec![worker],
            labels: BTreeMap::new(),
        };
        let load = Load {
            origin: id(name),
            incarnation: Incarnation(1),
            sequence: 1,
            slots: 2,
            running,
            queued,
            queue_limit: 1,
        };
        let route = Route {
            next_hop: id(name),
            link: LinkId(1),
            cost,
            hops: 1,
        };
        Member {
            lsa: Arc::new(lsa),
            load: Some(load),
            reach: Reach::Via(route),
        }
    }

    fn ranked(members: Vec<Member>, outstanding: &Outstanding) -> Vec<String> {
        let view = View {
            node: id("me"),
            synced: true,
            members: members
                .into_iter()
                .map(|m| (m.node().clone(), Arc::new(m)))
                .collect(),
            routes: Arc::default(),
        };
        let directive = Directive::parse("echo:bytes").unwrap();
        candidates(&view, &directive, outstanding)
            .into_iter()
            .map(|c| c.node.to_string())
            .collect()
    }

    #[test]
    fn the_nearest_comes_first_then_the_least_loaded_and_full_ones_last() {
        let members = vec![
            member("far-idle", 20, 0, 0),
            member("near-busy", 10, 1, 0),
            member("near-idle", 10, 0, 0),
            member("nearest-full", 1, 2, 1),
        ];
        let order = ranked(members, &Outstanding::default());
        assert_eq!(order, ["near-idle", "near-busy", "far-idle", "nearest-full"]);
    }

    #[test]
    fn own_units_count_before_the_load_is_heard() {
        let outstanding = Arc::new(Outstanding::default());
        let placed = outstanding.place(&id("a"));
        let members = || vec![member("a", 10, 0, 0), member("b", 10, 0, 0)];
        assert_eq!(ranked(members(), &outstanding), ["b", "a"]);
        drop(placed);
        assert_eq!(ranked(members(), &outstanding), ["a", "b"]);
        assert!(outstanding.by_node.lock().is_empty());
    }

    #[test]
    fn nodes_out_of_reach_or_without_the_worker_are_no_candidates() {
        let mut gone = member("gone", 1, 0, 0);
        gone.reach = Reach::Nowhere;
        let mut other = member("other", 1, 0, 0);
        Arc::make_mut(&mut other.lsa).workers.clear();
        assert!(ranked(vec![gone, other], &Outstanding::default()).is_empty());
    }
}
