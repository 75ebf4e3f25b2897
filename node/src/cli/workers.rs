//! `node workers`: what can be run, and where.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use workmesh_proto::NodeId;

use super::connect::{Access, ConnectArgs};
use super::exit::{self, Failure};
use super::text;
use crate::unit::report::WorkerReport;

const EXAMPLES: &str = "\
Examples:
  node workers
  node workers digest               the functions of one module
  node workers digest:sha256        the nodes that have one function
  node workers --node nodeB --json

With --json each worker is one object a line: node, directive, payload, version, idempotent, description.
If a filter leaves nothing, the exit status is 3.";

/// Show what can be run: each worker of each node
#[derive(Args, Clone, Debug)]
#[command(after_help = format!("{EXAMPLES}\n\n{}", exit::HELP))]
pub(crate) struct WorkersArgs {
    /// Only this module or this module:function
    #[arg(value_name = "DIRECTIVE")]
    filter: Option<String>,
    /// Only the workers of this node
    #[arg(long, short)]
    node: Option<NodeId>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

/// Runs the verb.
pub(crate) async fn run(args: WorkersArgs) -> anyhow::Result<ExitCode> {
    let access = Access::open(&args.connect).await?;
    let asked = async { anyhow::Ok(access.connect().await?.workers().await?) }.await;
    access.close().await;
    let mut workers: Vec<WorkerReport> = asked?;
    workers.retain(|worker| args.wants(worker));
    workers.sort_by(|a, b| (&a.directive, &a.node).cmp(&(&b.directive, &b.node)));
    if workers.is_empty() {
        return Err(Failure::new(exit::UNREACHABLE, args.nothing()).into());
    }
    let mut out = anstream::stdout();
    if args.json {
        for worker in &workers {
            writeln!(out, "{}", serde_json::to_string(worker)?)?;
        }
    } else {
        out.write_all(listing(&workers).as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

impl WorkersArgs {
    fn wants(&self, worker: &WorkerReport) -> bool {
        let node = self.node.as_ref().is_none_or(|node| *node == worker.node);
        let directive = self.filter.as_ref().is_none_or(|filter| {
            let module = worker.directive.split_once(':').map_or("", |(module, _)| module);
            *filter == worker.directive || filter == module
        });
        node && directive
    }

    fn nothing(&self) -> String {
        let place = self
            .node
            .as_ref()
            .map_or("in the mesh".to_owned(), |node| format!("on {node}"));
        match &self.filter {
            Some(filter) => format!("no worker {filter} {place}; `node workers` shows all"),
            None => format!("no worker {place}; `node status` shows the nodes that can be reached"),
        }
    }
}

fn listing(workers: &[WorkerReport]) -> String {
    let rows = workers.iter().map(|worker| {
        [
            worker.directive.clone(),
            worker.node.to_string(),
            worker.payload.clone(),
            worker.version.clone(),
            worker.description.clone(),
        ]
    });
    text::table(["DIRECTIVE", "NODE", "PAYLOAD", "VERSION", "DESCRIPTION"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(node: &str, directive: &str) -> WorkerReport {
        WorkerReport {
            node: NodeId::parse(node).unwrap(),
            directive: directive.into(),
            payload: "bytes".into(),
            version: "1".into(),
            idempotent: true,
            description: "does it".into(),
        }
    }

    fn args(filter: Option<&str>, node: Option<&str>) -> WorkersArgs {
        WorkersArgs {
            filter: filter.map(Into::into),
            node: node.map(|node| NodeId::parse(node).unwrap()),
            json: false,
            connect: ConnectArgs::default(),
        }
    }

    #[test]
    fn a_filter_is_a_module_or_a_whole_directive() {
        let echo = worker("b", "echo:bytes");
        assert!(args(None, None).wants(&echo));
        assert!(args(Some("echo"), None).wants(&echo));
        assert!(args(Some("echo:bytes"), Some("B")).wants(&echo));
        assert!(!args(Some("echo:b"), None).wants(&echo));
        assert!(!args(None, Some("c")).wants(&echo));
    }

    #[test]
    fn the_listing_has_a_row_for_each_worker() {
        assert_eq!(
            listing(&[worker("a", "echo:bytes")]),
            "DIRECTIVE   NODE  PAYLOAD  VERSION  DESCRIPTION\n\
             echo:bytes  a     bytes    1        does it\n"
        );
    }
}
