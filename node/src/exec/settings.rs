//! How an executor is set up. Made from the node's configuration by whoever starts the executor.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use worker_api::{PayloadKind, WorkerEntry};
use workmesh_proto::NodeId;

/// An executor's limits and places.
#[derive(Clone, Debug)]
pub(crate) struct ExecSettings {
    /// The node that runs the units.
    pub(crate) node: NodeId,
    /// Units that run at once; at least 1.
    pub(crate) slots: usize,
    /// Units that may wait while no slot can take them.
    pub(crate) queue: usize,
    /// The largest payload of the bytes kind, in bytes.
    pub(crate) max_bytes_payload: u64,
    /// All payloads of the bytes kind together that wait for their units to run, in bytes.
    pub(crate) max_waiting_payload: u64,
    /// The largest payload of the file kind, in bytes.
    pub(crate) max_file_payload: u64,
    /// How long a payload may bring nothing although there is room for it.
    pub(crate) payload_idle: Duration,
    /// How long a function that was told to stop keeps its slot.
    pub(crate) stop_grace: Duration,
    /// Threads that may be stuck in functions that do not return, beside those that hold a slot.
    pub(crate) abandoned_limit: usize,
    /// The folder for payloads of the file kind; this executor's alone.
    pub(crate) spool_dir: PathBuf,
    /// The tables `[workers.<module>]` of the configuration, by module.
    pub(crate) worker_config: BTreeMap<String, serde_json::Value>,
}

impl ExecSettings {
    /// The settings of a node that was not told otherwise, with this many slots.
    pub(crate) fn new(node: NodeId, slots: usize, spool_dir: impl Into<PathBuf>) -> Self {
        Self {
            node,
            slots,
            queue: 1024,
            max_bytes_payload: 16 * 1024 * 1024,
            max_waiting_payload: 256 * 1024 * 1024,
            max_file_payload: 64 * 1024 * 1024 * 1024,
            payload_idle: Duration::from_secs(60),
            stop_grace: Duration::from_secs(1),
            abandoned_limit: slots,
            spool_dir: spool_dir.into(),
            worker_config: BTreeMap::new(),
        }
    }

    /// The largest payload that this worker takes here, in bytes.
    pub(crate) fn payload_limit(&self, entry: &WorkerEntry) -> u64 {
        let own = entry.limits.max_payload_bytes.unwrap_or(u64::MAX);
        match entry.kind {
            PayloadKind::Bytes => own.min(self.max_bytes_payload),
            PayloadKind::Buffer => own,
            PayloadKind::File => own.min(self.max_file_payload),
        }
    }
}
