//! The workers that this program can run: collected once at start, sorted, without duplicates.
//! The executor looks directives up here; the mesh advertises what it lists. Never runs anything.

use worker_api::{Directive, DirectiveError, Location, WorkerEntry, linked_workers};
use workmesh_proto::NodeId;
use workmesh_proto::wire::link::{MAX_TEXT_BYTES, MAX_WORKERS, WorkerAd};
use workmesh_proto::wire::unit::Kind;

/// How many names an "unknown" message lists.
const LISTED: usize = 16;

/// A directory of workers, sorted by directive.
#[derive(Debug)]
pub(crate) struct Registry {
    workers: Vec<Registered>,
}

/// A worker with its parsed name.
#[derive(Debug)]
struct Registered {
    directive: Directive,
    entry: &'static WorkerEntry,
}

/// Why these workers can't be registered. Our configuration or code; the node must not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistryError {
    /// Two functions under one name.
    #[error("worker {directive} is registered twice, at {first} and at {second}: rename one of them")]
    Duplicate {
        /// The name.
        directive: &'static str,
        /// Where one function stands.
        first: Location,
        /// Where the other one stands.
        second: Location,
    },
    /// A name that is no directive.
    #[error("worker at {location}: {error}")]
    Malformed {
        /// Where the function stands.
        location: Location,
        /// What is wrong with its name.
        error: DirectiveError,
    },
    /// More workers than one node may advertise.
    #[error("{0} workers are linked into this program; at most {MAX_WORKERS} are allowed")]
    TooMany(usize),
}

/// No worker of this name. The submitter's mistake; nothing was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unknown {
    /// [`Kind::UnknownModule`] or [`Kind::UnknownFunction`].
    pub(crate) kind: Kind,
    /// One line that lists what there is.
    pub(crate) message: String,
}

/// What to tell an operator whose program has no workers.
pub(crate) const EMPTY_REMEDY: &str = "no workers are linked into this program; if a crate provides them, \
    name it in main.rs so that the linker keeps it: `use my_workers as _;`";

impl Registry {
    /// All workers linked into this program.
    pub(crate) fn collect() -> Result<Self, RegistryError> {
        Self::from_entries(linked_workers())
    }

    /// These workers.
    pub(crate) fn from_entries(
        entries: impl IntoIterator<Item = &'static WorkerEntry>,
    ) -> Result<Self, RegistryError> {
        let mut workers = entries
            .into_iter()
            .map(Registered::parse)
            .collect::<Result<Vec<_>, _>>()?;
        if workers.len() > MAX_WORKERS {
            return Err(RegistryError::TooMany(workers.len()));
        }
        workers.sort_by(|a, b| a.sort_key().cmp(&b.sort_key()));
        match workers
            .windows(2)
            .find(|pair| pair[0].directive == pair[1].directive)
        {
            Some(pair) => Err(RegistryError::Duplicate {
                directive: pair[0].entry.directive,
                first: pair[0].entry.location,
                second: pair[1].entry.location,
            }),
            None => Ok(Self { workers }),
        }
    }

    /// Whether there is no worker at all; [`EMPTY_REMEDY`] says what to do about it.
    pub(crate) fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    /// All workers, sorted by directive.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &'static WorkerEntry> {
        self.workers.iter().map(|w| w.entry)
    }

    /// Where the worker of this name stands in [`iter`](Self::iter).
    /// What there is instead is told in the name of `node`.
    pub(super) fn position(&self, directive: &Directive, node: &NodeId) -> Result<usize, Unknown> {
        self.workers
            .binary_search_by(|w| w.directive.cmp(directive))
            .map_err(|_| self.unknown(directive, node))
    }

    /// The worker at this position.
    pub(super) fn entry(&self, position: usize) -> &'static WorkerEntry {
        self.workers[position].entry
    }

    /// What this node tells the mesh about its workers.
    pub(crate) fn advertisements(&self) -> Vec<WorkerAd> {
        self.workers.iter().map(Registered::advertisement).collect()
    }

    fn unknown(&self, directive: &Directive, node: &NodeId) -> Unknown {
        let module = directive.module();
        let of_module = || {
            self.workers
                .iter()
                .map(|w| &w.directive)
                .filter(|d| d.module() == module)
        };
        if of_module().next().is_some() {
            let functions = list(of_module().map(Directive::function));
            return Unknown {
                kind: Kind::UnknownFunction,
                message: format!(
                    "module {module:?} has no function {:?}; it has {functions}",
                    directive.function()
                ),
            };
        }
        let mut modules: Vec<_> = self.workers.iter().map(|w| w.directive.module()).collect();
        modules.dedup();
        Unknown {
            kind: Kind::UnknownModule,
            message: format!("{node} has no module {module:?}; it has {}", list(modules)),
        }
    }
}

fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.into_iter().collect();
    let shown = names[..names.len().min(LISTED)].join(", ");
    match names.len().checked_sub(LISTED) {
        _ if names.is_empty() => "none".to_owned(),
        None | Some(0) => shown,
        Some(more) => format!("{shown} and {more} more"),
    }
}

impl Registered {
    fn parse(entry: &'static WorkerEntry) -> Result<Self, RegistryError> {
        let directive = Directive::parse(entry.directive).map_err(|error| RegistryError::Malformed {
            location: entry.location,
            error,
        })?;
        Ok(Self { directive, entry })
    }

    fn sort_key(&self) -> (&Directive, &'static str, u32) {
        let Location { file, line } = self.entry.location;
        (&self.directive, file, line)
    }

    fn advertisement(&self) -> WorkerAd {
        WorkerAd {
            directive: self.directive.clone(),
            kind: self.entry.kind,
            version: cut(self.entry.version),
            idempotent: self.entry.idempotent,
            description: cut(self.entry.description),
        }
    }
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_TEXT_BYTES)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::tests::workers::entry;

    fn registry(names: &[&'static str]) -> Registry {
        Registry::from_entries(names.iter().map(|name| entry(name, |_, _, _| Ok(())))).unwrap()
    }

    fn find(registry: &Registry, directive: &str) -> Result<&'static str, Unknown> {
        let directive = Directive::parse(directive).unwrap();
        let found = registry.position(&directive, &NodeId::parse("here").unwrap());
        found.map(|position| registry.entry(position).directive)
    }

    #[test]
    fn workers_are_sorted_and_found() {
        let registry = registry(&["sleep:execute", "echo:file", "echo:bytes"]);
        let names: Vec<_> = registry.iter().map(|w| w.directive).collect();
        assert_eq!(names, ["echo:bytes", "echo:file", "sleep:execute"]);
        assert_eq!(find(&registry, "echo:file"), Ok("echo:file"));
    }

    #[test]
    fn unknown_module_and_unknown_function_are_told_apart_and_list_what_there_is() {
        let registry = registry(&["echo:bytes", "echo:file", "sleep:execute"]);
        let function = find(&registry, "echo:nope").unwrap_err();
        assert_eq!(function.kind, Kind::UnknownFunction);
        assert_eq!(
            function.message,
            r#"module "echo" has no function "nope"; it has bytes, file"#
        );
        let module = find(&registry, "nosuch:execute").unwrap_err();
        assert_eq!(module.kind, Kind::UnknownModule);
        assert_eq!(
            module.message,
            r#"here has no module "nosuch"; it has echo, sleep"#
        );
    }

    #[test]
    fn the_list_in_a_message_is_bounded() {
        let names: Vec<&'static str> = (0..LISTED + 5)
            .map(|i| &*Box::leak(format!("m{i:02}:f").into_boxed_str()))
            .collect();
        let message = find(&registry(&names), "x:y").unwrap_err().message;
        assert!(message.ends_with("m15 and 5 more"), "{message}");
    }

    #[test]
    fn duplicates_are_refused_naming_both_places() {
        let twice = [1, 2].map(|line| {
            let mut copy = entry("a:b", |_, _, _| Ok(()));
            let changed = WorkerEntry {
                location: Location { file: "a.rs", line },
                ..*copy
            };
            copy = Box::leak(Box::new(changed));
            copy
        });
        let error = Registry::from_entries(twice).unwrap_err().to_string();
        assert_eq!(
            error,
            "worker a:b is registered twice, at a.rs:1 and at a.rs:2: rename one of them"
        );
    }

    #[test]
    fn number_of_workers_is_limited() {
        let names: Vec<&'static str> = (0..=MAX_WORKERS)
            .map(|i| &*Box::leak(format!("m:f{i}").into_boxed_str()))
            .collect();
        let entries = || names.iter().map(|name| entry(name, |_, _, _| Ok(())));
        assert!(Registry::from_entries(entries().take(MAX_WORKERS)).is_ok());
        assert!(matches!(
            Registry::from_entries(entries()),
            Err(RegistryError::TooMany(_))
        ));
    }

    #[test]
    fn an_empty_registry_is_seen() {
        let registry = registry(&[]);
        assert!(registry.is_empty());
        assert_eq!(
            find(&registry, "a:b").unwrap_err().message,
            r#"here has no module "a"; it has none"#
        );
    }

    #[test]
    fn long_descriptions_are_cut_in_advertisements() {
        let long = Box::leak("é".repeat(MAX_TEXT_BYTES).into_boxed_str());
        let worker = Box::leak(Box::new(WorkerEntry {
            description: long,
            ..*entry("a:b", |_, _, _| Ok(()))
        }));
        let ads = Registry::from_entries([&*worker]).unwrap().advertisements();
        assert_eq!(ads[0].description.len(), MAX_TEXT_BYTES);
        assert_eq!(ads[0].directive.as_str(), "a:b");
    }
}
