//! What the store is asked to keep: keys, streams, entries, and what it finds when it is opened.

use bytes::Bytes;
use workmesh_proto::UnitId;

/// In which role a node keeps a unit. A node can be both for one unit, and keeps it twice then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Role {
    /// The node that its client talks to.
    Origin,
    /// The node that runs it.
    Executor,
}

impl Role {
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Origin => 1,
            Self::Executor => 2,
        }
    }

    pub(super) fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Origin),
            2 => Some(Self::Executor),
            _ => None,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Origin => "origin",
            Self::Executor => "executor",
        }
    }
}

/// Under what a unit is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    /// In which role.
    pub(crate) role: Role,
    /// Which unit.
    pub(crate) unit: UnitId,
}

/// One of a key's two streams of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stream {
    /// What the submitter sent.
    Payload,
    /// What the worker answered.
    Responses,
}

impl Stream {
    pub(super) const ALL: [Self; 2] = [Self::Payload, Self::Responses];

    /// 0 or 1: its place in arrays of two, and its code on the disk.
    pub(super) fn index(self) -> usize {
        match self {
            Self::Payload => 0,
            Self::Responses => 1,
        }
    }

    pub(super) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Payload => "payload",
            Self::Responses => "responses",
        }
    }
}

/// A part of an append. All parts of one are stored, or none.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    /// A record, opaque to the store.
    Record(Bytes),
    /// Bytes at the end of a stream.
    Data(Stream, Bytes),
}

/// What an append waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sync {
    /// Written to the files: survives the death of the process. Synced by itself, a second later at most.
    Written,
    /// Synced to the disk, with all earlier appends of the key: survives the loss of power.
    Synced,
}

/// A key that was there when the store was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The key.
    pub(crate) key: Key,
    /// Its records, in the order of their appends; those of a damaged key that are left.
    pub(crate) records: Vec<Bytes>,
    /// Bytes of its payload that can be read. Fewer than were written, if they were not synced before power was lost.
    pub(crate) payload_bytes: u64,
    /// Bytes of its responses that can be read.
    pub(crate) response_bytes: u64,
    /// One line on what is missing, if something is: records, or synced bytes of a stream.
    pub(crate) damage: Option<String>,
    /// One line on what is damaged, if the key's last records may have been there; what is found of it is whole.
    pub(crate) doubt: Option<String>,
}

/// How much a store holds and has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Keys that are stored.
    pub(crate) keys: u64,
    /// Bytes of the log, garbage included.
    pub(crate) log_bytes: u64,
    /// Bytes in data files.
    pub(crate) data_bytes: u64,
    /// Files of the log.
    pub(crate) segments: u64,
    /// Files of large streams.
    pub(crate) data_files: u64,
    /// Damaged or missing ranges and files, found when the store was opened; what could be read of them is in `damaged/`.
    pub(crate) damaged: u64,
    /// Files synced since the store was opened.
    pub(crate) syncs: u64,
    /// Appends and removals stored since the store was opened.
    pub(crate) appends: u64,
    /// Appends, removals and reads that failed since the store was opened.
    pub(crate) failures: u64,
}
