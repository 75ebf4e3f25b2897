//! `node submit`: one unit from the command line, its responses to stdout, its end as the exit status.

use std::collections::BTreeMap;
use std::fs::File;
use std::future::Future;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use workmesh_proto::unit::OriginEvent;
use workmesh_proto::wire::unit::{Eof, Kind, Submit};
use workmesh_proto::{NodeId, UnitId};

use super::connect::{Access, ConnectArgs};
use super::exit::{self, Failure};
use super::output::{Format, Output};
use super::payload::Payload;
use super::printer::{Event, Printer};
use super::progress::Progress;
use super::{text, value};
use crate::control::client::{Client, UnitSender};

/// How long the end of a unit is awaited whose responses nobody reads any more.
const UNREAD_END: Duration = Duration::from_secs(5);

const EXAMPLES: &str = "\
Examples:
  node submit --directive text:upper 'hello mesh'
  node submit --to nodeB --directive sleep:execute '{\"duration\": 0.2, \"repeat\": 2}'
  node submit --directive digest:sha256 @backup.tar
  tar c . | node submit --to store --directive zstd:compress - > backup.tar.zst
  node submit --directive sys:info --format json | jq -r 'select(.type == \"response\").data'

Output:
  raw    the bytes of all responses, nothing added (default where stdout is no terminal)
  lines  a new line after each response (default on a terminal, where control characters are shown as \\x1b)
  json   one object a line: {\"type\":\"accepted\",\"unit\",\"executor\"}, {\"type\":\"response\",\"serial\",\"data\"}
         with \"data_base64\" for what is not UTF-8, {\"type\":\"eof\",\"outcome\",\"kind\",\"message\",\"responses\",
         \"bytes\",\"duration_ms\"}; of a response above 1 MiB all lines but the last have \"partial\":true

Ctrl-C cancels the unit and waits for its end; a second Ctrl-C does not wait.
A closed stdout cancels the unit too.";

/// Run a unit of work and print its responses
#[derive(Args, Clone, Debug)]
#[command(after_help = format!("{EXAMPLES}\n\n{}", exit::HELP))]
pub(crate) struct SubmitArgs {
    /// What to run
    #[arg(long, short, value_name = "MODULE:FUNCTION")]
    directive: String,
    /// The payload: a text, @FILE for a file's content, - for stdin; nothing if left out. @@ begins a text with @
    payload: Option<String>,
    /// The node that runs it; without, the nearest capable node with the least load
    #[arg(long, short, value_name = "NODE")]
    to: Option<NodeId>,
    /// A parameter for the worker; may be repeated
    #[arg(long = "param", short, value_name = "KEY=VALUE", value_parser = value::key_value)]
    params: Vec<(String, String)>,
    /// How long the unit may take in all, as in 30s, 5m or 1h30m
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    deadline: Option<Duration>,
    /// The unit's id; the same id twice is one unit. A new one if left out
    #[arg(long, value_name = "UUID")]
    id: Option<Uuid>,
    /// The form of the output
    #[arg(long, value_enum)]
    format: Option<Format>,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

/// Runs the verb.
pub(crate) async fn run(args: SubmitArgs) -> anyhow::Result<ExitCode> {
    let mut submit = args.to_submit()?;
    let payload = Payload::open(args.payload.as_deref())?;
    submit.payload_bytes = payload.length;
    let terminal = io::stdout().is_terminal();
    let format = args
        .format
        .unwrap_or(if terminal { Format::Lines } else { Format::Raw });
    let access = Access::open(&args.connect).await?;
    let client = access.connect().await?;
    let progress = Progress::new(payload.length);
    let conversation = Conversation {
        submit,
        payload,
        progress,
        output: Some(Output::new(format, terminal)),
        share_terminal: terminal,
    };
    let ended = conversation.hold(client, stdout, interrupt()).await;
    access.close().await;
    Ok(ExitCode::from(ended?.report()?))
}

/// Waits for Ctrl-C; the one after it ends the process at once.
async fn interrupt() {
    if tokio::signal::ctrl_c().await.is_err() {
        return std::future::pending().await;
    }
    tokio::spawn(async {
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(exit::CANCELLED.into());
        }
    });
}

/// Stdout without the line buffer of the standard library.
fn stdout() -> io::Result<File> {
    Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?))
}

impl SubmitArgs {
    fn to_submit(&self) -> anyhow::Result<Submit> {
        let mut params = BTreeMap::new();
        for (key, value) in &self.params {
            if params.insert(key.clone(), value.clone()).is_some() {
                return Err(Failure::usage(format!("--param {key} is given twice; give it once")).into());
            }
        }
        let submit = Submit {
            unit: UnitId(self.id.unwrap_or_else(Uuid::now_v7)),
            directive: self.directive.clone(),
            to: self.to.clone(),
            payload_bytes: None,
            params,
            deadline_ms: self
                .deadline
                .map(|d| d.as_millis().try_into().unwrap_or(u64::MAX)),
            trace: None,
        };
        match submit.check() {
            Ok(()) => Ok(submit),
            Err(why) => Err(Failure::usage(format!("--param: {why}; put it into the payload")).into()),
        }
    }
}

/// One unit, from its submission to its end.
#[derive(Debug)]
struct Conversation {
    submit: Submit,
    payload: Payload,
    progress: Progress,
    /// Taken when there is something to write for the first time.
    output: Option<Output>,
    /// The responses go to the terminal that would show the progress.
    share_terminal: bool,
}

/// Why a unit was stopped from here.
#[derive(Debug)]
enum Stopped {
    Interrupted,
    OutputClosed,
    Payload(io::Error),
}

/// How a unit ended, as seen from here.
#[derive(Debug)]
struct Ended {
    unit: UnitId,
    executor: Option<NodeId>,
    chosen: bool,
    eof: Eof,
    stopped: Option<Stopped>,
    written: io::Result<()>,
}

impl Conversation {
    /// Holds the conversation: payload out, responses in, until the unit's one end. `sink` is opened when there is
    /// something to write; `interrupt` stops the unit.
    async fn hold<S, W>(
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
        let mut interrupted = false;
        let mut unread_until: Option<Instant> = None;

        while end.is_none() || waiting.is_some() {
            if let (Some(_), None, Some(open)) = (&waiting, &printer, output.take()) {
                let sink = sink.take().context("stdout was opened already")?;
                printer = Some(Printer::start(open, sink().context("opening stdout")?)?);
            }
            tokio::select! {
                event = receiver.next(), if waiting.is_none() && end.is_none() => {
                    let event = event.with_context(|| format!("unit {}", submit.unit))?;
                    waiting = match event {
                        OriginEvent::Accepted(accepted) => {
                            executor = Some(accepted.executor.clone());
                            Some(Event::Accepted(submit.unit, accepted.executor))
                        }
                        OriginEvent::Piece(piece) => {
                            progress.received(piece.data.len());
                            Some(Event::Piece(piece))
                        }
                        OriginEvent::Refused(refused) => {
                            end = Some(Eof::without_responses(refused.kind, refused.message));
                            end.clone().map(Event::Eof)
                        }
                        OriginEvent::Eof(eof) => {
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
                        (Some(room), Some(event)) => drop(room.send(event)),
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

impl Ended {
    /// The exit status; an error is the line for stderr.
    fn report(self) -> anyhow::Result<u8> {
        let unit = self.unit;
        if let Err(error) = self.written {
            let gone = error.kind() == io::ErrorKind::BrokenPipe;
            let text = format!("unit {unit}: cancelled, because its responses can't be written: {error}");
            let (status, text) = if gone {
                (exit::CANCELLED, String::new())
            } else {
                (exit::FAILED, text)
            };
            return Err(Failure::new(status, text).into());
        }
        match self.stopped {
            Some(Stopped::Payload(error)) => {
                let text = format!("unit {unit}: cancelled, because its payload can't be read: {error}");
                return Err(Failure::new(exit::FAILED, text).into());
            }
            Some(Stopped::Interrupted) => {
                let text = format!("unit {unit}: cancelled; its end: {}", self.eof.outcome);
                return Err(Failure::new(exit::CANCELLED, text).into());
            }
            Some(Stopped::OutputClosed) => return Err(Failure::new(exit::CANCELLED, "").into()),
            None => {}
        }
        let status = exit::of_unit(self.eof.outcome, self.eof.kind);
        if status == exit::OK {
            return Ok(status);
        }
        let place = self
            .executor
            .map_or_else(String::new, |node| format!(" on {node}"));
        let mut line = format!(
            "unit {unit}{place}: {}: {}",
            self.eof.kind,
            text::one_line(&self.eof.message)
        );
        if let Some(remedy) = remedy(self.eof.kind, self.chosen, &self.eof.message) {
            line.push_str("; ");
            line.push_str(remedy);
        }
        Err(Failure::new(status, line).into())
    }
}

/// What the command line can do about an end, unless its message says so already.
fn remedy(kind: Kind, chosen: bool, message: &str) -> Option<&'static str> {
    let (remedy, key) = match kind {
        Kind::Busy if chosen => ("try again, or leave out --to", "--to"),
        Kind::Busy => ("try again later", "again"),
        Kind::NoSuchNode | Kind::NoRoute => {
            ("`node status` shows the nodes that can be reached", "node status")
        }
        Kind::UnknownModule | Kind::UnknownFunction | Kind::NoCapableNode => {
            ("`node workers` shows what can be run", "node workers")
        }
        Kind::Expired => ("allow more time with --deadline", "deadline"),
        Kind::MalformedDirective => ("write module:function", "module:function"),
        _ => return None,
    };
    (!message.contains(key)).then_some(remedy)
}
