//! Several units in one conversation.

use std::collections::{BTreeMap, BTreeSet};

use workmesh_proto::wire::batch::{Batch, MAX_BATCH, MAX_BATCHED_BYTES, Parcel};
use workmesh_proto::wire::durable::MAX_RELEASES;
use workmesh_proto::wire::frame::Frame;

use super::*;

/// The origin's end of a batch that has just begun.
fn open_batch(rig: &Rig) -> Talk {
    open_batch_with(rig, &[])
}

/// The same, with releases of these.
fn open_batch_with(rig: &Rig, released: &[&Submit]) -> Talk {
    let (ours, theirs) = Pipe::local();
    let mut talk = Talk(ours);
    rig.host.answer_here(theirs);
    let releases = released.iter().map(|unit| release(unit)).collect();
    talk.0.sender.put(FrameType::Batch, &Batch { releases });
    talk
}

fn release(unit: &Submit) -> Release {
    Release {
        unit: unit.unit,
        number: 1,
        outcome: Kind::Ok.outcome(),
    }
}

fn parcel(unit: &Submit, payload: &[u8]) -> Parcel {
    let unit = unit.clone();
    Parcel {
        unit: unit.unit,
        offer: unit.offer.unwrap(),
        directive: unit.directive,
        params: unit.params,
        deadline_ms: unit.deadline_ms,
        trace: unit.trace,
        idempotent: unit.idempotent,
        payload: Bytes::copy_from_slice(payload),
    }
}

fn put(talk: &mut Talk, number: u32, unit: &Submit, payload: &[u8]) {
    talk.0.sender.turn_to(number);
    talk.0.sender.put(FrameType::Parcel, &parcel(unit, payload));
}

/// What is said of each number.
async fn answers(mut talk: Talk) -> BTreeMap<u32, Said> {
    talk.say_no_more().await;
    let mut answers = BTreeMap::new();
    while let Ok(Some(item)) = talk.0.receiver.next().await {
        let said: &mut Said = answers.entry(item.unit()).or_default();
        assert!(
            said.eof.is_none() && said.refused.is_none(),
            "nothing follows: {item:?}"
        );
        said.hear(item);
    }
    answers
}

#[tokio::test]
async fn each_unit_of_a_batch_is_taken_as_if_it_had_come_alone() {
    let mut rig = rig();
    // However busy the machine is: they are over by then.
    Arc::get_mut(&mut rig.host).unwrap().moment = Duration::from_secs(60);
    let mut talk = open_batch(&rig);
    let again = submit("echo:bytes", 1);
    put(&mut talk, 1, &submit("echo:bytes", 3), b"one");
    put(&mut talk, 2, &submit("no:such", 0), b"");
    put(&mut talk, 3, &submit("echo:bytes", 0), b"");
    put(&mut talk, 4, &again, b"4");
    put(&mut talk, 5, &again, b"5");
    let answers = answers(talk).await;
    for (number, bytes) in [(1, "one"), (3, ""), (4, "4")] {
        let said = &answers[&number];
        assert_eq!(
            (&said.frames[..], said.end()),
            (&[FrameType::Over][..], Some(Kind::Ok))
        );
        assert_eq!(said.bytes, bytes.as_bytes());
    }
    assert_eq!(answers[&2].refused, Some(Kind::UnknownModule));
    assert_eq!(answers[&5].refused, Some(Kind::Duplicate));
    assert_eq!(rig.host.store.usage().keys, 0);
}

#[tokio::test]
async fn a_unit_of_a_batch_that_goes_on_is_stored_and_can_be_asked_for() {
    let rig = rig();
    let mut talk = open_batch(&rig);
    let unit = submit("gate:bytes", 0);
    let gate = Gate::of(unit.unit);
    put(&mut talk, 1, &unit, b"");
    let answers = answers(talk).await;
    assert_eq!(answers[&1].frames, [FrameType::Accepted, FrameType::Unfinished]);
    assert_eq!(rig.host.store.usage().keys, 1);
    let mut resumed = rig.resume(&unit).await;
    gate.go(Go::Return);
    assert_eq!(resumed.hear().await.end(), Some(Kind::Ok));
}

#[tokio::test]
async fn a_unit_of_a_batch_may_take_its_payload_in_any_way() {
    let rig = rig();
    let mut talk = open_batch(&rig);
    let unit = submit("echo:buffer", 3);
    put(&mut talk, 1, &unit, b"abc");
    let answers = answers(talk).await;
    assert_eq!(answers[&1].frames, [FrameType::Accepted, FrameType::Unfinished]);
    let said = rig.resume(&unit).await.hear().await;
    assert_eq!((said.end(), &said.bytes[..]), (Some(Kind::Ok), &b"abc"[..]));
}

/// The origin of a batch goes; its gated unit is stored all the same, and can be asked for.
async fn goes_on_alone(rig: &Rig, mut talk: Talk, unit: &Submit, gate: &Gate) {
    talk.say_no_more().await;
    drop(talk);
    while rig.host.store.usage().keys == 0 {
        tokio::task::yield_now().await;
    }
    let mut resumed = rig.resume(unit).await;
    gate.go(Go::Return);
    assert_eq!(resumed.hear().await.end(), Some(Kind::Ok));
}

#[tokio::test]
async fn an_origin_that_turns_away_from_a_batch_leaves_its_units_as_they_are() {
    for directive in ["gate:buffer", "gate:bytes"] {
        let rig = rig();
        let mut talk = open_batch(&rig);
        let unit = submit(directive, 0);
        let gate = Gate::of(unit.unit);
        put(&mut talk, 1, &unit, b"");
        goes_on_alone(&rig, talk, &unit, &gate).await;
    }
}

#[tokio::test]
async fn what_is_being_stored_when_there_is_nobody_to_tell_is_taken_all_the_same() {
    for directive in ["gate:buffer", "gate:bytes"] {
        let rig = rig();
        let mut talk = open_batch(&rig);
        let unit = submit(directive, 0);
        let gate = Gate::of(unit.unit);
        // Told at once, to nobody.
        put(&mut talk, 1, &submit("no:such", 0), b"");
        put(&mut talk, 2, &unit, b"");
        goes_on_alone(&rig, talk, &unit, &gate).await;
    }
}

#[tokio::test]
async fn what_the_disk_does_not_take_yet_is_not_accepted() {
    let disk = Faulty::new();
    let mut rig = rig_on(&disk);
    Arc::get_mut(&mut rig.host).unwrap().moment = Duration::from_secs(1);
    let mut talk = open_batch(&rig);
    let unit = submit("gate:bytes", 0);
    let gate = Gate::of(unit.unit);
    put(&mut talk, 1, &unit, b"");
    disk.fault(no_writes(1_000_000));
    assert!(answers(talk).await.is_empty(), "it has begun, and is not stored");
    let mut resumed = rig.resume(&unit).await;
    disk.heal();
    gate.go(Go::Return);
    assert_eq!(resumed.hear().await.end(), Some(Kind::Ok));
}

/// A unit whose parcel has a body of so many bytes, and its payload.
fn of_bytes(bytes: usize) -> (Submit, Vec<u8>) {
    let unit = submit("echo:bytes", 0);
    let body = |payload: &[u8]| {
        Frame::cbor(FrameType::Parcel, 0, &parcel(&unit, payload))
            .body
            .len()
    };
    // A guess at the payload makes what stands before it right.
    let guess = vec![7; bytes - 100];
    let payload = vec![7; guess.len() + bytes - body(&guess)];
    assert_eq!(body(&payload), bytes);
    (unit, payload)
}

#[tokio::test]
async fn a_batch_of_the_largest_size_is_taken() {
    let rig = rig_with(|settings| settings.queue = MAX_BATCH, WorkSettings::default());
    let mut talk = open_batch(&rig);
    for number in 1..=MAX_BATCH as u32 {
        let (unit, payload) = of_bytes(MAX_BATCHED_BYTES);
        put(&mut talk, number, &unit, &payload);
    }
    let answers = answers(talk).await;
    assert_eq!(answers.len(), MAX_BATCH);
    for (number, said) in answers {
        // Whichever had to wait for long is only accepted.
        let whole = said.end() == Some(Kind::Ok) && !said.bytes.is_empty();
        assert!(
            whole || said.frames.contains(&FrameType::Unfinished),
            "{number}: {said:?}"
        );
    }
}

#[tokio::test]
async fn a_batch_takes_releases_along() {
    let disk = Faulty::new();
    let mut rig = rig_on(&disk);
    Arc::get_mut(&mut rig.host).unwrap().moment = Duration::from_secs(60);
    let [first, second, stays, unknown] = [(); 4].map(|()| submit("echo:buffer", 3));
    for unit in [&first, &second, &stays] {
        assert_eq!(rig.run(unit, b"123").await.end(), Some(Kind::Ok));
    }
    let mut talk = open_batch_with(&rig, &[&first, &unknown, &second]);
    put(&mut talk, 1, &submit("echo:bytes", 1), b"1");
    let mut answers = answers(talk).await;
    let released = answers.remove(&0).unwrap().released;
    let known = [&first, &second, &unknown].map(|unit| unit.unit);
    assert_eq!(BTreeSet::from_iter(released), BTreeSet::from(known));
    assert_eq!((answers.len(), answers[&1].end()), (1, Some(Kind::Ok)));
    assert_eq!(rig.host.store.usage().keys, 1);
    disk.fault(no_writes(1));
    let talk = open_batch_with(&rig, &[&stays]);
    // Without a unit: its start would be noted, and meet the fault.
    let answers = self::answers(talk).await;
    assert!(answers.is_empty(), "what stays is not named: {answers:?}");
    assert_eq!(rig.host.store.usage().keys, 1);
}

#[tokio::test]
async fn as_many_releases_as_a_conversation_may_have_go_in_a_batch() {
    let rig = rig();
    for (more, expected) in [(0, Some(MAX_RELEASES)), (1, None)] {
        let units: Vec<_> = (0..MAX_RELEASES + more)
            .map(|_| submit("echo:bytes", 1))
            .collect();
        let talk = open_batch_with(&rig, &Vec::from_iter(&units));
        let released = answers(talk).await.get(&0).map(|said| said.released.len());
        assert_eq!(released, expected);
    }
}

#[tokio::test]
async fn what_is_no_batch_is_not_answered_and_leaves_nothing() {
    let rig = rig();
    let held = submit("echo:buffer", 3);
    rig.run(&held, b"123").await;
    let unit = || submit("echo:bytes", 1);
    let mut talks = Vec::new();
    let mut wrong = |act: &dyn Fn(&mut Talk)| {
        let mut talk = open_batch_with(&rig, &[&held]);
        put(&mut talk, 1, &unit(), b"x");
        act(&mut talk);
        talks.push(talk);
    };
    wrong(&|talk| put(talk, 3, &unit(), b"x"));
    wrong(&|talk| put(talk, 1, &unit(), b"x"));
    wrong(&|talk| put(talk, 0, &unit(), b"x"));
    wrong(&|talk| put(talk, u32::MAX, &unit(), b"x"));
    wrong(&|talk| {
        let (unit, payload) = of_bytes(MAX_BATCHED_BYTES + 1);
        put(talk, 2, &unit, &payload);
    });
    wrong(&|talk| {
        let params = (0..65).map(|at| (at.to_string(), String::new())).collect();
        put(talk, 2, &Submit { params, ..unit() }, b"x");
    });
    wrong(&|talk| {
        talk.0.sender.turn_to(2);
        talk.0.sender.put_bare(FrameType::Parcel);
    });
    wrong(&|talk| {
        talk.0.sender.turn_to(2);
        talk.0.sender.put(FrameType::Submit, &unit());
    });
    wrong(&|talk| talk.0.sender.put_payload(Bytes::from_static(b"late")));
    wrong(&|talk| talk.0.sender.put(FrameType::Batch, &Batch::default()));
    wrong(&|talk| talk.0.sender.put(FrameType::Release, &release(&unit())));
    wrong(&|talk| {
        for number in 2..=MAX_BATCH as u32 + 1 {
            put(talk, number, &unit(), b"x");
        }
    });
    for talk in talks {
        let said = answers(talk).await;
        assert!(said.is_empty(), "{said:?}");
    }
    assert_eq!(
        (rig.host.count(), rig.host.store.usage().keys),
        (1, 1),
        "nothing is released"
    );
}

#[tokio::test]
async fn what_is_told_of_one_unit_of_a_batch_does_not_wait_for_another() {
    let rig = rig();
    let mut talk = open_batch(&rig);
    let gated = submit("gate:bytes", 0);
    let gate = Gate::of(gated.unit);
    put(&mut talk, 1, &gated, b"");
    put(&mut talk, 2, &submit("no:such", 0), b"");
    talk.say_no_more().await;
    let mut first = Said::default();
    talk.hear_one(&mut first).await;
    assert_eq!(first.refused, Some(Kind::UnknownModule), "at once");
    let last = talk.hear().await;
    assert_eq!(last.frames, [FrameType::Accepted, FrameType::Unfinished]);
    gate.go(Go::Return);
}

#[tokio::test]
async fn a_batch_of_nothing_is_answered_with_nothing() {
    let rig = rig();
    assert!(answers(open_batch(&rig)).await.is_empty());
}
