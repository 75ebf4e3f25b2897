//! Text for people: what may reach a terminal, aligned tables, durations, sizes. Formats; never writes.

use std::fmt::Write as _;
use std::time::Duration;

use comfy_table::Table;
use comfy_table::presets::NOTHING;

use crate::unit::report::PoolReport;

/// Whether a character may change what a terminal shows elsewhere: controls, and marks that turn the direction of text.
fn is_unsafe(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escape(c: char, out: &mut String) {
    let number = u32::from(c);
    let written = if number < 0x100 {
        write!(out, "\\x{number:02x}")
    } else {
        write!(out, "\\u{{{number:x}}}")
    };
    written.expect("writing to a string cannot fail");
}

/// `text` on one line, without anything that a terminal would obey.
pub(crate) fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.trim_end().chars() {
        match c {
            '\n' | '\r' | '\t' => out.push(' '),
            c if is_unsafe(c) => escape(c, &mut out),
            c => out.push(c),
        }
    }
    out
}

/// Makes a stream of bytes fit for a terminal: text, new lines and tabs pass, everything else is written as an escape.
///
/// A character that is cut by the end of a piece waits for the next one.
#[derive(Debug, Default)]
pub(crate) struct TerminalGuard {
    tail: Vec<u8>,
}

impl TerminalGuard {
    /// What to show for the next bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> String {
        self.tail.extend_from_slice(bytes);
        let mut out = String::with_capacity(self.tail.len());
        let mut consumed = 0;
        for chunk in self.tail.utf8_chunks() {
            push_safe(chunk.valid(), &mut out);
            consumed += chunk.valid().len();
            let invalid = chunk.invalid();
            let ends_here = consumed + invalid.len() == self.tail.len();
            if ends_here && may_continue(invalid) {
                break;
            }
            push_bytes(invalid, &mut out);
            consumed += invalid.len();
        }
        self.tail.drain(..consumed);
        out
    }

    /// What to show for a character that was cut off by the end.
    pub(crate) fn finish(&mut self) -> String {
        let mut out = String::new();
        push_bytes(&self.tail, &mut out);
        self.tail.clear();
        out
    }
}

fn push_safe(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '\n' | '\t' => out.push(c),
            c if is_unsafe(c) => escape(c, out),
            c => out.push(c),
        }
    }
}

fn push_bytes(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        escape(char::from(*byte), out);
    }
}

/// Whether more bytes could make a character of these.
pub(crate) fn may_continue(bytes: &[u8]) -> bool {
    !bytes.is_empty() && std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

/// A table without borders: a head in upper case, aligned columns. Cells are made safe for a terminal.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(head);
    for row in rows {
        table.add_row(row.map(|cell| one_line(&cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

/// A duration in at most two units: `950 ms`, `12.3 s`, `4m 10s`, `3h 05m`, `2d 4h`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{:.0} ms", duration.as_secs_f64() * 1e3),
        1..60 => format!("{:.1} s", duration.as_secs_f64()),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h {:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86400, seconds / 3600 % 24),
    }
}

/// Seconds as a report gives them, as a duration; nonsense becomes zero.
pub(crate) fn seconds(seconds: f64) -> String {
    duration(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

/// Milliseconds as a report gives them.
pub(crate) fn milliseconds(ms: f64) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:.2} ms"),
        ms if ms < 100.0 => format!("{ms:.1} ms"),
        ms => format!("{ms:.0} ms"),
    }
}

/// A number of bytes: `512 B`, `1.5 KiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    bytesize::ByteSize::b(bytes).display().iec().to_string()
}

/// How full a pool is, in one line.
pub(crate) fn pool(pool: &PoolReport) -> String {
    let abandoned = match pool.abandoned {
        0 => String::new(),
        some => format!(", {some} abandoned"),
    };
    format!(
        "{} of {} slots running, {} of {} queued{abandoned}",
        pool.running, pool.slots, pool.queued, pool.queue_limit
    )
}

/// `1 unit`, `2 units`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(pieces: &[&[u8]]) -> String {
        let mut guard = TerminalGuard::default();
        let mut out: String = pieces.iter().map(|piece| guard.push(piece)).collect();
        out.push_str(&guard.finish());
        out
    }

    #[test]
    fn a_terminal_gets_text_and_no_commands() {
        assert_eq!(shown(&[b"a\tb\nc"]), "a\tb\nc");
        assert_eq!(shown(&[b"\x1b[2J\x07\r"]), "\\x1b[2J\\x07\\x0d");
        assert_eq!(shown(&["\u{9b}31m\u{202e}".as_bytes()]), "\\x9b31m\\u{202e}");
        assert_eq!(shown(&[b"\xff\xfeok"]), "\\xff\\xfeok");
    }

    #[test]
    fn a_character_survives_any_cut() {
        let text = "aé€😀z";
        for cut in 1..text.len() {
            let (left, right) = text.as_bytes().split_at(cut);
            assert_eq!(shown(&[left, right]), text);
        }
        assert_eq!(shown(&[&"€".as_bytes()[..2]]), "\\xe2\\x82");
        assert_eq!(shown(&[&"€".as_bytes()[..2], b"x"]), "\\xe2\\x82x");
    }

    #[test]
    fn one_line_stays_one_line() {
        assert_eq!(one_line("a\r\nb\u{1b}c\n"), "a  b\\x1bc");
    }

    #[test]
    fn tables_align_and_hold_no_commands() {
        let rows = [["a".into(), "one".into()], ["longer".into(), "t\u{1b}wo".into()]];
        assert_eq!(
            table(["NODE", "X"], rows),
            "NODE    X\na       one\nlonger  t\\x1bwo\n"
        );
    }

    #[test]
    fn durations_have_at_most_two_units() {
        assert_eq!(duration(Duration::from_millis(950)), "950 ms");
        assert_eq!(duration(Duration::from_millis(12_340)), "12.3 s");
        assert_eq!(duration(Duration::from_secs(250)), "4m 10s");
        assert_eq!(duration(Duration::from_secs(3 * 3600 + 300)), "3h 05m");
        assert_eq!(duration(Duration::from_secs(2 * 86400 + 4 * 3600)), "2d 4h");
        assert_eq!(seconds(f64::NAN), "0 ms");
    }
}
