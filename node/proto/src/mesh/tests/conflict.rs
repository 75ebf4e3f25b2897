//! Two live nodes with one id.

use super::*;

#[test]
fn younger_of_two_live_nodes_with_one_id_is_refused_wherever_it_comes_from() {
    for (first, second) in [(1, 2), (2, 1)] {
        let mut table = Table::new(&["a"]);
        let one = table.add("b", first);
        table.connect(one, 0);
        let other = table.add("b", second);
        table.connect(other, 0);
        table.pass(Duration::from_secs(1));
        let (older, younger) = if first < second {
            (one, other)
        } else {
            (other, one)
        };
        assert_eq!(table.duplicate_of(younger), Some(Incarnation(1)));
        assert_eq!(table.duplicate_of(older), None);
        let b = Arc::clone(table.meshes[0].view().member(&node("b")).unwrap());
        assert!(b.is_reachable() && b.incarnation() == Incarnation(1));
    }
}

#[test]
fn refused_node_is_told_again_when_it_comes_back() {
    let mut table = Table::new(&["a"]);
    let older = table.add("b", 1);
    table.connect(older, 0);
    let conflict = Conflict {
        node: node("b"),
        older: Incarnation(1),
        younger: Incarnation(2),
    };
    let link = table.meshes[0].neighbours[&node("b")];
    table.frame(0, link, &LinkFrame::Conflict(conflict));
    let younger = table.add("b", 2);
    table.connect(younger, 0);
    assert_eq!(table.duplicate_of(younger), Some(Incarnation(1)));
}

#[test]
fn remote_duplicate_is_driven_out_by_the_older_node() {
    let mut table = Table::new(&["a", "c", "d"]);
    let (older, younger) = (table.add("b", 1), table.add("b", 2));
    table.connect(older, 0);
    table.connect(younger, 2);
    table.pass(Duration::from_secs(1));
    table.connect(0, 1);
    table.connect(1, 2);
    table.pass(Duration::from_secs(1));
    assert_eq!(table.duplicate_of(younger), Some(Incarnation(1)));
    assert_eq!(table.duplicate_of(older), None);
    for index in 0..3 {
        let view = table.meshes[index].view();
        let b = view.member(&node("b")).unwrap();
        assert!(b.is_reachable() && b.incarnation() == Incarnation(1));
    }
}

#[test]
fn older_node_does_not_believe_that_it_has_to_go() {
    let mut table = Table::new(&["a"]);
    let older = table.add("b", 5);
    let link = table.connect(older, 0);
    for (older_life, younger_life) in [(5, 9), (1, 4), (6, 7)] {
        let conflict = Conflict {
            node: node("b"),
            older: Incarnation(older_life),
            younger: Incarnation(younger_life),
        };
        table.frame(older, link, &LinkFrame::Conflict(conflict));
    }
    table.pass(Duration::from_secs(1));
    assert_eq!(table.duplicate_of(older), None);
    assert!(table.meshes[0].view().member(&node("b")).unwrap().is_reachable());
}

#[test]
fn advertisement_of_a_past_life_is_answered_with_the_own_one() {
    let mut table = Table::new(&["a"]);
    let again = table.add("b", 7);
    let link = table.connect(again, 0);
    table.log.clear();
    table.frame(again, link, &advertise("b", 6, 99));
    let own = &table.meshes[again].lsdb.get(&node("b")).unwrap().frame;
    assert!(
        table
            .log
            .iter()
            .any(|(at, o)| *at == again && matches!(o, Output::Send { frame, .. } if frame == own))
    );
    assert_eq!(table.duplicate_of(again), None);
}

#[test]
fn remembered_conflicts_are_bounded_and_expire() {
    let mut table = Table::new(&["a", "b"]);
    let link = table.connect(0, 1);
    let conflict = |younger: usize| {
        LinkFrame::Conflict(Conflict {
            node: node("x"),
            older: Incarnation(1),
            younger: Incarnation(younger as u64),
        })
    };
    let known = |table: &Table, younger: usize| {
        table.meshes[0]
            .conflicts
            .get(&node("x"), Incarnation(younger as u64))
            .is_some()
    };
    (2..MAX_CONFLICTS + 2).for_each(|younger| table.frame(0, link, &conflict(younger)));
    assert!(known(&table, 2) && known(&table, MAX_CONFLICTS + 1));
    table.frame(0, link, &conflict(MAX_CONFLICTS + 2));
    assert!(!known(&table, 2) && known(&table, 3) && known(&table, MAX_CONFLICTS + 2));
    table.pass(Timings::default().max_age * 2);
    assert!(!known(&table, MAX_CONFLICTS + 2));
}
