//! The walls of the house: what may import what, and the shape of the sources. Each check says why it is there.

use std::fs;
use std::path::{Path, PathBuf};

use workmesh_tests::repository;

/// Lines from which a file has a second noun in it.
const MAX_LINES: usize = 600;

/// A source file.
struct Source {
    /// Relative to the repository, with `/`.
    path: String,
    text: String,
}

impl Source {
    /// The lines that the product is made of, numbered from 1: no comments, and nothing from the tests at the end.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate().map(|(at, line)| (at + 1, line));
        lines
            .take_while(|(_, line)| line.trim() != "#[cfg(test)]")
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

/// Files of the repository with this extension, sorted.
fn files(extension: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut dirs = vec![repository().to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let made = ["target", "corpus", "artifacts"].contains(&name.as_str()) || name == ".git";
            if path.is_dir() && !made {
                dirs.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(read(&path));
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn read(path: &Path) -> Source {
    let relative: PathBuf = path.strip_prefix(repository()).unwrap().to_owned();
    Source {
        path: relative.to_string_lossy().into_owned(),
        text: fs::read_to_string(path).unwrap(),
    }
}

/// Sources in this folder (or the file beside it of the same name) that are part of the product.
fn product(folder: &str) -> Vec<Source> {
    let (inside, beside) = (format!("{folder}/"), format!("{folder}.rs"));
    let mut sources = files("rs");
    sources.retain(|source| source.path.starts_with(&inside) || source.path == beside);
    // Modules that only tests are made of.
    sources.retain(|source| !source.path.contains("/tests/") && !source.path.ends_with("/tests.rs"));
    assert!(
        !sources.is_empty(),
        "{folder} holds no sources: the check looks at the wrong place"
    );
    sources
}

/// Whether `code` names `word`, alone and not as part of a longer name.
fn names(code: &str, word: &str) -> bool {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        !before.is_some_and(part_of_name) && !after.is_some_and(part_of_name)
    })
}

/// Every place in `folder` that names one of `words`.
fn places(folder: &str, words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for source in product(folder) {
        for (number, line) in source.code() {
            if let Some(word) = words.iter().find(|word| names(line, word)) {
                found.push(format!("{}:{number}: {word}", source.path));
            }
        }
    }
    found
}

#[track_caller]
fn none(found: &[String], reason: &str) {
    assert!(found.is_empty(), "{reason}\n  {}", found.join("\n  "));
}

#[test]
fn imports_point_one_way() {
    let layers = ["cli", "control", "unit", "mesh", "link"];
    for (place, layer) in layers.iter().enumerate().skip(1) {
        let mut above: Vec<_> = layers[..place]
            .iter()
            .map(|above| format!("crate::{above}"))
            .collect();
        above.extend(["crate::node".to_owned(), "crate::daemon".to_owned()]);
        let above: Vec<&str> = above.iter().map(String::as_str).collect();
        none(
            &places(&format!("node/src/{layer}"), &above),
            "imports point one way, cli -> control -> unit -> mesh -> link, so that each layer can be read and tested \
             without those above it; move what both need down",
        );
    }
    let shared = [
        "crate::cli",
        "crate::control",
        "crate::unit",
        "crate::mesh",
        "crate::link",
        "crate::node",
    ];
    for leaf in ["identity", "config"] {
        none(
            &places(&format!("node/src/{leaf}"), &shared),
            "identity and config are used by all and use nobody",
        );
    }
}

/// Places outside of these files and folders.
fn outside(found: Vec<String>, allowed: &[&str]) -> Vec<String> {
    let inside = |place: &String| allowed.iter().any(|allowed| place.starts_with(allowed));
    found.into_iter().filter(|place| !inside(place)).collect()
}

#[test]
fn only_durable_units_use_the_store() {
    let found = places("node/src", &["crate::store"]);
    assert!(
        found
            .iter()
            .any(|place| place.starts_with("node/src/unit/durable/")),
        "nobody uses the store: the check looks for the wrong word"
    );
    none(
        &outside(
            found,
            &["node/src/node.rs:", "node/src/unit/durable/", "node/src/store/"],
        ),
        "the store is opened in node.rs and used in unit/durable alone: what others want of durable units they ask there",
    );
}

#[test]
fn the_store_knows_nobody() {
    let words = [
        "crate::cli",
        "crate::control",
        "crate::unit",
        "crate::mesh",
        "crate::link",
        "crate::node",
        "crate::exec",
        "crate::identity",
        "crate::config",
        "workmesh_proto::record",
        "workmesh_proto::unit",
        "workmesh_proto::wire",
    ];
    none(
        &places("node/src/store", &words),
        "the store keeps opaque records under a unit's id: it can be tested, and its files can change, without the rest",
    );
}

#[test]
fn only_those_who_own_files_touch_the_disk() {
    let owners = [
        "node/src/store/",
        "node/src/identity/store.rs:",
        "node/src/exec/spool.rs:",
        "node/src/config/file.rs:",
        "node/src/control/server.rs:",
        "node/src/cli/",
    ];
    let found = places("node/src", &["std::fs", "tokio::fs", "rustix::fs"]);
    none(
        &outside(found, &owners),
        "each file of a data directory has one owner, who knows when it is whole and when it is synced",
    );
}

#[test]
fn the_executor_stands_beside_the_network() {
    let words = [
        "crate::mesh",
        "crate::link",
        "crate::unit",
        "crate::control",
        "crate::cli",
        "crate::node",
    ];
    none(
        &places("node/src/exec", &words),
        "exec runs units without knowing how they came: it imports neither mesh nor link, nor anything above",
    );
}

#[test]
fn only_the_links_name_quic_and_tls() {
    let words = ["quinn", "rustls", "quinn_proto", "quinn_udp"];
    let found = places("node/src", &words);
    let elsewhere: Vec<_> = found
        .into_iter()
        .filter(|place| !place.starts_with("node/src/link/"))
        .collect();
    none(
        &elsewhere,
        "quinn and rustls are named in link/ alone, so that another version of them changes one folder",
    );
}

#[test]
fn only_the_command_line_prints() {
    let words = [
        "println!",
        "print!",
        "eprintln!",
        "eprint!",
        "stdout",
        "anstream",
        "dbg!",
    ];
    let found = places("node/src", &words);
    let elsewhere: Vec<_> = found
        .into_iter()
        .filter(|place| !place.starts_with("node/src/cli/"))
        .collect();
    none(
        &elsewhere,
        "only cli/ prints: everything else is a library, and logs",
    );
    for library in ["worker-api/src", "workers/src", "node/proto/src"] {
        none(&places(library, &words), "libraries never print");
    }
}

#[test]
fn the_core_has_no_clock_socket_file_thread_or_chance_of_its_own() {
    let words = [
        "UdpSocket",
        "TcpStream",
        "TcpListener",
        "UnixStream",
        "std::fs",
        "std::thread",
        "std::env",
        "std::process",
        "SystemTime",
        "Instant::now",
        "rand",
        "tokio",
        "quinn",
        "rustls",
        "tracing",
        "async",
        "static mut",
        "HashMap::new",
    ];
    none(
        &places("node/proto/src", &words),
        "the same core runs in simulation and in production: time comes in as `now`, chance as arguments, and order never \
         depends on a hasher",
    );
}

#[test]
fn the_core_knows_nobody_but_the_workers_vocabulary() {
    let manifest = fs::read_to_string(repository().join("node/proto/Cargo.toml")).unwrap();
    let dependencies = manifest
        .split("[dependencies]")
        .nth(1)
        .unwrap()
        .split("\n[")
        .next()
        .unwrap();
    for banned in ["workmesh", "tokio", "quinn", "rustls", "rand", "tracing"] {
        let named = dependencies.lines().any(|line| line.starts_with(banned));
        assert!(
            !named,
            "node/proto depends on {banned}: it imports nobody but worker-api's vocabulary"
        );
    }
    let mut strangers = Vec::new();
    for source in product("node/proto/src") {
        for (number, line) in source.code().filter(|(_, line)| line.contains("worker_api::")) {
            let vocabulary = ["Directive", "PayloadKind", "DirectiveError", "vocabulary"];
            if !vocabulary.iter().any(|word| names(line, word)) {
                strangers.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    none(
        &strangers,
        "of worker-api the core uses the words that travel, not what runs workers",
    );
}

#[test]
fn workers_see_no_runtime_and_no_network() {
    let manifest = fs::read_to_string(repository().join("worker-api/Cargo.toml")).unwrap();
    for banned in ["tokio", "quinn", "rustls", "workmesh-node", "workmesh-proto"] {
        let named = manifest.lines().any(|line| line.starts_with(banned));
        assert!(
            !named,
            "worker-api depends on {banned}: a worker is a plain blocking function"
        );
    }
}

#[test]
fn every_file_says_what_it_is() {
    let without: Vec<_> = files("rs")
        .into_iter()
        // What the compiler has to refuse is shown with its line numbers.
        .filter(|source| !source.path.starts_with("worker-api/tests/ui/"))
        .filter(|source| !source.text.starts_with("//!"))
        .map(|source| source.path)
        .collect();
    none(
        &without,
        "a file opens with `//!`: what it owns, who calls it, what it never does",
    );
}

#[test]
fn no_file_has_a_second_noun() {
    let long: Vec<_> = files("rs")
        .into_iter()
        .map(|source| (source.text.lines().count(), source.path))
        .filter(|(lines, _)| *lines > MAX_LINES)
        .map(|(lines, path)| format!("{path}: {lines} lines"))
        .collect();
    none(
        &long,
        "a file is one noun and ends before 600 lines: find the second noun and give it a file",
    );
}

#[test]
fn nothing_is_left_for_later() {
    let later = [
        concat!("to", "do!"),
        concat!("unimple", "mented!"),
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
    ];
    let skipped = concat!("#[ign", "ore");
    let mut found = Vec::new();
    for source in files("rs").into_iter().chain(files("md")).chain(files("toml")) {
        for (number, line) in source.text.lines().enumerate() {
            let later = later.iter().any(|word| names(line, word));
            if later || line.trim_start().starts_with(skipped) {
                found.push(format!("{}:{}: {}", source.path, number + 1, line.trim()));
            }
        }
    }
    none(
        &found,
        "what is in the tree works and is tested; a test that is skipped proves nothing",
    );
}

#[test]
fn texts_read_the_same_in_a_year_and_on_any_machine() {
    let mut found = Vec::new();
    let sources = ["rs", "md", "toml", "yml", "yaml", "service"]
        .into_iter()
        .flat_map(files);
    for source in sources {
        for (number, line) in source.text.lines().enumerate() {
            let machine = ["/wo", "/ro", "/ho"]
                .iter()
                .zip(["rk/", "ot/", "me/u"])
                .any(|(a, b)| {
                    let path = format!("{a}{b}");
                    line.match_indices(&path)
                        .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '"'))
                });
            let numbered = line
                .match_indices("issue #")
                .any(|(at, word)| line[at + word.len()..].starts_with(|c: char| c.is_ascii_digit()));
            if machine || numbered {
                found.push(format!("{}:{}: {}", source.path, number + 1, line.trim()));
            }
        }
    }
    none(
        &found,
        "texts name neither the machine that they were written on nor numbers of issues: history is in the commits",
    );
}

#[test]
fn the_top_level_is_the_house_and_nothing_else() {
    let expected = [
        ".cargo",
        ".ci",
        ".git",
        ".gitignore",
        "CHANGELOG.md",
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE",
        "README.md",
        "clippy.toml",
        "deny.toml",
        "deploy",
        "docs",
        "node",
        "rustfmt.toml",
        "target",
        "tests",
        "worker-api",
        "workers",
    ];
    let strangers: Vec<_> = fs::read_dir(repository())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| !expected.contains(&name.as_str()))
        .collect();
    none(
        &strangers,
        "the top level is given: Cargo.toml node/ worker-api/ workers/ deploy/ tests/ docs/ and what a Rust project needs",
    );
}
