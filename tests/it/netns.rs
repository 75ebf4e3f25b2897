//! Hosts in network namespaces: cables are cut, go deaf and are mended; the mesh finds its way and nobody stays deaf.

use workmesh_tests::{Cable, Namespaces, Spec, TestMesh, may_make_namespaces, wait_until};

const PORT: &str = "0.0.0.0:8888";
const FAST: [&str; 2] = ["--detection", "1s"];

fn spec(net: &Namespaces, id: &str) -> Spec {
    Spec::new(id).namespace(&net.name(id)).listen(PORT).args(&FAST)
}

fn at(cable: &Cable) -> String {
    format!("{}:8888", cable.left_address())
}

/// A - B - C, each on a host of its own.
fn line() -> (TestMesh, Namespaces, [Cable; 2]) {
    let mut net = Namespaces::new(&["A", "B", "C"]);
    let ab = net.connect("A", "B");
    let bc = net.connect("B", "C");
    let mut mesh = TestMesh::new();
    mesh.start(spec(&net, "A"));
    mesh.start(spec(&net, "B").peer(at(&ab)));
    mesh.start(spec(&net, "C").peer(at(&bc)).own_workers());
    mesh.wait_until_all_routes();
    (mesh, net, [ab, bc])
}

fn upper(mesh: &TestMesh, from: &str, to: &str) {
    let done = mesh.at(
        from,
        &["submit", "--to", to, "--directive", "text:upper", "heard"],
    );
    assert_eq!(
        (done.status, done.text()),
        (0, "HEARD"),
        "{from} to {to}: {}",
        done.stderr
    );
}

#[test]
fn a_partition_is_noticed_on_both_sides_and_heals() {
    if !may_make_namespaces() {
        return;
    }
    let (mesh, _net, [_, bc]) = line();
    upper(&mesh, "A", "C");
    for cut in [true, false] {
        // A cable that is pulled, then one that swallows everything without a word.
        if cut {
            bc.cut();
        } else {
            bc.swallow();
        }
        wait_until("A has no way to C", || mesh.next_hop("A", "C").is_none());
        wait_until("C has no way to A", || mesh.next_hop("C", "A").is_none());
        assert_eq!(
            mesh.at("A", &["submit", "--to", "C", "--directive", "echo:bytes"])
                .status,
            3
        );
        upper(&mesh, "A", "B");
        if cut {
            bc.mend();
        } else {
            bc.carry();
        }
        mesh.wait_until_all_routes();
        upper(&mesh, "A", "C");
        upper(&mesh, "C", "A");
    }
}

#[test]
fn a_short_cut_is_slept_through() {
    if !may_make_namespaces() {
        return;
    }
    let (mesh, _net, [_, bc]) = line();
    let submit = [
        "submit",
        "--to",
        "C",
        "--directive",
        "test:ticks",
        "--param",
        "count=60",
        "--format",
        "lines",
    ];
    let mut unit = mesh.begin("A", &submit);
    assert_eq!(unit.next_line().as_deref(), Some("1"));
    bc.swallow();
    wait_until("A has no way to C", || mesh.next_hop("A", "C").is_none());
    bc.carry();
    for tick in 2..=60 {
        assert_eq!(unit.next_line(), Some(tick.to_string()));
    }
    assert_eq!(unit.finish().status, 0);
}

#[test]
fn a_running_unit_moves_to_another_way_and_back() {
    if !may_make_namespaces() {
        return;
    }
    let mut net = Namespaces::new(&["A", "B", "C"]);
    let ab = net.connect("A", "B");
    let bc = net.connect("B", "C");
    let ac = net.connect("A", "C");
    let mut mesh = TestMesh::new();
    mesh.start(spec(&net, "A"));
    mesh.start(spec(&net, "B").peer(at(&ab)));
    mesh.start(spec(&net, "C").peer(at(&bc)).peer(at(&ac)).own_workers());
    mesh.wait_until_all_routes();
    wait_until("A and C are neighbours", || {
        mesh.next_hop("A", "C").as_deref() == Some("C")
    });

    let submit = [
        "submit",
        "--to",
        "C",
        "--directive",
        "test:ticks",
        "--param",
        "count=100",
        "--format",
        "lines",
    ];
    let mut unit = mesh.begin("A", &submit);
    assert_eq!(unit.next_line().as_deref(), Some("1"));
    ac.swallow();
    wait_until("the way to C is over B", || {
        mesh.next_hop("A", "C").as_deref() == Some("B")
    });
    assert_eq!(unit.next_line().as_deref(), Some("2"));
    ac.carry();
    wait_until("the way to C is short again", || {
        mesh.next_hop("A", "C").as_deref() == Some("C")
    });
    ab.cut();
    for tick in 3..=100 {
        assert_eq!(unit.next_line(), Some(tick.to_string()));
    }
    assert_eq!(unit.finish().status, 0);
}

#[test]
fn a_mesh_that_fell_apart_entirely_grows_together_again() {
    if !may_make_namespaces() {
        return;
    }
    let (mut mesh, _net, [ab, bc]) = line();
    for cable in [&ab, &bc] {
        cable.cut();
    }
    wait_until("B is alone", || {
        mesh.next_hop("B", "A").is_none() && mesh.next_hop("B", "C").is_none()
    });
    mesh.node("B").kill();
    mesh.restart("B");
    for cable in [&ab, &bc] {
        cable.mend();
    }
    mesh.wait_until_all_routes();
    for (from, to) in [("A", "C"), ("C", "A"), ("B", "C"), ("A", "B")] {
        upper(&mesh, from, to);
    }
}
