//! The control stream of a link: any bytes are frames to take, to skip or to refuse, and what is taken can be sent on.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;
use workmesh_proto::wire::codec;
use workmesh_proto::wire::frame::{FrameReader, FrameType};
use workmesh_proto::wire::link::{Conflict, Digest, Goodbye, Hello, Load, Lsa, Probe, ProbeReply, Synced};

fuzz_target!(|input: &[u8]| {
    let mut reader = FrameReader::new();
    reader.feed(input);
    while let Ok(Some(frame)) = reader.next_frame() {
        let body = &frame.body;
        match frame.frame_type() {
            Some(FrameType::Hello) => round_trip::<Hello>(body),
            Some(FrameType::Lsa) => round_trip::<Lsa>(body),
            Some(FrameType::Load) => round_trip::<Load>(body),
            Some(FrameType::Digest) => round_trip::<Digest>(body),
            Some(FrameType::Synced) => round_trip::<Synced>(body),
            Some(FrameType::Conflict) => round_trip::<Conflict>(body),
            Some(FrameType::Probe) => round_trip::<Probe>(body),
            Some(FrameType::ProbeReply) => round_trip::<ProbeReply>(body),
            Some(FrameType::Goodbye) => round_trip::<Goodbye>(body),
            _ => {}
        }
    }
});

fn round_trip<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(body: &[u8]) {
    let Ok(value) = codec::decode::<T>(body) else {
        return;
    };
    let mut again = BytesMut::new();
    codec::encode(&value, &mut again);
    assert_eq!(codec::decode::<T>(&again).as_ref(), Ok(&value));
}
