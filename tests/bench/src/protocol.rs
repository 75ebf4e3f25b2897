//! What the driver and a role say to each other: one JSON value a line, orders on the role's stdin, answers on its stdout.
//!
//! A role first says [`Ready`]. Every order has exactly one answer. The end of stdin ends the role.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A role's first line: it listens, or is connected.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ready {
    /// The role's own UDP address, if it has one.
    pub(crate) address: Option<SocketAddr>,
}

/// Where the answering side makes the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Handling {
    /// In the task that read the request.
    InPlace,
    /// On a thread of a pool, handed over and back.
    Pool,
}

/// What the driver asks of the role at the asking end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Order {
    /// Small exchanges, `outstanding` at a time, for `window_ms` milliseconds; answered by [`Answer::Exchanges`].
    Exchange {
        outstanding: usize,
        handling: Handling,
        window_ms: u64,
    },
    /// One transfer of `bytes` to the asking end; answered by [`Answer::Transfer`].
    Bulk { bytes: u64 },
    /// Small exchanges one at a time for `window_ms` while a transfer saturates the same path; answered by
    /// [`Answer::Mixed`].
    Mixed { handling: Handling, window_ms: u64 },
    /// Open `count` requests that get no answer until [`Order::Release`]; answered by [`Answer::Done`] once all of them
    /// are known at the other end.
    Hold { count: usize },
    /// End the held requests; answered by [`Answer::Done`].
    Release,
    /// Tell what has gone to disk so far; answered by [`Answer::Disks`].
    Disks,
}

/// What the role at the asking end answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    /// Of [`Order::Exchange`].
    Exchanges(Exchanges),
    /// Of [`Order::Bulk`].
    Transfer(Transfer),
    /// Of [`Order::Mixed`].
    Mixed {
        exchanges: Exchanges,
        transfer: Transfer,
    },
    /// Of [`Order::Hold`] and [`Order::Release`].
    Done,
    /// Of [`Order::Disks`].
    Disks(Disks),
    /// The order could not be carried out; the role ends.
    Failed { message: String },
}

/// Small exchanges that were completed, and how long each took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exchanges {
    pub(crate) count: u64,
    /// From the first request to the last answer.
    pub(crate) elapsed: Duration,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) max: Duration,
}

/// Bytes that arrived, and how long they took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Transfer {
    pub(crate) bytes: u64,
    pub(crate) elapsed: Duration,
}

/// What has gone to the disks of those who keep a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Disks {
    pub(crate) origin: DiskUse,
    /// None where the origin is the executor, or there is none.
    pub(crate) executor: Option<DiskUse>,
}

/// What has gone to one disk since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DiskUse {
    /// Calls that wait until the disk has what was written.
    pub(crate) syncs: u64,
    /// Records of which each is written whole or not at all.
    pub(crate) appends: u64,
    /// Bytes of the log.
    pub(crate) bytes: u64,
}
