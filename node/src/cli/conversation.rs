//! A unit as the command line holds it: payload out, responses to a sink, until its one end; stopped by Ctrl-C, by a
//! sink that nobody reads any more, or by a payload that can't be read. Prints nothing itself.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use workmesh_proto::unit::OriginEvent;
use workmesh_proto::wire::unit::{Eof, Kind, Submit};
use workmesh_proto::{NodeId, UnitId};

use super::output::Output;
use super::payload::Payload;
use super::printer::{Event, Printer};
use super::progress::Progress;
use crate::control::client::{Client, UnitSender};

/// How long the end of a unit is awaited whose responses nobody reads any more.
const UNREAD_END: Duration = Duration::from_secs(5);

/// One unit, from its submission to its end.
#[derive(Debug)]
pub(crate) struct Conversation {
    /// What is asked.
    pub(crate) submit: Submit,
    /// What is sent.
    pub(crate) payload: Payload,
    /// Told of each piece.
    pub(crate) progress: Progress,
    /// Taken when there is something to write for the first time.
    pub(crate) output: Option<Output>,
    /// The responses go to the terminal that would show the progress.
    pub(crate) share_terminal: bool,
}

/// Why a unit was stopped from here.
#[derive(Debug)]
pub(crate) enum Stopped {
    /// By Ctrl-C.
    Interrupted,
    /// Nobody reads the responses.
    OutputClosed,
    /// The payload can't be read.
    Payload(io::Error),
}

/// How a unit ended, as seen from here.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Which unit.
    pub(crate) unit: UnitId,
    /// Who ran it, if it was taken.
    pub(crate) executor: Option<NodeId>,
    /// Whether the submitter named the executor.
    pub(crate) chosen: bool,
    /// The end; a refusal is one without responses.
    pub(crate) eof: Eof,
    /// Why it was stopped from here, if it was.
    pub(crate) stopped: Option<Stopped>,
    /// Whether all responses were written.
    pub(crate) written: io::Result<()>,
}

impl Conversation {
    /// Holds the conversation: payload out, responses in, until the unit's one end. `sink` is opened when there is
    /// something to write; `interrupt` stops the unit.
    pub(crate) async fn hold<S, W>(
        self,
        client: Client<S>,
        sink: impl FnOnce() -> io::Result<W>,
        interrupt: impl Future<Output = ()>,
    ) -> anyhow::Result<Ended>
    where
        S: AsyncRead + AsyncWrite + Unpin,
        W: io::Write + Send + 'static,
    {
        let Self {
            submit,
            payload,
            progress,
            mut output,
            share_terminal,
        } = self;
        let writes_all = matches!(output, Some(Output::Json(_)));
        let mut sink = Some(sink);
        let (sender, mut receiver) = client.submit(&submit).await?;
        let stop = CancellationToken::new();
        let mut upload = pin!(upload(sender, payload, &stop, &progress));
        let mut interrupt = pin!(interrupt);
        let mut uploading = true;
        let mut printer: Option<Printer> = None;
        let mut waiting: Option<Event> = None;
        let mut stopped: Option<Stopped> = None;
        let mut executor = None;
        let mut end: Option<Eof> = None;
        let mut broken: Option<anyhow::Error> = None;
        let mut interrupted = false;
        let mut unread_until: Option<Instant> = None;

        while broken.is_none() && (end.is_none() || waiting.is_some()) {
            if waiting.is_some() && printer.is_none() {
                let (output, sink) = output
                    .take()
                    .zip(sink.take())
                    .context("the output is started once")?;
                printer = Some(Printer::start(output, sink().context("opening stdout")?)?);
            }
            tokio::select! {
                event = receiver.next(), if waiting.is_none() && end.is_none() => {
                    waiting = match event {
                        Err(error) => {
                            broken = Some(anyhow::Error::from(error).context(format!("unit {}", submit.unit)));
                            None
                        }
                        Ok(OriginEvent::Accepted(accepted)) => {
                            executor = Some(accepted.executor.clone());
                            Some(Event::Accepted(submit.unit, accepted.executor))
                        }
                        Ok(OriginEvent::Piece(piece)) => {
                            progress.received(piece.data.len());
                            Some(Event::Piece(piece))
                        }
                        Ok(OriginEvent::Refused(refused)) => {
                            end = Some(Eof::without_responses(refused.kind, refused.message));
                            end.clone().map(Event::Eof)
                        }
                        Ok(OriginEvent::Stored(_) | OriginEvent::Started(_) | OriginEvent::Unfinished(_)) => None,
                        Ok(OriginEvent::Eof(eof)) => {
                            end = Some(eof);
                            end.clone().map(Event::Eof)
                        }
                    };
                    waiting = waiting.filter(|event| {
                        let written = writes_all || matches!(event, Event::Piece(_));
                        written && (stopped.is_none() || writes_all) && unread_until.is_none()
                    });
                    if share_terminal && waiting.is_some() {
                        progress.hide();
                    }
                }
                room = room(printer.as_ref()), if waiting.is_some() => {
                    match (room, waiting.take()) {
                        (Some(room), Some(event)) => room.send(event),
                        _ => {
                            stopped.get_or_insert(Stopped::OutputClosed);
                            unread_until = Some(Instant::now() + UNREAD_END);
                            stop.cancel();
                        }
                    }
                }
                () = closed(printer.as_ref()), if unread_until.is_none() => {
                    stopped.get_or_insert(Stopped::OutputClosed);
                    unread_until = Some(Instant::now() + UNREAD_END);
                    waiting = None;
                    stop.cancel();
                }
                () = &mut interrupt, if !interrupted => {
                    interrupted = true;
                    stopped.get_or_insert(Stopped::Interrupted);
                    waiting = waiting.filter(|_| writes_all);
                    stop.cancel();
                }
                sent = &mut upload, if uploading => {
                    uploading = false;
                    if let Err(error) = sent {
                        stopped.get_or_insert(Stopped::Payload(error));
                    }
                }
                () = until(unread_until), if end.is_none() => {
                    end = Some(Eof::without_responses(Kind::Cancelled, "its end did not arrive"));
                }
            }
        }
        progress.hide();
        let written = match printer {
            None => Ok(()),
            Some(printer) => tokio::select! {
                written = printer.finish() => written,
                () = &mut interrupt, if !interrupted => {
                    stopped.get_or_insert(Stopped::Interrupted);
                    Ok(())
                }
            },
        };
        if let Some(broken) = broken {
            return Err(broken);
        }
        let eof = end.context("a conversation ends with an end")?;
        Ok(Ended {
            unit: submit.unit,
            executor,
            chosen: submit.to.is_some(),
            eof,
            stopped,
            written,
        })
    }
}

/// Sends the payload, then waits for `stop` and sends a cancellation. Fails if the payload can't be read, having sent one.
async fn upload<W: AsyncWrite + Unpin>(
    mut sender: UnitSender<W>,
    mut payload: Payload,
    stop: &CancellationToken,
    progress: &Progress,
) -> io::Result<()> {
    let sent = stop
        .run_until_cancelled(send(&mut sender, &mut payload, progress))
        .await;
    let read = match sent {
        Some(Ok(Sent::All)) => {
            stop.cancelled().await;
            Ok(())
        }
        // The other half of the conversation tells why.
        Some(Ok(Sent::Stuck)) => return Ok(()),
        Some(Err(error)) => Err(error),
        None => Ok(()),
    };
    // A connection that takes no cancellation any more has its end on the other half.
    let _ = sender.cancel().await;
    read
}

/// How far a payload came.
enum Sent {
    All,
    /// The connection takes no more.
    Stuck,
}

async fn send<W: AsyncWrite + Unpin>(
    sender: &mut UnitSender<W>,
    payload: &mut Payload,
    progress: &Progress,
) -> io::Result<Sent> {
    while let Some(piece) = payload.next().await? {
        let length = piece.len();
        if sender.payload(piece).await.is_err() {
            return Ok(Sent::Stuck);
        }
        progress.sent(length);
    }
    Ok(sender.payload_end().await.map_or(Sent::Stuck, |()| Sent::All))
}

async fn room(printer: Option<&Printer>) -> Option<mpsc::Permit<'_, Event>> {
    match printer {
        Some(printer) => printer.room().await,
        None => std::future::pending().await,
    }
}

async fn closed(printer: Option<&Printer>) {
    match printer {
        Some(printer) => printer.closed().await,
        None => std::future::pending().await,
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use tokio::io::DuplexStream;
    use tokio::sync::oneshot;
    use workmesh_proto::wire::frame::FrameType;
    use workmesh_proto::wire::unit::Refused;

    use super::*;
    use crate::cli::exit;
    use crate::cli::output::Format;
    use crate::control::scripted::{Scripted, pair, submit};

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
            submit: submit("echo:buffer"),
            payload: Payload::open(payload).unwrap(),
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
}
