//! What the mesh machine has counted since its start.

use std::collections::BTreeMap;

/// Counts since the start; they only rise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MeshCounters {
    /// Frames received, by type number; unknown types are counted in `unknown` alone.
    pub received: BTreeMap<u8, u64>,
    /// Frames sent, by type number.
    pub sent: BTreeMap<u8, u64>,
    /// Frames of types that are not of the control stream; skipped.
    pub unknown: u64,
    /// Frames that ended their link.
    pub malformed: u64,
    /// Advertisements and loads older than what was held.
    pub stale: u64,
    /// Entries that found no room.
    pub over_limit: u64,
    /// Digests that differed from the own database.
    pub digest_mismatches: u64,
    /// Times that routes were computed.
    pub spf_runs: u64,
}
