//! Units that nobody asks for any more.

use super::*;

/// A unit that has ended, and whose origin has gone without a release.
async fn left_by_its_origin(rig: &Rig) -> (Submit, Arc<Hosted>) {
    let unit = submit("echo:buffer", 3);
    assert_eq!(rig.run(&unit, b"123").await.end(), Some(Kind::Ok));
    let hosted = rig.host.all().pop().unwrap();
    while hosted.is_heard() {
        tokio::task::yield_now().await;
    }
    (unit, hosted)
}

async fn asked(rig: &Rig, unit: &Submit) -> Option<Kind> {
    rig.resume(unit).await.hear().await.refused
}

#[tokio::test]
async fn a_unit_that_was_forgotten_is_lost_to_an_origin_that_asks_for_it_all_the_same() {
    let disk = Faulty::new();
    let rig = rig_on(&disk);
    let (unit, _) = left_by_its_origin(&rig).await;
    rig.host.forget_ended_before(0).await;
    assert_eq!(rig.host.count(), 1, "it is not old enough");
    rig.host.forget_ended_before(u64::MAX).await;
    rig.host.forget_starts();
    assert_eq!((rig.host.count(), rig.host.store.usage().keys), (0, 0));
    assert_eq!(rig.host.forgotten(), 1);
    let never = submit("echo:buffer", 3);
    assert_eq!(asked(&rig, &unit).await, Some(Kind::NodeLost));
    assert_eq!(asked(&rig, &never).await, Some(Kind::NoSuchUnit));

    let opened = Store::open_faulty(&disk.kill(), settings()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (next, ..) = rig_over(opened, dir, Incarnation(8), |_| {}, WorkSettings::default());
    assert_eq!(asked(&next, &unit).await, Some(Kind::NodeLost));
    assert_eq!(asked(&next, &never).await, Some(Kind::NoSuchUnit));
}

#[tokio::test]
async fn a_unit_that_its_origin_reads_is_not_forgotten() {
    let rig = rig();
    let (_, hosted) = left_by_its_origin(&rig).await;
    let heard = hosted.hear();
    rig.host.forget_ended_before(u64::MAX).await;
    assert_eq!(rig.host.count(), 1);
    drop(heard);
    rig.host.forget_ended_before(u64::MAX).await;
    assert_eq!(rig.host.count(), 0);
}

#[tokio::test]
async fn a_unit_that_the_disk_does_not_let_go_is_forgotten_later() {
    let disk = Faulty::new();
    let rig = rig_on(&disk);
    left_by_its_origin(&rig).await;
    disk.fault(no_writes(1));
    rig.host.forget_ended_before(u64::MAX).await;
    assert_eq!((rig.host.count(), rig.host.store.usage().keys), (1, 1));
    rig.host.forget_ended_before(u64::MAX).await;
    assert_eq!((rig.host.count(), rig.host.store.usage().keys), (0, 0));
}

#[tokio::test]
async fn the_note_of_a_unit_that_was_released_before_it_came_goes() {
    let disk = Faulty::new();
    let rig = rig_on(&disk);
    let (kept, _) = left_by_its_origin(&rig).await;
    let late = submit("echo:buffer", 3);
    rig.host.starts.note(late.unit).unwrap();
    rig.host.forget_starts();
    // In the place of the late one.
    let other = submit("echo:buffer", 3);
    rig.host.starts.note(other.unit).unwrap();
    let (store, _) = Store::open_faulty(&disk.kill(), settings()).unwrap();
    let begun = store.starts(8).1.unwrap().begun;
    assert_eq!(begun, [kept.unit, other.unit].into());
}
