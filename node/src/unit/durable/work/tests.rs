//! Units that go, over a disk that fails, and while others let them go too.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;

use futures_util::poll;
use jiff::Timestamp;
use tempfile::TempDir;
use tracing_subscriber::fmt::MakeWriter;
use workmesh_proto::mesh::{MeshConfig, Timings};
use workmesh_proto::record;
use workmesh_proto::unit::ResponseTally;
use workmesh_proto::unit::durable::{EarlierStarts, OriginHistory, ResponseFrames};
use workmesh_proto::wire::durable::Offer;
use workmesh_proto::{Cost, Incarnation, MeshName, NodeId};

use super::*;
use crate::config::Retention;
use crate::exec::tests::workers;
use crate::exec::{ExecSettings, Executor, Registry};
use crate::identity::{Identity, create_mesh};
use crate::link::{Endpoint, EndpointSettings};
use crate::mesh::Driver;
use crate::store::faulty::{Fault, Faulty, Op};
use crate::store::{Entry as Kept, Found, StoreSettings, Stream, Sync};
use crate::unit::durable::drive::key;
use crate::unit::durable::now_ms;
use crate::unit::durable::recover;

const LIFE: Incarnation = Incarnation(7);

/// The units of a node that nobody is linked to.
struct Rig {
    work: Arc<Work>,
    disk: Faulty,
    _dir: TempDir,
}

fn node(name: &str) -> NodeId {
    NodeId::parse(name).unwrap()
}

/// The records of a unit that was cancelled; `executor` is not known to know.
fn ended(executor: Option<&str>) -> Vec<OriginRecord> {
    let order = Order {
        directive: "noop:run".to_owned(),
        to: None,
        params: BTreeMap::new(),
        payload_bytes: 0,
        payload_digest: twox_hash::XxHash3_64::oneshot(&[]),
        submitted_ms: 1,
        deadline_ms: None,
        trace: None,
        idempotent: false,
    };
    let offered = executor.map(|executor| OriginRecord::Offered {
        executor: node(executor),
        offer: Offer {
            number: 1,
            life: LIFE,
        },
        idempotent: false,
        at_ms: 2,
    });
    let end = OriginRecord::Ended {
        eof: Eof::without_responses(Kind::Cancelled, "cancelled"),
        at_ms: 3,
    };
    let submitted = OriginRecord::Submitted(Box::new(order));
    [submitted].into_iter().chain(offered).chain([end]).collect()
}

fn new_id() -> UnitId {
    UnitId(uuid::Uuid::now_v7())
}

/// A node that an earlier life has left these to; nothing of that is looked at yet.
async fn left(units: &[Vec<OriginRecord>], settings: WorkSettings) -> (Rig, Vec<Found>) {
    let disk = Faulty::new();
    let open = || {
        let settings = StoreSettings {
            reserve_bytes: 0,
            ..StoreSettings::default()
        };
        Store::open_faulty(&disk, settings).unwrap()
    };
    let (store, _) = open();
    for records in units {
        let entries = records.iter().map(|record| Kept::Record(record::encode(record)));
        let stored = store.append(key(new_id()), entries.collect(), Sync::Synced);
        stored.await.unwrap();
    }
    store.close().await;
    let (store, found) = open();

    let dir = tempfile::tempdir().unwrap();
    let (here, now) = (node("here"), Timestamp::now());
    create_mesh(dir.path(), &MeshName::parse("alone").unwrap(), &here, 1, now).unwrap();
    let endpoint = EndpointSettings {
        node: here.clone(),
        bind: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        accepts_links: false,
        detection: Duration::from_secs(60),
    };
    let endpoint = Arc::new(Endpoint::bind(&endpoint, &Identity::load(dir.path()).unwrap()).unwrap());
    let registry = Registry::from_entries(workers::all()).unwrap();
    let config = MeshConfig {
        node: here.clone(),
        incarnation: LIFE,
        cost: Cost(1),
        leaf: false,
        version: "1.0.0".to_owned(),
        workers: registry.advertisements(),
        labels: Default::default(),
        timings: Timings::default(),
    };
    let spool = dir.path().join("spool");
    let executor = Executor::new(registry, ExecSettings::new(here.clone(), 1, spool)).unwrap();
    let (_, mesh) = Driver::new(config, endpoint.clone());
    let units = Units::start(here.clone(), executor.clone(), mesh, endpoint);
    let (starts, _) = store.starts(LIFE.0);
    let unknown = EarlierStarts::unknown();
    let host = Arc::new(Host::new(
        here,
        LIFE,
        executor,
        store.clone(),
        starts,
        unknown,
        settings.clone(),
    ));
    let work = Work::new(units, host, store, settings);
    let rig = Rig {
        work,
        disk,
        _dir: dir,
    };
    (rig, found)
}

impl Rig {
    async fn recover(&self, found: Vec<Found>) {
        recover(&self.work, &self.work.host, found, &EarlierStarts::unknown()).await;
    }

    /// Takes a unit over that is owed to its executor, and leaves it without its task.
    fn without_task(&self, unit: UnitId, records: &[OriginRecord]) -> Arc<Active> {
        let history = OriginHistory::fold(records.to_vec()).unwrap();
        let machine = DurableOrigin::recover(history, ResponseTally::new(), self.work.timings(), 5);
        drop(self.work.take_over(unit, machine, 0, records));
        match self.work.find(unit) {
            Some(Entry::Active(active)) => active,
            _ => panic!("it is owed to its executor"),
        }
    }

    /// Waits until no unit has a task.
    async fn are_settled(&self) {
        self.work.tasks.close();
        self.work.tasks.wait().await;
    }

    /// Units in the store.
    fn kept(&self) -> u64 {
        self.work.store.usage().keys
    }

    fn seen(&self) -> usize {
        self.work.list(&WorkFilter::default(), None).0.len()
    }
}

/// Nothing that has ended is kept for long.
fn keeping_none() -> WorkSettings {
    let none = Retention {
        age: Duration::ZERO,
        count: 0,
        bytes: 0,
    };
    WorkSettings {
        keep_succeeded: none,
        keep_failed: none,
        ..WorkSettings::default()
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

/// What is logged.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>);

impl Logged {
    fn count(&self, text: &str) -> usize {
        String::from_utf8_lossy(&self.0.lock()).matches(text).count()
    }
}

impl io::Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Logged {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[tokio::test(start_paused = true)]
async fn a_released_unit_that_the_disk_keeps_is_removed_by_a_later_try() {
    let mut released = ended(Some("here"));
    released.push(OriginRecord::Forgotten { at_ms: 4 });
    let (rig, found) = left(&[released], WorkSettings::default()).await;
    rig.disk.fault(no_writes(30));
    rig.recover(found).await;
    assert_eq!((rig.seen(), rig.kept()), (0, 1));
    rig.are_settled().await;
    assert_eq!((rig.work.table.lock().units.len(), rig.kept()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_removal_that_fails_is_tried_ever_less_often_and_told_of_once() {
    const FAILURES: usize = 10;
    let logged = Logged::default();
    let log = tracing_subscriber::fmt().with_writer(logged.clone());
    let _logs = tracing::subscriber::set_default(log.finish());
    // A single one would be left out by what a thread that has none logs first.
    let _another = tracing::Dispatch::new(tracing_subscriber::registry());
    let records = ended(Some("away"));
    let (rig, found) = left(std::slice::from_ref(&records), WorkSettings::default()).await;
    let unit = found[0].key.unit;
    let active = rig.without_task(unit, &records);

    rig.disk.fault(no_writes(FAILURES));
    let mut struck = rig.disk.struck();
    active.forget();
    let start = tokio::time::Instant::now();
    rig.work.settle(&active);
    let mut tries = Vec::new();
    for failures in 1..=FAILURES {
        tokio::select! {
            biased;
            failed = struck.wait_for(|ops| ops.len() >= failures) => drop(failed.unwrap()),
            () = rig.are_settled() => panic!("it is tried {} times", failures - 1),
        }
        tries.push(start.elapsed().as_secs());
    }
    assert_eq!(tries, [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]);
    rig.are_settled().await;
    assert_eq!(rig.kept(), 0);
    assert!(active.with_state(|state| state.settled));
    let told = [
        "can't be removed; it is tried again",
        "could not be removed before",
    ];
    assert_eq!(told.map(|text| logged.count(text)), [1, 1]);
}

#[tokio::test]
async fn what_is_kept_for_too_long_is_not_released_while_it_goes() {
    let (rig, found) = left(&[ended(None), ended(None)], keeping_none()).await;
    rig.recover(found).await;
    assert_eq!((rig.seen(), rig.kept()), (2, 2));
    let held = rig.disk.hold();
    let mut releasing = pin!(rig.work.release(Vec::new(), true, None));
    assert!(poll!(releasing.as_mut()).is_pending(), "it removes the first one");
    let overdue = rig.work.overdue().expect("the other one is not going yet");
    assert_eq!((rig.work.overdue(), rig.seen()), (None, 2));
    drop(held);
    let (report, removed) = tokio::join!(releasing, rig.work.remove_going(overdue));
    assert!(removed);
    assert_eq!((report.released, report.running), (1, 0), "each has gone once");
    assert_eq!((rig.seen(), rig.kept()), (0, 0));
}

#[tokio::test]
async fn a_unit_that_goes_is_not_known_to_a_release_that_names_it() {
    let (rig, found) = left(&[ended(None)], keeping_none()).await;
    rig.recover(found).await;
    let overdue = rig.work.overdue().unwrap();
    let report = rig.work.release(vec![overdue], true, None).await;
    assert_eq!((report.released, report.running), (0, 0));
    assert_eq!(report.unknown, [overdue]);
    assert_eq!(rig.kept(), 1, "it is left to whoever lets it go");
}

#[tokio::test]
async fn a_release_leaves_alone_what_another_one_has_put_out_of_sight() {
    let owed = || ended(Some("away"));
    let (rig, found) = left(&[owed(), owed()], WorkSettings::default()).await;
    rig.recover(found).await;
    assert_eq!((rig.seen(), rig.kept()), (2, 2));
    let held = rig.disk.hold();
    let mut first = pin!(rig.work.release(Vec::new(), true, None));
    assert!(poll!(first.as_mut()).is_pending(), "it waits for the first unit");
    let mut second = pin!(rig.work.release(Vec::new(), true, None));
    assert!(poll!(second.as_mut()).is_pending(), "it waits for the other one");
    drop(held);
    let (first, second) = tokio::join!(first, second);
    assert_eq!((first.released, second.released), (1, 1));
    assert_eq!(
        (rig.seen(), rig.kept()),
        (0, 2),
        "they are owed to their executor"
    );
}

#[tokio::test]
async fn a_unit_that_settles_while_it_is_released_is_released() {
    for told_first in [true, false] {
        let records = ended(Some("away"));
        let (rig, found) = left(std::slice::from_ref(&records), WorkSettings::default()).await;
        let unit = found[0].key.unit;
        let active = rig.without_task(unit, &records);
        let mut releasing = pin!(rig.work.release(vec![unit], false, None));
        if told_first {
            assert!(
                poll!(releasing.as_mut()).is_pending(),
                "it waits for the unit's task"
            );
        }
        rig.work.settle(&active);
        let report = releasing.await;
        assert_eq!((report.released, report.unknown), (1, vec![]), "{told_first}");
        assert_eq!((rig.seen(), rig.kept()), (0, 0));
    }
}

#[tokio::test]
async fn an_ended_unit_that_the_disk_keeps_is_neither_released_nor_running() {
    let (rig, found) = left(&[ended(None)], WorkSettings::default()).await;
    let unit = found[0].key.unit;
    rig.recover(found).await;
    for (units, all) in [(vec![unit], false), (Vec::new(), true)] {
        rig.disk.fault(no_writes(1));
        let report = rig.work.release(units, all, None).await;
        assert_eq!((report.released, report.running, report.kept), (0, 0, 1));
        assert_eq!((rig.seen(), rig.kept()), (1, 1), "it can be released again");
    }
    let report = rig.work.release(vec![unit], false, None).await;
    assert_eq!((report.released, report.kept, rig.kept()), (1, 0, 0));
}

#[tokio::test]
async fn a_unit_whose_responses_can_not_be_read_for_the_moment_goes_on_when_they_can() {
    let logged = Logged::default();
    let log = tracing_subscriber::fmt().with_writer(logged.clone());
    let _logs = tracing::subscriber::set_default(log.finish());
    let mut records = ended(Some("away"));
    records.pop();
    let (rig, mut found) = left(&[records], WorkSettings::default()).await;
    let unit = found[0].key.unit;
    let mut frames = ResponseFrames::default();
    frames.push(1, &[7; 100_000], true);
    let frames = frames.take();
    found[0].response_bytes = frames.len() as u64;
    let stream = vec![Kept::Data(Stream::Responses, frames)];
    rig.work
        .store
        .append(key(unit), stream, Sync::Synced)
        .await
        .unwrap();

    rig.disk.set_descriptors(rig.disk.open_files());
    let mut recovering = pin!(rig.recover(found));
    while logged.count("can't be read yet") == 0 {
        assert!(poll!(recovering.as_mut()).is_pending(), "it is tried again");
        tokio::task::yield_now().await;
    }
    rig.disk.heal();
    recovering.await;
    let report = rig.work.show(unit).unwrap();
    assert_eq!(
        (&report.state[..], report.bytes),
        ("running", 100_000),
        "{report:?}"
    );
}

#[tokio::test]
async fn a_unit_that_has_ended_in_the_future_is_released_with_all() {
    let mut records = ended(None);
    if let Some(OriginRecord::Ended { at_ms, .. }) = records.last_mut() {
        *at_ms = now_ms() + 86_400_000;
    }
    let (rig, found) = left(&[records], WorkSettings::default()).await;
    rig.recover(found).await;
    let aged = rig.work.release(Vec::new(), true, Some(0)).await;
    assert_eq!((aged.released, rig.kept()), (0, 1));
    let all = rig.work.release(Vec::new(), true, None).await;
    assert_eq!((all.released, rig.kept()), (1, 0));
}

#[tokio::test]
async fn a_unit_whose_task_panics_says_why_it_goes_no_further() {
    let (rig, _) = left(&[], WorkSettings::default()).await;
    let (unit, records) = (new_id(), ended(Some("gone")));
    let history = OriginHistory::fold(records.clone()).unwrap();
    let machine = DurableOrigin::recover(history, ResponseTally::new(), rig.work.timings(), 5);
    let drive = rig.work.take_over(unit, machine, 0, &records);
    let task = tokio::spawn(async move {
        let _drive = drive;
        panic!("a fault");
    });
    assert!(task.await.unwrap_err().is_panic());
    let reason = rig.work.show(unit).unwrap().reason;
    assert!(
        reason.contains("goes on when that node is started again"),
        "{reason}"
    );
    assert!(rig.work.figures().contains(&("work.stranded", 1)));
}

#[tokio::test]
async fn a_submission_that_breaks_a_limit_is_refused_at_once() {
    let (rig, _) = left(&[], WorkSettings::default()).await;
    let [OriginRecord::Submitted(order), ..] = &ended(None)[..] else {
        panic!("it was submitted");
    };
    let params = (0..65).map(|at| (at.to_string(), String::new())).collect();
    let order = Order {
        params,
        ..Order::clone(order)
    };
    let (unit, number) = (new_id(), 1);
    let submit = order.submission(unit, Offer { number, life: LIFE }, 5);
    let refused = rig.work.begin(submit).err().expect("it is refused");
    assert_eq!(refused.kind, Kind::Protocol);
    assert!(rig.work.find(unit).is_none());
}

#[tokio::test]
async fn an_id_whose_unit_goes_is_not_taken_for_that_unit() {
    let records = ended(None);
    let OriginRecord::Submitted(order) = &records[0] else {
        panic!("it begins with its order");
    };
    let (rig, found) = left(std::slice::from_ref(&records), keeping_none()).await;
    let unit = found[0].key.unit;
    rig.recover(found).await;
    let offer = Offer {
        number: 1,
        life: LIFE,
    };
    let submit = || rig.work.begin(order.submission(unit, offer, 5)).unwrap().finish();
    assert!(submit().await.is_ok(), "the same order again is the same unit");
    assert_eq!(rig.work.overdue(), Some(unit));
    let Err(NotTaken::Refused(eof)) = submit().await else {
        panic!("nobody can follow it");
    };
    assert_eq!(eof.kind, Kind::Busy, "{}", eof.message);
    assert!(rig.work.remove_going(unit).await);
}
