//! The host as an origin sees it: frames in, frames out, over a conversation within the node.

mod batch;
mod brief;
mod forgotten;
mod releases;

use bytes::Bytes;
use tempfile::TempDir;
use workmesh_proto::record::{self, ExecutorRecord};
use workmesh_proto::wire::batch::{Over, ReleasedUnits};
use workmesh_proto::wire::codec;
use workmesh_proto::wire::durable::{Position, Release, Released, Resume, Returned};
use workmesh_proto::wire::frame::FrameType;
use workmesh_proto::wire::items::Item;
use workmesh_proto::wire::unit::{Eof, Submit};

use super::*;
use crate::exec::tests::workers::{self, Gate, Go};
use crate::exec::{ExecSettings, Registry};
use crate::store::faulty::{Fault, Faulty, Op};
use crate::store::{Entry, Found, StoreSettings, Stream, Sync};
use crate::unit::durable::brief::Unstored;
use crate::unit::durable::recover::take_executor;

const LIFE: Incarnation = Incarnation(7);
/// What the host reads of a kept payload at once.
const READ_BYTES: usize = 256 * 1024;

struct Rig {
    host: Arc<Host>,
    dir: TempDir,
}

fn rig() -> Rig {
    rig_with(|_| {}, WorkSettings::default())
}

fn rig_with(change: impl FnOnce(&mut ExecSettings), work: WorkSettings) -> Rig {
    let dir = tempfile::tempdir().unwrap();
    rig_in(dir, LIFE, change, work).0
}

/// One whose disk can fail.
fn rig_on(disk: &Faulty) -> Rig {
    let opened = Store::open_faulty(disk, settings()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    rig_over(opened, dir, LIFE, |_| {}, WorkSettings::default()).0
}

/// A host in this life, and what the one before has left.
fn rig_in(
    dir: TempDir,
    life: Incarnation,
    change: impl FnOnce(&mut ExecSettings),
    work: WorkSettings,
) -> (Rig, Vec<Found>, EarlierStarts) {
    let opened = open(&dir);
    rig_over(opened, dir, life, change, work)
}

fn rig_over(
    (store, found): (Store, Vec<Found>),
    dir: TempDir,
    life: Incarnation,
    change: impl FnOnce(&mut ExecSettings),
    work: WorkSettings,
) -> (Rig, Vec<Found>, EarlierStarts) {
    let node = NodeId::parse("here").unwrap();
    let spool = dir.path().join(format!("spool-{}", life.0));
    let mut settings = ExecSettings::new(node.clone(), 1, spool);
    settings.stop_grace = Duration::ZERO;
    change(&mut settings);
    let registry = Registry::from_entries(workers::all()).unwrap();
    let executor = Executor::new(registry, settings).unwrap();
    let (starts, noted) = store.starts(life.0);
    starts.begin();
    let earlier = noted.map_or_else(EarlierStarts::unknown, |noted| {
        EarlierStarts::of(Incarnation(noted.life), noted.begun)
    });
    let host = Host::new(node, life, executor, store, starts, earlier.clone(), work);
    let host = Arc::new(host);
    (Rig { host, dir }, found, earlier)
}

fn settings() -> StoreSettings {
    StoreSettings {
        reserve_bytes: 0,
        ..StoreSettings::default()
    }
}

fn open(dir: &TempDir) -> (Store, Vec<Found>) {
    Store::open(&dir.path().join("store"), settings()).unwrap()
}

fn submit(directive: &str, payload_bytes: usize) -> Submit {
    Submit {
        unit: UnitId(uuid::Uuid::now_v7()),
        directive: directive.to_owned(),
        to: None,
        payload_bytes: Some(payload_bytes as u64),
        params: Default::default(),
        deadline_ms: None,
        trace: None,
        durable: true,
        detach: false,
        idempotent: false,
        offer: Some(Offer {
            number: 1,
            life: LIFE,
        }),
    }
}

/// So many writes fail.
fn no_writes(times: usize) -> Fault {
    Fault::Fail {
        op: Op::Write,
        nth: 0,
        times,
    }
}

/// The same unit, under another number.
fn submit_as(submit: &Submit, number: u32) -> Submit {
    Submit {
        offer: Some(Offer { number, life: LIFE }),
        ..submit.clone()
    }
}

/// What an executor says in a conversation.
#[derive(Debug, Default)]
struct Said {
    frames: Vec<FrameType>,
    bytes: Vec<u8>,
    refused: Option<Kind>,
    eof: Option<Eof>,
    released: Vec<UnitId>,
}

impl Said {
    /// `true`: this was the last of a unit.
    fn hear(&mut self, item: Item) -> bool {
        let frame = match item {
            Item::Response { piece, .. } => {
                self.bytes.extend_from_slice(&piece.data);
                return false;
            }
            Item::Frame(frame) => frame,
            Item::Payload { .. } => panic!("the executor sends payload"),
        };
        let kind = frame.frame_type().unwrap();
        self.frames.push(kind);
        match kind {
            FrameType::Refused => {
                self.refused = Some(codec::decode::<Refused>(&frame.body).unwrap().kind);
            }
            FrameType::Released => {
                self.released
                    .push(codec::decode::<Released>(&frame.body).unwrap().unit);
            }
            FrameType::ReleasedUnits => {
                let ReleasedUnits(units) = codec::decode(&frame.body).unwrap();
                self.released.extend(units);
            }
            FrameType::Eof => self.eof = Some(codec::decode(&frame.body).unwrap()),
            FrameType::Over => {
                let Over(eof) = codec::decode(&frame.body).unwrap();
                self.eof = Some(eof);
            }
            FrameType::Returned => {
                codec::decode::<Returned>(&frame.body).unwrap();
            }
            _ => {}
        }
        matches!(kind, FrameType::Eof | FrameType::Returned | FrameType::Refused)
    }

    fn end(&self) -> Option<Kind> {
        self.eof.as_ref().map(|eof| eof.kind)
    }
}

/// An origin's end of a conversation.
struct Talk(Pipe);

impl Talk {
    async fn send(&mut self, data: &[u8]) {
        self.0.sender.put_payload(Bytes::copy_from_slice(data));
        self.0.sender.flush().await.unwrap();
    }

    /// Ends the payload, and listens to the executor's last word.
    async fn end(mut self) -> Said {
        self.0.sender.put_bare(FrameType::PayloadEnd);
        // An executor that has refused does not listen.
        let _refused = self.0.sender.flush().await;
        self.hear().await
    }

    async fn say_no_more(&mut self) {
        let (mute, _) = Pipe::local();
        let sender = std::mem::replace(&mut self.0.sender, mute.sender);
        sender.finish().await.unwrap();
    }

    async fn hear(&mut self) -> Said {
        let mut said = Said::default();
        while self.hear_one(&mut said).await {}
        said
    }

    async fn hear_until(&mut self, last: FrameType) {
        let mut said = Said::default();
        while !said.frames.contains(&last) {
            assert!(self.hear_one(&mut said).await, "{said:?}");
        }
    }

    async fn hear_one(&mut self, said: &mut Said) -> bool {
        let Ok(Some(item)) = self.0.receiver.next().await else {
            return false;
        };
        !said.hear(item)
    }
}

impl Rig {
    async fn open<T: serde::Serialize>(&self, kind: FrameType, first: &T) -> Talk {
        let (ours, theirs) = Pipe::local();
        self.host.answer_here(theirs);
        let mut talk = Talk(ours);
        talk.0.sender.put(kind, first);
        talk.0.sender.flush().await.unwrap();
        talk
    }

    async fn offer(&self, submit: &Submit) -> Talk {
        self.open(FrameType::Submit, submit).await
    }

    async fn resume(&self, submit: &Submit) -> Talk {
        let resume = Resume {
            unit: submit.unit,
            offer: submit.offer.unwrap(),
            position: Position::default(),
        };
        self.open(FrameType::Resume, &resume).await
    }

    async fn release_all(&self, releases: &[Release]) -> Said {
        let mut talk = self.open(FrameType::Release, &releases[0]).await;
        for release in &releases[1..] {
            talk.0.sender.put(FrameType::Release, release);
        }
        talk.say_no_more().await;
        talk.hear().await
    }

    async fn ask_to_release(&self, submit: &Submit) -> Talk {
        let release = Release {
            unit: submit.unit,
            number: submit.offer.unwrap().number,
            outcome: Kind::Cancelled.outcome(),
        };
        let mut talk = self.open(FrameType::Release, &release).await;
        talk.say_no_more().await;
        talk
    }

    async fn release(&self, submit: &Submit) {
        let mut talk = self.ask_to_release(submit).await;
        talk.hear_until(FrameType::Released).await;
    }

    /// Offers a unit of a gated worker, without payload; hears that it has started.
    async fn start(&self, submit: &Submit) -> (Talk, Gate) {
        let gate = Gate::of(submit.unit);
        let mut talk = self.offer(submit).await;
        talk.0.sender.put_bare(FrameType::PayloadEnd);
        talk.0.sender.flush().await.unwrap();
        talk.hear_until(FrameType::Started).await;
        gate.told();
        (talk, gate)
    }

    async fn run(&self, submit: &Submit, payload: &[u8]) -> Said {
        let mut talk = self.offer(submit).await;
        talk.send(payload).await;
        talk.end().await
    }

    /// Cuts off what large streams have on the disk.
    fn cut_data(&self) {
        for file in std::fs::read_dir(self.dir.path().join("store/data")).unwrap() {
            let file = std::fs::File::options().write(true).open(file.unwrap().path());
            file.unwrap().set_len(300_000).unwrap();
        }
    }

    /// With which end the one unit would be found here at the next start, if it has any.
    async fn restart(self) -> Option<Kind> {
        self.host.stop().await;
        self.host.store.close().await;
        let (_, found) = open(&self.dir);
        assert_eq!(found.len(), 1);
        match record::decode(found[0].records.last()?).unwrap() {
            ExecutorRecord::Ended { eof, .. } => Some(eof.kind),
            _ => None,
        }
    }
}

#[tokio::test]
async fn what_waits_when_the_node_is_killed_goes_back_and_what_has_begun_is_lost() {
    let rig = rig();
    let begun = submit("gate:buffer", 0);
    let (waits, never) = (submit("noop:run", 0), submit("noop:run", 0));
    let (_talk, _gate) = rig.start(&begun).await;
    let mut waiting = rig.offer(&waits).await;
    waiting.0.sender.put_bare(FrameType::PayloadEnd);
    waiting.0.sender.flush().await.unwrap();
    waiting.hear_until(FrameType::Accepted).await;
    // As good as killed: nothing is stored from here on.
    rig.host.store.close().await;
    let (rig, found, earlier) = rig_in(rig.dir, Incarnation(8), |_| {}, WorkSettings::default());
    assert_eq!(found.len(), 2);
    for found in found {
        take_executor(&rig.host, found, &earlier, tokio::time::Instant::now())
            .await
            .unwrap();
    }
    let said = rig.resume(&begun).await.hear().await;
    assert_eq!(said.end(), Some(Kind::NodeLost));
    let said = rig.resume(&waits).await.hear().await;
    assert_eq!(said.frames, [FrameType::Accepted, FrameType::Returned]);
    let said = rig.resume(&never).await.hear().await;
    assert_eq!(said.refused, Some(Kind::NoSuchUnit));
}

#[tokio::test]
async fn a_payload_that_is_not_as_announced_is_refused_and_may_come_again() {
    let rig = rig();
    for directive in ["echo:bytes", "echo:buffer", "echo:file"] {
        let unit = submit(directive, 3);
        for wrong in [&b"12"[..], b"1234"] {
            let said = rig.run(&unit, wrong).await;
            assert_eq!(said.refused, Some(Kind::PayloadBroken), "{directive}");
        }
        let said = rig.run(&unit, b"123").await;
        assert_eq!(
            (said.end(), &said.bytes[..]),
            (Some(Kind::Ok), &b"123"[..]),
            "{directive}"
        );
    }
}

#[tokio::test]
async fn a_payload_of_unknown_length_is_refused() {
    let rig = rig();
    let unknown = Submit {
        payload_bytes: None,
        ..submit("echo:bytes", 0)
    };
    assert_eq!(
        rig.offer(&unknown).await.hear().await.refused,
        Some(Kind::Protocol)
    );
}

#[tokio::test]
async fn a_payload_that_never_comes_is_refused() {
    let rig = rig_with(
        |settings| settings.payload_idle = Duration::from_millis(1),
        WorkSettings::default(),
    );
    for directive in ["echo:bytes", "echo:buffer"] {
        let unit = submit(directive, 3);
        let mut talk = rig.offer(&unit).await;
        assert_eq!(talk.hear().await.refused, Some(Kind::PayloadBroken));
    }
    assert_eq!(rig.host.count(), 0);
}

#[tokio::test]
async fn a_deadline_may_pass_before_the_payload_is_there() {
    let rig = rig();
    let late = Submit {
        deadline_ms: Some(1),
        ..submit("echo:buffer", 3)
    };
    assert_eq!(rig.offer(&late).await.hear().await.refused, Some(Kind::Expired));
}

#[tokio::test]
async fn a_unit_begins_with_its_own_payload_alone() {
    let rig = rig();
    let payload = vec![b'b'; 200_000];
    let unit = submit("echo:buffer", payload.len());
    let left = vec![Entry::Data(Stream::Payload, Bytes::from(vec![b'a'; 100_000]))];
    let stored = rig.host.store.append(key(unit.unit), left, Sync::Written);
    stored.await.unwrap();
    let said = rig.run(&unit, &payload).await;
    assert_eq!(said.end(), Some(Kind::Ok));
    assert!(said.bytes == payload, "{} bytes", said.bytes.len());
}

#[tokio::test]
async fn nothing_is_kept_behind_a_payload_that_cannot_be_removed() {
    let disk = Faulty::new();
    let rig = rig_on(&disk);
    // Read back in whole pieces, another payload before it would go unnoticed.
    let payload = vec![b'b'; READ_BYTES + 1000];
    let unit = submit("echo:buffer", payload.len());
    let left = vec![Entry::Data(Stream::Payload, Bytes::from(vec![b'a'; 100_000]))];
    let stored = rig.host.store.append(key(unit.unit), left, Sync::Written);
    stored.await.unwrap();
    disk.fault(no_writes(1));
    let mut talk = rig.offer(&unit).await;
    talk.send(&payload[..READ_BYTES]).await;
    talk.send(&payload[READ_BYTES..]).await;
    let said = talk.end().await;
    assert_eq!((said.refused, said.bytes.len()), (Some(Kind::NoSpace), 0));
    let said = rig.run(&unit, &payload).await;
    assert_eq!(said.end(), Some(Kind::Ok));
    assert!(said.bytes == payload);
}

#[tokio::test]
async fn what_did_not_arrive_leaves_nothing() {
    let rig = rig();
    let unit = submit("echo:buffer", 200_000);
    let said = rig.run(&unit, &[b'a'; 100_000]).await;
    assert_eq!(said.refused, Some(Kind::PayloadBroken));
    assert_eq!((rig.host.count(), rig.host.store.usage().keys), (0, 0));
}

#[tokio::test]
async fn what_its_origin_turns_away_from_leaves_nothing() {
    let rig = rig();
    for release in [true, false] {
        let unit = submit("echo:buffer", 200_000);
        let mut talk = rig.offer(&unit).await;
        for _ in 0..10 {
            talk.send(&[b'a'; 15_000]).await;
        }
        if release {
            rig.release(&unit).await;
        } else {
            let said = rig.resume(&unit).await.hear().await;
            assert_eq!(said.refused, Some(Kind::NoSuchUnit));
        }
        assert_eq!((rig.host.count(), rig.host.store.usage().keys), (0, 0));
        assert_eq!(talk.hear().await.frames, [], "the offer is not answered");
        let said = rig.run(&unit, &[]).await;
        assert_eq!(said.refused, Some(Kind::Duplicate));
    }
}

#[tokio::test]
async fn a_drain_refuses_what_arrives_and_gives_back_what_waits() {
    let rig = rig();
    let (mut runs, gate) = rig.start(&submit("gate:buffer", 0)).await;
    let waiting = submit("echo:bytes", 1);
    let mut waits = rig.offer(&waiting).await;
    waits.send(b"1").await;
    waits.0.sender.put_bare(FrameType::PayloadEnd);
    waits.0.sender.flush().await.unwrap();
    waits.hear_until(FrameType::Accepted).await;
    let mut arrives = rig.offer(&submit("echo:buffer", 1)).await;
    rig.host.executor.refuse_new();
    rig.host.give_back().await;
    assert_eq!(arrives.hear().await.refused, Some(Kind::Draining));
    assert_eq!(waits.hear().await.frames, [FrameType::Returned]);
    gate.go(Go::Return);
    assert_eq!(runs.hear().await.end(), Some(Kind::Ok));
}

#[tokio::test]
async fn a_unit_that_has_not_started_goes_back_however_it_is_stopped() {
    let rig = rig();
    let (mut runs, _gate) = rig.start(&submit("gate:buffer", 0)).await;
    let mut waits = rig.offer(&submit("echo:bytes", 0)).await;
    waits.0.sender.put_bare(FrameType::PayloadEnd);
    waits.0.sender.flush().await.unwrap();
    waits.hear_until(FrameType::Accepted).await;
    rig.host.executor.stop_now();
    assert_eq!(waits.hear().await.frames, [FrameType::Returned]);
    assert_eq!(runs.hear().await.end(), Some(Kind::Shutdown));
}

/// A unit that sends more than its origin acknowledges, up to where it is held.
async fn flooding() -> (Rig, Submit, Talk, Gate) {
    let work = WorkSettings {
        spool_limit: 100_000,
        ..WorkSettings::default()
    };
    let rig = rig_with(|_| {}, work);
    let unit = submit("gate:flood", 0);
    let (mut talk, gate) = rig.start(&unit).await;
    gate.go(Go::Return);
    let mut said = Said::default();
    while said.bytes.len() <= 100_000 {
        assert!(talk.hear_one(&mut said).await, "{said:?}");
    }
    (rig, unit, talk, gate)
}

#[tokio::test]
async fn the_end_of_a_unit_that_is_stopped_is_kept() {
    let rig = rig();
    let (_talk, _gate) = rig.start(&submit("gate:buffer", 0)).await;
    rig.host.executor.stop_now();
    assert_eq!(rig.restart().await, Some(Kind::Shutdown));
}

#[tokio::test]
async fn the_end_of_a_unit_that_is_stopped_while_it_is_held_is_kept() {
    let (rig, _, _talk, gate) = flooding().await;
    rig.host.executor.stop_now();
    assert_eq!(gate.told(), "send failed");
    assert_eq!(rig.restart().await, Some(Kind::Shutdown));
}

#[tokio::test]
async fn a_unit_whose_kept_responses_cannot_be_read_is_lost() {
    let rig = rig();
    let payload: Vec<u8> = (0..1_000_000u32).map(|at| at as u8).collect();
    let unit = submit("echo:buffer", payload.len());
    let said = rig.run(&unit, &payload).await;
    assert_eq!((said.end(), said.bytes.len()), (Some(Kind::Ok), payload.len()));
    rig.cut_data();
    for _ in 0..2 {
        let said = rig.resume(&unit).await.hear().await;
        assert_eq!(said.end(), Some(Kind::NodeLost));
        let left = said.bytes.len();
        assert!(
            left < payload.len() && said.bytes == payload[..left],
            "{left} bytes"
        );
        assert_eq!(said.eof.map(|eof| eof.bytes), Some(left as u64));
    }
    assert_eq!(rig.restart().await, Some(Kind::NodeLost));
}

#[tokio::test]
async fn a_unit_whose_responses_cannot_be_kept_is_lost() {
    let rig = rig();
    let payload = vec![7; 1_000_000];
    let unit = submit("echo:buffer", payload.len());
    rig.run(&unit, &payload).await;
    let synced = vec![Entry::Data(Stream::Responses, Bytes::from_static(b"x"))];
    let synced = rig.host.store.append(key(unit.unit), synced, Sync::Synced);
    synced.await.unwrap();
    rig.host.stop().await;
    rig.host.store.close().await;
    rig.cut_data();
    // A stream whose end is damaged takes no more.
    let (store, found) = open(&rig.dir);
    let mut machine = DurableExecutor::offered(NodeId::parse("O").unwrap(), unit.offer.unwrap());
    machine.take("echo:buffer", 1);
    machine.handle_started();
    while machine.poll_effect().is_some() {}
    machine.handle_piece(b"more", true);
    machine.flush();
    let hosted = Hosted::new(unit.unit, machine, found[0].response_bytes);
    hosted.store_all(&store).await;
    let eof = hosted.with(|machine| machine.end_of().cloned()).unwrap();
    assert_eq!(eof.kind, Kind::NodeLost);
    assert!(eof.bytes > 0 && eof.bytes < 1_000_000, "{}", eof.bytes);
    assert_eq!(hosted.watch().borrow().phase, ExecutorPhase::Ended);
    assert!(hosted.stop.is_cancelled(), "its worker is stopped");
}

#[tokio::test]
async fn a_worker_that_is_held_for_a_vanished_origin_is_let_go() {
    let (rig, unit, talk, gate) = flooding().await;
    rig.host.end_forsaken(Duration::ZERO).await;
    assert!(gate.is_silent(), "its origin is there");
    drop(talk);
    let hosted = rig.host.all().pop().unwrap();
    while !hosted.is_forsaken(Duration::ZERO) {
        tokio::task::yield_now().await;
    }
    rig.host.end_forsaken(Duration::from_secs(86_400)).await;
    assert!(gate.is_silent(), "its origin may come back");
    rig.host.end_forsaken(Duration::ZERO).await;
    let mut load = rig.host.executor.load_changes();
    load.wait_for(|load| load.is_idle()).await;
    assert_eq!(gate.told(), "send failed");
    let said = rig.resume(&unit).await.hear().await;
    assert_eq!(said.end(), Some(Kind::NodeLost));
    assert_eq!(said.eof.map(|eof| eof.bytes), Some(said.bytes.len() as u64));
}
