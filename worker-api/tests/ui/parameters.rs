use std::io::Read;

use worker_api::{Bytes, Context, Responder, Result, worker};

#[worker("a:a")]
fn none() -> Result<()> {
    Ok(())
}

#[worker("a:b")]
fn no_payload(_: &Context, _: &mut Responder) -> Result<()> {
    Ok(())
}

#[worker("a:c")]
fn wrong_order(_: Bytes, _: &mut Responder, _: &Context) -> Result<()> {
    Ok(())
}

#[worker("a:d")]
fn too_many(_: Bytes, _: &Context, _: &mut Responder, _: u8) -> Result<()> {
    Ok(())
}

#[worker("a:e")]
fn by_value(_: Bytes, _: Context) -> Result<()> {
    Ok(())
}

#[worker("a:f")]
fn unnamed(_: impl Read) -> Result<()> {
    Ok(())
}

fn main() {}
