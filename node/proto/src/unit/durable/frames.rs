//! A unit's responses as they are kept: a stream of `Response` frames, just as they travel.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};

use crate::unit::tally::ResponseTally;
use crate::wire::durable::Position;
use crate::wire::frame::{
    FrameError, LAST_PIECE, MAX_PIECE_BYTES, PREFIX_BYTES, SERIAL_BYTES, encode_response_prefix,
};
use crate::wire::items::{Item, ItemReader, Piece};

/// Pieces of one response are joined up to this size, so that many small ones cost little.
const JOINED_BYTES: usize = 64 * 1024;

/// Frames on their way into the journal.
#[derive(Debug, Default)]
pub struct ResponseFrames {
    bytes: BytesMut,
    /// Where the latest frame begins, if further bytes of its response may join it.
    open: Option<(usize, u64)>,
}

impl ResponseFrames {
    /// Adds the next piece of response `serial`, of any length.
    pub fn push(&mut self, serial: u64, mut data: &[u8], last: bool) {
        while data.len() > MAX_PIECE_BYTES {
            let (piece, rest) = data.split_at(MAX_PIECE_BYTES);
            self.push_piece(serial, piece, false);
            data = rest;
        }
        self.push_piece(serial, data, last);
    }

    fn push_piece(&mut self, serial: u64, data: &[u8], last: bool) {
        if let Some((start, open)) = self.open
            && open == serial
            && let length = self.bytes.len() - start - PREFIX_BYTES - SERIAL_BYTES + data.len()
            && length <= JOINED_BYTES
        {
            self.bytes.extend_from_slice(data);
            let mut prefix = &mut self.bytes[start..start + PREFIX_BYTES];
            prefix[1] = if last { LAST_PIECE } else { 0 };
            prefix = &mut prefix[6..];
            prefix.put_u32((SERIAL_BYTES + length) as u32);
        } else {
            let start = self.bytes.len();
            // Once for all three parts.
            self.bytes.reserve(PREFIX_BYTES + SERIAL_BYTES + data.len());
            encode_response_prefix(0, serial, last, data.len(), &mut self.bytes);
            self.bytes.extend_from_slice(data);
            self.open = Some((start, serial));
        }
        if last {
            self.open = None;
        }
    }

    /// Bytes that wait, prefixes included.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Takes all that waits.
    pub fn take(&mut self) -> Bytes {
        self.open = None;
        self.bytes.split().freeze()
    }

    /// Puts back what was taken and could not be kept, before all that waits.
    pub fn put_back(&mut self, taken: &[u8]) {
        let mut both = BytesMut::with_capacity(taken.len() + self.bytes.len());
        both.extend_from_slice(taken);
        both.extend_from_slice(&self.bytes);
        self.bytes = both;
        self.open = None;
    }
}

/// The position after what a tally has counted.
pub fn position(tally: &ResponseTally) -> Position {
    Position {
        responses: tally.next_serial() - 1,
        bytes: tally.bytes(),
    }
}

/// Reads kept frames from their beginning, and hands out what follows a position.
#[derive(Debug)]
pub struct ResponseCursor {
    reader: ItemReader,
    from: Position,
    tally: Counted,
    ready: VecDeque<Piece>,
}

/// Counts without a digest.
#[derive(Debug, Default)]
struct Counted {
    complete: u64,
    bytes: u64,
}

impl ResponseCursor {
    /// A cursor at the stream's beginning that skips what is before `from`.
    pub fn new(from: Position) -> Self {
        Self {
            reader: ItemReader::new(),
            from,
            tally: Counted::default(),
            ready: VecDeque::new(),
        }
    }

    /// A cursor that skips the first `responses` responses, however long they are.
    pub fn after_responses(responses: u64) -> Self {
        Self::new(Position { responses, bytes: 0 })
    }

    /// Takes the stream's next bytes.
    pub fn feed(&mut self, bytes: Bytes) -> Result<(), FrameError> {
        self.reader.feed(bytes);
        while let Some(item) = self.reader.next_item()? {
            if let Item::Response { piece, .. } = item {
                self.on_piece(piece);
            }
        }
        Ok(())
    }

    /// The next piece that was asked for.
    pub fn next_piece(&mut self) -> Option<Piece> {
        self.ready.pop_front()
    }

    fn on_piece(&mut self, mut piece: Piece) {
        let before = self.tally.bytes;
        self.tally.bytes += piece.data.len() as u64;
        let complete = self.tally.complete;
        self.tally.complete += u64::from(piece.last);
        if complete < self.from.responses {
            return;
        }
        let known = self
            .from
            .bytes
            .saturating_sub(before)
            .min(piece.data.len() as u64);
        // The rest of a response begins with a whole frame of its own, unless nothing is left of it.
        let nothing_new = known == piece.data.len() as u64 && !piece.last && known > 0;
        if nothing_new {
            return;
        }
        piece.data = piece.data.split_off(known as usize);
        self.ready.push_back(piece);
    }
}

/// Counts and digest of kept frames, read piece by piece: what a journal is asked for at a start.
#[derive(Debug, Default)]
pub struct ResponseCount {
    reader: ItemReader,
    tally: ResponseTally,
}

impl ResponseCount {
    /// Takes the stream's next bytes.
    pub fn feed(&mut self, bytes: Bytes) -> Result<(), FrameError> {
        self.reader.feed(bytes);
        while let Some(item) = self.reader.next_item()? {
            if let Item::Response { piece, .. } = item {
                self.tally.add(&piece.data, piece.last);
            }
        }
        Ok(())
    }

    /// What was counted so far.
    pub fn so_far(&self) -> ResponseTally {
        self.tally.clone()
    }

    /// What was counted; `None` if the stream ends within a frame: it is damaged.
    pub fn finish(self) -> Option<ResponseTally> {
        self.reader.is_empty().then_some(self.tally)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(pieces: &[(u64, &[u8], bool)]) -> Bytes {
        let mut frames = ResponseFrames::default();
        for (serial, data, last) in pieces {
            frames.push(*serial, data, *last);
        }
        frames.take()
    }

    fn after(stream: &Bytes, from: Position, cut: usize) -> Vec<(u64, Vec<u8>, bool)> {
        let mut cursor = ResponseCursor::new(from);
        let mut out: Vec<(u64, Vec<u8>, bool)> = Vec::new();
        for at in (0..stream.len()).step_by(cut) {
            cursor.feed(stream.slice(at..stream.len().min(at + cut))).unwrap();
            while let Some(piece) = cursor.next_piece() {
                match out.last_mut() {
                    Some((serial, data, last)) if *serial == piece.serial && !*last => {
                        data.extend_from_slice(&piece.data);
                        *last = piece.last;
                    }
                    _ => out.push((piece.serial, piece.data.to_vec(), piece.last)),
                }
            }
        }
        out
    }

    const PIECES: [(u64, &[u8], bool); 6] = [
        (1, b"ab", false),
        (1, b"cd", true),
        (2, b"", true),
        (3, b"", true),
        (4, b"efgh", false),
        (4, b"", true),
    ];

    #[test]
    fn pieces_of_a_response_share_a_frame() {
        let joined = kept(&PIECES);
        let whole = kept(&[
            (1, b"abcd", true),
            (2, b"", true),
            (3, b"", true),
            (4, b"efgh", true),
        ]);
        assert_eq!(joined, whole);
    }

    #[test]
    fn frames_are_joined_up_to_a_limit() {
        let data = vec![7; JOINED_BYTES];
        assert_eq!(
            kept(&[(1, &data[1..], false), (1, b"x", true)]).len(),
            JOINED_BYTES + 18
        );
        assert_eq!(
            kept(&[(1, &data, false), (1, b"x", true)]).len(),
            JOINED_BYTES + 1 + 36
        );
    }

    #[test]
    fn a_piece_that_no_frame_can_carry_is_cut() {
        for (length, frames) in [
            (MAX_PIECE_BYTES, 1),
            (MAX_PIECE_BYTES + 1, 2),
            (3 * MAX_PIECE_BYTES, 3),
        ] {
            let stream = kept(&[(1, &vec![7; length], true)]);
            assert_eq!(stream.len(), length + frames * (PREFIX_BYTES + SERIAL_BYTES));
            let mut count = ResponseCount::default();
            count.feed(stream).unwrap();
            let tally = count.finish().unwrap();
            assert_eq!(
                (tally.responses(), tally.bytes(), tally.is_open()),
                (1, length as u64, false)
            );
        }
    }

    #[test]
    fn a_cursor_hands_out_what_follows_any_position() {
        let stream = kept(&PIECES);
        let mut tally = ResponseTally::new();
        let whole: Vec<u8> = b"abcdefgh".to_vec();
        let mut positions = vec![Position::default()];
        for (_, data, last) in PIECES {
            for (i, byte) in data.iter().enumerate() {
                tally.add(&[*byte], last && i + 1 == data.len());
                positions.push(position(&tally));
            }
            if data.is_empty() {
                tally.add(data, last);
                positions.push(position(&tally));
            }
        }
        for from in positions {
            for cut in [1, 5, 1000] {
                let rest = after(&stream, from, cut);
                let bytes: Vec<u8> = rest.iter().flat_map(|(_, data, _)| data.clone()).collect();
                assert_eq!(bytes, whole[from.bytes as usize..], "{from:?}");
                let complete = rest.iter().filter(|(_, _, last)| *last).count() as u64;
                assert_eq!(complete + from.responses, 4, "{from:?}");
            }
        }
    }

    #[test]
    fn a_cursor_skips_whole_responses() {
        let stream = kept(&PIECES);
        let mut cursor = ResponseCursor::after_responses(3);
        cursor.feed(stream).unwrap();
        let piece = cursor.next_piece().unwrap();
        assert_eq!(
            (piece.serial, &piece.data[..], piece.last),
            (4, &b"efgh"[..], true)
        );
        assert_eq!(cursor.next_piece(), None);
    }

    #[test]
    fn what_is_put_back_comes_first() {
        let mut frames = ResponseFrames::default();
        frames.push(1, b"ab", false);
        let taken = frames.take();
        frames.push(1, b"cd", true);
        frames.put_back(&taken);
        let mut count = ResponseCount::default();
        count.feed(frames.take()).unwrap();
        let tally = count.finish().unwrap();
        assert_eq!((tally.responses(), tally.bytes()), (1, 4));
    }

    #[test]
    fn a_stream_that_ends_within_a_frame_is_damaged() {
        let stream = kept(&PIECES);
        let mut count = ResponseCount::default();
        count.feed(stream.slice(..stream.len() - 1)).unwrap();
        assert!(count.finish().is_none());
    }
}
