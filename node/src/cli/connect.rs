//! The way from a verb to a node: its control socket, or a node of this process that joins the mesh as a leaf.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use futures_util::future::BoxFuture;

use super::exit::{self, Failure};
use super::line::Redial;
use crate::config::{PeerAddress, Settings};
use crate::control::client::{BoxedStream, Client, ClientError, connect_socket};
use crate::node::Node;

/// How long joining the mesh as a leaf may take.
const JOIN: Duration = Duration::from_secs(5);

/// How a verb reaches the mesh.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ConnectArgs {
    /// Join the mesh at these addresses for the time of the command, with the identity of the data directory, instead
    /// of asking the node that runs here
    #[arg(
        long,
        value_name = "HOST:PORT,...",
        value_delimiter = ',',
        help_heading = "Connection"
    )]
    pub(crate) peers: Vec<String>,
    /// Filled in from the option that all verbs share.
    #[arg(skip)]
    pub(crate) data_dir: PathBuf,
}

/// An open way to a node; each conversation takes a connection of its own.
pub(crate) enum Access {
    /// The node that runs with this data directory.
    Socket(PathBuf),
    /// A node of this process.
    Leaf(Leaf),
}

/// A node that lives for one command.
pub(crate) struct Leaf {
    /// Opens a connection to the node's control protocol.
    pub(crate) open: Box<dyn Fn() -> BoxedStream + Send + Sync>,
    /// Leaves the mesh in order.
    pub(crate) leave: BoxFuture<'static, ()>,
}

impl Access {
    /// Finds the way that `args` name. The node behind a socket is not asked yet.
    pub(crate) async fn open(args: &ConnectArgs) -> anyhow::Result<Self> {
        if args.peers.is_empty() {
            Ok(Self::Socket(args.data_dir.clone()))
        } else {
            Ok(Self::Leaf(leaf_connect(args).await?))
        }
    }

    /// Opens one conversation.
    pub(crate) async fn connect(&self) -> anyhow::Result<Client<BoxedStream>> {
        match self {
            Self::Socket(data_dir) => Ok(connect_socket(data_dir).await?),
            Self::Leaf(leaf) => Ok(Client::new((leaf.open)())),
        }
    }

    /// Ends the way; a leaf leaves the mesh.
    pub(crate) async fn close(self) {
        if let Self::Leaf(leaf) = self {
            leaf.leave.await;
        }
    }
}

/// Opens one conversation with the node that runs with this data directory, where no other node would do.
pub(crate) async fn connect_node(data_dir: &Path) -> anyhow::Result<Client<BoxedStream>> {
    connect_socket(data_dir).await.map_err(|error| match error {
        ClientError::NoNode(dir) => {
            let dir = dir.display();
            let text = format!(
                "no node runs with data directory {dir}: start it with `node run --data-dir {dir}`, or name the right one"
            );
            Failure::new(exit::UNREACHABLE, text).into()
        }
        error => error.into(),
    })
}

/// Opens further connections to that node.
pub(crate) fn redial(data_dir: &Path) -> Redial<BoxedStream> {
    let data_dir = data_dir.to_owned();
    Box::new(move || {
        let data_dir = data_dir.clone();
        Box::pin(async move { connect_socket(&data_dir).await })
    })
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => f.debug_tuple("Socket").field(path).finish(),
            Self::Leaf(_) => f.write_str("Leaf"),
        }
    }
}

/// Starts a leaf that joins the mesh at `args.peers`.
async fn leaf_connect(args: &ConnectArgs) -> anyhow::Result<Leaf> {
    let parse = |peer: &String| {
        peer.parse::<PeerAddress>()
            .map_err(|e| anyhow::anyhow!("--peers {peer}: {e}"))
    };
    let peers = args.peers.iter().map(parse).collect::<Result<_, _>>()?;
    let settings = Settings {
        peers,
        ..Settings::for_data_dir(&args.data_dir)
    };
    let node = Node::join_as_leaf(settings, JOIN).await?;
    let control = node.control().clone();
    Ok(Leaf {
        open: Box::new(move || Box::new(Node::control_stream(&control))),
        leave: Box::pin(node.stop(Duration::ZERO)),
    })
}
