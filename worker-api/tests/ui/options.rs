use worker_api::{Bytes, Result, worker};

#[worker("a:a", retries = 3)]
fn unknown(_: Bytes) -> Result<()> {
    Ok(())
}

#[worker("a:b", idempotent, idempotent)]
fn twice(_: Bytes) -> Result<()> {
    Ok(())
}

#[worker("a:c", idempotent = true)]
fn flag_with_value(_: Bytes) -> Result<()> {
    Ok(())
}

#[worker("a:d", version)]
fn no_value(_: Bytes) -> Result<()> {
    Ok(())
}

#[worker("a:e", version = 1.0)]
fn version_is_no_text(_: Bytes) -> Result<()> {
    Ok(())
}

#[worker("a:f", max_concurrent = 0)]
fn never_runs(_: Bytes) -> Result<()> {
    Ok(())
}

#[worker("a:g", max_payload = "64 parsecs")]
fn strange_size(_: Bytes) -> Result<()> {
    Ok(())
}

#[worker("a:h" idempotent)]
fn no_comma(_: Bytes) -> Result<()> {
    Ok(())
}

fn main() {}
