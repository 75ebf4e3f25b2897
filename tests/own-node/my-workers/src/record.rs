//! `record:run` and `record:again`: workers that leave a line in a file before they do anything else, so that a test can count
//! how often a unit ran, and whose responses can be recomputed.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use worker_api::{Context, Json, Responder, Result, Uuid, worker};

use crate::Noise;

/// What to do: the payload of both workers, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recording {
    /// The file that gets a line when the function begins.
    pub runs: PathBuf,
    /// Pause before each piece, in milliseconds.
    #[serde(default)]
    pub sleep_ms: u64,
    /// Length of each response: [`Noise`] of the unit and the serial.
    #[serde(default)]
    pub bytes: u64,
    /// How many responses.
    #[serde(default)]
    pub responses: u64,
    /// Length of the pieces that a response is written in; 0 for whole responses.
    #[serde(default)]
    pub chunk: u64,
}

/// A line of the file of runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Which unit ran.
    pub unit: Uuid,
    /// On which node.
    pub node: String,
    /// In which process.
    pub pid: u32,
    /// When it began, in milliseconds since 1970.
    pub at_ms: u64,
}

impl Run {
    /// The runs of a file, in the order in which they began; none if there is no file.
    ///
    /// # Errors
    /// When the file can't be read, or has a line that no worker wrote.
    pub fn read(file: &Path) -> io::Result<Vec<Self>> {
        let text = match fs::read_to_string(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            other => other?,
        };
        let parse = |line| Self::parse(line).ok_or_else(|| io::Error::other(format!("not a run: {line:?}")));
        text.lines().map(parse).collect()
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        Some(Self {
            unit: words.next()?.parse().ok()?,
            node: words.next()?.to_owned(),
            pid: words.next()?.parse().ok()?,
            at_ms: words.next()?.parse().ok()?,
        })
    }

    /// Adds a line. One write in append mode: lines of several processes don't mix, and a kill leaves a whole line or none.
    fn append(&self, file: &Path) -> io::Result<()> {
        let line = format!("{} {} {} {}\n", self.unit, self.node, self.pid, self.at_ms);
        OpenOptions::new()
            .append(true)
            .create(true)
            .open(file)?
            .write_all(line.as_bytes())
    }
}

/// Records its run, then sends noise.
#[worker("record:run")]
fn run(recording: Json<Recording>, cx: &Context, out: &mut Responder) -> Result<()> {
    record(&recording.0, cx, out)
}

/// The same for units that may run again.
#[worker("record:again", idempotent)]
fn again(recording: Json<Recording>, cx: &Context, out: &mut Responder) -> Result<()> {
    record(&recording.0, cx, out)
}

fn record(recording: &Recording, cx: &Context, out: &mut Responder) -> Result<()> {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Run {
        unit: cx.unit(),
        node: cx.node().to_owned(),
        pid: std::process::id(),
        at_ms: now.as_millis().try_into().unwrap_or(u64::MAX),
    }
    .append(&recording.runs)?;
    let chunk = match recording.chunk {
        0 => recording.bytes,
        chunk => chunk,
    };
    for serial in 1..=recording.responses {
        out.begin()?;
        let mut noise = Noise::new(cx.unit(), serial, recording.bytes);
        let mut left = recording.bytes;
        loop {
            cx.sleep(Duration::from_millis(recording.sleep_ms))?;
            let mut piece = Vec::new();
            noise.by_ref().take(chunk).read_to_end(&mut piece)?;
            left -= piece.len() as u64;
            out.write_piece(piece)?;
            if left == 0 {
                break;
            }
        }
    }
    out.finish()
}

#[cfg(test)]
mod tests {
    use worker_api::testing::Unit;

    use super::*;

    #[test]
    fn a_run_leaves_a_line_and_sends_what_can_be_recomputed() {
        let file = std::env::temp_dir().join(format!("record-{}", Uuid::now_v7()));
        let recording = Recording {
            runs: file.clone(),
            sleep_ms: 0,
            bytes: 1000,
            responses: 2,
            chunk: 300,
        };
        for directive in ["record:run", "record:again"] {
            let done = Unit::new(directive)
                .payload(serde_json::to_vec(&recording).unwrap())
                .run();
            let unit = Run::read(&file).unwrap().last().unwrap().unit;
            assert_eq!(done.responses.len(), 2, "{directive}");
            for (serial, response) in (1..).zip(&done.responses) {
                let mut expected = Vec::new();
                Noise::new(unit, serial, 1000).read_to_end(&mut expected).unwrap();
                assert_eq!(response[..], expected, "{directive}, response {serial}");
            }
        }
        assert_eq!(Run::read(&file).unwrap().len(), 2);
        fs::remove_file(file).unwrap();
    }

    #[test]
    fn a_file_that_is_not_there_has_no_runs_and_a_strange_line_is_an_error() {
        let file = std::env::temp_dir().join(format!("record-{}", Uuid::now_v7()));
        assert_eq!(Run::read(&file).unwrap(), []);
        fs::write(&file, "no run\n").unwrap();
        assert!(Run::read(&file).is_err());
        fs::remove_file(file).unwrap();
    }
}
