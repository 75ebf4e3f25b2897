//! Conversations with a scripted node.

use std::io::Write;
use std::sync::{Arc, Mutex};

use tokio::io::DuplexStream;
use tokio::sync::oneshot;
use workmesh_proto::wire::frame::FrameType;
use workmesh_proto::wire::unit::Refused;

use super::*;
use crate::cli::exit;
use crate::cli::output::Format;
use crate::control::client::Client;
use crate::control::scripted::{Scripted, pair, submit};

mod durable;

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct ClosedSink;

impl Write for ClosedSink {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn conversation(payload: Option<&str>, format: Format) -> Conversation {
    Conversation {
        opening: Opening::Submit {
            submit: submit("echo:buffer"),
            payload: Payload::open(payload).unwrap(),
        },
        progress: Progress::hidden(),
        output: Some(Output::new(Some(format), false)),
        share_terminal: false,
    }
}

async fn hold(
    conversation: Conversation,
    client: Client<DuplexStream>,
    script: impl Future<Output = ()>,
) -> (anyhow::Result<Ended>, String) {
    let sink = Sink::default();
    let open = || Ok(sink.clone());
    let (ended, ()) = tokio::join!(conversation.hold(client, open, std::future::pending()), script);
    let written = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
    (ended, written)
}

async fn echo(node: &mut Scripted) {
    let payload = node.payload().await;
    node.accept().await;
    let (left, right) = payload.split_at(payload.len() / 2);
    node.respond(left, false).await;
    node.respond(right, true).await;
    node.respond(b"second", true).await;
    node.end(Kind::Ok, "").await;
}

#[tokio::test]
async fn raw_output_is_the_bytes_of_the_responses() {
    let (client, mut node) = pair(64);
    let (ended, written) = hold(
        conversation(Some("payload"), Format::Raw),
        client,
        echo(&mut node),
    )
    .await;
    assert_eq!(written, "payloadsecond");
    assert_eq!(ended.unwrap().report().unwrap(), exit::OK);
}

#[tokio::test]
async fn json_output_is_accepted_responses_eof() {
    let (client, mut node) = pair(64);
    let (ended, written) = hold(
        conversation(Some("payload"), Format::Json),
        client,
        echo(&mut node),
    )
    .await;
    let types: Vec<_> = written
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["type"].clone())
        .collect();
    assert_eq!(types, ["accepted", "response", "response", "eof"]);
    assert_eq!(ended.unwrap().report().unwrap(), exit::OK);
}

#[tokio::test]
async fn a_failed_unit_is_one_line_with_its_id_executor_and_kind() {
    let (client, mut node) = pair(4096);
    let (ended, written) = hold(conversation(None, Format::Raw), client, async {
        node.accept().await;
        node.respond(b"before", true).await;
        node.end(Kind::WorkerError, "no such table\n").await;
    })
    .await;
    assert_eq!(written, "before");
    let ended = ended.unwrap();
    let expected = format!("node: unit {} on nodeB: worker_error: no such table", ended.unit);
    let error = ended.report().unwrap_err();
    assert_eq!(exit::line(&error).unwrap(), expected);
    assert_eq!(exit::of_error(&error), exit::FAILED);
}

#[tokio::test]
async fn a_refusal_has_the_status_of_its_kind() {
    let (client, mut node) = pair(4096);
    let (ended, written) = hold(conversation(None, Format::Json), client, async {
        let refused = Refused {
            kind: Kind::Busy,
            message: "nodeB is full".into(),
        };
        node.say_cbor(FrameType::Refused, &refused).await;
    })
    .await;
    assert!(
        written.contains(r#""type":"eof","outcome":"failed","kind":"busy""#),
        "{written}"
    );
    let error = ended.unwrap().report().unwrap_err();
    assert_eq!(exit::of_error(&error), exit::REFUSED);
    assert!(
        error
            .to_string()
            .ends_with("busy: nodeB is full; try again later"),
        "{error}"
    );
}

#[tokio::test]
async fn a_broken_connection_is_an_error_with_the_unit_and_never_a_success() {
    let (client, mut node) = pair(4096);
    let (ended, written) = hold(conversation(None, Format::Raw), client, async move {
        node.accept().await;
        node.respond(b"half", true).await;
    })
    .await;
    assert_eq!(written, "half");
    let error = ended.unwrap_err();
    assert_eq!(exit::of_error(&error), exit::UNREACHABLE);
    assert!(
        exit::line(&error).unwrap().starts_with("node: unit "),
        "{error:#}"
    );
}

#[tokio::test]
async fn an_interrupt_cancels_the_unit_and_waits_for_its_end() {
    let (client, mut node) = pair(4096);
    let (interrupt, interrupted) = oneshot::channel();
    let talk = conversation(None, Format::Raw).hold(client, || Ok(Sink::default()), async {
        interrupted.await.unwrap();
    });
    let (ended, ()) = tokio::join!(talk, async {
        node.accept().await;
        node.until(FrameType::PayloadEnd).await;
        interrupt.send(()).unwrap();
        node.until(FrameType::Cancel).await;
        node.end(Kind::Cancelled, "").await;
    });
    let error = ended.unwrap().report().unwrap_err();
    assert_eq!(exit::of_error(&error), exit::CANCELLED);
}

/// Says when it is first written to, and takes nothing before it is told to.
struct SlowSink {
    began: Option<oneshot::Sender<()>>,
    go: std::sync::mpsc::Receiver<()>,
    sink: Sink,
}

impl Write for SlowSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(began) = self.began.take() {
            began.send(()).unwrap();
            self.go.recv().unwrap();
        }
        self.sink.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn an_interrupt_after_the_end_leaves_no_half_a_line() {
    let (client, mut node) = pair(4096);
    let (interrupt, interrupted) = oneshot::channel();
    let (began, begun) = oneshot::channel();
    let (go, gone) = std::sync::mpsc::channel();
    let sink = Sink::default();
    let slow = SlowSink {
        began: Some(began),
        go: gone,
        sink: sink.clone(),
    };
    let talk = conversation(None, Format::Json).hold(client, || Ok(slow), async {
        interrupted.await.unwrap();
    });
    let over = std::cell::Cell::new(false);
    let talk = async {
        let ended = talk.await;
        over.set(true);
        ended
    };
    // The conversation needs nobody else for what it does in between.
    let turns = async || {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    };
    let (ended, ()) = tokio::join!(talk, async {
        node.accept().await;
        node.until(FrameType::PayloadEnd).await;
        node.respond(b"all of it", true).await;
        node.end(Kind::Ok, "").await;
        begun.await.unwrap();
        turns().await;
        interrupt.send(()).unwrap();
        turns().await;
        assert!(!over.get(), "it waits for the printer");
        go.send(()).unwrap();
    });
    let error = ended.unwrap().report().unwrap_err();
    assert_eq!(exit::of_error(&error), exit::CANCELLED);
    let printed = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
    assert!(
        printed.ends_with("}\n") && printed.contains("\"eof\""),
        "{printed}"
    );
}

#[tokio::test]
async fn an_interrupt_reaches_a_node_that_takes_no_more_payload() {
    let (client, mut node) = pair(64);
    let (interrupt, interrupted) = oneshot::channel();
    let payload = "x".repeat(1000);
    let talk = conversation(Some(&payload), Format::Raw).hold(client, || Ok(Sink::default()), async {
        interrupted.await.unwrap();
    });
    let (ended, ()) = tokio::join!(talk, async {
        node.until(FrameType::Submit).await;
        interrupt.send(()).unwrap();
        let frame = node.until(FrameType::Cancel).await;
        assert_eq!(frame.frame_type(), Some(FrameType::Cancel));
        let refused = Refused {
            kind: Kind::Cancelled,
            message: String::new(),
        };
        node.say_cbor(FrameType::Refused, &refused).await;
    });
    assert_eq!(
        exit::of_error(&ended.unwrap().report().unwrap_err()),
        exit::CANCELLED
    );
}

#[tokio::test]
async fn a_closed_stdout_cancels_the_unit_without_a_word() {
    let (client, mut node) = pair(4096);
    let talk = conversation(None, Format::Raw).hold(client, || Ok(ClosedSink), std::future::pending());
    let (ended, ()) = tokio::join!(talk, async {
        node.accept().await;
        node.respond(b"for nobody", true).await;
        node.until(FrameType::Cancel).await;
        node.end(Kind::Cancelled, "").await;
    });
    let error = ended.unwrap().report().unwrap_err();
    assert_eq!(exit::of_error(&error), exit::CANCELLED);
    assert_eq!(exit::line(&error), None);
}

#[tokio::test]
async fn responses_arrive_while_the_payload_is_under_way() {
    let (client, mut node) = pair(64);
    let payload = "x".repeat(10_000);
    let (ended, written) = hold(conversation(Some(&payload), Format::Raw), client, async {
        node.until(FrameType::Submit).await;
        node.accept().await;
        // More than the pipe holds: taken only if the client reads while it is stuck in its payload.
        node.respond(&[b'r'; 1000], true).await;
        assert_eq!(node.payload().await.len(), 10_000);
        node.end(Kind::Ok, "").await;
    })
    .await;
    assert_eq!(written.len(), 1000);
    assert_eq!(ended.unwrap().report().unwrap(), exit::OK);
}
