//! Vectors of the frames of durable units.

use bytes::Bytes;
use uuid::Uuid;
use workmesh_proto::wire::batch::{Batch, Over, Parcel, ReleasedUnits};
use workmesh_proto::wire::durable::{
    Ack, Attach, Offer, Position, Release, Released, Resume, Returned, Started, Stored, Unfinished,
};
use workmesh_proto::wire::frame::FrameType;
use workmesh_proto::wire::unit::{Eof, Kind, Outcome, Submit};
use workmesh_proto::{Incarnation, UnitId};

use super::file::Vector;

pub(crate) fn vectors() -> Vec<Vector> {
    let position = Position {
        responses: 2,
        bytes: 70_000,
    };
    let offer = Offer {
        number: 2,
        life: Incarnation(1_795_223_553_029),
    };
    vec![
        Vector::cbor(
            "submit-durable",
            "A submission that is to survive; its client waits for no more than its storage.",
            FrameType::Submit,
            Submit {
                unit: unit(),
                directive: "text:upper".into(),
                to: None,
                payload_bytes: Some(5),
                params: [].into(),
                deadline_ms: None,
                trace: None,
                durable: true,
                detach: true,
                idempotent: true,
                offer: None,
            },
        ),
        Vector::cbor(
            "submit-offer",
            "The second offer of a durable unit, to one life of an executor.",
            FrameType::Submit,
            Submit {
                unit: unit(),
                directive: "text:upper".into(),
                to: None,
                payload_bytes: Some(5),
                params: [].into(),
                deadline_ms: None,
                trace: None,
                durable: true,
                detach: false,
                idempotent: false,
                offer: Some(offer),
            },
        ),
        Vector::cbor(
            "stored",
            "The origin has the unit on its disk.",
            FrameType::Stored,
            Stored { unit: unit() },
        ),
        Vector::cbor(
            "started",
            "The unit's function begins to run.",
            FrameType::Started,
            Started {},
        ),
        Vector::cbor(
            "returned",
            "An accepted unit was never started and will not be.",
            FrameType::Returned,
            Returned {
                message: "node-c drains".into(),
            },
        ),
        Vector::cbor(
            "ack",
            "The origin has two responses and what 70,000 bytes hold of the third on its disk.",
            FrameType::Ack,
            Ack { position },
        ),
        Vector::cbor(
            "resume",
            "The origin goes on with a unit whose stream broke.",
            FrameType::Resume,
            Resume {
                unit: unit(),
                offer,
                position,
            },
        ),
        Vector::cbor(
            "release",
            "The origin has the unit's end on its disk.",
            FrameType::Release,
            Release {
                unit: unit(),
                number: 2,
                outcome: Outcome::Succeeded,
            },
        ),
        Vector::cbor(
            "released",
            "The executor has forgotten the unit.",
            FrameType::Released,
            Released { unit: unit() },
        ),
        Vector::cbor(
            "attach",
            "Asks for what there is of a unit, from its first response on.",
            FrameType::Attach,
            Attach {
                unit: unit(),
                responses: 0,
                bytes: None,
                follow: false,
            },
        ),
        Vector::cbor(
            "attach-follow",
            "Asks for what comes after a position, to the unit's end.",
            FrameType::Attach,
            Attach {
                unit: unit(),
                responses: position.responses,
                bytes: Some(position.bytes),
                follow: true,
            },
        ),
        Vector::cbor(
            "unfinished",
            "All there is was sent, and the unit has not ended.",
            FrameType::Unfinished,
            Unfinished {
                state: "waiting".into(),
                reason: "no route to node-c".into(),
            },
        ),
        Vector::cbor(
            "batch",
            "Several units follow, the first of them as number 1; meanwhile the executor is to forget another one.",
            FrameType::Batch,
            Batch {
                releases: vec![Release {
                    unit: unit(),
                    number: 2,
                    outcome: Outcome::Succeeded,
                }],
            },
        ),
        Vector::cbor(
            "parcel",
            "A unit of a batch, with its payload.",
            FrameType::Parcel,
            Parcel {
                unit: unit(),
                offer,
                directive: "text:upper".into(),
                params: [("lang".into(), "de".into())].into(),
                deadline_ms: Some(60_000),
                trace: None,
                idempotent: true,
                payload: Bytes::from_static(b"hello"),
            },
        ),
        Vector::cbor(
            "over",
            "The end of a unit of a batch.",
            FrameType::Over,
            Over(Eof {
                responses: 1,
                bytes: 5,
                digest: 0x9555_e855_5c62_dcfd,
                duration_ms: 2,
                ..Eof::without_responses(Kind::Ok, "")
            }),
        ),
        Vector::cbor(
            "released-units",
            "The executor has forgotten what the head of a batch has named.",
            FrameType::ReleasedUnits,
            ReleasedUnits(vec![unit()]),
        ),
    ]
}

/// The unit of all vectors.
pub(crate) fn unit() -> UnitId {
    UnitId(Uuid::from_u128(0x0199_c6f1_5c00_7abc_8def_0123_4567_89ab))
}
