//! Writes the golden vectors as seeds into `corpus/`, each in the form that its target takes. `run` calls it.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// Bytes before a frame's body.
const PREFIX_BYTES: usize = 10;
/// The key under which the golden forward frames are sealed.
const KEY: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

type Vectors = BTreeMap<String, Vec<u8>>;

fn main() -> io::Result<()> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let golden = here.join("../../node/proto/tests/golden");
    let read = |file: &str| vectors(&golden.join(file));
    let (link, unit, query) = (read("link.txt")?, read("unit.txt")?, read("query.txt")?);
    let durable = read("durable.txt")?;
    let (newer, forward) = (read("newer.txt")?, read("forward.txt")?);
    let write = |target: &str, name: &str, bytes: &[u8]| {
        let folder = here.join("corpus").join(target);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(name), bytes)
    };

    for (name, frame) in link.iter().chain(&newer) {
        write("link", name, frame)?;
    }
    write("link", "all", &joined(&link))?;
    for (name, frame) in unit.iter().chain(&durable).chain(&query).chain(&newer) {
        let body = [&frame[..1], &frame[PREFIX_BYTES..]].concat();
        write("bodies", name, &body)?;
    }
    for (name, frame) in &forward {
        write("forward", name, &[&KEY[..], frame].concat())?;
    }
    for (cut, vectors) in [(0, &link), (6, &unit), (255, &newer)] {
        let bytes = [&[cut], &joined(vectors)[..]].concat();
        write("frames", &format!("cut-{cut}"), &bytes)?;
    }
    let conversations = [
        ("answered", &["accepted", "response", "response-last", "eof"][..]),
        ("failed", &["accepted", "eof-failed"]),
        ("refused", &["refused"]),
        ("mismatch", &["accepted", "response", "eof"]),
    ];
    for (name, frames) in conversations {
        let bytes: Vec<u8> = frames.iter().flat_map(|frame| unit[*frame].clone()).collect();
        write("unit", name, &bytes)?;
    }
    Ok(())
}

fn joined(vectors: &Vectors) -> Vec<u8> {
    vectors.values().flatten().copied().collect()
}

/// The vectors of a golden file: `## name`, comment lines, hexadecimal lines.
fn vectors(file: &Path) -> io::Result<Vectors> {
    let text = std::fs::read_to_string(file)?;
    let sections = text.split("\n## ").skip(1);
    Ok(sections
        .map(|section| {
            let (name, rest) = section.split_once('\n').expect("a name has its line");
            let digits: String = rest.lines().filter(|line| !line.starts_with('#')).collect();
            let bytes = (0..digits.len())
                .step_by(2)
                .map(|at| {
                    u8::from_str_radix(&digits[at..at + 2], 16).expect("golden vectors are hexadecimal")
                })
                .collect();
            (name.to_owned(), bytes)
        })
        .collect())
}
