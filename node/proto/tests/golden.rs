//! Golden vectors: the bytes of every frame type, kept in `golden/*.txt`, must be what this version writes and reads.
//!
//! A changed vector is a changed protocol. After a change on purpose write the files anew with
//! `WORKMESH_GOLDEN=write cargo test -p workmesh-proto --test golden`, and update `docs/PROTOCOL.md`.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic, in its helpers too")]

mod golden {
    pub(crate) mod durable;
    pub(crate) mod file;
    pub(crate) mod link;
    pub(crate) mod unit;
}

use std::collections::BTreeSet;

use bytes::Bytes;
use ciborium::Value;
use golden::file::{File, Vector};
use workmesh_proto::NodeId;
use workmesh_proto::wire::codec;
use workmesh_proto::wire::forward::{ForwardHeader, HEADER_BYTES, HOP_LIMIT, LinkKey, is_forward_frame};
use workmesh_proto::wire::frame::{Frame, FrameType};
use workmesh_proto::wire::query::{Fault, Query, WorkFilter};
use workmesh_proto::wire::unit::{Accepted, Kind};

#[test]
fn link_frames_keep_their_bytes() {
    let vectors = golden::link::vectors();
    File::new("link.txt", "The frames of a link's control stream.").check(&vectors);
}

#[test]
fn unit_frames_keep_their_bytes() {
    let vectors = golden::unit::vectors();
    File::new("unit.txt", "The frames of a unit, in the order of their types.").check(&vectors);
}

#[test]
fn frames_of_durable_units_keep_their_bytes() {
    let vectors = golden::durable::vectors();
    let about = "The frames that durable units have beside those of unit.txt, in the order of their types.";
    File::new("durable.txt", about).check(&vectors);
}

#[test]
fn query_frames_keep_their_bytes() {
    File::new("query.txt", "Questions and answers.").check(&queries());
}

#[test]
fn forward_frames_keep_their_bytes() {
    let key: [u8; 16] = std::array::from_fn(|i| i as u8);
    let key = LinkKey::new(&key);
    let header = |hops| ForwardHeader {
        hops,
        destination: id("node-c").hash(),
        source: id("node-a").hash(),
    };
    let sealed =
        |name: &'static str, meaning: &'static str, hops: u8, sequence: u64, packet: &'static [u8]| {
            let header = header(hops);
            let bytes = [&header.seal(&key, sequence, packet)[..], packet].concat();
            let key = key.clone();
            Vector::new(name, meaning, &[1, 1, 8, 8, 6, 8], bytes.into(), move |bytes| {
                assert!(is_forward_frame(bytes));
                assert_eq!(ForwardHeader::open(&key, bytes), Ok((header, sequence)));
                assert_eq!(&bytes[HEADER_BYTES..], packet);
            })
        };
    let vectors = [
        sealed(
            "first-hop",
            "From node-a to node-c, the first that node-a sends over its link; the tag covers the first 16 bytes of the packet.",
            HOP_LIMIT,
            0,
            b"\x40the 24 bytes of a packet",
        ),
        sealed(
            "short-packet",
            "A packet of less than 16 bytes is covered whole.",
            HOP_LIMIT - 1,
            0x0102_0304_0506,
            b"\x40",
        ),
    ];
    let about = "Forward frames under the link key 000102030405060708090a0b0c0d0e0f.";
    File::new("forward.txt", about).check(&vectors);
}

#[test]
fn node_ids_keep_their_hashes_and_addresses() {
    let hash = |name: &'static str, meaning: &'static str, node: &'static str| {
        let node = id(node);
        let address = node.hash().virtual_address().octets();
        Vector::new(name, meaning, &[8, 8], address.to_vec().into(), move |bytes| {
            assert_eq!(bytes[8..], node.hash().0.to_be_bytes());
        })
    };
    let vectors = [
        hash(
            "node-a",
            "The virtual address of node-a: prefix, then hash.",
            "node-a",
        ),
        hash("case", "NODE-A is the same node.", "NODE-A"),
        hash("leaf", "A leaf instance of node-a.", "node-a+00000000003f2a9c"),
    ];
    File::new("address.txt", "Virtual addresses of nodes.").check(&vectors);
}

#[test]
fn frames_of_a_newer_peer_are_read() {
    let text = |t: &str| Value::Text(t.into());
    let newer = Value::Map(vec![
        (
            text("sandbox"),
            Value::Map(vec![(text("level"), Value::Integer(3.into()))]),
        ),
        (text("executor"), text("node-b")),
        (text("priority"), Value::Integer(7.into())),
    ]);
    let vectors = [
        Vector::frame(
            "unknown-keys",
            "An acceptance with two keys that this version does not know: they are skipped.",
            Frame::cbor(FrameType::Accepted, 0, &newer),
            |frame| {
                let executor = id("node-b");
                assert_eq!(codec::decode(&frame.body), Ok(Accepted { executor }));
            },
        ),
        Vector::frame(
            "unknown-type",
            "A frame of a type that this version does not know: it is skipped.",
            Frame {
                kind: 0x7f,
                flags: 0x80,
                unit: 1,
                body: Bytes::from_static(b"newer"),
            },
            |frame| assert_eq!(frame.frame_type(), None),
        ),
        Vector::frame(
            "unknown-kind",
            "A fault of a kind that this version does not know: it reads as `unknown`.",
            Frame::cbor(
                FrameType::Fault,
                0,
                &Value::Map(vec![
                    (text("kind"), text("out_of_tape")),
                    (text("message"), text("put in a tape")),
                ]),
            ),
            |frame| {
                let fault: Fault = codec::decode(&frame.body).unwrap();
                assert_eq!((fault.kind, &*fault.message), (Kind::Unknown, "put in a tape"));
            },
        ),
    ];
    File::new("newer.txt", "What a newer peer may send.").check(&vectors);
}

#[test]
fn every_frame_type_has_a_vector() {
    let all = [
        golden::link::vectors(),
        golden::unit::vectors(),
        golden::durable::vectors(),
        queries(),
    ];
    let seen: BTreeSet<u8> = all.iter().flatten().map(|vector| vector.bytes()[0]).collect();
    let known: BTreeSet<u8> = (0..=255)
        .filter(|kind| FrameType::from_u8(*kind).is_some())
        .collect();
    assert_eq!(seen, known);
}

#[test]
fn protocol_text_lists_every_frame_type() {
    let text = include_str!("../../../docs/PROTOCOL.md");
    for kind in (0..=255).filter_map(FrameType::from_u8) {
        let row = format!("| {:#04x} | {kind:?} |", kind as u8);
        assert!(text.contains(&row), "docs/PROTOCOL.md lacks {row}");
    }
}

fn queries() -> Vec<Vector> {
    let node = || id("node-c");
    let query = |name, meaning, query: Query| Vector::cbor(name, meaning, FrameType::Query, query);
    let fault = Fault {
        kind: Kind::NoRoute,
        message: "no route to node-c".into(),
    };
    vec![
        query("ping", "Asks the node itself.", Query::Ping { node: None }),
        query(
            "ping-node",
            "Asks another node; control socket only.",
            Query::Ping { node: Some(node()) },
        ),
        query("status", "Asks what the node knows.", Query::Status {}),
        query("workers", "Asks for the workers of the mesh.", Query::Workers {}),
        query("drain", "Drains the node.", Query::Drain {}),
        query(
            "trace",
            "Asks for the way to a node.",
            Query::Trace { node: node() },
        ),
        query(
            "work",
            "Asks for all durable units of the node.",
            Query::Work(WorkFilter::default()),
        ),
        query(
            "work-filter",
            "Asks for the next 100 durable units that fit.",
            Query::Work(WorkFilter {
                state: Some("running".into()),
                directive: Some("text:*".into()),
                node: Some(node()),
                since_ms: Some(3_600_000),
                limit: Some(100),
                after: Some(golden::durable::unit()),
            }),
        ),
        query(
            "work-show",
            "Asks how a durable unit is.",
            Query::WorkShow {
                unit: golden::durable::unit(),
            },
        ),
        query(
            "work-release",
            "Asks the node to forget a durable unit.",
            Query::WorkRelease {
                units: vec![golden::durable::unit()],
                all: false,
                older_than_ms: None,
            },
        ),
        query(
            "work-release-all",
            "Asks the node to forget all durable units that ended an hour ago or before.",
            Query::WorkRelease {
                units: vec![],
                all: true,
                older_than_ms: Some(3_600_000),
            },
        ),
        Vector::raw(
            "reply",
            "An answer; its CBOR form depends on the question.",
            Frame::cbor(FrameType::Reply, 0, &Value::Map(Vec::new())),
        ),
        Vector::cbor(
            "fault",
            "The question could not be answered.",
            FrameType::Fault,
            fault,
        ),
    ]
}

fn id(text: &str) -> NodeId {
    NodeId::parse(text).unwrap()
}
