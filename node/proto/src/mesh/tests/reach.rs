//! What readers see, and when it is computed.

use super::*;

#[test]
fn leaf_out_of_reach_is_no_longer_shown() {
    let mut table = Table::new(&["a", "b"]);
    let leaf = table.add_with("c", 1, |config| config.leaf = true);
    let link = table.connect(0, leaf);
    table.connect(0, 1);
    table.pass(Duration::from_secs(1));
    assert!(table.meshes[1].view().member(&node("c")).is_some());
    table.meshes[0].handle_link_closed(table.now, link);
    table.pump();
    table.pass(Duration::from_millis(200));
    assert!(table.meshes[1].view().member(&node("c")).is_none());
}

#[test]
fn node_out_of_reach_is_shown_as_such_and_then_forgotten() {
    let mut table = Table::new(&["a", "b"]);
    let link = table.connect(0, 1);
    table.meshes[0].handle_link_closed(table.now, link);
    table.pump();
    assert_eq!(
        table.meshes[0].view().member(&node("b")).unwrap().reach,
        Reach::Nowhere
    );
    table.wires[0].alive = false;
    table.pass(Timings::default().max_age + Duration::from_secs(1));
    assert!(table.meshes[0].view().member(&node("b")).is_none());
}

#[test]
fn reachable_nodes_never_age() {
    let mut table = Table::new(&["a", "b"]);
    table.connect(0, 1);
    table.pass(Timings::default().max_age * 3);
    assert!(table.meshes[0].view().member(&node("b")).unwrap().is_reachable());
    table.pass(Timings::default().refresh);
    assert!(table.meshes[0].lsdb.get(&node("b")).unwrap().lsa.sequence > 2);
}

#[test]
fn many_advertisements_cost_few_computations() {
    let mut table = Table::new(&["a", "b"]);
    let link = table.connect(0, 1);
    let before = table.meshes[0].counters().spf_runs;
    (0..500).for_each(|i| table.frame(0, link, &advertise(&format!("n{i}"), 1, 1)));
    table.pass(Duration::from_millis(20));
    assert!(table.meshes[0].counters().spf_runs <= before + 2);
    assert_eq!(table.meshes[0].view().members.len(), 502);
}
