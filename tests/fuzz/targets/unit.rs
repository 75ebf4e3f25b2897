//! A submitter believes an executor's bytes only if they are one conversation: an answer, responses in order, one end.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use workmesh_proto::unit::{OriginEvent, OriginUnit, ResponseTally};
use workmesh_proto::wire::items::ItemReader;
use workmesh_proto::wire::unit::Outcome;

fuzz_target!(|input: &[u8]| {
    let (mut reader, mut unit) = (ItemReader::new(), OriginUnit::new());
    let (mut answers, mut ends, mut tally) = (0, 0, ResponseTally::new());
    for piece in input.chunks(61) {
        reader.feed(Bytes::copy_from_slice(piece));
        while let Ok(Some(item)) = reader.next_item() {
            let Ok(Some(event)) = unit.handle_item(item) else {
                continue;
            };
            assert_eq!(ends, 0, "nothing follows the end");
            match event {
                OriginEvent::Accepted(_) => answers += 1,
                OriginEvent::Piece(piece) => {
                    assert_eq!(answers, 1);
                    assert_eq!(tally.add(&piece.data, piece.last), piece.serial);
                }
                OriginEvent::Refused(_) => {
                    assert_eq!(answers, 0);
                    ends += 1;
                }
                OriginEvent::Stored(_) | OriginEvent::Started(_) | OriginEvent::Unfinished(_) => {
                    unreachable!("the unit is not durable");
                }
                OriginEvent::Eof(eof) => {
                    assert_eq!(answers, 1);
                    assert_eq!(
                        (eof.responses, eof.bytes, eof.digest),
                        (tally.responses(), tally.bytes(), tally.digest())
                    );
                    assert!(eof.outcome != Outcome::Succeeded || !tally.is_open());
                    ends += 1;
                }
            }
        }
    }
    assert_eq!(unit.ended(), ends == 1);
    let end = unit.handle_stream_end();
    assert_eq!(end.is_some(), ends == 0);
    assert!(end.is_none_or(|eof| eof.outcome != Outcome::Succeeded));
    assert_eq!(unit.handle_stream_end(), None);
});
