use worker_api::{Bytes, Result, worker};

#[worker]
fn without(_: Bytes) -> Result<()> {
    Ok(())
}

#[worker(idempotent, "text:upper")]
fn not_first(_: Bytes) -> Result<()> {
    Ok(())
}

#[worker(text:upper)]
fn not_quoted(_: Bytes) -> Result<()> {
    Ok(())
}

fn main() {}
