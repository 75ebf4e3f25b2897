//! Who gets in, who waits, who is refused and why.

use super::*;

#[test]
fn pool_of_two_and_queue_of_three_refuse_the_sixth_unit_at_once() {
    let rig = rig(2, 3);
    let running: Vec<_> = (0..2).map(|_| rig.gated("gate:buffer")).collect();
    running.iter().for_each(|(gate, ..)| drop(gate.told()));
    let waiting: Vec<_> = (0..3).map(|_| rig.gated("gate:buffer")).collect();
    let refused = rig.admit(&submit("gate:buffer")).unwrap_err();
    assert_eq!(refused.kind, Kind::Busy);
    assert!(refused.message.contains("queue of 3"), "{}", refused.message);
    let load = rig.executor.load();
    assert_eq!((load.running, load.queued), (2, 3));
    assert!(waiting.iter().all(|(gate, ..)| gate.is_silent()));
    assert_eq!(count(&rig.executor.counters().refused, Kind::Busy), 1);
}

#[tokio::test]
async fn a_waiting_unit_runs_as_soon_as_a_slot_is_free() {
    let rig = rig(1, 1);
    let (first, mut first_output, _cancel) = rig.gated("gate:bytes");
    first.told();
    let (second, mut second_output, _cancel) = rig.gated("gate:bytes");
    assert_eq!(rig.states(), [ActiveState::Running, ActiveState::Queued]);
    first.go(Go::Return);
    second.told();
    second.go(Go::Return);
    assert_eq!(end_of(&mut first_output).await.eof.kind, Kind::Ok);
    assert_eq!(end_of(&mut second_output).await.eof.kind, Kind::Ok);
}

#[tokio::test]
async fn the_slot_is_free_when_the_end_is_told() {
    let rig = rig(1, 0);
    for _ in 0..200 {
        assert_eq!(rig.run(&submit("noop:run"), b"").await.eof.kind, Kind::Ok);
    }
}

#[test]
fn a_slow_payload_of_the_bytes_kind_holds_no_slot() {
    let rig = rig(1, 1);
    let slow = rig.admit(&submit("echo:bytes")).unwrap();
    let (gate, _output, _cancel) = rig.gated("gate:bytes");
    gate.told();
    assert_eq!(rig.states(), [ActiveState::Queued, ActiveState::Running]);
    drop(slow);
}

#[tokio::test]
async fn units_over_their_workers_limit_wait_without_blocking_others() {
    let rig = rig(2, 4);
    let (first, mut first_output, _cancel) = rig.gated("gate:one");
    first.told();
    let (second, _second_output, _cancel) = rig.gated("gate:one");
    let (other, _other_output, _cancel) = rig.gated("gate:buffer");
    other.told();
    assert!(second.is_silent());
    first.go(Go::Return);
    assert_eq!(end_of(&mut first_output).await.eof.kind, Kind::Ok);
    second.told();
}

#[tokio::test]
async fn a_unit_held_by_its_workers_limit_can_be_cancelled() {
    let rig = rig(2, 4);
    let (first, _first_output, _cancel) = rig.gated("gate:one");
    first.told();
    let (_gate, mut output, cancel) = rig.gated("gate:one");
    assert!(cancel.cancel());
    assert_eq!(end_of(&mut output).await.eof.kind, Kind::Cancelled);
    assert_eq!(rig.executor.load().queued, 0);
}

#[test]
fn each_wrong_directive_has_its_own_kind() {
    let rig = rig(1, 1);
    let kinds = ["nocolon", ":x", "a:", "nosuch:execute", "echo:nope"].map(|d| rig.refusal(&submit(d)));
    let malformed = Kind::MalformedDirective;
    let expected = [
        malformed,
        malformed,
        malformed,
        Kind::UnknownModule,
        Kind::UnknownFunction,
    ];
    assert_eq!(kinds, expected);
    assert_eq!(total(&rig.executor.counters().refused), 5);
    assert_eq!(rig.executor.load().queued, 0);
}

#[test]
fn a_submission_that_breaks_its_limits_is_refused() {
    let rig = rig(1, 1);
    let mut submit = submit("noop:run");
    submit.trace = Some("x".repeat(1000));
    assert_eq!(rig.refusal(&submit), Kind::Protocol);
}

#[tokio::test]
async fn an_id_that_runs_or_has_run_is_refused() {
    let rig = rig(1, 1);
    let unit = submit("noop:run");
    let mut admitted = rig.admit(&unit).unwrap();
    assert_eq!(rig.refusal(&unit), Kind::Duplicate);
    admitted.payload.finish();
    end_of(&mut admitted.output).await;
    assert_eq!(rig.refusal(&unit), Kind::Duplicate);
    assert_eq!(total(&rig.executor.counters().ended), 1);
}

#[tokio::test]
async fn a_durable_unit_may_come_again_once_it_has_ended() {
    let rig = rig(1, 1);
    let mut unit = submit("noop:run");
    unit.durable = true;
    let broken = rig.admit(&unit).unwrap();
    assert_eq!(rig.refusal(&unit), Kind::Busy);
    drop(broken);
    for _ in 0..2 {
        assert_eq!(rig.run(&unit, b"").await.eof.kind, Kind::Ok);
    }
}

#[tokio::test]
async fn ended_ids_are_remembered_up_to_the_limit() {
    let rig = rig(1, 1);
    let oldest = submit("noop:run");
    rig.run(&oldest, b"").await;
    for _ in 1..remembered::REMEMBERED {
        rig.run(&submit("noop:run"), b"").await;
    }
    assert_eq!(rig.refusal(&oldest), Kind::Duplicate);
    rig.run(&submit("noop:run"), b"").await;
    assert_eq!(rig.run(&oldest, b"").await.eof.kind, Kind::Ok);
}

#[tokio::test]
async fn a_refused_id_may_be_submitted_again() {
    let rig = rig(1, 0);
    let (gate, mut output, _cancel) = rig.gated("gate:bytes");
    gate.told();
    let unit = submit("noop:run");
    assert_eq!(rig.refusal(&unit), Kind::Busy);
    gate.go(Go::Return);
    end_of(&mut output).await;
    assert_eq!(rig.run(&unit, b"").await.eof.kind, Kind::Ok);
}

#[tokio::test]
async fn the_worker_is_told_who_asks_for_what() {
    let rig = rig_with(|settings| {
        let table = serde_json::json!({ "colour": "green" });
        settings.worker_config.insert("noop".to_owned(), table);
    });
    let mut submit = submit("noop:context");
    submit.params.insert("k".to_owned(), "v".to_owned());
    let ended = rig.run(&submit, b"").await;
    let text = String::from_utf8(ended.responses[0].clone()).unwrap();
    assert_eq!(text, r#"sender here noop:context Some("v") Some("green")"#);
}

#[test]
fn an_executor_without_slots_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let settings = ExecSettings::new(node("here"), 0, dir.path());
    let registry = Registry::from_entries([]).unwrap();
    assert!(matches!(
        Executor::new(registry, settings),
        Err(ExecError::NoSlots)
    ));
}

#[tokio::test]
async fn there_is_a_thread_for_each_unit_and_no_other() {
    let rig = rig(6, 100);
    let units = [(); 3].map(|()| rig.gated("gate:bytes"));
    while rig.states() != [ActiveState::Running; 3] {
        tokio::task::yield_now().await;
    }
    assert_eq!(rig.executor.owner.pool.threads(), 3);
    drop(units);
}
