//! `node trace`: the way to a node, hop by hop.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use workmesh_proto::NodeId;

use super::connect::{Access, ConnectArgs};
use super::{exit, text};
use crate::unit::report::HopReport;

const EXAMPLES: &str = "\
Examples:
  node trace nodeE
  node trace nodeE --json | jq -s 'map(.node)'

With --json each hop is one object a line: hop, node, rtt_ms.
The time of a hop is the round trip from here to that node, not from the hop before.";

/// Show the way to a node, with the round-trip time to each hop
#[derive(Args, Clone, Debug)]
#[command(after_help = format!("{EXAMPLES}\n\n{}", exit::HELP))]
pub(crate) struct TraceArgs {
    /// Where to
    node: NodeId,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

/// Runs the verb.
pub(crate) async fn run(args: TraceArgs) -> anyhow::Result<ExitCode> {
    let access = Access::open(&args.connect).await?;
    let traced = trace(&args, &access).await;
    access.close().await;
    traced.map(|()| ExitCode::SUCCESS)
}

async fn trace(args: &TraceArgs, access: &Access) -> anyhow::Result<()> {
    let mut out = anstream::stdout();
    let mut hops = access.connect().await?.trace(args.node.clone()).await?;
    while let Some(hop) = hops.next().await? {
        if args.json {
            writeln!(out, "{}", serde_json::to_string(&hop)?)?;
        } else {
            writeln!(out, "{}", line(&hop))?;
        }
    }
    Ok(())
}

/// Hops are shown as they are found, so their columns have a width that suits most names.
fn line(hop: &HopReport) -> String {
    format!(
        "{:>2}  {:<24}  {:>9}",
        hop.hop,
        hop.node,
        text::milliseconds(hop.rtt_ms)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hops_stand_below_each_other() {
        let hop = |hop, node, rtt_ms| HopReport {
            hop,
            node: NodeId::parse(node).unwrap(),
            rtt_ms,
        };
        assert_eq!(line(&hop(1, "b", 0.5)), " 1  b                           0.50 ms");
        assert_eq!(
            line(&hop(10, "nodeC", 123.4)),
            "10  nodeC                        123 ms"
        );
    }
}
