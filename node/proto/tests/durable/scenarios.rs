//! Faults that were found, in the simulation or by reading, each as the few steps that lead to it.

mod apart;

use bytes::Bytes;
use workmesh_proto::record::{Order, OriginRecord};
use workmesh_proto::unit::ResponseTally;
use workmesh_proto::unit::durable::{
    Candidate, DurableOrigin, OriginEffect, OriginHistory, OriginInput, OriginPhase, OriginTimings,
};
use workmesh_proto::wire::durable::{Offer, Position};
use workmesh_proto::wire::items::Piece;
use workmesh_proto::wire::unit::{Eof, Kind, Outcome};
use workmesh_proto::{Incarnation, NodeId};

const TIMINGS: OriginTimings = OriginTimings {
    retry_least_ms: 100,
    retry_most_ms: 5000,
    give_up_ms: 15_000,
    lost_ms: 60_000,
    owe_ms: u64::MAX,
};

fn order(idempotent: bool) -> Order {
    Order {
        directive: "echo:bytes".into(),
        to: None,
        params: Default::default(),
        payload_bytes: 0,
        payload_digest: 0,
        submitted_ms: 1000,
        deadline_ms: None,
        trace: None,
        idempotent,
    }
}

fn until(deadline_ms: u64) -> Order {
    Order {
        deadline_ms: Some(deadline_ms),
        ..order(false)
    }
}

fn candidate(name: &str) -> Candidate {
    Candidate {
        executor: NodeId::parse(name).expect("a good name"),
        life: Incarnation(7),
        idempotent: false,
    }
}

fn piece(serial: u64, data: &'static str, last: bool) -> Piece {
    let data = Bytes::from_static(data.as_bytes());
    Piece { serial, data, last }
}

fn tally(pieces: &[(&str, bool)]) -> ResponseTally {
    let mut tally = ResponseTally::new();
    for (data, last) in pieces {
        tally.add(data.as_bytes(), *last);
    }
    tally
}

fn eof(pieces: &[(&str, bool)]) -> Eof {
    let tally = tally(pieces);
    Eof {
        responses: tally.responses(),
        bytes: tally.bytes(),
        digest: tally.digest(),
        ..Eof::without_responses(Kind::Ok, "")
    }
}

fn at(responses: u64, bytes: u64) -> Position {
    Position { responses, bytes }
}

/// A unit at its origin, on a disk that takes what it gets at once.
struct Bench {
    unit: DurableOrigin,
    now: u64,
    journal: Vec<OriginRecord>,
    /// All effects but appends.
    seen: Vec<OriginEffect>,
}

impl Bench {
    fn new(unit: DurableOrigin) -> Self {
        let (journal, seen) = (Vec::new(), Vec::new());
        let mut bench = Self {
            unit,
            now: 1000,
            journal,
            seen,
        };
        bench.settle();
        bench
    }

    fn submitted(order: Order, candidate: Option<Candidate>) -> Self {
        Self::new(DurableOrigin::submit(order, candidate, TIMINGS, 1000))
    }

    /// Runs at `E`, in conversation 1.
    fn running(order: Order) -> Self {
        let mut bench = Self::submitted(order, Some(candidate("E")));
        bench.tell(OriginInput::Accepted(1));
        bench.tell(OriginInput::Started(1));
        assert_eq!(bench.unit.phase(), OriginPhase::Running);
        bench
    }

    fn tell(&mut self, input: OriginInput) -> &mut Self {
        self.seen.clear();
        self.unit.handle(input, self.now);
        self.settle();
        self
    }

    fn settle(&mut self) {
        while let Some(effect) = self.unit.poll_effect() {
            match effect {
                OriginEffect::Append { number, records, .. } => {
                    self.journal.extend(records);
                    self.unit.handle(OriginInput::Stored(number), self.now);
                }
                effect => self.seen.push(effect),
            }
        }
    }

    fn wait(&mut self, ms: u64) -> &mut Self {
        self.now += ms;
        self.tell(OriginInput::Wake)
    }

    /// The offer to `executor`, whose conversation is answered.
    fn found(&mut self, executor: &str) -> u64 {
        self.tell(OriginInput::Found(candidate(executor)));
        let offered = self.seen.iter().find_map(|effect| match effect {
            OriginEffect::Offer { conversation, .. } => Some(*conversation),
            _ => None,
        });
        offered.unwrap_or_else(|| panic!("no offer in {:?}", self.seen))
    }

    fn resumed(&self) -> (u64, Position) {
        let resumed = self.seen.iter().find_map(|effect| match effect {
            OriginEffect::Resume {
                conversation,
                position,
                ..
            } => Some((*conversation, *position)),
            _ => None,
        });
        resumed.unwrap_or_else(|| panic!("no resumption in {:?}", self.seen))
    }

    fn acks(&self) -> Vec<Position> {
        let acks = self.seen.iter().filter_map(|effect| match effect {
            OriginEffect::Ack { position, .. } => Some(*position),
            _ => None,
        });
        acks.collect()
    }

    fn released(&self) -> Vec<(String, u32)> {
        let released = self.seen.iter().filter_map(|effect| match effect {
            OriginEffect::Release { executor, number, .. } => Some((executor.to_string(), *number)),
            _ => None,
        });
        released.collect()
    }

    fn end(&self) -> Option<Kind> {
        self.seen.iter().find_map(|effect| match effect {
            OriginEffect::Ended(eof) => Some(eof.kind),
            _ => None,
        })
    }

    fn history(&self) -> OriginHistory {
        OriginHistory::fold(self.journal.clone()).expect("the submission is the first")
    }

    fn restarted(&self, kept: ResponseTally) -> Self {
        let unit = DurableOrigin::recover(self.history(), kept, TIMINGS, self.now);
        let mut bench = Self::new(unit);
        bench.now = self.now;
        bench
    }
}

#[test]
fn a_deadline_that_passes_while_the_unit_is_stored_neither_spins_nor_offers() {
    let mut unit = DurableOrigin::submit(until(2000), Some(candidate("E")), TIMINGS, 1000);
    unit.handle(OriginInput::Wake, 3000);
    assert_eq!(unit.poll_timeout(), None);
    let mut bench = Bench {
        unit,
        now: 3000,
        journal: vec![],
        seen: vec![],
    };
    bench.settle();
    assert_eq!(bench.end(), Some(Kind::Expired));
    assert!(
        !bench
            .seen
            .iter()
            .any(|effect| matches!(effect, OriginEffect::Offer { .. }))
    );
    assert_eq!(
        bench.seen.last(),
        Some(&OriginEffect::Done),
        "nobody has to be told"
    );
}

#[test]
fn a_deadline_that_passes_while_an_offer_is_stored_keeps_it_from_being_made() {
    let mut bench = Bench::submitted(until(2000), None);
    bench.unit.handle(OriginInput::Found(candidate("E")), 1000);
    bench.now = 2000;
    bench.settle();
    assert_eq!(bench.end(), Some(Kind::Expired));
    assert!(
        !bench
            .seen
            .iter()
            .any(|effect| matches!(effect, OriginEffect::Offer { .. }))
    );
}

#[test]
fn an_offer_that_was_never_made_is_owed_to_nobody() {
    let mut bench = Bench::submitted(order(false), None);
    bench.unit.handle(OriginInput::Found(candidate("E")), 1000);
    bench.unit.handle(OriginInput::Cancel, 1000);
    bench.settle();
    assert_eq!(bench.end(), Some(Kind::Cancelled));
    assert_eq!(bench.released(), []);
    assert_eq!(bench.seen.last(), Some(&OriginEffect::Done));
}

#[test]
fn a_clock_that_is_set_back_delays_nothing() {
    let mut bench = Bench::running(order(false));
    bench.now = 100_000;
    bench.tell(OriginInput::Broken(1, "cut".into()));
    bench.tell(OriginInput::Unreachable(2, "no route".into()));
    assert_eq!(bench.unit.poll_timeout(), Some(100_100));
    bench.now = 2000;
    bench.tell(OriginInput::Wake);
    assert_eq!(bench.unit.poll_timeout(), Some(2000 + TIMINGS.retry_most_ms));
}

#[test]
fn a_clock_that_leaps_does_not_lose_a_unit_that_can_be_reached() {
    let mut bench = Bench::running(order(false));
    bench.tell(OriginInput::Broken(1, "cut".into()));
    bench.tell(OriginInput::Unreachable(2, "no route".into()));
    bench.wait(10 * TIMINGS.lost_ms);
    let (conversation, _) = bench.resumed();
    bench.tell(OriginInput::Accepted(conversation));
    assert_eq!(bench.unit.phase(), OriginPhase::Running);

    bench.tell(OriginInput::Broken(conversation, "cut".into()));
    bench.wait(TIMINGS.retry_most_ms);
    let (conversation, _) = bench.resumed();
    bench.now += TIMINGS.lost_ms;
    bench.tell(OriginInput::Unreachable(conversation, "no route".into()));
    assert_eq!(bench.end(), Some(Kind::NodeLost));
}

#[test]
fn what_is_given_back_is_released_by_its_executor() {
    let mut bench = Bench::submitted(order(false), Some(candidate("E")));
    bench.tell(OriginInput::Accepted(1));
    bench.tell(OriginInput::Returned(1, "shuts down".into()));
    assert_eq!(bench.released(), [("E".to_owned(), 1)]);
    assert_eq!(
        bench.history().debts().collect::<Vec<_>>(),
        [(candidate("E").executor, 1)]
    );
    bench.tell(OriginInput::Released(candidate("E").executor, 1));
    assert_eq!(bench.history().debts().count(), 0);
    bench.wait(100);
    bench.found("F");
    assert_eq!(bench.unit.history().attempts(), 1);
}

#[test]
fn what_has_started_can_not_be_given_back() {
    let mut bench = Bench::running(order(false));
    bench.tell(OriginInput::Returned(1, "changed my mind".into()));
    assert_eq!(bench.end(), Some(Kind::Protocol));
}

#[test]
fn what_was_accepted_and_is_denied_may_have_run() {
    let mut bench = Bench::running(order(false));
    bench.tell(OriginInput::Broken(1, "cut".into()));
    bench.tell(OriginInput::Refused(2, Kind::NoSuchUnit, "never".into()));
    assert_eq!(bench.end(), Some(Kind::NodeLost));
}

#[test]
fn nothing_counts_before_the_unit_is_accepted() {
    for input in [
        OriginInput::Started(1),
        OriginInput::Piece(1, piece(1, "ab", true)),
        OriginInput::Eof(1, eof(&[])),
        OriginInput::Returned(1, "no".into()),
    ] {
        let mut bench = Bench::submitted(order(false), Some(candidate("E")));
        bench.tell(input);
        assert_eq!(bench.end(), Some(Kind::Protocol));
    }
}

#[test]
fn an_end_that_contradicts_itself_is_none() {
    let mut bench = Bench::running(order(false));
    let contradiction = Eof {
        outcome: Outcome::Succeeded,
        ..Eof::without_responses(Kind::Panic, "")
    };
    bench.tell(OriginInput::Eof(1, contradiction));
    assert_eq!(bench.end(), Some(Kind::Protocol));
}

#[test]
fn a_payload_that_stalled_is_sent_again() {
    let mut bench = Bench::submitted(order(false), Some(candidate("E")));
    bench.tell(OriginInput::Refused(1, Kind::PayloadBroken, "stalled".into()));
    assert_eq!((bench.end(), bench.unit.phase()), (None, OriginPhase::Waiting));
}

#[test]
fn a_resumption_that_a_busy_node_refuses_is_tried_again() {
    for kind in [
        Kind::Busy,
        Kind::Draining,
        Kind::NoRoute,
        Kind::NoSpace,
        Kind::Internal,
    ] {
        let mut bench = Bench::running(order(false));
        bench.tell(OriginInput::Broken(1, "cut".into()));
        bench.tell(OriginInput::Refused(2, kind, "not now".into()));
        assert_eq!((bench.end(), bench.unit.phase()), (None, OriginPhase::Running));
    }
}

#[test]
fn an_executor_that_accepts_and_breaks_is_not_asked_in_a_loop() {
    let mut bench = Bench::running(order(false));
    bench.tell(OriginInput::Broken(1, "cut".into()));
    let mut waits = Vec::new();
    for conversation in 2..6 {
        bench.tell(OriginInput::Accepted(conversation));
        bench.tell(OriginInput::Broken(conversation, "cut".into()));
        let next = bench.unit.poll_timeout().unwrap();
        waits.push(next - bench.now);
        bench.now = next;
        bench.tell(OriginInput::Wake);
    }
    assert_eq!(waits, [100, 200, 400, 800]);
    bench.tell(OriginInput::Accepted(6));
    bench.tell(OriginInput::Piece(6, piece(1, "a", true)));
    bench.tell(OriginInput::Broken(6, "cut".into()));
    bench.resumed();
}

#[test]
fn an_acknowledgement_that_was_lost_with_its_conversation_is_repeated() {
    let mut bench = Bench::running(order(false));
    bench.tell(OriginInput::Piece(1, piece(1, "ab", true)));
    assert_eq!(bench.acks(), [at(1, 2)]);
    bench.tell(OriginInput::Broken(1, "cut".into()));
    bench.tell(OriginInput::Accepted(2));
    assert_eq!(bench.acks(), [at(1, 2)]);
}

/// Runs at `F` after `E`, which has sent "ab" and "cd", was lost.
fn second_run() -> (Bench, u64) {
    let mut bench = Bench::running(order(true));
    bench.tell(OriginInput::Piece(1, piece(1, "ab", true)));
    bench.tell(OriginInput::Piece(1, piece(2, "cd", true)));
    bench.tell(OriginInput::Broken(1, "cut".into()));
    bench.tell(OriginInput::Refused(2, Kind::NodeLost, "restarted".into()));
    bench.wait(100);
    let conversation = bench.found("F");
    bench.tell(OriginInput::Accepted(conversation));
    (bench, conversation)
}

#[test]
fn a_second_run_is_acknowledged_as_far_as_it_came() {
    let (mut bench, conversation) = second_run();
    assert_eq!(bench.acks(), []);
    bench.tell(OriginInput::Piece(conversation, piece(1, "a", false)));
    assert_eq!(bench.acks(), [at(0, 1)]);
    bench.tell(OriginInput::Piece(conversation, piece(1, "b", true)));
    assert_eq!(bench.acks(), [at(1, 2)]);
    bench.tell(OriginInput::Piece(conversation, piece(2, "cd", true)));
    assert_eq!(bench.acks(), [at(2, 4)]);
}

#[test]
fn what_the_first_run_left_is_not_acknowledged_to_the_second() {
    let mut bench = Bench::running(order(true));
    bench
        .unit
        .handle(OriginInput::Piece(1, piece(1, "ab", true)), 1000);
    let Some(OriginEffect::Append { number, .. }) = bench.unit.poll_effect() else {
        panic!("nothing is stored");
    };
    bench.tell(OriginInput::Broken(1, "cut".into()));
    bench.tell(OriginInput::Refused(2, Kind::NodeLost, "restarted".into()));
    bench.wait(100);
    let conversation = bench.found("F");
    bench.tell(OriginInput::Accepted(conversation));
    bench.tell(OriginInput::Stored(number));
    assert_eq!(bench.acks(), []);
}

#[test]
fn after_a_restart_a_second_run_is_compared_from_its_beginning() {
    let (mut bench, conversation) = second_run();
    bench.tell(OriginInput::Piece(conversation, piece(1, "ab", true)));
    let mut bench = bench.restarted(tally(&[("ab", true), ("cd", true)]));
    bench.tell(OriginInput::Wake);
    let (conversation, position) = bench.resumed();
    assert_eq!(position, Position::default());
    bench.tell(OriginInput::Accepted(conversation));
    bench.tell(OriginInput::Piece(conversation, piece(1, "ab", true)));
    bench.tell(OriginInput::Piece(conversation, piece(2, "cX", true)));
    assert_eq!(bench.end(), Some(Kind::NodeLost));
}

#[test]
fn an_executor_is_told_of_being_given_up_once_that_is_on_the_disk() {
    let mut bench = Bench::running(order(true));
    bench.tell(OriginInput::Broken(1, "cut".into()));
    bench
        .unit
        .handle(OriginInput::Refused(2, Kind::NodeLost, "restarted".into()), 1000);
    let mut append = None;
    while let Some(effect) = bench.unit.poll_effect() {
        match effect {
            OriginEffect::Append {
                number, sync: true, ..
            } => append = Some(number),
            OriginEffect::Release { .. } => panic!("told before it is stored"),
            _ => {}
        }
    }
    bench.tell(OriginInput::Stored(append.unwrap()));
    assert_eq!(bench.released(), [("E".to_owned(), 1)]);
}

#[test]
fn words_of_an_executor_that_was_given_up_are_not_heard() {
    let (mut bench, conversation) = second_run();
    for late in [
        OriginInput::Accepted(2),
        OriginInput::Piece(1, piece(3, "late", true)),
        OriginInput::Eof(1, eof(&[("ab", true), ("cd", true)])),
        OriginInput::Returned(2, "late".into()),
        OriginInput::Broken(2, "late".into()),
    ] {
        bench.tell(late);
        assert_eq!((bench.end(), bench.unit.phase()), (None, OriginPhase::Accepted));
    }
    bench.tell(OriginInput::Released(candidate("E").executor, 1));
    for (serial, data) in [(1, "ab"), (2, "cd"), (3, "e")] {
        bench.tell(OriginInput::Piece(conversation, piece(serial, data, true)));
    }
    bench.tell(OriginInput::Eof(
        conversation,
        eof(&[("ab", true), ("cd", true), ("e", true)]),
    ));
    assert_eq!(bench.end(), Some(Kind::Ok));
    assert_eq!(bench.released(), [("F".to_owned(), 2)]);
}

#[test]
fn an_answer_to_an_earlier_release_does_not_settle_a_later_one() {
    let mut bench = Bench::running(order(true));
    bench.tell(OriginInput::Broken(1, "cut".into()));
    bench.tell(OriginInput::Refused(2, Kind::NodeLost, "restarted".into()));
    assert_eq!(bench.released(), [("E".to_owned(), 1)]);
    bench.wait(100);
    let conversation = bench.found("E");
    bench.tell(OriginInput::Accepted(conversation));
    bench.tell(OriginInput::Eof(conversation, eof(&[])));
    assert_eq!(bench.released(), [("E".to_owned(), 2)]);
    bench.tell(OriginInput::Released(candidate("E").executor, 1));
    assert_eq!(bench.seen, []);
    bench.tell(OriginInput::Released(candidate("E").executor, 2));
    assert_eq!(bench.seen, [OriginEffect::Done]);
}

#[test]
fn an_offer_whose_fate_was_not_stored_is_owed() {
    let offered = |name: &str, number| OriginRecord::Offered {
        executor: candidate(name).executor,
        offer: Offer {
            number,
            life: Incarnation(7),
        },
        idempotent: true,
        at_ms: 0,
    };
    let records = [
        OriginRecord::Submitted(Box::new(order(true))),
        offered("E", 1),
        offered("F", 2),
    ];
    let history = OriginHistory::fold(records).unwrap();
    assert_eq!(
        history.debts().collect::<Vec<_>>(),
        [(candidate("E").executor, 1)]
    );
    assert_eq!((history.attempts(), history.offers()), (2, 2));
}

#[test]
fn an_ended_unit_that_owes_nothing_is_done_at_once_after_a_restart() {
    let mut bench = Bench::running(order(false));
    bench.tell(OriginInput::Eof(1, eof(&[])));
    assert_eq!(bench.restarted(ResponseTally::new()).seen, []);
    bench.tell(OriginInput::Released(candidate("E").executor, 1));
    assert_eq!(bench.restarted(ResponseTally::new()).seen, [OriginEffect::Done]);
}

#[test]
fn the_end_waits_for_the_append_that_is_under_way_even_if_that_fails() {
    let mut bench = Bench::running(order(false));
    bench
        .unit
        .handle(OriginInput::Piece(1, piece(1, "ab", true)), 1000);
    let Some(OriginEffect::Append { number, .. }) = bench.unit.poll_effect() else {
        panic!("nothing is stored");
    };
    bench.tell(OriginInput::Eof(1, eof(&[("ab", true)])));
    assert_eq!(bench.end(), None);
    bench.tell(OriginInput::NotStored(number, "full".into()));
    assert_eq!(bench.end(), None);
    bench.wait(1000);
    assert_eq!(bench.end(), Some(Kind::Ok));
    assert_eq!(bench.unit.stored(), at(1, 2));
}

#[test]
fn pieces_that_the_journal_does_not_take_are_bounded() {
    let mut bench = Bench::running(order(false));
    let data = Bytes::from(vec![7; 200 * 1024]);
    let mut serial = 0;
    while bench.unit.wants_pieces() {
        serial += 1;
        let piece = Piece {
            serial,
            data: data.clone(),
            last: true,
        };
        bench.unit.handle(OriginInput::Piece(1, piece), 1000);
        assert!(serial < 10, "more is wanted than fits");
    }
    let appends = std::iter::from_fn(|| bench.unit.poll_effect())
        .filter(|effect| matches!(effect, OriginEffect::Append { .. }));
    assert_eq!(appends.count(), 1, "one append is under way at a time");
}
