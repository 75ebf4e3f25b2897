//! What other people's code is in the tree: licences that `deny.toml` allows, from the registry alone, one crypto provider.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;
use workmesh_tests::repository;

/// Every package that is built for this machine.
fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--locked",
            "--format-version",
            "1",
            "--filter-platform",
            &host(),
        ])
        .current_dir(repository())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

fn host() -> String {
    let output = Command::new("rustc").arg("-vV").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.expect("rustc names its host").to_owned()
}

/// The licences of `deny.toml`.
fn allowed() -> BTreeSet<String> {
    let text = std::fs::read_to_string(repository().join("deny.toml")).unwrap();
    let list = text
        .split("\nallow = [")
        .nth(1)
        .and_then(|rest| rest.split(']').next());
    let list = list.expect("deny.toml lists the licences that are allowed");
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Whether a licence expression can be met: `OR` binds weaker than `AND`, `/` is an old `OR`.
fn can_be_met(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    any_of(&words, &mut at, allowed)
}

fn any_of(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut met = all_of(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= all_of(words, at, allowed);
    }
    met
}

fn all_of(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut met = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(words, at, allowed);
    }
    met
}

fn one(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let Some(word) = words.get(*at) else { return false };
    *at += 1;
    if *word == "(" {
        let met = any_of(words, at, allowed);
        *at += 1;
        return met;
    }
    if words.get(*at) == Some(&"WITH") {
        let with = format!("{word} WITH {}", words.get(*at + 1).unwrap_or(&""));
        *at += 2;
        return allowed.contains(&with);
    }
    allowed.contains(*word)
}

#[test]
fn licence_expressions_are_understood() {
    let allowed = BTreeSet::from(["MIT".to_owned(), "ISC".to_owned()]);
    for met in [
        "MIT",
        "GPL-3.0 OR MIT",
        "GPL-3.0/MIT",
        "ISC AND (GPL-3.0 OR MIT)",
        "X WITH y OR MIT",
    ] {
        assert!(can_be_met(met, &allowed), "{met}");
    }
    for unmet in [
        "GPL-3.0",
        "MIT AND GPL-3.0",
        "ISC AND (GPL-3.0 OR X)",
        "MIT WITH y",
        "",
    ] {
        assert!(!can_be_met(unmet, &allowed), "{unmet}");
    }
}

#[test]
fn every_package_has_a_licence_that_is_allowed_and_a_known_source() {
    let allowed = allowed();
    let mut used = String::new();
    for package in packages() {
        let name = package["name"].as_str().unwrap();
        let licence = package["license"].as_str().unwrap_or_default();
        assert!(
            can_be_met(licence, &allowed),
            "{name}: {licence:?} is not among the licences of deny.toml"
        );
        let source = package["source"].as_str();
        assert!(
            source.is_none_or(|source| source.starts_with("registry+")),
            "{name} comes from {source:?}"
        );
        used.push_str(licence);
    }
    for licence in allowed {
        assert!(
            used.contains(&licence),
            "deny.toml allows {licence}, which nothing needs"
        );
    }
}

#[test]
fn there_is_one_crypto_provider_and_no_openssl() {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--locked",
            "--workspace",
            "--edges",
            "normal,build,dev",
            "--prefix",
            "none",
        ])
        .current_dir(repository())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let tree = String::from_utf8(output.stdout).unwrap();
    let names: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(names.contains("aws-lc-rs"), "the tree was not read");
    for banned in ["ring", "openssl", "openssl-sys", "native-tls"] {
        assert!(
            !names.contains(banned),
            "{banned} is in the tree: the one crypto provider is aws-lc-rs, and TLS is rustls"
        );
    }
}
