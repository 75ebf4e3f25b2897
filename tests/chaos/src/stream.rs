//! Reads what `--format json` prints of a unit, and compares every byte with the one that has to come.

use std::io::Read;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use uuid::Uuid;

use crate::work::Work;

/// How a unit ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) outcome: String,
    pub(crate) kind: String,
    pub(crate) message: String,
}

/// One reading of a unit, from its first response on.
pub(crate) struct Stream {
    unit: Uuid,
    work: Work,
    /// The response that is under way: its serial and what is still due of it.
    open: Option<(u64, Box<dyn Read + Send>)>,
    /// Complete responses.
    pub(crate) responses: u64,
    /// Whether the unit is said to be on its origin's disk.
    pub(crate) stored: bool,
    /// Whether an executor is said to have taken the unit.
    pub(crate) accepted: bool,
    /// Ends, of which there has to be one.
    pub(crate) ends: Vec<End>,
    /// What is not as it has to be.
    pub(crate) wrong: Vec<String>,
}

impl Stream {
    /// Nothing read yet.
    pub(crate) fn new(unit: Uuid, work: Work) -> Self {
        Self {
            unit,
            work,
            open: None,
            responses: 0,
            stored: false,
            accepted: false,
            ends: Vec::new(),
            wrong: Vec::new(),
        }
    }

    /// Takes a line.
    pub(crate) fn line(&mut self, line: &str) {
        let Ok(object) = serde_json::from_str::<Value>(line) else {
            return self.fault(format!("prints what is no JSON: {line:.80}"));
        };
        if let Some(id) = object["unit"].as_str()
            && id != self.unit.to_string()
        {
            self.fault(format!("prints another unit's id: {line:.80}"));
        }
        if !self.ends.is_empty() {
            self.fault(format!("goes on after its end: {line:.80}"));
        }
        match object["type"].as_str() {
            Some("stored") => self.stored = true,
            Some("accepted") => self.accepted = true,
            Some("response") => self.response(&object),
            Some("eof") => self.eof(&object),
            _ => {}
        }
    }

    fn response(&mut self, object: &Value) {
        let serial = object["serial"].as_u64().unwrap_or_default();
        let data = match (object["data"].as_str(), object["data_base64"].as_str()) {
            (Some(text), _) => text.as_bytes().to_vec(),
            (None, coded) => match STANDARD.decode(coded.unwrap_or_default()) {
                Ok(data) => data,
                Err(error) => return self.fault(format!("response {serial} is no base64: {error}")),
            },
        };
        self.piece(serial, &data, object["partial"].as_bool() != Some(true));
    }

    /// Takes the next bytes of a response; `last`: it ends with them.
    pub(crate) fn piece(&mut self, serial: u64, data: &[u8], last: bool) {
        if serial != self.responses + 1 {
            let due = self.responses + 1;
            self.fault(format!("response {serial} where {due} is due"));
            self.open = None;
            self.responses = serial.saturating_sub(1);
        }
        let (_, mut due) = self
            .open
            .take()
            .unwrap_or_else(|| (serial, self.work.response(self.unit, serial)));
        let mut expected = vec![0; data.len()];
        if due.read_exact(&mut expected).is_err() {
            self.fault(format!("response {serial} is too long"));
        } else if expected != data {
            self.fault(format!("response {serial} has wrong bytes"));
        }
        if !last {
            self.open = Some((serial, due));
            return;
        }
        self.responses = serial;
        if due.read(&mut [0]).is_ok_and(|more| more > 0) {
            self.fault(format!("response {serial} is too short"));
        }
    }

    fn eof(&mut self, object: &Value) {
        let word = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
        self.end(End {
            outcome: word("outcome"),
            kind: word("kind"),
            message: word("message"),
        });
    }

    /// Takes the end.
    pub(crate) fn end(&mut self, end: End) {
        if end.outcome == "succeeded" && (self.responses != self.work.responses() || self.open.is_some()) {
            let due = self.work.responses();
            self.fault(format!("success after {} responses of {due}", self.responses));
        }
        if self.responses > self.work.responses() {
            self.fault(format!("has {} responses", self.responses));
        }
        self.ends.push(end);
    }

    fn fault(&mut self, what: String) {
        // One mistake makes many: the first ones tell what happened.
        if self.wrong.len() < 3 {
            self.wrong.push(what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::Responses;

    fn work() -> Work {
        Work::Record(Responses {
            count: 2,
            bytes: 100,
            chunk: 0,
            sleep_ms: 0,
        })
    }

    fn response(serial: u64, bytes: &[u8], partial: bool) -> String {
        let data = STANDARD.encode(bytes);
        format!(r#"{{"type":"response","serial":{serial},"data_base64":"{data}","partial":{partial}}}"#)
    }

    fn due(serial: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        work()
            .response(Uuid::nil(), serial)
            .read_to_end(&mut bytes)
            .unwrap();
        bytes
    }

    fn eof() -> String {
        r#"{"type":"eof","outcome":"succeeded","kind":"ok","message":""}"#.to_owned()
    }

    fn read(lines: &[String]) -> Stream {
        let mut stream = Stream::new(Uuid::nil(), work());
        for line in lines {
            stream.line(line);
        }
        stream
    }

    #[test]
    fn a_stream_that_is_right_has_no_faults() {
        let lines = [
            format!(r#"{{"type":"stored","unit":"{}"}}"#, Uuid::nil()),
            response(1, &due(1)[..40], true),
            response(1, &due(1)[40..], false),
            response(2, &due(2), false),
            eof(),
        ];
        let stream = read(&lines);
        assert_eq!(stream.wrong, Vec::<String>::new());
        assert!(stream.stored);
        assert_eq!(stream.ends.len(), 1);
    }

    #[test]
    fn every_way_of_being_wrong_is_seen() {
        let (one, two) = (response(1, &due(1), false), response(2, &due(2), false));
        let mut changed = due(1);
        changed[99] ^= 1;
        let cases: [(&str, Vec<String>); 9] = [
            ("wrong bytes", vec![response(1, &changed, false)]),
            ("too short", vec![response(1, &due(1)[..99], false)]),
            (
                "too long",
                vec![response(1, &[&due(1)[..], &[0]].concat(), false)],
            ),
            ("response 2 where 1 is due", vec![two.clone()]),
            ("response 1 where 2 is due", vec![one.clone(), one.clone()]),
            ("success after 1 responses of 2", vec![one.clone(), eof()]),
            (
                "goes on after its end",
                vec![one.clone(), two.clone(), eof(), eof()],
            ),
            ("no JSON", vec!["stored".to_owned()]),
            (
                "another unit's id",
                vec![r#"{"type":"stored","unit":"x"}"#.to_owned()],
            ),
        ];
        for (fault, lines) in cases {
            let wrong = read(&lines).wrong;
            assert!(
                wrong.iter().any(|text| text.contains(fault)),
                "{fault}: {wrong:?}"
            );
        }
    }
}
