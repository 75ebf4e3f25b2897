//! Shortest paths from one node: Dijkstra over the two-way links of a graph, with ties broken the same way everywhere.
//!
//! The mesh machine calls it when the topology has changed. It knows indices, not nodes: the caller numbers nodes in
//! the order of their ids, and so the smaller id wins a tie.

#![deny(clippy::wildcard_enum_match_arm, clippy::iter_over_hash_type)]

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

#[cfg(test)]
mod tests {
    use petgraph::graph::{DiGraph, NodeIndex};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn least_cost_wins_then_fewest_hops_then_the_smaller_first_hop() {
        let way = |cost, hops, first| Some(Path { cost, hops, first });
        let paths = graph(
            5,
            &[],
            &[(0, 1, 5), (1, 2, 5), (0, 2, 10), (0, 3, 5), (3, 4, 5), (1, 4, 5)],
        )
        .paths_from(0);
        assert_eq!(paths[2], way(10, 1, 2));
        assert_eq!(paths[4], way(10, 2, 1));
    }

    #[test]
    fn a_link_counts_only_if_both_ends_claim_it_and_then_at_the_greater_cost() {
        let claims = [
            vec![(hash(1), Cost(1)), (hash(2), Cost(1))],
            vec![(hash(0), Cost(7))],
            vec![],
        ];
        let vertices: Vec<Vertex<'_>> = (0..3).map(|i| vertex(i, false, &claims[i])).collect();
        let paths = Graph::new(&vertices).paths_from(0);
        assert_eq!(paths[1].map(|p| p.cost), Some(7));
        assert_eq!(paths[2], None);
    }

    #[test]
    fn leafs_are_ends_of_ways_and_never_on_them() {
        let links = [(0, 1, 1), (1, 2, 1)];
        let paths = graph(3, &[1], &links).paths_from(0);
        assert!(paths[1].is_some() && paths[2].is_none());
        assert!(graph(3, &[0], &links).paths_from(0).iter().all(Option::is_some));
    }

    #[test]
    fn claims_of_strangers_of_oneself_and_doubled_ones_do_no_harm() {
        let claims = [
            vec![
                (hash(0), Cost(0)),
                (hash(9), Cost(1)),
                (hash(1), Cost(8)),
                (hash(1), Cost(3)),
            ],
            vec![(hash(0), Cost(2))],
        ];
        let vertices: Vec<Vertex<'_>> = (0..2).map(|i| vertex(i, false, &claims[i])).collect();
        assert_eq!(Graph::new(&vertices).paths_from(0)[1].map(|p| p.cost), Some(3));
        assert!(Graph::new(&[]).paths_from(0).is_empty());
    }

    proptest! {
        #[test]
        fn costs_equal_those_of_petgraph(
            leafs in proptest::collection::vec(any::<bool>(), 12),
            links in proptest::collection::vec((0usize..12, 0usize..12, 0u16..50), 0..40),
        ) {
            let leafs: Vec<usize> = (0..12).filter(|i| leafs[*i] && *i % 3 == 1).collect();
            let links = without_doubles(links);
            let own = graph(12, &leafs, &links).paths_from(0);
            let reference = petgraph_of(&leafs, &links);
            let costs = petgraph::algo::dijkstra(&reference, NodeIndex::new(0), None, |e| *e.weight());
            for (index, path) in own.iter().enumerate() {
                prop_assert_eq!(path.map(|p| p.cost), costs.get(&NodeIndex::new(index)).copied());
            }
        }

        #[test]
        fn each_hop_comes_nearer_so_that_no_way_has_a_loop(
            links in proptest::collection::vec((0usize..10, 0usize..10, 0u16..5), 0..30),
        ) {
            let graph = graph(10, &[], &without_doubles(links));
            let from: Vec<_> = (0..10).map(|source| graph.paths_from(source)).collect();
            for (source, paths) in from.iter().enumerate() {
                for (target, path) in paths.iter().enumerate().filter(|(target, _)| *target != source) {
                    let Some(path) = path else { continue };
                    let rest = from[path.first as usize][target].expect("the next hop knows a way");
                    prop_assert!((rest.cost, rest.hops) < (path.cost, path.hops));
                }
            }
        }
    }

    fn hash(index: usize) -> NodeHash {
        NodeHash(index as u64 * 7919)
    }

    fn vertex(index: usize, leaf: bool, claims: &[(NodeHash, Cost)]) -> Vertex<'_> {
        Vertex {
            node: hash(index),
            leaf,
            claims,
        }
    }

    fn graph(size: usize, leafs: &[usize], links: &[(usize, usize, u16)]) -> Graph {
        let mut claims = vec![Vec::new(); size];
        for &(a, b, cost) in links {
            claims[a].push((hash(b), Cost(cost)));
            claims[b].push((hash(a), Cost(cost)));
        }
        let vertices: Vec<_> = (0..size)
            .map(|i| vertex(i, leafs.contains(&i), &claims[i]))
            .collect();
        Graph::new(&vertices)
    }

    fn without_doubles(mut links: Vec<(usize, usize, u16)>) -> Vec<(usize, usize, u16)> {
        links
            .iter_mut()
            .for_each(|(a, b, _)| (*a, *b) = ((*a).min(*b), (*a).max(*b)));
        links.retain(|(a, b, _)| a != b);
        links.sort_unstable();
        links.dedup_by_key(|(a, b, _)| (*a, *b));
        links
    }

    fn petgraph_of(leafs: &[usize], links: &[(usize, usize, u16)]) -> DiGraph<(), u32> {
        let mut graph = DiGraph::new();
        let nodes: Vec<_> = (0..12).map(|_| graph.add_node(())).collect();
        for &(a, b, cost) in links {
            for (from, to) in [(a, b), (b, a)] {
                if from == 0 || !leafs.contains(&from) {
                    graph.add_edge(nodes[from], nodes[to], u32::from(cost));
                }
            }
        }
        graph
    }
}
