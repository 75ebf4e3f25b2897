//! `digest:{sha256,blake3}`: a payload of any size in, a few bytes out.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};
use worker_api::{Buffer, Context, Result, worker};

/// SHA-256 of the payload, in lower-case hexadecimal.
#[worker("digest:sha256", version = "1.0.0", idempotent)]
fn sha256(mut payload: Buffer, cx: &Context) -> Result<String> {
    let mut state = Sha256::new();
    while let Some(piece) = payload.next_piece()? {
        cx.check()?;
        state.update(&piece);
    }
    Ok(hex(&state.finalize()))
}

/// BLAKE3 of the payload (32 bytes), in lower-case hexadecimal.
#[worker("digest:blake3", version = "1.0.0", idempotent)]
fn blake3(mut payload: Buffer, cx: &Context) -> Result<String> {
    let mut state = ::blake3::Hasher::new();
    while let Some(piece) = payload.next_piece()? {
        cx.check()?;
        state.update(&piece);
    }
    Ok(hex(state.finalize().as_bytes()))
}

fn hex(digest: &[u8]) -> String {
    digest
        .iter()
        .fold(String::with_capacity(2 * digest.len()), |mut text, byte| {
            write!(text, "{byte:02x}").expect("a String takes any text");
            text
        })
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read};

    use worker_api::StopReason;
    use worker_api::testing::Unit;

    #[test]
    fn digests_equal_the_published_vectors() {
        for (directive, payload, digest) in [
            (
                "digest:sha256",
                "",
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            ),
            (
                "digest:sha256",
                "abc",
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            ),
            (
                "digest:blake3",
                "",
                "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
            ),
            (
                "digest:blake3",
                "abc",
                "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85",
            ),
        ] {
            assert_eq!(
                Unit::new(directive).payload(payload).run().text(),
                [digest],
                "{directive} {payload:?}"
            );
        }
    }

    #[test]
    fn a_million_letters_are_read_to_the_end() {
        let letters = io::repeat(b'a').take(1_000_000);
        let digest = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";
        assert_eq!(Unit::new("digest:sha256").reader(letters).run().text(), [digest]);
    }

    #[test]
    fn a_payload_that_breaks_off_gives_no_digest() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("the payload broke off"))
            }
        }
        for directive in ["digest:sha256", "digest:blake3"] {
            let done = Unit::new(directive).reader((&b"abc"[..]).chain(Broken)).run();
            assert_eq!(done.error(), "the payload broke off");
            assert!(done.responses.is_empty());
        }
    }

    #[test]
    fn an_endless_payload_ends_when_the_unit_is_cancelled() {
        for directive in ["digest:sha256", "digest:blake3"] {
            let unit = Unit::new(directive);
            unit.cancel_flag().stop(StopReason::Cancelled);
            let done = unit.reader(io::repeat(0)).run();
            assert_eq!(
                done.result.unwrap_err().stop_reason(),
                Some(StopReason::Cancelled)
            );
        }
    }
}
