//! The three payload kinds: their limits, what breaks them, and that their files go.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Instant;

use super::*;

const KINDS: [&str; 3] = ["echo:bytes", "echo:buffer", "echo:file"];

#[tokio::test]
async fn every_kind_gives_back_what_came_in() {
    let rig = rig(1, 1);
    for kind in KINDS {
        assert_eq!(
            rig.run(&submit(kind), b"payload").await.responses,
            [b"payload"],
            "{kind}"
        );
    }
    assert_eq!(rig.payload_files(), 0);
}

#[tokio::test]
async fn empty_payloads_are_legal() {
    let rig = rig(1, 1);
    for kind in KINDS {
        let mut submit = submit(kind);
        submit.payload_bytes = Some(0);
        let ended = rig.run(&submit, b"").await;
        assert_eq!((ended.eof.kind, ended.eof.bytes), (Kind::Ok, 0), "{kind}");
    }
}

#[tokio::test]
async fn a_payload_in_many_pieces_arrives_whole() {
    let rig = rig(1, 1);
    let expected: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    for kind in KINDS {
        let admitted = rig.admit(&submit(kind)).unwrap();
        let Admitted {
            mut payload,
            mut output,
            ..
        } = admitted;
        let feed = async {
            let mut rest = Bytes::from(expected.clone());
            for length in (1..).map(|i: usize| (i * i) % 70_000 + 1) {
                let piece = rest.split_to(length.min(rest.len()));
                payload.push(piece).await.unwrap();
                if rest.is_empty() {
                    return payload.finish();
                }
            }
        };
        let (ended, ()) = tokio::join!(end_of(&mut output), feed);
        assert!(ended.responses.concat() == expected, "{kind}");
        assert_eq!(ended.eof.kind, Kind::Ok);
    }
}

#[test]
fn the_first_byte_is_read_before_the_payload_is_complete() {
    let rig = rig(1, 1);
    let submit = submit("gate:read");
    let gate = Gate::of(submit.unit);
    let mut admitted = rig.admit(&submit).unwrap();
    gate.told();
    gate.go(Go::Return);
    push_now(&mut admitted.payload, &b"\x07"[..]).unwrap().unwrap();
    assert_eq!(gate.told(), "byte 7");
    push_now(&mut admitted.payload, &b"\x08"[..]).unwrap().unwrap();
    assert_eq!(gate.told(), "byte 8");
    admitted.payload.finish();
    assert_eq!(gate.told(), "end");
}

#[test]
fn a_blocked_read_fails_when_the_unit_is_cancelled() {
    let rig = rig(1, 1);
    let submit = submit("gate:read");
    let gate = Gate::of(submit.unit);
    let admitted = rig.admit(&submit).unwrap();
    gate.told();
    gate.go(Go::Return);
    admitted.cancel.cancel();
    assert_eq!(gate.told(), "the unit was cancelled");
}

#[tokio::test]
async fn limits_hold_for_announced_payloads() {
    let rig = rig_with(|settings| {
        settings.max_bytes_payload = 4;
        settings.max_file_payload = 5;
    });
    for (kind, limit) in [("echo:bytes", 4), ("echo:file", 5), ("noop:small", 4)] {
        let mut at = submit(kind);
        at.payload_bytes = Some(limit);
        assert!(rig.admit(&at).is_ok(), "{kind}");
        let mut past = submit(kind);
        past.payload_bytes = Some(limit + 1);
        assert_eq!(rig.refusal(&past), Kind::PayloadTooLarge, "{kind}");
    }
}

#[tokio::test]
async fn limits_hold_for_payloads_that_were_not_announced() {
    let rig = rig_with(|settings| {
        settings.max_bytes_payload = 4;
        settings.max_file_payload = 4;
    });
    for kind in ["echo:bytes", "echo:file", "noop:small"] {
        assert_eq!(rig.run(&submit(kind), b"1234").await.eof.kind, Kind::Ok, "{kind}");
        let eof = rig.run(&submit(kind), b"12345").await.eof;
        assert_eq!(eof.kind, Kind::PayloadTooLarge, "{kind}");
    }
    rig.idle().await;
    assert_eq!(rig.payload_files(), 0);
}

#[tokio::test]
async fn a_payload_that_is_not_as_announced_is_broken() {
    let rig = rig(1, 1);
    for payload in [&b"123"[..], b"12345"] {
        let mut submit = submit("echo:bytes");
        submit.payload_bytes = Some(4);
        assert_eq!(rig.run(&submit, payload).await.eof.kind, Kind::PayloadBroken);
    }
}

#[tokio::test]
async fn a_payload_that_breaks_off_ends_the_unit() {
    let rig = rig(1, 1);
    for kind in KINDS {
        let mut admitted = rig.admit(&submit(kind)).unwrap();
        push_now(&mut admitted.payload, &b"12"[..]).unwrap().unwrap();
        drop(admitted.payload);
        let eof = end_of(&mut admitted.output).await.eof;
        assert_eq!(eof.kind, Kind::PayloadBroken, "{kind}");
        assert!(eof.message.contains("2 bytes"), "{}", eof.message);
    }
    rig.idle().await;
    assert_eq!(rig.payload_files(), 0);
}

#[tokio::test]
async fn a_payload_that_stalls_ends_the_unit() {
    let rig = rig_with(|settings| settings.payload_idle = Duration::from_millis(1));
    for kind in KINDS {
        let mut admitted = rig.admit(&submit(kind)).unwrap();
        let eof = end_of(&mut admitted.output).await.eof;
        assert_eq!(eof.kind, Kind::PayloadBroken, "{kind}");
    }
    rig.idle().await;
}

#[test]
fn a_full_pipe_takes_no_more_until_the_worker_reads() {
    let rig = rig(1, 1);
    let submit = submit("gate:buffer");
    let gate = Gate::of(submit.unit);
    let mut admitted = rig.admit(&submit).unwrap();
    gate.told();
    let piece = Bytes::from(vec![1; 64 * 1024]);
    let taken = (0..)
        .take_while(|_| push_now(&mut admitted.payload, piece.clone()).is_some())
        .count();
    assert_eq!(taken * piece.len(), unit::PIPE_BYTES);
    assert_eq!(push_now(&mut admitted.payload, piece), None);
}

#[tokio::test]
async fn a_unit_that_waits_takes_little_payload_until_it_runs() {
    let rig = rig(1, 1);
    let (running, _output, _cancel) = rig.gated("gate:buffer");
    running.told();
    let submit = submit("echo:buffer");
    let Admitted {
        mut payload,
        mut output,
        ..
    } = rig.admit(&submit).unwrap();
    let piece = Bytes::from(vec![1; unit::QUEUED_PIPE_BYTES]);
    push_now(&mut payload, piece.clone()).unwrap().unwrap();
    assert_eq!(push_now(&mut payload, Bytes::from_static(b"x")), None);
    let feed = async {
        payload.push(piece).await.unwrap();
        payload.finish();
    };
    let (ended, (), ()) = tokio::join!(end_of(&mut output), feed, async { running.go(Go::Return) });
    assert_eq!(ended.eof.bytes, 2 * unit::QUEUED_PIPE_BYTES as u64);
}

#[tokio::test]
async fn memory_for_waiting_payloads_is_limited_over_all_units() {
    let rig = rig_with(|settings| settings.max_waiting_payload = 10);
    let mut first = rig.admit(&submit("echo:bytes")).unwrap();
    let mut second = rig.admit(&submit("echo:bytes")).unwrap();
    push_now(&mut first.payload, &b"123456"[..]).unwrap().unwrap();
    push_now(&mut second.payload, &b"1234"[..]).unwrap().unwrap();
    assert_eq!(push_now(&mut second.payload, &b"5"[..]), Some(Err(UnitEnded)));
    assert_eq!(end_of(&mut second.output).await.eof.kind, Kind::Busy);
    push_now(&mut first.payload, &b"7890"[..]).unwrap().unwrap();
    first.payload.finish();
    assert_eq!(end_of(&mut first.output).await.eof.kind, Kind::Ok);
    for _ in 0..3 {
        assert_eq!(
            rig.run(&submit("echo:bytes"), b"1234567890").await.eof.kind,
            Kind::Ok
        );
    }
}

#[tokio::test]
async fn a_payload_that_waits_for_its_worker_has_not_stalled() {
    let rig = rig(1, 1);
    let submit = submit("gate:buffer");
    let gate = Gate::of(submit.unit);
    let mut admitted = rig.admit(&submit).unwrap();
    gate.told();
    let full = Bytes::from(vec![1; unit::PIPE_BYTES]);
    admitted.payload.push(full.clone()).await.unwrap();
    tokio::select! {
        biased;
        _ = admitted.payload.push(full.clone()) => panic!("nobody reads"),
        () = std::future::ready(()) => {}
    }
    let later = Instant::now() + Duration::from_secs(3600);
    admitted.output.handle_timeout(later);
    assert_eq!(rig.states(), [ActiveState::Running]);
}

#[tokio::test]
async fn a_payload_that_brings_nothing_has_stalled() {
    let rig = rig(1, 1);
    let mut admitted = rig.admit(&submit("echo:buffer")).unwrap();
    let idle = ExecSettings::new(node("here"), 1, "").payload_idle;
    admitted.output.handle_timeout(Instant::now() + idle);
    assert_eq!(end_of(&mut admitted.output).await.eof.kind, Kind::PayloadBroken);
}

#[tokio::test]
async fn a_payload_that_was_long_under_way_has_not_stalled_when_it_begins() {
    let rig = rig(1, 1);
    let mut unit = submit("gate:buffer");
    unit.durable = true;
    let gate = Gate::of(unit.unit);
    let mut admitted = rig.admit(&unit).unwrap();
    let idle = ExecSettings::new(node("here"), 1, "").payload_idle;
    let uploaded = Instant::now();
    while Instant::now() == uploaded {}
    admitted.payload.begin();
    admitted.output.handle_timeout(uploaded + idle);
    gate.told();
    assert_eq!(rig.states(), [ActiveState::Running]);
}

#[test]
fn a_waiting_unit_is_small() {
    assert!(size_of::<Unit>() <= 1024, "{}", size_of::<Unit>());
}

#[tokio::test]
async fn a_push_that_waits_is_woken_by_the_end() {
    let rig = rig(1, 1);
    let submit = submit("gate:buffer");
    let gate = Gate::of(submit.unit);
    let mut admitted = rig.admit(&submit).unwrap();
    gate.told();
    let piece = Bytes::from(vec![1; unit::PIPE_BYTES]);
    admitted.payload.push(piece.clone()).await.unwrap();
    let cancel = admitted.cancel.clone();
    let (pushed, _) = tokio::join!(admitted.payload.push(piece), async { cancel.cancel() });
    assert_eq!(pushed, Err(UnitEnded));
}

#[test]
fn tiny_pieces_are_joined() {
    let rig = rig(1, 1);
    let mut admitted = rig.admit(&submit("echo:bytes")).unwrap();
    for _ in 0..100_000 {
        push_now(&mut admitted.payload, &b"x"[..]).unwrap().unwrap();
    }
    let (pieces, bytes) = admitted.cancel.unit.pipes().payload.take_all();
    assert_eq!(bytes, 100_000);
    assert!(pieces.len() <= 25, "{} pieces", pieces.len());
}

#[tokio::test]
async fn the_payload_file_is_private_and_gone_after_return_error_and_panic() {
    let rig = rig(1, 1);
    let ends = [
        (Go::Return, Kind::Ok),
        (Go::Fail, Kind::WorkerError),
        (Go::Panic, Kind::Panic),
    ];
    for (how, kind) in ends {
        let (gate, mut output, _cancel) = rig.gated("gate:file");
        let path = gate.told();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(rig.payload_files(), 1);
        gate.go(how);
        assert_eq!(end_of(&mut output).await.eof.kind, kind);
        assert_eq!(rig.payload_files(), 0, "{kind}");
    }
}

#[tokio::test]
async fn the_payload_file_is_gone_after_a_cancel() {
    let rig = rig(1, 1);
    let (gate, mut output, cancel) = rig.gated("gate:file");
    gate.told();
    cancel.cancel();
    assert_eq!(end_of(&mut output).await.eof.kind, Kind::Cancelled);
    gate.go(Go::Return);
    rig.idle().await;
    assert_eq!(rig.payload_files(), 0);
}

#[tokio::test]
async fn a_cancel_while_the_file_is_written_removes_it() {
    let rig = rig(1, 1);
    let mut admitted = rig.admit(&submit("echo:file")).unwrap();
    push_now(&mut admitted.payload, &b"some"[..]).unwrap().unwrap();
    let mut load = rig.executor.load_changes();
    load.wait_for(|l| l.running == 1).await;
    admitted.cancel.cancel();
    rig.idle().await;
    assert_eq!(rig.payload_files(), 0);
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_the_executors_fault() {
    let rig = rig(1, 1);
    fs::remove_dir_all(rig.dir.path()).unwrap();
    let eof = rig.run(&submit("echo:file"), b"x").await.eof;
    assert_eq!(eof.kind, Kind::Internal);
    assert!(eof.message.contains("can't write the payload"), "{}", eof.message);
}
