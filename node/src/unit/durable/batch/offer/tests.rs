//! What an origin makes of a batch.

use std::collections::BTreeMap;

use workmesh_proto::Incarnation;
use workmesh_proto::unit::durable::{DurableOrigin, OriginTimings};
use workmesh_proto::wire::unit::{Accepted, Eof};

use super::*;
use crate::unit::durable::talk::Talk;
use crate::unit::placement::Outstanding;

fn order(payload_bytes: u64, parameter: usize) -> Order {
    Order {
        directive: "m:f".to_owned(),
        to: None,
        params: BTreeMap::from([("key".to_owned(), "x".repeat(parameter))]),
        payload_bytes,
        payload_digest: 0,
        submitted_ms: 1,
        deadline_ms: None,
        trace: None,
        idempotent: false,
    }
}

fn executor() -> NodeId {
    NodeId::parse("e").unwrap()
}

fn part() -> (Part, Talk) {
    let order = order(0, 0);
    let machine = DurableOrigin::submit(order.clone(), None, OriginTimings::default(), 1);
    let active = Active::new(UnitId(uuid::Uuid::now_v7()), &machine, 0, Vec::new());
    let line = Arc::<Line>::default();
    let placed = Arc::<Outstanding>::default().place(&executor());
    let part = Part {
        order: Arc::new(order),
        offer: Offer {
            number: 1,
            life: Incarnation(1),
        },
        payload: Bytes::new(),
        reply: Reply::new(Arc::new(active), line.clone(), 5),
    };
    (part, Talk::in_batch(5, line, placed))
}

fn piece(serial: u64, bytes: usize) -> Item {
    let data = Bytes::from(vec![0; bytes]);
    let piece = Piece {
        serial,
        data,
        last: true,
    };
    Item::Response { unit: 1, piece }
}

fn accepted() -> Item {
    let executor = executor();
    Item::Frame(Frame::cbor(FrameType::Accepted, 1, &Accepted { executor }))
}

fn eof() -> Eof {
    Eof::without_responses(Kind::Cancelled, "cancelled")
}

fn heard(talk: &Talk) -> Vec<OriginInput> {
    std::iter::from_fn(|| talk.next_ready()).collect()
}

#[test]
fn what_comes_meanwhile_goes_together_in_bounded_batches() {
    let batches = Batches::default();
    let mut talks = Vec::new();
    for at in 0..MAX_BATCH + 2 {
        let (part, talk) = part();
        let begins = batches.push(&executor(), part);
        assert_eq!(begins, at % MAX_BATCH == 0, "one offers each batch");
        talks.push(talk);
    }
    for expected in [MAX_BATCH, 2, 0] {
        assert_eq!(batches.take(&executor()).len(), expected);
    }
    assert!(batches.waiting.lock().is_empty(), "nothing stays of an executor");
    for talk in talks {
        assert!(
            matches!(heard(&talk)[..], [OriginInput::Broken(5, _)]),
            "it was given up"
        );
    }
}

#[test]
fn a_unit_hears_its_own_words_up_to_the_last() {
    let (mut part, talk) = part();
    let end = Item::Frame(Frame::cbor(FrameType::Over, 1, &Over(eof())));
    for item in [accepted(), piece(1, 3), end.clone(), end, piece(2, 3)] {
        part.reply.hear(item);
    }
    drop(part);
    let Item::Response { piece, .. } = piece(1, 3) else {
        unreachable!()
    };
    let expected = [
        OriginInput::Accepted(5),
        OriginInput::Piece(5, piece),
        OriginInput::Eof(5, eof()),
    ];
    assert_eq!(heard(&talk), expected);
}

#[test]
fn what_is_told_of_a_unit_says_that_it_is_accepted() {
    let end = Item::Frame(Frame::cbor(FrameType::Over, 1, &Over(eof())));
    for first in [piece(1, 3), end] {
        let (mut part, talk) = part();
        part.reply.hear(first.clone());
        part.reply.hear(accepted());
        let said = heard(&talk);
        assert_eq!(said[0], OriginInput::Accepted(5), "{first:?}");
        let accepted = |word: &&OriginInput| matches!(word, OriginInput::Accepted(_));
        assert_eq!(said.iter().filter(accepted).count(), 1, "{said:?}");
    }
}

#[test]
fn a_unit_that_is_not_over_is_asked_for() {
    let (mut part, talk) = part();
    part.reply.hear(accepted());
    part.reply
        .hear(Item::Frame(Frame::new(FrameType::Unfinished, 1, Bytes::new())));
    let said = heard(&talk);
    assert!(
        matches!(said[..], [OriginInput::Accepted(5), OriginInput::Broken(5, _)]),
        "{said:?}"
    );
}

#[test]
fn what_has_no_place_in_a_batch_ends_its_unit() {
    let frame = |kind| Item::Frame(Frame::new(kind, 1, Bytes::new()));
    let payload = Item::Payload {
        unit: 1,
        data: Bytes::new(),
    };
    let wrong = [
        frame(FrameType::Started),
        frame(FrameType::Submit),
        frame(FrameType::Over),
        Item::Frame(Frame::cbor(FrameType::Eof, 1, &eof())),
        payload,
    ];
    for item in wrong {
        let (mut part, talk) = part();
        part.reply.hear(item.clone());
        let said = heard(&talk);
        assert!(
            matches!(said[..], [OriginInput::Fault(5, Kind::Protocol, _)]),
            "{item:?}: {said:?}"
        );
    }
}

#[test]
fn what_is_too_much_for_a_batch_is_asked_for() {
    for (count, bytes) in [(MAX_PIECES, 0), (1, MAX_BATCHED_RESPONSE_BYTES)] {
        let (mut part, talk) = part();
        for serial in 1..=count as u64 {
            part.reply.hear(piece(serial, bytes));
        }
        assert_eq!(heard(&talk).len(), 1 + count, "accepted, and all that may be");
        for _ in 0..9 {
            part.reply.hear(piece(1, 1));
        }
        assert!(matches!(heard(&talk)[..], [OriginInput::Broken(5, _)]));
    }
}

#[test]
fn a_second_acceptance_is_a_fault_and_nothing_follows() {
    let (mut part, talk) = part();
    for _ in 0..9 {
        part.reply.hear(accepted());
    }
    let said = heard(&talk);
    assert!(
        matches!(
            said[..],
            [OriginInput::Accepted(5), OriginInput::Fault(5, Kind::Protocol, _)]
        ),
        "{said:?}"
    );
}

#[test]
fn a_unit_that_has_turned_away_is_neither_offered_nor_told() {
    let (mut part, talk) = part();
    assert!(part.reply.is_wanted());
    drop(talk);
    assert!(!part.reply.is_wanted());
    for serial in 1..9 {
        part.reply.hear(piece(serial, 1));
    }
    assert!(part.reply.line.next().is_none());
}

#[tokio::test]
async fn only_units_that_still_want_it_are_offered_once_the_executor_is_reached() {
    let ((stays, _stays), (turns, turning)) = (part(), part());
    let unit = stays.reply.active.unit;
    let reach = async {
        drop(turning);
        Ok("reached")
    };
    let (reached, batch) = reach_for(vec![turns, stays], reach).await.unwrap();
    let units: Vec<_> = batch.iter().map(|part| part.reply.active.unit).collect();
    assert_eq!((reached, units), ("reached", vec![unit]));

    let (turns, turning) = part();
    let reach = async {
        drop(turning);
        Ok(())
    };
    assert!(reach_for(vec![turns], reach).await.is_none());

    let (turned, turning) = part();
    drop(turning);
    let reach = async { panic!("nobody wants to reach it") };
    assert!(reach_for::<()>(vec![turned], reach).await.is_none());
}

#[tokio::test]
async fn units_hear_that_their_executor_is_unreachable() {
    let (part, talk) = part();
    let reach = async { Err("no route".to_owned()) };
    assert!(reach_for::<()>(vec![part], reach).await.is_none());
    let said = heard(&talk);
    assert!(
        matches!(&said[..], [OriginInput::Unreachable(5, why)] if why == "no route"),
        "{said:?}"
    );
}

#[test]
fn only_small_units_go_together() {
    assert!(is_small(&order(3000, 0)) && is_small(&order(0, 3000)));
    assert!(!is_small(&order(4000, 0)) && !is_small(&order(0, 4000)));
    assert!(!is_small(&order(u64::MAX, 0)));
}

#[test]
fn what_counts_as_small_fits() {
    let mut largest = order(0, 0);
    largest.directive = "m:".to_owned() + &"f".repeat(254);
    largest.trace = Some("t".repeat(128));
    largest.deadline_ms = Some(u64::MAX);
    largest.params = (0..64).map(|at| (at.to_string(), "v".repeat(30))).collect();
    assert!(is_small(&largest));
    while is_small(&largest) {
        largest.payload_bytes += 1;
    }
    let offer = Offer {
        number: u32::MAX,
        life: Incarnation(u64::MAX),
    };
    let payload = Bytes::from(vec![0; largest.payload_bytes as usize]);
    let part = largest.parcel(UnitId(uuid::Uuid::max()), offer, 0, payload);
    let body = Frame::cbor(FrameType::Parcel, 1, &part).body.len();
    assert!(body <= MAX_BATCHED_BYTES, "{body}");
}

#[tokio::test]
async fn what_is_released_along_is_heard_of_beside_the_units() {
    let unit = UnitId(uuid::Uuid::now_v7());
    let words = |count| {
        let units = ReleasedUnits(vec![unit; count]);
        Item::Frame(Frame::cbor(FrameType::ReleasedUnits, 0, &units))
    };
    let (mut released, (part, talk)) = (Vec::new(), part());
    let mut receiver = PipeReceiver::of(VecDeque::from([words(2), piece(1, 3)]));
    hear(&mut receiver, &mut [part.reply], &mut released)
        .await
        .unwrap();
    assert_eq!(released, [unit; 2]);
    assert!(matches!(
        heard(&talk)[..2],
        [OriginInput::Accepted(5), OriginInput::Piece(5, _)]
    ));
    let all = VecDeque::from([words(1), words(MAX_RELEASES - 1)]);
    let mut receiver = PipeReceiver::of(all.clone());
    hear(&mut receiver, &mut [], &mut Vec::new()).await.unwrap();
    let too_many = all.into_iter().chain([words(1)]).collect();
    let broken = Item::Frame(Frame::new(FrameType::ReleasedUnits, 0, Bytes::new()));
    for (items, why) in [(too_many, "too much"), (VecDeque::from([broken]), "malformed")] {
        let mut receiver = PipeReceiver::of(items);
        let mut released = Vec::new();
        let error = hear(&mut receiver, &mut [], &mut released).await.unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        assert!(released.len() <= MAX_RELEASES);
    }
}

#[tokio::test]
async fn a_number_that_the_batch_does_not_have_breaks_it_off() {
    for number in [0, 2, u32::MAX] {
        let item = Item::Payload {
            unit: number,
            data: Bytes::new(),
        };
        // A frame of a later version is nobody's.
        let newer = Frame {
            kind: 0xff,
            ..Frame::new(FrameType::Batch, number, Bytes::new())
        };
        let mut receiver = PipeReceiver::of(VecDeque::from([Item::Frame(newer), item]));
        let (part, _talk) = part();
        let error = hear(&mut receiver, &mut [part.reply], &mut Vec::new())
            .await
            .unwrap_err();
        assert!(error.to_string().contains("in a batch of 1"), "{error}");
    }
}
