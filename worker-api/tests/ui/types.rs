use worker_api::{Bytes, Json, Result, worker};

struct Plain;

#[worker("a:a")]
fn payload(_: String) -> Result<()> {
    Ok(())
}

#[worker("a:b")]
fn json_payload(_: Json<Plain>) -> Result<()> {
    Ok(())
}

#[worker("a:c")]
fn response(_: Bytes) -> Result<u8> {
    Ok(0)
}

#[worker("a:d")]
fn no_result(_: Bytes) -> u8 {
    0
}

#[worker("a:e")]
fn context(_: Bytes, _: &str) -> Result<()> {
    Ok(())
}

#[worker("a:f")]
fn error(_: Bytes) -> Result<(), Plain> {
    Ok(())
}

fn main() {}
