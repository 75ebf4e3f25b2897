//! Both readers of frames agree on any bytes, however these are cut. The first byte of the input sets the cut.

#![no_main]

use bytes::{Buf, Bytes};
use libfuzzer_sys::fuzz_target;
use workmesh_proto::wire::frame::{Frame, FrameError, FrameReader, FrameType, LAST_PIECE};
use workmesh_proto::wire::items::{Item, ItemReader, Piece};

fuzz_target!(|input: &[u8]| {
    let Some((cut, bytes)) = input.split_first() else {
        return;
    };
    let cut = usize::from(*cut) + 1;
    let (whole, frames_end) = frames(bytes, cut);
    let (pieces, items_end) = items(bytes, cut);
    let expected = join(whole.into_iter().map_while(item).collect());
    let mut found = join(pieces);
    if frames_end != End::Whole || items_end != End::Whole {
        // what a broken stream held last may be known to one reader only
        found.truncate(expected.len().saturating_sub(1));
        assert_eq!(found[..], expected[..found.len()]);
    } else {
        assert_eq!(found, expected);
    }
});

#[derive(Debug, PartialEq)]
enum End {
    Whole,
    Within,
    Broken(FrameError),
}

fn frames(bytes: &[u8], cut: usize) -> (Vec<Frame>, End) {
    let (mut reader, mut seen) = (FrameReader::new(), Vec::new());
    for piece in bytes.chunks(cut) {
        reader.feed(piece);
        loop {
            match reader.next_frame() {
                Ok(Some(frame)) => seen.push(frame),
                Ok(None) => break,
                Err(error) => return (seen, End::Broken(error)),
            }
        }
    }
    let end = if reader.is_empty() {
        End::Whole
    } else {
        End::Within
    };
    (seen, end)
}

fn items(bytes: &[u8], cut: usize) -> (Vec<Item>, End) {
    let (mut reader, mut seen) = (ItemReader::new(), Vec::new());
    for piece in bytes.chunks(cut) {
        reader.feed(Bytes::copy_from_slice(piece));
        loop {
            match reader.next_item() {
                Ok(Some(item)) => seen.push(item),
                Ok(None) => break,
                Err(error) => return (seen, End::Broken(error)),
            }
        }
    }
    let end = if reader.is_empty() {
        End::Whole
    } else {
        End::Within
    };
    (seen, end)
}

/// What a whole frame means as an item; `None` for a response without serial.
fn item(mut frame: Frame) -> Option<Item> {
    let unit = frame.unit;
    match frame.frame_type() {
        Some(FrameType::Payload) => {
            let data = frame.body;
            Some(Item::Payload { unit, data })
        }
        Some(FrameType::Response) => {
            let serial = frame.body.try_get_u64().ok()?;
            let last = frame.flags & LAST_PIECE != 0;
            let data = frame.body;
            let piece = Piece { serial, data, last };
            Some(Item::Response { unit, piece })
        }
        _ => Some(Item::Frame(frame)),
    }
}

/// Joins neighbouring pieces: where one frame of data ends and the next begins has no meaning.
fn join(items: Vec<Item>) -> Vec<Item> {
    let mut joined: Vec<Item> = Vec::new();
    for item in items {
        match (joined.last_mut(), item) {
            (
                Some(Item::Payload { unit, data }),
                Item::Payload {
                    unit: same,
                    data: more,
                },
            ) if *unit == same => {
                *data = [&data[..], &more].concat().into();
            }
            (
                Some(Item::Response { unit, piece }),
                Item::Response {
                    unit: same,
                    piece: more,
                },
            ) if *unit == same && piece.serial == more.serial && !piece.last => {
                piece.data = [&piece.data[..], &more.data].concat().into();
                piece.last = more.last;
            }
            (_, item) => joined.push(item),
        }
    }
    joined
}
