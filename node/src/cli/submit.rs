//! `node submit`: one unit from the command line, its responses to stdout, its end as the exit status.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgGroup, Args};
use uuid::Uuid;
use workmesh_proto::wire::unit::Submit;
use workmesh_proto::{NodeId, UnitId};

use super::connect::{Access, ConnectArgs};
use super::conversation::{Conversation, Opening};
use super::exit::{self, Failure};
use super::output::{Format, Output};
use super::payload::Payload;
use super::progress::Progress;
use super::value;

mod durable;

const EXAMPLES: &str = "\
Examples:
  node submit --directive text:upper 'hello mesh'
  node submit --to nodeB --directive sleep:execute '{\"duration\": 0.2, \"repeat\": 2}'
  node submit --directive digest:sha256 @backup.tar
  tar c . | node submit --to store --directive zstd:compress - > backup.tar.zst
  node submit --directive sys:info --format json | jq -r 'select(.type == \"response\").data'
  node submit --detach --to nodeB --directive sleep:execute '{\"duration\": 60}'    then: node work attach ID

Output:
  raw    the bytes of all responses, nothing added
  lines  a new line after each response, and control characters shown as \\x1b where stdout is a terminal
  json   one object a line: {\"type\":\"accepted\",\"unit\",\"executor\"}, {\"type\":\"response\",\"serial\",\"data\"}
         with \"data_base64\" for what is not UTF-8, {\"type\":\"eof\",\"outcome\",\"kind\",\"message\",\"responses\",
         \"bytes\",\"duration_ms\"}; of a response above 1 MiB all lines but the last have \"partial\":true
Without --format: lines on a terminal; elsewhere the raw bytes of a single response, and a line a response of several.

Ctrl-C cancels the unit and waits for its end; a second Ctrl-C does not wait.
A closed stdout cancels the unit too.

Durable units:
  --durable  the node that runs here keeps the unit on its disk, from before it is accepted. It ends exactly once, whatever
             fails: this command, this node, the one that runs it. If this node goes away the command waits for it, and goes on
             where it was. Ctrl-C cancels the unit; to leave it running use --detach, or close the terminal.
             json has {\"type\":\"stored\",\"unit\"} first, and {\"type\":\"started\",\"unit\"}; each new executor is one more
             {\"type\":\"accepted\"}
  --detach   prints the unit's id once it is stored, and does not wait; with --format json {\"type\":\"stored\",\"unit\"}.
             `node work` shows, follows and cancels units, and gives their responses later
If the node goes away before it says that the unit is stored, a text or a file is submitted again for up to 30 s; repeating
the command with the same --id is safe as long as the node keeps the unit (`node work list`).";

/// Run a unit of work and print its responses
#[derive(Args, Clone, Debug)]
#[command(after_help = format!("{EXAMPLES}\n\n{}", exit::HELP))]
#[command(group = ArgGroup::new("kept").multiple(true))]
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
    /// Keep the unit on this node's disk: it survives this command and any restart, and ends exactly once
    #[arg(long, group = "kept")]
    durable: bool,
    /// Print the unit's id as soon as it is stored, and leave it; implies --durable
    #[arg(long, group = "kept")]
    detach: bool,
    /// Running the unit twice does no harm: if its executor is lost it is run again elsewhere. With --durable or --detach
    #[arg(long, requires = "kept")]
    idempotent: bool,
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
    if submit.durable {
        let status = durable::run(&args, submit, payload, &mut io::stdout()).await?;
        return Ok(ExitCode::from(status));
    }
    let terminal = io::stdout().is_terminal();
    let access = Access::open(&args.connect).await?;
    let client = access.connect().await?;
    let conversation = conversation(submit, payload, args.format, terminal);
    let ended = conversation.hold(client, stdout, interrupt()).await;
    access.close().await;
    Ok(ExitCode::from(ended?.report()?))
}

/// A conversation about a new unit, written to a stdout that is a terminal or not.
fn conversation(submit: Submit, payload: Payload, format: Option<Format>, terminal: bool) -> Conversation {
    Conversation {
        progress: Progress::new(payload.length),
        opening: Opening::Submit { submit, payload },
        output: Some(Output::new(format, terminal)),
        share_terminal: terminal,
    }
}

/// Waits for Ctrl-C; the one after it ends the process at once.
pub(crate) async fn interrupt() {
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
pub(crate) fn stdout() -> io::Result<File> {
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
            durable: self.durable || self.detach,
            detach: self.detach,
            idempotent: self.idempotent,
            offer: None,
        };
        if submit.durable && !self.connect.peers.is_empty() {
            let flag = if self.detach { "--detach" } else { "--durable" };
            return Err(Failure::usage(format!(
                "{flag} needs the node that runs here, which keeps the unit; with --peers this command is the node, and \
                 ends with it: leave out --peers"
            ))
            .into());
        }
        match submit.check() {
            Ok(()) => Ok(submit),
            Err(why) => Err(Failure::usage(format!("--param: {why}; put it into the payload")).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: SubmitArgs,
    }

    fn submit(line: &str) -> Result<Submit, String> {
        let line = format!("submit -d echo:bytes {line}");
        let parsed = Line::try_parse_from(line.split_whitespace()).map_err(|e| e.to_string())?;
        parsed.args.to_submit().map_err(|e| {
            assert_eq!(exit::of_error(&e), exit::USAGE);
            e.to_string()
        })
    }

    #[test]
    fn what_is_detached_is_durable_and_only_that_is_run_twice() {
        let kept = |line| submit(line).map(|s| (s.durable, s.detach, s.idempotent));
        assert_eq!(kept(""), Ok((false, false, false)));
        assert_eq!(kept("--durable"), Ok((true, false, false)));
        assert_eq!(kept("--detach"), Ok((true, true, false)));
        assert_eq!(kept("--durable --detach --idempotent"), Ok((true, true, true)));
        assert!(kept("--idempotent").unwrap_err().contains("--durable"));
    }

    #[test]
    fn a_node_that_ends_with_the_command_keeps_nothing() {
        let error = submit("--peers a:8888 --detach").unwrap_err();
        assert!(error.contains("leave out --peers"), "{error}");
        assert!(submit("--peers a:8888").is_ok());
    }
}
