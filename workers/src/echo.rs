//! `echo:{bytes,buffer,file}`: sends the payload back, once for each way to take one.
//! The smallest workers there are, and the ones that tests of a mesh submit.

use std::io;

use worker_api::{Buffer, Bytes, Context, PayloadFile, Responder, Result, worker};

/// Sends the payload back as one response.
#[worker("echo:bytes", idempotent)]
fn bytes(payload: Bytes) -> Result<Bytes> {
    Ok(payload)
}

/// Streams the payload back as one response while it arrives.
#[worker("echo:buffer", idempotent)]
fn buffer(mut payload: Buffer, cx: &Context, out: &mut Responder) -> Result<()> {
    out.begin()?;
    while let Some(piece) = payload.next_piece()? {
        cx.check()?;
        out.write_piece(piece)?;
    }
    Ok(())
}

/// Streams the payload back as one response from a temporary file.
#[worker("echo:file", idempotent)]
fn file(payload: PayloadFile, _cx: &Context, out: &mut Responder) -> Result<()> {
    out.begin()?;
    io::copy(&mut payload.open()?, out)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use worker_api::testing::Unit;
    use worker_api::{CancelFlag, StopReason};

    const ALL: [&str; 3] = ["echo:bytes", "echo:buffer", "echo:file"];

    #[test]
    fn each_sends_its_payload_back_as_one_response() {
        let payload: Vec<u8> = (0..1_000_000_u32).map(|i| i as u8).collect();
        for directive in ALL {
            let done = Unit::new(directive).payload(payload.clone()).run();
            assert_eq!(done.responses.len(), 1, "{directive}");
            assert_eq!(done.responses[0], payload, "{directive}");
        }
    }

    #[test]
    fn an_empty_payload_gives_one_empty_response() {
        for directive in ALL {
            assert_eq!(Unit::new(directive).run().text(), [""], "{directive}");
        }
    }

    #[test]
    fn an_endless_payload_ends_when_the_unit_is_cancelled() {
        struct Endless(CancelFlag, u32);
        impl Read for Endless {
            fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
                self.1 += 1;
                if self.1 == 5 {
                    self.0.stop(StopReason::Cancelled);
                }
                out.fill(0);
                Ok(out.len())
            }
        }
        let unit = Unit::new("echo:buffer");
        let flag = unit.cancel_flag();
        let done = unit.reader(Endless(flag, 0)).run();
        assert_eq!(
            done.result.unwrap_err().stop_reason(),
            Some(StopReason::Cancelled)
        );
    }
}
