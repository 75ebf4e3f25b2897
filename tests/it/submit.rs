//! Units over several hops: order, liveness, placement, and the end.

use workmesh_tests::{Spec, TestMesh};

const FOUR_LINES: &str = r#"{"duration":0.2,"repeat":2,"responses":2,"ident":"x"}"#;

#[test]
fn four_responses_cross_four_hops_in_order_and_live() {
    let mesh = TestMesh::line(&["A", "B", "C", "D", "E"]);
    let submit = ["submit", "--to", "E", "--directive", "sleep:execute", FOUR_LINES];

    let done = mesh.at("A", &[&submit[..], &["--format", "lines"]].concat());
    assert_eq!(
        done.text(),
        "x: iteration 1, response 1\nx: iteration 1, response 2\nx: iteration 2, response 1\nx: iteration 2, response 2\n"
    );
    assert_eq!((done.status, done.stderr.as_str()), (0, ""));

    // The first response is there while the unit still runs.
    let endless = r#"{"duration":0.05,"repeat":1000000,"ident":"y"}"#;
    let submit = [
        "submit",
        "--to",
        "E",
        "--directive",
        "sleep:execute",
        "--format",
        "json",
        endless,
    ];
    let mut live = mesh.begin("A", &submit);
    assert_eq!(live.next_object()["executor"], "E");
    assert_eq!(live.next_object()["data"], "y: iteration 1, response 1");
    assert_eq!(
        mesh.ping("A", "E")["active_work"][0]["directive"],
        "sleep:execute"
    );

    let trace = mesh.at("A", &["trace", "E", "--json"]).ok();
    let hops = trace.json_lines();
    let nodes: Vec<_> = hops.iter().map(|hop| hop["node"].as_str().unwrap()).collect();
    assert_eq!(nodes, ["B", "C", "D", "E"]);
}

#[test]
fn a_unit_without_a_target_runs_where_its_worker_is() {
    let mut mesh = TestMesh::new();
    let a = mesh.start(Spec::new("A")).address();
    let b = mesh.start(Spec::new("B").peer(a)).address();
    mesh.start(Spec::new("C").peer(b).own_workers());
    mesh.wait_until_all_routes();
    let submit = [
        "submit",
        "--directive",
        "test:ticks",
        "--param",
        "count=1",
        "--format",
        "json",
    ];
    let mut running = mesh.begin("A", &submit);
    assert_eq!(running.next_object()["executor"], "C");
    assert_eq!(running.next_object()["data"], "1");
    let eof = running.next_object();
    assert_eq!(
        (&eof["type"], &eof["outcome"], &eof["kind"]),
        (&"eof".into(), &"succeeded".into(), &"ok".into())
    );
    assert_eq!(running.finish().status, 0);
}

#[test]
fn a_busy_node_passes_the_unit_to_the_next() {
    let mut mesh = TestMesh::new();
    let a = mesh
        .start(Spec::new("A").args(&["--max-workers", "1", "--queue", "1"]))
        .address();
    mesh.start(
        Spec::new("B")
            .peer(a)
            .args(&["--max-workers", "1", "--queue", "1"]),
    );
    mesh.wait_until_all_routes();
    let submit = [
        "submit",
        "--directive",
        "sleep:execute",
        "--format",
        "json",
        r#"{"duration":600}"#,
    ];
    let mut units: Vec<_> = (0..4).map(|_| mesh.begin("A", &submit)).collect();
    let mut executors: Vec<_> = units
        .iter_mut()
        .map(|unit| unit.next_object()["executor"].to_string())
        .collect();
    executors.sort();
    assert_eq!(executors, [r#""A""#, r#""A""#, r#""B""#, r#""B""#]);
    let refused = mesh.at("A", &submit);
    assert_eq!(refused.status, 5, "{}", refused.stderr);
    for unit in units {
        unit.signal(rustix::process::Signal::INT);
        assert_eq!(unit.finish().status, 130);
    }
}

#[test]
fn the_same_unit_id_twice_is_one_unit() {
    let mesh = TestMesh::line(&["A", "B"]);
    let id = "01920000-0000-7000-8000-000000000001";
    let submit = [
        "submit",
        "--to",
        "B",
        "--directive",
        "text:upper",
        "--id",
        id,
        "once",
    ];
    assert_eq!(mesh.at("A", &submit).ok().text(), "ONCE");
    let again = mesh.at("A", &submit);
    assert_eq!((again.status, again.text()), (5, ""), "{}", again.stderr);
}
