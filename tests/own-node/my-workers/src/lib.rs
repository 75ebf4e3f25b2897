//! Workers that end in every way a unit can end. Linked into the tests' own node; never shipped.

mod noise;
mod record;

pub use noise::Noise;
pub use record::{Recording, Run};

use std::time::Duration;

use worker_api::{Buffer, Bytes, Context, Error, PayloadFile, Responder, Result, worker};

/// Length of a block of [`block`].
const BLOCK_BYTES: usize = 64 * 1024;

/// A block that [`number`] makes unlike any other.
pub fn block() -> Box<[u8]> {
    let mut state = 0x9e37_79b9_u32;
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_be_bytes()[0]
    };
    (0..BLOCK_BYTES).map(|_| byte()).collect()
}

/// Writes its number into a block.
pub fn number(block: &mut [u8], number: u64) {
    block[..8].copy_from_slice(&number.to_be_bytes());
}

/// Sends as many bytes of a fixed pattern as the parameter `size` says, as one response.
#[worker("test:bytes")]
fn bytes(_payload: Bytes, cx: &Context, out: &mut Responder) -> Result<()> {
    let mut left: usize = cx
        .param("size")
        .ok_or_else(|| Error::msg("size is missing"))?
        .parse()?;
    let mut block = block();
    out.begin()?;
    for count in 0.. {
        if left == 0 {
            break;
        }
        number(&mut block, count);
        let piece = left.min(BLOCK_BYTES);
        out.write_piece(Bytes::copy_from_slice(&block[..piece]))?;
        left -= piece;
    }
    Ok(())
}

/// Sends a number each time that a little while has passed, up to the parameter `count`.
#[worker("test:ticks", idempotent)]
fn ticks(_payload: Bytes, cx: &Context, out: &mut Responder) -> Result<()> {
    let count: u32 = cx
        .param("count")
        .ok_or_else(|| Error::msg("count is missing"))?
        .parse()?;
    for tick in 1..=count {
        cx.sleep(Duration::from_millis(50))?;
        out.send(tick.to_string())?;
    }
    Ok(())
}

/// Panics.
#[worker("test:panic")]
fn panic(_payload: Bytes) -> Result<()> {
    panic!("the worker of the tests panics as it was told")
}

/// Fails.
#[worker("test:fail")]
fn fail(_payload: Bytes) -> Result<()> {
    Err(Error::msg("the worker of the tests fails as it was told"))
}

/// Never returns, and never looks whether it should.
#[worker("test:stuck")]
fn stuck(_payload: Bytes) -> Result<()> {
    loop {
        std::thread::park();
    }
}

/// Says how many bytes a payload file has, then ends as the parameter `end` says: `return`, `error`, `panic` or `wait`.
#[worker("test:file")]
fn file(payload: PayloadFile, cx: &Context, out: &mut Responder) -> Result<()> {
    out.send(std::fs::metadata(payload.path())?.len().to_string())?;
    match cx.param("end") {
        Some("error") => Err(Error::msg("the worker of the tests fails with a file")),
        Some("panic") => panic!("the worker of the tests panics with a file"),
        Some("wait") => cx.sleep(Duration::MAX),
        _ => Ok(()),
    }
}

/// Reads the first byte of a payload, says so, and waits to be cancelled.
#[worker("test:first_byte")]
fn first_byte(mut payload: Buffer, cx: &Context, out: &mut Responder) -> Result<()> {
    let mut first = [0];
    std::io::Read::read_exact(&mut payload, &mut first)?;
    out.send(first.to_vec())?;
    cx.sleep(Duration::MAX)
}
