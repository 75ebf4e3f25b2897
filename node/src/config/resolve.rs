//! Merging the layers: for each key the flag, else the variable, else the file, else the default, and which it was.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Serialize, Serializer};
use serde_json::Value;

use super::environment::{FILE_VARIABLE, NO_LISTEN_VARIABLE};
use super::file::FileLayer;
use super::layer::{self, Key, Layer};
use super::value::{Listen, PeerAddress, show_duration, show_size};
use super::{ConfigError, Environment, Retention, RunArgs, Settings, WorkSettings};

/// Settings, and where each of them comes from.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// What the node works with.
    pub settings: Settings,
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// Every key with its value and origin, in the order of the documentation.
    pub entries: Vec<Entry>,
}

/// One effective value.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// The key as in the file, with its table.
    pub key: String,
    /// The value as the file would take it.
    pub value: Value,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// A line of the file, from 1.
    File(PathBuf, usize),
    /// A variable of the environment.
    Variable(&'static str),
    /// A flag.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Reads the file, the environment and the flags of a node that lives in `data_dir`.
///
/// The file is the one of `--config`, else of `NODE_CONFIG`, else the first of [`Settings::default_files`] that exists.
///
/// # Errors
/// When a named file can't be read, a key is unknown or a value is bad.
pub fn resolve(args: &RunArgs, data_dir: &Path, environment: &Environment) -> Result<Resolved, ConfigError> {
    let named = args
        .config
        .clone()
        .or_else(|| environment.get(FILE_VARIABLE).map(PathBuf::from));
    let path = named.or_else(|| {
        Settings::default_files(data_dir)
            .into_iter()
            .find(|path| path.exists())
    });
    let file = path
        .as_deref()
        .map(FileLayer::load)
        .transpose()?
        .unwrap_or_default();
    let mut merge = Merge {
        flags: args.layer()?,
        environment: environment.layer()?,
        no_listen: args.no_listen(),
        file,
        path,
        entries: Vec::new(),
    };
    let settings = merge.settings(data_dir);
    Ok(Resolved {
        settings,
        file: merge.path,
        entries: merge.entries,
    })
}

struct Merge {
    flags: Layer,
    environment: Layer,
    file: FileLayer,
    path: Option<PathBuf>,
    no_listen: bool,
    entries: Vec<Entry>,
}

impl Merge {
    fn settings(&mut self, data_dir: &Path) -> Settings {
        let default = Settings::for_data_dir(data_dir);
        let default_listen = default.listen.map_or(Listen::Off, Listen::At);
        let listen = self.pick(
            &layer::LISTEN,
            |l| l.mesh.listen,
            default_listen,
            |listen| match listen {
                Listen::At(address) => address.to_string().into(),
                Listen::Off => false.into(),
            },
        );
        Settings {
            listen: match listen {
                Listen::At(address) => Some(address),
                Listen::Off => None,
            },
            peers: self.pick(
                &layer::PEERS,
                |l| l.mesh.peers.clone(),
                default.peers,
                |peers| peers.iter().map(PeerAddress::to_string).collect(),
            ),
            link_cost: self.pick(
                &layer::COST,
                |l| l.mesh.cost,
                default.link_cost,
                |cost| (*cost).into(),
            ),
            detection: self.pick(
                &layer::DETECTION,
                |l| l.mesh.detection,
                default.detection,
                |d| show_duration(*d).into(),
            ),
            labels: self.pick(
                &layer::LABELS,
                |l| l.mesh.labels.clone(),
                default.labels,
                |labels| {
                    labels
                        .iter()
                        .map(|(key, value)| (key.clone(), value.clone()))
                        .collect()
                },
            ),
            max_workers: self.pick(
                &layer::MAX_WORKERS,
                |l| l.pool.max_workers,
                default.max_workers,
                |n| (*n).into(),
            ),
            queue: self.pick(&layer::QUEUE, |l| l.pool.queue, default.queue, |n| (*n).into()),
            max_bytes_payload: self.pick(
                &layer::MAX_BYTES_PAYLOAD,
                |l| l.pool.max_bytes_payload,
                default.max_bytes_payload,
                |size| show_size(*size).into(),
            ),
            max_file_payload: self.pick(
                &layer::MAX_FILE_PAYLOAD,
                |l| l.pool.max_file_payload,
                default.max_file_payload,
                |size| show_size(*size).into(),
            ),
            payload_idle: self.pick(
                &layer::PAYLOAD_IDLE,
                |l| l.pool.payload_idle,
                default.payload_idle,
                |d| show_duration(*d).into(),
            ),
            drain_grace: self.pick(
                &layer::DRAIN_GRACE,
                |l| l.pool.drain_grace,
                default.drain_grace,
                |d| show_duration(*d).into(),
            ),
            work: self.work(default.work),
            log: self.pick(
                &layer::LOG,
                |l| l.log.level.clone(),
                default.log,
                |log| log.as_str().into(),
            ),
            log_format: self.pick(
                &layer::LOG_FORMAT,
                |l| l.log.format,
                default.log_format,
                |format| serde_json::to_value(format).unwrap_or_default(),
            ),
            worker_config: self.workers(),
            data_dir: default.data_dir,
        }
    }

    fn work(&mut self, default: WorkSettings) -> WorkSettings {
        let size = |size: &u64| show_size(*size).into();
        let time = |time: &Duration| show_duration(*time).into();
        let count = |count: &usize| (*count).into();
        let (succeeded, failed) = (default.keep_succeeded, default.keep_failed);
        WorkSettings {
            quota: self.pick(&layer::WORK_QUOTA, |l| l.work.quota, default.quota, size),
            reserve: self.pick(&layer::WORK_RESERVE, |l| l.work.reserve, default.reserve, size),
            spool_limit: self.pick(
                &layer::WORK_SPOOL_LIMIT,
                |l| l.work.spool_limit,
                default.spool_limit,
                size,
            ),
            lost_after: self.pick(
                &layer::WORK_LOST_AFTER,
                |l| l.work.lost_after,
                default.lost_after,
                time,
            ),
            batch_from: self.pick(
                &layer::WORK_BATCH_FROM,
                |l| l.work.batch_from,
                default.batch_from,
                count,
            ),
            keep_succeeded: Retention {
                age: self.pick(
                    &layer::KEEP_SUCCEEDED_FOR,
                    |l| l.work.keep_succeeded_for,
                    succeeded.age,
                    time,
                ),
                count: self.pick(
                    &layer::KEEP_SUCCEEDED_COUNT,
                    |l| l.work.keep_succeeded_count,
                    succeeded.count,
                    count,
                ),
                bytes: self.pick(
                    &layer::KEEP_SUCCEEDED_BYTES,
                    |l| l.work.keep_succeeded_bytes,
                    succeeded.bytes,
                    size,
                ),
            },
            keep_failed: Retention {
                age: self.pick(
                    &layer::KEEP_FAILED_FOR,
                    |l| l.work.keep_failed_for,
                    failed.age,
                    time,
                ),
                count: self.pick(
                    &layer::KEEP_FAILED_COUNT,
                    |l| l.work.keep_failed_count,
                    failed.count,
                    count,
                ),
                bytes: self.pick(
                    &layer::KEEP_FAILED_BYTES,
                    |l| l.work.keep_failed_bytes,
                    failed.bytes,
                    size,
                ),
            },
        }
    }

    /// The value of one key from the first layer that has it; notes it with its origin.
    fn pick<T>(
        &mut self,
        key: &Key,
        of: impl Fn(&Layer) -> Option<T>,
        default: T,
        show: impl FnOnce(&T) -> Value,
    ) -> T {
        let (value, origin) = if let Some(value) = of(&self.flags) {
            (value, Origin::Flag(self.flag(key)))
        } else if let Some(value) = of(&self.environment) {
            (value, Origin::Variable(self.variable(key)))
        } else if let Some(value) = of(&self.file.layer) {
            (value, self.line(key.path))
        } else {
            (default, Origin::Default)
        };
        self.entries.push(Entry {
            key: key.path.to_owned(),
            value: show(&value),
            origin,
        });
        value
    }

    fn flag(&self, key: &Key) -> &'static str {
        if key.path == layer::LISTEN.path && self.no_listen {
            "--no-listen"
        } else {
            key.flag
        }
    }

    fn variable(&self, key: &Key) -> &'static str {
        if key.path == layer::LISTEN.path && self.environment.mesh.listen == Some(Listen::Off) {
            NO_LISTEN_VARIABLE
        } else {
            key.variable
        }
    }

    fn line(&self, key: &str) -> Origin {
        match (&self.path, self.file.line(key)) {
            (Some(path), Some(line)) => Origin::File(path.clone(), line),
            _ => Origin::Default,
        }
    }

    fn workers(&mut self) -> std::collections::BTreeMap<String, Value> {
        let tables = std::mem::take(&mut self.file.layer.workers);
        tables
            .into_iter()
            .map(|(module, table)| {
                let value = json(toml::Value::Table(table));
                let key = format!("workers.{module}");
                let origin = self.line(&key);
                self.entries.push(Entry {
                    key,
                    value: value.clone(),
                    origin,
                });
                (module, value)
            })
            .collect()
    }
}

/// A TOML value as JSON; dates become texts, and numbers that JSON lacks become null.
fn json(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(on) => on.into(),
        toml::Value::Datetime(date) => date.to_string().into(),
        toml::Value::Array(values) => values.into_iter().map(json).collect(),
        toml::Value::Table(table) => table.into_iter().map(|(key, value)| (key, json(value))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use tempfile::TempDir;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        run: RunArgs,
    }

    /// A data directory with this text as `node.toml`.
    fn data_dir(text: &str) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("node.toml"), text).unwrap();
        dir
    }

    fn resolved(dir: &TempDir, variables: &[(&str, &str)], flags: &[&str]) -> Result<Resolved, String> {
        let command = Command::try_parse_from(["node"].iter().chain(flags)).unwrap();
        let environment = variables.iter().copied().collect();
        resolve(&command.run, dir.path(), &environment).map_err(|error| error.to_string())
    }

    fn origin(resolved: &Resolved, key: &str) -> String {
        let entry = resolved.entries.iter().find(|entry| entry.key == key).unwrap();
        format!("{} {}", entry.value, entry.origin)
    }

    #[test]
    fn a_flag_wins_over_a_variable_and_that_over_the_file_and_that_over_the_default() {
        let dir = data_dir("[mesh]\ncost = 2\ndetection = \"2s\"\npeers = [\"a\"]\n");
        let path = dir.path().join("node.toml");
        let variables = [("NODE_COST", "3"), ("NODE_DETECTION", "3s")];
        let resolved = resolved(&dir, &variables, &["--cost", "4"]).unwrap();
        assert_eq!(resolved.settings.link_cost, 4);
        assert_eq!(resolved.settings.detection, Duration::from_secs(3));
        assert_eq!(origin(&resolved, "mesh.cost"), "4 flag --cost");
        assert_eq!(
            origin(&resolved, "mesh.detection"),
            "\"3s\" environment NODE_DETECTION"
        );
        assert_eq!(
            origin(&resolved, "mesh.peers"),
            format!("[\"a:8888\"] {}:4", path.display())
        );
        assert_eq!(origin(&resolved, "pool.queue"), "1024 default");
        assert_eq!(resolved.file, Some(path));
    }

    #[test]
    fn how_durable_units_are_kept_comes_from_all_sources() {
        let dir = data_dir("[work]\nquota = \"1GiB\"\nkeep_failed_count = 7\nlost_after = \"2h\"\n");
        let variables = [("NODE_WORK_LOST_AFTER", "3h"), ("NODE_WORK_SPOOL_LIMIT", "1MiB")];
        let resolved = resolved(&dir, &variables, &["--work-spool-limit", "2MiB"]).unwrap();
        let default = WorkSettings::default();
        let expected = WorkSettings {
            quota: 1 << 30,
            spool_limit: 2 << 20,
            lost_after: Duration::from_secs(3 * 3600),
            keep_failed: Retention {
                count: 7,
                ..default.keep_failed
            },
            ..default
        };
        assert_eq!(resolved.settings.work, expected);
        assert_eq!(
            origin(&resolved, "work.spool_limit"),
            "\"2MiB\" flag --work-spool-limit"
        );
        assert_eq!(origin(&resolved, "work.keep_failed_for"), "\"168h\" default");
    }

    #[test]
    fn without_any_source_the_settings_are_the_defaults() {
        let dir = data_dir("");
        let resolved = resolved(&dir, &[], &[]).unwrap();
        assert_eq!(resolved.settings, Settings::for_data_dir(dir.path()));
        assert_eq!(resolved.entries.len(), layer::KEYS.len());
        assert!(
            resolved
                .entries
                .iter()
                .all(|entry| entry.origin == Origin::Default)
        );
    }

    #[test]
    fn shown_values_are_what_the_file_takes() {
        let dir = data_dir("[workers.http]\nlimit = 3\n");
        let shown = resolved(
            &dir,
            &[("NODE_LABELS", "a=b"), ("NODE_NO_LISTEN", "1")],
            &[
                "--log-format",
                "json",
                "--work-reserve",
                "0",
                "--work-keep-failed-for",
                "36h",
            ],
        )
        .unwrap();
        let text: String = shown
            .entries
            .iter()
            .map(|entry| {
                let value: toml::Value = serde_json::from_value(entry.value.clone()).unwrap();
                format!("{} = {value}\n", entry.key)
            })
            .collect();
        let again = resolved(&data_dir(&text), &[], &[]).unwrap();
        let expected = Settings {
            data_dir: again.settings.data_dir.clone(),
            ..shown.settings
        };
        assert_eq!(again.settings, expected, "{text}");
    }

    #[test]
    fn listening_is_turned_off_by_any_source_and_on_again_by_a_stronger_one() {
        let dir = data_dir("[mesh]\nlisten = false\n");
        let listen = |variables: &[_], flags: &[_]| {
            let resolved = resolved(&dir, variables, flags).unwrap();
            (resolved.settings.listen, origin(&resolved, "mesh.listen"))
        };
        assert_eq!(listen(&[], &[]).0, None);
        let (address, origin) = listen(&[("NODE_LISTEN", ":9")], &[]);
        assert_eq!(address, Some("0.0.0.0:9".parse().unwrap()));
        assert_eq!(origin, "\"0.0.0.0:9\" environment NODE_LISTEN");
        let off = listen(&[("NODE_LISTEN", ":9")], &["--no-listen"]);
        assert_eq!(off, (None, "false flag --no-listen".to_owned()));
        let off = listen(&[("NODE_NO_LISTEN", "yes")], &[]);
        assert_eq!(off, (None, "false environment NODE_NO_LISTEN".to_owned()));
    }

    #[test]
    fn a_named_file_wins_over_the_one_in_the_data_directory_and_has_to_exist() {
        let (dir, other) = (data_dir("[mesh]\ncost = 2\n"), data_dir("[mesh]\ncost = 3\n"));
        let path = other.path().join("node.toml");
        let path = path.to_str().unwrap();
        let cost =
            |variables: &[_], flags: &[_]| resolved(&dir, variables, flags).unwrap().settings.link_cost;
        assert_eq!(cost(&[], &[]), 2);
        assert_eq!(cost(&[("NODE_CONFIG", path)], &[]), 3);
        assert_eq!(cost(&[("NODE_CONFIG", "/nowhere")], &["--config", path]), 3);
        let error = resolved(&dir, &[("NODE_CONFIG", "/nowhere/node.toml")], &[]).unwrap_err();
        assert!(
            error.starts_with("can't read configuration /nowhere/node.toml: "),
            "{error}"
        );
    }

    #[test]
    fn each_worker_module_has_its_own_table() {
        let dir = data_dir(
            "[workers.http]\ntimeout = 3\nfrom = 2026-01-02\n[workers.http.deep]\nlist = [1, 2.5, true]\n",
        );
        let resolved = resolved(&dir, &[], &[]).unwrap();
        assert_eq!(
            resolved.settings.worker_config["http"].to_string(),
            r#"{"deep":{"list":[1,2.5,true]},"from":"2026-01-02","timeout":3}"#
        );
        assert!(origin(&resolved, "workers.http").ends_with("node.toml:1"));
    }

    #[test]
    fn a_mistake_in_any_source_is_refused() {
        let dir = data_dir("[mesh]\ncots = 2\n");
        assert!(
            resolved(&dir, &[], &[])
                .unwrap_err()
                .contains("node.toml:2:1: mesh.cots: unknown key")
        );
        let dir = data_dir("");
        assert!(
            resolved(&dir, &[("NODE_QUEUE", "x")], &[])
                .unwrap_err()
                .contains("NODE_QUEUE")
        );
        let peers = vec!["a"; 200].join(",");
        let error = resolved(&dir, &[], &["--peers", &peers, "--peers", &peers]).unwrap_err();
        assert_eq!(error, "--peers: expected at most 256 peers, found 400");
    }
}
