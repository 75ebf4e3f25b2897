//! Nodes that come, go, come back, and nodes that share an id.

use rustix::process::Signal;
use workmesh_tests::{Spec, TestMesh, wait_until};

/// The nodes that `id` has a way to.
fn reachable(mesh: &TestMesh, id: &str) -> Vec<String> {
    let status = mesh.status(id);
    let routes = status["routes"].as_array().unwrap().iter();
    routes
        .filter(|route| route["next_hop"].is_string())
        .map(|route| route["node"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_capability_far_away_is_visible_and_goes_with_its_node() {
    let mut mesh = TestMesh::line(&["A", "B", "C", "D"]);
    let d = mesh.node("D").address();
    mesh.start(Spec::new("E").peer(d).own_workers());
    let has_ticks = |mesh: &TestMesh| {
        let workers = mesh.at("A", &["workers", "--json"]).ok().json_lines();
        workers
            .iter()
            .any(|row| row["directive"] == "test:ticks" && row["node"] == "E")
    };
    wait_until("A knows E's workers", || has_ticks(&mesh));
    let submit = [
        "submit",
        "--directive",
        "test:ticks",
        "--param",
        "count=2",
        "--format",
        "lines",
    ];
    assert_eq!(mesh.at("A", &submit).ok().text(), "1\n2\n");

    mesh.node("E").signal(Signal::TERM);
    assert_eq!(mesh.node("E").wait(), 0);
    wait_until("A knows no such worker", || !has_ticks(&mesh));
    assert_eq!(mesh.at("A", &submit).status, 3);
}

#[test]
fn a_node_that_leaves_in_order_is_gone_without_waiting_for_detection() {
    // Silence would be noticed only long after the limit of any wait in this test.
    let patient = ["--detection", "10m"];
    let mut mesh = TestMesh::new();
    let a = mesh.start(Spec::new("A").args(&patient)).address();
    let b = mesh.start(Spec::new("B").peer(a).args(&patient)).address();
    mesh.start(Spec::new("C").peer(b).args(&patient));
    mesh.wait_until_all_routes();
    mesh.node("C").signal(Signal::TERM);
    wait_until("A has no way to C", || {
        !reachable(&mesh, "A").contains(&"C".to_owned())
    });
    assert_eq!(mesh.node("C").wait(), 0);
    assert_eq!(reachable(&mesh, "A"), ["B"]);
}

#[test]
fn a_killed_node_is_dialled_until_it_is_back() {
    let mut mesh = TestMesh::new();
    let fast = ["--detection", "1s"];
    let a = mesh.start(Spec::new("A").args(&fast)).address();
    let b = mesh.start(Spec::new("B").peer(a).args(&fast)).address();
    mesh.start(Spec::new("C").peer(b).args(&fast));
    mesh.wait_until_all_routes();
    mesh.node("B").kill();
    wait_until("A has no way to C", || reachable(&mesh, "A").is_empty());
    assert_eq!(
        mesh.at("A", &["submit", "--to", "C", "--directive", "echo:bytes"])
            .status,
        3
    );
    mesh.restart("B");
    mesh.wait_until_all_routes();
    assert_eq!(
        mesh.at("A", &["submit", "--to", "C", "--directive", "text:upper", "back"])
            .ok()
            .text(),
        "BACK"
    );
}

#[test]
fn of_two_nodes_with_one_id_the_younger_refuses_and_says_so() {
    let mut mesh = TestMesh::line(&["A", "B", "C"]);
    let other = mesh.dir().join("other");
    mesh.identity_in("B", &other);
    let spec = Spec::new("B").peer(mesh.node("C").address());
    let younger = mesh.spawn(&spec, &other);
    let said = younger
        .stderr()
        .wait_for("the younger's end", |line| {
            line.contains("was there first").then(|| line.to_owned())
        })
        .unwrap_or_else(|| panic!("{}", younger.stderr().lines().join("\n")));
    assert!(said.contains("another node named B"), "{said}");
    let ended = younger.finish();
    assert_ne!(ended.status, 0);

    mesh.wait_until_all_routes();
    assert_eq!(
        mesh.at(
            "A",
            &["submit", "--to", "B", "--directive", "text:upper", "older"]
        )
        .ok()
        .text(),
        "OLDER"
    );
    assert!(!mesh.node("B").has_ended());
    mesh.start(Spec::new("D").peer(mesh.node("B").address()));
    mesh.wait_until_all_routes();
}

#[test]
fn a_second_node_with_one_data_directory_is_refused() {
    let mesh = TestMesh::line(&["A"]);
    let data_dir = mesh.node("A").data_dir().to_owned();
    let second = mesh.spawn(&Spec::new("A"), &data_dir).finish();
    assert_ne!(second.status, 0);
    assert!(mesh.status("A")["node"] == "A");
}

#[test]
fn a_command_that_joins_as_a_leaf_leaves_nothing_behind() {
    let mesh = TestMesh::line(&["A", "B", "C"]);
    let laptop = mesh.identity("laptop");
    let peers = mesh.node("A").address().to_string();
    let before: Vec<_> = files(&laptop);
    let leaf = ["--peers", &peers, "--data-dir", laptop.to_str().unwrap()];
    let submit = ["submit", "--to", "C", "--directive", "text:upper", "from a leaf"];
    assert_eq!(
        mesh.command(&[&submit[..], &leaf].concat()).ok().text(),
        "FROM A LEAF"
    );
    let ping = mesh
        .command(&[&["ping", "C", "--json"][..], &leaf].concat())
        .ok()
        .json();
    assert_eq!(ping["node"], "C");
    let sender = mesh.command(&[&["trace", "C"][..], &leaf].concat()).ok();
    assert!(sender.text().contains('C'), "{}", sender.text());

    assert_eq!(files(&laptop), before);
    for id in ["A", "B", "C"] {
        wait_until(&format!("{id} has forgotten the leaf"), || {
            !mesh.at(id, &["status", "--json"]).ok().text().contains("laptop")
        });
    }
}

#[test]
fn two_leaves_with_one_identity_do_not_disturb_each_other() {
    let mesh = TestMesh::line(&["A", "B"]);
    let laptop = mesh.identity("laptop");
    let peers = mesh.node("A").address().to_string();
    let submit = [
        "submit",
        "--to",
        "B",
        "--directive",
        "sleep:execute",
        "--format",
        "json",
        "--peers",
        &peers,
        "--data-dir",
        laptop.to_str().unwrap(),
        r#"{"duration":0.05,"repeat":1000000}"#,
    ];
    let mut first = mesh.begin_command(&submit);
    assert_eq!(first.next_object()["executor"], "B");
    let mut second = mesh.begin_command(&submit);
    assert_eq!(second.next_object()["executor"], "B");
    for serial in 1..10 {
        assert_eq!(first.next_object()["serial"], serial);
        assert_eq!(second.next_object()["serial"], serial);
    }
    for leaf in [first, second] {
        leaf.signal(Signal::INT);
        assert_eq!(leaf.finish().status, 130);
    }
}

fn files(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
