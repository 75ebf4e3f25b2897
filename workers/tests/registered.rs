//! What a program gets by linking this package.

use std::collections::BTreeMap;

use worker_api::PayloadKind::{Buffer, Bytes, File};
use worker_api::{Directive, linked_workers};
use workmesh_workers as _;

#[test]
fn exactly_these_workers_are_registered() {
    let mut linked: Vec<_> = linked_workers()
        .map(|entry| (entry.directive, entry.kind))
        .collect();
    linked.sort_unstable();
    assert_eq!(
        linked,
        [
            ("digest:blake3", Buffer),
            ("digest:sha256", Buffer),
            ("echo:buffer", Buffer),
            ("echo:bytes", Bytes),
            ("echo:file", File),
            ("http:execute", Bytes),
            ("sleep:execute", Bytes),
            ("sys:info", Bytes),
            ("text:lines", Buffer),
            ("text:upper", Bytes),
            ("zstd:compress", Buffer),
            ("zstd:decompress", Buffer),
        ]
    );
}

#[test]
fn every_worker_is_described_and_stands_in_the_file_of_its_module() {
    for entry in linked_workers() {
        let module = Directive::parse(entry.directive).unwrap().module().to_owned();
        assert!(
            !entry.description.is_empty() && !entry.version.is_empty(),
            "{entry:?}"
        );
        assert!(
            entry.location.file.ends_with(&format!("{module}.rs")),
            "{entry:?}"
        );
    }
}

#[test]
fn only_the_worker_with_side_effects_may_not_run_twice() {
    let idempotent: BTreeMap<_, _> = linked_workers()
        .map(|entry| (entry.directive, entry.idempotent))
        .collect();
    let once: Vec<_> = idempotent
        .iter()
        .filter(|(_, twice)| !**twice)
        .map(|(name, _)| *name)
        .collect();
    assert_eq!(once, ["http:execute"]);
}
