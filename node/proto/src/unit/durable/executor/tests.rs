//! A durable unit at its executor: what it keeps, and which end it has.

use super::*;
use crate::id::Incarnation;

const OFFER: Offer = Offer {
    number: 1,
    life: Incarnation(7),
};

fn effects(unit: &mut DurableExecutor) -> Vec<ExecutorEffect> {
    std::iter::from_fn(|| unit.poll_effect()).collect()
}

fn taken() -> (DurableExecutor, Vec<ExecutorRecord>) {
    let mut unit = DurableExecutor::offered(NodeId::parse("O").unwrap(), OFFER);
    unit.take("echo:bytes", 1);
    let records = match &effects(&mut unit)[..] {
        [
            ExecutorEffect::Run,
            ExecutorEffect::Append { records, .. },
            ExecutorEffect::Accept,
        ] => records.clone(),
        other => panic!("{other:?}"),
    };
    (unit, records)
}

fn tally(pieces: &[&[u8]]) -> ResponseTally {
    let mut tally = ResponseTally::new();
    for data in pieces {
        tally.add(data, true);
    }
    tally
}

/// Carries out appends, and answers with what they add up to.
fn append(unit: &mut DurableExecutor, records: &mut Vec<ExecutorRecord>) -> usize {
    let mut bytes = 0;
    for effect in effects(unit) {
        if let ExecutorEffect::Append { records: new, data } = effect {
            records.extend(new);
            bytes += data.len();
        }
    }
    bytes
}

#[test]
fn a_unit_is_on_the_disk_before_it_is_accepted() {
    let (unit, records) = taken();
    assert_eq!(unit.phase(), ExecutorPhase::Taken);
    assert!(matches!(
        records[..],
        [ExecutorRecord::Taken { offer: OFFER, .. }]
    ));
}

#[test]
fn a_unit_that_is_over_before_the_journal_was_asked_is_one_append() {
    let mut unit = DurableExecutor::offered(NodeId::parse("O").unwrap(), OFFER);
    unit.take("echo:bytes", 1);
    assert_eq!(unit.poll_effect(), Some(ExecutorEffect::Run));
    unit.handle_started();
    unit.handle_piece(b"ab", true);
    unit.handle_end(Eof::without_responses(Kind::Ok, ""), 2);
    let shown: usize = unit.unasked().map(Bytes::len).sum();
    let Some(ExecutorEffect::Append { records, data }) = unit.poll_effect() else {
        panic!("nothing is kept");
    };
    assert!(matches!(
        records[..],
        [
            ExecutorRecord::Taken { .. },
            ExecutorRecord::Started {},
            ExecutorRecord::Ended { .. }
        ]
    ));
    assert_eq!(shown, data.len());
    assert_eq!(unit.unasked().count(), 0);
    assert_eq!(effects(&mut unit), [ExecutorEffect::Accept]);
}

#[test]
fn a_unit_that_fails_before_the_journal_was_asked_is_kept_from_its_beginning_on() {
    let mut unit = DurableExecutor::offered(NodeId::parse("O").unwrap(), OFFER);
    unit.take("echo:bytes", 1);
    unit.handle_started();
    unit.handle_piece(b"ab", true);
    unit.flush();
    assert!(unit.fail("the disk is broken", tally(&[]), 5));
    let mut records = Vec::new();
    append(&mut unit, &mut records);
    assert!(matches!(
        records[..],
        [
            ExecutorRecord::Taken { .. },
            ExecutorRecord::Started {},
            ExecutorRecord::Ended { .. }
        ]
    ));
}

#[test]
fn nothing_runs_before_it_is_taken_or_after_it_is_over() {
    let mut unit = DurableExecutor::offered(NodeId::parse("O").unwrap(), OFFER);
    assert!(!unit.handle_started());
    let (mut unit, _) = taken();
    assert!(unit.give_back("shuts down", 2));
    assert!(!unit.handle_started());
    assert_eq!(unit.returned(), Some("shuts down"));
    let (mut unit, _) = taken();
    unit.handle_end(Eof::without_responses(Kind::Cancelled, ""), 2);
    assert!(!unit.handle_started());
    let (mut unit, _) = taken();
    assert!(unit.handle_started());
    assert!(!unit.give_back("shuts down", 2));
}

#[test]
fn an_end_counts_what_was_sent_and_nothing_follows_it() {
    let (mut unit, mut records) = taken();
    unit.handle_started();
    unit.handle_piece(b"ab", true);
    unit.handle_piece(b"", true);
    unit.handle_end(Eof::without_responses(Kind::Ok, ""), 2);
    assert!(append(&mut unit, &mut records) > 0);
    let eof = unit.end_of().unwrap().clone();
    assert_eq!(
        (eof.responses, eof.bytes, eof.digest),
        (2, 2, tally(&[b"ab", b""]).digest())
    );
    unit.handle_piece(b"late", true);
    unit.flush();
    unit.handle_end(Eof::without_responses(Kind::Panic, ""), 3);
    assert_eq!((effects(&mut unit), unit.end_of()), (vec![], Some(&eof)));
}

#[test]
fn what_nobody_wants_any_more_keeps_nothing_more() {
    let (mut unit, _) = taken();
    unit.handle_started();
    assert!(!unit.handle_release(0));
    effects(&mut unit);
    assert!(unit.handle_release(1) && unit.handle_release(1));
    assert_eq!(effects(&mut unit), [ExecutorEffect::Stop, ExecutorEffect::Forget]);
    unit.handle_piece(b"late", true);
    unit.flush();
    unit.handle_end(Eof::without_responses(Kind::Ok, ""), 3);
    assert!(!unit.handle_started() && !unit.give_back("late", 3));
    assert_eq!(effects(&mut unit), []);
}

#[test]
fn what_was_to_be_kept_is_not_once_nobody_wants_it() {
    let (mut unit, _) = taken();
    unit.handle_started();
    let Some(ExecutorEffect::Append { records, data }) = unit.poll_effect() else {
        panic!("the start is kept");
    };
    unit.handle_piece(b"ab", true);
    unit.flush();
    assert!(unit.handle_release(1));
    unit.append_again(records, data);
    assert_eq!(effects(&mut unit), [ExecutorEffect::Stop, ExecutorEffect::Forget]);
}

#[test]
fn what_could_not_be_kept_was_not_taken() {
    let mut unit = DurableExecutor::offered(NodeId::parse("O").unwrap(), OFFER);
    unit.take("echo:bytes", 1);
    assert!(unit.give_back("shuts down", 2));
    unit.untake();
    assert_eq!((unit.phase(), unit.returned()), (ExecutorPhase::Arriving, None));
    assert_eq!(effects(&mut unit), []);
}

#[test]
fn a_unit_that_nobody_asks_for_ends_with_what_it_sent() {
    let (mut unit, mut records) = taken();
    unit.handle_started();
    unit.handle_piece(b"ab", true);
    assert!(unit.lose("nobody asks", 5) && !unit.lose("nobody asks", 6));
    assert!(append(&mut unit, &mut records) > 0);
    let eof = unit.end_of().unwrap();
    assert_eq!((eof.kind, eof.bytes), (Kind::NodeLost, 2));
    assert!(matches!(
        records.last(),
        Some(ExecutorRecord::Ended { at_ms: 5, .. })
    ));
}

#[test]
fn a_unit_whose_responses_cannot_be_kept_ends_with_those_that_are() {
    let (mut unit, mut records) = taken();
    unit.handle_started();
    unit.handle_piece(b"ab", true);
    unit.flush();
    append(&mut unit, &mut records);
    unit.handle_piece(b"cd", true);
    unit.flush();
    unit.handle_piece(b"ef", true);
    assert!(unit.fail("the disk is broken", tally(&[b"ab"]), 5));
    let left = effects(&mut unit);
    let [
        ExecutorEffect::Append { records: last, data },
        ExecutorEffect::Stop,
    ] = &left[..]
    else {
        panic!("{left:?}");
    };
    let eof = unit.end_of().unwrap();
    assert_eq!((eof.kind, eof.responses, eof.bytes), (Kind::NodeLost, 1, 2));
    assert!(data.is_empty() && matches!(&last[..], [ExecutorRecord::Ended { eof: kept, .. }] if kept == eof));
    unit.handle_piece(b"late", true);
    unit.flush();
    assert_eq!(effects(&mut unit), []);
}

#[test]
fn an_end_whose_responses_are_gone_gives_way() {
    let (mut unit, _) = taken();
    unit.handle_started();
    unit.handle_piece(b"ab", true);
    unit.handle_end(Eof::without_responses(Kind::Ok, ""), 2);
    effects(&mut unit);
    assert!(unit.fail("unreadable", tally(&[]), 5));
    assert_eq!(
        unit.end_of().map(|eof| (eof.kind, eof.bytes)),
        Some((Kind::NodeLost, 0))
    );
    assert!(unit.handle_release(1) && !unit.fail("unreadable", tally(&[]), 6));
}

#[test]
fn an_acknowledgement_never_counts_more_than_was_sent() {
    let (mut unit, _) = taken();
    unit.handle_piece(b"abcd", true);
    unit.handle_ack(Position {
        responses: 0,
        bytes: 3,
    });
    assert_eq!(unit.unacknowledged(), 1);
    unit.handle_ack(Position {
        responses: 0,
        bytes: 1,
    });
    assert_eq!(unit.unacknowledged(), 1);
    unit.handle_ack(Position {
        responses: 9,
        bytes: 9,
    });
    assert_eq!((unit.unacknowledged(), unit.position().bytes), (0, 4));
}

#[test]
fn after_a_restart_a_unit_without_an_end_is_lost_with_what_it_sent() {
    let (mut unit, mut records) = taken();
    let restarted = DurableExecutor::recover(records.clone(), ResponseTally::new(), |_| true, 9).unwrap();
    assert_eq!(restarted.end_of().map(|eof| eof.kind), Some(Kind::NodeLost));
    unit.handle_started();
    unit.handle_piece(b"ab", true);
    unit.flush();
    append(&mut unit, &mut records);
    let mut restarted = DurableExecutor::recover(records.clone(), tally(&[b"ab"]), |_| true, 9).unwrap();
    let eof = restarted.end_of().unwrap().clone();
    assert_eq!(
        (eof.kind, eof.outcome, eof.responses),
        (Kind::NodeLost, eof.kind.outcome(), 1)
    );
    append(&mut restarted, &mut records);
    let again = DurableExecutor::recover(records, tally(&[b"ab"]), |_| true, 99).unwrap();
    assert_eq!(again.end_of(), Some(&eof));
}

#[test]
fn after_a_restart_a_unit_that_has_certainly_not_begun_goes_back() {
    let (mut unit, mut records) = taken();
    let asked = |offer: Offer| {
        assert_eq!(offer, OFFER);
        false
    };
    let mut restarted = DurableExecutor::recover(records.clone(), ResponseTally::new(), asked, 9).unwrap();
    assert_eq!(restarted.phase(), ExecutorPhase::Returned);
    let mut known = records.clone();
    append(&mut restarted, &mut known);
    let again = DurableExecutor::recover(known, ResponseTally::new(), |_| true, 99).unwrap();
    assert_eq!(again.phase(), ExecutorPhase::Returned);

    let sent = DurableExecutor::recover(records.clone(), tally(&[b"ab"]), |_| false, 9).unwrap();
    assert_eq!(sent.end_of().map(|eof| eof.kind), Some(Kind::NodeLost));
    unit.handle_started();
    append(&mut unit, &mut records);
    let started = DurableExecutor::recover(records, ResponseTally::new(), |_| false, 9).unwrap();
    assert_eq!(started.end_of().map(|eof| eof.kind), Some(Kind::NodeLost));
}

#[test]
fn after_a_restart_an_end_stays_if_all_that_it_counts_was_kept() {
    let (mut unit, mut records) = taken();
    unit.handle_started();
    unit.handle_piece(b"ab", true);
    unit.handle_end(Eof::without_responses(Kind::Ok, ""), 2);
    append(&mut unit, &mut records);
    let whole = DurableExecutor::recover(records.clone(), tally(&[b"ab"]), |_| true, 9).unwrap();
    assert_eq!(whole.end_of(), unit.end_of());
    for damaged in [ResponseTally::new(), tally(&[b"aX"])] {
        let damaged = DurableExecutor::recover(records.clone(), damaged, |_| true, 9).unwrap();
        assert_eq!(damaged.end_of().map(|eof| eof.kind), Some(Kind::NodeLost));
    }
}

#[test]
fn after_a_restart_the_latest_offer_that_was_taken_counts() {
    let (_, mut records) = taken();
    let later = Offer { number: 2, ..OFFER };
    let mut unit = DurableExecutor::offered(NodeId::parse("O").unwrap(), later);
    unit.take("echo:bytes", 2);
    append(&mut unit, &mut records);
    let restarted = DurableExecutor::recover(records, ResponseTally::new(), |_| true, 9).unwrap();
    assert_eq!(restarted.offer(), later);
}

#[test]
fn after_a_restart_what_was_given_back_is_so_still() {
    let (mut unit, mut records) = taken();
    assert!(unit.give_back("shuts down", 2));
    append(&mut unit, &mut records);
    let mut restarted = DurableExecutor::recover(records, ResponseTally::new(), |_| true, 9).unwrap();
    assert_eq!(
        (restarted.phase(), restarted.returned()),
        (ExecutorPhase::Returned, Some("shuts down"))
    );
    assert_eq!(effects(&mut restarted), []);
    assert!(
        DurableExecutor::recover([ExecutorRecord::Started {}], ResponseTally::new(), |_| true, 9).is_none()
    );
}

#[test]
fn what_happens_before_anybody_looks_is_one_append() {
    let (mut unit, _) = taken();
    unit.handle_started();
    unit.handle_piece(b"ab", true);
    unit.handle_end(Eof::without_responses(Kind::Ok, ""), 2);
    unit.flush();
    let seen = effects(&mut unit);
    let [ExecutorEffect::Append { records, data }] = &seen[..] else {
        panic!("{seen:?}");
    };
    assert!(matches!(
        records[..],
        [ExecutorRecord::Started {}, ExecutorRecord::Ended { .. }]
    ));
    assert!(!data.is_empty());
}

#[test]
fn responses_that_were_to_be_kept_earlier_stay_apart() {
    let (mut unit, _) = taken();
    for piece in [b"ab", b"cd"] {
        unit.handle_piece(piece, true);
        unit.flush();
    }
    assert_eq!(effects(&mut unit).len(), 2);
}
