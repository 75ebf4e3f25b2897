//! The client's half of a conversation, against a scripted node.

use workmesh_proto::wire::durable::{Attach, Position};
use workmesh_proto::wire::unit::{Eof, Kind, Refused};

use super::*;
use crate::control::scripted::{pair, submit};
use crate::unit::report::{PoolReport, ReleaseReport, WorkReport};

fn node(id: &str) -> NodeId {
    NodeId::parse(id).unwrap()
}

fn ping_report() -> PingReport {
    PingReport {
        node: node("b"),
        rtt_ms: 1.0,
        version: "1".into(),
        uptime_s: 2.0,
        initial_time: jiff::Timestamp::UNIX_EPOCH,
        response_time: jiff::Timestamp::UNIX_EPOCH,
        active_work: vec![],
        omitted_work: 0,
        draining: false,
        pool: PoolReport::default(),
    }
}

#[tokio::test]
async fn a_question_gets_its_answer() {
    let (client, mut scripted) = pair(4096);
    let (answer, question) = tokio::join!(client.ping(Some(node("b"))), async {
        let question = scripted.next().await.unwrap();
        scripted.say_cbor(FrameType::Reply, &ping_report()).await;
        question
    });
    assert_eq!(answer.unwrap().node, node("b"));
    let expected = Query::Ping {
        node: Some(node("b")),
    };
    assert_eq!(codec::decode::<Query>(&question.body).unwrap(), expected);
}

#[tokio::test]
async fn unknown_frames_before_an_answer_are_skipped() {
    let (client, mut scripted) = pair(4096);
    scripted.say_bytes(&[0x7e, 0, 0, 0, 0, 0, 0, 0, 0, 1, 9]).await;
    scripted.say_cbor(FrameType::Reply, &ping_report()).await;
    assert!(client.ping(None).await.is_ok());
}

#[tokio::test]
async fn a_fault_is_an_error_of_its_kind() {
    let (client, mut scripted) = pair(4096);
    let fault = Fault {
        kind: Kind::NoSuchNode,
        message: "no node z".into(),
    };
    scripted.say_cbor(FrameType::Fault, &fault).await;
    let error = client.ping(Some(node("z"))).await.unwrap_err();
    assert!(
        matches!(&error, ClientError::Fault(f) if f.kind == Kind::NoSuchNode),
        "{error}"
    );
    assert_eq!(error.to_string(), "no_such_node: no node z");
}

#[tokio::test]
async fn hops_end_with_the_stream() {
    let (client, mut scripted) = pair(4096);
    for (hop, id) in [(1, "b"), (2, "c")] {
        let report = HopReport {
            hop,
            node: node(id),
            rtt_ms: 1.0,
        };
        scripted.say_cbor(FrameType::Reply, &report).await;
    }
    let mut hops = client.trace(node("c")).await.unwrap();
    drop(scripted);
    assert_eq!(hops.next().await.unwrap().unwrap().node, node("b"));
    assert_eq!(hops.next().await.unwrap().unwrap().node, node("c"));
    assert!(hops.next().await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_says_nothing_is_not_waited_for_for_ever() {
    let (client, _node) = pair(4096);
    let error = client.status().await.unwrap_err();
    assert!(matches!(error, ClientError::Silent), "{error}");
}

#[tokio::test]
async fn a_closed_connection_is_no_answer() {
    let (client, mut scripted) = pair(4096);
    scripted.say_bytes(&[0x41, 0, 0]).await;
    let (answer, ()) = tokio::join!(client.status(), async {
        scripted.next().await;
        drop(scripted);
    });
    assert!(matches!(answer, Err(ClientError::Broken(_))), "{answer:?}");
}

#[tokio::test]
async fn hostile_answers_are_errors() {
    let frames: [&[u8]; 4] = [
        // a body above the limit
        &[0x41, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
        // not CBOR
        &[0x41, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff],
        // CBOR of another shape
        &[0x41, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x01],
        // a known frame that is no answer
        &[0x22, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ];
    for frame in frames {
        let (client, mut scripted) = pair(4096);
        scripted.say_bytes(frame).await;
        let error = client.workers().await.unwrap_err();
        assert!(
            error.to_string().contains("does not speak this protocol"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_unit_runs_from_submission_to_its_end() {
    let (client, mut scripted) = pair(256);
    let submit = submit("echo:bytes");
    let talk = async {
        let (mut sender, mut receiver) = client.submit(&submit).await.unwrap();
        let payload = Bytes::from(vec![7; 3 * PAYLOAD_FRAME_BYTES / 2]);
        sender.payload(payload).await.unwrap();
        sender.payload_end().await.unwrap();
        let mut events = Vec::new();
        loop {
            let event = receiver.next().await.unwrap();
            let done = matches!(event, OriginEvent::Eof(_));
            events.push(event);
            if done {
                return events;
            }
        }
    };
    let (events, payload) = tokio::join!(talk, async {
        let payload = scripted.payload().await;
        scripted.accept().await;
        scripted.respond(b"done", true).await;
        scripted.end(Kind::Ok, "").await;
        payload
    });
    assert_eq!(payload, vec![7; 3 * PAYLOAD_FRAME_BYTES / 2]);
    assert!(matches!(&events[0], OriginEvent::Accepted(a) if a.executor == node("nodeB")));
    assert!(matches!(&events[events.len() - 1], OriginEvent::Eof(eof) if eof.bytes == 4));
}

#[tokio::test]
async fn a_cancellation_never_lands_inside_a_payload_frame() {
    let (client, mut scripted) = pair(16);
    let (mut sender, _receiver) = {
        let submit = submit("echo:buffer");
        let (submitted, _) = tokio::join!(client.submit(&submit), scripted.next());
        submitted.unwrap()
    };
    // The pipe takes 16 bytes of the frame, then the sender is dropped in its wait.
    let given_up = tokio::select! {
        biased;
        sent = sender.payload(Bytes::from(vec![1; 100])) => panic!("the pipe is too small: {sent:?}"),
        () = async {} => true,
    };
    assert!(given_up);
    let (cancelled, frames) = tokio::join!(sender.cancel(), async {
        [scripted.next().await.unwrap(), scripted.next().await.unwrap()]
    });
    cancelled.unwrap();
    assert_eq!(frames[0].body, vec![1; 100]);
    assert_eq!(frames[1].frame_type(), Some(FrameType::Cancel));
}

#[tokio::test]
async fn a_broken_connection_is_never_the_end_of_a_unit() {
    let (client, mut scripted) = pair(4096);
    let (_sender, mut receiver) = client.submit(&submit("echo:bytes")).await.unwrap();
    scripted.accept().await;
    scripted.respond(b"half", false).await;
    drop(scripted);
    assert!(matches!(receiver.next().await, Ok(OriginEvent::Accepted(_))));
    assert!(matches!(receiver.next().await, Ok(OriginEvent::Piece(_))));
    assert!(matches!(receiver.next().await, Err(ClientError::Broken(_))));
}

#[tokio::test]
async fn an_end_that_does_not_fit_the_responses_is_a_fault() {
    let (client, mut scripted) = pair(4096);
    let (_sender, mut receiver) = client.submit(&submit("echo:bytes")).await.unwrap();
    scripted.accept().await;
    scripted.respond(b"abc", true).await;
    scripted
        .say_cbor(FrameType::Eof, &Eof::without_responses(Kind::Ok, ""))
        .await;
    receiver.next().await.unwrap();
    receiver.next().await.unwrap();
    assert!(matches!(receiver.next().await, Err(ClientError::Unit(_))));
}

#[tokio::test]
async fn a_refusal_ends_the_unit() {
    let (client, mut scripted) = pair(4096);
    let (_sender, mut receiver) = client.submit(&submit("echo:bytes")).await.unwrap();
    let refused = Refused {
        kind: Kind::Busy,
        message: "full".into(),
    };
    scripted.say_cbor(FrameType::Refused, &refused).await;
    assert_eq!(receiver.next().await.unwrap(), OriginEvent::Refused(refused));
}

#[tokio::test]
async fn a_submission_that_fits_no_frame_is_refused_here() {
    let (client, _scripted) = pair(4096);
    let directive = "x".repeat(MAX_BODY_BYTES);
    let error = client.submit(&submit(&directive)).await.unwrap_err();
    assert!(matches!(error, ClientError::TooLong), "{error}");
}

#[tokio::test]
async fn without_a_node_the_error_says_how_to_start_one() {
    let dir = tempfile::tempdir().unwrap();
    let error = connect_socket(dir.path()).await.err().unwrap();
    let text = error.to_string();
    assert!(text.contains("start one with `node run --data-dir"), "{text}");
    assert!(text.contains("--peers host:port"), "{text}");
}

fn work_report(unit: UnitId) -> WorkReport {
    WorkReport {
        unit,
        directive: "echo:bytes".into(),
        state: "running".into(),
        reason: String::new(),
        outcome: None,
        kind: None,
        message: None,
        executor: Some(node("nodeB")),
        to: None,
        attempt: 1,
        submitted: jiff::Timestamp::UNIX_EPOCH,
        ended: None,
        deadline: None,
        payload_bytes: 0,
        responses: 0,
        bytes: 0,
        idempotent: false,
        cancel_requested: false,
        executor_released: false,
        history: vec![],
    }
}

#[tokio::test]
async fn rows_of_work_come_in_pages() {
    let units = [1, 2, 3].map(|number| UnitId(uuid::Uuid::from_u128(number)));
    let (client, mut scripted) = pair(4096);
    let filter = WorkFilter {
        state: Some("running".into()),
        ..WorkFilter::default()
    };
    let (rows, question) = tokio::join!(client.work(filter.clone()), async {
        let question = scripted.next().await.unwrap();
        let rows = units.map(work_report);
        scripted.say_cbor(FrameType::Reply, &rows[..2].to_vec()).await;
        scripted.say_cbor(FrameType::Reply, &rows[2..].to_vec()).await;
        drop(scripted);
        question
    });
    let seen: Vec<_> = rows.unwrap().into_iter().map(|row| row.unit).collect();
    assert_eq!(seen, units);
    assert_eq!(codec::decode::<Query>(&question.body), Ok(Query::Work(filter)));
}

#[tokio::test]
async fn a_unit_is_cancelled_by_the_first_frame_and_answered_with_its_report() {
    let unit = UnitId(uuid::Uuid::from_u128(1));
    let (client, mut scripted) = pair(4096);
    let (report, first) = tokio::join!(client.work_cancel(unit), async {
        let first = scripted.next().await.unwrap();
        scripted.say_cbor(FrameType::Reply, &work_report(unit)).await;
        first
    });
    assert_eq!(report.unwrap(), work_report(unit));
    assert_eq!(first.frame_type(), Some(FrameType::Cancel));
    assert_eq!(codec::decode::<Cancel>(&first.body), Ok(Cancel { unit }));
}

#[tokio::test]
async fn an_unknown_unit_is_a_fault_of_its_kind() {
    let unit = UnitId(uuid::Uuid::from_u128(1));
    let (client, mut scripted) = pair(4096);
    let fault = Fault {
        kind: Kind::NoSuchUnit,
        message: "no unit 1".into(),
    };
    scripted.say_cbor(FrameType::Fault, &fault).await;
    let error = client.work_show(unit).await.unwrap_err();
    assert!(matches!(&error, ClientError::Fault(f) if *f == fault), "{error}");
}

#[tokio::test]
async fn a_release_says_what_and_gets_the_count() {
    let units = vec![UnitId(uuid::Uuid::from_u128(1))];
    let (client, mut scripted) = pair(4096);
    let answer = ReleaseReport {
        released: 1,
        ..ReleaseReport::default()
    };
    let (report, question) = tokio::join!(client.work_release(units.clone()), async {
        let question = scripted.next().await.unwrap();
        scripted.say_cbor(FrameType::Reply, &answer).await;
        question
    });
    assert_eq!(report.unwrap(), answer);
    let expected = Query::WorkRelease {
        units,
        all: false,
        older_than_ms: None,
    };
    assert_eq!(codec::decode::<Query>(&question.body), Ok(expected));
}

#[tokio::test]
async fn a_durable_unit_goes_on_over_another_connection() {
    let (client, mut first) = pair(4096);
    let submit = Submit {
        durable: true,
        ..submit("echo:bytes")
    };
    let (_sender, mut receiver) = client.submit(&submit).await.unwrap();
    assert!(!receiver.is_resumable());
    first.store(submit.unit).await;
    first.accept().await;
    first.respond(b"one", true).await;
    first.respond(b"tw", false).await;
    let (client, second) = pair(4096);
    let mut second = second.back(first);
    for _ in 0..4 {
        receiver.next().await.unwrap();
    }
    assert!(matches!(receiver.next().await, Err(ClientError::Broken(_))));
    assert!(receiver.is_resumable());
    let at = Position {
        responses: 1,
        bytes: 5,
    };
    assert_eq!(receiver.position(), at);
    let mut sender = receiver.resume(submit.unit, client);
    sender.flush().await.unwrap();
    let attach: Attach = codec::decode(&second.until(FrameType::Attach).await.body).unwrap();
    assert_eq!(
        (attach.responses, attach.bytes, attach.follow),
        (1, Some(5), true)
    );
    second.store(submit.unit).await;
    second.start().await;
    second.respond(b"o", true).await;
    second.end(Kind::Ok, "").await;
    assert!(matches!(receiver.next().await, Ok(OriginEvent::Stored(_))));
    assert!(matches!(receiver.next().await, Ok(OriginEvent::Started(_))));
    assert!(matches!(receiver.next().await, Ok(OriginEvent::Piece(p)) if &p.data[..] == b"o"));
    assert!(matches!(receiver.next().await, Ok(OriginEvent::Eof(eof)) if eof.bytes == 6));
    sender.cancel().await.unwrap();
    second.until(FrameType::Cancel).await;
}

#[tokio::test]
async fn an_attachment_begins_where_it_asks_to() {
    let (client, mut scripted) = pair(4096);
    let ask = Attach {
        unit: UnitId(uuid::Uuid::from_u128(1)),
        responses: 1,
        bytes: None,
        follow: false,
    };
    let (_sender, mut receiver) = client.attach(&ask).await.unwrap();
    let frame = scripted.next().await.unwrap();
    assert_eq!(codec::decode::<Attach>(&frame.body).as_ref(), Ok(&ask));
    let refused = Refused {
        kind: Kind::NoSuchUnit,
        message: "no unit 1".into(),
    };
    scripted.say_cbor(FrameType::Refused, &refused).await;
    assert_eq!(receiver.next().await.unwrap(), OriginEvent::Refused(refused));
}
