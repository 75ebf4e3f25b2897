//! The asking end of the floor: raw quinn, a stream per request.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use quinn::{Connection, RecvStream, VarInt};

use super::asking::{self, Asker, Exchanger, Incoming};
use super::request::Request;
use crate::identity;
use crate::protocol::Handling;
use crate::settings::{self, EXCHANGE_BYTES};

/// The arguments of this role.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory of the run's certificates.
    #[arg(long)]
    identity: PathBuf,
    /// The answering end, or the first forwarder before it.
    #[arg(long)]
    connect: SocketAddr,
}

/// Connects, says so, and obeys orders until stdin ends.
pub(crate) async fn run(args: Args) -> Result<()> {
    let mut endpoint = settings::endpoint(None)?;
    endpoint.set_default_client_config(identity::client_config(&args.identity)?);
    let connection = endpoint
        .connect(args.connect, identity::SERVER_NAME)
        .context("dial the floor's server")?
        .await
        .context("connect to the floor's server")?;
    super::say_ready(endpoint.local_addr().context("read the own address")?)?;
    asking::obey_all(&connection).await?;
    connection.close(VarInt::from_u32(0), b"done");
    endpoint.wait_idle().await;
    Ok(())
}

impl Exchanger for Connection {
    async fn exchange(&self, handling: Handling) -> Result<()> {
        let request = match handling {
            Handling::InPlace => Request::Echo,
            Handling::Pool => Request::EchoThroughPool,
        }
        .encode();
        let mut stream = ask(self, &request).await?;
        let answer = stream
            .read_to_end(EXCHANGE_BYTES)
            .await
            .context("read an answer")?;
        ensure!(answer == request, "an answer is not its request");
        Ok(())
    }
}

impl Asker for Connection {
    type Incoming = RecvStream;

    async fn transfer(&self, bytes: u64) -> Result<RecvStream> {
        ask(self, &Request::Bulk(bytes).encode()).await
    }

    async fn hold(&self) -> Result<RecvStream> {
        let mut stream = ask(self, &Request::Hold.encode()).await?;
        stream
            .read_exact(&mut [0])
            .await
            .context("read the sign of a held request")?;
        Ok(stream)
    }
}

async fn ask(connection: &Connection, request: &[u8; EXCHANGE_BYTES]) -> Result<RecvStream> {
    let (mut send, recv) = connection.open_bi().await.context("open a stream")?;
    send.write_all(request).await.context("send a request")?;
    send.finish().context("end a request")?;
    Ok(recv)
}

impl Incoming for RecvStream {
    async fn next(&mut self) -> Result<Option<u64>> {
        let chunk = self.read_chunk(usize::MAX, true).await.context("read bulk")?;
        Ok(chunk.map(|chunk| chunk.bytes.len() as u64))
    }

    async fn stop(mut self) -> Result<()> {
        Self::stop(&mut self, VarInt::from_u32(0)).context("stop an answer")
    }
}
