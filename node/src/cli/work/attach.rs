//! `node work attach` and `node work results`: the responses of a durable unit, and its end as the exit status.

use std::io::{self, IsTerminal, Write as _};
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use workmesh_proto::UnitId;
use workmesh_proto::wire::durable::Attach;
use workmesh_proto::wire::unit::Outcome;

use crate::cli::connect::{connect_node, redial};
use crate::cli::conversation::{Conversation, Opening};
use crate::cli::ended::End;
use crate::cli::exit;
use crate::cli::line::Way;
use crate::cli::output::{Format, Output};
use crate::cli::progress::Progress;
use crate::cli::submit::{interrupt, stdout};

const ATTACH_EXAMPLES: &str = "\
Examples:
  node work attach ID
  node work attach ID --from 12     without the first 11 responses
  id=$(node submit --detach --directive sys:info) && node work attach \"$id\"

Prints what `node submit --durable` would have printed, in the same formats, waits for the unit's end, and exits as it does;
if the node goes away the command waits for it, and goes on where it was. Ctrl-C and a closed stdout leave the unit running;
the exit status is 130 then. Any number of commands can follow one unit.";

const RESULTS_EXAMPLES: &str = "\
Examples:
  node work results ID
  node work results ID --format raw > backup.tar.zst

Prints the responses that there are, and does not wait. The exit status is that of the unit's end; 5 if it has not ended yet.
With --format json the last line is then {\"type\":\"unfinished\",\"state\",\"reason\"}.";

/// Follow a durable unit: its responses from the first on, and its end
#[derive(Args, Clone, Debug)]
#[command(after_help = format!("{ATTACH_EXAMPLES}\n\n{}", exit::HELP))]
pub(super) struct AttachArgs {
    #[command(flatten)]
    what: What,
}

/// Print the responses of a durable unit that there are, without waiting
#[derive(Args, Clone, Debug)]
#[command(after_help = format!("{RESULTS_EXAMPLES}\n\n{}", exit::HELP))]
pub(super) struct ResultsArgs {
    #[command(flatten)]
    what: What,
}

/// Which responses of which unit, in which form.
#[derive(Args, Clone, Debug)]
struct What {
    /// Which unit
    #[arg(value_name = "ID", value_parser = super::unit)]
    unit: UnitId,
    /// Begin with this response, counted from 1; from the second on each is a line unless --format says otherwise, and of a unit that ends with fewer none is printed
    #[arg(
        long,
        value_name = "SERIAL",
        default_value_t = 1,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    from: u64,
    /// The form of the output, as of `node submit`
    #[arg(long, value_enum, conflicts_with = "json")]
    format: Option<Format>,
    /// Print JSON: the same as --format json
    #[arg(long)]
    json: bool,
}

/// Runs `node work attach`.
pub(super) async fn attach(args: AttachArgs, data_dir: &Path) -> anyhow::Result<ExitCode> {
    args.what.hold(true, data_dir).await
}

/// Runs `node work results`.
pub(super) async fn results(args: ResultsArgs, data_dir: &Path) -> anyhow::Result<ExitCode> {
    args.what.hold(false, data_dir).await
}

impl What {
    async fn hold(&self, follow: bool, data_dir: &Path) -> anyhow::Result<ExitCode> {
        let way = Way {
            client: connect_node(data_dir).await?,
            redial: Some(redial(data_dir)),
        };
        let conversation = self.conversation(follow, io::stdout().is_terminal());
        let ended = conversation.hold(way, stdout, interrupt()).await?;
        if let Some(remark) = self.passed_over(&ended.end) {
            // Nobody may read it.
            let _unread = writeln!(io::stderr(), "node: {remark}");
        }
        Ok(ExitCode::from(ended.report()?))
    }

    /// What to say of a success in which no response was left to print.
    fn passed_over(&self, end: &End) -> Option<String> {
        let End::Eof(eof) = end else { return None };
        let behind = eof.outcome == Outcome::Succeeded && eof.responses < self.from - 1;
        behind.then(|| {
            let (unit, responses, from) = (self.unit, eof.responses, self.from);
            format!("unit {unit} has {responses} responses in all: none was left to begin with at {from}")
        })
    }

    fn conversation(&self, follow: bool, terminal: bool) -> Conversation {
        let format = if self.json {
            Some(Format::Json)
        } else {
            // Of several responses, as the unit has: what is left of it is printed as the whole would be.
            self.format.or((self.from > 1).then_some(Format::Lines))
        };
        Conversation {
            opening: Opening::Attach(Attach {
                unit: self.unit,
                responses: self.from - 1,
                bytes: None,
                follow,
            }),
            progress: Progress::new(None),
            output: Some(Output::new(format, terminal)),
            share_terminal: terminal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::work::tests::mistake;

    #[test]
    fn responses_are_counted_from_1() {
        let what = What {
            unit: UnitId(uuid::Uuid::nil()),
            from: 3,
            format: None,
            json: true,
        };
        let conversation = what.conversation(true, false);
        let Opening::Attach(attach) = &conversation.opening else {
            panic!("a new unit");
        };
        assert_eq!((attach.responses, attach.bytes, attach.follow), (2, None, true));
        assert!(matches!(conversation.output, Some(Output::Json(_))));
        for (from, lines) in [(1, false), (2, true)] {
            let plain = What {
                from,
                json: false,
                ..what.clone()
            };
            let output = plain.conversation(true, false).output;
            assert_eq!(matches!(output, Some(Output::Lines(None))), lines);
        }
        let unit = what.unit;
        assert_eq!(mistake(&format!("attach {unit} --from 1 --format raw")), None);
        assert!(mistake(&format!("attach {unit} --from 0")).is_some());
        assert!(mistake(&format!("results {unit} --json --format raw")).is_some());
    }
}
