//! Vectors of the link frames.

use worker_api::{Directive, PayloadKind};
use workmesh_proto::wire::link::{
    Adjacency, Conflict, Digest, Goodbye, Hello, LinkFrame, Load, Lsa, Probe, ProbeReply, Synced, WorkerAd,
};
use workmesh_proto::{Cost, Incarnation};

use super::file::Vector;
use crate::id;

pub(crate) fn vectors() -> Vec<Vector> {
    vec![
        vector(
            "hello",
            "The first frame in each direction.",
            LinkFrame::Hello(Hello {
                version_min: 1,
                version_max: 1,
                features: vec!["shared-streams".into()],
                node: id("node-a"),
                incarnation: BORN,
                cost: Cost::DEFAULT,
                leaf: false,
            }),
        ),
        vector(
            "hello-leaf",
            "The first frame of a leaf.",
            LinkFrame::Hello(Hello {
                version_min: 1,
                version_max: 2,
                features: vec![],
                node: id("node-a+00000000003f2a9c"),
                incarnation: BORN,
                cost: Cost(1),
                leaf: true,
            }),
        ),
        vector(
            "lsa",
            "node-b's advertisement: two links, one worker, one label.",
            LinkFrame::Lsa(advertisement().into()),
        ),
        vector(
            "lsa-leaving",
            "node-b leaves.",
            LinkFrame::Lsa(
                Lsa {
                    sequence: 5,
                    leaving: true,
                    adjacencies: vec![],
                    workers: vec![],
                    labels: [].into(),
                    ..advertisement()
                }
                .into(),
            ),
        ),
        vector(
            "load",
            "How busy node-b's pool is.",
            LinkFrame::Load(Load {
                origin: id("node-b"),
                incarnation: BORN,
                sequence: 17,
                slots: 6,
                running: 2,
                queued: 0,
                queue_limit: 64,
            }),
        ),
        vector(
            "digest",
            "A summary of the database.",
            LinkFrame::Digest(digest()),
        ),
        vector(
            "synced",
            "The whole database was sent.",
            LinkFrame::Synced(Synced {}),
        ),
        vector(
            "conflict",
            "Two nodes carry the id node-b; the younger has to go.",
            LinkFrame::Conflict(Conflict {
                node: id("node-b"),
                older: BORN,
                younger: Incarnation(BORN.0 + 1),
            }),
        ),
        vector(
            "probe",
            "Asks for a reply.",
            LinkFrame::Probe(Probe { token: u64::MAX }),
        ),
        vector(
            "probe-reply",
            "The reply.",
            LinkFrame::ProbeReply(ProbeReply { token: u64::MAX }),
        ),
        vector(
            "goodbye",
            "The last frame.",
            LinkFrame::Goodbye(Goodbye {
                reason: "shutting down".into(),
            }),
        ),
    ]
}

const BORN: Incarnation = Incarnation(1_790_000_000_000);

fn advertisement() -> Lsa {
    let adjacency = |node, cost| Adjacency {
        node: id(node),
        cost: Cost(cost),
    };
    Lsa {
        origin: id("node-b"),
        incarnation: BORN,
        sequence: 4,
        leaf: false,
        leaving: false,
        batches: true,
        version: "0.1.0".into(),
        adjacencies: vec![adjacency("node-a", 10), adjacency("node-c", 300)],
        workers: vec![WorkerAd {
            directive: Directive::parse("digest:sha256").unwrap(),
            kind: PayloadKind::Buffer,
            version: "1".into(),
            idempotent: true,
            description: "SHA-256 of the payload".into(),
        }],
        labels: [("site".to_owned(), "berlin".to_owned())].into(),
    }
}

fn digest() -> Digest {
    Digest {
        entries: 3,
        hash: 0x0123_4567_89ab_cdef,
        load_hash: 0xfedc_ba98_7654_3210,
    }
}

fn vector(name: &'static str, meaning: &str, frame: LinkFrame) -> Vector {
    Vector::frame(name, meaning, frame.encode(), move |read| {
        assert_eq!(LinkFrame::decode(&read), Ok(Some(frame.clone())));
        assert_eq!((read.flags, read.unit), (0, 0));
    })
}
