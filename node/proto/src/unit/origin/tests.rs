//! The submitter's end of a unit, by calls.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::id::NodeId;
use crate::unit::ExecutorUnit;
use crate::wire::frame::{FrameReader, encode_response_prefix};
use crate::wire::items::ItemReader;
use crate::wire::unit::{Cancel, MAX_MESSAGE_BYTES};

mod durable;

#[test]
fn unit_is_accepted_answered_and_ended() {
    let mut unit = accepted();
    let piece = Piece {
        serial: 1,
        data: "x".into(),
        last: true,
    };
    assert_eq!(
        unit.handle_frame(response(1, "x", true)),
        Ok(Some(OriginEvent::Piece(piece)))
    );
    let eof = eof_after(&[("x", true)], Kind::Ok);
    assert!(!unit.ended());
    assert_eq!(
        unit.handle_frame(Frame::cbor(FrameType::Eof, 0, &eof)),
        Ok(Some(OriginEvent::Eof(eof)))
    );
    assert!(unit.ended());
    assert_eq!(unit.handle_stream_end(), None);
}

#[test]
fn refusal_is_the_end_of_the_conversation() {
    let mut unit = OriginUnit::new();
    let refused = Refused {
        kind: Kind::Busy,
        message: "m".repeat(MAX_MESSAGE_BYTES + 1),
    };
    let Ok(Some(OriginEvent::Refused(seen))) =
        unit.handle_frame(Frame::cbor(FrameType::Refused, 0, &refused))
    else {
        panic!("the refusal was not seen");
    };
    assert_eq!((seen.kind, seen.message.len()), (Kind::Busy, MAX_MESSAGE_BYTES));
    assert!(unit.ended());
    assert_eq!(unit.handle_stream_end(), None);
    assert_eq!(unit.handle_frame(accept()), Err(UnitFault::AfterEnd));
}

#[test]
fn nothing_comes_before_the_answer() {
    let eof = Frame::cbor(FrameType::Eof, 0, &eof_after(&[], Kind::Ok));
    for (early, kind) in [
        (response(1, "x", true), FrameType::Response),
        (eof, FrameType::Eof),
    ] {
        let mut unit = OriginUnit::new();
        assert_eq!(unit.handle_frame(early), Err(UnitFault::Unexpected(kind)));
        assert_eq!(unit.handle_stream_end().map(|e| e.kind), Some(Kind::Protocol));
    }
}

#[test]
fn answer_comes_once() {
    let refused = Refused {
        kind: Kind::Busy,
        message: String::new(),
    };
    let refused = Frame::cbor(FrameType::Refused, 0, &refused);
    for (again, kind) in [(accept(), FrameType::Accepted), (refused, FrameType::Refused)] {
        assert_eq!(accepted().handle_frame(again), Err(UnitFault::Unexpected(kind)));
    }
}

#[test]
fn frames_that_only_a_submitter_sends_are_faults() {
    let cancel = Cancel {
        unit: UnitId(uuid::Uuid::nil()),
    };
    let cancel = Frame::cbor(FrameType::Cancel, 0, &cancel);
    assert_eq!(
        accepted().handle_frame(cancel),
        Err(UnitFault::Unexpected(FrameType::Cancel))
    );
    let payload = Item::Payload {
        unit: 0,
        data: Bytes::new(),
    };
    assert_eq!(
        accepted().handle_item(payload),
        Err(UnitFault::Unexpected(FrameType::Payload))
    );
}

#[test]
fn unknown_frame_types_are_skipped_at_any_point() {
    let unknown = || Frame {
        kind: 0x7f,
        flags: 0xff,
        unit: 9,
        body: "newer".into(),
    };
    let mut unit = OriginUnit::new();
    assert_eq!(unit.handle_frame(unknown()), Ok(None));
    unit.handle_frame(accept()).unwrap();
    assert_eq!(unit.handle_frame(unknown()), Ok(None));
    unit.end(Kind::Cancelled, "");
    assert_eq!(unit.handle_frame(unknown()), Ok(None));
}

#[test]
fn serials_rise_by_one_and_pieces_stay_together() {
    type Case<'a> = (&'a [(u64, bool)], Option<(u64, u64)>);
    let cases: [Case<'_>; 7] = [
        (&[(1, true), (2, false), (2, false), (2, true), (3, true)], None),
        (&[(0, true)], Some((1, 0))),
        (&[(2, true)], Some((1, 2))),
        (&[(1, true), (1, true)], Some((2, 1))),
        (&[(1, true), (3, true)], Some((2, 3))),
        (&[(1, false), (2, true)], Some((1, 2))),
        (&[(1, true), (u64::MAX, true)], Some((2, u64::MAX))),
    ];
    for (pieces, fault) in cases {
        let mut unit = accepted();
        let result = pieces
            .iter()
            .try_for_each(|(serial, last)| unit.handle_frame(response(*serial, "x", *last)).map(drop));
        let expected = fault.map(|(expected, found)| UnitFault::Serial { expected, found });
        assert_eq!(result.err(), expected, "{pieces:?}");
    }
}

#[test]
fn end_that_does_not_match_what_arrived_is_a_fault() {
    let good = eof_after(&[("x", true)], Kind::Ok);
    let wrong = [
        Eof {
            responses: 2,
            ..good.clone()
        },
        Eof {
            bytes: 0,
            ..good.clone()
        },
        Eof {
            digest: good.digest ^ 1,
            ..good.clone()
        },
    ];
    for eof in wrong {
        let mut unit = accepted();
        unit.handle_frame(response(1, "x", true)).unwrap();
        let fault = unit
            .handle_frame(Frame::cbor(FrameType::Eof, 0, &eof))
            .unwrap_err();
        assert!(matches!(fault, UnitFault::Mismatch { .. }));
        let again = unit.handle_frame(Frame::cbor(FrameType::Eof, 0, &good));
        assert_eq!(again, Err(UnitFault::AfterEnd));
        let end = unit.end(fault.kind(), fault.to_string()).unwrap();
        assert_eq!(
            (end.outcome, end.kind, end.bytes),
            (Outcome::Failed, Kind::Protocol, 1)
        );
    }
}

#[test]
fn success_needs_complete_responses_and_failure_does_not() {
    let pieces = [("half", false)];
    for kind in [Kind::Ok, Kind::Panic] {
        let mut unit = accepted();
        unit.handle_frame(response(1, "half", false)).unwrap();
        let mut eof = eof_after(&pieces, Kind::Panic);
        (eof.kind, eof.outcome) = (kind, kind.outcome());
        let result = unit.handle_frame(Frame::cbor(FrameType::Eof, 0, &eof));
        let fault = (kind == Kind::Ok).then_some(UnitFault::OpenResponse(1));
        assert_eq!(result.err(), fault);
    }
}

#[test]
fn outcome_and_kind_must_agree_unless_the_kind_is_newer() {
    let end = |outcome, kind| {
        let eof = Eof {
            outcome,
            ..eof_after(&[], kind)
        };
        accepted().handle_frame(Frame::cbor(FrameType::Eof, 0, &eof))
    };
    let (outcome, kind) = (Outcome::Succeeded, Kind::Panic);
    assert_eq!(
        end(outcome, kind),
        Err(UnitFault::Contradiction { outcome, kind })
    );
    assert!(end(Outcome::Failed, Kind::Ok).is_err());
    assert!(end(Outcome::Failed, Kind::Panic).is_ok());
    assert!(end(Outcome::Expired, Kind::Unknown).is_ok());
}

#[test]
fn stream_that_ends_without_an_end_is_a_lost_unit() {
    let mut unit = accepted();
    unit.handle_frame(response(1, "x", true)).unwrap();
    let end = unit.handle_stream_end().unwrap();
    assert_eq!(
        (end.outcome, end.kind, end.responses),
        (Outcome::Lost, Kind::NodeLost, 1)
    );
    assert!(unit.ended());
    assert_eq!(unit.handle_stream_end(), None);
    assert_eq!(unit.end(Kind::Cancelled, ""), None);
    assert_eq!(
        OriginUnit::new().handle_stream_end().map(|e| e.kind),
        Some(Kind::NodeLost)
    );
}

#[test]
fn bodies_that_can_not_be_read_are_faults() {
    for kind in [FrameType::Accepted, FrameType::Refused] {
        let fault = OriginUnit::new().handle_frame(Frame::new(kind, 0, "\u{1}".into()));
        assert!(matches!(fault, Err(UnitFault::Body { .. })), "{fault:?}");
    }
    let fault = accepted().handle_frame(Frame::new(FrameType::Eof, 0, Bytes::new()));
    assert!(matches!(fault, Err(UnitFault::Body { .. })), "{fault:?}");
    let fault = accepted().handle_frame(Frame::new(FrameType::Response, 0, "1234567".into()));
    assert_eq!(fault, Err(UnitFault::Frame(FrameError::NoSerial { length: 7 })));
}

proptest! {
    #[test]
    fn what_the_executor_sends_arrives_however_it_is_cut(
        pieces in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..400), any::<bool>()), 0..20),
        cut in 1..2000usize,
    ) {
        let (bytes, eof) = conversation(&pieces);
        let sent: Vec<u8> = pieces.iter().flat_map(|(data, _)| data.clone()).collect();

        let (mut reader, mut unit, mut data) = (ItemReader::new(), OriginUnit::new(), Vec::new());
        let mut end = None;
        for at in (0..bytes.len()).step_by(cut) {
            reader.feed(bytes.slice(at..bytes.len().min(at + cut)));
            while let Some(item) = reader.next_item()? {
                match unit.handle_item(item)? {
                    Some(OriginEvent::Piece(piece)) => data.extend_from_slice(&piece.data),
                    Some(OriginEvent::Eof(eof)) => end = Some(eof),
                    Some(OriginEvent::Accepted(_)) => prop_assert!(data.is_empty()),
                    other => prop_assert!(false, "{:?}", other),
                }
            }
        }
        prop_assert_eq!(&data, &sent);
        prop_assert_eq!(end.as_ref(), Some(&eof));

        let (mut reader, mut unit) = (FrameReader::new(), OriginUnit::new());
        reader.feed(&bytes);
        while let Some(frame) = reader.next_frame()? {
            unit.handle_frame(frame)?;
        }
        prop_assert!(unit.ended());
    }

    #[test]
    fn conversation_with_a_wrong_byte_or_a_missing_tail_never_succeeds(
        pieces in prop::collection::vec((prop::collection::vec(any::<u8>(), 1..40), Just(true)), 1..5),
        at in any::<prop::sample::Index>(),
        missing in any::<bool>(),
    ) {
        let (bytes, _) = conversation(&pieces);
        let head = encoded(&accept()).len();
        let tail = bytes.len() - 1;
        let at = head + at.index(tail - head);
        let mut wrong = bytes.to_vec();
        if missing {
            wrong.truncate(at);
        } else {
            wrong[at] ^= 0x55;
        }
        let data: Vec<u8> = pieces.iter().flat_map(|(data, _)| data.clone()).collect();
        let (mut reader, mut unit, mut seen) = (ItemReader::new(), OriginUnit::new(), Vec::new());
        reader.feed(wrong.into());
        while let Ok(Some(item)) = reader.next_item() {
            match unit.handle_item(item) {
                Ok(Some(OriginEvent::Piece(piece))) => seen.extend_from_slice(&piece.data),
                Ok(Some(OriginEvent::Eof(_))) => prop_assert_eq!(&seen, &data),
                Ok(_) => {}
                Err(_) => break,
            }
        }
    }
}

fn encoded(frame: &Frame) -> BytesMut {
    let mut out = BytesMut::new();
    frame.encode(&mut out);
    out
}

/// All that an executor sends for these pieces; the last one ends its response.
fn conversation(pieces: &[(Vec<u8>, bool)]) -> (Bytes, Eof) {
    let now = Instant::now();
    let mut executor = ExecutorUnit::new(now);
    let mut out = encoded(&accept());
    for (index, (data, last)) in pieces.iter().enumerate() {
        let last = *last || index + 1 == pieces.len();
        let serial = executor.response_piece(data, last).unwrap();
        encode_response_prefix(0, serial, last, data.len(), &mut out);
        out.extend_from_slice(data);
    }
    let eof = executor.end(Kind::Ok, "", now).unwrap();
    Frame::cbor(FrameType::Eof, 0, &eof).encode(&mut out);
    (out.freeze(), eof)
}

fn accept() -> Frame {
    let executor = NodeId::parse("node-b").unwrap();
    Frame::cbor(FrameType::Accepted, 0, &Accepted { executor })
}

fn accepted() -> OriginUnit {
    let mut unit = OriginUnit::new();
    unit.handle_frame(accept()).unwrap();
    unit
}

fn response(serial: u64, data: &str, last: bool) -> Frame {
    let body = [&serial.to_be_bytes()[..], data.as_bytes()].concat();
    Frame {
        flags: if last { LAST_PIECE } else { 0 },
        ..Frame::new(FrameType::Response, 0, body.into())
    }
}

fn eof_after(pieces: &[(&str, bool)], kind: Kind) -> Eof {
    let now = Instant::now();
    let mut executor = ExecutorUnit::new(now);
    for (data, last) in pieces {
        executor.response_piece(data.as_bytes(), *last);
    }
    executor.end(kind, "", now).unwrap()
}
