//! Responses on their way out: order, backpressure, waking.

use super::*;

#[tokio::test]
async fn a_worker_runs_no_further_ahead_than_the_pipe() {
    let rig = rig(1, 1);
    let (gate, mut output, _cancel) = rig.gated("gate:flood");
    gate.told();
    gate.go(Go::Return);
    let (mut total, mut largest) = (0, 0);
    let mut batch = VecDeque::new();
    'unit: loop {
        output.next_batch(&mut batch).await;
        let mut in_batch = 0;
        for item in batch.drain(..) {
            match item {
                OutputItem::Started => {}
                OutputItem::Piece { data, .. } => in_batch += data.len(),
                OutputItem::Eof(eof) => {
                    assert_eq!((eof.kind, eof.responses), (Kind::Ok, 64));
                    total += in_batch;
                    break 'unit;
                }
            }
        }
        total += in_batch;
        largest = largest.max(in_batch);
    }
    assert_eq!(total, 64 * 64 * 1024);
    assert!(largest <= unit::PIPE_BYTES, "{largest}");
}

#[tokio::test]
async fn a_send_that_waits_for_room_fails_when_the_unit_is_cancelled() {
    let rig = rig(1, 1);
    let (gate, mut output, cancel) = rig.gated("gate:flood");
    gate.told();
    gate.go(Go::Return);
    cancel.cancel();
    assert_eq!(gate.told(), "send failed");
    let ended = end_of(&mut output).await;
    assert_eq!(ended.eof.kind, Kind::Cancelled);
    let delivered: usize = ended.responses.iter().map(Vec::len).sum();
    assert_eq!(
        ended.eof.bytes, delivered as u64,
        "the end counts what was delivered"
    );
}

#[tokio::test]
async fn an_end_is_known_before_the_output_is_taken() {
    let rig = rig(1, 1);
    let (gate, mut output, cancel) = rig.gated("gate:flood");
    gate.told();
    gate.go(Go::Return);
    output.next_batch(&mut VecDeque::new()).await;
    assert_eq!(output.ended().now_or_never(), None);
    let ((), _) = tokio::join!(output.ended(), async { cancel.cancel() });
    assert_eq!(end_of_rest(&mut output).await.kind, Kind::Cancelled);
}

/// The end of a unit of which some output was taken.
async fn end_of_rest(output: &mut UnitOutput) -> Eof {
    let mut batch = VecDeque::new();
    loop {
        output.next_batch(&mut batch).await;
        if let Some(OutputItem::Eof(eof)) = batch.pop_back() {
            return eof;
        }
    }
}

#[tokio::test]
async fn one_huge_response_comes_in_pieces_that_fit_a_frame() {
    let rig = rig(1, 1);
    let mut admitted = rig.admit(&submit("echo:bytes")).unwrap();
    let payload = Bytes::from(vec![3; 3 * worker_api::PIECE_BYTES + 1]);
    admitted.payload.push(payload.clone()).await.unwrap();
    admitted.payload.finish();
    let mut batch = VecDeque::new();
    let mut pieces = Vec::new();
    loop {
        admitted.output.next_batch(&mut batch).await;
        for item in batch.drain(..) {
            if let OutputItem::Piece { serial, data, last } = item {
                pieces.push((serial, data.len(), last));
            } else {
                let full = (1, worker_api::PIECE_BYTES, false);
                assert_eq!(pieces, [full, full, full, (1, 1, true)]);
                return;
            }
        }
    }
}

#[tokio::test]
async fn the_load_is_told_as_it_changes() {
    let rig = rig(1, 1);
    let mut load = rig.executor.load_changes();
    let (gate, mut output, _cancel) = rig.gated("gate:bytes");
    load.wait_for(|l| l.running == 1).await;
    gate.go(Go::Return);
    end_of(&mut output).await;
    load.wait_for(LoadFigures::is_idle).await;
}

#[test]
fn active_units_are_listed_with_sender_and_directive() {
    let rig = rig(1, 1);
    let (gate, _output, _cancel) = rig.gated("gate:bytes");
    gate.told();
    let active = rig.executor.active();
    assert_eq!(active.len(), 1);
    assert_eq!(
        (active[0].directive, &active[0].sender),
        ("gate:bytes", &node("sender"))
    );
    assert_eq!(active[0].state, ActiveState::Running);
}
