//! The ways to all other nodes, immutable: made by the mesh machine after each change, read by whoever forwards.

#![deny(clippy::wildcard_enum_match_arm, clippy::iter_over_hash_type)]

use std::collections::HashMap;

use crate::id::{LinkId, NodeHash, NodeId};

/// The longest way in links. Nodes further away count as unreachable.
pub const MAX_HOPS: u16 = crate::wire::forward::HOP_LIMIT as u16;

/// The way to one other node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The neighbour to hand packets to.
    pub next_hop: NodeId,
    /// The link to this neighbour.
    pub link: LinkId,
    /// Sum of the costs of the links on the way.
    pub cost: u32,
    /// Links to cross; 1 for a neighbour.
    pub hops: u16,
}

/// The ways to all reachable nodes, found by the short form of a node's id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    by_hash: HashMap<NodeHash, (NodeId, Route)>,
}

impl Routes {
    /// The way to `node`; `None` if it is unknown, unreachable, or this node itself.
    pub fn route(&self, node: NodeHash) -> Option<&Route> {
        self.by_hash.get(&node).map(|(_, route)| route)
    }

    /// The full id of a reachable node.
    pub fn node(&self, node: NodeHash) -> Option<&NodeId> {
        self.by_hash.get(&node).map(|(id, _)| id)
    }

    /// How many nodes can be reached.
    pub fn len(&self) -> usize {
        self.by_hash.len()
    }

    /// Whether no other node can be reached.
    pub fn is_empty(&self) -> bool {
        self.by_hash.is_empty()
    }

    /// Adds the way to `node`. Of two ids with one hash the first stays.
    pub(crate) fn insert(&mut self, hash: NodeHash, node: NodeId, route: Route) {
        self.by_hash.entry(hash).or_insert((node, route));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_found_by_hash() {
        let node = NodeId::parse("b").unwrap();
        let route = Route {
            next_hop: node.clone(),
            link: LinkId(1),
            cost: 10,
            hops: 1,
        };
        let mut routes = Routes::default();
        assert!(routes.is_empty());
        routes.insert(node.hash(), node.clone(), route.clone());
        assert_eq!(routes.route(node.hash()), Some(&route));
        assert_eq!(routes.node(node.hash()), Some(&node));
        assert_eq!(routes.route(NodeHash(1)), None);
        assert_eq!(routes.len(), 1);
    }
}
