//! Two linked nodes, A the origin and B the executor, and what their clients see of durable units.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use workmesh_proto::MeshName;
use workmesh_proto::wire::durable::Attach;
use workmesh_proto::wire::items::Piece;

use super::super::*;
use super::workers::{self, Gate, expected};
use crate::config::WorkSettings;
use crate::identity::{Ca, create_identity, create_mesh};
use crate::store::faulty::Faulty;

/// What takes longer never ends.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at what tells of no change.
pub(super) const LOOK: Duration = Duration::from_millis(2);

/// Every start is a later life.
static LIVES: AtomicU64 = AtomicU64::new(1);

/// The identities of a mesh of two.
pub(super) struct Identities(TempDir);

impl Identities {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (mesh, now) = (MeshName::parse("trials").unwrap(), Timestamp::now());
        create_mesh(&dir.path().join("A"), &mesh, &node("A"), 1, now).unwrap();
        let ca = Ca::load(&dir.path().join("A"), now).unwrap();
        create_identity(&ca, &dir.path().join("B"), &node("B"), 1, now).unwrap();
        Self(dir)
    }
}

fn node(name: &str) -> NodeId {
    NodeId::parse(name).unwrap()
}

/// Runs nodes until `life` is over; then they are gone as if they were killed.
pub(super) fn live<T>(life: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let over = runtime.block_on(async { tokio::time::timeout(PATIENCE, life).await });
    runtime.shutdown_background();
    over.expect("everything ends")
}

/// A unit of the tests, to be submitted at A for B.
#[derive(Clone)]
pub(super) struct Unit {
    pub(super) id: UnitId,
    directive: &'static str,
    payload: Bytes,
}

impl Unit {
    pub(super) fn new(directive: &'static str, payload_bytes: usize) -> Self {
        let request = UnitRequest::new(directive);
        let payload = (0..payload_bytes).map(|at| (at ^ (at >> 8)) as u8);
        Self {
            id: request.unit,
            directive,
            payload: payload.collect(),
        }
    }

    fn request(&self) -> UnitRequest {
        UnitRequest {
            unit: self.id,
            to: Some(node("B")),
            ..UnitRequest::new(self.directive)
        }
    }
}

/// What a client was told of a unit.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Told {
    /// The last one may not be complete.
    responses: Vec<Vec<u8>>,
    pub(super) end: Option<Eof>,
}

impl Told {
    fn hear(&mut self, piece: &Piece) {
        let at = piece.serial as usize - 1;
        self.responses
            .resize_with((at + 1).max(self.responses.len()), Vec::new);
        self.responses[at].extend_from_slice(&piece.data);
    }

    pub(super) fn kind(&self) -> Option<Kind> {
        self.end.as_ref().map(|end| end.kind)
    }

    /// Nothing that was told before is told otherwise.
    pub(super) fn follows(&self, before: &Self) {
        assert!(
            before.end.is_none() || self.end == before.end,
            "another end: {:?}, before {:?}",
            self.end,
            before.end
        );
        begins(&self.responses, &before.responses);
    }

    /// There is an end, and what it says is so.
    pub(super) fn is_true(&self, unit: &Unit) {
        let end = self.end.as_ref().expect("there is an end");
        let expected = expected(&unit.payload);
        begins(&expected, &self.responses);
        let bytes: usize = self.responses.iter().map(Vec::len).sum();
        assert_eq!(end.bytes, bytes as u64, "{end:?}");
        let runs = workers::runs(unit.id);
        if end.outcome == crate::Outcome::Succeeded {
            assert!(self.responses == expected, "a false success: {end:?}");
            assert_eq!((end.responses, runs), (expected.len() as u64, 1), "{end:?}");
        } else {
            assert!(runs <= 1, "it ran {runs} times: {end:?}");
        }
    }
}

/// `whole` begins with `part`, which may end within a response.
fn begins(whole: &[Vec<u8>], part: &[Vec<u8>]) {
    let Some((last, complete)) = part.split_last() else {
        return;
    };
    let right = whole.len() >= part.len()
        && whole[..complete.len()] == *complete
        && whole[complete.len()].starts_with(last);
    assert!(right, "other responses than before");
}

/// Two linked nodes.
pub(super) struct Site {
    pub(super) a: Node,
    pub(super) b: Node,
    _dir: TempDir,
}

impl Site {
    /// Starts both over these disks, A's first, and waits until they know each other.
    pub(super) async fn start(identities: &Identities, disks: &[Faulty; 2], batch_from: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = |name| Settings {
            listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
            detection: Duration::from_secs(60),
            max_workers: 4,
            work: WorkSettings {
                reserve: 0,
                batch_from,
                ..WorkSettings::default()
            },
            ..Settings::for_data_dir(dir.path().join(name))
        };
        let a = start(identities, "A", settings("A"), &disks[0]).await;
        let mut settings = settings("B");
        let address = a.status().listen.expect("A listens");
        settings.peers.push(address.parse().unwrap());
        let b = start(identities, "B", settings, &disks[1]).await;
        assert!(a.wait_for(&node("B"), PATIENCE).await && b.wait_for(&node("A"), PATIENCE).await);
        Self { a, b, _dir: dir }
    }

    fn work(&self) -> &Arc<Work> {
        self.a.work.as_ref().unwrap()
    }

    pub(super) async fn submit(&self, unit: &Unit) -> Result<Attachment, Eof> {
        let events = self
            .a
            .submit_durable(unit.request(), unit.payload.clone())
            .await?;
        Ok(events.0)
    }

    /// Submits a unit that was refused; what is left of it may have to go first.
    pub(super) async fn submit_again(&self, unit: &Unit) -> Attachment {
        loop {
            match self.submit(unit).await {
                Ok(attached) => return attached,
                Err(eof) => assert_eq!(eof.kind, Kind::Busy, "{eof:?}"),
            }
        }
    }

    /// Runs a unit to its end.
    pub(super) async fn run(&self, unit: &Unit) -> Told {
        let mut told = Told::default();
        let mut attached = self.submit(unit).await.expect("a unit is taken");
        self.follow(&mut attached, |event| hear(&mut told, event)).await;
        told
    }

    /// Submits a gated unit, and waits until its first response is here.
    pub(super) async fn hold(&self, unit: &Unit) -> Gate {
        let gate = Gate::of(unit.id);
        let mut attached = self.submit(unit).await.expect("a unit is taken");
        while !matches!(attached.next().await, Some(AttachEvent::Piece(piece)) if piece.last) {}
        gate
    }

    /// A unit that is here; `None`: it is not.
    pub(super) fn attach(&self, unit: &Unit) -> Option<Attachment> {
        self.work().attach(&Attach {
            unit: unit.id,
            responses: 0,
            bytes: None,
            follow: true,
        })
    }

    /// All of a unit that is here, up to its end.
    pub(super) async fn read(&self, unit: &Unit) -> Option<Told> {
        let mut told = Told::default();
        let mut attached = self.attach(unit)?;
        self.follow(&mut attached, |event| hear(&mut told, event)).await;
        Some(told)
    }

    /// Hears what is told up to the end.
    pub(super) async fn follow(&self, attached: &mut Attachment, mut hear: impl FnMut(&AttachEvent)) {
        while let Some(event) = attached.next().await {
            hear(&event);
            match event {
                AttachEvent::Eof(_) => return,
                AttachEvent::Broken(why) => panic!("the responses can't be read: {why}"),
                _ => {}
            }
        }
    }

    /// Both nodes are up: they answer, and run units that are not durable.
    pub(super) async fn is_up(&self) {
        for (from, to) in [(&self.a, &self.b), (&self.b, &self.a)] {
            assert_eq!(from.ping(Some(to.id())).await.unwrap().node, *to.id());
            let unit = Unit {
                id: UnitRequest::new("").unit,
                ..Unit::new(workers::BYTES, 3000)
            };
            let request = UnitRequest {
                to: Some(to.id().clone()),
                ..unit.request()
            };
            let mut events = from.submit(request, unit.payload.clone()).await.unwrap();
            let mut told = Told::default();
            while let Some(event) = events.next().await {
                match event {
                    UnitEvent::Piece(piece) => told.hear(&piece),
                    UnitEvent::Eof(eof) => told.end = Some(eof),
                }
            }
            told.is_true(&unit);
            assert_eq!(told.kind(), Some(Kind::Ok));
        }
    }

    /// Waits until the unit has ended for all concerned.
    pub(super) async fn is_over(&self, unit: &Unit) {
        while !self.work().show(unit.id).unwrap().executor_released {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until B keeps no unit for A.
    pub(super) async fn hosts_nothing(&self) {
        while self.b.status().counters["work.hosted"] > 0 {
            tokio::time::sleep(LOOK).await;
        }
    }

    pub(super) async fn stop(self) {
        self.b.stop(Duration::ZERO).await;
        self.a.stop(Duration::ZERO).await;
    }
}

/// Adds an event to what was told.
pub(super) fn hear(told: &mut Told, event: &AttachEvent) {
    match event {
        AttachEvent::Piece(piece) => told.hear(piece),
        AttachEvent::Eof(eof) => {
            assert_eq!(told.end, None, "a second end");
            told.end = Some(eof.clone());
        }
        _ => {}
    }
}

async fn start(identities: &Identities, name: &str, settings: Settings, disk: &Faulty) -> Node {
    let identity = Identity::load(&identities.0.path().join(name)).unwrap();
    let registry = Registry::from_entries(workers::all()).unwrap();
    let disk = disk.clone();
    // Small segments, so that a life has several of them; and no wait before a sync.
    let open: OpenStore = Box::new(move |settings| {
        let settings = StoreSettings {
            segment_bytes: 1 << 10,
            garbage_bytes: 1 << 10,
            sync_after: Duration::from_millis(5),
            ..settings
        };
        Store::open_faulty(&disk, settings)
    });
    let life = Incarnation(LIVES.fetch_add(1, Ordering::Relaxed));
    let started = Node::start_as(Role::Member, settings, identity, life, registry, open);
    started.await.expect("a node starts")
}
