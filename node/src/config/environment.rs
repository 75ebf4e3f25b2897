//! The environment as a layer of the configuration: `NODE_*` variables. An empty variable is as good as none.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use super::ConfigError;
use super::layer::{self, KEYS, Key, Layer};
use super::value::{self, Listen};
use crate::identity::paths::DATA_DIR_VARIABLE;

/// The variable that names the configuration file.
pub(super) const FILE_VARIABLE: &str = "NODE_CONFIG";
/// The variable that turns listening off.
pub(super) const NO_LISTEN_VARIABLE: &str = "NODE_NO_LISTEN";
const PREFIX: &str = "NODE_";

/// A copy of the environment's `NODE_*` variables.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<String, OsString>);

impl Environment {
    /// That of this process.
    pub fn of_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .collect()
    }

    /// The value of a variable that is set and not empty.
    pub(super) fn get(&self, name: &str) -> Option<&OsStr> {
        self.0
            .get(name)
            .map(OsString::as_os_str)
            .filter(|value| !value.is_empty())
    }

    /// The `NODE_*` variables that mean nothing to this program.
    pub fn unknown(&self) -> Vec<&str> {
        let known = |name: &str| {
            [DATA_DIR_VARIABLE, FILE_VARIABLE, NO_LISTEN_VARIABLE].contains(&name)
                || KEYS.iter().any(|key| key.variable == name)
        };
        self.0
            .keys()
            .map(String::as_str)
            .filter(|name| !known(name))
            .collect()
    }

    /// The layer that the variables make.
    pub(super) fn layer(&self) -> Result<Layer, ConfigError> {
        let mut layer = Layer::default();
        layer.mesh.listen = self.listen()?;
        layer.mesh.peers = self.parse(&layer::PEERS, value::peers)?;
        layer.mesh.cost = self.parse(&layer::COST, value::cost)?;
        layer.mesh.detection = self.parse(&layer::DETECTION, value::detection)?;
        layer.mesh.labels = self.parse(&layer::LABELS, value::labels)?;
        layer.pool.max_workers = self.parse(&layer::MAX_WORKERS, value::max_workers)?;
        layer.pool.queue = self.parse(&layer::QUEUE, value::queue)?;
        layer.pool.max_bytes_payload = self.parse(&layer::MAX_BYTES_PAYLOAD, value::size)?;
        layer.pool.max_file_payload = self.parse(&layer::MAX_FILE_PAYLOAD, value::size)?;
        layer.pool.payload_idle = self.parse(&layer::PAYLOAD_IDLE, value::payload_idle)?;
        layer.pool.drain_grace = self.parse(&layer::DRAIN_GRACE, value::drain_grace)?;
        let work = &mut layer.work;
        work.quota = self.parse(&layer::WORK_QUOTA, value::quota)?;
        work.reserve = self.parse(&layer::WORK_RESERVE, value::reserve)?;
        work.spool_limit = self.parse(&layer::WORK_SPOOL_LIMIT, value::spool_limit)?;
        work.lost_after = self.parse(&layer::WORK_LOST_AFTER, value::lost_after)?;
        work.batch_from = self.parse(&layer::WORK_BATCH_FROM, value::batch_from)?;
        work.keep_succeeded_for = self.parse(&layer::KEEP_SUCCEEDED_FOR, value::keep_for)?;
        work.keep_succeeded_count = self.parse(&layer::KEEP_SUCCEEDED_COUNT, value::keep_count)?;
        work.keep_succeeded_bytes = self.parse(&layer::KEEP_SUCCEEDED_BYTES, value::size)?;
        work.keep_failed_for = self.parse(&layer::KEEP_FAILED_FOR, value::keep_for)?;
        work.keep_failed_count = self.parse(&layer::KEEP_FAILED_COUNT, value::keep_count)?;
        work.keep_failed_bytes = self.parse(&layer::KEEP_FAILED_BYTES, value::size)?;
        layer.log.level = self.parse(&layer::LOG, value::log)?;
        layer.log.format = self.parse(&layer::LOG_FORMAT, value::log_format)?;
        Ok(layer)
    }

    fn listen(&self) -> Result<Option<Listen>, ConfigError> {
        let address = self.parse(&layer::LISTEN, value::listen)?;
        let off = self.variable(NO_LISTEN_VARIABLE, value::switch)?.unwrap_or(false);
        match (address, off) {
            (Some(_), true) => Err(ConfigError::Variable {
                variable: NO_LISTEN_VARIABLE,
                problem: "contradicts NODE_LISTEN; set one of them".to_owned(),
            }),
            (None, true) => Ok(Some(Listen::Off)),
            (address, false) => Ok(address),
        }
    }

    fn parse<T>(&self, key: &Key, parse: fn(&str) -> Result<T, String>) -> Result<Option<T>, ConfigError> {
        self.variable(key.variable, parse)
    }

    fn variable<T>(
        &self,
        variable: &'static str,
        parse: fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.get(variable) else {
            return Ok(None);
        };
        value
            .to_str()
            .ok_or_else(|| "expected UTF-8".to_owned())
            .and_then(parse)
            .map(Some)
            .map_err(|problem| ConfigError::Variable { variable, problem })
    }
}

/// Keeps the `NODE_*` variables of those given.
impl<N: Into<String>, V: Into<OsString>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        let kept = variables
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .filter(|(name, _)| name.starts_with(PREFIX));
        Self(kept.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        variables.iter().copied().collect()
    }

    fn problem(variables: &[(&str, &str)]) -> String {
        environment(variables).layer().unwrap_err().to_string()
    }

    #[test]
    fn every_key_has_a_variable() {
        let layer = environment(&[
            ("NODE_LISTEN", "127.0.0.1:1"),
            ("NODE_PEERS", "b@c:9"),
            ("NODE_COST", "3"),
            ("NODE_DETECTION", "1s"),
            ("NODE_LABELS", "a=b"),
            ("NODE_MAX_WORKERS", "2"),
            ("NODE_QUEUE", "3"),
            ("NODE_MAX_BYTES_PAYLOAD", "1KiB"),
            ("NODE_MAX_FILE_PAYLOAD", "1MiB"),
            ("NODE_PAYLOAD_IDLE", "2s"),
            ("NODE_DRAIN_GRACE", "3s"),
            ("NODE_WORK_QUOTA", "1GiB"),
            ("NODE_WORK_RESERVE", "0B"),
            ("NODE_WORK_SPOOL_LIMIT", "1MiB"),
            ("NODE_WORK_LOST_AFTER", "1h"),
            ("NODE_WORK_BATCH_FROM", "0"),
            ("NODE_WORK_KEEP_SUCCEEDED_FOR", "2h"),
            ("NODE_WORK_KEEP_SUCCEEDED_COUNT", "3"),
            ("NODE_WORK_KEEP_SUCCEEDED_BYTES", "4GiB"),
            ("NODE_WORK_KEEP_FAILED_FOR", "5h"),
            ("NODE_WORK_KEEP_FAILED_COUNT", "6"),
            ("NODE_WORK_KEEP_FAILED_BYTES", "7GiB"),
            ("NODE_LOG", "debug"),
            ("NODE_LOG_FORMAT", "json"),
        ])
        .layer()
        .unwrap();
        assert!(!format!("{layer:?}").contains("None"), "{layer:?}");
    }

    #[test]
    fn a_bad_value_names_its_variable() {
        assert_eq!(
            problem(&[("NODE_COST", "0")]),
            "environment variable NODE_COST: expected a cost from 1 to 65535, found \"0\""
        );
        assert!(problem(&[("NODE_NO_LISTEN", "maybe")]).contains("expected true or false"));
    }

    #[test]
    fn listening_can_be_turned_off_but_not_on_and_off() {
        let layer = environment(&[("NODE_NO_LISTEN", "1")]).layer().unwrap();
        assert_eq!(layer.mesh.listen, Some(Listen::Off));
        let layer = environment(&[("NODE_NO_LISTEN", "0")]).layer().unwrap();
        assert_eq!(layer.mesh.listen, None);
        assert!(problem(&[("NODE_NO_LISTEN", "1"), ("NODE_LISTEN", ":1")]).contains("contradicts"));
    }

    #[test]
    fn an_empty_variable_is_as_good_as_none() {
        assert!(
            environment(&[("NODE_COST", "")])
                .layer()
                .unwrap()
                .mesh
                .cost
                .is_none()
        );
    }

    #[test]
    fn strangers_with_our_prefix_are_known_as_such() {
        let environment = environment(&[
            ("NODE_COST", "1"),
            ("NODE_CONFIG", "x"),
            ("NODE_OPTIONS", "y"),
            ("HOME", "/"),
        ]);
        assert_eq!(environment.unknown(), ["NODE_OPTIONS"]);
    }
}
