use worker_api::{Bytes, Result, worker};

#[worker("nocolon")]
fn no_colon(_: Bytes) -> Result<()> {
    Ok(())
}

#[worker(":x")]
fn no_module(_: Bytes) -> Result<()> {
    Ok(())
}

#[worker("a:")]
fn no_function(_: Bytes) -> Result<()> {
    Ok(())
}

#[worker("a b:c")]
fn space(_: Bytes) -> Result<()> {
    Ok(())
}

fn main() {}
