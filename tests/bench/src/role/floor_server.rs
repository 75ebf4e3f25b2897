//! The answering end of the floor: raw quinn, a stream per request.
//!
//! It echoes from the task that read the request or through a pool of threads, and sends bulk. It knows no mesh.

use std::path::PathBuf;
use std::thread;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use quinn::{Connection, Incoming, RecvStream, SendStream};
use tokio::sync::oneshot;

use super::request::Request;
use crate::identity;
use crate::settings::{self, BULK_CHUNK_BYTES, EXCHANGE_BYTES, POOL_THREADS};

/// Jobs that may wait for a thread of the pool; a full queue fails the request.
const POOL_QUEUE: usize = 4096;

/// The arguments of this role.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory of the run's certificates.
    #[arg(long)]
    identity: PathBuf,
}

/// Listens, says where, and answers until stdin ends.
pub(crate) async fn run(args: Args) -> Result<()> {
    let endpoint = settings::endpoint(Some(identity::server_config(&args.identity)?))?;
    let pool = Pool::start()?;
    super::say_ready(endpoint.local_addr().context("read the own address")?)?;
    super::until_stdin_ends(async {
        while let Some(incoming) = endpoint.accept().await {
            tokio::spawn(serve(incoming, pool.clone()));
        }
        Ok(())
    })
    .await
}

async fn serve(incoming: Incoming, pool: Pool) {
    if let Ok(connection) = incoming.await {
        serve_streams(&connection, &pool).await;
    }
}

/// Ends with the connection.
async fn serve_streams(connection: &Connection, pool: &Pool) {
    while let Ok((send, recv)) = connection.accept_bi().await {
        let pool = pool.clone();
        // A failed request resets its own stream, which the asking end reports.
        tokio::spawn(async move { answer(send, recv, &pool).await });
    }
}

async fn answer(mut send: SendStream, mut recv: RecvStream, pool: &Pool) -> Result<()> {
    let bytes = recv.read_to_end(EXCHANGE_BYTES).await?;
    match Request::decode(&bytes).context("not a request")? {
        Request::Echo => send.write_all(&bytes).await?,
        Request::EchoThroughPool => send.write_all(&pool.echo(bytes).await?).await?,
        Request::Bulk(count) => send_bulk(&mut send, count).await?,
        Request::Hold => {
            send.write_all(&bytes[..1]).await?;
            send.stopped().await?;
        }
    }
    send.finish()?;
    Ok(())
}

async fn send_bulk(send: &mut SendStream, count: u64) -> Result<()> {
    let chunk = Bytes::from(vec![0x5a; BULK_CHUNK_BYTES]);
    let mut left = count;
    while left > 0 {
        let length = usize::try_from(left).map_or(BULK_CHUNK_BYTES, |left| left.min(BULK_CHUNK_BYTES));
        send.write_chunk(chunk.slice(..length)).await?;
        left -= length as u64;
    }
    Ok(())
}

/// The threads a request is handed to and back, as any node must that runs blocking workers.
#[derive(Clone)]
struct Pool {
    jobs: crossbeam_channel::Sender<Job>,
}

struct Job {
    payload: Vec<u8>,
    reply: oneshot::Sender<Vec<u8>>,
}

impl Pool {
    fn start() -> Result<Self> {
        let (jobs, queue) = crossbeam_channel::bounded::<Job>(POOL_QUEUE);
        for index in 0..POOL_THREADS {
            let queue = queue.clone();
            thread::Builder::new()
                .name(format!("pool-{index}"))
                .spawn(move || {
                    for job in queue {
                        // The request may have been given up.
                        let _ = job.reply.send(job.payload);
                    }
                })
                .context("start a thread of the pool")?;
        }
        Ok(Self { jobs })
    }

    async fn echo(&self, payload: Vec<u8>) -> Result<Vec<u8>> {
        let (reply, answer) = oneshot::channel();
        self.jobs
            .try_send(Job { payload, reply })
            .context("the pool's queue is full")?;
        answer.await.context("the pool is gone")
    }
}
