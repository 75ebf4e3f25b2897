//! What the socket has counted since the node started. Written by the socket alone, read by anyone.

use std::sync::atomic::{AtomicU64, Ordering};

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
    /// Its hop limit was spent.
    HopLimit,
    /// No route leads to its destination.
    NoRoute,
    /// The queue of a blocked socket was full.
    QueueFull,
}

/// All reasons, in the order of their counters.
pub(crate) const DROPS: [Drop; 5] = [
    Drop::UnknownLink,
    Drop::BadFrame,
    Drop::HopLimit,
    Drop::NoRoute,
    Drop::QueueFull,
];

impl Drop {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::UnknownLink => "forward frame from an address that is no live link",
            Self::BadFrame => "forward frame that is malformed, forged or of an old link",
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
    /// Packets sent again after a change of route.
    pub(crate) resent: Counter,
    dropped: [Counter; DROPS.len()],
}

impl ForwardCounters {
    pub(crate) fn drop_frames(&self, reason: Drop, frames: u64) {
        self.dropped[reason as usize].add(frames);
    }

    pub(crate) fn dropped(&self, reason: Drop) -> u64 {
        self.dropped[reason as usize].get()
    }

    pub(crate) fn dropped_in_all(&self) -> u64 {
        self.dropped.iter().map(Counter::get).sum()
    }
}
