//! The files of golden vectors: `## name`, comment lines, then hexadecimal lines, cut where fields end.

use std::collections::BTreeMap;
use std::fmt::{Debug, Write as _};
use std::path::PathBuf;

use bytes::{Bytes, BytesMut};
use ciborium::Value;
use serde::Serialize;
use serde::de::DeserializeOwned;
use workmesh_proto::wire::codec;
use workmesh_proto::wire::frame::{Frame, FrameReader, FrameType};

/// Set to `write`, the files are written instead of compared.
const SWITCH: &str = "WORKMESH_GOLDEN";

/// The fields of a frame's prefix, in bytes.
const PREFIX: &[usize] = &[1, 1, 4, 4];

type Check = Box<dyn Fn(&[u8])>;

/// One frame: its bytes, what they mean, and a check that they are read as that.
pub(crate) struct Vector {
    name: &'static str,
    comment: String,
    fields: &'static [usize],
    bytes: Bytes,
    check: Check,
}

impl Vector {
    /// Bytes whose first parts have the lengths `fields`.
    pub(crate) fn new(
        name: &'static str,
        comment: impl Into<String>,
        fields: &'static [usize],
        bytes: Bytes,
        check: impl Fn(&[u8]) + 'static,
    ) -> Self {
        Self {
            name,
            comment: comment.into(),
            fields,
            bytes,
            check: Box::new(check),
        }
    }

    /// A frame, checked once it is read again.
    pub(crate) fn frame(
        name: &'static str,
        meaning: &str,
        frame: Frame,
        check: impl Fn(Frame) + 'static,
    ) -> Self {
        let mut comment = meaning.to_owned();
        if let Ok(value) = codec::decode::<Value>(&frame.body) {
            comment.push('\n');
            diagnose(&value, &mut comment);
        }
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes);
        Self::new(name, comment, PREFIX, bytes.freeze(), move |bytes| {
            let mut reader = FrameReader::new();
            reader.feed(bytes);
            check(reader.next_frame().unwrap().unwrap());
            assert!(reader.is_empty());
        })
    }

    /// A frame that is read as it was written.
    pub(crate) fn raw(name: &'static str, meaning: &str, frame: Frame) -> Self {
        let expected = frame.clone();
        Self::frame(name, meaning, frame, move |read| assert_eq!(read, expected))
    }

    /// A frame with a CBOR body.
    pub(crate) fn cbor<T>(name: &'static str, meaning: &str, kind: FrameType, value: T) -> Self
    where
        T: Serialize + DeserializeOwned + PartialEq + Debug + 'static,
    {
        Self::frame(name, meaning, Frame::cbor(kind, 0, &value), move |read| {
            assert_eq!((read.frame_type(), read.flags, read.unit), (Some(kind), 0, 0));
            assert_eq!(codec::decode::<T>(&read.body).as_ref(), Ok(&value));
        })
    }

    /// The whole frame.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn render(&self, out: &mut String) {
        write!(out, "\n## {}\n", self.name).unwrap();
        for line in self.comment.lines() {
            writeln!(out, "# {line}").unwrap();
        }
        let mut rest = &self.bytes[..];
        for field in self.fields {
            let (head, tail) = rest.split_at(*field);
            writeln!(out, "{}", hex(head)).unwrap();
            rest = tail;
        }
        for row in rest.chunks(32) {
            writeln!(out, "{}", hex(row)).unwrap();
        }
    }
}

/// A file of vectors.
pub(crate) struct File {
    name: &'static str,
    about: &'static str,
}

impl File {
    pub(crate) fn new(name: &'static str, about: &'static str) -> Self {
        Self { name, about }
    }

    /// Fails unless the file holds exactly these vectors, and its bytes are read as what they mean.
    pub(crate) fn check(&self, vectors: &[Vector]) {
        let mut text = format!(
            "# {}\n# Written by tests/golden.rs; a line a field, then the body.\n",
            self.about
        );
        for vector in vectors {
            vector.render(&mut text);
        }
        if std::env::var_os(SWITCH).is_some_and(|value| value == "write") {
            std::fs::write(path(self.name), &text).unwrap();
        }
        let stored = read(self.name);
        for vector in vectors {
            let bytes = &stored[vector.name];
            assert_eq!(hex(bytes), hex(&vector.bytes), "{} in {}", vector.name, self.name);
            (vector.check)(bytes);
        }
        assert_eq!(
            std::fs::read_to_string(path(self.name)).unwrap(),
            text,
            "{}; if the protocol was changed on purpose, set {SWITCH}=write",
            self.name
        );
    }
}

/// The vectors of a file, by name.
fn read(file: &str) -> BTreeMap<String, Vec<u8>> {
    let text = std::fs::read_to_string(path(file)).unwrap();
    let mut vectors = BTreeMap::new();
    for section in text.split("\n## ").skip(1) {
        let (name, rest) = section.split_once('\n').unwrap();
        let digits: String = rest.lines().filter(|line| !line.starts_with('#')).collect();
        let bytes = (0..digits.len()).step_by(2);
        let bytes = bytes
            .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
            .collect();
        vectors.insert(name.to_owned(), bytes);
    }
    vectors
}

fn path(file: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "golden", file]
        .iter()
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes CBOR diagnostic notation (RFC 8949, section 8).
fn diagnose(value: &Value, out: &mut String) {
    match value {
        Value::Integer(number) => write!(out, "{}", i128::from(*number)).unwrap(),
        Value::Text(text) => write!(out, "{text:?}").unwrap(),
        Value::Bytes(bytes) => write!(out, "h'{}'", hex(bytes)).unwrap(),
        Value::Bool(bool) => write!(out, "{bool}").unwrap(),
        Value::Null => out.push_str("null"),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                diagnose(item, out);
            }
            out.push(']');
        }
        Value::Map(entries) => {
            out.push('{');
            for (index, (key, item)) in entries.iter().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                diagnose(key, out);
                out.push_str(": ");
                diagnose(item, out);
            }
            out.push('}');
        }
        other => panic!("wire types hold no {other:?}"),
    }
}
