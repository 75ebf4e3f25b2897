//! The processes of a run that are this program again under a hidden verb, each on one current-thread runtime.
//!
//! A role reports itself on stdout, obeys stdin, and ends with it, so that none outlives its driver however that ends.

mod asking;
pub(crate) mod disk_floor;
pub(crate) mod durable_client;
pub(crate) mod floor_client;
pub(crate) mod floor_server;
pub(crate) mod product_client;
mod request;
pub(crate) mod udp_forwarder;
pub(crate) mod workers;

use std::io::Write as _;
use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use serde::Serialize;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines, Stdin};

use crate::protocol::Ready;

/// Runs a role's future on the runtime every role has.
pub(crate) fn run(role: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    let outcome = runtime.block_on(role);
    // A thread may be blocked in a read of stdin; it goes with the process.
    runtime.shutdown_background();
    outcome
}

/// Runs `work` until the driver closes stdin.
async fn until_stdin_ends(work: impl Future<Output = Result<()>>) -> Result<()> {
    let mut lines = stdin_lines();
    let end = async { while let Ok(Some(_)) = lines.next_line().await {} };
    tokio::select! {
        () = end => Ok(()),
        outcome = work => outcome,
    }
}

fn stdin_lines() -> Lines<BufReader<Stdin>> {
    BufReader::new(tokio::io::stdin()).lines()
}

fn say_ready(address: SocketAddr) -> Result<()> {
    say(&Ready {
        address: Some(address),
    })
}

fn say(line: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_vec(line).context("encode a line for the driver")?;
    text.push(b'\n');
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&text).context("tell the driver")?;
    stdout.flush().context("tell the driver")
}
