//! Every count and length of a link frame, at its limit and one past it.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic, in its helpers too")]

use std::sync::Arc;

use worker_api::{Directive, PayloadKind};
use workmesh_proto::wire::frame::MAX_BODY_BYTES;
use workmesh_proto::wire::link::{
    Adjacency, Conflict, Goodbye, Hello, LinkFrame, Lsa, MAX_ADJACENCIES, MAX_FEATURES, MAX_LABELS,
    MAX_TEXT_BYTES, MAX_WORKERS, WorkerAd,
};
use workmesh_proto::{Cost, Incarnation, NodeId};

#[test]
fn counts_of_an_advertisement_are_limited() {
    assert_limit(MAX_ADJACENCIES, |count, lsa| {
        lsa.adjacencies = vec![adjacency(); count]
    });
    assert_limit(MAX_WORKERS, |count, lsa| lsa.workers = vec![worker(); count]);
    assert_limit(MAX_LABELS, |count, lsa| {
        lsa.labels = (0..count).map(|i| (i.to_string(), String::new())).collect();
    });
}

#[test]
fn texts_of_an_advertisement_are_limited() {
    assert_limit(MAX_TEXT_BYTES, |length, lsa| lsa.version = text(length));
    assert_limit(MAX_TEXT_BYTES, |length, lsa| {
        lsa.labels = [(text(length), String::new())].into();
    });
    assert_limit(MAX_TEXT_BYTES, |length, lsa| {
        lsa.labels = [(String::new(), text(length))].into();
    });
    assert_limit(MAX_TEXT_BYTES, |length, lsa| {
        let version = text(length);
        lsa.workers = vec![WorkerAd { version, ..worker() }];
    });
    assert_limit(MAX_TEXT_BYTES, |length, lsa| {
        let description = text(length);
        lsa.workers = vec![WorkerAd {
            description,
            ..worker()
        }];
    });
}

#[test]
fn hello_is_limited() {
    let taken = |features: Vec<String>| is_taken(&LinkFrame::Hello(Hello { features, ..hello() }));
    assert!(taken(vec![text(MAX_TEXT_BYTES); MAX_FEATURES]));
    assert!(!taken(vec![text(1); MAX_FEATURES + 1]));
    assert!(!taken(vec![text(MAX_TEXT_BYTES + 1)]));
    let (version_min, version_max) = (2, 1);
    assert!(!is_taken(&LinkFrame::Hello(Hello {
        version_min,
        version_max,
        ..hello()
    })));
}

#[test]
fn reason_of_a_goodbye_is_limited() {
    let taken = |length| is_taken(&LinkFrame::Goodbye(Goodbye { reason: text(length) }));
    assert!(taken(MAX_TEXT_BYTES));
    assert!(!taken(MAX_TEXT_BYTES + 1));
}

#[test]
fn older_life_of_a_conflict_is_the_smaller_one() {
    let taken = |older, younger| {
        let (older, younger) = (Incarnation(older), Incarnation(younger));
        is_taken(&LinkFrame::Conflict(Conflict {
            node: id("a"),
            older,
            younger,
        }))
    };
    assert!(taken(1, 2));
    assert!(!taken(2, 2));
}

fn assert_limit(limit: usize, set: impl Fn(usize, &mut Lsa)) {
    for (size, expected) in [(limit, true), (limit + 1, false)] {
        let mut lsa = advertisement();
        set(size, &mut lsa);
        assert_eq!(
            is_taken(&LinkFrame::Lsa(Arc::new(lsa))),
            expected,
            "{size} of {limit}"
        );
    }
}

fn is_taken(frame: &LinkFrame) -> bool {
    let encoded = frame.encode();
    assert!(encoded.body.len() <= MAX_BODY_BYTES);
    LinkFrame::decode(&encoded).is_ok_and(|decoded| decoded.as_ref() == Some(frame))
}

fn text(length: usize) -> String {
    "t".repeat(length)
}

fn id(text: &str) -> NodeId {
    NodeId::parse(text).unwrap()
}

fn adjacency() -> Adjacency {
    Adjacency {
        node: id(&text(63)),
        cost: Cost(u16::MAX),
    }
}

fn worker() -> WorkerAd {
    WorkerAd {
        directive: Directive::parse("module:function").unwrap(),
        kind: PayloadKind::Bytes,
        version: String::new(),
        idempotent: false,
        description: String::new(),
    }
}

fn advertisement() -> Lsa {
    Lsa {
        origin: id("a"),
        incarnation: Incarnation(1),
        sequence: 1,
        leaf: false,
        leaving: false,
        batches: true,
        version: String::new(),
        adjacencies: vec![],
        workers: vec![],
        labels: [].into(),
    }
}

fn hello() -> Hello {
    Hello {
        version_min: 1,
        version_max: 1,
        features: vec![],
        node: id("a"),
        incarnation: Incarnation(1),
        cost: Cost(1),
        leaf: false,
    }
}
