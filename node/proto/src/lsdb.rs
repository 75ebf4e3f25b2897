//! The link-state database: the newest advertisement and load of each node, and what left no trace but a tombstone.
//!
//! The mesh machine feeds it what arrives and asks it what to pass on. It never sends and never computes routes; the
//! machine tells it which nodes are in reach.

#![deny(clippy::wildcard_enum_match_arm, clippy::iter_over_hash_type)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use twox_hash::XxHash3_64;

use crate::id::{Cost, Incarnation, NodeHash, NodeId};
use crate::wire::frame::Frame;
use crate::wire::link::{Digest, Load, Lsa};

/// The most nodes that the database holds. Further ones are not taken in.
pub const MAX_NODES: usize = 10_000;
/// The most nodes that have left and are remembered. The oldest one is forgotten first.
pub const MAX_TOMBSTONES: usize = 1024;

/// What is held of one node.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The newest advertisement.
    pub lsa: Arc<Lsa>,
    /// The advertisement as it arrived, fields unknown to this version included.
    pub frame: Frame,
    /// The newest load of this life of the node, and its frame.
    pub load: Option<(Load, Frame)>,
    /// The short form of the node's id.
    pub hash: NodeHash,
    /// The advertised links.
    pub claims: Vec<(NodeHash, Cost)>,
    /// Since when the node is out of reach; `None` while it is in reach.
    pub unreachable_since: Option<Instant>,
    lsa_digest: u64,
}

#[derive(Debug)]
struct Tombstone {
    life: (Incarnation, u64),
    frame: Frame,
    made: Instant,
}

/// What became of an advertisement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Newer than what was held: pass it on.
    Accepted {
        /// Whether it can change routes.
        topology: bool,
    },
    /// Just what was held.
    Known,
    /// Older than what is held, which this is.
    Stale(Frame),
    /// No room for another node.
    Full,
}

/// What became of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadVerdict {
    /// Newer than what was held: pass it on.
    Accepted,
    /// Just what was held.
    Known,
    /// Older than what is held.
    Stale,
    /// Of a node, or a life of a node, whose advertisement is not held.
    Stranger,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Lsdb {
    entries: BTreeMap<NodeId, Entry>,
    tombstones: BTreeMap<NodeId, Tombstone>,
}

impl Lsdb {
    /// Takes in an advertisement if it is the newest of its origin. One that says `leaving` removes the origin.
    pub fn insert(&mut self, now: Instant, lsa: &Arc<Lsa>, frame: &Frame) -> Verdict {
        let life = (lsa.incarnation, lsa.sequence);
        if let Some(tombstone) = self.tombstones.get(&lsa.origin)
            && tombstone.life >= life
        {
            return match tombstone.life == life {
                true => Verdict::Known,
                false => Verdict::Stale(tombstone.frame.clone()),
            };
        }
        let held = self.entries.get(&lsa.origin);
        if let Some(held) = held
            && held.life() >= life
        {
            return match held.life() == life {
                true => Verdict::Known,
                false => Verdict::Stale(held.frame.clone()),
            };
        }
        if lsa.leaving {
            self.entries.remove(&lsa.origin);
            self.bury(now, lsa, frame);
            return Verdict::Accepted { topology: true };
        }
        if held.is_none() && self.entries.len() >= MAX_NODES {
            return Verdict::Full;
        }
        self.tombstones.remove(&lsa.origin);
        let entry = Entry::new(now, Arc::clone(lsa), frame, held);
        let topology = held.is_none_or(|old| old.claims != entry.claims || old.lsa.leaf != entry.lsa.leaf);
        self.entries.insert(lsa.origin.clone(), entry);
        Verdict::Accepted { topology }
    }

    fn bury(&mut self, now: Instant, lsa: &Lsa, frame: &Frame) {
        if self.tombstones.len() >= MAX_TOMBSTONES
            && let Some(oldest) = self
                .tombstones
                .iter()
                .min_by_key(|(_, t)| t.made)
                .map(|(id, _)| id.clone())
        {
            self.tombstones.remove(&oldest);
        }
        let tombstone = Tombstone {
            life: (lsa.incarnation, lsa.sequence),
            frame: own_copy(frame),
            made: now,
        };
        self.tombstones.insert(lsa.origin.clone(), tombstone);
    }

    /// Takes in a load if it is the newest of a life of a node that is held.
    pub fn insert_load(&mut self, load: &Load, frame: &Frame) -> LoadVerdict {
        let Some(entry) = self.entries.get_mut(&load.origin) else {
            return LoadVerdict::Stranger;
        };
        if load.incarnation != entry.lsa.incarnation {
            return match load.incarnation < entry.lsa.incarnation {
                true => LoadVerdict::Stale,
                false => LoadVerdict::Stranger,
            };
        }
        match entry.load.as_ref().map(|(held, _)| held.sequence) {
            Some(held) if held == load.sequence => LoadVerdict::Known,
            Some(held) if held > load.sequence => LoadVerdict::Stale,
            Some(_) | None => {
                entry.load = Some((load.clone(), own_copy(frame)));
                LoadVerdict::Accepted
            }
        }
    }

    /// Forgets this life of a node, whether it is held or has left. Says whether it was held.
    pub fn remove_life(&mut self, node: &NodeId, incarnation: Incarnation) -> bool {
        if self.tombstones.get(node).is_some_and(|t| t.life.0 == incarnation) {
            self.tombstones.remove(node);
        }
        let held = self
            .entries
            .get(node)
            .is_some_and(|e| e.lsa.incarnation == incarnation);
        if held {
            self.entries.remove(node);
        }
        held
    }

    /// What is held of `node`.
    pub fn get(&self, node: &NodeId) -> Option<&Entry> {
        self.entries.get(node)
    }

    /// All entries in the order of their ids.
    pub fn entries(&self) -> impl Iterator<Item = (&NodeId, &Entry)> {
        self.entries.iter()
    }

    /// How many nodes are held.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many nodes that have left are remembered.
    pub fn tombstones(&self) -> usize {
        self.tombstones.len()
    }

    /// Notes which entries are in reach, in the order of [`Self::entries`]. Returns the frames of those that came back
    /// after more than `gone_for`: neighbours may have forgotten them.
    pub fn mark_reach(
        &mut self,
        now: Instant,
        in_reach: impl Iterator<Item = bool>,
        gone_for: Duration,
    ) -> Vec<Frame> {
        let mut back = Vec::new();
        for (entry, in_reach) in self.entries.values_mut().zip(in_reach) {
            match (in_reach, entry.unreachable_since) {
                (true, Some(since)) => {
                    entry.unreachable_since = None;
                    if now.saturating_duration_since(since) > gone_for {
                        back.push(entry.frame.clone());
                        back.extend(entry.load.iter().map(|(_, frame)| frame.clone()));
                    }
                }
                (false, None) => entry.unreachable_since = Some(now),
                (true, None) | (false, Some(_)) => {}
            }
        }
        back
    }

    /// Forgets leafs that are out of reach for `settle`, other nodes and tombstones after `max_age`.
    /// Says whether a node was forgotten.
    pub fn expire(&mut self, now: Instant, settle: Duration, max_age: Duration) -> bool {
        let before = self.entries.len();
        self.entries
            .retain(|_, entry| entry.expires(settle, max_age).is_none_or(|at| now < at));
        self.tombstones
            .retain(|_, tombstone| now < tombstone.made + max_age);
        self.entries.len() < before
    }

    /// When [`Self::expire`] finds something next.
    pub fn next_expiry(&self, settle: Duration, max_age: Duration) -> Option<Instant> {
        let entries = self.entries.values().filter_map(|e| e.expires(settle, max_age));
        let tombstones = self.tombstones.values().map(|t| t.made + max_age);
        entries.chain(tombstones).min()
    }

    /// The entries that a neighbour has to know: those in reach, and those that may come into reach at any moment
    /// because they are new or were in reach until `settle` ago.
    pub fn worth_sending(&self, now: Instant, settle: Duration) -> impl Iterator<Item = &Entry> {
        let fresh = move |since: Instant| now.saturating_duration_since(since) <= settle;
        self.entries
            .values()
            .filter(move |entry| entry.unreachable_since.is_none_or(fresh))
    }

    /// A summary of the entries in reach: equal on both ends of a link once both know the same.
    pub fn digest(&self) -> Digest {
        let mut digest = Digest {
            entries: 0,
            hash: 0,
            load_hash: 0,
        };
        for entry in self.entries.values().filter(|e| e.unreachable_since.is_none()) {
            digest.entries += 1;
            digest.hash ^= entry.lsa_digest;
            if let Some((load, _)) = &entry.load {
                digest.load_hash ^= life_digest(entry.hash, load.incarnation, load.sequence);
            }
        }
        digest
    }
}

impl Entry {
    fn new(now: Instant, lsa: Arc<Lsa>, frame: &Frame, held: Option<&Self>) -> Self {
        let hash = held.map_or_else(|| lsa.origin.hash(), |old| old.hash);
        Self {
            frame: own_copy(frame),
            load: held
                .filter(|old| old.lsa.incarnation == lsa.incarnation)
                .and_then(|old| old.load.clone()),
            hash,
            claims: lsa.adjacencies.iter().map(|a| (a.node.hash(), a.cost)).collect(),
            unreachable_since: held.map_or(Some(now), |old| old.unreachable_since),
            lsa_digest: life_digest(hash, lsa.incarnation, lsa.sequence),
            lsa,
        }
    }

    fn life(&self) -> (Incarnation, u64) {
        (self.lsa.incarnation, self.lsa.sequence)
    }

    fn expires(&self, settle: Duration, max_age: Duration) -> Option<Instant> {
        let age = if self.lsa.leaf { settle } else { max_age };
        self.unreachable_since.map(|since| since + age)
    }
}

/// A copy that does not keep the buffer alive from which the frame was cut.
fn own_copy(frame: &Frame) -> Frame {
    Frame {
        body: Bytes::copy_from_slice(&frame.body),
        ..*frame
    }
}

fn life_digest(node: NodeHash, incarnation: Incarnation, sequence: u64) -> u64 {
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(&node.0.to_be_bytes());
    bytes[8..16].copy_from_slice(&incarnation.0.to_be_bytes());
    bytes[16..].copy_from_slice(&sequence.to_be_bytes());
    XxHash3_64::oneshot(&bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::link::{Adjacency, LinkFrame};

    const SETTLE: Duration = Duration::from_secs(5);
    const MAX_AGE: Duration = Duration::from_secs(60);

    #[test]
    fn the_greater_life_wins_and_a_stale_one_is_answered_with_it() {
        let (mut db, now) = (Lsdb::default(), Instant::now());
        let newer = lsa("a", 2, 1);
        assert_eq!(put(&mut db, now, &newer), Verdict::Accepted { topology: true });
        assert_eq!(put(&mut db, now, &newer), Verdict::Known);
        assert_eq!(put(&mut db, now, &lsa("a", 1, 9)), Verdict::Stale(frame(&newer)));
        assert_eq!(
            put(&mut db, now, &lsa("a", 2, 2)),
            Verdict::Accepted { topology: false }
        );
    }

    #[test]
    fn a_node_that_left_does_not_come_back_by_a_late_advertisement() {
        let (mut db, now) = (Lsdb::default(), Instant::now());
        put(&mut db, now, &lsa("a", 1, 1));
        let goodbye = leaving("a", 1, 3);
        assert_eq!(put(&mut db, now, &goodbye), Verdict::Accepted { topology: true });
        assert_eq!(put(&mut db, now, &goodbye), Verdict::Known);
        assert_eq!(
            put(&mut db, now, &lsa("a", 1, 2)),
            Verdict::Stale(frame(&goodbye))
        );
        assert!(db.is_empty());
        assert_eq!(
            put(&mut db, now, &lsa("a", 2, 1)),
            Verdict::Accepted { topology: true }
        );
    }

    #[test]
    fn one_node_more_than_the_limit_finds_no_room() {
        let (mut db, now) = (Lsdb::default(), Instant::now());
        for index in 0..MAX_NODES {
            put(&mut db, now, &lsa(&format!("n{index}"), 1, 1));
        }
        assert_eq!(db.len(), MAX_NODES);
        assert_eq!(put(&mut db, now, &lsa("more", 1, 1)), Verdict::Full);
        assert_eq!(
            put(&mut db, now, &lsa("n1", 1, 2)),
            Verdict::Accepted { topology: false }
        );
    }

    #[test]
    fn one_tombstone_more_than_the_limit_displaces_the_oldest() {
        let (mut db, now) = (Lsdb::default(), Instant::now());
        for index in 0..=MAX_TOMBSTONES {
            put(
                &mut db,
                now + Duration::from_millis(index as u64),
                &leaving(&format!("n{index}"), 1, 2),
            );
        }
        assert_eq!(db.tombstones(), MAX_TOMBSTONES);
        assert_eq!(
            put(&mut db, now, &lsa("n1", 1, 1)),
            Verdict::Stale(frame(&leaving("n1", 1, 2)))
        );
        assert_eq!(
            put(&mut db, now, &lsa("n0", 1, 1)),
            Verdict::Accepted { topology: true }
        );
    }

    #[test]
    fn loads_belong_to_one_life() {
        let (mut db, now) = (Lsdb::default(), Instant::now());
        assert_eq!(put_load(&mut db, "a", 1, 1), LoadVerdict::Stranger);
        put(&mut db, now, &lsa("a", 2, 1));
        assert_eq!(put_load(&mut db, "a", 1, 1), LoadVerdict::Stale);
        assert_eq!(put_load(&mut db, "a", 3, 1), LoadVerdict::Stranger);
        assert_eq!(put_load(&mut db, "a", 2, 5), LoadVerdict::Accepted);
        assert_eq!(put_load(&mut db, "a", 2, 5), LoadVerdict::Known);
        assert_eq!(put_load(&mut db, "a", 2, 4), LoadVerdict::Stale);
        put(&mut db, now, &lsa("a", 2, 2));
        assert!(db.get(&id("a")).unwrap().load.is_some());
        put(&mut db, now, &lsa("a", 3, 1));
        assert!(db.get(&id("a")).unwrap().load.is_none());
    }

    #[test]
    fn entries_out_of_reach_age_and_leafs_age_faster() {
        let (mut db, now) = (Lsdb::default(), Instant::now());
        put(&mut db, now, &lsa("a", 1, 1));
        put(
            &mut db,
            now,
            &Arc::new(Lsa {
                leaf: true,
                ..(*lsa("b", 1, 1)).clone()
            }),
        );
        put(&mut db, now, &lsa("c", 1, 1));
        db.mark_reach(now, [false, false, true].into_iter(), SETTLE);
        assert_eq!(db.next_expiry(SETTLE, MAX_AGE), Some(now + SETTLE));
        assert!(db.expire(now + SETTLE, SETTLE, MAX_AGE));
        assert_eq!(db.next_expiry(SETTLE, MAX_AGE), Some(now + MAX_AGE));
        assert!(db.expire(now + MAX_AGE, SETTLE, MAX_AGE));
        assert!(!db.expire(now + MAX_AGE * 100, SETTLE, MAX_AGE));
        assert_eq!(db.entries().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["c"]);
    }

    #[test]
    fn what_is_long_out_of_reach_is_not_sent_and_not_in_the_digest() {
        let (mut db, now) = (Lsdb::default(), Instant::now());
        put(&mut db, now, &lsa("a", 1, 1));
        assert_eq!(db.digest().entries, 0);
        assert_eq!(db.worth_sending(now + SETTLE, SETTLE).count(), 1);
        let late = now + SETTLE + Duration::from_millis(1);
        assert_eq!(db.worth_sending(late, SETTLE).count(), 0);
        let back = db.mark_reach(late, [true].into_iter(), SETTLE);
        assert_eq!(back, [frame(&lsa("a", 1, 1))]);
        assert_eq!(
            (db.digest().entries, db.worth_sending(late, SETTLE).count()),
            (1, 1)
        );
    }

    #[test]
    fn a_refused_life_is_forgotten_and_only_that() {
        let (mut db, now) = (Lsdb::default(), Instant::now());
        put(&mut db, now, &lsa("a", 2, 1));
        assert!(!db.remove_life(&id("a"), Incarnation(1)));
        assert!(db.remove_life(&id("a"), Incarnation(2)));
        put(&mut db, now, &leaving("a", 2, 5));
        assert!(!db.remove_life(&id("a"), Incarnation(2)));
        assert_eq!(
            put(&mut db, now, &lsa("a", 1, 1)),
            Verdict::Accepted { topology: true }
        );
    }

    proptest! {
        #[test]
        fn the_order_of_arrival_does_not_matter(
            lives in proptest::collection::vec((0u64..4, 0u64..3, 0u64..5), 1..40),
            turn in any::<prop::sample::Index>(),
        ) {
            let fill = |lives: &[(u64, u64, u64)]| {
                let mut db = Lsdb::default();
                let now = Instant::now();
                for (node, incarnation, sequence) in lives {
                    put(&mut db, now, &lsa(&format!("n{node}"), *incarnation, *sequence));
                }
                let all = db.len();
                db.mark_reach(now, std::iter::repeat_n(true, all), SETTLE);
                db.digest()
            };
            let mut turned = lives.clone();
            turned.rotate_left(turn.index(lives.len()));
            prop_assert_eq!(fill(&lives), fill(&turned));
        }
    }

    fn id(text: &str) -> NodeId {
        NodeId::parse(text).unwrap()
    }

    fn lsa(node: &str, incarnation: u64, sequence: u64) -> Arc<Lsa> {
        Arc::new(Lsa {
            origin: id(node),
            incarnation: Incarnation(incarnation),
            sequence,
            leaf: false,
            leaving: false,
            batches: false,
            version: String::new(),
            adjacencies: vec![Adjacency {
                node: id("z"),
                cost: Cost(1),
            }],
            workers: Vec::new(),
            labels: BTreeMap::new(),
        })
    }

    fn leaving(node: &str, incarnation: u64, sequence: u64) -> Arc<Lsa> {
        Arc::new(Lsa {
            leaving: true,
            ..(*lsa(node, incarnation, sequence)).clone()
        })
    }

    fn frame(lsa: &Arc<Lsa>) -> Frame {
        LinkFrame::Lsa(Arc::clone(lsa)).encode()
    }

    fn put(db: &mut Lsdb, now: Instant, lsa: &Arc<Lsa>) -> Verdict {
        db.insert(now, lsa, &frame(lsa))
    }

    fn put_load(db: &mut Lsdb, node: &str, incarnation: u64, sequence: u64) -> LoadVerdict {
        let load = Load {
            origin: id(node),
            incarnation: Incarnation(incarnation),
            sequence,
            slots: 1,
            running: 0,
            queued: 0,
            queue_limit: 0,
        };
        db.insert_load(&load, &LinkFrame::Load(load.clone()).encode())
    }
}
