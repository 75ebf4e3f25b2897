//! Durable units, over one connection and over several.

use super::*;
use crate::id::UnitId;
use crate::wire::durable::{Attach, Started, Stored, Unfinished};

#[test]
fn durable_unit_is_stored_first_and_taken_as_often_as_it_takes() {
    for early in [accept(), started(), response(1, "x", true), end_of(&[], Kind::Ok)] {
        let kind = early.frame_type().unwrap();
        let fault = OriginUnit::durable().handle_frame(early);
        assert_eq!(fault, Err(UnitFault::Unexpected(kind)));
    }
    let mut durable = stored();
    for frame in [
        accept(),
        accept(),
        started(),
        response(1, "a", false),
        accept(),
        started(),
    ] {
        assert!(matches!(durable.handle_frame(frame), Ok(Some(_))));
    }
    durable.handle_frame(response(1, "b", true)).unwrap();
    durable.handle_frame(end_of(&[("ab", true)], Kind::Ok)).unwrap();
    assert!(durable.ended());
    assert_eq!(durable.handle_frame(accept()), Err(UnitFault::AfterEnd));
}

#[test]
fn durable_unit_is_stored_once_and_not_refused_after_that() {
    for (frame, kind) in [
        (store(), FrameType::Stored),
        (refuse(), FrameType::Refused),
        (unfinished(), FrameType::Unfinished),
    ] {
        assert_eq!(stored().handle_frame(frame), Err(UnitFault::Unexpected(kind)));
    }
    let mut refused = OriginUnit::durable();
    assert!(matches!(
        refused.handle_frame(refuse()),
        Ok(Some(OriginEvent::Refused(_)))
    ));
    assert!(refused.ended());
}

#[test]
fn frames_of_durable_units_are_faults_in_a_plain_one() {
    for (frame, kind) in [
        (store(), FrameType::Stored),
        (started(), FrameType::Started),
        (unfinished(), FrameType::Unfinished),
    ] {
        let fault = Err(UnitFault::Unexpected(kind));
        assert_eq!(OriginUnit::new().handle_frame(frame.clone()), fault);
        assert_eq!(accepted().handle_frame(frame), fault);
    }
}

#[test]
fn broken_connection_is_no_end_of_a_stored_unit() {
    let mut durable = stored();
    assert!(durable.is_resumable());
    assert_eq!(durable.handle_stream_end(), None);
    assert!(!durable.ended());

    assert!(!OriginUnit::durable().is_resumable());
    assert!(!accepted().is_resumable());
    let mut broken = stored();
    broken.handle_frame(store()).unwrap_err();
    assert!(!broken.is_resumable());
    broken.resume(id());
    assert_eq!(broken.handle_frame(accept()), Err(UnitFault::AfterEnd));
}

#[test]
fn resumed_unit_goes_on_within_a_response() {
    let mut durable = stored();
    durable.handle_frame(response(1, "one", true)).unwrap();
    durable.handle_frame(response(2, "tw", false)).unwrap();
    let attach = durable.resume(id());
    let expected = Attach {
        unit: id(),
        responses: 1,
        bytes: Some(5),
        follow: true,
    };
    assert_eq!(attach, expected);
    for frame in [store(), accept(), started(), response(2, "o", true)] {
        durable.handle_frame(frame).unwrap();
    }
    let end = end_of(&[("one", true), ("two", true)], Kind::Ok);
    assert!(matches!(durable.handle_frame(end), Ok(Some(OriginEvent::Eof(_)))));
}

#[test]
fn client_that_attaches_needs_no_word_of_the_past() {
    let end = || end_of(&[("one", true), ("two", true)], Kind::Ok);
    let from_second = |first: Frame| {
        let mut attached = OriginUnit::attached(&attach(1, None, true));
        attached.handle_frame(first).unwrap();
        attached
    };
    let mut attached = from_second(response(2, "two", true));
    assert!(matches!(
        attached.handle_frame(end()),
        Ok(Some(OriginEvent::Eof(_)))
    ));
    let mut attached = from_second(store());
    assert!(attached.handle_frame(end()).is_err(), "a response is missing");
    let mut refused = OriginUnit::attached(&attach(0, None, true));
    assert!(matches!(
        refused.handle_frame(refuse()),
        Ok(Some(OriginEvent::Refused(_)))
    ));
}

#[test]
fn success_is_compared_with_what_was_seen() {
    let all = [("one", true), ("two", true)];
    let arrive = |attach: Attach, seen: &[(u64, &str)], end: Frame| {
        let mut attached = OriginUnit::attached(&attach);
        for (serial, data) in seen {
            attached.handle_frame(response(*serial, data, true)).unwrap();
        }
        attached.handle_frame(end).is_ok()
    };
    let first = attach(0, None, true);
    assert!(arrive(
        first.clone(),
        &[(1, "one"), (2, "two")],
        end_of(&all, Kind::Ok)
    ));
    assert!(!arrive(
        first.clone(),
        &[(1, "one"), (2, "owt")],
        end_of(&all, Kind::Ok)
    ));
    assert!(!arrive(first.clone(), &[(1, "one")], end_of(&all, Kind::Ok)));
    let exact = attach(1, Some(3), true);
    assert!(arrive(exact.clone(), &[(2, "two")], end_of(&all, Kind::Ok)));
    assert!(!arrive(exact, &[(2, "tw")], end_of(&all, Kind::Ok)));
    let from = attach(1, None, true);
    assert!(arrive(from.clone(), &[(2, "tw")], end_of(&all, Kind::Ok)));
    assert!(!arrive(from.clone(), &[], end_of(&all, Kind::Ok)));
    assert!(!arrive(from, &[(2, "two"), (3, "")], end_of(&all, Kind::Ok)));
    let behind = attach(4, None, true);
    assert!(
        arrive(behind.clone(), &[], end_of(&all, Kind::Ok)),
        "none is left"
    );
    assert!(!arrive(behind, &[(5, "")], end_of(&all, Kind::Ok)));
    assert!(!arrive(attach(4, Some(6), true), &[], end_of(&all, Kind::Ok)));
    // What did not succeed may have left less than was seen.
    assert!(arrive(
        first,
        &[(1, "one"), (2, "two")],
        end_of(&all[..1], Kind::NodeLost)
    ));
    let mut durable = stored();
    assert!(durable.handle_frame(end_of(&all, Kind::NodeLost)).is_err());
}

#[test]
fn answer_without_following_may_say_that_there_is_no_end() {
    let mut attached = OriginUnit::attached(&attach(0, None, false));
    attached.handle_frame(response(1, "x", false)).unwrap();
    assert!(matches!(
        attached.handle_frame(unfinished()),
        Ok(Some(OriginEvent::Unfinished(_)))
    ));
    assert!(attached.ended());
    let mut follows = OriginUnit::attached(&attach(0, None, true));
    assert_eq!(
        follows.handle_frame(unfinished()),
        Err(UnitFault::Unexpected(FrameType::Unfinished))
    );
}

#[test]
fn response_of_unknown_place_is_passed_over_up_to_where_it_broke() {
    let mut attached = OriginUnit::attached(&attach(4, None, true));
    attached.handle_frame(response(5, "abc", false)).unwrap();
    assert_eq!(attached.resume(id()), attach(4, None, true));
    assert_eq!(attached.handle_frame(response(5, "ab", false)), Ok(None));
    let piece = Piece {
        serial: 5,
        data: "d".into(),
        last: true,
    };
    assert_eq!(
        attached.handle_frame(response(5, "cd", true)),
        Ok(Some(OriginEvent::Piece(piece)))
    );

    let mut shorter = OriginUnit::attached(&attach(4, None, true));
    shorter.handle_frame(response(5, "abc", false)).unwrap();
    shorter.resume(id());
    let fault = shorter.handle_frame(response(5, "ab", true));
    assert_eq!(fault, Err(UnitFault::Shorter(5)));
}

#[test]
fn position_at_the_end_of_all_numbers_is_refused_and_does_not_overflow() {
    let mut attached = OriginUnit::attached(&attach(u64::MAX, Some(u64::MAX), true));
    attached.handle_frame(response(u64::MAX, "x", true)).unwrap();
    assert_eq!(attached.position().bytes, u64::MAX);
}

proptest! {
    #[test]
    fn durable_unit_arrives_whole_however_often_its_connection_breaks(
        pieces in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..40), any::<bool>()), 0..20),
        from in 0..4u64,
        breaks in prop::collection::vec(0..300usize, 0..8),
    ) {
        let (all, eof) = responses(&pieces);
        let from = from.min(all.len() as u64);
        let mut unit = OriginUnit::attached(&attach(from, None, true));
        let mut seen: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut ask = attach(from, None, true);
        let mut ended = false;
        for length in breaks.into_iter().chain([usize::MAX]) {
            let mut bytes = rest(&all, &ask, &eof);
            bytes.truncate(length);
            let mut reader = ItemReader::new();
            reader.feed(bytes.freeze());
            while let Some(item) = reader.next_item()? {
                match unit.handle_item(item)? {
                    Some(OriginEvent::Piece(piece)) => match seen.last_mut() {
                        Some((serial, data)) if *serial == piece.serial => data.extend_from_slice(&piece.data),
                        _ => seen.push((piece.serial, piece.data.to_vec())),
                    },
                    Some(OriginEvent::Eof(end)) => {
                        prop_assert_eq!(&end, &eof);
                        ended = true;
                    }
                    _ => {}
                }
            }
            if ended {
                break;
            }
            ask = unit.resume(id());
        }
        prop_assert!(ended);
        let expected: Vec<(u64, Vec<u8>)> = (1..).zip(all).skip(from as usize).collect();
        prop_assert_eq!(seen, expected);
    }
}

/// The responses that these pieces make, and the end after them.
fn responses(pieces: &[(Vec<u8>, bool)]) -> (Vec<Vec<u8>>, Eof) {
    let (_, eof) = conversation(pieces);
    let (mut all, mut open) = (Vec::new(), Vec::new());
    for (index, (data, last)) in pieces.iter().enumerate() {
        open.extend_from_slice(data);
        if *last || index + 1 == pieces.len() {
            all.push(std::mem::take(&mut open));
        }
    }
    (all, eof)
}

/// What an origin sends that has all of these responses and the end.
fn rest(all: &[Vec<u8>], attach: &Attach, eof: &Eof) -> BytesMut {
    let before: u64 = all[..attach.responses as usize]
        .iter()
        .map(|r| r.len() as u64)
        .sum();
    let mut skip = attach.bytes.map_or(0, |bytes| (bytes - before) as usize);
    let mut out = encoded(&store());
    out.extend_from_slice(&encoded(&accept()));
    for (serial, data) in (1..).zip(all).skip(attach.responses as usize) {
        let data = &data[std::mem::take(&mut skip)..];
        encode_response_prefix(0, serial, true, data.len(), &mut out);
        out.extend_from_slice(data);
    }
    Frame::cbor(FrameType::Eof, 0, eof).encode(&mut out);
    out
}

fn id() -> UnitId {
    UnitId(uuid::Uuid::from_u128(7))
}

fn attach(responses: u64, bytes: Option<u64>, follow: bool) -> Attach {
    Attach {
        unit: id(),
        responses,
        bytes,
        follow,
    }
}

fn store() -> Frame {
    Frame::cbor(FrameType::Stored, 0, &Stored { unit: id() })
}

fn started() -> Frame {
    Frame::cbor(FrameType::Started, 0, &Started {})
}

fn unfinished() -> Frame {
    let unfinished = Unfinished {
        state: "running".into(),
        reason: String::new(),
    };
    Frame::cbor(FrameType::Unfinished, 0, &unfinished)
}

fn refuse() -> Frame {
    let refused = Refused {
        kind: Kind::NoSuchUnit,
        message: String::new(),
    };
    Frame::cbor(FrameType::Refused, 0, &refused)
}

fn end_of(pieces: &[(&str, bool)], kind: Kind) -> Frame {
    Frame::cbor(FrameType::Eof, 0, &eof_after(pieces, kind))
}

fn stored() -> OriginUnit {
    let mut unit = OriginUnit::durable();
    unit.handle_frame(store()).unwrap();
    unit
}
