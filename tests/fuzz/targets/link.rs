//! The control stream of a link: any bytes are frames to take, to skip or to refuse, and what is taken can be sent on.

#![no_main]

use libfuzzer_sys::fuzz_target;
use workmesh_proto::wire::frame::FrameReader;
use workmesh_proto::wire::link::LinkFrame;

fuzz_target!(|input: &[u8]| {
    let mut reader = FrameReader::new();
    reader.feed(input);
    while let Ok(Some(frame)) = reader.next_frame() {
        if let Ok(Some(link)) = LinkFrame::decode(&frame) {
            assert_eq!(link.check(), Ok(()));
            assert_eq!(LinkFrame::decode(&link.encode()), Ok(Some(link)));
        }
    }
});
