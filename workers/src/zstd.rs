//! `zstd:{compress,decompress}`: streams in, streams out, in memory that does not depend on the payload.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::ops::RangeInclusive;

use ::zstd::stream::{read::Decoder, write::Encoder};
use worker_api::{Buffer, Context, Error, PIECE_BYTES, Responder, Result, worker};

/// Higher levels need hundreds of megabytes a unit.
const LEVELS: RangeInclusive<i32> = 1..=19;

/// The largest window that a frame may ask for, as a power of two: 8 MiB, what level 19 uses.
const MAX_WINDOW_LOG: u32 = 23;

/// Compresses the payload; parameter `level` from 1 to 19, default 3.
#[worker("zstd:compress", version = "1.0.0", idempotent)]
fn compress(mut payload: Buffer, cx: &Context, out: &mut Responder) -> Result<()> {
    let mut encoder = Encoder::new(out, level(cx)?)?;
    encoder.include_checksum(true)?;
    while let Some(piece) = payload.next_piece()? {
        cx.check()?;
        encoder.write_all(&piece)?;
    }
    encoder.finish()?;
    Ok(())
}

/// Decompresses the payload: one or more zstd frames with windows of at most 8 MiB.
#[worker("zstd:decompress", version = "1.0.0", idempotent)]
fn decompress(payload: Buffer, cx: &Context, out: &mut Responder) -> Result<()> {
    let mut payload = BufReader::with_capacity(PIECE_BYTES, payload);
    if payload.fill_buf()?.is_empty() {
        return Err(Error::msg("the payload is empty; a zstd frame is expected"));
    }
    let mut decoder = Decoder::with_buffer(payload)?;
    decoder.window_log_max(MAX_WINDOW_LOG)?;
    out.begin()?;
    let mut plain = vec![0; PIECE_BYTES];
    loop {
        cx.check()?;
        let read = decoder
            .read(&mut plain)
            .map_err(|e| Error::from(e).context("decompressing the payload"))?;
        if read == 0 {
            return Ok(());
        }
        out.write_all(&plain[..read])?;
    }
}

fn level(cx: &Context) -> Result<i32> {
    let Some(text) = cx.param("level") else {
        return Ok(::zstd::DEFAULT_COMPRESSION_LEVEL);
    };
    match text.parse() {
        Ok(level) if LEVELS.contains(&level) => Ok(level),
        _ => Err(Error::msg(format!(
            "level is a whole number from {} to {}, not {text:?}",
            LEVELS.start(),
            LEVELS.end()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read};

    use worker_api::testing::{Finished, Unit};
    use worker_api::{Bytes, ResponseSink, StopReason};

    use super::*;

    #[test]
    fn what_was_compressed_decompresses_to_itself() {
        let text: Vec<u8> = (0..500_000_u32).flat_map(|i| (i / 7).to_le_bytes()).collect();
        for level in ["1", "3", "19"] {
            let packed = Unit::new("zstd:compress")
                .param("level", level)
                .payload(text.clone())
                .run();
            let packed = one(packed);
            assert!(
                packed.len() < text.len() / 2,
                "level {level}: {} bytes",
                packed.len()
            );
            assert_eq!(one(decompressed(packed)), text);
        }
    }

    #[test]
    fn nothing_compresses_to_a_frame_of_nothing() {
        let packed = one(Unit::new("zstd:compress").run());
        assert!(!packed.is_empty());
        assert_eq!(one(decompressed(packed)), "");
    }

    #[test]
    fn level_is_limited() {
        for bad in ["0", "20", "-1", "x", ""] {
            let error = Unit::new("zstd:compress").param("level", bad).run().error();
            assert!(error.contains("from 1 to 19"), "{error}");
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let whole = one(Unit::new("zstd:compress").payload("some text to compress").run());
        let cut = whole.slice(..whole.len() - 1);
        let followed: Bytes = [&whole[..], b"garbage"].concat().into();
        let mut altered = whole.to_vec();
        altered[whole.len() - 6] ^= 1;
        for bad in [
            Bytes::new(),
            Bytes::from("no zstd"),
            cut,
            followed,
            altered.into(),
        ] {
            assert!(decompressed(bad.clone()).result.is_err(), "{bad:?}");
        }
    }

    #[test]
    fn frames_in_a_row_decompress_to_one_response() {
        let frame = one(Unit::new("zstd:compress").payload("ab").run());
        assert_eq!(decompressed([&frame[..], &frame[..]].concat()).text(), ["abab"]);
    }

    #[test]
    fn window_is_limited() {
        assert_eq!(
            one(decompressed(frame_with_window(MAX_WINDOW_LOG))).len(),
            3 << 20
        );
        let error = decompressed(frame_with_window(MAX_WINDOW_LOG + 1)).error();
        assert!(error.contains("too much memory"), "{error}");
    }

    #[test]
    fn a_decompression_bomb_stops_with_its_unit() {
        let bomb = {
            let mut encoder = Encoder::new(Vec::new(), 1).unwrap();
            io::copy(&mut io::repeat(0).take(256 << 20), &mut encoder).unwrap();
            encoder.finish().unwrap()
        };
        assert!(bomb.len() < 64 << 10, "{}", bomb.len());
        struct Full(usize);
        impl ResponseSink for Full {
            fn send(&mut self, piece: Bytes, _: bool) -> std::result::Result<(), StopReason> {
                self.0 = self.0.checked_sub(piece.len()).ok_or(StopReason::Cancelled)?;
                Ok(())
            }
        }
        let result = Unit::new("zstd:decompress").payload(bomb).run_into(Full(1 << 20));
        assert_eq!(result.unwrap_err().stop_reason(), Some(StopReason::Cancelled));
    }

    #[test]
    fn an_endless_payload_ends_when_the_unit_is_cancelled() {
        let unit = Unit::new("zstd:compress");
        unit.cancel_flag().stop(StopReason::Expired);
        let done = unit.reader(io::repeat(0)).run();
        assert_eq!(done.result.unwrap_err().stop_reason(), Some(StopReason::Expired));
    }

    fn decompressed(packed: impl Into<Bytes>) -> Finished {
        Unit::new("zstd:decompress").payload(packed).run()
    }

    fn one(done: Finished) -> Bytes {
        done.result.unwrap();
        let [response] = <[Bytes; 1]>::try_from(done.responses).unwrap();
        response
    }

    /// Zeros behind a frame header that asks for a window of this size.
    fn frame_with_window(log: u32) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(log).unwrap();
        encoder.write_all(&vec![0; 3 << 20]).unwrap();
        encoder.finish().unwrap()
    }
}
