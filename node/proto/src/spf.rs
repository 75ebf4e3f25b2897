//! Shortest paths from one node: Dijkstra over the two-way links of a graph, with ties broken the same way everywhere.
//!
//! The mesh machine calls it when the topology has changed. It knows indices, not nodes: the caller numbers nodes in
//! the order of their ids, and so the smaller id wins a tie.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use crate::id::{Cost, NodeHash};

/// One node as it describes itself.
#[derive(Clone, Copy, Debug)]
pub struct Vertex<'a> {
    /// Who.
    pub node: NodeHash,
    /// Never passes anything on.
    pub leaf: bool,
    /// The links it claims. They count only where the other end claims them too.
    pub claims: &'a [(NodeHash, Cost)],
}

/// A mesh's nodes and the links that both ends claim; the greater cost of both counts.
#[derive(Debug)]
pub struct Graph {
    leaf: Vec<bool>,
    edges: Vec<Vec<(u32, u32)>>,
}

/// The best way to one node: least cost, then fewest hops, then the smaller first hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path {
    /// Sum of the links' costs.
    pub cost: u32,
    /// Links to cross.
    pub hops: u16,
    /// Index of the neighbour that the way begins with; the source itself for the source.
    pub first: u32,
}

impl Graph {
    /// The graph of `vertices`, which are numbered in the order given.
    pub fn new(vertices: &[Vertex<'_>]) -> Self {
        let mut index_of = HashMap::with_capacity(vertices.len());
        for (index, vertex) in (0u32..).zip(vertices) {
            index_of.entry(vertex.node).or_insert(index);
        }
        let claims: Vec<Vec<(u32, u32)>> = (0u32..)
            .zip(vertices)
            .map(|(own, vertex)| {
                let known =
                    |&(node, cost): &(NodeHash, Cost)| Some((*index_of.get(&node)?, u32::from(cost.0)));
                let mut claimed: Vec<_> = vertex
                    .claims
                    .iter()
                    .filter_map(known)
                    .filter(|(other, _)| *other != own)
                    .collect();
                claimed.sort_unstable();
                claimed.dedup_by_key(|(other, _)| *other);
                claimed
            })
            .collect();
        let edges = (0u32..)
            .zip(&claims)
            .map(|(own, claimed)| {
                let two_way = |&(other, cost): &(u32, u32)| {
                    let back = &claims[other as usize];
                    let at = back.binary_search_by_key(&own, |(node, _)| *node).ok()?;
                    Some((other, cost.max(back[at].1)))
                };
                claimed.iter().filter_map(two_way).collect()
            })
            .collect();
        Self {
            leaf: vertices.iter().map(|v| v.leaf).collect(),
            edges,
        }
    }

    /// The best way from `source` to each node, by index; `None` where there is none.
    /// Leafs are ends of ways and never lie on them.
    pub fn paths_from(&self, source: u32) -> Vec<Option<Path>> {
        let mut best: Vec<Option<Path>> = vec![None; self.edges.len()];
        let mut settled = vec![false; self.edges.len()];
        let start = Path {
            cost: 0,
            hops: 0,
            first: source,
        };
        let Some(slot) = best.get_mut(source as usize) else {
            return best;
        };
        *slot = Some(start);
        let mut queue = BinaryHeap::from([Reverse((start, source))]);
        while let Some(Reverse((path, node))) = queue.pop() {
            if std::mem::replace(&mut settled[node as usize], true) {
                continue;
            }
            if self.leaf[node as usize] && node != source {
                continue;
            }
            for &(next, cost) in &self.edges[node as usize] {
                let longer = Path {
                    cost: path.cost.saturating_add(cost),
                    hops: path.hops.saturating_add(1),
                    first: if node == source { next } else { path.first },
                };
                let known = &mut best[next as usize];
                if known.is_none_or(|shortest| longer < shortest) {
                    *known = Some(longer);
                    queue.push(Reverse((longer, next)));
                }
            }
        }
        best
    }
}
