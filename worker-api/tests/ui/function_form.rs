use worker_api::{Bytes, Result, worker};

#[worker("a:a")]
async fn is_async(_: Bytes) -> Result<()> {
    Ok(())
}

#[worker("a:b")]
fn generic<T>(_: Bytes) -> Result<()> {
    Ok(())
}

#[worker("a:c")]
fn lifetime<'a>(_: Bytes) -> Result<()> {
    Ok(())
}

#[worker("a:d")]
unsafe fn is_unsafe(_: Bytes) -> Result<()> {
    Ok(())
}

#[worker("a:e")]
extern "C" fn is_extern(_: Bytes) -> Result<()> {
    Ok(())
}

#[worker("a:f")]
struct NotAFunction;

#[worker("a:g")]
fn no_return_type(_: Bytes) {}

fn main() {}
