//! A program on the node library that has durable units done: it is their origin, and follows each to its end.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use workmesh_node::config::PeerAddress;
use workmesh_node::control::client::connect_socket;
use workmesh_node::report::StatusReport;
use workmesh_node::{Bytes, Node, NodeId, Outcome, Settings, UnitEvent, UnitRequest};

use super::asking::{self, Exchanger, Keeper};
use super::workers::ECHO;
use crate::protocol::{DiskUse, Disks, Handling, Ready};
use crate::settings::{EXCHANGE_BYTES, POOL_THREADS};

/// How long the executor may take to become reachable.
const JOIN: Duration = Duration::from_secs(30);
const PAYLOAD: &[u8; EXCHANGE_BYTES] = &[0x45; EXCHANGE_BYTES];

/// The arguments of this role.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Data directory of this node, the units' origin.
    #[arg(long)]
    origin: PathBuf,
    /// Data directory of the node that runs them; this one's if left out.
    #[arg(long, requires = "connect")]
    executor: Option<PathBuf>,
    /// Where that node listens.
    #[arg(long)]
    connect: Option<SocketAddr>,
    /// Its id.
    #[arg(long)]
    to: String,
}

/// Waits until the executor can be reached, says so, and obeys orders until stdin ends.
pub(crate) async fn run(args: Args) -> Result<()> {
    let to = NodeId::parse(&args.to).context("the executor's id")?;
    let mut settings = Settings::for_data_dir(args.origin);
    settings.listen = Some((Ipv4Addr::LOCALHOST, 0).into());
    settings.max_workers = POOL_THREADS;
    settings.peers = Vec::from_iter(args.connect.map(|address| PeerAddress {
        id: None,
        host: address.ip().to_string(),
        port: address.port(),
    }));
    let node = Node::start(settings).await.context("start a node")?;
    if args.executor.is_some() {
        ensure!(node.wait_for(&to, JOIN).await, "{to} cannot be reached");
    }
    let nodes = Nodes(Arc::new(Ends {
        node,
        executor: args.executor,
        to,
    }));
    super::say(&Ready { address: None })?;
    asking::obey_keeping(&nodes).await
}

#[derive(Clone)]
struct Nodes(Arc<Ends>);

struct Ends {
    node: Node,
    executor: Option<PathBuf>,
    to: NodeId,
}

impl Exchanger for Nodes {
    async fn exchange(&self, _handling: Handling) -> Result<()> {
        let mut request = UnitRequest::new(ECHO);
        request.to = Some(self.0.to.clone());
        let submitted = self
            .0
            .node
            .submit_durable(request, Bytes::from_static(PAYLOAD))
            .await;
        let mut events = match submitted {
            Ok(events) => events,
            Err(eof) => bail!("{ECHO} was not accepted: {}: {}", eof.kind, eof.message),
        };
        let mut missing = PAYLOAD.as_slice();
        let mut ended = false;
        while let Some(event) = events.next().await {
            match event {
                UnitEvent::Piece(piece) => {
                    let rest = missing.strip_prefix(&*piece.data);
                    missing = rest.context("an answer is not its request")?;
                }
                UnitEvent::Eof(eof) => {
                    ended = true;
                    ensure!(
                        eof.outcome == Outcome::Succeeded,
                        "a unit failed: {}: {}",
                        eof.kind,
                        eof.message
                    );
                }
            }
        }
        ensure!(
            ended && missing.is_empty(),
            "a unit ended without its whole answer"
        );
        Ok(())
    }
}

impl Keeper for Nodes {
    async fn disks(&self) -> Result<Disks> {
        let origin = disk_use(&self.0.node.status())?;
        let executor = match &self.0.executor {
            None => None,
            Some(home) => {
                let executor = connect_socket(home).await.context("reach the executor")?;
                Some(disk_use(&executor.status().await?)?)
            }
        };
        Ok(Disks { origin, executor })
    }
}

fn disk_use(status: &StatusReport) -> Result<DiskUse> {
    let counter = |name: &str| {
        let counter = status.counters.get(name).copied();
        counter.with_context(|| format!("{} has no counter {name}", status.node))
    };
    Ok(DiskUse {
        syncs: counter("store.syncs")?,
        appends: counter("store.appends")?,
        bytes: counter("store.log_bytes")?,
    })
}
