//! The documents tell the truth: what they show is what is built and printed.

use std::fs;
use std::path::PathBuf;

use workmesh_tests::{Spec, TestMesh, repository};

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
            (None, Some(fence)) => open = Some(if fence == kind { String::new() } else { "\0".to_owned() }),
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

/// The commands of `console` blocks, each with the output that the page shows; without those that need more than one
/// node or files of the reader's.
fn transcripts(page: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for block in blocks(page, "console") {
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
    }
    found
}

#[test]
fn the_node_of_the_guide_is_the_node_that_the_tests_run() {
    let shown = blocks("docs/WORKERS.md", "rust,ignore");
    assert_eq!(shown, [read("tests/own-node/src/main.rs")], "docs/WORKERS.md shows the whole of own-node's main.rs");
}

#[test]
fn what_the_guide_to_the_workers_prints_is_what_they_print() {
    let mut mesh = TestMesh::new();
    mesh.start(Spec::new("nodeA"));
    let mut compared = 0;
    for (command, output) in transcripts("docs/WORKERS.md") {
        let needs_more = ["guide:", "http:", "@", "> "].iter().any(|part| command.contains(part));
        if needs_more || output.is_empty() {
            continue;
        }
        let words = shell_words(&command);
        let args: Vec<&str> = words[1..].iter().map(String::as_str).collect();
        let done = mesh.at("nodeA", &[&args[..], &["--format", "lines"]].concat()).ok();
        assert_eq!(done.text(), output, "{command}");
        compared += 1;
    }
    assert!(compared >= 4, "{compared} commands were compared");
}

#[test]
fn every_command_that_a_page_shows_is_one_that_the_program_takes() {
    let mesh = TestMesh::new();
    let mut checked = 0;
    for page in pages() {
        for (command, _) in transcripts(page.to_str().unwrap()) {
            let Some(verb) = command.strip_prefix("node ").and_then(|rest| rest.split(' ').next()) else { continue };
            if verb.starts_with('-') {
                continue;
            }
            let help = mesh.command(&[verb, "--help"]).ok();
            for flag in command.split([' ', '=']).filter(|word| word.starts_with("--")) {
                let known = help.text().contains(flag) || command.contains("cert ");
                assert!(known, "{}: `node {verb}` knows no {flag}: {command}", page.display());
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
