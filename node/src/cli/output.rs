//! How the responses of a unit are written: raw bytes, lines, or JSON objects. Writes to any sink, knows no network.

use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use clap::ValueEnum;
use serde::Serialize;
use workmesh_proto::wire::durable::Unfinished;
use workmesh_proto::wire::items::Piece;
use workmesh_proto::wire::unit::{Eof, Kind, Outcome};
use workmesh_proto::{NodeId, UnitId};

use super::text::{TerminalGuard, may_continue};

/// The longest response, or piece of one, on one line of JSON, in bytes.
pub(crate) const MAX_JSON_DATA_BYTES: usize = 1024 * 1024;

/// The forms of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// The bytes of all responses, one after the other, nothing added
    Raw,
    /// Each response followed by a new line; made safe where stdout is a terminal
    Lines,
    /// One JSON object a line: accepted, response, eof
    Json,
}

/// Writes what a unit says, in one of the formats.
#[derive(Debug)]
pub(crate) enum Output {
    /// Bytes, nothing added.
    Raw,
    /// Bytes; a second response makes each response a line.
    Separate {
        /// The serial of the first response, once it has begun.
        first: Option<u64>,
        /// Whether its line has ended.
        ended: bool,
    },
    /// A new line after each response; with a guard for terminals.
    Lines(Option<TerminalGuard>),
    /// Objects, with the response that is under way.
    Json(BytesMut),
}

/// One line of JSON.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line<'a> {
    Stored {
        unit: UnitId,
    },
    Started {
        unit: UnitId,
    },
    Unfinished {
        state: &'a str,
        reason: &'a str,
    },
    Accepted {
        unit: UnitId,
        executor: &'a NodeId,
    },
    Response {
        serial: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        data: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        data_base64: Option<String>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        partial: bool,
    },
    Eof {
        outcome: Outcome,
        kind: Kind,
        message: &'a str,
        responses: u64,
        bytes: u64,
        duration_ms: u64,
    },
}

impl Output {
    /// An output of `format` to a sink that is a terminal or not. Without a format a terminal gets lines; anything else
    /// gets a single response byte for byte, and several as lines: without a mark between them they could not be
    /// told apart.
    pub(crate) fn new(format: Option<Format>, terminal: bool) -> Self {
        let format = match format {
            Some(format) => format,
            None if terminal => Format::Lines,
            None => {
                return Self::Separate {
                    first: None,
                    ended: false,
                };
            }
        };
        match format {
            Format::Raw => Self::Raw,
            Format::Lines => Self::Lines(terminal.then(TerminalGuard::default)),
            Format::Json => Self::Json(BytesMut::new()),
        }
    }

    /// Writes that the unit was taken.
    pub(crate) fn accepted(
        &mut self,
        unit: UnitId,
        executor: &NodeId,
        to: &mut impl Write,
    ) -> io::Result<()> {
        self.object(&Line::Accepted { unit, executor }, to)
    }

    /// Writes that the unit is stored.
    pub(crate) fn stored(&mut self, unit: UnitId, to: &mut impl Write) -> io::Result<()> {
        self.object(&Line::Stored { unit }, to)
    }

    /// Writes that the unit's function begins.
    pub(crate) fn started(&mut self, unit: UnitId, to: &mut impl Write) -> io::Result<()> {
        self.object(&Line::Started { unit }, to)
    }

    /// Writes that the unit has not ended.
    pub(crate) fn unfinished(&mut self, unfinished: &Unfinished, to: &mut impl Write) -> io::Result<()> {
        let Unfinished { state, reason } = unfinished;
        self.object(&Line::Unfinished { state, reason }, to)
    }

    /// Writes what only objects tell.
    fn object(&self, object: &Line<'_>, to: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Json(_) => line(object, to),
            Self::Raw | Self::Separate { .. } | Self::Lines(_) => Ok(()),
        }
    }

    /// Writes a piece of a response.
    pub(crate) fn piece(&mut self, piece: &Piece, to: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Raw => to.write_all(&piece.data),
            Self::Separate { first, ended } => {
                let several = piece.serial > *first.get_or_insert(piece.serial);
                if several && !std::mem::replace(ended, true) {
                    to.write_all(b"\n")?;
                }
                to.write_all(&piece.data)?;
                end_line(several && piece.last, to)
            }
            Self::Lines(None) => {
                to.write_all(&piece.data)?;
                end_line(piece.last, to)
            }
            Self::Lines(Some(guard)) => {
                to.write_all(guard.push(&piece.data).as_bytes())?;
                if piece.last {
                    to.write_all(guard.finish().as_bytes())?;
                }
                end_line(piece.last, to)
            }
            Self::Json(held) => json_piece(held, piece, to),
        }
    }

    /// Writes the unit's end.
    pub(crate) fn eof(&mut self, eof: &Eof, to: &mut impl Write) -> io::Result<()> {
        self.object(
            &Line::Eof {
                outcome: eof.outcome,
                kind: eof.kind,
                message: &eof.message,
                responses: eof.responses,
                bytes: eof.bytes,
                duration_ms: eof.duration_ms,
            },
            to,
        )
    }
}

fn end_line(last: bool, to: &mut impl Write) -> io::Result<()> {
    if last { to.write_all(b"\n") } else { Ok(()) }
}

/// Joins the pieces of a response into one line; one that grows past the limit is written in partial lines.
fn json_piece(held: &mut BytesMut, piece: &Piece, to: &mut impl Write) -> io::Result<()> {
    let mut rest = &piece.data[..];
    while held.len() + rest.len() > MAX_JSON_DATA_BYTES {
        let (fits, later) = rest.split_at(MAX_JSON_DATA_BYTES - held.len());
        held.extend_from_slice(fits);
        rest = later;
        let whole = held.len() - cut_character(held).len();
        let part = held.split_to(whole);
        response(piece.serial, &part, true, to)?;
    }
    held.extend_from_slice(rest);
    if piece.last {
        response(piece.serial, held, false, to)?;
        held.clear();
    }
    Ok(())
}

/// The bytes at the end that are the beginning of a character.
fn cut_character(bytes: &[u8]) -> &[u8] {
    (1..=3)
        .filter_map(|length| bytes.len().checked_sub(length).map(|at| &bytes[at..]))
        .find(|tail| may_continue(tail) && std::str::from_utf8(&bytes[..bytes.len() - tail.len()]).is_ok())
        .unwrap_or_default()
}

fn response(serial: u64, data: &[u8], partial: bool, to: &mut impl Write) -> io::Result<()> {
    let text = std::str::from_utf8(data).ok();
    let data_base64 = text.is_none().then(|| STANDARD.encode(data));
    line(
        &Line::Response {
            serial,
            data: text,
            data_base64,
            partial,
        },
        to,
    )
}

fn line(line: &Line<'_>, to: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer(&mut *to, line)?;
    to.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn piece(serial: u64, data: impl Into<Bytes>, last: bool) -> Piece {
        Piece {
            serial,
            data: data.into(),
            last,
        }
    }

    fn written(format: Format, terminal: bool, pieces: &[Piece]) -> Vec<u8> {
        let mut output = Output::new(Some(format), terminal);
        let mut out = Vec::new();
        for piece in pieces {
            output.piece(piece, &mut out).unwrap();
        }
        out
    }

    fn objects(out: &[u8]) -> Vec<serde_json::Value> {
        out.split(|b| *b == b'\n')
            .filter(|l| !l.is_empty())
            .map(|l| serde_json::from_slice(l).unwrap())
            .collect()
    }

    #[test]
    fn raw_adds_and_changes_nothing() {
        let all: Vec<u8> = (0..=255).collect();
        let pieces = [
            piece(1, all[..7].to_vec(), false),
            piece(1, all[7..].to_vec(), true),
            piece(2, "", true),
        ];
        assert_eq!(written(Format::Raw, true, &pieces), all);
    }

    #[test]
    fn without_a_format_one_response_is_raw_and_several_are_lines() {
        let end = |responses| Eof {
            responses,
            ..Eof::without_responses(Kind::Ok, "")
        };
        let written = |pieces: &[Piece]| {
            let (mut output, mut out) = (Output::new(None, false), Vec::new());
            pieces
                .iter()
                .for_each(|piece| output.piece(piece, &mut out).unwrap());
            output
                .eof(&end(pieces.last().map_or(0, |p| p.serial)), &mut out)
                .unwrap();
            out
        };
        assert_eq!(written(&[]), b"");
        assert_eq!(
            written(&[piece(1, vec![0, 255], false), piece(1, "x", true)]),
            [0, 255, b'x']
        );
        assert_eq!(
            written(&[piece(1, "a", true), piece(2, "", true), piece(3, "c", true)]),
            b"a\n\nc\n"
        );
        assert_eq!(written(&[piece(4, vec![0], true)]), [0]);
        assert_eq!(written(&[piece(4, "d", true), piece(5, "e", true)]), b"d\ne\n");
    }

    #[test]
    fn lines_end_each_response_with_one_new_line() {
        let pieces = [
            piece(1, "a", false),
            piece(1, "b\u{1b}", true),
            piece(2, "", true),
        ];
        assert_eq!(written(Format::Lines, false, &pieces), b"ab\x1b\n\n");
        assert_eq!(written(Format::Lines, true, &pieces), b"ab\\x1b\n\n");
    }

    #[test]
    fn json_joins_the_pieces_of_a_response() {
        let pieces = [
            piece(1, "h\u{e9}".as_bytes()[..2].to_vec(), false),
            piece(1, vec![0xa9], true),
            piece(2, vec![0xff], true),
        ];
        assert_eq!(
            objects(&written(Format::Json, false, &pieces)),
            [
                serde_json::json!({"type": "response", "serial": 1, "data": "h\u{e9}"}),
                serde_json::json!({"type": "response", "serial": 2, "data_base64": "/w=="}),
            ]
        );
    }

    #[test]
    fn json_of_a_response_at_the_limit_is_one_line_and_past_it_partial_lines() {
        let at = written(
            Format::Json,
            false,
            &[piece(1, vec![b'x'; MAX_JSON_DATA_BYTES], true)],
        );
        assert_eq!(objects(&at).len(), 1);
        let past = objects(&written(
            Format::Json,
            false,
            &[piece(1, vec![b'x'; MAX_JSON_DATA_BYTES + 1], true)],
        ));
        assert_eq!(past.len(), 2);
        assert_eq!(past[0]["partial"], true);
        assert_eq!(
            past[1],
            serde_json::json!({"type": "response", "serial": 1, "data": "x"})
        );
    }

    #[test]
    fn json_parts_do_not_cut_a_character() {
        let text = format!("{}\u{20ac}", "x".repeat(MAX_JSON_DATA_BYTES - 1));
        let out = objects(&written(Format::Json, false, &[piece(1, text.clone(), true)]));
        let joined: String = out.iter().map(|o| o["data"].as_str().unwrap()).collect();
        assert_eq!(joined, text);
    }

    #[test]
    fn json_names_the_executor_and_all_that_happens_to_a_unit() {
        let mut output = Output::new(Some(Format::Json), false);
        let mut out = Vec::new();
        let unit = UnitId::parse("0199c3a4-7b6c-7d11-9c7e-0242ac120002").unwrap();
        output
            .accepted(unit, &NodeId::parse("nodeB").unwrap(), &mut out)
            .unwrap();
        output.stored(unit, &mut out).unwrap();
        output.started(unit, &mut out).unwrap();
        let unfinished = Unfinished {
            state: "waiting".into(),
            reason: "no route to nodeB".into(),
        };
        output.unfinished(&unfinished, &mut out).unwrap();
        output
            .eof(&Eof::without_responses(Kind::Busy, "full"), &mut out)
            .unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"type\":\"accepted\",\"unit\":\"0199c3a4-7b6c-7d11-9c7e-0242ac120002\",\"executor\":\"nodeB\"}\n\
             {\"type\":\"stored\",\"unit\":\"0199c3a4-7b6c-7d11-9c7e-0242ac120002\"}\n\
             {\"type\":\"started\",\"unit\":\"0199c3a4-7b6c-7d11-9c7e-0242ac120002\"}\n\
             {\"type\":\"unfinished\",\"state\":\"waiting\",\"reason\":\"no route to nodeB\"}\n\
             {\"type\":\"eof\",\"outcome\":\"failed\",\"kind\":\"busy\",\"message\":\"full\",\"responses\":0,\
             \"bytes\":0,\"duration_ms\":0}\n"
        );
    }
}
