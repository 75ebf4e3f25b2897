//! Units that begin before they are stored.

use super::*;
use crate::exec::Admitted;

/// A host that stores no unit before its end.
fn patient() -> Rig {
    waiting(rig(), Duration::from_secs(60))
}

/// One that stores a unit so long after it may run.
fn waiting(mut rig: Rig, moment: Duration) -> Rig {
    Arc::get_mut(&mut rig.host).unwrap().moment = moment;
    rig
}

/// Offers a unit of a gated worker, without payload; it has begun when this answers.
async fn begin(rig: &Rig, unit: &Submit) -> (Talk, Gate) {
    let gate = Gate::of(unit.unit);
    let mut talk = rig.offer(unit).await;
    talk.0.sender.put_bare(FrameType::PayloadEnd);
    talk.0.sender.flush().await.unwrap();
    while gate.is_silent() {
        tokio::task::yield_now().await;
    }
    (talk, gate)
}

/// Waits until so many keys are in the store.
async fn stored(rig: &Rig, keys: u64) {
    while rig.host.store.usage().keys != keys {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_unit_that_is_over_in_a_moment_is_told_before_it_is_stored() {
    let rig = patient();
    let unit = submit("echo:bytes", 3);
    let said = rig.run(&unit, b"123").await;
    assert_eq!((said.end(), &said.bytes[..]), (Some(Kind::Ok), &b"123"[..]));
    assert_eq!(said.frames, [FrameType::Accepted, FrameType::Eof]);
    assert_eq!((rig.host.count(), rig.host.store.usage().keys), (1, 0));
    // What is not stored can be asked for as well.
    let said = rig.resume(&unit).await.hear().await;
    assert_eq!((said.end(), &said.bytes[..]), (Some(Kind::Ok), &b"123"[..]));
}

#[tokio::test]
async fn a_unit_that_is_released_soon_is_never_stored() {
    let rig = patient();
    let unit = submit("echo:bytes", 3);
    rig.run(&unit, b"123").await;
    rig.release(&unit).await;
    rig.host.store_all_deferred();
    assert_eq!(rig.host.keepers.len(), 0, "nothing is stored for it");
    assert_eq!((rig.host.count(), rig.host.store.usage().appends), (0, 0));
}

#[tokio::test]
async fn a_unit_that_nobody_releases_is_stored_after_all() {
    let rig = patient();
    let unit = submit("echo:bytes", 3);
    rig.run(&unit, b"123").await;
    tokio::spawn(rig.host.clone().store_deferred());
    stored(&rig, 1).await;
    let said = rig.resume(&unit).await.hear().await;
    assert_eq!((said.end(), &said.bytes[..]), (Some(Kind::Ok), &b"123"[..]));
    assert_eq!(rig.host.store.usage().appends, 1);
    rig.release(&unit).await;
    assert_eq!((rig.host.count(), rig.host.store.usage().keys), (0, 0));
}

#[tokio::test]
async fn a_node_that_stops_stores_what_it_has_told() {
    let rig = patient();
    rig.run(&submit("echo:bytes", 3), b"123").await;
    assert_eq!(rig.restart().await, Some(Kind::Ok));
}

#[tokio::test]
async fn what_was_told_and_not_stored_has_begun_for_the_life_after() {
    let rig = patient();
    let unit = submit("echo:bytes", 3);
    rig.run(&unit, b"123").await;
    // As good as killed.
    rig.host.store.close().await;
    let (rig, found, _) = rig_in(rig.dir, Incarnation(8), |_| {}, WorkSettings::default());
    assert_eq!(found.len(), 0);
    let said = rig.resume(&unit).await.hear().await;
    assert_eq!(said.refused, Some(Kind::NodeLost));
}

#[tokio::test]
async fn a_unit_that_sends_much_is_stored_before_it_is_told() {
    let rig = patient();
    let payload = vec![7; 200_000];
    let said = rig.run(&submit("echo:bytes", payload.len()), &payload).await;
    assert_eq!((said.end(), said.bytes == payload), (Some(Kind::Ok), true));
    assert_eq!(rig.host.store.usage().keys, 1);
}

#[tokio::test]
async fn a_unit_that_goes_on_is_stored_before_it_is_accepted() {
    let rig = rig();
    let unit = submit("gate:bytes", 0);
    let (mut talk, gate) = rig.start(&unit).await;
    assert_eq!(rig.host.store.usage().keys, 1);
    gate.go(Go::Return);
    assert_eq!(talk.hear().await.end(), Some(Kind::Ok));
}

#[tokio::test]
async fn a_unit_that_waits_and_cannot_be_stored_is_refused() {
    let disk = Faulty::new();
    let rig = rig_on(&disk);
    let (mut runs, gate) = rig.start(&submit("gate:buffer", 0)).await;
    let unit = submit("echo:bytes", 3);
    disk.fault(no_writes(1));
    assert_eq!(rig.run(&unit, b"123").await.refused, Some(Kind::NoSpace));
    assert_eq!((rig.host.count(), rig.host.store.usage().keys), (1, 1));
    gate.go(Go::Return);
    assert_eq!(runs.hear().await.end(), Some(Kind::Ok));
    assert_eq!(rig.run(&unit, b"123").await.bytes, b"123");
}

#[tokio::test]
async fn a_unit_that_has_begun_is_kept_when_the_disk_takes_it() {
    let disk = Faulty::new();
    let rig = waiting(rig_on(&disk), Duration::from_secs(1));
    let unit = submit("gate:bytes", 0);
    // The note of its start, and the first try to store it.
    disk.fault(no_writes(2));
    let (mut talk, gate) = begin(&rig, &unit).await;
    talk.hear_until(FrameType::Accepted).await;
    assert_eq!(rig.host.store.usage().keys, 1);
    gate.go(Go::Return);
    assert_eq!(talk.hear().await.end(), Some(Kind::Ok));
}

#[tokio::test]
async fn a_disk_that_refuses_is_asked_before_a_unit_begins() {
    let disk = Faulty::new();
    let rig = waiting(rig_on(&disk), Duration::from_secs(1));
    let unit = submit("gate:bytes", 0);
    disk.fault(no_writes(1_000_000));
    let (mut talk, gate) = begin(&rig, &unit).await;
    while !rig.host.refuses.load(Ordering::Relaxed) {
        tokio::task::yield_now().await;
    }
    let next = submit("echo:bytes", 3);
    assert_eq!(rig.run(&next, b"123").await.refused, Some(Kind::NoSpace));
    disk.heal();
    // What has begun is kept from then on.
    gate.go(Go::Return);
    assert_eq!(talk.hear().await.end(), Some(Kind::Ok));
    assert_eq!(rig.run(&next, b"123").await.bytes, b"123");
    assert!(!rig.host.refuses.load(Ordering::Relaxed));
}

/// A unit that was taken, by hand; it may run once its payload is complete.
fn taken(rig: &Rig, unit: &Submit) -> (Arc<Hosted>, Admitted) {
    let (peer, offer) = (NodeId::parse("O").unwrap(), unit.offer.unwrap());
    let hosted = rig.host.reserve(&peer, unit.unit, offer).unwrap();
    let admitted = rig.host.executor.admit(unit, peer).unwrap();
    rig.host.may_take(unit.unit, offer).unwrap();
    hosted.with(|machine| machine.take(&unit.directive, now_ms()));
    (hosted, admitted)
}

#[tokio::test]
async fn what_is_given_back_and_cannot_be_stored_is_refused() {
    let rig = rig();
    let (hosted, admitted) = taken(&rig, &submit("echo:bytes", 3));
    let mut unstored = Unstored::new(&rig.host, &hosted, admitted.output);
    assert!(hosted.with(|machine| machine.give_back("draining", now_ms())));
    assert!(unstored.take_back());
    assert!(hosted.is_arriving(), "as if it had never come");
}

#[tokio::test]
async fn a_unit_whose_conversation_breaks_at_once_is_kept() {
    let rig = rig();
    let unit = submit("gate:bytes", 0);
    let gate = Gate::of(unit.unit);
    let (hosted, admitted) = taken(&rig, &unit);
    admitted.payload.finish();
    drop(Unstored::new(&rig.host, &hosted, admitted.output));
    stored(&rig, 1).await;
    gate.go(Go::Return);
    let mut kept = hosted.watch();
    kept.wait_for(|kept| kept.is_over()).await.unwrap();
}
