//! The answers of an executor to offers, questions and releases.

use uuid::Uuid;

use super::*;

const LIFE: Incarnation = Incarnation(7);
const LIMITS: TableLimits = TableLimits {
    units: 2,
    denied: 2,
    forgotten: 2,
    late_ms: 1000,
};

fn table() -> ExecutorTable<&'static str> {
    ExecutorTable::new(LIFE, LIMITS, EarlierStarts::unknown())
}

fn unit(number: u128) -> UnitId {
    UnitId(Uuid::from_u128(number))
}

fn node(name: &str) -> NodeId {
    NodeId::parse(name).unwrap()
}

fn offer(number: u32) -> Offer {
    Offer { number, life: LIFE }
}

fn kind(answer: Result<(), Denial>) -> Kind {
    answer.map_or_else(|denial| denial.kind, |()| Kind::Ok)
}

fn resumed<T>(answer: Resumed<T>) -> Kind {
    match answer {
        Resumed::Here => Kind::Ok,
        Resumed::Refused { kind, .. } => kind,
    }
}

#[test]
fn an_offer_that_was_asked_for_in_vain_is_not_taken_later() {
    let (mut table, origin) = (table(), node("O"));
    assert_eq!(
        resumed(table.resume(unit(1), &origin, offer(2), 0)),
        Kind::NoSuchUnit
    );
    for late in [1, 2] {
        assert_eq!(
            kind(table.submit(unit(1), &origin, offer(late), || "late")),
            Kind::Duplicate
        );
    }
    assert_eq!(kind(table.submit(unit(1), &origin, offer(3), || "new")), Kind::Ok);
    assert_eq!(
        kind(table.submit(unit(2), &origin, offer(1), || "another")),
        Kind::Ok
    );
}

#[test]
fn a_payload_that_arrives_while_its_unit_is_asked_for_is_dropped() {
    let (mut table, origin) = (table(), node("O"));
    table.submit(unit(1), &origin, offer(1), || "arriving").unwrap();
    let answer = table.resume(unit(1), &origin, offer(1), 0);
    assert!(
        matches!(
            answer,
            Resumed::Refused {
                kind: Kind::NoSuchUnit,
                dropped: Some("arriving"),
                ..
            }
        ),
        "{answer:?}"
    );
    assert!(!table.is_arriving(unit(1), offer(1)));
    assert!(table.take(unit(1), offer(1)).is_err());
    assert!(table.is_empty());
}

#[test]
fn a_unit_is_taken_once_and_resumed_until_it_is_released() {
    let (mut table, origin) = (table(), node("O"));
    table.submit(unit(1), &origin, offer(1), || "unit").unwrap();
    assert_eq!(table.take(unit(1), offer(1)), Ok(&mut "unit"));
    assert!(table.take(unit(1), offer(1)).is_err());
    assert_eq!(table.resume(unit(1), &origin, offer(1), 0), Resumed::Here);
    assert_eq!(
        table.release(unit(1), &origin, 1, 0),
        ReleaseAnswer::Forget("unit")
    );
    assert_eq!(table.release(unit(1), &origin, 1, 0), ReleaseAnswer::Nothing);
    assert_eq!(
        kind(table.submit(unit(1), &origin, offer(1), || "late")),
        Kind::Duplicate
    );
}

#[test]
fn an_old_question_does_not_harm_a_later_offer() {
    let (mut table, origin) = (table(), node("O"));
    table.submit(unit(1), &origin, offer(2), || "two").unwrap();
    assert_eq!(
        resumed(table.resume(unit(1), &origin, offer(1), 0)),
        Kind::NoSuchUnit
    );
    assert_eq!(table.release(unit(1), &origin, 1, 0), ReleaseAnswer::Nothing);
    for late in [1, 2] {
        assert_eq!(
            kind(table.submit(unit(1), &origin, offer(late), || "late")),
            Kind::Duplicate
        );
    }
    assert!(table.take(unit(1), offer(2)).is_ok());
    assert_eq!(
        kind(table.submit(unit(1), &origin, offer(3), || "three")),
        Kind::Busy
    );
    assert_eq!(
        table.release(unit(1), &origin, 3, 0),
        ReleaseAnswer::Forget("two")
    );
}

#[test]
fn only_a_later_offer_of_the_same_origin_to_this_life_replaces_one() {
    let (mut table, origin) = (table(), node("O"));
    assert!(!table.replaces(unit(1), &origin, offer(2)), "nothing is here");
    table.submit(unit(1), &origin, offer(2), || "two").unwrap();
    let replaces = [1, 2, 3].map(|number| table.replaces(unit(1), &origin, offer(number)));
    assert_eq!(replaces, [false, false, true]);
    assert!(!table.replaces(unit(1), &node("other"), offer(3)));
    let life = Incarnation(offer(3).life.0 + 1);
    assert!(!table.replaces(unit(1), &origin, Offer { number: 3, life }));
}

#[test]
fn a_unit_that_was_forgotten_is_lost_to_its_origin_until_it_is_released() {
    let (mut table, origin, other) = (table(), node("O"), node("P"));
    table.submit(unit(1), &origin, offer(1), || "arriving").unwrap();
    assert_eq!(table.forget(unit(1), offer(1)), None, "it was not taken");
    table.take(unit(1), offer(1)).unwrap();
    assert_eq!(table.forget(unit(1), offer(2)), None, "another offer");
    assert_eq!(table.forget(unit(1), offer(1)), Some("arriving"));
    assert!(table.is_empty() && table.remembers(unit(1)) && !table.remembers(unit(2)));
    assert_eq!(
        resumed(table.resume(unit(1), &origin, offer(1), 0)),
        Kind::NodeLost
    );
    assert_eq!(
        resumed(table.resume(unit(1), &other, offer(1), 0)),
        Kind::NoSuchUnit
    );
    assert_eq!(table.release(unit(1), &origin, 1, 0), ReleaseAnswer::Nothing);
    assert!(!table.remembers(unit(1)));
}

#[test]
fn a_unit_that_was_forgotten_may_be_offered_again() {
    let (mut table, origin) = (table(), node("O"));
    table.submit(unit(1), &origin, offer(1), || "unit").unwrap();
    table.take(unit(1), offer(1)).unwrap();
    table.forget(unit(1), offer(1)).unwrap();
    table.submit(unit(1), &origin, offer(2), || "again").unwrap();
    let answer = table.resume(unit(1), &origin, offer(2), 0);
    assert!(
        matches!(
            answer,
            Resumed::Refused {
                kind: Kind::NoSuchUnit,
                dropped: Some("again"),
                ..
            }
        ),
        "{answer:?}"
    );
}

#[test]
fn once_more_is_forgotten_than_is_remembered_no_unit_is_said_not_to_have_come() {
    let (mut table, origin) = (table(), node("O"));
    for number in 1..=3 {
        table.submit(unit(number), &origin, offer(1), || "unit").unwrap();
        table.take(unit(number), offer(1)).unwrap();
        table.forget(unit(number), offer(1)).unwrap();
        let unknown = resumed(table.resume(unit(9), &origin, offer(1), 0));
        let expected = if number < 3 {
            Kind::NoSuchUnit
        } else {
            Kind::NodeLost
        };
        assert_eq!(unknown, expected);
    }
    assert!(table.remembers(unit(3)));
}

#[test]
fn a_release_lets_go_of_the_offers_up_to_its_number() {
    let (mut table, origin) = (table(), node("O"));
    table.submit(unit(1), &origin, offer(2), || "two").unwrap();
    assert_eq!(table.to_release(unit(1), &origin, 1), None);
    assert_eq!(table.to_release(unit(1), &node("P"), 2), None);
    assert_eq!(table.to_release(unit(1), &origin, 2), Some(&"two"));
}

#[test]
fn another_life_knows_what_the_journal_kept_and_nothing_else() {
    let (mut table, origin) = (table(), node("O"));
    let earlier = Offer {
        number: 1,
        life: Incarnation(6),
    };
    table.restore(unit(1), origin.clone(), earlier, "kept");
    assert_eq!(table.resume(unit(1), &origin, earlier, 0), Resumed::Here);
    assert_eq!(
        resumed(table.resume(unit(2), &origin, earlier, 0)),
        Kind::NodeLost
    );
    assert_eq!(
        kind(table.submit(unit(2), &origin, earlier, || "late")),
        Kind::NodeLost
    );
}

#[test]
fn what_was_not_taken_is_denied_if_it_is_known_what_has_begun() {
    let begun = [unit(1)].into();
    let mut table = ExecutorTable::<()>::new(LIFE, LIMITS, EarlierStarts::of(Incarnation(6), begun));
    let origin = node("O");
    let of_life = |life| Offer {
        number: 1,
        life: Incarnation(life),
    };
    for (number, life, kind) in [
        (1, 6, Kind::NodeLost),
        (2, 6, Kind::NoSuchUnit),
        (2, 5, Kind::NodeLost),
    ] {
        assert_eq!(
            resumed(table.resume(unit(number), &origin, of_life(life), 0)),
            kind
        );
    }
    assert_eq!(table.denied.len(), 0);
    assert_eq!(
        kind(table.submit(unit(2), &origin, of_life(6), || ())),
        Kind::NodeLost,
        "also if it still arrives"
    );
}

#[test]
fn a_unit_is_its_origins_alone() {
    let (mut table, origin, other) = (table(), node("O"), node("P"));
    table.submit(unit(1), &origin, offer(1), || "unit").unwrap();
    table.take(unit(1), offer(1)).unwrap();
    assert_eq!(
        kind(table.submit(unit(1), &other, offer(9), || "theirs")),
        Kind::Duplicate
    );
    assert_eq!(
        resumed(table.resume(unit(1), &other, offer(1), 0)),
        Kind::NoSuchUnit
    );
    assert_eq!(table.release(unit(1), &other, 9, 0), ReleaseAnswer::Nothing);
    assert_eq!(table.resume(unit(1), &origin, offer(1), 0), Resumed::Here);
}

#[test]
fn what_is_held_is_bounded() {
    let (mut table, origin) = (table(), node("O"));
    for number in 1..=2 {
        table.submit(unit(number), &origin, offer(1), || "unit").unwrap();
    }
    assert_eq!(
        kind(table.submit(unit(3), &origin, offer(1), || "unit")),
        Kind::Busy
    );
    assert_eq!(table.abandon(unit(1), offer(1)), Some("unit"));
    assert_eq!(
        kind(table.submit(unit(3), &origin, offer(1), || "unit")),
        Kind::Ok
    );
}

#[test]
fn origins_are_put_off_when_too_much_was_denied_lately() {
    let (mut table, origin) = (table(), node("O"));
    for number in 1..=2 {
        assert_eq!(
            resumed(table.resume(unit(number), &origin, offer(1), 0)),
            Kind::NoSuchUnit
        );
    }
    assert_eq!(
        resumed(table.resume(unit(3), &origin, offer(1), 1000)),
        Kind::Busy
    );
    assert_eq!(table.release(unit(3), &origin, 1, 1000), ReleaseAnswer::Later);
    assert_eq!(
        resumed(table.resume(unit(2), &origin, offer(1), 1000)),
        Kind::NoSuchUnit
    );
    assert_eq!(
        resumed(table.resume(unit(3), &origin, offer(1), 1001)),
        Kind::NoSuchUnit
    );
    assert_eq!(
        kind(table.submit(unit(2), &origin, offer(1), || "late")),
        Kind::Duplicate
    );
}

#[test]
fn a_unit_that_ended_well_at_its_first_offer_leaves_nothing() {
    let (mut table, origin) = (table(), node("O"));
    for number in 1..=10 {
        table.submit(unit(number), &origin, offer(1), || "unit").unwrap();
        table.take(unit(number), offer(1)).unwrap();
        assert_eq!(
            table.release(unit(number), &origin, 1, 0),
            ReleaseAnswer::Forget("unit")
        );
    }
    assert_eq!(table.denied.len(), 0);
}
