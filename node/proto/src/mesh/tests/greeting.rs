//! Who may come in, and which of two links to one node stays.

use super::*;

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

/// What becomes of a link on which this hello comes from a peer whose certificate names `b`.
fn greeted_with(hello: &Hello) -> Option<CloseReason> {
    let mut table = Table::new(&["a"]);
    let link = table.open_half(0, "b");
    table.frame(0, link, &LinkFrame::Hello(hello.clone()));
    table.closed(0, link)
}
