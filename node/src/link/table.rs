//! Which link a session's packets leave by, and with which key: the forwarding table of the socket.
//!
//! Written by the mesh driver when links and routes change, read by the socket for every frame. Holds the last packets
//! of each session too, to send them again the moment a route changes.

use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;

use rustc_hash::FxHashMap;
use workmesh_proto::wire::forward::LinkKey;
use workmesh_proto::{LinkId, NodeHash};

/// How many of a session's last packets are kept; `docs/decisions/` has the measurement.
const KEPT_PACKETS: usize = 4;
/// For how many destinations packets are kept. Beyond that the oldest destination is forgotten.
const KEPT_DESTINATIONS: usize = 4096;

/// Both keys of a link, from this node's point of view.
#[derive(Clone, Debug)]
pub(crate) struct LinkKeys {
    /// Seals what this node sends.
    pub(crate) sending: LinkKey,
    /// Checks what this node receives.
    pub(crate) receiving: LinkKey,
}

/// A link as the socket sees it.
#[derive(Debug)]
pub(super) struct LinkPath {
    pub(super) address: SocketAddr,
    pub(super) keys: LinkKeys,
}

/// Which link leads to each node. Keys are hashes already, and nobody outside the mesh chooses them.
pub(crate) type NextHops = FxHashMap<NodeHash, LinkId>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct ForwardTable {
    links: FxHashMap<LinkId, LinkPath>,
    by_address: FxHashMap<SocketAddr, LinkId>,
    routes: NextHops,
    kept: FxHashMap<NodeHash, VecDeque<Vec<u8>>>,
    kept_order: VecDeque<NodeHash>,
}

impl ForwardTable {
    pub(super) fn add_link(&mut self, link: LinkId, address: SocketAddr, keys: LinkKeys) {
        self.by_address.insert(address, link);
        self.links.insert(link, LinkPath { address, keys });
    }

    pub(super) fn move_link(&mut self, link: LinkId, address: SocketAddr) {
        if let Some(path) = self.links.remove(&link) {
            self.leave_address(link, path.address);
            self.add_link(link, address, path.keys);
        }
    }

    pub(super) fn remove_link(&mut self, link: LinkId) {
        if let Some(path) = self.links.remove(&link) {
            self.leave_address(link, path.address);
        }
    }

    /// Leaves an address to another link of the same peer, if there is one.
    fn leave_address(&mut self, link: LinkId, address: SocketAddr) {
        if self.by_address.get(&address) != Some(&link) {
            return;
        }
        let other = self.links.iter().find(|(_, path)| path.address == address);
        match other.map(|(other, _)| *other) {
            Some(other) => self.by_address.insert(address, other),
            None => self.by_address.remove(&address),
        };
    }

    /// Takes new routes; yields the destinations whose next hop has changed and for which packets are kept.
    pub(super) fn set_routes(&mut self, routes: NextHops) -> Vec<NodeHash> {
        let moved = |node: &&NodeHash| routes.get(node) != self.routes.get(node) && routes.contains_key(node);
        let rerouted = self.kept.keys().filter(moved).copied().collect();
        self.routes = routes;
        rerouted
    }

    /// The link that an address belongs to.
    pub(super) fn link_at(&self, address: &SocketAddr) -> Option<&LinkPath> {
        self.by_address.get(address).and_then(|link| self.links.get(link))
    }

    /// The link that leads to a node.
    pub(super) fn path_to(&self, node: NodeHash) -> Option<&LinkPath> {
        self.routes.get(&node).and_then(|link| self.links.get(link))
    }

    /// Keeps the last packets of a batch for [`Self::kept_for`].
    pub(super) fn keep(&mut self, node: NodeHash, batch: &[u8], segment_bytes: usize) {
        let kept = match self.kept.entry(node) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                self.kept_order.push_back(node);
                entry.insert(VecDeque::with_capacity(KEPT_PACKETS))
            }
        };
        let segments = batch.len().div_ceil(segment_bytes);
        for packet in batch
            .chunks(segment_bytes)
            .skip(segments.saturating_sub(KEPT_PACKETS))
        {
            let mut place = if kept.len() == KEPT_PACKETS {
                kept.pop_front()
            } else {
                None
            }
            .unwrap_or_default();
            place.clear();
            place.extend_from_slice(packet);
            kept.push_back(place);
        }
        if self.kept_order.len() > KEPT_DESTINATIONS
            && let Some(oldest) = self.kept_order.pop_front()
        {
            self.kept.remove(&oldest);
        }
    }

    /// Forgets the packets kept for a node whose session has ended.
    pub(super) fn forget(&mut self, node: NodeHash) {
        if self.kept.remove(&node).is_some() {
            self.kept_order.retain(|kept| *kept != node);
        }
    }

    /// The packets last sent to a node, oldest first.
    pub(super) fn kept_for(&self, node: NodeHash) -> Vec<Vec<u8>> {
        self.kept
            .get(&node)
            .map(|kept| kept.iter().cloned().collect())
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> LinkKeys {
        LinkKeys {
            sending: LinkKey::new(&[1; 16]),
            receiving: LinkKey::new(&[2; 16]),
        }
    }

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn a_moved_link_is_found_at_its_new_address_only() {
        let mut table = ForwardTable::default();
        table.add_link(LinkId(1), address(1), keys());
        table.move_link(LinkId(1), address(2));
        assert!(table.link_at(&address(1)).is_none());
        assert!(table.link_at(&address(2)).is_some());
    }

    #[test]
    fn removing_an_old_link_leaves_its_successor_at_the_same_address() {
        let mut table = ForwardTable::default();
        table.add_link(LinkId(1), address(1), keys());
        table.add_link(LinkId(2), address(1), keys());
        table.remove_link(LinkId(1));
        assert!(table.link_at(&address(1)).is_some());
    }

    #[test]
    fn removing_or_moving_one_of_two_links_at_an_address_leaves_the_other() {
        let mut table = ForwardTable::default();
        for link in 1..=3 {
            table.add_link(LinkId(link), address(1), keys());
        }
        table.remove_link(LinkId(3));
        table.move_link(LinkId(2), address(2));
        assert!(table.link_at(&address(1)).is_some());
        table.move_link(LinkId(1), address(3));
        assert!(table.link_at(&address(1)).is_none());
        assert!(table.link_at(&address(2)).is_some());
    }

    #[test]
    fn the_last_four_packets_are_kept_and_named_when_the_route_moves() {
        let mut table = ForwardTable::default();
        let node = NodeHash(7);
        table.set_routes(NextHops::from_iter([(node, LinkId(1))]));
        table.keep(node, &[1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6], 2);
        let kept: Vec<_> = table.kept_for(node);
        assert_eq!(kept, [&[3, 3][..], &[4, 4], &[5, 5], &[6]]);
        assert!(
            table
                .set_routes(NextHops::from_iter([(node, LinkId(1))]))
                .is_empty()
        );
        assert!(table.set_routes(NextHops::default()).is_empty());
        assert_eq!(table.set_routes(NextHops::from_iter([(node, LinkId(2))])), [node]);
    }

    #[test]
    fn kept_destinations_are_bounded() {
        let mut table = ForwardTable::default();
        for node in 0..=KEPT_DESTINATIONS as u64 {
            table.keep(NodeHash(node), &[1], 1);
        }
        assert_eq!(table.kept.len(), KEPT_DESTINATIONS);
        assert!(table.kept_for(NodeHash(0)).is_empty());
    }
}
