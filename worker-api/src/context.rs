//! What a worker may know about the unit that it runs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::cancel::{CancelFlag, StopReason};
use crate::error::{Error, Result};
use crate::vocabulary::Directive;

/// A unit as its worker sees it: who asked for what, until when, and whether it is still wanted.
#[derive(Debug)]
pub struct Context {
    parts: ContextParts,
}

/// The fields of a [`Context`]; the node fills them in, and so does a worker's unit test.
#[derive(Debug)]
pub struct ContextParts {
    /// The unit's id.
    pub unit: Uuid,
    /// The node that submitted the unit, as its certificate proved it.
    pub sender: String,
    /// The node that runs the unit.
    pub node: String,
    /// What the unit asked for.
    pub directive: Directive,
    /// The submitter's `--param` pairs.
    pub params: BTreeMap<String, String>,
    /// When the unit expires, if it does.
    pub deadline: Option<Instant>,
    /// Set when the unit has to stop.
    pub cancel: CancelFlag,
    /// The table `[workers.<module>]` of the node's configuration; `Null` if there is none.
    pub config: serde_json::Value,
}

impl ContextParts {
    /// Parts for a test of a worker: a fresh unit id, sender and node `test`, nothing else set.
    pub fn for_test(directive: Directive) -> Self {
        Self {
            unit: Uuid::now_v7(),
            sender: "test".to_owned(),
            node: "test".to_owned(),
            directive,
            params: BTreeMap::new(),
            deadline: None,
            cancel: CancelFlag::new(),
            config: serde_json::Value::Null,
        }
    }
}

impl Context {
    /// A context of these parts.
    pub fn new(parts: ContextParts) -> Self {
        Self { parts }
    }

    /// The unit's id (UUIDv7).
    pub fn unit(&self) -> Uuid {
        self.parts.unit
    }

    /// The node id of the submitter, proved by its certificate end to end.
    pub fn sender(&self) -> &str {
        &self.parts.sender
    }

    /// The node id of the node that runs the unit.
    pub fn node(&self) -> &str {
        &self.parts.node
    }

    /// What the unit asked for.
    pub fn directive(&self) -> &Directive {
        &self.parts.directive
    }

    /// The value of one parameter.
    pub fn param(&self, key: &str) -> Option<&str> {
        self.parts.params.get(key).map(String::as_str)
    }

    /// All parameters.
    pub fn params(&self) -> &BTreeMap<String, String> {
        &self.parts.params
    }

    /// When the unit expires; `None` if it may run for ever.
    pub fn deadline(&self) -> Option<Instant> {
        self.parts.deadline
    }

    /// The time left until the deadline; `None` without one.
    pub fn remaining(&self) -> Option<Duration> {
        self.parts
            .deadline
            .map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Why the unit has to stop, once it has to.
    pub fn stop_reason(&self) -> Option<StopReason> {
        self.parts.cancel.reason()
    }

    /// Whether the unit has to stop.
    pub fn is_cancelled(&self) -> bool {
        self.stop_reason().is_some()
    }

    /// Fails once the unit has to stop: put `cx.check()?` into long loops.
    pub fn check(&self) -> Result<()> {
        self.stop_reason()
            .map_or(Ok(()), |reason| Err(Error::stopped(reason)))
    }

    /// Sleeps, but not past the moment when the unit has to stop; fails if it has to.
    pub fn sleep(&self, duration: Duration) -> Result<()> {
        self.parts
            .cancel
            .wait(duration)
            .map_or(Ok(()), |reason| Err(Error::stopped(reason)))
    }

    /// The worker's own configuration: the table `[workers.<module>]` of the node, deserialised.
    /// A node without such a table gives `T::default()`.
    pub fn config<T: DeserializeOwned + Default>(&self) -> Result<T> {
        if self.parts.config.is_null() {
            return Ok(T::default());
        }
        T::deserialize(&self.parts.config).map_err(|e| {
            Error::msg(format!(
                "configuration [workers.{}]: {e}",
                self.parts.directive.module()
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Table {
        limit: u8,
    }

    #[test]
    fn check_and_sleep_fail_once_the_unit_has_to_stop() {
        let cx = context(serde_json::Value::Null);
        assert!(cx.check().is_ok());
        cx.parts.cancel.stop(StopReason::Shutdown);
        assert_eq!(cx.check().unwrap_err().stop_reason(), Some(StopReason::Shutdown));
        assert_eq!(
            cx.sleep(Duration::MAX).unwrap_err().stop_reason(),
            Some(StopReason::Shutdown)
        );
    }

    #[test]
    fn no_time_remains_after_the_deadline() {
        let mut cx = context(serde_json::Value::Null);
        assert_eq!(cx.remaining(), None);
        cx.parts.deadline = Some(Instant::now());
        assert_eq!(cx.remaining(), Some(Duration::ZERO));
    }

    #[test]
    fn absent_configuration_is_the_default() {
        assert_eq!(
            context(serde_json::Value::Null).config::<Table>().unwrap(),
            Table::default()
        );
    }

    #[test]
    fn bad_configuration_names_its_table() {
        assert_eq!(
            context(serde_json::json!({"limit": 3}))
                .config::<Table>()
                .unwrap(),
            Table { limit: 3 }
        );
        for bad in [
            serde_json::json!({"limit": 300}),
            serde_json::json!({"limit": 3, "x": 1}),
            serde_json::json!(5),
        ] {
            let error = context(bad).config::<Table>().unwrap_err().to_string();
            assert!(error.starts_with("configuration [workers.text]: "), "{error}");
        }
    }

    fn context(config: serde_json::Value) -> Context {
        let directive = Directive::parse("text:upper").unwrap();
        Context::new(ContextParts {
            config,
            ..ContextParts::for_test(directive)
        })
    }
}
