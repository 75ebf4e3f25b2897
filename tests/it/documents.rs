//! The documents tell the truth: what they show is what is built and printed.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use workmesh_tests::{Spec, TestMesh, node_program, repository};

fn read(path: &str) -> String {
    let path = repository().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The fenced blocks of a page whose fence says `kind`.
fn blocks(page: &str, kind: &str) -> Vec<String> {
    let text = read(page);
    let mut found: Vec<String> = Vec::new();
    let mut open: Option<String> = None;
    for line in text.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(fence)) => {
                open = Some(if fence == kind {
                    String::new()
                } else {
                    "\0".to_owned()
                })
            }
            (Some(block), None) => {
                block.push_str(line);
                block.push('\n');
            }
            (Some(_), Some(_)) => found.extend(open.take().filter(|block| !block.starts_with('\0'))),
            (None, None) => {}
        }
    }
    found
}

/// The commands of a page's `console` blocks, each with the output that the page shows.
fn transcripts(page: &str) -> Vec<(String, String)> {
    blocks(page, "console")
        .iter()
        .flat_map(|block| commands(page, block))
        .collect()
}

fn commands(page: &str, block: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for line in block.lines() {
        match (line.strip_prefix("$ "), found.last_mut()) {
            (Some(command), _) => found.push((command.to_owned(), String::new())),
            (None, Some((_, output))) => {
                output.push_str(line);
                output.push('\n');
            }
            (None, None) => panic!("{page}: output before a command: {line}"),
        }
    }
    found
}

#[test]
fn the_node_of_the_guide_is_the_node_that_the_tests_run() {
    let shown = blocks("docs/WORKERS.md", "rust,ignore");
    assert_eq!(
        shown,
        [read("tests/own-node/src/main.rs")],
        "docs/WORKERS.md shows the whole of own-node's main.rs"
    );
}

#[test]
fn what_the_guide_to_the_workers_prints_is_what_they_print() {
    let mut mesh = TestMesh::new();
    mesh.start(Spec::new("nodeA"));
    let mut compared = 0;
    for (command, output) in transcripts("docs/WORKERS.md") {
        let needs_more = ["guide:", "http:", "@", "> "]
            .iter()
            .any(|part| command.contains(part));
        if needs_more || output.is_empty() {
            continue;
        }
        let words = shell_words(&command);
        let args: Vec<&str> = words[1..].iter().map(String::as_str).collect();
        let done = mesh
            .at("nodeA", &[&args[..], &["--format", "lines"]].concat())
            .ok();
        assert_eq!(done.text(), output, "{command}");
        compared += 1;
    }
    assert!(compared >= 4, "{compared} commands were compared");
}

/// A `console` block under a comment `<!-- test: setup=NAME -->`.
struct Transcript {
    setup: String,
    commands: Vec<(String, String)>,
}

fn marked_transcripts(page: &str) -> Vec<Transcript> {
    const MARK: &str = "<!-- test: setup=";
    let text = read(page);
    text.split(MARK)
        .skip(1)
        .map(|marked| {
            let setup = marked.split([' ', '\n']).next().unwrap().to_owned();
            let block = marked
                .split("```console\n")
                .nth(1)
                .and_then(|rest| rest.split("```").next());
            let block = block.unwrap_or_else(|| panic!("{page}: no console block after {MARK}{setup}"));
            Transcript {
                setup,
                commands: commands(page, block),
            }
        })
        .collect()
}

#[test]
fn marked_examples_print_what_the_pages_show() {
    let mut ran = 0;
    for page in pages() {
        let page = page.to_str().unwrap();
        for transcript in marked_transcripts(page) {
            let mut mesh = TestMesh::named("lab");
            if transcript.setup == "two-nodes" {
                let a = mesh.start(Spec::new("nodeA")).address();
                mesh.start(Spec::new("nodeB").peer(a));
                mesh.wait_until_all_routes();
            } else {
                assert_eq!(transcript.setup, "none", "{page}: a setup that no test knows");
            }
            for (command, expected) in transcript.commands {
                let output = shell(&mesh, &command);
                assert!(
                    fits(&output, &expected),
                    "{page}: {command}\nshown:\n{expected}\nprinted:\n{output}"
                );
                ran += 1;
            }
        }
    }
    assert!(
        ran > 0 || !repository().join("README.md").exists(),
        "the README shows no tested command"
    );
}

/// Runs a command as a reader would, at nodeA; gives what the terminal would show.
fn shell(mesh: &TestMesh, command: &str) -> String {
    let place = mesh.dir().join("reader");
    let bin = place.join("bin");
    if !bin.exists() {
        fs::create_dir_all(&bin).unwrap();
        std::os::unix::fs::symlink(node_program(), bin.join("node")).unwrap();
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let mut bash = Command::new("bash");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("NODE_")) {
        bash.env_remove(name);
    }
    let output = bash
        .args(["-c", &format!("{{ {command}\n}} 2>&1")])
        .current_dir(&place)
        .env("PATH", format!("{}:{path}", bin.display()))
        .env("NODE_DATA_DIR", mesh.dir().join("nodeA"))
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Whether an output is as shown, where `...` stands for anything in a line, and alone for any lines.
fn fits(output: &str, shown: &str) -> bool {
    let (output, shown): (Vec<_>, Vec<_>) = (output.lines().collect(), shown.lines().collect());
    lines_fit(&output, &shown)
}

fn lines_fit(output: &[&str], shown: &[&str]) -> bool {
    match (shown, output) {
        ([], []) => true,
        (["...", rest @ ..], _) => (0..=output.len()).any(|skipped| lines_fit(&output[skipped..], rest)),
        ([first, rest @ ..], [line, others @ ..]) => {
            line_fits(line.trim_end(), first.trim_end()) && lines_fit(others, rest)
        }
        _ => false,
    }
}

fn line_fits(line: &str, shown: &str) -> bool {
    let parts: Vec<&str> = shown.split("...").collect();
    let [first, between @ .., last] = &parts[..] else {
        return line == shown;
    };
    let Some(mut rest) = line.strip_prefix(first) else {
        return false;
    };
    for part in between {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[test]
fn dots_in_an_example_stand_for_anything() {
    assert!(fits("a 1 b\nx\ny\nz\n", "a ... b\n...\nz\n"));
    assert!(fits("unit 7 on B: late", "unit ... on B: late"));
    assert!(!fits("unit 7 on C: late", "unit ... on B: late"));
    assert!(!fits("a\nb\n", "a\n"));
}

#[test]
fn every_command_that_a_page_shows_is_one_that_the_program_takes() {
    let mesh = TestMesh::new();
    let mut checked = 0;
    for page in pages() {
        for (command, _) in transcripts(page.to_str().unwrap()) {
            let Some(rest) = command.strip_prefix("node ") else {
                continue;
            };
            let with_verbs_of_their_own = ["cert", "config", "work"];
            let mut verbs: Vec<&str> = rest.split(' ').take(2).collect();
            if verbs[0].starts_with('-') {
                continue;
            }
            if !with_verbs_of_their_own.contains(&verbs[0]) {
                verbs.truncate(1);
            }
            let help = mesh.command(&[&verbs[..], &["--help"]].concat()).ok();
            for flag in command.split([' ', '=']).filter(|word| word.starts_with("--")) {
                assert!(
                    help.text().contains(flag),
                    "{}: `node {}` knows no {flag}: {command}",
                    page.display(),
                    verbs.join(" ")
                );
            }
            checked += 1;
        }
    }
    assert!(checked > 0, "no page shows a command");
}

#[test]
fn links_between_the_pages_lead_somewhere() {
    for page in pages() {
        let text = read(page.to_str().unwrap());
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap();
            if file.is_empty() || file.contains("://") {
                continue;
            }
            let path = repository().join(&page).parent().unwrap().join(file);
            assert!(path.exists(), "{}: {target} leads nowhere", page.display());
        }
    }
}

/// All pages, relative to the repository.
fn pages() -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("README.md"), PathBuf::from("CHANGELOG.md")];
    let mut dirs = vec![PathBuf::from("docs")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(repository().join(&dir)).unwrap() {
            let path = dir.join(entry.unwrap().file_name());
            if repository().join(&path).is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    found.retain(|page| repository().join(page).exists());
    found
}

/// Words of a shell command with single quotes.
fn shell_words(command: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for character in command.chars() {
        match character {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            _ => words.last_mut().unwrap().push(character),
        }
    }
    words
}
