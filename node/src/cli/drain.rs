//! `node drain`: the local node takes no new units, and those that it runs come to their end.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{exit, text};
use crate::control::client::{ClientError, connect_socket};
use crate::unit::report::DrainReport;

const EXAMPLES: &str = "\
Examples:
  node drain
  node drain --json | jq .stopped
  node drain --data-dir /var/lib/workmesh && systemctl stop workmesh-node

The mesh hears first that this node has no workers any more; new units are refused as `draining`.
Units that run or wait have the time of --drain-grace, a setting of the node, then they end as
`shutdown`. The node stays up as a relay; starting it anew ends the drained state. Interrupting
this command does not.

With --json: node, ended (by themselves), stopped, stuck (functions that have not returned).";

/// How often the progress is looked at.
const LOOK: Duration = Duration::from_millis(300);

/// Take no new units, and wait until those that run here have ended
#[derive(Args, Clone, Debug)]
#[command(after_help = format!("{EXAMPLES}\n\n{}", exit::HELP))]
pub(crate) struct DrainArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
pub(crate) async fn run(args: DrainArgs, data_dir: PathBuf) -> anyhow::Result<ExitCode> {
    let draining = async { connect_socket(&data_dir).await?.drain().await };
    let drained = if io::stderr().is_terminal() {
        tokio::select! {
            drained = draining => drained,
            never = show_progress(&data_dir) => match never {},
        }
    } else {
        draining.await
    };
    let report = drained?;
    let mut out = anstream::stdout();
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        writeln!(out, "{}", line(&report))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn line(report: &DrainReport) -> String {
    let DrainReport {
        node,
        ended,
        stopped,
        stuck,
    } = report;
    let mut line = format!(
        "{node} is drained: {} ended, {stopped} stopped",
        text::count(*ended, "unit")
    );
    if *stuck > 0 {
        line.push_str(&format!(
            "; {} not returned and will end with the node",
            match stuck {
                1 => "1 function has".to_owned(),
                some => format!("{some} functions have"),
            }
        ));
    }
    line
}

/// Shows what still runs, for as long as it is polled.
async fn show_progress(data_dir: &Path) -> std::convert::Infallible {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}");
    bar.set_style(style.expect("the template is a constant that parses"));
    let _cleared = Cleared(bar.clone());
    loop {
        tokio::time::sleep(LOOK).await;
        let asked: Result<_, ClientError> = async { connect_socket(data_dir).await?.status().await }.await;
        // A node that is gone says so by the drain's own answer.
        if let Ok(report) = asked {
            bar.set_message(format!("draining: {}", text::pool(&report.pool)));
            bar.tick();
        }
    }
}

/// Takes the display away when dropped.
struct Cleared(ProgressBar);

impl Drop for Cleared {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use workmesh_proto::NodeId;

    use super::*;

    #[test]
    fn the_line_says_how_many_ended_and_how_many_were_stopped() {
        let report = |ended, stopped, stuck| DrainReport {
            node: NodeId::parse("b").unwrap(),
            ended,
            stopped,
            stuck,
        };
        assert_eq!(line(&report(2, 0, 0)), "b is drained: 2 units ended, 0 stopped");
        assert_eq!(
            line(&report(1, 3, 1)),
            "b is drained: 1 unit ended, 3 stopped; 1 function has not returned and will end with the node"
        );
    }
}
