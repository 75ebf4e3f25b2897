//! Vectors of the unit frames.

use bytes::{Bytes, BytesMut};
use uuid::Uuid;
use workmesh_proto::UnitId;
use workmesh_proto::unit::ResponseTally;
use workmesh_proto::wire::frame::{Frame, FrameType, LAST_PIECE, encode_response_prefix};
use workmesh_proto::wire::items::{Item, ItemReader, Piece};
use workmesh_proto::wire::unit::{Accepted, Cancel, Eof, Kind, Outcome, Refused, Submit};

use super::file::Vector;
use crate::id;

pub(crate) fn vectors() -> Vec<Vector> {
    let mut tally = ResponseTally::new();
    tally.add(b"HEL", false);
    tally.add(b"LO", true);
    vec![
        Vector::cbor(
            "submit",
            "The least that a submission holds.",
            FrameType::Submit,
            Submit {
                to: None,
                payload_bytes: None,
                params: [].into(),
                deadline_ms: None,
                trace: None,
                durable: false,
                detach: false,
                idempotent: false,
                offer: None,
                ..full()
            },
        ),
        Vector::cbor(
            "submit-full",
            "A submission with every key.",
            FrameType::Submit,
            full(),
        ),
        Vector::raw(
            "payload",
            "Payload bytes, as they are.",
            Frame::new(FrameType::Payload, 0, Bytes::from_static(b"hello")),
        ),
        Vector::raw(
            "payload-end",
            "The payload is complete.",
            Frame::new(FrameType::PayloadEnd, 0, Bytes::new()),
        ),
        Vector::cbor(
            "accepted",
            "node-c takes the unit.",
            FrameType::Accepted,
            Accepted {
                executor: id("node-c"),
            },
        ),
        Vector::cbor(
            "refused",
            "The unit was not taken.",
            FrameType::Refused,
            Refused {
                kind: Kind::Busy,
                message: "pool and queue are full; try again later".into(),
            },
        ),
        response(
            "response",
            "Response 1 begins: serial, then bytes.",
            1,
            b"HEL",
            false,
        ),
        response("response-last", "Response 1 ends, by the flag.", 1, b"LO", true),
        Vector::cbor(
            "eof",
            "The end of a unit whose only response was \"HELLO\".",
            FrameType::Eof,
            Eof {
                outcome: Outcome::Succeeded,
                kind: Kind::Ok,
                message: String::new(),
                responses: tally.responses(),
                bytes: tally.bytes(),
                digest: tally.digest(),
                duration_ms: 12,
            },
        ),
        Vector::cbor(
            "eof-failed",
            "The end of a unit without responses: the digest is XXH3-64 of nothing.",
            FrameType::Eof,
            Eof::without_responses(Kind::Panic, "panicked: index out of bounds"),
        ),
        Vector::cbor(
            "cancel",
            "Stops a unit.",
            FrameType::Cancel,
            Cancel { unit: full().unit },
        ),
    ]
}

fn full() -> Submit {
    Submit {
        unit: UnitId(Uuid::from_u128(0x0199_c6f1_5c00_7abc_8def_0123_4567_89ab)),
        directive: "text:upper".into(),
        to: Some(id("node-c")),
        payload_bytes: Some(5),
        params: [("lang".to_owned(), "en".to_owned())].into(),
        deadline_ms: Some(30_000),
        trace: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        durable: false,
        detach: false,
        idempotent: false,
        offer: None,
    }
}

fn response(
    name: &'static str,
    meaning: &'static str,
    serial: u64,
    data: &'static [u8],
    last: bool,
) -> Vector {
    let mut bytes = BytesMut::new();
    encode_response_prefix(0, serial, last, data.len(), &mut bytes);
    bytes.extend_from_slice(data);
    Vector::new(name, meaning, &[1, 1, 4, 4, 8], bytes.freeze(), move |bytes| {
        assert_eq!(bytes[1], if last { LAST_PIECE } else { 0 });
        let mut reader = ItemReader::new();
        reader.feed(Bytes::copy_from_slice(bytes));
        let data = Bytes::from_static(data);
        let piece = Piece { serial, data, last };
        assert_eq!(reader.next_item(), Ok(Some(Item::Response { unit: 0, piece })));
    })
}
