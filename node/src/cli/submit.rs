//! `node submit`: one unit from the command line, its responses to stdout, its end as the exit status.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use uuid::Uuid;
use workmesh_proto::wire::unit::{Kind, Submit};
use workmesh_proto::{NodeId, UnitId};

use super::connect::{Access, ConnectArgs};
use super::conversation::{Conversation, Ended, Stopped};
use super::exit::{self, Failure};
use super::output::{Format, Output};
use super::payload::Payload;
use super::progress::Progress;
use super::{text, value};

const EXAMPLES: &str = "\
Examples:
  node submit --directive text:upper 'hello mesh'
  node submit --to nodeB --directive sleep:execute '{\"duration\": 0.2, \"repeat\": 2}'
  node submit --directive digest:sha256 @backup.tar
  tar c . | node submit --to store --directive zstd:compress - > backup.tar.zst
  node submit --directive sys:info --format json | jq -r 'select(.type == \"response\").data'

Output:
  raw    the bytes of all responses, nothing added
  lines  a new line after each response, and control characters shown as \\x1b where stdout is a terminal
  json   one object a line: {\"type\":\"accepted\",\"unit\",\"executor\"}, {\"type\":\"response\",\"serial\",\"data\"}
         with \"data_base64\" for what is not UTF-8, {\"type\":\"eof\",\"outcome\",\"kind\",\"message\",\"responses\",
         \"bytes\",\"duration_ms\"}; of a response above 1 MiB all lines but the last have \"partial\":true
Without --format: lines on a terminal; elsewhere the raw bytes of a single response, and a line a response of several.

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
    let access = Access::open(&args.connect).await?;
    let client = access.connect().await?;
    let progress = Progress::new(payload.length);
    let conversation = Conversation {
        submit,
        payload,
        progress,
        output: Some(Output::new(args.format, terminal)),
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
            durable: false,
            detach: false,
            idempotent: false,
            offer: None,
        };
        match submit.check() {
            Ok(()) => Ok(submit),
            Err(why) => Err(Failure::usage(format!("--param: {why}; put it into the payload")).into()),
        }
    }
}

impl Ended {
    /// The exit status; an error is the line for stderr.
    pub(crate) fn report(self) -> anyhow::Result<u8> {
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
        Kind::Busy if chosen => ("or leave out --to", "--to"),
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
