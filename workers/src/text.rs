//! `text:{upper,lines}`: a whole text in memory, and a text of any length line by line.

use worker_api::{Buffer, Bytes, Context, Error, Responder, Result, worker};

/// The longest line that `text:lines` sends, in bytes.
const MAX_LINE_BYTES: usize = 1 << 20;

/// Upper-cases a UTF-8 text.
#[worker("text:upper", version = "1.0.0", idempotent)]
fn upper(payload: Bytes) -> Result<String> {
    let text = str::from_utf8(&payload).map_err(|e| Error::from(e).context("the payload is not UTF-8"))?;
    Ok(text.to_uppercase())
}

/// Sends each line of the payload as one response, without its line end.
///
/// A line ends with LF or CR LF; the last one may end with the payload.
#[worker("text:lines", version = "1.0.0", idempotent)]
fn lines(mut payload: Buffer, cx: &Context, out: &mut Responder) -> Result<()> {
    let mut open = OpenLine {
        start: Vec::new(),
        number: 1,
    };
    while let Some(mut piece) = payload.next_piece()? {
        while let Some(at) = piece.iter().position(|byte| *byte == b'\n') {
            cx.check()?;
            out.send(open.end(piece.split_to(at))?)?;
            drop(piece.split_to(1));
        }
        open.grow(&piece)?;
    }
    if open.start.is_empty() {
        Ok(())
    } else {
        out.send(open.end(Bytes::new())?)
    }
}

/// A line of which the end has not arrived.
struct OpenLine {
    start: Vec<u8>,
    number: u64,
}

impl OpenLine {
    fn grow(&mut self, more: &[u8]) -> Result<()> {
        self.check(more.len())?;
        self.start.extend_from_slice(more);
        Ok(())
    }

    /// The whole line, given its rest; the next one begins.
    fn end(&mut self, rest: Bytes) -> Result<Bytes> {
        let mut line = if self.start.is_empty() {
            rest
        } else {
            self.grow(&rest)?;
            std::mem::take(&mut self.start).into()
        };
        self.check(line.len())?;
        if line.ends_with(b"\r") {
            line.truncate(line.len() - 1);
        }
        self.number += 1;
        Ok(line)
    }

    fn check(&self, more: usize) -> Result<()> {
        if self.start.len() + more <= MAX_LINE_BYTES {
            return Ok(());
        }
        Err(Error::msg(format!(
            "line {} is longer than {MAX_LINE_BYTES} bytes",
            self.number
        )))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read};

    use worker_api::StopReason;
    use worker_api::testing::{Finished, Unit};

    use super::MAX_LINE_BYTES;

    #[test]
    fn upper_knows_more_than_ascii() {
        assert_eq!(
            Unit::new("text:upper").payload("straße é").run().text(),
            ["STRASSE É"]
        );
    }

    #[test]
    fn upper_refuses_what_is_not_utf8_and_says_where() {
        let error = Unit::new("text:upper").payload(&b"ab\xff"[..]).run().error();
        assert!(
            error.contains("not UTF-8") && error.contains("index 2"),
            "{error}"
        );
    }

    #[test]
    fn lines_end_with_lf_or_crlf_or_the_payload() {
        assert_eq!(lines("a\n\nb\r\nc").text(), ["a", "", "b", "c"]);
        assert_eq!(lines("a\n").text(), ["a"]);
        assert!(lines("").text().is_empty());
    }

    #[test]
    fn a_line_may_arrive_in_many_pieces() {
        struct OneByteAtATime(&'static [u8]);
        impl Read for OneByteAtATime {
            fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
                let n = out.len().min(1);
                self.0.read(&mut out[..n])
            }
        }
        let done = Unit::new("text:lines")
            .reader(OneByteAtATime(b"one\r\ntwo\nthree"))
            .run();
        assert_eq!(done.text(), ["one", "two", "three"]);
    }

    #[test]
    fn line_length_is_limited() {
        let longest = "x".repeat(MAX_LINE_BYTES);
        assert_eq!(lines(&format!("{longest}\ny")).text().len(), 2);
        assert_eq!(
            lines(&format!("a\n{longest}x\n")).error(),
            "line 2 is longer than 1048576 bytes"
        );
        assert!(lines(&format!("{longest}x")).result.is_err());
    }

    #[test]
    fn an_endless_line_is_refused_in_bounded_memory() {
        let done = Unit::new("text:lines").reader(io::repeat(b'x')).run();
        assert!(done.error().contains("line 1 is longer"));
    }

    #[test]
    fn endless_lines_end_when_the_unit_is_cancelled() {
        let unit = Unit::new("text:lines");
        unit.cancel_flag().stop(StopReason::Expired);
        let done = unit.reader(io::repeat(b'\n')).run();
        assert_eq!(done.result.unwrap_err().stop_reason(), Some(StopReason::Expired));
    }

    fn lines(text: &str) -> Finished {
        Unit::new("text:lines").payload(text.to_owned()).run()
    }
}
