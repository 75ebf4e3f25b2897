//! The asking end of the product: a program on the node library, a unit per request.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use workmesh_node::config::PeerAddress;
use workmesh_node::{Bytes, Eof, Node, NodeId, Outcome, Settings, UnitEvent, UnitEvents, UnitRequest};

use super::asking::{self, Asker, Exchanger, Incoming};
use super::workers::{BULK, ECHO, HOLD};
use crate::protocol::Handling;
use crate::settings::{EXCHANGE_BYTES, POOL_THREADS};

/// How long the answering end may take to become reachable.
const JOIN: Duration = Duration::from_secs(30);
const PAYLOAD: &[u8; EXCHANGE_BYTES] = &[0x45; EXCHANGE_BYTES];

/// The arguments of this role.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the node's identity is.
    #[arg(long)]
    data_dir: PathBuf,
    /// The neighbour: the answering end, or the first relay before it.
    #[arg(long)]
    connect: SocketAddr,
    /// The id of the answering end.
    #[arg(long)]
    answerer: String,
}

/// Joins the mesh, says so once the answering end can be reached, and obeys orders until stdin ends.
pub(crate) async fn run(args: Args) -> Result<()> {
    let mut settings = Settings::for_data_dir(args.data_dir);
    settings.listen = Some((Ipv4Addr::LOCALHOST, 0).into());
    settings.peers = vec![PeerAddress {
        id: None,
        host: args.connect.ip().to_string(),
        port: args.connect.port(),
    }];
    settings.max_workers = POOL_THREADS;
    let answerer = NodeId::parse(&args.answerer).context("the answering end's id")?;
    let node = Node::start(settings).await.context("start a node")?;
    ensure!(
        node.wait_for(&answerer, JOIN).await,
        "{answerer} cannot be reached"
    );
    let listen = node.status().listen.context("the node listens nowhere")?;
    super::say_ready(listen.parse().context("the node's address")?)?;
    let node = Arc::new(node);
    asking::obey_all(&Mesh { node, answerer }).await
}

#[derive(Clone)]
struct Mesh {
    node: Arc<Node>,
    answerer: NodeId,
}

impl Mesh {
    async fn submit(&self, directive: &str, payload: Bytes) -> Result<UnitEvents> {
        let mut request = UnitRequest::new(directive);
        request.to = Some(self.answerer.clone());
        match self.node.submit(request, payload).await {
            Ok(events) => Ok(events),
            Err(eof) => bail!("{directive} was not accepted: {}", describe(&eof)),
        }
    }
}

impl Exchanger for Mesh {
    async fn exchange(&self, _handling: Handling) -> Result<()> {
        let mut events = self.submit(ECHO, Bytes::from_static(PAYLOAD)).await?;
        let mut missing = PAYLOAD.as_slice();
        while let Some(event) = events.next().await {
            match event {
                UnitEvent::Piece(piece) => {
                    let rest = missing.strip_prefix(&*piece.data);
                    missing = rest.context("an answer is not its request")?;
                }
                UnitEvent::Eof(eof) => check(&eof)?,
            }
        }
        ensure!(missing.is_empty(), "a unit ended without its whole answer");
        Ok(())
    }
}

impl Asker for Mesh {
    type Incoming = UnitEvents;

    async fn transfer(&self, bytes: u64) -> Result<UnitEvents> {
        self.submit(BULK, Bytes::copy_from_slice(&bytes.to_be_bytes()))
            .await
    }

    async fn hold(&self) -> Result<UnitEvents> {
        self.submit(HOLD, Bytes::new()).await
    }
}

impl Incoming for UnitEvents {
    async fn next(&mut self) -> Result<Option<u64>> {
        match Self::next(self).await {
            Some(UnitEvent::Piece(piece)) => Ok(Some(piece.data.len() as u64)),
            Some(UnitEvent::Eof(eof)) => check(&eof).map(|()| None),
            None => Ok(None),
        }
    }

    async fn stop(mut self) -> Result<()> {
        self.cancel();
        while Self::next(&mut self).await.is_some() {}
        Ok(())
    }
}

fn check(eof: &Eof) -> Result<()> {
    ensure!(
        eof.outcome == Outcome::Succeeded,
        "a unit failed: {}",
        describe(eof)
    );
    Ok(())
}

fn describe(eof: &Eof) -> String {
    format!("{}: {}", eof.kind, eof.message)
}
