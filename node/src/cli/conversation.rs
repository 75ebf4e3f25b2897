//! A unit as the command line holds it: payload out, responses to a sink, until its one end; stopped by Ctrl-C, by a
//! sink that nobody reads any more, or by a payload that can't be read. Says on stderr only that a node is away,
//! and at a terminal where a durable unit is that sends nothing.

use std::fmt;
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
use workmesh_proto::wire::durable::Attach;
use workmesh_proto::wire::unit::{Eof, Kind, Submit};
use workmesh_proto::{NodeId, UnitId};

use super::ended::{End, Ended, Stopped};
use super::line::{Heard, Line, Way};
use super::output::Output;
use super::payload::Payload;
use super::printer::{Event, Printer};
use super::progress::Progress;
use super::silence::Silence;
use crate::control::client::{ClientError, UnitSender};

/// How long the end of a cancelled unit is awaited whose responses nobody reads any more, or whose node is away.
const UNREAD_END: Duration = Duration::from_secs(5);
/// How long what is left of an ended unit's output may take to be written after Ctrl-C.
const LAST_LINES: Duration = Duration::from_secs(1);

/// One unit, from its submission to its end.
#[derive(Debug)]
pub(crate) struct Conversation {
    /// How it begins.
    pub(crate) opening: Opening,
    /// Told of each piece.
    pub(crate) progress: Progress,
    /// Taken when there is something to write for the first time.
    pub(crate) output: Option<Output>,
    /// The responses go to the terminal that would show the progress.
    pub(crate) share_terminal: bool,
}

/// How a conversation begins.
#[derive(Debug)]
pub(crate) enum Opening {
    /// With a new unit, which is cancelled when the conversation is stopped.
    Submit {
        /// What is asked.
        submit: Submit,
        /// What is sent.
        payload: Payload,
    },
    /// With a durable unit, which goes on when the conversation is stopped.
    Attach(Attach),
}

/// The connection broke before the node said that a durable unit is stored. It may be stored or not.
#[derive(Debug)]
pub(crate) struct NotStored {
    /// What broke.
    pub(crate) error: ClientError,
    /// Whether the unit was to be stopped.
    pub(crate) stopped: bool,
}

impl fmt::Display for NotStored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for NotStored {}

/// What a conversation has come to.
struct Progressed {
    unit: UnitId,
    /// It is durable, and not known to be stored.
    unsure: bool,
    executor: Option<NodeId>,
    started: bool,
    end: Option<End>,
    stopped: Option<Stopped>,
}

impl Conversation {
    /// Holds the conversation: payload out, responses in, until the unit's one end. `sink` is opened when there is
    /// something to write; `interrupt` stops the unit, or leaves it if the conversation is attached to it.
    pub(crate) async fn hold<S, W>(
        self,
        way: impl Into<Way<S>>,
        sink: impl FnOnce() -> io::Result<W>,
        interrupt: impl Future<Output = ()>,
    ) -> anyhow::Result<Ended>
    where
        S: AsyncRead + AsyncWrite + Unpin,
        W: io::Write + Send + 'static,
    {
        let Self {
            opening,
            progress,
            mut output,
            share_terminal,
        } = self;
        let Way { client, redial } = way.into();
        let writes_all = matches!(output, Some(Output::Json(_)));
        let leaves = matches!(opening, Opening::Attach(_));
        let durable = leaves || matches!(&opening, Opening::Submit { submit, .. } if submit.durable);
        let mut sink = Some(sink);
        let (mut state, chosen, sender, receiver, payload) = match opening {
            Opening::Submit { submit, payload } => {
                let state = Progressed::new(submit.unit, submit.durable);
                let (sender, receiver) = client.submit(&submit).await.map_err(|e| state.broken(e))?;
                (state, submit.to.is_some(), sender, receiver, Some(payload))
            }
            Opening::Attach(attach) => {
                let state = Progressed::new(attach.unit, false);
                let (sender, receiver) = client.attach(&attach).await.map_err(|e| state.broken(e))?;
                (state, false, sender, receiver, None)
            }
        };
        let mut line = Line::new(state.unit, receiver, redial);
        let stop = CancellationToken::new();
        let mut upload = pin!(upload(sender, payload, &stop, &progress));
        let mut interrupt = pin!(interrupt);
        let mut uploading = true;
        let mut printer: Option<Printer> = None;
        let mut waiting: Option<Event> = None;
        let mut broken: Option<anyhow::Error> = None;
        let mut interrupted = false;
        let mut unread = false;
        let mut give_up: Option<Instant> = None;
        let mut silence = Silence::new(durable && progress.is_shown());
        if leaves {
            silence.begin(Instant::now());
        }

        while broken.is_none() && (state.end.is_none() || waiting.is_some()) {
            if waiting.is_some() && printer.is_none() {
                let (output, sink) = output
                    .take()
                    .zip(sink.take())
                    .context("the output is started once")?;
                printer = Some(Printer::start(output, sink().context("opening stdout")?)?);
            }
            tokio::select! {
                heard = line.next(), if waiting.is_none() && state.end.is_none() => match heard {
                    Err(error) => broken = Some(state.broken(error)),
                    Ok(Heard::Away) => {
                        silence.pause();
                        progress.say("the node is away; reconnecting...");
                        if state.stopped.is_some() {
                            give_up.get_or_insert(Instant::now() + UNREAD_END);
                        }
                    }
                    Ok(Heard::Back(sender)) => {
                        silence.begin(Instant::now());
                        upload.set(self::upload(sender, None, &stop, &progress));
                        uploading = true;
                    }
                    Ok(Heard::Event(event)) => {
                        if let OriginEvent::Piece(piece) = &event {
                            progress.received(piece.data.len());
                        }
                        silence.hear(&event, Instant::now());
                        waiting = state.take(event, leaves).filter(|event| {
                            let written = writes_all || matches!(event, Event::Piece(_));
                            written && (state.stopped.is_none() || writes_all) && !unread
                        });
                        if share_terminal && waiting.is_some() {
                            progress.hide();
                        }
                    }
                },
                room = room(printer.as_ref()), if waiting.is_some() => match (room, waiting.take()) {
                    (Some(room), Some(event)) => room.send(event),
                    _ => {
                        unread = true;
                        state.stop(Stopped::OutputClosed, leaves, &stop);
                        give_up.get_or_insert(Instant::now() + UNREAD_END);
                    }
                },
                () = closed(printer.as_ref()), if !unread => {
                    unread = true;
                    waiting = None;
                    state.stop(Stopped::OutputClosed, leaves, &stop);
                    give_up.get_or_insert(Instant::now() + UNREAD_END);
                }
                () = &mut interrupt, if !interrupted => {
                    interrupted = true;
                    waiting = waiting.filter(|_| writes_all);
                    state.stop(Stopped::Interrupted, leaves || line.is_away(), &stop);
                }
                sent = &mut upload, if uploading => {
                    uploading = false;
                    if let Err(error) = sent {
                        state.stopped.get_or_insert(Stopped::Payload(error));
                    }
                }
                () = until(silence.ends_at()), if state.end.is_none() && state.stopped.is_none() => {
                    silence.told();
                    progress.say(&state.place());
                }
                () = until(give_up), if state.end.is_none() => {
                    let unheard = || Eof::without_responses(Kind::Cancelled, "its end did not arrive");
                    state.end = Some(if durable { End::Unanswered } else { End::Eof(unheard()) });
                }
            }
        }
        progress.hide();
        let written = match printer {
            None => Ok(()),
            Some(printer) => {
                let mut finishing = pin!(printer.finish());
                tokio::select! {
                    written = &mut finishing => written,
                    () = &mut interrupt, if !interrupted => {
                        state.stopped.get_or_insert(Stopped::Interrupted);
                        // A reader that reads gets the rest, and no half a line.
                        tokio::time::timeout(LAST_LINES, finishing).await.unwrap_or(Ok(()))
                    }
                }
            }
        };
        if let Some(broken) = broken {
            return Err(broken);
        }
        Ok(Ended {
            unit: state.unit,
            executor: state.executor,
            chosen,
            end: state.end.context("a conversation ends with an end")?,
            stopped: state.stopped,
            written,
        })
    }
}

impl Progressed {
    fn new(unit: UnitId, unsure: bool) -> Self {
        Self {
            unit,
            unsure,
            executor: None,
            started: false,
            end: None,
            stopped: None,
        }
    }

    /// Notes an event; gives what there is to write of it. What a node that was away repeats is not written again.
    fn take(&mut self, event: OriginEvent, attached: bool) -> Option<Event> {
        match event {
            OriginEvent::Stored(_) => {
                let first = std::mem::take(&mut self.unsure);
                first.then_some(Event::Stored(self.unit))
            }
            OriginEvent::Accepted(accepted) => {
                let again = self.executor.as_ref() == Some(&accepted.executor);
                self.executor = Some(accepted.executor.clone());
                self.started &= again;
                (!again).then_some(Event::Accepted(self.unit, accepted.executor))
            }
            OriginEvent::Started(_) => {
                let again = std::mem::replace(&mut self.started, true);
                (!again).then_some(Event::Started(self.unit))
            }
            OriginEvent::Piece(piece) => Some(Event::Piece(piece)),
            OriginEvent::Refused(refused) => {
                let eof = Eof::without_responses(refused.kind, refused.message);
                self.end = Some(End::Eof(eof.clone()));
                (!attached).then_some(Event::Eof(eof))
            }
            OriginEvent::Eof(eof) => {
                self.end = Some(End::Eof(eof.clone()));
                Some(Event::Eof(eof))
            }
            OriginEvent::Unfinished(unfinished) => {
                self.end = Some(End::Unfinished(unfinished.clone()));
                Some(Event::Unfinished(unfinished))
            }
        }
    }

    /// Where it is, for somebody who waits for it.
    fn place(&self) -> String {
        let unit = self.unit;
        match &self.executor {
            None => format!("unit {unit} is not accepted yet; `node work show {unit}` says why"),
            Some(executor) => format!("unit {unit} is on {executor}"),
        }
    }

    /// Stops the unit; with `leave` it goes on, and nothing more is heard of it.
    fn stop(&mut self, why: Stopped, leave: bool, stop: &CancellationToken) {
        self.stopped.get_or_insert(why);
        if leave {
            self.end.get_or_insert(End::Left);
        } else {
            stop.cancel();
        }
    }

    fn broken(&self, error: ClientError) -> anyhow::Error {
        if self.unsure && error.is_absence() {
            let stopped = self.stopped.is_some();
            return NotStored { error, stopped }.into();
        }
        anyhow::Error::from(error).context(format!("unit {}", self.unit))
    }
}

/// Sends the payload, if there is one to send, then waits for `stop` and sends a cancellation. Fails if the payload can't be read,
/// having sent one.
pub(crate) async fn upload<W: AsyncWrite + Unpin>(
    mut sender: UnitSender<W>,
    payload: Option<Payload>,
    stop: &CancellationToken,
    progress: &Progress,
) -> io::Result<()> {
    let sent = stop
        .run_until_cancelled(send(&mut sender, payload, progress))
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
    payload: Option<Payload>,
    progress: &Progress,
) -> io::Result<Sent> {
    let Some(mut payload) = payload else {
        return Ok(sender.flush().await.map_or(Sent::Stuck, |()| Sent::All));
    };
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
mod tests;
