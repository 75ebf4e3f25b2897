//! A header that opens is the very one that was sealed. The first 16 bytes of the input are the link's key.

#![no_main]

use libfuzzer_sys::fuzz_target;
use workmesh_proto::wire::forward::{ForwardHeader, HEADER_BYTES, LinkKey, is_forward_frame};

fuzz_target!(|input: &[u8]| {
    let Some((secret, frame)) = input.split_first_chunk::<16>() else {
        return;
    };
    let key = LinkKey::new(secret);
    let Ok((header, sequence)) = ForwardHeader::open(&key, frame) else {
        return;
    };
    assert!(is_forward_frame(frame));
    let (sealed, packet) = frame.split_at(HEADER_BYTES);
    assert_eq!(header.seal(&key, sequence, packet), sealed);
});
