//! Durable units: over several connections, and attached to.

use workmesh_proto::wire::codec;
use workmesh_proto::wire::durable::Unfinished;

use super::*;
use crate::cli::line::Redial;

/// Connections that the command finds when it looks for its node again, the last one first.
fn redial(clients: Vec<Client<DuplexStream>>) -> Redial<DuplexStream> {
    let clients = Arc::new(Mutex::new(clients));
    Box::new(move || {
        let client = clients.lock().unwrap().pop();
        Box::pin(async move { client.ok_or_else(|| ClientError::NoNode("d".into())) })
    })
}

fn durable(format: Format) -> Conversation {
    let submit = Submit {
        durable: true,
        unit: unit(),
        ..submit("echo:buffer")
    };
    Conversation {
        opening: Opening::Submit {
            submit,
            payload: Payload::open(Some("payload")).unwrap(),
        },
        ..conversation(None, format)
    }
}

fn attachment(from: u64, follow: bool, format: Format) -> Conversation {
    Conversation {
        opening: Opening::Attach(Attach {
            unit: unit(),
            responses: from - 1,
            bytes: None,
            follow,
        }),
        ..conversation(None, format)
    }
}

fn unit() -> UnitId {
    UnitId(uuid::Uuid::from_u128(7))
}

async fn attached(node: &mut Scripted) -> Attach {
    codec::decode(&node.until(FrameType::Attach).await.body).unwrap()
}

/// Holds a conversation that finds these nodes one after the other.
async fn hold_over(
    conversation: Conversation,
    mut clients: Vec<Client<DuplexStream>>,
    script: impl Future<Output = ()>,
    interrupt: impl Future<Output = ()>,
) -> (anyhow::Result<Ended>, String) {
    let sink = Sink::default();
    let client = clients.remove(0);
    clients.reverse();
    let way = Way {
        client,
        redial: Some(redial(clients)),
    };
    let open = || Ok(sink.clone());
    let (ended, ()) = tokio::join!(conversation.hold(way, open, interrupt), script);
    let written = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
    (ended, written)
}

fn failure(ended: anyhow::Result<Ended>) -> (u8, String) {
    let error = ended.unwrap().report().unwrap_err();
    (exit::of_error(&error), exit::line(&error).unwrap_or_default())
}

#[tokio::test]
async fn a_durable_unit_goes_on_to_the_byte_over_another_connection() {
    let (client, mut first) = pair(4096);
    let (again, second) = pair(4096);
    let script = async {
        assert_eq!(first.payload().await, b"payload");
        first.store(unit()).await;
        first.accept().await;
        first.start().await;
        first.respond(b"one", true).await;
        first.respond(b"tw", false).await;
        let mut node = second.back(first);
        let attach = attached(&mut node).await;
        assert_eq!(
            (attach.responses, attach.bytes, attach.follow),
            (1, Some(5), true)
        );
        node.store(unit()).await;
        node.accept().await;
        node.start().await;
        node.respond(b"o", true).await;
        node.respond(b"three", true).await;
        node.end(Kind::Ok, "").await;
    };
    let nobody = std::future::pending();
    let (ended, written) = hold_over(durable(Format::Json), vec![client, again], script, nobody).await;
    let lines: Vec<serde_json::Value> = written
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let types: Vec<_> = lines.iter().map(|line| line["type"].as_str().unwrap()).collect();
    assert_eq!(
        types,
        [
            "stored", "accepted", "started", "response", "response", "response", "eof"
        ]
    );
    let data: Vec<_> = lines.iter().filter_map(|line| line["data"].as_str()).collect();
    assert_eq!(data, ["one", "two", "three"]);
    assert_eq!(ended.unwrap().report().unwrap(), exit::OK);
}

#[tokio::test]
async fn bytes_are_the_same_however_often_the_node_goes_away() {
    let (client, mut first) = pair(64);
    let (clients, nodes): (Vec<_>, Vec<_>) = (0..5).map(|_| pair(64)).unzip();
    let script = async {
        first.payload().await;
        first.store(unit()).await;
        first.respond(b"<0", false).await;
        let mut node = first;
        for (next, number) in nodes.into_iter().zip(1..) {
            node = next.back(node);
            let attach = attached(&mut node).await;
            assert_eq!(attach.responses, number - 1);
            node.respond(format!("{number}>").as_bytes(), true).await;
            node.respond(format!("<{number}").as_bytes(), false).await;
        }
        node.respond(b">", true).await;
        node.end(Kind::Ok, "").await;
    };
    let all = std::iter::once(client).chain(clients).collect();
    let nobody = std::future::pending();
    let (ended, written) = hold_over(durable(Format::Raw), all, script, nobody).await;
    assert_eq!(written, "<01><12><23><34><45><5>");
    assert_eq!(ended.unwrap().report().unwrap(), exit::OK);
}

#[tokio::test]
async fn a_connection_that_breaks_before_storage_leaves_the_question_open() {
    let (client, mut node) = pair(4096);
    let script = async move {
        node.payload().await;
    };
    let (ended, _) = hold_over(durable(Format::Raw), vec![client], script, std::future::pending()).await;
    let error = ended.unwrap_err().downcast::<NotStored>().unwrap();
    assert!(error.error.is_absence() && !error.stopped);
}

#[tokio::test]
async fn an_interrupt_cancels_a_durable_unit_that_is_in_reach() {
    let (client, mut node) = pair(4096);
    let (interrupt, interrupted) = oneshot::channel();
    let script = async {
        node.payload().await;
        node.store(unit()).await;
        interrupt.send(()).unwrap();
        node.until(FrameType::Cancel).await;
        node.end(Kind::Cancelled, "").await;
    };
    let interrupt = async { interrupted.await.unwrap() };
    let (ended, _) = hold_over(durable(Format::Raw), vec![client], script, interrupt).await;
    let (status, line) = failure(ended);
    assert_eq!(status, exit::CANCELLED);
    assert!(line.ends_with("cancelled; its end: cancelled"), "{line}");
}

#[tokio::test]
async fn a_cancellation_is_said_again_to_a_node_that_is_back() {
    let (client, mut first) = pair(4096);
    let (again, second) = pair(4096);
    let (interrupt, interrupted) = oneshot::channel();
    let script = async {
        first.payload().await;
        first.store(unit()).await;
        interrupt.send(()).unwrap();
        first.until(FrameType::Cancel).await;
        let mut node = second.back(first);
        attached(&mut node).await;
        node.until(FrameType::Cancel).await;
        node.end(Kind::Cancelled, "").await;
    };
    let interrupt = async { interrupted.await.unwrap() };
    let (ended, _) = hold_over(durable(Format::Raw), vec![client, again], script, interrupt).await;
    let (status, line) = failure(ended);
    assert_eq!(status, exit::CANCELLED);
    assert!(line.ends_with("cancelled; its end: cancelled"), "{line}");
}

#[tokio::test]
async fn an_interrupt_while_the_node_is_away_leaves_the_unit_and_says_so() {
    let (client, mut node) = pair(4096);
    let (interrupt, interrupted) = oneshot::channel();
    let script = async {
        node.payload().await;
        node.store(unit()).await;
        drop(node);
        // By now the command has noticed: everything is on one thread.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        interrupt.send(()).unwrap();
    };
    let interrupt = async { interrupted.await.unwrap() };
    let (ended, _) = hold_over(durable(Format::Raw), vec![client], script, interrupt).await;
    let (status, line) = failure(ended);
    assert_eq!(status, exit::CANCELLED);
    assert!(line.contains("goes on: `node work attach 0000"), "{line}");
}

#[tokio::test(start_paused = true)]
async fn a_cancellation_without_an_answer_says_how_to_make_sure() {
    let (client, mut node) = pair(4096);
    let (interrupt, interrupted) = oneshot::channel();
    let script = async {
        node.payload().await;
        node.store(unit()).await;
        interrupt.send(()).unwrap();
        node.until(FrameType::Cancel).await;
        drop(node);
    };
    let interrupt = async { interrupted.await.unwrap() };
    let (ended, _) = hold_over(durable(Format::Raw), vec![client], script, interrupt).await;
    let (status, line) = failure(ended);
    assert_eq!(status, exit::CANCELLED);
    assert!(line.contains("`node work cancel 0000"), "{line}");
}

#[tokio::test]
async fn a_closed_stdout_cancels_a_durable_unit_and_only_leaves_an_attached_one() {
    for submitted in [true, false] {
        let (client, mut node) = pair(4096);
        let conversation = if submitted {
            durable(Format::Raw)
        } else {
            attachment(1, true, Format::Raw)
        };
        let talk = conversation.hold(client, || Ok(ClosedSink), std::future::pending());
        let (ended, last) = tokio::join!(talk, async {
            if submitted {
                node.payload().await;
            } else {
                attached(&mut node).await;
            }
            node.store(unit()).await;
            node.respond(b"for nobody", true).await;
            let last = node.next().await;
            node.end(Kind::Cancelled, "").await;
            last.and_then(|frame| frame.frame_type())
        });
        assert_eq!(last, submitted.then_some(FrameType::Cancel));
        assert_eq!(failure(ended), (exit::CANCELLED, String::new()));
    }
}

#[tokio::test]
async fn an_interrupt_only_detaches_from_a_unit() {
    let (client, mut node) = pair(4096);
    let (interrupt, interrupted) = oneshot::channel();
    let script = async {
        attached(&mut node).await;
        node.store(unit()).await;
        interrupt.send(()).unwrap();
        assert!(node.next().await.is_none(), "nothing is cancelled");
    };
    let interrupt = async { interrupted.await.unwrap() };
    let (ended, _) = hold_over(attachment(1, true, Format::Raw), vec![client], script, interrupt).await;
    let (status, line) = failure(ended);
    assert_eq!(status, exit::CANCELLED);
    assert!(line.contains("goes on: `node work attach"), "{line}");
}

#[tokio::test]
async fn an_attachment_ends_as_the_unit_does() {
    let (client, mut node) = pair(4096);
    let script = async {
        attached(&mut node).await;
        node.accept().await;
        node.respond(b"before", true).await;
        node.end(Kind::WorkerError, "no such table").await;
    };
    let nobody = std::future::pending();
    let (ended, written) = hold_over(attachment(1, true, Format::Raw), vec![client], script, nobody).await;
    assert_eq!(written, "before");
    let (status, line) = failure(ended);
    assert_eq!(status, exit::FAILED);
    assert!(line.ends_with("on nodeB: worker_error: no such table"), "{line}");
}

#[tokio::test]
async fn an_unknown_unit_is_no_end_of_one() {
    let (client, mut node) = pair(4096);
    let script = async {
        attached(&mut node).await;
        let refused = Refused {
            kind: Kind::NoSuchUnit,
            message: "no durable unit of this id".into(),
        };
        node.say_cbor(FrameType::Refused, &refused).await;
    };
    let nobody = std::future::pending();
    let (ended, written) = hold_over(attachment(1, true, Format::Json), vec![client], script, nobody).await;
    assert_eq!(written, "");
    let (status, line) = failure(ended);
    assert_eq!(status, exit::UNREACHABLE);
    assert!(
        line.ends_with("no_such_unit: no durable unit of this id; `node work list` shows the units"),
        "{line}"
    );
}

#[tokio::test]
async fn results_of_a_unit_without_an_end_have_a_status_of_their_own() {
    let (client, mut node) = pair(4096);
    let script = async {
        assert!(!attached(&mut node).await.follow);
        node.accept().await;
        node.respond(b"so far", true).await;
        let unfinished = Unfinished {
            state: "running".into(),
            reason: String::new(),
        };
        node.say_cbor(FrameType::Unfinished, &unfinished).await;
    };
    let nobody = std::future::pending();
    let (ended, written) = hold_over(attachment(1, false, Format::Json), vec![client], script, nobody).await;
    assert!(
        written.ends_with("{\"type\":\"unfinished\",\"state\":\"running\",\"reason\":\"\"}\n"),
        "{written}"
    );
    assert!(written.contains("so far"), "{written}");
    let (status, line) = failure(ended);
    assert_eq!(status, exit::REFUSED);
    assert!(
        line.contains("has not ended, it is running on nodeB; `node work attach"),
        "{line}"
    );
}
