//! Whatever a journal holds, in whatever order: a machine comes of it, or a refusal, and it goes on without a panic.

use bytes::Bytes;
use proptest::prelude::*;
use workmesh_proto::record::{ExecutorRecord, Order, OriginRecord, decode, encode};
use workmesh_proto::unit::ResponseTally;
use workmesh_proto::unit::durable::{
    Candidate, DurableExecutor, DurableOrigin, OriginHistory, OriginInput, OriginTimings,
};
use workmesh_proto::wire::durable::Offer;
use workmesh_proto::wire::items::Piece;
use workmesh_proto::wire::unit::{Eof, Kind};
use workmesh_proto::{Incarnation, NodeId};

fn node() -> impl Strategy<Value = NodeId> {
    (0..3u32).prop_map(|number| NodeId::parse(&format!("E{number}")).expect("a good name"))
}

fn offer() -> impl Strategy<Value = Offer> {
    (prop_oneof![0..4u32, Just(u32::MAX)], 0..3u64).prop_map(|(number, life)| Offer {
        number,
        life: Incarnation(life),
    })
}

fn kind() -> impl Strategy<Value = Kind> {
    prop::sample::select(vec![
        Kind::Ok,
        Kind::WorkerError,
        Kind::Busy,
        Kind::NodeLost,
        Kind::NoSuchUnit,
        Kind::Shutdown,
        Kind::Unknown,
    ])
}

fn eof() -> impl Strategy<Value = Eof> {
    (kind(), 0..3u64, 0..9u64).prop_map(|(kind, responses, bytes)| Eof {
        responses,
        bytes,
        ..Eof::without_responses(kind, "")
    })
}

fn order() -> impl Strategy<Value = Order> {
    (prop::option::of(0..5000u64), any::<bool>()).prop_map(|(deadline_ms, idempotent)| Order {
        directive: "echo:bytes".into(),
        to: None,
        params: Default::default(),
        payload_bytes: 0,
        payload_digest: 0,
        submitted_ms: 1000,
        deadline_ms,
        trace: None,
        idempotent,
    })
}

fn origin_record() -> impl Strategy<Value = OriginRecord> {
    prop_oneof![
        1 => order().prop_map(|order| OriginRecord::Submitted(Box::new(order))),
        3 => (node(), offer(), any::<bool>()).prop_map(|(executor, offer, idempotent)| {
            OriginRecord::Offered { executor, offer, idempotent, at_ms: 1 }
        }),
        1 => Just(OriginRecord::Accepted { at_ms: 1 }),
        1 => Just(OriginRecord::Started { at_ms: 1 }),
        1 => Just(OriginRecord::Withdrawn { reason: String::new(), at_ms: 1 }),
        1 => Just(OriginRecord::GivenUp { reason: String::new(), at_ms: 1 }),
        1 => eof().prop_map(|eof| OriginRecord::Ended { eof, at_ms: 1 }),
        1 => node().prop_map(|executor| OriginRecord::Released { executor }),
        1 => Just(OriginRecord::Forgotten { at_ms: 1 }),
    ]
}

fn executor_record() -> impl Strategy<Value = ExecutorRecord> {
    prop_oneof![
        (node(), offer()).prop_map(|(origin, offer)| ExecutorRecord::Taken {
            origin,
            offer,
            directive: "echo:bytes".into(),
            at_ms: 1,
        }),
        Just(ExecutorRecord::Started {}),
        eof().prop_map(|eof| ExecutorRecord::Ended { eof, at_ms: 1 }),
        Just(ExecutorRecord::Returned {
            message: String::new(),
            at_ms: 1
        }),
    ]
}

fn piece() -> impl Strategy<Value = Piece> {
    (0..4u64, 0..3usize, any::<bool>()).prop_map(|(serial, length, last)| Piece {
        serial,
        data: Bytes::from(vec![7; length]),
        last,
    })
}

fn kept() -> impl Strategy<Value = ResponseTally> {
    prop::collection::vec(piece(), 0..4).prop_map(|pieces| {
        let mut tally = ResponseTally::new();
        for piece in pieces {
            tally.add(&piece.data, piece.last);
        }
        tally
    })
}

fn input() -> impl Strategy<Value = OriginInput> {
    let number = || 1..6u64;
    let why = || Just(String::new());
    prop_oneof![
        4 => number().prop_map(OriginInput::Stored),
        1 => (number(), why()).prop_map(|(n, why)| OriginInput::NotStored(n, why)),
        3 => (node(), any::<bool>()).prop_map(|(executor, idempotent)| {
            OriginInput::Found(Candidate { executor, life: Incarnation(1), idempotent })
        }),
        1 => why().prop_map(OriginInput::NotFound),
        1 => (number(), why()).prop_map(|(n, why)| OriginInput::Unreachable(n, why)),
        4 => number().prop_map(OriginInput::Accepted),
        1 => (number(), kind(), why()).prop_map(|(n, kind, why)| OriginInput::Refused(n, kind, why)),
        1 => number().prop_map(OriginInput::Started),
        3 => (number(), piece()).prop_map(|(n, piece)| OriginInput::Piece(n, piece)),
        1 => (number(), eof()).prop_map(|(n, eof)| OriginInput::Eof(n, eof)),
        1 => (number(), why()).prop_map(|(n, why)| OriginInput::Returned(n, why)),
        1 => (number(), why()).prop_map(|(n, why)| OriginInput::Broken(n, why)),
        1 => (number(), kind(), why()).prop_map(|(n, kind, why)| OriginInput::Fault(n, kind, why)),
        1 => (node(), 0..5u32).prop_map(|(executor, n)| OriginInput::Released(executor, n)),
        1 => (node(), 0..5u32).prop_map(|(executor, n)| OriginInput::NotReleased(executor, n)),
        1 => (number(), why()).prop_map(|(n, why)| OriginInput::Closed(n, why)),
        1 => Just(OriginInput::Cancel),
        1 => Just(OriginInput::Forget),
        4 => Just(OriginInput::Wake),
        1 => Just(OriginInput::MeshChanged),
    ]
}

/// Cases of a run without `DURABLE_CASES`.
const CASES: u32 = 100;

fn cases() -> u32 {
    let cases = std::env::var("DURABLE_CASES").ok();
    cases.and_then(|text| text.parse().ok()).unwrap_or(CASES)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn an_origin_goes_on_from_any_records_and_with_any_inputs(
        order in order(),
        records in prop::collection::vec(origin_record(), 0..12),
        kept in kept(),
        inputs in prop::collection::vec((input(), 0..10_000u64, any::<bool>()), 0..40),
    ) {
        let first = OriginRecord::Submitted(Box::new(order));
        let history = OriginHistory::fold(std::iter::once(first).chain(records)).unwrap();
        let mut ended = history.end().cloned();
        let mut unit = DurableOrigin::recover(history, kept, OriginTimings::default(), 1000);
        for (input, now, alone) in inputs {
            unit.handle(input, now);
            let waits = unit.poll_timeout();
            prop_assert!(waits.is_none_or(|at| at > now), "at {} to be woken at {:?}", now, waits);
            while alone && let Some(effect) = unit.poll_effect() {
                let workmesh_proto::unit::durable::OriginEffect::Ended(eof) = effect else { continue };
                prop_assert_eq!(ended.replace(eof), None);
            }
        }
    }

    #[test]
    fn any_order_of_records_is_a_unit_or_none(records in prop::collection::vec(origin_record(), 0..12)) {
        let begins = matches!(records.first(), Some(OriginRecord::Submitted(_)));
        prop_assert_eq!(OriginHistory::fold(records).is_ok(), begins);
    }

    #[test]
    fn an_executor_goes_on_from_any_records(
        records in prop::collection::vec(executor_record(), 0..8),
        kept in kept(),
        begun in any::<bool>(),
    ) {
        let begins = matches!(records.first(), Some(ExecutorRecord::Taken { .. }));
        let unit = DurableExecutor::recover(records, kept, |_| begun, 5);
        prop_assert_eq!(unit.is_some(), begins);
        if let Some(mut unit) = unit {
            prop_assert!(unit.end_of().is_some() != unit.returned().is_some());
            prop_assert!(!unit.handle_started());
        }
    }

    #[test]
    fn records_survive_the_journal(origin in origin_record(), executor in executor_record()) {
        prop_assert_eq!(decode::<OriginRecord>(&encode(&origin)), Ok(origin));
        prop_assert_eq!(decode::<ExecutorRecord>(&encode(&executor)), Ok(executor));
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _read = decode::<OriginRecord>(&bytes);
        let _read = decode::<ExecutorRecord>(&bytes);
    }
}
