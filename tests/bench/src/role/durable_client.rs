//! A program that has durable units done: each over a connection of its own to the control socket of their origin, and followed to
//! its end.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::time::{Instant, sleep};
use uuid::Uuid;
use workmesh_node::control::client::{BoxedStream, Client, connect_socket};
use workmesh_node::report::StatusReport;
use workmesh_node::{Bytes, NodeId, Outcome, UnitId};
use workmesh_proto::unit::OriginEvent;
use workmesh_proto::wire::unit::Submit;

use super::asking::{self, Exchanger, Keeper};
use super::workers::ECHO;
use crate::protocol::{DiskUse, Disks, Handling, Ready};
use crate::settings::EXCHANGE_BYTES;

/// How long the executor may take to become reachable.
const JOIN: Duration = Duration::from_secs(30);
/// Between two looks at whether it is.
const LOOK: Duration = Duration::from_millis(20);
const PAYLOAD: &[u8; EXCHANGE_BYTES] = &[0x45; EXCHANGE_BYTES];

/// The arguments of this role.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Data directory of the node that is the units' origin.
    #[arg(long)]
    origin: PathBuf,
    /// Data directory of the node that runs them.
    #[arg(long)]
    executor: PathBuf,
    /// Its id.
    #[arg(long)]
    to: String,
}

/// Waits until the executor can be reached, says so, and obeys orders until stdin ends.
pub(crate) async fn run(args: Args) -> Result<()> {
    let to = NodeId::parse(&args.to).context("the executor's id")?;
    let nodes = Nodes(Arc::new(Ends {
        origin: args.origin,
        executor: args.executor,
        to,
    }));
    let started = Instant::now();
    while let Err(error) = nodes.exchange(Handling::Pool).await {
        if started.elapsed() > JOIN {
            return Err(error.context("the executor does not become reachable"));
        }
        sleep(LOOK).await;
    }
    super::say(&Ready { address: None })?;
    asking::obey_keeping(&nodes).await
}

#[derive(Clone)]
struct Nodes(Arc<Ends>);

struct Ends {
    origin: PathBuf,
    executor: PathBuf,
    to: NodeId,
}

impl Nodes {
    async fn connect(&self) -> Result<Client<BoxedStream>> {
        connect_socket(&self.0.origin).await.context("reach the origin")
    }

    fn submission(&self) -> Submit {
        Submit {
            unit: UnitId(Uuid::now_v7()),
            directive: ECHO.to_owned(),
            to: Some(self.0.to.clone()),
            payload_bytes: Some(EXCHANGE_BYTES as u64),
            params: Default::default(),
            deadline_ms: None,
            trace: None,
            durable: true,
            detach: false,
            idempotent: false,
            offer: None,
        }
    }
}

impl Exchanger for Nodes {
    async fn exchange(&self, _handling: Handling) -> Result<()> {
        let client = self.connect().await?;
        let (mut sender, mut receiver) = client.submit(&self.submission()).await?;
        sender.payload(Bytes::from_static(PAYLOAD)).await?;
        sender.payload_end().await?;
        let mut missing = PAYLOAD.as_slice();
        let mut stored = false;
        loop {
            match receiver.next().await? {
                OriginEvent::Stored(_) => stored = true,
                OriginEvent::Accepted(_) | OriginEvent::Started(_) => {}
                OriginEvent::Piece(piece) => {
                    let rest = missing.strip_prefix(&*piece.data);
                    missing = rest.context("an answer is not its request")?;
                }
                OriginEvent::Eof(eof) => {
                    ensure!(
                        eof.outcome == Outcome::Succeeded,
                        "a unit failed: {}: {}",
                        eof.kind,
                        eof.message
                    );
                    break;
                }
                OriginEvent::Refused(refused) => {
                    bail!("{ECHO} was not accepted: {}: {}", refused.kind, refused.message)
                }
                OriginEvent::Unfinished(_) => bail!("a unit is not told to its end"),
            }
        }
        ensure!(stored, "a durable unit ended and was never said to be stored");
        ensure!(missing.is_empty(), "a unit ended without its whole answer");
        Ok(())
    }
}

impl Keeper for Nodes {
    async fn disks(&self) -> Result<Disks> {
        let origin = disk_use(&self.connect().await?.status().await?)?;
        let executor = if self.0.executor == self.0.origin {
            None
        } else {
            let executor = connect_socket(&self.0.executor)
                .await
                .context("reach the executor")?;
            Some(disk_use(&executor.status().await?)?)
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
