//! Single moments in a unit's life at its origin; whole lives are in the simulation.

use bytes::Bytes;

use super::*;
use crate::Incarnation;
use crate::id::NodeId;
use crate::wire::items::Piece;
use crate::wire::unit::Outcome;

const TIMINGS: OriginTimings = OriginTimings {
    retry_least_ms: 100,
    retry_most_ms: 5000,
    give_up_ms: 15_000,
    lost_ms: 60_000,
    owe_ms: u64::MAX,
};

fn order(deadline_ms: Option<u64>, idempotent: bool) -> Order {
    Order {
        directive: "echo:bytes".into(),
        to: None,
        params: Default::default(),
        payload_bytes: 0,
        payload_digest: 0,
        submitted_ms: 1000,
        deadline_ms,
        trace: None,
        idempotent,
    }
}

fn candidate() -> Candidate {
    Candidate {
        executor: NodeId::parse("E").unwrap(),
        life: Incarnation(7),
        idempotent: false,
    }
}

fn effects(unit: &mut DurableOrigin) -> Vec<OriginEffect> {
    std::iter::from_fn(|| unit.poll_effect()).collect()
}

/// A unit that was offered in conversation 1.
fn offered(order: Order) -> DurableOrigin {
    let mut unit = DurableOrigin::submit(order, Some(candidate()), TIMINGS, 1000);
    unit.handle(OriginInput::Stored(1), 1000);
    let seen = effects(&mut unit);
    assert!(
        matches!(seen[1..], [OriginEffect::Stored, OriginEffect::Offer { .. }]),
        "{seen:?}"
    );
    unit
}

fn following(order: Order) -> DurableOrigin {
    let mut unit = offered(order);
    unit.handle(OriginInput::Accepted(1), 1000);
    unit.handle(OriginInput::Started(1), 1000);
    assert_eq!(unit.phase(), OriginPhase::Running);
    effects(&mut unit);
    unit
}

fn piece(serial: u64, data: &'static str, last: bool) -> Piece {
    Piece {
        serial,
        data: Bytes::from_static(data.as_bytes()),
        last,
    }
}

fn eof(pieces: &[(&str, bool)]) -> Eof {
    let mut tally = ResponseTally::new();
    for (data, last) in pieces {
        tally.add(data.as_bytes(), *last);
    }
    Eof {
        responses: tally.responses(),
        bytes: tally.bytes(),
        digest: tally.digest(),
        ..Eof::without_responses(Kind::Ok, "")
    }
}

fn append_of(effects: &[OriginEffect]) -> (u64, &[OriginRecord], &[u8]) {
    let append = effects.iter().find_map(|effect| match effect {
        OriginEffect::Append {
            number,
            records,
            data,
            sync: true,
        } => Some((*number, &records[..], &data[..])),
        _ => None,
    });
    append.unwrap_or_else(|| panic!("no append in {effects:?}"))
}

#[test]
fn nothing_is_told_before_the_submission_is_stored() {
    let mut unit = DurableOrigin::submit(order(None, false), None, TIMINGS, 1000);
    assert!(matches!(
        effects(&mut unit)[..],
        [OriginEffect::Append { sync: true, .. }]
    ));
    unit.handle(OriginInput::Wake, 99_000);
    assert_eq!(effects(&mut unit), []);
    unit.handle(OriginInput::Stored(1), 99_000);
    assert_eq!(effects(&mut unit), [OriginEffect::Stored, OriginEffect::Place]);
}

#[test]
fn a_submission_that_can_not_be_stored_is_nothing() {
    let mut unit = DurableOrigin::submit(order(Some(2000), false), Some(candidate()), TIMINGS, 1000);
    effects(&mut unit);
    unit.handle(OriginInput::NotStored(1, "full".into()), 3000);
    assert_eq!(effects(&mut unit), [OriginEffect::NotStored("full".into())]);
    unit.handle(OriginInput::Wake, 5000);
    assert_eq!((effects(&mut unit), unit.poll_timeout()), (vec![], None));
}

#[test]
fn an_end_that_the_disk_refuses_is_told_as_what_the_unit_waits_for() {
    let mut unit = offered(order(None, false));
    effects(&mut unit);
    unit.handle(OriginInput::Cancel, 1001);
    let (number, ..) = append_of(&effects(&mut unit));
    unit.handle(OriginInput::NotStored(number, "full".into()), 1002);
    assert_eq!(effects(&mut unit), [OriginEffect::Changed]);
    assert_eq!((unit.reason(), unit.phase()), ("full", OriginPhase::Ended));
}

#[test]
fn a_unit_that_is_cancelled_on_a_full_disk_ends_with_what_is_there() {
    let mut unit = following(order(None, false));
    unit.handle(OriginInput::Piece(1, piece(1, "ab", true)), 1001);
    let number = append_of(&effects(&mut unit)).0;
    unit.handle(OriginInput::Stored(number), 1002);
    unit.handle(OriginInput::Piece(1, piece(2, "too much", true)), 1003);
    let number = append_of(&effects(&mut unit)).0;
    unit.handle(OriginInput::Cancel, 1004);
    unit.handle(OriginInput::NotStored(number, "full".into()), 1005);
    effects(&mut unit);
    unit.handle(OriginInput::Wake, 2005);
    let seen = effects(&mut unit);
    let (number, records, data) = append_of(&seen);
    let [OriginRecord::Ended { eof: end, .. }] = records else {
        panic!("{records:?}");
    };
    let there = eof(&[("ab", true)]);
    assert!(data.is_empty());
    assert_eq!(
        (end.kind, end.responses, end.bytes, end.digest),
        (Kind::Cancelled, there.responses, there.bytes, there.digest)
    );
    unit.handle(OriginInput::Stored(number), 2006);
    assert_eq!(unit.history().end().map(|eof| eof.kind), Some(Kind::Cancelled));
}

#[test]
fn what_the_disk_does_not_take_is_the_reason_until_it_does() {
    let mut unit = following(order(None, false));
    unit.handle(OriginInput::Piece(1, piece(1, "ab", true)), 1001);
    let number = append_of(&effects(&mut unit)).0;
    unit.handle(OriginInput::NotStored(number, "full".into()), 1002);
    assert_eq!(unit.reason(), "full");
    effects(&mut unit);
    unit.handle(OriginInput::Wake, 3000);
    let number = append_of(&effects(&mut unit)).0;
    unit.handle(OriginInput::Stored(number), 3001);
    assert_eq!(unit.reason(), "");
}

#[test]
fn a_short_unit_is_one_append_behind_its_offer() {
    let mut unit = offered(order(None, false));
    unit.handle(OriginInput::Accepted(1), 1001);
    unit.handle(OriginInput::Started(1), 1001);
    unit.handle(OriginInput::Piece(1, piece(1, "ab", true)), 1001);
    unit.handle(OriginInput::Eof(1, eof(&[("ab", true)])), 1001);
    let seen = effects(&mut unit);
    let appends = seen
        .iter()
        .filter(|effect| matches!(effect, OriginEffect::Append { .. }));
    assert_eq!(appends.count(), 1);
    let [
        OriginEffect::Append {
            records, data, sync, ..
        },
        ..,
    ] = &seen[..]
    else {
        panic!("something comes before the append: {seen:?}");
    };
    assert!(matches!(records[..], [OriginRecord::Ended { .. }]) && !data.is_empty() && *sync);
}

#[test]
fn the_end_is_told_once_it_is_stored_with_all_responses() {
    let mut unit = following(order(None, false));
    unit.handle(OriginInput::Piece(1, piece(1, "ab", true)), 1001);
    let first = effects(&mut unit);
    let (number, records, _) = append_of(&first);
    assert_eq!((records, number), (&[][..], 3));
    unit.handle(OriginInput::Piece(1, piece(2, "c", true)), 1002);
    unit.handle(OriginInput::Eof(1, eof(&[("ab", true), ("c", true)])), 1003);
    assert_eq!(effects(&mut unit), [OriginEffect::Close(1)]);
    unit.handle(OriginInput::Stored(3), 1004);
    let second = effects(&mut unit);
    let (number, records, data) = append_of(&second);
    assert!(matches!(records, [OriginRecord::Ended { .. }]) && !data.is_empty());
    unit.handle(OriginInput::Stored(number), 1005);
    let last = effects(&mut unit);
    assert!(
        last.iter()
            .any(|e| matches!(e, OriginEffect::Ended(eof) if eof.kind == Kind::Ok))
    );
    assert!(
        last.iter()
            .any(|e| matches!(e, OriginEffect::Release { number: 1, .. }))
    );
    unit.handle(OriginInput::Released(candidate().executor, 1), 1006);
    assert!(effects(&mut unit).contains(&OriginEffect::Done));
}

#[test]
fn responses_that_come_with_the_end_are_stored_with_it() {
    let mut unit = following(order(None, false));
    unit.handle(OriginInput::Piece(1, piece(1, "ab", true)), 1001);
    unit.handle(OriginInput::Eof(1, eof(&[("ab", true)])), 1001);
    let seen = effects(&mut unit);
    assert!(
        matches!(&seen[..], [OriginEffect::Close(1), OriginEffect::Append { records, data, sync: true, .. }]
            if matches!(&records[..], [OriginRecord::Ended { .. }]) && !data.is_empty()),
        "{seen:?}"
    );
}

#[test]
fn a_broken_stream_is_resumed_from_what_has_come() {
    let mut unit = following(order(None, false));
    unit.handle(OriginInput::Piece(1, piece(1, "ab", false)), 1001);
    unit.handle(OriginInput::Broken(1, "cut".into()), 1002);
    let resumed = effects(&mut unit);
    let position = Position {
        responses: 0,
        bytes: 2,
    };
    assert!(
        resumed.iter().any(
            |e| matches!(e, OriginEffect::Resume { conversation: 2, position: p, .. } if *p == position)
        ),
        "{resumed:?}"
    );
    unit.handle(OriginInput::Unreachable(2, "no route".into()), 1003);
    assert_eq!((unit.reason(), unit.poll_timeout()), ("no route", Some(1103)));
    unit.handle(OriginInput::Piece(1, piece(1, "late", true)), 1004);
    assert_eq!(unit.phase(), OriginPhase::Running);
}

#[test]
fn only_the_life_that_got_the_offer_can_deny_it() {
    let mut unit = offered(order(None, false));
    unit.handle(OriginInput::Broken(1, "cut".into()), 1001);
    effects(&mut unit);
    unit.handle(
        OriginInput::Refused(2, Kind::NoSuchUnit, "never came".into()),
        1002,
    );
    assert_eq!(unit.phase(), OriginPhase::Waiting);
    unit.handle(OriginInput::Wake, 1102);
    assert!(effects(&mut unit).contains(&OriginEffect::Place));

    let mut unit = offered(order(None, false));
    unit.handle(OriginInput::Broken(1, "cut".into()), 1001);
    unit.handle(OriginInput::Refused(2, Kind::NodeLost, "restarted".into()), 1002);
    let seen = effects(&mut unit);
    assert!(matches!(append_of(&seen).1, [OriginRecord::Ended { eof, .. }] if eof.outcome == Outcome::Lost));
}

#[test]
fn an_idempotent_unit_that_was_lost_runs_again_and_its_first_responses_stay() {
    let mut unit = following(order(None, true));
    unit.handle(OriginInput::Piece(1, piece(1, "ab", true)), 1001);
    unit.handle(OriginInput::Broken(1, "cut".into()), 1002);
    unit.handle(OriginInput::Refused(2, Kind::NodeLost, "restarted".into()), 1003);
    effects(&mut unit);
    unit.handle(OriginInput::Wake, 1103);
    unit.handle(OriginInput::Found(candidate()), 1103);
    let (number, ..) = append_of(&effects(&mut unit));
    unit.handle(OriginInput::Stored(number), 1104);
    assert_eq!(unit.history().attempts(), 2);
    unit.handle(OriginInput::Accepted(3), 1105);
    unit.handle(OriginInput::Piece(3, piece(1, "ab", true)), 1106);
    unit.handle(OriginInput::Piece(3, piece(2, "c", true)), 1107);
    unit.handle(OriginInput::Eof(3, eof(&[("ab", true), ("c", true)])), 1108);
    assert_eq!(unit.phase(), OriginPhase::Ended);
}

#[test]
fn a_unit_that_runs_again_waits_as_little_however_long_its_executor_was_away() {
    let mut unit = following(order(None, true));
    unit.handle(OriginInput::Broken(1, "cut".into()), 1001);
    let mut now = 1001;
    for conversation in 2..8 {
        unit.handle(OriginInput::Unreachable(conversation, "no route".into()), now);
        now = unit.poll_timeout().unwrap();
        unit.handle(OriginInput::Wake, now);
    }
    unit.handle(OriginInput::Refused(8, Kind::NodeLost, "restarted".into()), now);
    assert_eq!(
        (unit.phase(), unit.poll_timeout()),
        (OriginPhase::Waiting, Some(now + 100))
    );
}

#[test]
fn deadline_and_cancel_end_a_unit_wherever_it_is() {
    let mut unit = offered(order(Some(5000), false));
    unit.handle(OriginInput::Unreachable(1, "no route to E".into()), 1001);
    assert_eq!(unit.poll_timeout(), Some(1101));
    effects(&mut unit);
    unit.handle(OriginInput::Wake, 5000);
    let seen = effects(&mut unit);
    assert!(
        matches!(append_of(&seen).1, [OriginRecord::Ended { eof, .. }] if eof.kind == Kind::Expired && eof.message.contains("no route to E"))
    );
    unit.handle(OriginInput::Cancel, 5001);
    assert_eq!(effects(&mut unit), []);

    let mut unit = following(order(None, false));
    unit.handle(OriginInput::Cancel, 1001);
    let seen = effects(&mut unit);
    assert!(matches!(append_of(&seen).1, [OriginRecord::Ended { eof, .. }] if eof.kind == Kind::Cancelled));
}

fn releases(effects: &[OriginEffect]) -> usize {
    let releases = |effect: &&OriginEffect| matches!(effect, OriginEffect::Release { .. });
    effects.iter().filter(releases).count()
}

#[test]
fn an_executor_that_gave_back_is_told_once_the_origin_does_not_count_on_it_on_its_disk() {
    let mut unit = offered(order(None, false));
    unit.handle(OriginInput::Accepted(1), 1000);
    unit.handle(OriginInput::Returned(1, "drains".into()), 1001);
    let (returned, ..) = append_of(&effects(&mut unit));
    unit.handle(OriginInput::NotStored(returned, "disk full".into()), 1002);
    unit.handle(OriginInput::Wake, 60_000);
    let seen = effects(&mut unit);
    assert_eq!((releases(&seen), &seen[..]), (0, &[OriginEffect::Place][..]));
    unit.handle(OriginInput::Found(candidate()), 60_001);
    let (next, ..) = append_of(&effects(&mut unit));
    unit.handle(OriginInput::Stored(next), 60_002);
    assert_eq!(releases(&effects(&mut unit)), 1, "the next offer says as much");
}

#[test]
fn an_executor_is_told_of_an_end_that_took_the_place_of_another_one() {
    let mut unit = following(order(Some(5000), true));
    unit.handle(OriginInput::Piece(1, piece(1, "ab", true)), 4999);
    let lost = Eof {
        outcome: Outcome::Lost,
        kind: Kind::NodeLost,
        ..eof(&[("ab", true)])
    };
    unit.handle(OriginInput::Eof(1, lost), 5000);
    let seen = effects(&mut unit);
    let (both, records, data) = append_of(&seen);
    assert!(
        matches!(
            records,
            [OriginRecord::GivenUp { .. }, OriginRecord::Ended { .. }]
        ) && !data.is_empty()
    );
    unit.handle(OriginInput::Closed(both, "the stream takes no more".into()), 5001);
    let (end, ..) = append_of(&effects(&mut unit));
    unit.handle(OriginInput::Stored(end), 5002);
    assert_eq!(releases(&effects(&mut unit)), 1);
}

#[test]
fn a_journal_that_fails_delays_and_loses_nothing() {
    let mut unit = following(order(None, false));
    unit.handle(OriginInput::Piece(1, piece(1, "ab", true)), 1001);
    let seen = effects(&mut unit);
    let number = append_of(&seen).0;
    unit.handle(OriginInput::NotStored(number, "disk full".into()), 1002);
    assert_eq!(
        (effects(&mut unit), unit.reason()),
        (vec![OriginEffect::Changed], "disk full")
    );
    unit.handle(OriginInput::Eof(1, eof(&[("ab", true)])), 1003);
    let seen = effects(&mut unit);
    let (number, _, data) = append_of(&seen);
    assert!(!data.is_empty());
    unit.handle(OriginInput::NotStored(number, "disk full".into()), 1004);
    assert_eq!(unit.poll_timeout(), Some(2004));
    unit.handle(OriginInput::Wake, 2004);
    let seen = effects(&mut unit);
    let (number, records, data) = append_of(&seen);
    assert!(matches!(records, [OriginRecord::Ended { .. }]) && !data.is_empty());
    unit.handle(OriginInput::Stored(number), 2005);
    assert!(
        effects(&mut unit)
            .iter()
            .any(|e| matches!(e, OriginEffect::Ended(_)))
    );
}

#[test]
fn what_does_not_fit_what_came_is_no_success() {
    let mut unit = following(order(None, false));
    unit.handle(OriginInput::Piece(1, piece(1, "ab", true)), 1001);
    unit.handle(OriginInput::Eof(1, eof(&[("aX", true)])), 1002);
    unit.handle(OriginInput::Stored(4), 1003);
    let seen = effects(&mut unit);
    assert!(
        seen.iter()
            .any(|e| matches!(e, OriginEffect::Append { records, .. }
        if matches!(&records[..], [OriginRecord::Ended { eof, .. }] if eof.kind == Kind::Protocol)))
    );
}

#[test]
fn an_executor_that_is_gone_for_good_is_told_of_the_end_for_a_while_only() {
    let mut unit = DurableOrigin::submit(
        order(None, false),
        Some(candidate()),
        OriginTimings {
            owe_ms: 500,
            ..TIMINGS
        },
        1000,
    );
    unit.handle(OriginInput::Stored(1), 1000);
    unit.handle(OriginInput::Accepted(1), 1000);
    unit.handle(OriginInput::Cancel, 1001);
    let seen = effects(&mut unit);
    let (number, ..) = seen
        .iter()
        .rev()
        .find_map(|e| match e {
            OriginEffect::Append {
                number, sync: true, ..
            } => Some((*number, ())),
            _ => None,
        })
        .unwrap();
    unit.handle(OriginInput::Stored(number), 1002);
    unit.handle(OriginInput::NotReleased(candidate().executor, 1), 1400);
    assert!(!effects(&mut unit).contains(&OriginEffect::Done));
    unit.handle(OriginInput::Wake, 1500);
    unit.handle(OriginInput::NotReleased(candidate().executor, 1), 1501);
    assert!(effects(&mut unit).contains(&OriginEffect::Done));
}

#[test]
fn a_unit_whose_responses_can_not_be_stored_any_more_ends_with_those_that_are() {
    let mut unit = following(order(None, false));
    unit.handle(OriginInput::Piece(1, piece(1, "ab", true)), 1001);
    let seen = effects(&mut unit);
    let (number, ..) = append_of(&seen);
    unit.handle(OriginInput::Stored(number), 1002);
    unit.handle(OriginInput::Piece(1, piece(2, "cd", true)), 1003);
    let seen = effects(&mut unit);
    let (number, ..) = append_of(&seen);
    unit.handle(OriginInput::Closed(number, "the file is closed".into()), 1004);
    let seen = effects(&mut unit);
    let (number, records, data) = append_of(&seen);
    assert!(
        matches!(records, [OriginRecord::Ended { eof, .. }] if eof.kind == Kind::Internal && (eof.responses, eof.bytes) == (1, 2))
    );
    assert!(data.is_empty());
    unit.handle(OriginInput::Stored(number), 1005);
    assert!(
        effects(&mut unit)
            .iter()
            .any(|e| matches!(e, OriginEffect::Ended(_)))
    );
}

const DOUBT: &str = "log/3 is missing";

/// How a unit ends whose journal is in doubt, after what `lives` lets happen.
fn end_in_doubt(before: &DurableOrigin, live: impl FnOnce(&mut DurableOrigin)) -> Eof {
    let history = before.history().clone();
    let mut unit = DurableOrigin::recover(history, ResponseTally::new(), TIMINGS, 2000);
    unit.doubt(DOUBT.to_owned());
    unit.handle(OriginInput::Wake, 2000);
    live(&mut unit);
    let seen = effects(&mut unit);
    let offers = |effect: &&OriginEffect| matches!(effect, OriginEffect::Offer { .. } | OriginEffect::Place);
    assert_eq!(
        seen.iter().filter(offers).count(),
        0,
        "it is offered to nobody: {seen:?}"
    );
    match append_of(&seen).1 {
        [OriginRecord::Ended { eof, .. }] => eof.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn with_a_damaged_journal_an_executor_that_knows_nothing_may_have_run_the_unit() {
    for idempotent in [false, true] {
        let eof = end_in_doubt(&offered(order(None, idempotent)), |unit| {
            unit.handle(
                OriginInput::Refused(1, Kind::NoSuchUnit, "never came".into()),
                2001,
            );
        });
        assert_eq!((eof.outcome, eof.kind), (Outcome::Lost, Kind::NodeLost));
        assert!(
            eof.message.contains("never came") && eof.message.contains(DOUBT),
            "{}",
            eof.message
        );
    }
}

#[test]
fn with_a_damaged_journal_a_unit_that_seems_to_wait_may_have_been_offered() {
    let mut waiting = DurableOrigin::submit(order(None, false), None, TIMINGS, 1000);
    waiting.handle(OriginInput::Stored(1), 1000);
    let eof = end_in_doubt(&waiting, |_| {});
    assert_eq!(eof.outcome, Outcome::Lost);
    assert!(eof.message.contains(DOUBT), "{}", eof.message);
}

#[test]
fn with_a_damaged_journal_a_unit_that_its_executor_has_goes_on() {
    let before = following(order(None, false));
    let history = before.history().clone();
    let mut unit = DurableOrigin::recover(history, ResponseTally::new(), TIMINGS, 2000);
    unit.doubt(DOUBT.to_owned());
    unit.handle(OriginInput::Wake, 2000);
    unit.handle(OriginInput::Accepted(1), 2001);
    unit.handle(OriginInput::Eof(1, eof(&[])), 2002);
    let seen = effects(&mut unit);
    assert!(
        seen.iter().any(|effect| matches!(effect, OriginEffect::Append { records, .. }
            if matches!(&records[..], [OriginRecord::Ended { eof, .. }] if eof.outcome == Outcome::Succeeded))),
        "{seen:?}"
    );
}

#[test]
fn a_release_that_the_journal_refuses_is_stored_later() {
    let mut unit = following(order(None, false));
    unit.handle(OriginInput::Cancel, 1000);
    let seen = effects(&mut unit);
    let Some(OriginEffect::Append { number: ending, .. }) = seen
        .iter()
        .find(|effect| matches!(effect, OriginEffect::Append { .. }))
    else {
        panic!("{seen:?}");
    };
    unit.handle(OriginInput::Stored(*ending), 1000);
    effects(&mut unit);
    let forgotten = |unit: &mut DurableOrigin| {
        effects(unit).into_iter().find_map(|effect| match effect {
            OriginEffect::Append { number, records, .. } => {
                matches!(records[..], [OriginRecord::Forgotten { .. }]).then_some(number)
            }
            _ => None,
        })
    };
    unit.handle(OriginInput::Forget, 1000);
    let first = forgotten(&mut unit).unwrap();
    unit.handle(OriginInput::NotStored(first, "full".into()), 1000);
    assert_eq!(forgotten(&mut unit), None);
    let again = unit.poll_timeout().unwrap();
    unit.handle(OriginInput::Wake, again);
    let second = forgotten(&mut unit).unwrap();
    assert!(!unit.history().is_forgotten());
    unit.handle(OriginInput::Stored(second), again);
    assert!(unit.history().is_forgotten());
}
