//! The flags of `node [run]` as a layer of the configuration.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::layer::{self, Layer, LogTable, MeshTable, PoolTable, WorkTable};
use super::value::{self, Listen, PeerAddress};
use super::{ConfigError, LogFormat};

/// How the node is to run. Each flag wins over its NODE_* variable, and that over the configuration file.
#[derive(Args, Clone, Debug, Default)]
pub struct RunArgs {
    /// Configuration file [default: node.toml in the data directory, else /etc/workmesh/node.toml, if there]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address and UDP port for links [default: 0.0.0.0:8888]
    #[arg(long, value_name = "ADDRESS", value_parser = value::listen, conflicts_with = "no_listen")]
    listen: Option<Listen>,
    /// Listen nowhere: only dial peers
    #[arg(long)]
    no_listen: bool,
    /// Peers to dial, with commas between: host:port, or id@host:port to demand that node
    #[arg(long, value_name = "PEERS", value_parser = peers)]
    peers: Option<Vec<Peers>>,
    /// Cost of this node's links, 1 to 65535 [default: 10]
    #[arg(long, value_name = "COST", value_parser = value::cost)]
    cost: Option<u16>,
    /// How long a silence makes a neighbour dead, from 200ms [default: 5s]
    #[arg(long, value_name = "DURATION", value_parser = value::detection)]
    detection: Option<Duration>,
    /// What the node says about itself: key=value, with commas between
    #[arg(long, value_name = "LABELS", value_parser = labels)]
    labels: Option<Labels>,
    /// Units that run at once [default: processors + 4, at most 32]
    #[arg(long, value_name = "N", value_parser = value::max_workers)]
    max_workers: Option<usize>,
    /// Units that wait; one more is refused as busy [default: 1024]
    #[arg(long, value_name = "N", value_parser = value::queue)]
    queue: Option<usize>,
    /// Longest payload kept in memory [default: 16MiB]
    #[arg(long, value_name = "SIZE", value_parser = value::size)]
    max_bytes_payload: Option<u64>,
    /// Longest payload written to a file [default: 16GiB]
    #[arg(long, value_name = "SIZE", value_parser = value::size)]
    max_file_payload: Option<u64>,
    /// How long a payload may stand still [default: 60s]
    #[arg(long, value_name = "DURATION", value_parser = value::payload_idle)]
    payload_idle: Option<Duration>,
    /// How long units may go on while the node drains or stops [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = value::drain_grace)]
    drain_grace: Option<Duration>,
    #[command(flatten)]
    work: WorkArgs,
    /// What to log: off, error, warn, info, debug, trace, or target=level with commas [default: info]
    #[arg(long, value_name = "FILTER", value_parser = value::log)]
    log: Option<String>,
    /// How to write the log [default: text]
    #[arg(long, value_name = "FORMAT", value_enum)]
    log_format: Option<LogFormat>,
}

/// How durable units are kept.
#[derive(Args, Clone, Debug, Default)]
struct WorkArgs {
    /// Disk space for all durable units together, from 16MiB [default: 16GiB]
    #[arg(long, value_name = "SIZE", value_parser = value::quota)]
    work_quota: Option<u64>,
    /// Disk space that has to be free for new durable units [default: 256MiB]
    #[arg(long, value_name = "SIZE", value_parser = value::reserve)]
    work_reserve: Option<u64>,
    /// How far the worker of a durable unit may be ahead of its origin, from 64KiB [default: 1GiB]
    #[arg(long, value_name = "SIZE", value_parser = value::spool_limit)]
    work_spool_limit: Option<u64>,
    /// How long the executor of a durable unit may be out of reach [default: 24h]
    #[arg(long, value_name = "DURATION", value_parser = value::lost_after)]
    work_lost_after: Option<Duration>,
    /// How many durable units are under way before further small ones are offered in batches [default: 8]
    #[arg(long, value_name = "N", value_parser = value::batch_from)]
    work_batch_from: Option<usize>,
    /// How long durable units that succeeded are kept [default: 24h]
    #[arg(long, value_name = "DURATION", value_parser = value::keep_for)]
    work_keep_succeeded_for: Option<Duration>,
    /// How many of them are kept [default: 100000]
    #[arg(long, value_name = "N", value_parser = value::keep_count)]
    work_keep_succeeded_count: Option<usize>,
    /// How many bytes of them are kept [default: 4GiB]
    #[arg(long, value_name = "SIZE", value_parser = value::size)]
    work_keep_succeeded_bytes: Option<u64>,
    /// How long durable units that ended otherwise are kept [default: 168h]
    #[arg(long, value_name = "DURATION", value_parser = value::keep_for)]
    work_keep_failed_for: Option<Duration>,
    /// How many of them are kept [default: 100000]
    #[arg(long, value_name = "N", value_parser = value::keep_count)]
    work_keep_failed_count: Option<usize>,
    /// How many bytes of them are kept [default: 4GiB]
    #[arg(long, value_name = "SIZE", value_parser = value::size)]
    work_keep_failed_bytes: Option<u64>,
}

impl WorkArgs {
    fn table(&self) -> WorkTable {
        WorkTable {
            quota: self.work_quota,
            reserve: self.work_reserve,
            spool_limit: self.work_spool_limit,
            lost_after: self.work_lost_after,
            batch_from: self.work_batch_from,
            keep_succeeded_for: self.work_keep_succeeded_for,
            keep_succeeded_count: self.work_keep_succeeded_count,
            keep_succeeded_bytes: self.work_keep_succeeded_bytes,
            keep_failed_for: self.work_keep_failed_for,
            keep_failed_count: self.work_keep_failed_count,
            keep_failed_bytes: self.work_keep_failed_bytes,
        }
    }
}

/// The peers of one flag: the flag can be repeated.
#[derive(Clone, Debug)]
struct Peers(Vec<PeerAddress>);

fn peers(text: &str) -> Result<Peers, String> {
    value::peers(text).map(Peers)
}

/// The labels of one flag.
#[derive(Clone, Debug)]
struct Labels(BTreeMap<String, String>);

fn labels(text: &str) -> Result<Labels, String> {
    value::labels(text).map(Labels)
}

impl RunArgs {
    /// No flags but the configuration file.
    pub(crate) fn of_file(config: Option<PathBuf>) -> Self {
        Self {
            config,
            ..Self::default()
        }
    }

    /// Whether a flag turned listening off.
    pub(super) fn no_listen(&self) -> bool {
        self.no_listen
    }

    /// What the flags say.
    pub(super) fn layer(&self) -> Result<Layer, ConfigError> {
        let peers = self
            .peers
            .as_ref()
            .map(|flags| flags.iter().flat_map(|flag| flag.0.clone()).collect())
            .map(value::check_peers)
            .transpose()
            .map_err(|problem| ConfigError::Flag {
                flag: layer::PEERS.flag,
                problem,
            })?;
        Ok(Layer {
            mesh: MeshTable {
                listen: if self.no_listen {
                    Some(Listen::Off)
                } else {
                    self.listen
                },
                peers,
                cost: self.cost,
                detection: self.detection,
                labels: self.labels.clone().map(|labels| labels.0),
            },
            pool: PoolTable {
                max_workers: self.max_workers,
                queue: self.queue,
                max_bytes_payload: self.max_bytes_payload,
                max_file_payload: self.max_file_payload,
                payload_idle: self.payload_idle,
                drain_grace: self.drain_grace,
            },
            work: self.work.table(),
            log: LogTable {
                level: self.log.clone(),
                format: self.log_format,
            },
            workers: BTreeMap::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::super::layer::KEYS;
    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        run: RunArgs,
    }

    fn parse(args: &[&str]) -> Result<Layer, String> {
        Command::try_parse_from(["node"].iter().chain(args))
            .map(|command| command.run.layer().unwrap())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn every_key_has_a_flag() {
        Command::command().debug_assert();
        let command = Command::command();
        for key in KEYS {
            let flag = command
                .get_arguments()
                .any(|arg| arg.get_long() == key.flag.strip_prefix("--"));
            assert!(flag, "{}", key.flag);
        }
    }

    #[test]
    fn flags_become_a_layer() {
        let layer = parse(&[
            "--peers", "a:1,b@c", "--peers", "d", "--labels", "x=1,y=2", "--queue", "0",
        ])
        .unwrap();
        assert_eq!(layer.mesh.peers.unwrap().len(), 3);
        assert_eq!(layer.mesh.labels.unwrap().len(), 2);
        assert_eq!(layer.pool.queue, Some(0));
        assert!(layer.log.level.is_none());
    }

    #[test]
    fn every_flag_of_durable_units_reaches_its_key() {
        let layer = parse(&[
            "--work-quota=1GiB",
            "--work-reserve=2B",
            "--work-spool-limit=3MiB",
            "--work-lost-after=4h",
            "--work-batch-from=11",
            "--work-keep-succeeded-for=5h",
            "--work-keep-succeeded-count=6",
            "--work-keep-succeeded-bytes=7B",
            "--work-keep-failed-for=8h",
            "--work-keep-failed-count=9",
            "--work-keep-failed-bytes=10B",
        ]);
        let WorkTable {
            quota,
            reserve,
            spool_limit,
            lost_after,
            batch_from,
            keep_succeeded_for,
            keep_succeeded_count,
            keep_succeeded_bytes,
            keep_failed_for,
            keep_failed_count,
            keep_failed_bytes,
        } = layer.unwrap().work;
        let hours = |hours: u64| Some(Duration::from_secs(hours * 3600));
        assert_eq!(
            (quota, reserve, spool_limit),
            (Some(1 << 30), Some(2), Some(3 << 20))
        );
        assert_eq!(
            (lost_after, keep_succeeded_for, keep_failed_for),
            (hours(4), hours(5), hours(8))
        );
        assert_eq!(
            (batch_from, keep_succeeded_count, keep_failed_count),
            (Some(11), Some(6), Some(9))
        );
        assert_eq!((keep_succeeded_bytes, keep_failed_bytes), (Some(7), Some(10)));
    }

    #[test]
    fn a_bad_value_is_refused_with_its_flag() {
        let error = parse(&["--detection", "5"]).unwrap_err();
        assert!(
            error.contains("--detection") && error.contains("with a unit"),
            "{error}"
        );
        assert!(parse(&["--listen", ":1", "--no-listen"]).is_err());
    }
}
