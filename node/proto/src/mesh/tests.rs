//! The machine by calls and virtual time: a few machines on a table, with links that carry at once.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "tests pick the one output they ask about"
)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use worker_api::{Directive, PayloadKind};

use super::conflict::MAX_CONFLICTS;
use super::*;
use crate::id::{Cost, Incarnation};
use crate::wire::frame::{FrameType, MAX_BODY_BYTES};
use crate::wire::link::{
    Adjacency, Conflict, Hello, Lsa, MAX_LABELS, MAX_TEXT_BYTES, MAX_WORKERS, PROTOCOL_VERSION, Probe,
    WorkerAd,
};

#[test]
fn hello_is_the_first_frame_in_each_direction() {
    let mut table = Table::new(&["a", "b"]);
    let link = table.open_half(0, "b");
    assert_eq!(table.sent(0, link), [FrameType::Hello]);
    table.frame(0, link, &LinkFrame::Probe(Probe { token: 1 }));
    assert_eq!(table.closed(0, link), Some(CloseReason::HelloExpected));
}

#[test]
fn hello_of_another_node_than_the_certificates_is_refused() {
    let claimed = |id: &str| Hello {
        node: node(id),
        ..hello("b", 1)
    };
    let wrong = |id: &str| CloseReason::WrongIdentity {
        certified: node("b"),
        claimed: node(id),
    };
    assert_eq!(greeted_with(&claimed("c")), Some(wrong("c")));
    assert_eq!(greeted_with(&claimed("B")), None);
    assert_eq!(
        greeted_with(&claimed("b+1")),
        Some(CloseReason::LeafId(node("b+1")))
    );
    assert_eq!(
        greeted_with(&Hello {
            leaf: true,
            ..claimed("b+1")
        }),
        None
    );
}

#[test]
fn hello_without_a_common_version_is_refused() {
    let versions = |min, max| Hello {
        version_min: min,
        version_max: max,
        ..hello("b", 1)
    };
    let refused = |min, max| Some(CloseReason::Version { min, max });
    assert_eq!(greeted_with(&versions(0, 0)), refused(0, 0));
    assert_eq!(greeted_with(&versions(0, PROTOCOL_VERSION)), None);
    assert_eq!(greeted_with(&versions(PROTOCOL_VERSION, 9)), None);
    assert_eq!(
        greeted_with(&versions(PROTOCOL_VERSION + 1, 9)),
        refused(PROTOCOL_VERSION + 1, 9)
    );
}

#[test]
fn link_to_oneself_is_refused() {
    let mut table = Table::new(&["a"]);
    let link = table.open_half(0, "a");
    table.frame(0, link, &LinkFrame::Hello(hello("a", 1)));
    assert_eq!(table.closed(0, link), Some(CloseReason::Oneself));
}

#[test]
fn second_hello_may_only_repeat_the_first() {
    let mut table = Table::new(&["a"]);
    let link = table.open_half(0, "b");
    table.frame(0, link, &LinkFrame::Hello(hello("b", 1)));
    table.frame(0, link, &LinkFrame::Hello(hello("b", 1)));
    assert_eq!(table.closed(0, link), None);
    table.frame(0, link, &LinkFrame::Hello(hello("b", 2)));
    assert_eq!(table.closed(0, link), Some(CloseReason::SecondHello));
}

#[test]
fn link_without_hello_is_closed_in_time() {
    let mut table = Table::new(&["a"]);
    let link = table.open_half(0, "b");
    assert!(!table.meshes[0].view().synced);
    table.pass(Timings::default().hello_timeout);
    assert_eq!(table.closed(0, link), Some(CloseReason::HelloTimeout));
    assert!(table.meshes[0].view().synced);
}

#[test]
fn unknown_frames_are_skipped_and_malformed_ones_end_the_link() {
    let mut table = Table::new(&["a", "b"]);
    let link = table.connect(0, 1);
    let mut frame = Frame::new(FrameType::Lsa, 0, Bytes::from_static(b"\xff"));
    frame.kind = 0x1f;
    table.raw(0, link, &frame);
    assert_eq!(
        (table.meshes[0].counters().unknown, table.closed(0, link)),
        (1, None)
    );
    frame.kind = FrameType::Lsa as u8;
    table.raw(0, link, &frame);
    assert!(matches!(table.closed(0, link), Some(CloseReason::Malformed(_))));
    assert_eq!(table.meshes[0].counters().malformed, 1);
    assert!(table.meshes[0].neighbours.is_empty());
}

#[test]
fn new_neighbour_gets_the_whole_database_and_then_synced() {
    let mut table = Table::new(&["a", "b", "c"]);
    table.connect(0, 1);
    table.load(0, 3);
    table.pass(Duration::from_secs(1));
    table.connect(2, 1);
    let view = table.meshes[2].view();
    assert!(view.synced);
    let a = view.member(&node("a")).unwrap();
    assert_eq!((a.hops(), a.load.as_ref().map(|l| l.running)), (Some(2), Some(3)));
    assert_eq!(view.route(node("A").hash()).unwrap().next_hop, node("b"));
    assert_eq!(view.member_of(node("a").hash()), Some(a));
}

#[test]
fn stale_advertisement_is_not_flooded_and_answered_with_the_newer_one() {
    let mut table = Table::new(&["a", "b", "c"]);
    table.connect(0, 1);
    let link = table.connect(0, 2);
    table.frame(0, link, &advertise("x", 5, 2));
    table.log.clear();
    table.frame(0, link, &advertise("x", 4, 9));
    let answers: Vec<_> = table
        .log
        .iter()
        .filter(|(at, o)| *at == 0 && matches!(o, Output::Send { .. }))
        .collect();
    assert!(
        matches!(&answers[..], [(0, Output::Send { link: to, frame })] if *to == link && *frame == advertise("x", 5, 2).encode())
    );
    assert_eq!(table.meshes[0].counters().stale, 1);
    assert_eq!(table.closed(0, link), None);
}

#[test]
fn fields_of_later_versions_are_passed_on() {
    let mut table = Table::new(&["a", "b", "c"]);
    let link = table.connect(0, 1);
    let to = table.connect(0, 2);
    let mut frame = advertise("x", 1, 1).encode();
    let mut body = frame.body.to_vec();
    body[0] += 1;
    body.extend_from_slice(b"\x65later\x01");
    frame.body = body.into();
    table.log.clear();
    table.raw(0, link, &frame);
    let passed_on = |o: &Output| matches!(o, Output::Send { link, frame: f } if *link == to && *f == frame);
    assert!(table.log.iter().any(|(at, output)| *at == 0 && passed_on(output)));
}

#[test]
fn load_is_flooded_at_most_once_an_interval_and_only_on_change() {
    let mut table = Table::new(&["a", "b"]);
    table.connect(0, 1);
    let loads = |table: &Table| {
        table.meshes[0]
            .counters()
            .sent
            .get(&(FrameType::Load as u8))
            .copied()
            .unwrap_or(0)
    };
    (1..=5).for_each(|running| table.load(0, running));
    assert_eq!(loads(&table), 1);
    table.pass(Timings::default().load_interval);
    assert_eq!(loads(&table), 2);
    assert_eq!(
        table.meshes[1]
            .view()
            .member(&node("a"))
            .unwrap()
            .load
            .as_ref()
            .unwrap()
            .running,
        5
    );
    let runs = table.meshes[1].counters().spf_runs;
    table.load(0, 5);
    table.pass(Duration::from_secs(1));
    assert_eq!((loads(&table), table.meshes[1].counters().spf_runs), (2, runs));
}

#[test]
fn of_two_links_dialled_at_once_both_ends_keep_the_same() {
    let mut table = Table::new(&["a", "b"]);
    let (by_a, by_b) = (table.wire(0, 1), table.wire(1, 0));
    table.open_end(by_a, 1);
    table.open_end(by_b, 1);
    table.open_end(by_a, 0);
    table.open_end(by_b, 0);
    table.pump();
    table.pass(Duration::from_secs(1));
    let survivor = |mesh: &Mesh| mesh.neighbours.values().copied().collect::<Vec<_>>();
    assert_eq!(survivor(&table.meshes[0]), [table.wires[by_a].ends[0].1]);
    assert_eq!(survivor(&table.meshes[1]), [table.wires[by_a].ends[1].1]);
    assert_eq!(table.wires.iter().filter(|w| w.alive).count(), 1);
}

#[test]
fn link_redialled_by_the_same_end_replaces_the_older_one_at_once() {
    let mut table = Table::new(&["a", "b"]);
    let old = table.connect(0, 1);
    let new = table.connect(0, 1);
    assert_eq!(table.closed(0, old), Some(CloseReason::Replaced));
    assert_eq!(table.meshes[0].neighbours.values().collect::<Vec<_>>(), [&new]);
    assert_eq!(table.meshes[0].view().route(node("b").hash()).unwrap().link, new);
}

#[test]
fn dead_link_gives_way_to_one_from_the_other_end() {
    let mut table = Table::new(&["a", "b"]);
    let old = table.connect(0, 1);
    table.wires[0].silent = true;
    let new = table.wire(1, 0);
    table.open_end(new, 0);
    table.open_end(new, 1);
    table.pump();
    assert_eq!(table.closed(0, old), None);
    table.pass(Timings::default().probe_timeout);
    assert_eq!(table.closed(0, old), Some(CloseReason::Replaced));
    assert_eq!(table.meshes[0].neighbours.len(), 1);
}

#[test]
fn restarted_node_replaces_its_former_life() {
    let mut table = Table::new(&["a", "b"]);
    let old = table.connect(0, 1);
    table.wires[0].silent = true;
    let again = table.add("b", 2);
    let new = table.connect(again, 0);
    table.pass(Timings::default().probe_timeout);
    assert_eq!(table.closed(0, old), Some(CloseReason::Restarted));
    assert_eq!(table.closed(again, new), None);
    assert_eq!(
        table.meshes[0].view().member(&node("b")).unwrap().incarnation(),
        Incarnation(2)
    );
    assert!(table.meshes[0].view().member(&node("b")).unwrap().is_reachable());
}

#[test]
fn younger_of_two_live_nodes_with_one_id_is_refused_wherever_it_comes_from() {
    for (first, second) in [(1, 2), (2, 1)] {
        let mut table = Table::new(&["a"]);
        let one = table.add("b", first);
        table.connect(one, 0);
        let other = table.add("b", second);
        table.connect(other, 0);
        table.pass(Duration::from_secs(1));
        let (older, younger) = if first < second {
            (one, other)
        } else {
            (other, one)
        };
        assert_eq!(table.duplicate_of(younger), Some(Incarnation(1)));
        assert_eq!(table.duplicate_of(older), None);
        let b = Arc::clone(table.meshes[0].view().member(&node("b")).unwrap());
        assert!(b.is_reachable() && b.incarnation() == Incarnation(1));
    }
}

#[test]
fn refused_node_is_told_again_when_it_comes_back() {
    let mut table = Table::new(&["a"]);
    let older = table.add("b", 1);
    table.connect(older, 0);
    let conflict = Conflict {
        node: node("b"),
        older: Incarnation(1),
        younger: Incarnation(2),
    };
    let link = table.meshes[0].neighbours[&node("b")];
    table.frame(0, link, &LinkFrame::Conflict(conflict));
    let younger = table.add("b", 2);
    table.connect(younger, 0);
    assert_eq!(table.duplicate_of(younger), Some(Incarnation(1)));
}

#[test]
fn remote_duplicate_is_driven_out_by_the_older_node() {
    let mut table = Table::new(&["a", "c", "d"]);
    let (older, younger) = (table.add("b", 1), table.add("b", 2));
    table.connect(older, 0);
    table.connect(younger, 2);
    table.pass(Duration::from_secs(1));
    table.connect(0, 1);
    table.connect(1, 2);
    table.pass(Duration::from_secs(1));
    assert_eq!(table.duplicate_of(younger), Some(Incarnation(1)));
    assert_eq!(table.duplicate_of(older), None);
    for index in 0..3 {
        let view = table.meshes[index].view();
        let b = view.member(&node("b")).unwrap();
        assert!(b.is_reachable() && b.incarnation() == Incarnation(1));
    }
}

#[test]
fn older_node_does_not_believe_that_it_has_to_go() {
    let mut table = Table::new(&["a"]);
    let older = table.add("b", 5);
    let link = table.connect(older, 0);
    for (older_life, younger_life) in [(5, 9), (1, 4), (6, 7)] {
        let conflict = Conflict {
            node: node("b"),
            older: Incarnation(older_life),
            younger: Incarnation(younger_life),
        };
        table.frame(older, link, &LinkFrame::Conflict(conflict));
    }
    table.pass(Duration::from_secs(1));
    assert_eq!(table.duplicate_of(older), None);
    assert!(table.meshes[0].view().member(&node("b")).unwrap().is_reachable());
}

#[test]
fn advertisement_of_a_past_life_is_answered_with_the_own_one() {
    let mut table = Table::new(&["a"]);
    let again = table.add("b", 7);
    let link = table.connect(again, 0);
    table.log.clear();
    table.frame(again, link, &advertise("b", 6, 99));
    let own = &table.meshes[again].lsdb.get(&node("b")).unwrap().frame;
    assert!(
        table
            .log
            .iter()
            .any(|(at, o)| *at == again && matches!(o, Output::Send { frame, .. } if frame == own))
    );
    assert_eq!(table.duplicate_of(again), None);
}

#[test]
fn remembered_conflicts_are_bounded_and_expire() {
    let mut table = Table::new(&["a", "b"]);
    let link = table.connect(0, 1);
    let conflict = |younger: usize| {
        LinkFrame::Conflict(Conflict {
            node: node("x"),
            older: Incarnation(1),
            younger: Incarnation(younger as u64),
        })
    };
    let known = |table: &Table, younger: usize| {
        table.meshes[0]
            .conflicts
            .get(&node("x"), Incarnation(younger as u64))
            .is_some()
    };
    (2..MAX_CONFLICTS + 2).for_each(|younger| table.frame(0, link, &conflict(younger)));
    assert!(known(&table, 2) && known(&table, MAX_CONFLICTS + 1));
    table.frame(0, link, &conflict(MAX_CONFLICTS + 2));
    assert!(!known(&table, 2) && known(&table, 3) && known(&table, MAX_CONFLICTS + 2));
    table.pass(Timings::default().max_age * 2);
    assert!(!known(&table, MAX_CONFLICTS + 2));
}

#[test]
fn leaving_is_seen_at_once_and_links_end_with_a_goodbye() {
    let mut table = Table::new(&["a", "b", "c"]);
    table.connect(0, 1);
    let link = table.connect(1, 2);
    table.pass(Duration::from_secs(1));
    table.meshes[2].handle_leave(table.now);
    table.pump();
    assert!(table.meshes[0].view().member(&node("c")).is_none());
    assert_eq!(
        table.closed(1, link),
        Some(CloseReason::Goodbye("leaving".into()))
    );
    table.meshes[2].handle_link_opened(table.now, LinkId(99), node("a"), true);
    assert!(table.meshes[2].poll_output().is_none() && table.meshes[2].poll_timeout().is_none());
}

#[test]
fn leaf_speaks_for_itself_alone() {
    let mut table = Table::new(&["a", "b"]);
    let leaf = table.add_with("c", 1, |config| config.leaf = true);
    table.connect(leaf, 0);
    table.connect(leaf, 1);
    table.pass(Timings::default().digest_interval * 3);
    assert!(table.meshes[0].view().member(&node("b")).is_none());
    assert_eq!(table.meshes[leaf].view().members.len(), 3);
    assert!(table.meshes[0].view().member(&node("c")).unwrap().is_reachable());
}

#[test]
fn leaf_out_of_reach_is_no_longer_shown() {
    let mut table = Table::new(&["a", "b"]);
    let leaf = table.add_with("c", 1, |config| config.leaf = true);
    let link = table.connect(0, leaf);
    table.connect(0, 1);
    table.pass(Duration::from_secs(1));
    assert!(table.meshes[1].view().member(&node("c")).is_some());
    table.meshes[0].handle_link_closed(table.now, link);
    table.pump();
    table.pass(Duration::from_millis(200));
    assert!(table.meshes[1].view().member(&node("c")).is_none());
}

#[test]
fn lost_advertisement_and_lost_load_are_found_by_the_digest() {
    let mut table = Table::new(&["a", "b", "c"]);
    table.connect(0, 1);
    let wire = table.wires.len();
    table.connect(1, 2);
    table.wires[wire].silent = true;
    table.load(0, 7);
    let late = table.add("d", 1);
    table.connect(late, 0);
    table.pass(Duration::from_secs(1));
    assert!(table.meshes[2].view().member(&node("d")).is_none());
    table.wires[wire].silent = false;
    table.pass(Timings::default().digest_interval);
    let view = table.meshes[2].view();
    assert!(view.member(&node("d")).unwrap().is_reachable());
    assert_eq!(view.member(&node("a")).unwrap().load.as_ref().unwrap().running, 7);
}

#[test]
fn node_out_of_reach_is_shown_as_such_and_then_forgotten() {
    let mut table = Table::new(&["a", "b"]);
    let link = table.connect(0, 1);
    table.meshes[0].handle_link_closed(table.now, link);
    table.pump();
    assert_eq!(
        table.meshes[0].view().member(&node("b")).unwrap().reach,
        Reach::Nowhere
    );
    table.wires[0].alive = false;
    table.pass(Timings::default().max_age + Duration::from_secs(1));
    assert!(table.meshes[0].view().member(&node("b")).is_none());
}

#[test]
fn reachable_nodes_never_age() {
    let mut table = Table::new(&["a", "b"]);
    table.connect(0, 1);
    table.pass(Timings::default().max_age * 3);
    assert!(table.meshes[0].view().member(&node("b")).unwrap().is_reachable());
    table.pass(Timings::default().refresh);
    assert!(table.meshes[0].lsdb.get(&node("b")).unwrap().lsa.sequence > 2);
}

#[test]
fn one_link_more_than_the_limit_is_closed() {
    let mut table = Table::new(&["a"]);
    for index in 0..MAX_ADJACENCIES {
        let name = format!("n{index}");
        let link = table.open_half(0, &name);
        table.frame(0, link, &LinkFrame::Hello(hello(&name, 1)));
    }
    assert_eq!(table.meshes[0].neighbours.len(), MAX_ADJACENCIES);
    let more = table.open_half(0, "more");
    table.frame(0, more, &LinkFrame::Hello(hello("more", 1)));
    assert_eq!(table.closed(0, more), Some(CloseReason::TooManyLinks));
    let silent: Vec<LinkId> = (0..=MAX_ADJACENCIES).map(|_| table.open_half(0, "x")).collect();
    assert_eq!(table.closed(0, silent[MAX_ADJACENCIES - 1]), None);
    assert_eq!(
        table.closed(0, silent[MAX_ADJACENCIES]),
        Some(CloseReason::TooManyLinks)
    );
}

#[test]
fn largest_advertisement_fits_into_a_frame_that_peers_accept() {
    let text = |n: usize| "x".repeat(n);
    let worker = |i: usize| WorkerAd {
        directive: Directive::parse(&format!("{}:{i}", text(250))).unwrap(),
        kind: PayloadKind::Bytes,
        version: text(300),
        idempotent: true,
        description: text(1000),
    };
    let mut table = Table::new(&[]);
    let index = table.add_with("a", 1, |config| {
        config.version = text(999);
        config.workers = (0..MAX_WORKERS + 5).map(worker).collect();
        config.labels = (0..MAX_LABELS + 5)
            .map(|i| (format!("{i:0>256}"), text(MAX_TEXT_BYTES)))
            .collect();
    });
    let own = (*table.meshes[index].lsdb.get(&node("a")).unwrap().lsa).clone();
    assert!(!own.workers.is_empty() && own.labels.len() == MAX_LABELS);
    let adjacency = |i: usize| Adjacency {
        node: node(&format!("{i:0>63}")).leaf(u64::MAX),
        cost: Cost(u16::MAX),
    };
    let adjacencies = (0..MAX_ADJACENCIES).map(adjacency).collect();
    let largest = LinkFrame::Lsa(Arc::new(Lsa { adjacencies, ..own })).encode();
    assert!(
        largest.body.len() <= MAX_BODY_BYTES,
        "{} bytes",
        largest.body.len()
    );
    assert!(LinkFrame::decode(&largest).is_ok());
}

#[test]
fn many_advertisements_cost_few_computations() {
    let mut table = Table::new(&["a", "b"]);
    let link = table.connect(0, 1);
    let before = table.meshes[0].counters().spf_runs;
    (0..500).for_each(|i| table.frame(0, link, &advertise(&format!("n{i}"), 1, 1)));
    table.pass(Duration::from_millis(20));
    assert!(table.meshes[0].counters().spf_runs <= before + 2);
    assert_eq!(table.meshes[0].view().members.len(), 502);
}

/// Machines, and wires between them that carry at once.
struct Table {
    now: Instant,
    meshes: Vec<Mesh>,
    wires: Vec<Wire>,
    next_link: u64,
    log: Vec<(usize, Output)>,
}

struct Wire {
    ends: [(usize, LinkId); 2],
    open: [bool; 2],
    alive: bool,
    /// Loses everything, and nobody notices.
    silent: bool,
}

impl Table {
    fn new(nodes: &[&str]) -> Self {
        let mut table = Self {
            now: Instant::now(),
            meshes: Vec::new(),
            wires: Vec::new(),
            next_link: 0,
            log: Vec::new(),
        };
        nodes.iter().for_each(|id| _ = table.add(id, 1));
        table
    }

    fn add(&mut self, id: &str, incarnation: u64) -> usize {
        self.add_with(id, incarnation, |_| ())
    }

    fn add_with(&mut self, id: &str, incarnation: u64, change: impl FnOnce(&mut MeshConfig)) -> usize {
        let mut config = MeshConfig {
            node: node(id),
            incarnation: Incarnation(incarnation),
            cost: Cost::DEFAULT,
            leaf: false,
            version: "1.0.0".into(),
            workers: Vec::new(),
            labels: BTreeMap::new(),
            timings: Timings::default(),
        };
        change(&mut config);
        self.meshes.push(Mesh::new(config, self.now));
        self.meshes.len() - 1
    }

    /// A link of which only this end is on the table.
    fn open_half(&mut self, at: usize, certified: &str) -> LinkId {
        self.next_link += 1;
        let link = LinkId(self.next_link);
        self.meshes[at].handle_link_opened(self.now, link, node(certified), true);
        self.pump();
        link
    }

    fn wire(&mut self, dialler: usize, listener: usize) -> usize {
        self.next_link += 2;
        self.wires.push(Wire {
            ends: [
                (dialler, LinkId(self.next_link - 1)),
                (listener, LinkId(self.next_link)),
            ],
            open: [false; 2],
            alive: true,
            silent: false,
        });
        self.wires.len() - 1
    }

    fn open_end(&mut self, wire: usize, end: usize) {
        let (at, link) = self.wires[wire].ends[end];
        let certified = self.meshes[self.wires[wire].ends[1 - end].0].config.node.base();
        self.wires[wire].open[end] = true;
        self.meshes[at].handle_link_opened(self.now, link, certified, end == 0);
    }

    /// Brings a link up; returns its id at the dialler.
    fn connect(&mut self, dialler: usize, listener: usize) -> LinkId {
        let wire = self.wire(dialler, listener);
        self.open_end(wire, 0);
        self.open_end(wire, 1);
        self.pump();
        self.pass(Duration::from_millis(150));
        self.wires[wire].ends[0].1
    }

    fn load(&mut self, at: usize, running: u32) {
        let figures = LoadFigures {
            slots: 9,
            running,
            ..LoadFigures::default()
        };
        self.meshes[at].handle_load(self.now, figures);
        self.pump();
    }

    fn frame(&mut self, at: usize, link: LinkId, frame: &LinkFrame) {
        self.raw(at, link, &frame.encode());
    }

    fn raw(&mut self, at: usize, link: LinkId, frame: &Frame) {
        self.meshes[at].handle_frame(self.now, link, frame);
        self.pump();
    }

    /// Carries everything until all are quiet.
    fn pump(&mut self) {
        loop {
            let mut quiet = true;
            for at in 0..self.meshes.len() {
                while let Some(output) = self.meshes[at].poll_output() {
                    quiet = false;
                    self.carry(at, &output);
                    self.log.push((at, output));
                }
            }
            if quiet {
                return;
            }
        }
    }

    fn carry(&mut self, at: usize, output: &Output) {
        let (link, frame) = match output {
            Output::Send { link, frame } => (*link, Some(frame)),
            Output::Close { link, .. } => (*link, None),
            Output::LinkUp { .. }
            | Output::LinkDown { .. }
            | Output::ViewChanged(_)
            | Output::DuplicateId { .. } => return,
        };
        let now = self.now;
        let Some((wire, end)) = self.find(at, link) else {
            return;
        };
        let (to, their_link) = wire.ends[1 - end];
        if !wire.alive {
            return;
        }
        wire.alive = frame.is_some();
        match frame {
            _ if wire.silent => {}
            Some(frame) => self.meshes[to].handle_frame(now, their_link, frame),
            None => self.meshes[to].handle_link_closed(now, their_link),
        }
    }

    fn find(&mut self, at: usize, link: LinkId) -> Option<(&mut Wire, usize)> {
        self.wires.iter_mut().find_map(|wire| {
            let end = wire.ends.iter().position(|end| *end == (at, link))?;
            Some((wire, end))
        })
    }

    /// Lets time pass, waking machines when they ask for it.
    fn pass(&mut self, span: Duration) {
        let until = self.now + span;
        loop {
            self.pump();
            let next = self.meshes.iter().filter_map(Mesh::poll_timeout).min();
            let Some(at) = next.filter(|at| *at <= until) else {
                break;
            };
            self.now = self.now.max(at);
            let now = self.now;
            self.meshes
                .iter_mut()
                .filter(|m| m.poll_timeout().is_some_and(|t| t <= now))
                .for_each(|m| m.handle_timeout(now));
        }
        self.now = until;
    }

    fn sent(&self, at: usize, to: LinkId) -> Vec<FrameType> {
        let kind = |(from, output): &(usize, Output)| match output {
            Output::Send { link, frame } if *link == to && *from == at => frame.frame_type(),
            _ => None,
        };
        self.log.iter().filter_map(kind).collect()
    }

    fn closed(&self, at: usize, which: LinkId) -> Option<CloseReason> {
        let reason = |(from, output): &(usize, Output)| match output {
            Output::Close { link, reason } if *link == which && *from == at => Some(reason.clone()),
            _ => None,
        };
        self.log.iter().find_map(reason)
    }

    fn duplicate_of(&self, at: usize) -> Option<Incarnation> {
        let older = |(from, output): &(usize, Output)| match output {
            Output::DuplicateId { older } if *from == at => Some(*older),
            _ => None,
        };
        self.log.iter().find_map(older)
    }
}

/// What becomes of a link on which this hello comes from a peer whose certificate names `b`.
fn greeted_with(hello: &Hello) -> Option<CloseReason> {
    let mut table = Table::new(&["a"]);
    let link = table.open_half(0, "b");
    table.frame(0, link, &LinkFrame::Hello(hello.clone()));
    table.closed(0, link)
}

fn node(id: &str) -> NodeId {
    NodeId::parse(id).unwrap()
}

fn hello(id: &str, incarnation: u64) -> Hello {
    Hello {
        version_min: PROTOCOL_VERSION,
        version_max: PROTOCOL_VERSION,
        features: Vec::new(),
        node: node(id),
        incarnation: Incarnation(incarnation),
        cost: Cost::DEFAULT,
        leaf: false,
    }
}

fn advertise(id: &str, incarnation: u64, sequence: u64) -> LinkFrame {
    LinkFrame::Lsa(Arc::new(Lsa {
        origin: node(id),
        incarnation: Incarnation(incarnation),
        sequence,
        leaf: false,
        leaving: false,
        version: String::new(),
        adjacencies: Vec::new(),
        workers: Vec::new(),
        labels: BTreeMap::new(),
    }))
}
