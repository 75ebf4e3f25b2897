//! The asking end of the floor: raw quinn, a stream per request, driven by the orders on stdin.
//!
//! It measures wall time per exchange; CPU time and memory are read from outside by the driver.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;
use quinn::{Connection, RecvStream, VarInt};
use tokio::task::JoinSet;

use super::request::Request;
use crate::identity;
use crate::protocol::{Answer, Exchanges, Handling, Order, Transfer};
use crate::settings::{self, EXCHANGE_BYTES};

/// Bytes of the transfer that have to have arrived before it counts as saturating the path.
const SATURATED_BYTES: u64 = 32 * 1024 * 1024;

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

    let mut held = Vec::new();
    let mut lines = super::stdin_lines();
    while let Some(line) = lines.next_line().await.context("read an order")? {
        let order = serde_json::from_str(&line).context("understand an order")?;
        let outcome = tokio::select! {
            outcome = obey(order, &connection, &mut held) => outcome,
            // The driver says nothing before it has its answer, so this is its end.
            _ = lines.next_line() => return Ok(()),
        };
        match outcome {
            Ok(answer) => super::say(&answer)?,
            Err(error) => {
                super::say(&Answer::Failed {
                    message: format!("{error:#}"),
                })?;
                return Err(error);
            }
        }
    }
    connection.close(VarInt::from_u32(0), b"done");
    endpoint.wait_idle().await;
    Ok(())
}

async fn obey(order: Order, connection: &Connection, held: &mut Vec<RecvStream>) -> Result<Answer> {
    match order {
        Order::Exchange {
            outstanding,
            handling,
            window_ms,
        } => {
            let window = Duration::from_millis(window_ms);
            Ok(Answer::Exchanges(
                exchange(connection, outstanding, handling, window).await?,
            ))
        }
        Order::Bulk { bytes } => Ok(Answer::Transfer(bulk(connection, bytes).await?)),
        Order::Mixed { handling, window_ms } => {
            mixed(connection, handling, Duration::from_millis(window_ms)).await
        }
        Order::Hold { count } => {
            for _ in 0..count {
                held.push(hold(connection).await?);
            }
            Ok(Answer::Done)
        }
        Order::Release => {
            for mut stream in held.drain(..) {
                stream.stop(VarInt::from_u32(0)).context("release a request")?;
            }
            Ok(Answer::Done)
        }
    }
}

/// Keeps `outstanding` exchanges under way for `window`, then lets the last ones end.
async fn exchange(
    connection: &Connection,
    outstanding: usize,
    handling: Handling,
    window: Duration,
) -> Result<Exchanges> {
    let request = match handling {
        Handling::InPlace => Request::Echo,
        Handling::Pool => Request::EchoThroughPool,
    }
    .encode();
    let latencies = Arc::new(Mutex::new(new_histogram()?));
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..outstanding {
        let (connection, latencies) = (connection.clone(), Arc::clone(&latencies));
        tasks.spawn(async move {
            while started.elapsed() < window {
                let begun = Instant::now();
                exchange_once(&connection, &request).await?;
                record(&latencies, begun.elapsed());
            }
            anyhow::Ok(())
        });
    }
    while let Some(outcome) = tasks.join_next().await {
        outcome.context("an exchange panicked")??;
    }
    let elapsed = started.elapsed();
    let latencies = latencies.lock().unwrap_or_else(PoisonError::into_inner);
    let at = |quantile| Duration::from_nanos(latencies.value_at_quantile(quantile));
    Ok(Exchanges {
        count: latencies.len(),
        elapsed,
        p50: at(0.5),
        p99: at(0.99),
        max: Duration::from_nanos(latencies.max()),
    })
}

async fn exchange_once(connection: &Connection, request: &[u8; EXCHANGE_BYTES]) -> Result<()> {
    let (mut send, mut recv) = connection.open_bi().await.context("open a stream")?;
    send.write_all(request).await.context("send a request")?;
    send.finish().context("end a request")?;
    let answer = recv.read_to_end(EXCHANGE_BYTES).await.context("read an answer")?;
    ensure!(answer == request, "an answer is not its request");
    Ok(())
}

/// Nanoseconds up to ten minutes, to three digits.
fn new_histogram() -> Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, 600_000_000_000, 3).context("make a histogram")
}

fn record(latencies: &Mutex<Histogram<u64>>, latency: Duration) {
    let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
    latencies
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .saturating_record(nanos);
}

async fn bulk(connection: &Connection, bytes: u64) -> Result<Transfer> {
    let started = Instant::now();
    let mut stream = request_bulk(connection, bytes).await?;
    let mut arrived = 0;
    while let Some(chunk) = stream.read_chunk(usize::MAX, true).await.context("read bulk")? {
        arrived += chunk.bytes.len() as u64;
    }
    ensure!(arrived == bytes, "{arrived} bytes arrived of {bytes}");
    Ok(Transfer {
        bytes,
        elapsed: started.elapsed(),
    })
}

async fn request_bulk(connection: &Connection, bytes: u64) -> Result<RecvStream> {
    let (mut send, recv) = connection.open_bi().await.context("open a stream")?;
    send.write_all(&Request::Bulk(bytes).encode())
        .await
        .context("ask for bulk")?;
    send.finish().context("end a request")?;
    Ok(recv)
}

/// Exchanges one at a time, on the connection that an endless transfer saturates.
async fn mixed(connection: &Connection, handling: Handling, window: Duration) -> Result<Answer> {
    let mut stream = request_bulk(connection, u64::MAX).await?;
    let mut arrived = 0;
    while arrived < SATURATED_BYTES {
        arrived += read_some(&mut stream).await?;
    }
    let started = Instant::now();
    let exchanges = exchange(connection, 1, handling, window);
    tokio::pin!(exchanges);
    let mut bytes = 0;
    let exchanges = loop {
        tokio::select! {
            exchanges = &mut exchanges => break exchanges?,
            count = read_some(&mut stream) => bytes += count?,
        }
    };
    let elapsed = started.elapsed();
    stream.stop(VarInt::from_u32(0)).context("stop the transfer")?;
    Ok(Answer::Mixed {
        exchanges,
        transfer: Transfer { bytes, elapsed },
    })
}

async fn read_some(stream: &mut RecvStream) -> Result<u64> {
    let chunk = stream
        .read_chunk(usize::MAX, true)
        .await
        .context("read bulk")?
        .context("the transfer ended early")?;
    Ok(chunk.bytes.len() as u64)
}

/// A request that is known at the other end and stays without its answer.
async fn hold(connection: &Connection) -> Result<RecvStream> {
    let (mut send, mut recv) = connection.open_bi().await.context("open a stream")?;
    send.write_all(&Request::Hold.encode())
        .await
        .context("send a request")?;
    send.finish().context("end a request")?;
    recv.read_exact(&mut [0])
        .await
        .context("read the sign of a held request")?;
    Ok(recv)
}
