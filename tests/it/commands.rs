//! The command line against a node that runs, and against mistakes.

use workmesh_tests::{Running, Spec, Stdin, TestMesh};

#[test]
fn a_machine_without_an_identity_is_told_how_to_make_one() {
    let mesh = TestMesh::new();
    let nowhere = mesh.dir().join("nowhere");
    let done = mesh.command(&["run", "--data-dir", nowhere.to_str().unwrap()]);
    assert_eq!(done.status, 2, "{}", done.stderr);
    assert!(done.stderr.contains("node init"), "{}", done.stderr);
}

#[test]
fn a_command_without_a_node_says_what_to_start() {
    let mesh = TestMesh::new();
    let dir = mesh.identity("A");
    for verb in [
        &["status"][..],
        &["ping", "B"],
        &["workers"],
        &["submit", "--directive", "a:b"],
    ] {
        let done = mesh.command(&[verb, &["--data-dir", dir.to_str().unwrap()]].concat());
        assert_eq!(
            (done.status, done.stderr.lines().count()),
            (3, 1),
            "{verb:?}: {}",
            done.stderr
        );
        assert!(done.stderr.starts_with("node: "), "{}", done.stderr);
    }
}

#[test]
fn a_configuration_at_fault_is_refused_with_file_line_and_key() {
    let mesh = TestMesh::new();
    let dir = mesh.identity("A");
    let file = mesh.dir().join("bad.toml");
    for (text, expected) in [
        (
            "[mesh]\nlisten = \"127.0.0.1:0\"\npeer = [\"b:1\"]\n",
            "bad.toml:3:1: mesh.peer",
        ),
        ("[pool]\n\nqueue = -1\n", "bad.toml:3:"),
        ("[mesh\n", "bad.toml:1:"),
    ] {
        std::fs::write(&file, text).unwrap();
        let file = file.to_str().unwrap();
        for verb in [&["run", "--config", file][..], &["config", "check", file]] {
            let done = mesh.command(&[verb, &["--data-dir", dir.to_str().unwrap()]].concat());
            assert_eq!(done.status, 2, "{text:?}: {}", done.stderr);
            assert!(done.stderr.contains(expected), "{expected:?}: {}", done.stderr);
        }
    }
}

#[test]
fn the_configuration_file_is_used_and_flags_win_over_it() {
    let mut mesh = TestMesh::new();
    let file = mesh.dir().join("node.toml");
    std::fs::write(&file, "[pool]\nmax_workers = 3\nqueue = 7\n").unwrap();
    mesh.start(Spec::new("A").args(&["--config", file.to_str().unwrap(), "--queue", "9"]));
    let pool = &mesh.status("A")["pool"];
    assert_eq!([&pool["slots"], &pool["queue_limit"]], [3, 9]);
}

#[test]
fn reports_have_the_keys_that_scripts_rely_on() {
    let mesh = TestMesh::line(&["A", "B", "C"]);
    let has = |value: &serde_json::Value, keys: &[&str]| {
        for key in keys {
            assert!(value.get(key).is_some(), "{key} is missing in {value}");
        }
    };
    let status = mesh.status("A");
    has(
        &status,
        &[
            "node",
            "mesh",
            "version",
            "uptime_s",
            "links",
            "routes",
            "workers",
            "pool",
            "durable",
            "forwarded",
            "certificate",
        ],
    );
    has(
        &status["links"][0],
        &["node", "address", "cost", "rtt_ms", "state"],
    );
    has(&status["routes"][0], &["node", "next_hop", "cost", "hops"]);
    has(&status["forwarded"], &["packets", "bytes", "dropped"]);
    has(&status["certificate"], &["not_after"]);
    has(&status["pool"], &["slots", "running", "queued", "queue_limit"]);
    has(
        &status["durable"],
        &["units", "unended", "hosted", "bytes", "quota_bytes", "damaged"],
    );
    let ping = mesh.ping("A", "C");
    has(
        &ping,
        &[
            "node",
            "rtt_ms",
            "version",
            "uptime_s",
            "initial_time",
            "response_time",
            "active_work",
            "draining",
            "pool",
        ],
    );
    let workers = mesh.at("A", &["workers", "--json"]).ok().json_lines();
    has(
        &workers[0],
        &["node", "directive", "payload", "version", "description"],
    );
    assert_eq!(
        workers
            .iter()
            .filter(|row| row["directive"] == "echo:file")
            .count(),
        3
    );

    for verb in [&["status"][..], &["ping", "C"], &["trace", "C"], &["workers"]] {
        let done = mesh.at("A", verb).ok();
        assert!(
            done.text().contains('C') && done.stderr.is_empty(),
            "{verb:?}: {done:?}"
        );
    }
}

#[test]
fn responses_that_are_not_text_survive_every_format() {
    let mesh = TestMesh::line(&["A"]);
    let bytes = vec![0, 0xff, b'\n', 0xfe];
    let raw = mesh.at_with_input("A", &["submit", "--directive", "echo:bytes", "-"], bytes.clone());
    assert_eq!(raw.ok().stdout, bytes);
    let json = ["submit", "--directive", "echo:bytes", "--format", "json", "-"];
    let json = mesh.at_with_input("A", &json, bytes).ok();
    assert!(
        json.text().contains(r#""data_base64":"AP8K/g==""#),
        "{}",
        json.text()
    );
}

#[test]
fn a_reader_that_goes_away_cancels_the_unit() {
    let mesh = TestMesh::line(&["A", "B"]);
    let endless = r#"{"duration":0.01,"repeat":1000000000}"#;
    let mut unit = mesh.begin(
        "A",
        &["submit", "--to", "B", "--directive", "sleep:execute", endless],
    );
    let mut first = [0];
    let mut stdout = unit.take_stdout();
    std::io::Read::read_exact(&mut stdout, &mut first).unwrap();
    drop(stdout);
    assert_eq!(unit.finish().status, 130);
    workmesh_tests::wait_until("B has no work", || {
        mesh.ping("A", "B")["active_work"]
            .as_array()
            .is_some_and(Vec::is_empty)
    });
}

#[test]
fn the_demo_succeeds_and_leaves_nothing_behind() {
    let mesh = TestMesh::new();
    let (place, temporary) = (mesh.dir().join("place"), mesh.dir().join("tmp"));
    for dir in [&place, &temporary] {
        std::fs::create_dir(dir).unwrap();
    }
    for file in ["a", "b", "c"] {
        std::fs::write(place.join(file), file.repeat(10_000)).unwrap();
    }
    let mut demo = std::process::Command::new(workmesh_tests::node_program());
    demo.arg("demo").current_dir(&place).env("TMPDIR", &temporary);
    let done = Running::start(demo, &Stdin::Null).finish().ok();
    for shown in ["digest:blake3", "zstd:compress", "http:execute"] {
        assert!(
            done.text().contains(shown),
            "{shown} is missing:\n{}",
            done.text()
        );
    }
    assert_eq!(
        std::fs::read_dir(&temporary).unwrap().count(),
        0,
        "the demo cleans up"
    );
    assert_eq!(
        std::fs::read_dir(&place).unwrap().count(),
        3,
        "the demo leaves its place as it was"
    );
}

#[test]
fn the_bench_verb_measures_a_node_two_hops_away() {
    let mesh = TestMesh::line(&["A", "B", "C"]);
    let bench = ["bench", "--to", "C", "--concurrency", "8", "--duration", "500ms"];
    let report = mesh.at("A", &[&bench[..], &["--json"]].concat()).ok().json();
    assert!(report["latency_ms"]["p99"].is_number(), "{report}");
    assert!(mesh.at("A", &bench).ok().text().contains("p99"));
    assert!(mesh.status("B")["forwarded"]["packets"].as_u64() > Some(0));
}

#[test]
fn completions_are_made_for_every_shell() {
    let mesh = TestMesh::new();
    for shell in ["bash", "zsh", "fish"] {
        let done = mesh.command(&["completions", shell]).ok();
        assert!(
            done.text().contains("submit") && done.stderr.is_empty(),
            "{shell}"
        );
    }
}
