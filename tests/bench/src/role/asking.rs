//! What the asking end of a subject does with its orders: keeps exchanges under way, reads transfers, holds requests.
//!
//! Both subjects' roles bring an [`Asker`] and are loaded by the same code. It measures wall time per exchange; CPU time
//! and memory are read from outside by the driver.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use hdrhistogram::Histogram;
use tokio::task::JoinSet;

use crate::protocol::{Answer, Disks, Exchanges, Handling, Order, Transfer};

/// Bytes of the transfer that have to have arrived before it counts as saturating the path.
const SATURATED_BYTES: u64 = 32 * 1024 * 1024;

/// One end that makes small exchanges.
pub(super) trait Exchanger: Clone + Send + 'static {
    /// One request and its answer, checked to be the same bytes.
    fn exchange(&self, handling: Handling) -> impl Future<Output = Result<()>> + Send;
}

/// One end whose exchanges go to disk.
pub(super) trait Keeper: Exchanger {
    /// What has gone to disk so far.
    fn disks(&self) -> impl Future<Output = Result<Disks>>;
}

/// One end that asks another.
pub(super) trait Asker: Exchanger {
    /// What comes back and is not read at once.
    type Incoming: Incoming;

    /// Asks for so many bytes.
    fn transfer(&self, bytes: u64) -> impl Future<Output = Result<Self::Incoming>>;

    /// A request that is known at the other end and stays without its answer.
    fn hold(&self) -> impl Future<Output = Result<Self::Incoming>>;
}

/// An answer on its way.
pub(super) trait Incoming {
    /// The number of bytes that arrived next; `None` after the last. May be dropped before it is done without losing any.
    fn next(&mut self) -> impl Future<Output = Result<Option<u64>>>;

    /// Wants no more of it; returns when the asking end has no more of it either.
    fn stop(self) -> impl Future<Output = Result<()>>;
}

/// Obeys orders until stdin ends.
pub(super) async fn obey_all<A: Asker>(asker: &A) -> Result<()> {
    let mut held = Vec::new();
    serve(async |order| obey(order, asker, &mut held).await).await
}

/// Obeys orders to exchange, and to tell of the disks, until stdin ends.
pub(super) async fn obey_keeping<K: Keeper>(keeper: &K) -> Result<()> {
    serve(async |order| match order {
        Order::Exchange {
            outstanding,
            handling,
            window_ms,
        } => {
            let window = Duration::from_millis(window_ms);
            Ok(Answer::Exchanges(
                exchange(keeper, outstanding, handling, window).await?,
            ))
        }
        Order::Disks => Ok(Answer::Disks(keeper.disks().await?)),
        _ => bail!("this role cannot obey {order:?}"),
    })
    .await
}

async fn serve(mut obey: impl AsyncFnMut(Order) -> Result<Answer>) -> Result<()> {
    let mut lines = super::stdin_lines();
    while let Some(line) = lines.next_line().await.context("read an order")? {
        let order = serde_json::from_str(&line).context("understand an order")?;
        let outcome = tokio::select! {
            outcome = obey(order) => outcome,
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
    Ok(())
}

async fn obey<A: Asker>(order: Order, asker: &A, held: &mut Vec<A::Incoming>) -> Result<Answer> {
    match order {
        Order::Exchange {
            outstanding,
            handling,
            window_ms,
        } => {
            let window = Duration::from_millis(window_ms);
            Ok(Answer::Exchanges(
                exchange(asker, outstanding, handling, window).await?,
            ))
        }
        Order::Bulk { bytes } => Ok(Answer::Transfer(bulk(asker, bytes).await?)),
        Order::Mixed { handling, window_ms } => {
            mixed(asker, handling, Duration::from_millis(window_ms)).await
        }
        Order::Hold { count } => {
            for _ in 0..count {
                held.push(asker.hold().await?);
            }
            Ok(Answer::Done)
        }
        Order::Release => {
            for request in held.drain(..) {
                request.stop().await?;
            }
            Ok(Answer::Done)
        }
        Order::Disks => bail!("nothing goes to disk here"),
    }
}

/// Keeps `outstanding` exchanges under way for `window`, then lets the last ones end.
async fn exchange<E: Exchanger>(
    asker: &E,
    outstanding: usize,
    handling: Handling,
    window: Duration,
) -> Result<Exchanges> {
    let latencies = Arc::new(Mutex::new(new_histogram()?));
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..outstanding {
        let (asker, latencies) = (asker.clone(), Arc::clone(&latencies));
        tasks.spawn(async move {
            while started.elapsed() < window {
                let begun = Instant::now();
                asker.exchange(handling).await?;
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

async fn bulk<A: Asker>(asker: &A, bytes: u64) -> Result<Transfer> {
    let started = Instant::now();
    let mut incoming = asker.transfer(bytes).await?;
    let mut arrived = 0;
    while let Some(count) = incoming.next().await? {
        arrived += count;
    }
    ensure!(arrived == bytes, "{arrived} bytes arrived of {bytes}");
    Ok(Transfer {
        bytes,
        elapsed: started.elapsed(),
    })
}

/// Exchanges one at a time, on the path that an endless transfer saturates.
async fn mixed<A: Asker>(asker: &A, handling: Handling, window: Duration) -> Result<Answer> {
    let mut incoming = asker.transfer(u64::MAX).await?;
    let mut arrived = 0;
    while arrived < SATURATED_BYTES {
        arrived += more(&mut incoming).await?;
    }
    let started = Instant::now();
    let exchanges = exchange(asker, 1, handling, window);
    tokio::pin!(exchanges);
    let mut bytes = 0;
    let exchanges = loop {
        tokio::select! {
            exchanges = &mut exchanges => break exchanges?,
            count = more(&mut incoming) => bytes += count?,
        }
    };
    let elapsed = started.elapsed();
    incoming.stop().await?;
    Ok(Answer::Mixed {
        exchanges,
        transfer: Transfer { bytes, elapsed },
    })
}

async fn more(incoming: &mut impl Incoming) -> Result<u64> {
    incoming.next().await?.context("the transfer ended early")
}
