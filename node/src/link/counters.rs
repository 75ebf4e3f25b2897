//! What the socket has counted since the node started. Written by the socket alone, read by anyone.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// A number that only rises.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Why a forward frame was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drop {
    /// Its sender's address is no live link.
    UnknownLink,
    /// Its header was short, of an unknown type or forged.
    BadFrame,
    /// It came before, or so late that it may have.
    Replayed,
    /// Its hop limit was spent.
    HopLimit,
    /// No route leads to its destination.
    NoRoute,
    /// The queue of a blocked socket was full.
    QueueFull,
}

/// All reasons, in the order of their counters.
pub(crate) const DROPS: [Drop; 6] = [
    Drop::UnknownLink,
    Drop::BadFrame,
    Drop::Replayed,
    Drop::HopLimit,
    Drop::NoRoute,
    Drop::QueueFull,
];

impl Drop {
    /// The reason's name among the counters.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::UnknownLink => "unknown_link",
            Self::BadFrame => "bad_frame",
            Self::Replayed => "replayed",
            Self::HopLimit => "hop_limit",
            Self::NoRoute => "no_route",
            Self::QueueFull => "queue_full",
        }
    }

    /// The reason as a log line says it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::UnknownLink => "forward frame from an address that is no live link",
            Self::BadFrame => "forward frame that is malformed, forged or of an old link",
            Self::Replayed => "forward frame that came before, or far too late: replayed",
            Self::HopLimit => "forward frame whose hop limit is spent",
            Self::NoRoute => "forward frame to a node without a route",
            Self::QueueFull => "forward frame while the sending queue is full",
        }
    }
}

/// The socket's counters.
#[derive(Debug, Default)]
pub(crate) struct ForwardCounters {
    /// Frames passed on for other nodes.
    pub(crate) packets: Counter,
    /// Bytes in them, headers included.
    pub(crate) bytes: Counter,
    /// This node's own packets that no route was known for.
    pub(crate) unroutable: Counter,
    /// Packets sent again after a change of route.
    pub(crate) resent: Counter,
    dropped: [Counter; DROPS.len()],
    offenders: Mutex<[Option<SocketAddr>; DROPS.len()]>,
}

impl ForwardCounters {
    /// Counts dropped frames; `from` is where they came from, if that was another node.
    pub(crate) fn drop_frames(&self, reason: Drop, frames: u64, from: Option<SocketAddr>) {
        self.dropped[reason as usize].add(frames);
        if from.is_some() {
            self.offenders.lock()[reason as usize] = from;
        }
    }

    /// Where the latest frame that was dropped for this reason came from.
    pub(crate) fn offender(&self, reason: Drop) -> Option<SocketAddr> {
        self.offenders.lock()[reason as usize]
    }

    pub(crate) fn dropped(&self, reason: Drop) -> u64 {
        self.dropped[reason as usize].get()
    }

    pub(crate) fn dropped_in_all(&self) -> u64 {
        self.dropped.iter().map(Counter::get).sum()
    }
}
