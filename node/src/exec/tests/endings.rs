//! Each way a unit can end, and that it ends once.

use std::io;
use std::sync::Mutex;

use super::*;
use workmesh_proto::wire::unit::{EMPTY_DIGEST, Outcome};

#[tokio::test]
async fn a_unit_that_returns_has_succeeded() {
    let rig = rig(1, 1);
    let ended = rig.run(&submit("echo:bytes"), b"hello").await;
    assert_eq!(ended.responses, [b"hello"]);
    let eof = ended.eof;
    assert_eq!((eof.outcome, eof.kind), (Outcome::Succeeded, Kind::Ok));
    assert_eq!((eof.responses, eof.bytes), (1, 5));
    assert_ne!(eof.digest, EMPTY_DIGEST);
    let counters = rig.executor.counters();
    assert_eq!(count(&counters.ended, Kind::Ok), 1);
    assert_eq!((counters.payload_bytes, counters.response_bytes), (5, 5));
}

#[tokio::test]
async fn a_unit_without_responses_has_an_end_too() {
    let rig = rig(1, 1);
    let eof = rig.run(&submit("noop:run"), b"").await.eof;
    assert_eq!((eof.kind, eof.responses, eof.digest), (Kind::Ok, 0, EMPTY_DIGEST));
}

#[tokio::test]
async fn a_workers_error_is_told_on_one_line() {
    let rig = rig(1, 1);
    let eof = rig.run(&submit("fail:error"), b"").await.eof;
    assert_eq!(
        (eof.kind, eof.message.as_str()),
        (Kind::WorkerError, r"no\nsuch row")
    );
    assert_eq!(eof.outcome, Outcome::Failed);
}

#[tokio::test]
async fn a_panic_is_told_and_the_thread_lives_on() {
    let rig = rig(1, 1);
    let eof = rig.run(&submit("fail:panic"), b"").await.eof;
    assert_eq!(
        (eof.kind, eof.message.as_str()),
        (Kind::Panic, r"index 7\nis out of range")
    );
    assert_eq!(rig.run(&submit("noop:run"), b"").await.eof.kind, Kind::Ok);
}

#[tokio::test]
async fn what_was_sent_before_an_error_is_counted_in_the_end() {
    let rig = rig(1, 1);
    let ended = rig.run(&submit("fail:half"), b"").await;
    assert_eq!(ended.responses, [b"half"]);
    assert_eq!((ended.eof.kind, ended.eof.bytes), (Kind::WorkerError, 4));
}

#[tokio::test]
async fn a_queued_unit_is_cancelled_without_being_run() {
    let rig = rig(1, 1);
    let (running, _running_output, _cancel) = rig.gated("gate:bytes");
    running.told();
    let (waiting, mut output, cancel) = rig.gated("gate:bytes");
    assert!(cancel.cancel());
    assert!(!cancel.cancel(), "it has its end already");
    let eof = end_of(&mut output).await.eof;
    assert_eq!((eof.kind, eof.outcome), (Kind::Cancelled, Outcome::Cancelled));
    running.go(Go::Return);
    rig.idle().await;
    assert!(waiting.is_silent());
}

#[tokio::test]
async fn a_running_unit_is_cancelled_at_once_and_its_worker_is_told() {
    let rig = rig(1, 1);
    let (gate, mut output, cancel) = rig.gated("gate:sleep");
    gate.told();
    gate.go(Go::Return);
    gate.told();
    assert!(cancel.cancel());
    assert_eq!(end_of(&mut output).await.eof.kind, Kind::Cancelled);
    rig.idle().await;
}

#[tokio::test]
async fn a_unit_is_cancelled_by_id_for_its_sender_only() {
    let rig = rig(1, 1);
    let unit = submit("noop:run");
    let mut admitted = rig.admit(&unit).unwrap();
    assert!(!rig.executor.cancel(unit.unit, &node("other")));
    assert!(rig.executor.cancel(unit.unit, &node("sender")));
    assert!(!rig.executor.cancel(unit.unit, &node("sender")));
    assert_eq!(end_of(&mut admitted.output).await.eof.kind, Kind::Cancelled);
}

#[tokio::test]
async fn dropping_the_output_cancels_the_unit() {
    let rig = rig(1, 1);
    let (gate, output, cancel) = rig.gated("gate:sleep");
    gate.told();
    gate.go(Go::Return);
    drop(output);
    assert!(!cancel.cancel());
    rig.idle().await;
    assert_eq!(count(&rig.executor.counters().ended, Kind::Cancelled), 1);
}

#[tokio::test]
async fn a_deadline_ends_a_running_unit_and_its_worker_is_told() {
    let rig = rig(1, 1);
    let mut submit = submit("gate:sleep");
    submit.deadline_ms = Some(20);
    let gate = Gate::of(submit.unit);
    gate.go(Go::Return);
    let eof = rig.run(&submit, b"").await.eof;
    assert_eq!((eof.kind, eof.outcome), (Kind::Expired, Outcome::Expired));
    rig.idle().await;
}

#[tokio::test]
async fn a_deadline_ends_a_queued_unit() {
    let rig = rig(1, 1);
    let (running, _output, _cancel) = rig.gated("gate:bytes");
    running.told();
    let mut submit = submit("noop:run");
    submit.deadline_ms = Some(1);
    assert_eq!(rig.run(&submit, b"").await.eof.kind, Kind::Expired);
}

#[tokio::test]
async fn a_unit_whose_deadline_has_passed_is_not_run() {
    let rig = rig(1, 1);
    let mut submit = submit("gate:bytes");
    submit.deadline_ms = Some(0);
    let gate = Gate::of(submit.unit);
    assert_eq!(rig.run(&submit, b"").await.eof.kind, Kind::Expired);
    rig.idle().await;
    assert!(gate.is_silent());
}

#[tokio::test]
async fn a_deadline_is_kept_while_nobody_reads_the_output() {
    let rig = rig(1, 1);
    let mut submit = submit("gate:flood");
    submit.deadline_ms = Some(500);
    let gate = Gate::of(submit.unit);
    gate.go(Go::Return);
    let mut admitted = rig.admit(&submit).unwrap();
    admitted.payload.finish();
    assert_eq!(
        (gate.told(), gate.told()),
        (String::new(), "send failed".to_owned())
    );
    assert_eq!(end_of(&mut admitted.output).await.eof.kind, Kind::Expired);
}

#[tokio::test]
async fn a_durable_unit_of_which_can_not_be_noted_that_it_begins_does_not() {
    let rig = rig(1, 1);
    let noted = Arc::new(Mutex::new(Vec::new()));
    let log = noted.clone();
    rig.executor.note_starts(move |unit| {
        log.lock().unwrap().push(unit);
        Err(io::ErrorKind::StorageFull.into())
    });
    let plain = submit("noop:run");
    assert_eq!(rig.run(&plain, b"").await.eof.kind, Kind::Ok);
    let durable = Submit {
        durable: true,
        ..submit("fail:panic")
    };
    assert_eq!(rig.run(&durable, b"").await.eof.kind, Kind::Draining);
    assert_eq!(*noted.lock().unwrap(), [durable.unit]);
}

#[tokio::test]
async fn nothing_follows_the_end() {
    let rig = rig(1, 1);
    let mut admitted = rig.admit(&submit("noop:run")).unwrap();
    admitted.payload.finish();
    end_of(&mut admitted.output).await;
    let mut batch = VecDeque::new();
    admitted.output.next_batch(&mut batch).await;
    assert!(batch.is_empty());
    assert!(!admitted.cancel.cancel());
    drop(admitted.output);
    assert_eq!(total(&rig.executor.counters().ended), 1);
}

#[tokio::test]
async fn draining_refuses_new_units_and_waits_for_those_that_run() {
    let rig = rig(1, 1);
    let (gate, mut output, _cancel) = rig.gated("gate:bytes");
    gate.told();
    let executor = rig.executor.clone();
    let drain = tokio::spawn(async move { executor.drain(Duration::from_secs(3600)).await });
    tokio::task::yield_now().await;
    assert_eq!(rig.refusal(&submit("noop:run")), Kind::Draining);
    gate.go(Go::Return);
    assert_eq!(end_of(&mut output).await.eof.kind, Kind::Ok);
    let drained = Drained {
        ended: 1,
        stopped: 0,
        stuck: 0,
    };
    assert_eq!(drain.await.unwrap(), drained);
    assert_eq!(
        rig.executor.drain(Duration::ZERO).await,
        drained,
        "the same again"
    );
}

#[tokio::test]
async fn draining_stops_what_does_not_end_in_time() {
    let rig = rig(1, 1);
    let (gate, mut running, _cancel) = rig.gated("gate:bytes");
    gate.told();
    let (_gate, mut waiting, _cancel) = rig.gated("gate:bytes");
    let drained = rig.executor.drain(Duration::ZERO).await;
    assert_eq!(
        drained,
        Drained {
            ended: 0,
            stopped: 2,
            stuck: 1,
        }
    );
    assert_eq!(end_of(&mut running).await.eof.kind, Kind::Shutdown);
    assert_eq!(end_of(&mut waiting).await.eof.kind, Kind::Shutdown);
}

#[tokio::test]
async fn units_that_are_cancelled_before_a_drain_are_none_of_its() {
    let rig = rig_with(|settings| settings.stop_grace = Duration::from_secs(3600));
    let (gate, mut output, cancel) = rig.gated("gate:bytes");
    gate.told();
    cancel.cancel();
    assert_eq!(end_of(&mut output).await.eof.kind, Kind::Cancelled);
    rig.executor.refuse_new();
    assert!(rig.executor.is_draining());
    gate.go(Go::Return);
    let drained = rig.executor.drain(Duration::from_secs(3600)).await;
    assert_eq!((drained.ended, drained.stopped), (0, 0));
}

#[tokio::test]
async fn stopping_at_once_ends_units_without_waiting_for_their_functions() {
    let rig = rig(1, 1);
    let (gate, mut running, _cancel) = rig.gated("gate:bytes");
    gate.told();
    rig.executor.stop_now();
    assert_eq!(end_of(&mut running).await.eof.kind, Kind::Shutdown);
    assert_eq!(rig.refusal(&submit("noop:run")), Kind::Draining);
    gate.go(Go::Return);
}

#[tokio::test]
async fn dropping_the_executor_ends_its_units_and_threads() {
    let rig = rig(2, 1);
    let (gate, mut output, cancel) = rig.gated("gate:sleep");
    gate.told();
    gate.go(Go::Return);
    let pool = Arc::downgrade(&rig.executor.owner.pool);
    drop(rig);
    assert_eq!(end_of(&mut output).await.eof.kind, Kind::Shutdown);
    drop((output, cancel));
    while pool.strong_count() > 0 {
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn ten_thousand_quick_units_leave_nothing_behind() {
    let rig = rig(4, 1000);
    for round in 0..100 {
        let mut outputs: Vec<_> = (0..100)
            .map(|i| {
                let kind =
                    ["echo:bytes", "echo:buffer", "echo:file"][usize::from(i % 20 == 0) * (1 + round % 2)];
                let mut admitted = rig.admit(&submit(kind)).unwrap();
                push_now(&mut admitted.payload, &b"payload"[..]).unwrap().unwrap();
                admitted.payload.finish();
                admitted.output
            })
            .collect();
        for output in &mut outputs {
            let ended = end_of(output).await;
            assert_eq!((ended.eof.kind, ended.eof.bytes), (Kind::Ok, 7));
        }
    }
    let load = rig.executor.load();
    assert_eq!((load.running, load.queued, load.abandoned), (0, 0, 0));
    assert!(rig.executor.active().is_empty());
    assert_eq!(rig.payload_files(), 0);
    let counters = rig.executor.counters();
    assert_eq!(
        (counters.accepted, count(&counters.ended, Kind::Ok)),
        (10_000, 10_000)
    );
    let pool = Arc::downgrade(&rig.executor.owner.pool);
    drop(rig);
    while pool.strong_count() > 0 {
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn a_unit_that_is_given_back_has_not_ended() {
    let rig = rig(1, 1);
    let (gate, mut running, _cancel) = rig.gated("gate:bytes");
    gate.told();
    let (_gate, mut waiting, cancel) = rig.gated("gate:bytes");
    rig.executor.refuse_new();
    assert!(rig.executor.withdraw(cancel.unit.id));
    assert!(!rig.executor.withdraw(cancel.unit.id), "once is enough");
    assert_eq!(end_of(&mut waiting).await.eof.kind, Kind::Draining);
    gate.go(Go::Return);
    assert_eq!(end_of(&mut running).await.eof.kind, Kind::Ok);
    let drained = rig.executor.drain(Duration::from_secs(3600)).await;
    assert_eq!((drained.ended, drained.stopped), (1, 0));
}
