//! What is passed on, what is answered, what is found again.

use super::*;

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
fn withdrawn_workers_are_gone_at_once_and_stay_so() {
    let mut table = Table::new(&["a", "b"]);
    let worker = WorkerAd {
        directive: "m:f".parse().unwrap(),
        kind: PayloadKind::Bytes,
        version: String::new(),
        idempotent: false,
        description: String::new(),
    };
    let c = table.add_with("c", 1, |config| config.workers = vec![worker]);
    table.connect(0, 1);
    table.connect(1, c);
    table.pass(Duration::from_secs(1));
    let workers = |table: &Table| table.meshes[0].view().member(&node("c")).unwrap().workers().len();
    assert_eq!(workers(&table), 1);
    table.meshes[c].handle_withdrawal(table.now);
    table.pump();
    table.pass(Timings::default().spf_interval);
    assert_eq!(workers(&table), 0);
    let sequence = table.meshes[c].own.sequence;
    table.meshes[c].handle_withdrawal(table.now);
    table.pump();
    assert_eq!(
        table.meshes[c].own.sequence, sequence,
        "there is nothing to say again"
    );
    table.pass(Timings::default().refresh * 2);
    assert_eq!(workers(&table), 0);
    assert!(table.meshes[0].view().member(&node("c")).unwrap().is_reachable());
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
