//! Bodies of unit and query frames: what is read can be written and read again. The first byte of the input is the frame's type.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;
use workmesh_proto::wire::batch::{Batch, Over, Parcel, ReleasedUnits};
use workmesh_proto::wire::codec;
use workmesh_proto::wire::durable::{
    Ack, Attach, Release, Released, Resume, Returned, Started, Stored, Unfinished,
};
use workmesh_proto::wire::frame::FrameType;
use workmesh_proto::wire::query::{Fault, Query};
use workmesh_proto::wire::unit::{Accepted, Cancel, Eof, Refused, Submit};

fuzz_target!(|input: &[u8]| {
    let Some((kind, body)) = input.split_first() else {
        return;
    };
    match FrameType::from_u8(*kind) {
        Some(FrameType::Submit) => {
            if let Some(submit) = round_trip::<Submit>(body) {
                let _ = (submit.check(), submit.parse_directive());
            }
        }
        Some(FrameType::Accepted) => drop(round_trip::<Accepted>(body)),
        Some(FrameType::Refused) => drop(round_trip::<Refused>(body)),
        Some(FrameType::Eof) => drop(round_trip::<Eof>(body)),
        Some(FrameType::Cancel) => drop(round_trip::<Cancel>(body)),
        Some(FrameType::Stored) => drop(round_trip::<Stored>(body)),
        Some(FrameType::Started) => drop(round_trip::<Started>(body)),
        Some(FrameType::Returned) => drop(round_trip::<Returned>(body)),
        Some(FrameType::Ack) => drop(round_trip::<Ack>(body)),
        Some(FrameType::Resume) => drop(round_trip::<Resume>(body)),
        Some(FrameType::Release) => drop(round_trip::<Release>(body)),
        Some(FrameType::Released) => drop(round_trip::<Released>(body)),
        Some(FrameType::Attach) => drop(round_trip::<Attach>(body)),
        Some(FrameType::Unfinished) => drop(round_trip::<Unfinished>(body)),
        Some(FrameType::Batch) => drop(round_trip::<Batch>(body)),
        Some(FrameType::Parcel) => {
            if let Some(parcel) = round_trip::<Parcel>(body) {
                let length = parcel.payload.len() as u64;
                assert_eq!(parcel.open().0.payload_bytes, Some(length));
            }
        }
        Some(FrameType::Over) => drop(round_trip::<Over>(body)),
        Some(FrameType::ReleasedUnits) => drop(round_trip::<ReleasedUnits>(body)),
        Some(FrameType::Query) => drop(round_trip::<Query>(body)),
        Some(FrameType::Fault) => drop(round_trip::<Fault>(body)),
        _ => {}
    }
});

fn round_trip<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(body: &[u8]) -> Option<T> {
    let value: T = codec::decode(body).ok()?;
    let mut again = BytesMut::new();
    codec::encode(&value, &mut again);
    assert_eq!(codec::decode::<T>(&again).as_ref(), Ok(&value));
    Some(value)
}
