//! What a unit of the load asks for, and the bytes that have to come back. Pure: the same unit, the same bytes.

use std::fmt;
use std::io::{Cursor, Read};
use std::path::Path;

use my_workers::{Noise, Recording};
use uuid::Uuid;

/// The serial that names a unit's payload: no response has it.
const PAYLOAD: u64 = 0;

/// A task for a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// `echo:bytes` of so many bytes.
    Echo(u64),
    /// `digest:blake3` of so many bytes.
    Digest(u64),
    /// `sleep:execute`: so many responses, each after so many milliseconds.
    Sleep(u64, u64),
    /// `record:run`, or `record:again` where the unit may run again.
    Record(Responses),
}

/// What a recording worker sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Responses {
    /// How many.
    pub(crate) count: u64,
    /// Length of each.
    pub(crate) bytes: u64,
    /// Length of the pieces that each is written in; 0 for one.
    pub(crate) chunk: u64,
    /// Pause before each piece, in milliseconds.
    pub(crate) sleep_ms: u64,
}

impl Work {
    /// `module:function`.
    pub(crate) fn directive(self, idempotent: bool) -> &'static str {
        match self {
            Self::Echo(_) => "echo:bytes",
            Self::Digest(_) => "digest:blake3",
            Self::Sleep(..) => "sleep:execute",
            Self::Record(_) if idempotent => "record:again",
            Self::Record(_) => "record:run",
        }
    }

    /// The payload; a recording worker leaves its line in `runs`.
    pub(crate) fn payload(self, unit: Uuid, runs: &Path) -> Vec<u8> {
        match self {
            Self::Echo(length) | Self::Digest(length) => noise(unit, PAYLOAD, length),
            Self::Sleep(count, sleep_ms) => {
                let seconds = std::time::Duration::from_millis(sleep_ms).as_secs_f64();
                format!(r#"{{"duration":{seconds},"repeat":{count},"ident":"{unit}"}}"#).into_bytes()
            }
            Self::Record(responses) => {
                let recording = Recording {
                    runs: runs.to_owned(),
                    sleep_ms: responses.sleep_ms,
                    bytes: responses.bytes,
                    responses: responses.count,
                    chunk: responses.chunk,
                };
                serde_json::to_vec(&recording).unwrap_or_default()
            }
        }
    }

    /// How many responses there have to be.
    pub(crate) fn responses(self) -> u64 {
        match self {
            Self::Echo(_) | Self::Digest(_) => 1,
            Self::Sleep(count, _) => count,
            Self::Record(responses) => responses.count,
        }
    }

    /// The bytes of one response.
    pub(crate) fn response(self, unit: Uuid, serial: u64) -> Box<dyn Read + Send> {
        match self {
            Self::Echo(length) => Box::new(Noise::new(unit, PAYLOAD, length)),
            Self::Digest(length) => {
                let digest = blake3::hash(&noise(unit, PAYLOAD, length)).to_string();
                Box::new(Cursor::new(digest.into_bytes()))
            }
            Self::Sleep(..) => {
                let text = format!("{unit}: iteration {serial}, response 1");
                Box::new(Cursor::new(text.into_bytes()))
            }
            Self::Record(responses) => Box::new(Noise::new(unit, serial, responses.bytes)),
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Echo(length) => write!(f, "echo {length} B"),
            Self::Digest(length) => write!(f, "digest {length} B"),
            Self::Sleep(count, sleep_ms) => write!(f, "sleep {count} x {sleep_ms} ms"),
            Self::Record(responses) => {
                let Responses {
                    count,
                    bytes,
                    chunk,
                    sleep_ms,
                } = responses;
                write!(f, "record {count} x {bytes} B in {chunk} B, {sleep_ms} ms each")
            }
        }
    }
}

fn noise(unit: Uuid, serial: u64, length: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Noise never fails.
    let _length = Noise::new(unit, serial, length).read_to_end(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use worker_api::testing::Unit;
    use workmesh_workers as _;

    use super::*;

    #[test]
    fn the_workers_send_what_is_expected() {
        let dir = tempfile::tempdir().unwrap();
        let runs = dir.path().join("runs");
        let unit = Uuid::from_u128(77);
        let record = Work::Record(Responses {
            count: 2,
            bytes: 5000,
            chunk: 999,
            sleep_ms: 0,
        });
        for work in [Work::Echo(1000), Work::Digest(1000), Work::Sleep(3, 1), record] {
            let done = Unit::new(work.directive(false))
                .context(|parts| parts.unit = unit)
                .payload(work.payload(unit, &runs))
                .run();
            assert_eq!(done.responses.len() as u64, work.responses(), "{work}");
            for (serial, response) in (1..).zip(&done.responses) {
                let mut expected = Vec::new();
                work.response(unit, serial).read_to_end(&mut expected).unwrap();
                assert!(response[..] == expected, "{work}, response {serial}");
            }
        }
        assert_eq!(my_workers::Run::read(&runs).unwrap().len(), 1);
    }
}
