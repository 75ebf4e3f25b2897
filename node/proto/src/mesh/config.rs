//! What the mesh machine is told at its start, and the figures it floods.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::id::{Cost, Incarnation, NodeId};
use crate::wire::link::{MAX_LABELS, MAX_TEXT_BYTES, MAX_WORKERS, WorkerAd};

/// The most bytes that the texts of the own workers may take in the own advertisement, so that it fits into a frame
/// together with the most adjacencies and labels. Descriptions, then whole workers are left out above it.
pub const MAX_WORKER_TEXT_BYTES: usize = 64 * 1024;

/// Who this node is and what it offers. Fixed for one life of the node.
#[derive(Clone, Debug)]
pub struct MeshConfig {
    /// This node's id, with the instance if it is a leaf that a command made.
    pub node: NodeId,
    /// Which life of the node.
    pub incarnation: Incarnation,
    /// What this node says that each of its links costs.
    pub cost: Cost,
    /// This node never passes anything on.
    pub leaf: bool,
    /// Software version.
    pub version: String,
    /// What this node can run.
    pub workers: Vec<WorkerAd>,
    /// Set by the operator.
    pub labels: BTreeMap<String, String>,
    /// How fast things go.
    pub timings: Timings,
}

impl MeshConfig {
    /// Cuts everything that would not fit into an advertisement, so that no peer refuses it: texts to
    /// [`MAX_TEXT_BYTES`], workers and labels to their counts, the workers' texts to [`MAX_WORKER_TEXT_BYTES`].
    pub(crate) fn fit(mut self) -> Self {
        cut(&mut self.version);
        self.workers.truncate(MAX_WORKERS);
        for worker in &mut self.workers {
            cut(&mut worker.version);
            cut(&mut worker.description);
        }
        if worker_text_bytes(&self.workers) > MAX_WORKER_TEXT_BYTES {
            self.workers.iter_mut().for_each(|w| w.description.clear());
        }
        while worker_text_bytes(&self.workers) > MAX_WORKER_TEXT_BYTES {
            self.workers.pop();
        }
        let fits =
            |(key, value): &(String, String)| key.len() <= MAX_TEXT_BYTES && value.len() <= MAX_TEXT_BYTES;
        self.labels = std::mem::take(&mut self.labels)
            .into_iter()
            .filter(fits)
            .take(MAX_LABELS)
            .collect();
        self
    }
}

fn worker_text_bytes(workers: &[WorkerAd]) -> usize {
    let texts = |w: &WorkerAd| w.directive.as_str().len() + w.version.len() + w.description.len();
    workers.iter().map(texts).sum()
}

/// Cuts a text to [`MAX_TEXT_BYTES`] at a character's end.
pub(crate) fn cut(text: &mut String) {
    text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
}

/// How fast things go. All nodes of a mesh can differ in these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timings {
    /// A link without a hello is closed after this.
    pub hello_timeout: Duration,
    /// How long a link may take to prove that it lives, when a second one to the same node has come.
    pub probe_timeout: Duration,
    /// Own advertisements are at least this far apart.
    pub lsa_interval: Duration,
    /// Routes are computed at most this often; each further thousand nodes adds the same again.
    pub spf_interval: Duration,
    /// Own loads are at least this far apart.
    pub load_interval: Duration,
    /// Each link carries a digest this often: what was lost is found by then.
    pub digest_interval: Duration,
    /// How long an entry may be out of reach and still count as being on its way; leafs are forgotten after it.
    pub settle: Duration,
    /// A node out of reach is forgotten after this.
    pub max_age: Duration,
    /// The own advertisement is repeated this often, even if nothing changes.
    pub refresh: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            hello_timeout: Duration::from_secs(5),
            probe_timeout: Duration::from_millis(300),
            lsa_interval: Duration::from_millis(100),
            spf_interval: Duration::from_millis(10),
            load_interval: Duration::from_millis(200),
            digest_interval: Duration::from_secs(10),
            settle: Duration::from_secs(5),
            max_age: Duration::from_secs(60),
            refresh: Duration::from_secs(20 * 60),
        }
    }
}

/// How full a node's pool is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadFigures {
    /// Units that can run at once.
    pub slots: u32,
    /// Units that run.
    pub running: u32,
    /// Units that wait.
    pub queued: u32,
    /// Units that can wait.
    pub queue_limit: u32,
}
