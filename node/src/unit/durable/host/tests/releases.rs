//! Releases, alone and together.

use std::collections::BTreeSet;
use std::pin::pin;

use futures_util::poll;
use workmesh_proto::wire::durable::MAX_RELEASES;

use super::*;

#[tokio::test]
async fn a_unit_is_released_once_it_is_removed() {
    let disk = Faulty::new();
    let rig = rig_on(&disk);
    let unit = submit("echo:buffer", 3);
    assert_eq!(rig.run(&unit, b"123").await.end(), Some(Kind::Ok));
    disk.fault(no_writes(2));
    let said = rig.ask_to_release(&unit).await.hear().await;
    assert_eq!((said.frames, rig.host.count()), (vec![], 1));
    let next = submit_as(&unit, 2);
    assert_eq!(rig.run(&next, b"123").await.refused, Some(Kind::Busy));
    rig.release(&unit).await;
    assert_eq!((rig.host.count(), rig.host.store.usage().keys), (0, 0));
    assert_eq!(rig.run(&next, b"123").await.bytes, b"123");
}

#[tokio::test]
async fn a_later_offer_releases_the_one_before() {
    let rig = rig();
    let unit = submit("echo:buffer", 3);
    assert_eq!(rig.run(&unit, b"123").await.bytes, b"123");
    let next = submit_as(&unit, 2);
    assert_eq!(rig.run(&next, b"456").await.bytes, b"456");
    assert_eq!((rig.host.count(), rig.host.store.usage().keys), (1, 1));
    rig.release(&unit).await;
    assert_eq!(rig.host.count(), 1, "it was another offer's");
    assert_eq!(rig.run(&unit, b"123").await.refused, Some(Kind::Duplicate));
}

#[tokio::test]
async fn a_later_offer_is_put_off_while_the_function_of_the_one_before_runs() {
    let rig = rig();
    let unit = submit("gate:buffer", 0);
    let (_talk, gate) = rig.start(&unit).await;
    let next = submit_as(&unit, 2);
    assert_eq!(rig.run(&next, b"").await.refused, Some(Kind::Busy));
    assert_eq!(rig.host.count(), 0, "the one before is released all the same");
    gate.go(Go::Return);
}

#[tokio::test]
async fn a_unit_that_could_not_be_removed_when_it_was_released_is_collected_and_does_not_come_again() {
    let disk = Faulty::new();
    let rig = rig_on(&disk);
    let late = submit("echo:buffer", 3);
    let unit = submit_as(&late, 2);
    assert_eq!(rig.run(&unit, b"123").await.end(), Some(Kind::Ok));
    disk.fault(no_writes(2));
    let said = rig.ask_to_release(&unit).await.hear().await;
    assert_eq!((said.frames, rig.host.count()), (vec![], 1));
    rig.host.collect_once().await;
    assert_eq!(
        rig.host.count(),
        1,
        "it has its place as long as it has something"
    );
    rig.host.collect_once().await;
    assert_eq!((rig.host.count(), rig.host.store.usage().keys), (0, 0));
    for over in [late, unit.clone()] {
        assert_eq!(rig.run(&over, b"123").await.refused, Some(Kind::Duplicate));
    }
    assert_eq!(rig.run(&submit_as(&unit, 3), b"123").await.bytes, b"123");
}

#[tokio::test]
async fn a_release_that_comes_twice_leaves_a_later_offer_alone() {
    let disk = Faulty::new();
    let rig = rig_on(&disk);
    let unit = submit("echo:buffer", 3);
    assert_eq!(rig.run(&unit, b"123").await.end(), Some(Kind::Ok));
    let origin = rig.host.node.clone();
    let held = disk.hold();
    let mut first = pin!(rig.host.release(&origin, unit.unit, 1));
    let mut second = pin!(rig.host.release(&origin, unit.unit, 1));
    assert!(poll!(first.as_mut()).is_pending());
    assert!(poll!(second.as_mut()).is_pending());
    drop(held);
    assert!(first.await);
    let next = submit_as(&unit, 2);
    assert_eq!(rig.run(&next, b"123").await.end(), Some(Kind::Ok));
    assert!(second.await);
    assert_eq!((rig.host.count(), rig.host.store.usage().keys), (1, 1));
    let (store, _) = Store::open_faulty(&disk.kill(), settings()).unwrap();
    let (_, noted) = store.starts(8);
    assert!(noted.unwrap().begun.contains(&unit.unit));
}

fn releases<'a>(units: impl Iterator<Item = &'a Submit>) -> Vec<Release> {
    let release = |unit: &Submit| Release {
        unit: unit.unit,
        number: 1,
        outcome: Kind::Ok.outcome(),
    };
    units.map(release).collect()
}

#[tokio::test]
async fn units_are_released_together_and_what_is_unknown_counts_as_released() {
    let rig = rig();
    let units: Vec<_> = (0..9).map(|_| submit("echo:buffer", 3)).collect();
    for unit in &units[..8] {
        assert_eq!(rig.run(unit, b"123").await.end(), Some(Kind::Ok));
    }
    let said = rig.release_all(&releases(units.iter())).await;
    let known: BTreeSet<_> = units.iter().map(|unit| unit.unit).collect();
    assert_eq!(said.released.len(), known.len(), "each is named once");
    assert_eq!(said.released.into_iter().collect::<BTreeSet<_>>(), known);
    assert_eq!((rig.host.count(), rig.host.store.usage().keys), (0, 0));
}

#[tokio::test]
async fn what_can_not_be_removed_is_left_out_of_the_answer() {
    let disk = Faulty::new();
    let rig = rig_on(&disk);
    let (stays, unknown) = (submit("echo:buffer", 3), submit("echo:buffer", 3));
    assert_eq!(rig.run(&stays, b"123").await.end(), Some(Kind::Ok));
    disk.fault(no_writes(1));
    let said = rig.release_all(&releases([&stays, &unknown].into_iter())).await;
    assert_eq!((said.released, rig.host.count()), (vec![unknown.unit], 1));
}

#[tokio::test]
async fn more_releases_than_a_conversation_may_have_are_none() {
    let rig = rig();
    let unit = submit("echo:buffer", 3);
    assert_eq!(rig.run(&unit, b"123").await.end(), Some(Kind::Ok));
    let most = releases(std::iter::repeat_n(&unit, MAX_RELEASES + 1));
    let said = rig.release_all(&most).await;
    assert_eq!((said.released, rig.host.count()), (vec![], 1));
    let said = rig.release_all(&most[1..]).await;
    assert_eq!((said.released.len(), rig.host.count()), (MAX_RELEASES, 0));
}
