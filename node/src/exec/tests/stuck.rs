//! Functions that do not stop when they are told to.

use super::*;

#[tokio::test]
async fn a_stuck_worker_is_given_up_and_its_slot_is_free() {
    let rig = rig(1, 1);
    let (gate, mut output, cancel) = rig.gated("gate:bytes");
    gate.told();
    cancel.cancel();
    assert_eq!(end_of(&mut output).await.eof.kind, Kind::Cancelled);
    assert_eq!(rig.states(), [ActiveState::Abandoned]);
    assert_eq!(rig.run(&submit("noop:run"), b"").await.eof.kind, Kind::Ok);
    assert_eq!(rig.executor.load().abandoned, 1);
    assert_eq!(rig.executor.counters().abandoned, 1);
    gate.go(Go::Return);
    rig.idle().await;
    assert!(rig.executor.active().is_empty());
    assert_eq!(
        total(&rig.executor.counters().ended),
        2,
        "its return is no second end"
    );
}

#[tokio::test]
async fn beyond_the_limit_stuck_workers_keep_their_slots_until_one_returns() {
    let rig = rig(1, 0);
    let (first, _output, cancel) = rig.gated("gate:bytes");
    first.told();
    cancel.cancel();
    let (second, _output, cancel) = rig.gated("gate:bytes");
    second.told();
    cancel.cancel();
    assert_eq!(rig.states(), [ActiveState::Abandoned, ActiveState::Stopping]);
    assert_eq!(rig.refusal(&submit("noop:run")), Kind::Busy);
    first.go(Go::Return);
    let mut load = rig.executor.load_changes();
    load.wait_for(|l| l.running == 0).await;
    assert_eq!(rig.states(), [ActiveState::Abandoned]);
    assert_eq!(rig.run(&submit("noop:run"), b"").await.eof.kind, Kind::Ok);
}

#[tokio::test]
async fn a_worker_that_stops_within_the_grace_keeps_its_thread() {
    let rig = rig_with(|settings| settings.stop_grace = Duration::from_secs(3600));
    let (gate, mut output, cancel) = rig.gated("gate:bytes");
    gate.told();
    cancel.cancel();
    assert_eq!(end_of(&mut output).await.eof.kind, Kind::Cancelled);
    assert_eq!(rig.states(), [ActiveState::Stopping]);
    gate.go(Go::Return);
    rig.idle().await;
    assert_eq!(rig.executor.counters().abandoned, 0);
}

#[tokio::test]
async fn a_worker_that_does_not_stop_within_the_grace_is_given_up() {
    let rig = rig_with(|settings| settings.stop_grace = Duration::from_millis(1));
    let (gate, mut output, cancel) = rig.gated("gate:bytes");
    gate.told();
    cancel.cancel();
    end_of(&mut output).await;
    let mut load = rig.executor.load_changes();
    load.wait_for(|l| l.abandoned == 1).await;
    gate.go(Go::Return);
    rig.idle().await;
}

#[tokio::test]
async fn a_stuck_worker_with_a_limit_of_one_does_not_hold_the_next_unit() {
    let rig = rig(2, 2);
    let (stuck, _output, cancel) = rig.gated("gate:one");
    stuck.told();
    let (next, _next_output, _cancel) = rig.gated("gate:one");
    cancel.cancel();
    next.told();
}
