//! What a node knows of its mesh at one moment: an immutable snapshot for readers.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::id::{Incarnation, NodeHash, NodeId};
use crate::routes::{Route, Routes};
use crate::wire::link::{Adjacency, Load, Lsa, WorkerAd};

/// A snapshot of the mesh.
#[derive(Clone, Debug)]
pub struct View {
    /// Whose view this is.
    pub node: NodeId,
    /// Whether every open link has delivered its whole database; also true without any link.
    pub synced: bool,
    /// All known nodes, this one included. Leafs out of reach are left out.
    pub members: BTreeMap<NodeId, Arc<Member>>,
    /// The ways to all other reachable nodes.
    pub routes: Arc<Routes>,
}

impl View {
    /// The way to the node with this hash; `None` if it is unknown, out of reach, or this node.
    pub fn route(&self, node: NodeHash) -> Option<&Route> {
        self.routes.route(node)
    }

    /// The reachable member with this hash; `None` for this node itself.
    pub fn member_of(&self, node: NodeHash) -> Option<&Arc<Member>> {
        self.members.get(self.routes.node(node)?)
    }

    /// A known node.
    pub fn member(&self, node: &NodeId) -> Option<&Arc<Member>> {
        self.members.get(node)
    }
}

/// One node of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// What the node says of itself.
    pub lsa: Arc<Lsa>,
    /// How full its pool is, if that has been heard.
    pub load: Option<Load>,
    /// Where it is.
    pub reach: Reach,
}

/// Where a member is, seen from the view's node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The view's own node.
    Here,
    /// Reachable.
    Via(Route),
    /// Out of reach; forgotten after a while.
    Nowhere,
}

impl Member {
    /// The node's id.
    pub fn node(&self) -> &NodeId {
        &self.lsa.origin
    }

    /// Which life of the node.
    pub fn incarnation(&self) -> Incarnation {
        self.lsa.incarnation
    }

    /// Software version.
    pub fn version(&self) -> &str {
        &self.lsa.version
    }

    /// Never passes anything on.
    pub fn is_leaf(&self) -> bool {
        self.lsa.leaf
    }

    /// What it can run.
    pub fn workers(&self) -> &[WorkerAd] {
        &self.lsa.workers
    }

    /// Set by its operator.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.lsa.labels
    }

    /// The links it says it has.
    pub fn adjacencies(&self) -> &[Adjacency] {
        &self.lsa.adjacencies
    }

    /// The way to it; `None` for the view's own node and for one out of reach.
    pub fn route(&self) -> Option<&Route> {
        match &self.reach {
            Reach::Via(route) => Some(route),
            Reach::Here | Reach::Nowhere => None,
        }
    }

    /// Whether work can be sent there: it is this node or there is a way.
    pub fn is_reachable(&self) -> bool {
        self.reach != Reach::Nowhere
    }

    /// Sum of the costs on the way, 0 for the view's own node; `None` if out of reach.
    pub fn cost(&self) -> Option<u32> {
        match &self.reach {
            Reach::Here => Some(0),
            Reach::Via(route) => Some(route.cost),
            Reach::Nowhere => None,
        }
    }

    /// Links on the way, 0 for the view's own node; `None` if out of reach.
    pub fn hops(&self) -> Option<u16> {
        match &self.reach {
            Reach::Here => Some(0),
            Reach::Via(route) => Some(route.hops),
            Reach::Nowhere => None,
        }
    }
}
