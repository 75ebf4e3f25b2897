//! One layer of the configuration: what a file, the environment or the flags say. Everything may be absent.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::{Deserializer, Error};
use serde::{Deserialize, de};

use super::LogFormat;
use super::value::{self, Listen, PeerAddress};

/// What one source says. The names of fields are the keys of the file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Layer {
    pub(super) mesh: MeshTable,
    pub(super) pool: PoolTable,
    pub(super) work: WorkTable,
    pub(super) log: LogTable,
    pub(super) workers: BTreeMap<String, toml::Table>,
}

/// The table `[mesh]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct MeshTable {
    #[serde(deserialize_with = "listen")]
    pub(super) listen: Option<Listen>,
    #[serde(deserialize_with = "peers")]
    pub(super) peers: Option<Vec<PeerAddress>>,
    #[serde(deserialize_with = "cost")]
    pub(super) cost: Option<u16>,
    #[serde(deserialize_with = "detection")]
    pub(super) detection: Option<Duration>,
    #[serde(deserialize_with = "labels")]
    pub(super) labels: Option<BTreeMap<String, String>>,
}

/// The table `[pool]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PoolTable {
    #[serde(deserialize_with = "max_workers")]
    pub(super) max_workers: Option<usize>,
    #[serde(deserialize_with = "queue")]
    pub(super) queue: Option<usize>,
    #[serde(deserialize_with = "size")]
    pub(super) max_bytes_payload: Option<u64>,
    #[serde(deserialize_with = "size")]
    pub(super) max_file_payload: Option<u64>,
    #[serde(deserialize_with = "payload_idle")]
    pub(super) payload_idle: Option<Duration>,
    #[serde(deserialize_with = "drain_grace")]
    pub(super) drain_grace: Option<Duration>,
}

/// The table `[work]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct WorkTable {
    #[serde(deserialize_with = "quota")]
    pub(super) quota: Option<u64>,
    #[serde(deserialize_with = "reserve")]
    pub(super) reserve: Option<u64>,
    #[serde(deserialize_with = "spool_limit")]
    pub(super) spool_limit: Option<u64>,
    #[serde(deserialize_with = "lost_after")]
    pub(super) lost_after: Option<Duration>,
    #[serde(deserialize_with = "batch_from")]
    pub(super) batch_from: Option<usize>,
    #[serde(deserialize_with = "keep_for")]
    pub(super) keep_succeeded_for: Option<Duration>,
    #[serde(deserialize_with = "keep_count")]
    pub(super) keep_succeeded_count: Option<usize>,
    #[serde(deserialize_with = "size")]
    pub(super) keep_succeeded_bytes: Option<u64>,
    #[serde(deserialize_with = "keep_for")]
    pub(super) keep_failed_for: Option<Duration>,
    #[serde(deserialize_with = "keep_count")]
    pub(super) keep_failed_count: Option<usize>,
    #[serde(deserialize_with = "size")]
    pub(super) keep_failed_bytes: Option<u64>,
}

/// The table `[log]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LogTable {
    #[serde(deserialize_with = "log")]
    pub(super) level: Option<String>,
    #[serde(deserialize_with = "log_format")]
    pub(super) format: Option<LogFormat>,
}

/// The keys of the file, each with its variable and flag.
pub(super) struct Key {
    pub(super) path: &'static str,
    pub(super) variable: &'static str,
    pub(super) flag: &'static str,
}

macro_rules! keys {
    ($($name:ident = $path:literal, $variable:literal, $flag:literal;)*) => {
        $(pub(super) const $name: Key = Key { path: $path, variable: $variable, flag: $flag };)*
        /// All keys, in the order of the documentation.
        pub(super) const KEYS: &[&Key] = &[$(&$name),*];
    };
}

keys! {
    LISTEN = "mesh.listen", "NODE_LISTEN", "--listen";
    PEERS = "mesh.peers", "NODE_PEERS", "--peers";
    COST = "mesh.cost", "NODE_COST", "--cost";
    DETECTION = "mesh.detection", "NODE_DETECTION", "--detection";
    LABELS = "mesh.labels", "NODE_LABELS", "--labels";
    MAX_WORKERS = "pool.max_workers", "NODE_MAX_WORKERS", "--max-workers";
    QUEUE = "pool.queue", "NODE_QUEUE", "--queue";
    MAX_BYTES_PAYLOAD = "pool.max_bytes_payload", "NODE_MAX_BYTES_PAYLOAD", "--max-bytes-payload";
    MAX_FILE_PAYLOAD = "pool.max_file_payload", "NODE_MAX_FILE_PAYLOAD", "--max-file-payload";
    PAYLOAD_IDLE = "pool.payload_idle", "NODE_PAYLOAD_IDLE", "--payload-idle";
    DRAIN_GRACE = "pool.drain_grace", "NODE_DRAIN_GRACE", "--drain-grace";
    WORK_QUOTA = "work.quota", "NODE_WORK_QUOTA", "--work-quota";
    WORK_RESERVE = "work.reserve", "NODE_WORK_RESERVE", "--work-reserve";
    WORK_SPOOL_LIMIT = "work.spool_limit", "NODE_WORK_SPOOL_LIMIT", "--work-spool-limit";
    WORK_LOST_AFTER = "work.lost_after", "NODE_WORK_LOST_AFTER", "--work-lost-after";
    WORK_BATCH_FROM = "work.batch_from", "NODE_WORK_BATCH_FROM", "--work-batch-from";
    KEEP_SUCCEEDED_FOR = "work.keep_succeeded_for", "NODE_WORK_KEEP_SUCCEEDED_FOR", "--work-keep-succeeded-for";
    KEEP_SUCCEEDED_COUNT = "work.keep_succeeded_count", "NODE_WORK_KEEP_SUCCEEDED_COUNT", "--work-keep-succeeded-count";
    KEEP_SUCCEEDED_BYTES = "work.keep_succeeded_bytes", "NODE_WORK_KEEP_SUCCEEDED_BYTES", "--work-keep-succeeded-bytes";
    KEEP_FAILED_FOR = "work.keep_failed_for", "NODE_WORK_KEEP_FAILED_FOR", "--work-keep-failed-for";
    KEEP_FAILED_COUNT = "work.keep_failed_count", "NODE_WORK_KEEP_FAILED_COUNT", "--work-keep-failed-count";
    KEEP_FAILED_BYTES = "work.keep_failed_bytes", "NODE_WORK_KEEP_FAILED_BYTES", "--work-keep-failed-bytes";
    LOG = "log.level", "NODE_LOG", "--log";
    LOG_FORMAT = "log.format", "NODE_LOG_FORMAT", "--log-format";
}

/// Reads a text and checks it.
fn text<'de, D: Deserializer<'de>, T>(
    source: D,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, D::Error> {
    let text = String::deserialize(source)?;
    parse(&text).map(Some).map_err(D::Error::custom)
}

/// Reads a whole number and checks it.
fn number<'de, D: Deserializer<'de>, T>(
    source: D,
    check: impl FnOnce(i64) -> Result<T, String>,
) -> Result<Option<T>, D::Error> {
    let number = i64::deserialize(source)?;
    check(number).map(Some).map_err(D::Error::custom)
}

fn listen<'de, D: Deserializer<'de>>(source: D) -> Result<Option<Listen>, D::Error> {
    struct Visitor;
    impl de::Visitor<'_> for Visitor {
        type Value = Listen;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an address such as \"0.0.0.0:8888\", or false to listen nowhere")
        }

        fn visit_bool<E: Error>(self, on: bool) -> Result<Listen, E> {
            if on {
                return Err(E::invalid_value(de::Unexpected::Bool(true), &self));
            }
            Ok(Listen::Off)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Listen, E> {
            value::listen(text).map_err(E::custom)
        }
    }
    source.deserialize_any(Visitor).map(Some)
}

fn peers<'de, D: Deserializer<'de>>(source: D) -> Result<Option<Vec<PeerAddress>>, D::Error> {
    let peers = Vec::<String>::deserialize(source)?
        .iter()
        .map(|peer| peer.parse())
        .collect::<Result<_, _>>()
        .map_err(D::Error::custom)?;
    value::check_peers(peers).map(Some).map_err(D::Error::custom)
}

fn labels<'de, D: Deserializer<'de>>(source: D) -> Result<Option<BTreeMap<String, String>>, D::Error> {
    value::check_labels(BTreeMap::deserialize(source)?)
        .map(Some)
        .map_err(D::Error::custom)
}

fn cost<'de, D: Deserializer<'de>>(source: D) -> Result<Option<u16>, D::Error> {
    number(source, value::check_cost)
}

fn max_workers<'de, D: Deserializer<'de>>(source: D) -> Result<Option<usize>, D::Error> {
    number(source, value::check_max_workers)
}

fn queue<'de, D: Deserializer<'de>>(source: D) -> Result<Option<usize>, D::Error> {
    number(source, value::check_queue)
}

fn detection<'de, D: Deserializer<'de>>(source: D) -> Result<Option<Duration>, D::Error> {
    text(source, value::detection)
}

fn payload_idle<'de, D: Deserializer<'de>>(source: D) -> Result<Option<Duration>, D::Error> {
    text(source, value::payload_idle)
}

fn drain_grace<'de, D: Deserializer<'de>>(source: D) -> Result<Option<Duration>, D::Error> {
    text(source, value::drain_grace)
}

fn quota<'de, D: Deserializer<'de>>(source: D) -> Result<Option<u64>, D::Error> {
    text(source, value::quota)
}

fn reserve<'de, D: Deserializer<'de>>(source: D) -> Result<Option<u64>, D::Error> {
    text(source, value::reserve)
}

fn spool_limit<'de, D: Deserializer<'de>>(source: D) -> Result<Option<u64>, D::Error> {
    text(source, value::spool_limit)
}

fn lost_after<'de, D: Deserializer<'de>>(source: D) -> Result<Option<Duration>, D::Error> {
    text(source, value::lost_after)
}

fn batch_from<'de, D: Deserializer<'de>>(source: D) -> Result<Option<usize>, D::Error> {
    number(source, value::check_batch_from)
}

fn keep_for<'de, D: Deserializer<'de>>(source: D) -> Result<Option<Duration>, D::Error> {
    text(source, value::keep_for)
}

fn keep_count<'de, D: Deserializer<'de>>(source: D) -> Result<Option<usize>, D::Error> {
    number(source, value::check_keep_count)
}

fn size<'de, D: Deserializer<'de>>(source: D) -> Result<Option<u64>, D::Error> {
    text(source, value::size)
}

fn log<'de, D: Deserializer<'de>>(source: D) -> Result<Option<String>, D::Error> {
    text(source, value::log)
}

fn log_format<'de, D: Deserializer<'de>>(source: D) -> Result<Option<LogFormat>, D::Error> {
    text(source, value::log_format)
}
