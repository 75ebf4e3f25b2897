//! The configuration: text from a file, the environment and flags becomes one checked [`Settings`].
//!
//! A flag wins over a `NODE_*` variable, that over the file, that over the default; [`Resolved`] remembers which it was.
//! Called by `cli/`; a program on the library may build [`Settings`] itself. Nothing here prints.

mod environment;
mod error;
mod file;
mod flags;
mod layer;
mod resolve;
mod value;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use workmesh_proto::Cost;

pub use self::environment::Environment;
pub use self::error::ConfigError;
pub use self::file::MAX_FILE_BYTES;
pub use self::flags::RunArgs;
pub use self::resolve::{Entry, Origin, Resolved, resolve};
pub use self::value::{MAX_PEERS, PeerAddress};

/// The port on which nodes listen where no other is given.
pub const DEFAULT_PORT: u16 = 8888;

/// How a node is to run: every value checked, every default filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Where the node keeps its identity, state and control socket.
    pub data_dir: PathBuf,

    // mesh
    /// Where to listen for links; `None`: nowhere, this node only dials.
    pub listen: Option<SocketAddr>,
    /// Whom to dial.
    pub peers: Vec<PeerAddress>,
    /// The cost of this node's links, at least 1.
    pub link_cost: u16,
    /// After how long a silence a neighbour counts as dead; 200 ms to 10 minutes.
    pub detection: Duration,
    /// What this node says about itself.
    pub labels: BTreeMap<String, String>,

    // pool
    /// Units that run at once; 1 to 1024.
    pub max_workers: usize,
    /// Units that wait; 0 to 1,000,000.
    pub queue: usize,
    /// The longest payload that is kept in memory, in bytes.
    pub max_bytes_payload: u64,
    /// The longest payload that is written to a file, in bytes.
    pub max_file_payload: u64,
    /// How long a payload may stand still before its unit fails; 100 ms to a day.
    pub payload_idle: Duration,
    /// How long units may go on while the node drains or stops; 0 to a day.
    pub drain_grace: Duration,

    /// How durable units are kept.
    pub work: WorkSettings,

    // log
    /// Which events are logged: a level, or `target=level` pairs, with commas.
    pub log: String,
    /// How they are written.
    pub log_format: LogFormat,

    /// Each worker module's own configuration table.
    pub worker_config: BTreeMap<String, serde_json::Value>,
}

impl Settings {
    /// The defaults, for a node that lives in `data_dir`.
    pub fn for_data_dir(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            listen: Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, DEFAULT_PORT))),
            peers: Vec::new(),
            link_cost: Cost::DEFAULT.0,
            detection: Duration::from_secs(5),
            labels: BTreeMap::new(),
            max_workers: default_max_workers(),
            queue: 1024,
            max_bytes_payload: 16 * 1024 * 1024,
            max_file_payload: 16 * 1024 * 1024 * 1024,
            payload_idle: Duration::from_secs(60),
            work: WorkSettings::default(),
            drain_grace: Duration::from_secs(30),
            log: "info".to_owned(),
            log_format: LogFormat::Text,
            worker_config: BTreeMap::new(),
        }
    }

    /// The files that are looked for when none is named, the first that exists wins.
    pub fn default_files(data_dir: &Path) -> [PathBuf; 2] {
        [
            data_dir.join("node.toml"),
            PathBuf::from("/etc/workmesh/node.toml"),
        ]
    }
}

/// How durable units are kept, at their origin and at their executor.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkSettings {
    /// Bytes that all durable units together may take on the disk, at least 16 MiB; new ones are refused beyond it.
    pub quota: u64,
    /// Bytes that have to be free on the disk for new ones.
    pub reserve: u64,
    /// Response bytes that a worker may be ahead of what the origin has acknowledged, at least 64 KiB.
    pub spool_limit: u64,
    /// A unit whose executor is out of reach for longer is lost, or waits for it if it may run again; 1 second to a year.
    pub lost_after: Duration,
    /// A small unit is offered together with others if so many others are under way, from their submission until their executors have
    /// forgotten them: a single one gains nothing by it, and of one that is not over in a moment it is heard a little later that it began.
    /// At most 1,000,000.
    pub batch_from: usize,
    /// How long, and how many, units that succeeded are kept after their end.
    pub keep_succeeded: Retention,
    /// The same for all that ended otherwise.
    pub keep_failed: Retention,
}

/// Which ended units are kept: the youngest within all three bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Since their end; at most ten years.
    pub age: Duration,
    /// How many; at most 10,000,000.
    pub count: usize,
    /// Bytes of payload and responses together.
    pub bytes: u64,
}

impl Default for WorkSettings {
    fn default() -> Self {
        const GIB: u64 = 1024 * 1024 * 1024;
        let day = Duration::from_secs(24 * 3600);
        let keep = |days: u32| Retention {
            age: day * days,
            count: 100_000,
            bytes: 4 * GIB,
        };
        Self {
            quota: 16 * GIB,
            reserve: GIB / 4,
            spool_limit: GIB,
            lost_after: day,
            batch_from: 8,
            keep_succeeded: keep(1),
            keep_failed: keep(7),
        }
    }
}

/// The number of processors and four more, at most 32.
fn default_max_workers() -> usize {
    std::thread::available_parallelism().map_or(32, |cores| cores.get().saturating_add(4).min(32))
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// A line of text for each event
    Text,
    /// A JSON object for each event
    Json,
}
