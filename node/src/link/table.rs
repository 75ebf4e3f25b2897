//! Which link a session's packets leave by, and with which key: the forwarding table of the socket.
//!
//! Written by the mesh driver when links and routes change, read by the socket for every frame. Holds the last packets
//! of each session too, to send them again the moment a route changes.

use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;

use rustc_hash::FxHashMap;
use workmesh_proto::wire::forward::{ForwardHeader, HEADER_BYTES, LinkKey, SEQUENCE_LIMIT};
use workmesh_proto::wire::replay::ReplayWindow;
use workmesh_proto::{LinkId, NodeHash};

use super::counters::Drop;

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

/// A link as the socket sees it. Lives as long as the link's keys: numbers are never used again under a key, and a window
/// never forgets.
#[derive(Debug)]
pub(super) struct LinkPath {
    pub(super) address: SocketAddr,
    keys: LinkKeys,
    /// The number of the next frame to send.
    next_sequence: u64,
    received: ReplayWindow,
}

impl LinkPath {
    pub(super) fn new(address: SocketAddr, keys: LinkKeys) -> Self {
        Self {
            address,
            keys,
            next_sequence: 0,
            received: ReplayWindow::default(),
        }
    }

    /// The header's bytes for `packet` on this link. `None` once the link's numbers are spent: then it carries no further
    /// frame, and a new link has to take its place.
    pub(super) fn seal(&mut self, header: &ForwardHeader, packet: &[u8]) -> Option<[u8; HEADER_BYTES]> {
        let sequence = self.next_sequence;
        if sequence == SEQUENCE_LIMIT {
            return None;
        }
        self.next_sequence += 1;
        Some(header.seal(&self.keys.sending, sequence, packet))
    }

    /// Reads and checks a frame that came over this link, for the first and only time.
    pub(super) fn open(&mut self, frame: &[u8]) -> Result<ForwardHeader, Drop> {
        let (header, sequence) =
            ForwardHeader::open(&self.keys.receiving, frame).map_err(|_| Drop::BadFrame)?;
        if self.received.admit(sequence) {
            Ok(header)
        } else {
            Err(Drop::Replayed)
        }
    }
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
    /// A link that has come up, which it does once in its life.
    pub(super) fn add_link(&mut self, link: LinkId, address: SocketAddr, keys: LinkKeys) {
        self.put(link, LinkPath::new(address, keys));
    }

    fn put(&mut self, link: LinkId, path: LinkPath) {
        self.by_address.insert(path.address, link);
        self.links.insert(link, path);
    }

    pub(super) fn move_link(&mut self, link: LinkId, address: SocketAddr) {
        if let Some(path) = self.links.remove(&link) {
            self.leave_address(link, path.address);
            self.put(link, LinkPath { address, ..path });
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
    pub(super) fn link_at(&self, address: &SocketAddr) -> Option<LinkId> {
        self.by_address.get(address).copied()
    }

    pub(super) fn link(&mut self, link: LinkId) -> Option<&mut LinkPath> {
        self.links.get_mut(&link)
    }

    /// The link that leads to a node.
    pub(super) fn path_to(&mut self, node: NodeHash) -> Option<&mut LinkPath> {
        self.routes.get(&node).and_then(|link| self.links.get_mut(link))
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

    const HEADER: ForwardHeader = ForwardHeader {
        hops: 1,
        destination: NodeHash(1),
        source: NodeHash(2),
    };

    fn seal(path: &mut LinkPath) -> Option<Vec<u8>> {
        Some([&path.seal(&HEADER, b"packet")?[..], b"packet"].concat())
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
    fn a_moved_link_knows_what_has_come_and_what_it_has_sent() {
        let mut table = ForwardTable::default();
        let both = LinkKeys {
            receiving: keys().sending,
            ..keys()
        };
        table.add_link(LinkId(1), address(1), both);
        let frame = seal(table.link(LinkId(1)).unwrap()).unwrap();
        assert_eq!(table.link(LinkId(1)).unwrap().open(&frame), Ok(HEADER));
        table.move_link(LinkId(1), address(2));
        let path = table.link(LinkId(1)).unwrap();
        assert_eq!(path.open(&frame), Err(Drop::Replayed));
        assert_ne!(seal(path).unwrap(), frame);
    }

    #[test]
    fn a_link_whose_numbers_are_spent_seals_nothing() {
        let mut path = LinkPath::new(address(1), keys());
        path.next_sequence = SEQUENCE_LIMIT - 1;
        assert!(seal(&mut path).is_some());
        assert!(seal(&mut path).is_none());
        assert!(seal(&mut path).is_none());
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
