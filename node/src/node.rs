//! A node, put together: the one file that knows all parts. Called by `node run`, by one-shot commands that join as a
//! leaf, and by programs that embed a node.

use std::future::Future;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use bytes::Bytes;
use tempfile::TempDir;
use tokio::io::DuplexStream;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};
use tracing::{info, warn};
use workmesh_proto::mesh::{MeshConfig, Timings};
use workmesh_proto::unit::durable::EarlierStarts;
use workmesh_proto::wire::query::Fault;
use workmesh_proto::wire::unit::{Eof, Kind};
use workmesh_proto::{Cost, Incarnation, NodeId, UnitId};

use crate::config::Settings;
use crate::control::{Control, StatusSource};
use crate::exec::{EMPTY_REMEDY, ExecError, ExecSettings, Executor, Registry, RegistryError};
use crate::identity::{Identity, IdentityError, next_incarnation};
use crate::link::{Endpoint, EndpointSettings, LinkError};
use crate::mesh::{Dialer, Driver, MeshHandle, accept_peers};
use crate::store::{Found, Store, StoreError, StoreSettings};
use crate::unit::durable::{self, AttachEvent, Attachment, Host, NotTaken, Work};
use crate::unit::report::{PingReport, StatusReport};
use crate::unit::{SubmittedUnit, UnitEvent, UnitEvents, UnitRequest, Units};

/// Bytes that a leaf's own control conversation may hold in each direction.
const LEAF_PIPE_BYTES: usize = 256 * 1024;
/// Loads are handed to the mesh at least this far apart: it floods them less often still.
const LOAD_PAUSE: Duration = Duration::from_millis(50);
/// How long the delivery of the last responses may take while the node stops.
const DELIVER: Duration = Duration::from_secs(5);
/// The same when the node has to stop at once.
const DELIVER_AT_ONCE: Duration = Duration::from_millis(500);
/// What units that ended just before the stop have sent is given this long to arrive.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// How long the store of durable units may take to be closed.
const KEEP: Duration = Duration::from_secs(5);
/// How long leaving the mesh may take.
const LEAVE: Duration = Duration::from_secs(1);

/// A running node. Dropped, it is gone without a word; [`stop`](Self::stop) leaves the mesh in order.
///
/// Everything but the workers runs on the tokio runtime that [`start`](Self::start) is called on; a current-thread runtime
/// serves best.
pub struct Node {
    units: Arc<Units>,
    endpoint: Arc<Endpoint>,
    status: Arc<StatusSource>,
    control: Control,
    work: Option<Arc<Work>>,
    tasks: JoinSet<()>,
    dialers: JoinSet<()>,
    driver: AbortHandle,
    duplicate: Option<oneshot::Receiver<Incarnation>>,
    _leaf_spool: Option<TempDir>,
}

/// Why a node can't start, or can't go on. The text names the cause and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The identity is missing or of no use.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Two workers have one name.
    #[error("{0}")]
    Registry(String),
    /// The pool.
    #[error("{0}")]
    Executor(String),
    /// The store of durable units.
    #[error("{0}")]
    Store(String),
    /// The socket or TLS.
    #[error("{0}")]
    Endpoint(String),
    /// No neighbour could be reached.
    #[error("cannot join the mesh: {0}")]
    NoNeighbour(String),
    /// A directory or file.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// The task that keeps the node in the mesh has died. Our bug.
    #[error("the mesh driver has died: start the node anew, and report what the log says before")]
    DriverLost,
    /// An older node carries the same id.
    #[error(
        "another node named {node} is on the mesh and was there first: stop it, or give this one another id with \
         `node cert issue --id`"
    )]
    DuplicateId {
        /// The id.
        node: NodeId,
    },
}

impl From<RegistryError> for NodeError {
    fn from(error: RegistryError) -> Self {
        Self::Registry(error.to_string())
    }
}

impl From<ExecError> for NodeError {
    fn from(error: ExecError) -> Self {
        Self::Executor(error.to_string())
    }
}

impl From<LinkError> for NodeError {
    fn from(error: LinkError) -> Self {
        Self::Endpoint(error.to_string())
    }
}

/// What a node is in its mesh.
enum Role {
    /// Stays, runs work, passes packets on.
    Member,
    /// Joins for the time of a command; nobody places work on it.
    Leaf,
}

/// Opens the store of durable units; blocks.
type OpenStore = Box<dyn FnOnce(StoreSettings) -> Result<(Store, Vec<Found>), StoreError> + Send>;

/// Where it is, unless somebody says otherwise.
fn store_of(settings: &Settings) -> OpenStore {
    let dir = settings.data_dir.join("store");
    Box::new(move |settings| Store::open(&dir, settings))
}

/// What comes back from a durable unit, as it is on its origin's disk. Dropped, it leaves the unit as it is.
pub struct DurableEvents(Attachment);

impl DurableEvents {
    /// The unit's id.
    pub fn unit(&self) -> UnitId {
        self.0.unit()
    }

    /// The next event; `None` after the end, or when the node stops before it. Cancel-safe.
    pub async fn next(&mut self) -> Option<UnitEvent> {
        loop {
            return match self.0.next().await? {
                AttachEvent::Accepted(_) | AttachEvent::Started => continue,
                AttachEvent::Piece(piece) => Some(UnitEvent::Piece(piece)),
                AttachEvent::Eof(eof) => Some(UnitEvent::Eof(eof)),
                AttachEvent::Unfinished(_) | AttachEvent::Broken(_) => None,
            };
        }
    }
}

impl Node {
    /// Starts a node with the workers that are linked into this program.
    pub async fn start(settings: Settings) -> Result<Self, NodeError> {
        let registry = Registry::collect()?;
        if registry.is_empty() {
            warn!("{EMPTY_REMEDY}");
        }
        let identity = Identity::load(&settings.data_dir)?;
        let incarnation = next_incarnation(&settings.data_dir, now_ms())?;
        let store = store_of(&settings);
        Self::start_as(Role::Member, settings, identity, incarnation, registry, store).await
    }

    /// Joins the mesh as a leaf under a name of its own, and waits until it knows the mesh.
    pub(crate) async fn join_as_leaf(mut settings: Settings, patience: Duration) -> Result<Self, NodeError> {
        let identity = Identity::load(&settings.data_dir)?;
        settings.listen = None;
        let registry = Registry::from_entries([])?;
        let (life, store) = (Incarnation(now_ms()), store_of(&settings));
        let node = Self::start_as(Role::Leaf, settings, identity, life, registry, store).await?;
        node.wait_until_joined(patience).await?;
        Ok(node)
    }

    async fn start_as(
        role: Role,
        settings: Settings,
        identity: Identity,
        incarnation: Incarnation,
        registry: Registry,
        store: OpenStore,
    ) -> Result<Self, NodeError> {
        let (node, leaf) = match role {
            Role::Member => (identity.node().clone(), false),
            Role::Leaf => (identity.node().leaf(rand::random()), true),
        };
        let bind = settings.listen.unwrap_or_else(any_address);
        let endpoint = Arc::new(Endpoint::bind(
            &EndpointSettings {
                node: node.clone(),
                bind,
                accepts_links: settings.listen.is_some(),
                detection: settings.detection,
            },
            &identity,
        )?);
        let leaf_spool = if leaf { Some(temporary_spool()?) } else { None };
        let spool_dir = leaf_spool
            .as_ref()
            .map_or_else(|| settings.data_dir.join("spool"), |dir| dir.path().to_owned());
        let config = MeshConfig {
            node: node.clone(),
            incarnation,
            cost: Cost(settings.link_cost),
            leaf,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            workers: registry.advertisements(),
            labels: settings.labels.clone(),
            timings: Timings::default(),
        };
        let executor = Executor::new(registry, exec_settings(&settings, &node, spool_dir))?;
        let (driver, mesh) = Driver::new(config, endpoint.clone());
        let units = Units::start(node.clone(), executor.clone(), mesh.clone(), endpoint.clone());
        let mut tasks = JoinSet::new();
        let work = match leaf {
            true => None,
            false => Some(start_work(&settings, store, &units, incarnation, &mut tasks).await?),
        };
        let (tell, duplicate) = oneshot::channel();
        let driver = tasks.spawn(async move {
            if let Err(older) = driver.run().await {
                let _stopping = tell.send(older);
            }
        });
        tasks.spawn(accept_peers(
            endpoint.clone(),
            mesh.clone(),
            units.sessions().clone(),
        ));
        tasks.spawn(executor.clone().attend());
        tasks.spawn(tell_load(executor, mesh.clone()));
        let mut dialers = JoinSet::new();
        let mut dial_states = Vec::new();
        for peer in settings.peers {
            let dialer = Dialer::new(peer, endpoint.clone(), mesh.clone());
            dial_states.push(dialer.state());
            dialers.spawn(dialer.run());
        }
        let status = Arc::new(StatusSource {
            units: units.clone(),
            endpoint: endpoint.clone(),
            mesh: identity.mesh().clone(),
            listens: settings.listen.is_some(),
            dialers: dial_states,
            not_after: ArcSwap::from_pointee(identity.not_after()),
            work: work.clone(),
        });
        let control = Control::new(units.clone(), status.clone(), work.clone(), settings.drain_grace);
        Ok(Self {
            units,
            endpoint,
            status,
            control,
            work,
            tasks,
            dialers,
            driver,
            duplicate: Some(duplicate),
            _leaf_spool: leaf_spool,
        })
    }

    /// This node's id.
    pub fn id(&self) -> &NodeId {
        &self.units.node
    }

    /// Submits a unit with its whole payload. Returns once an executor has accepted, or with the unit's end.
    pub async fn submit(&self, request: UnitRequest, payload: Bytes) -> Result<UnitEvents, Eof> {
        if payload.len() <= crate::unit::HEAD_BYTES {
            return Ok(self.units.submit(request, payload, true).await?.events);
        }
        let SubmittedUnit {
            payload: mut sink,
            events,
        } = self.submit_stream(request).await?;
        tokio::spawn(async move {
            // A unit that takes no more payload says why by its events.
            if sink.send(payload).await.is_ok() {
                let _ended = sink.finish().await;
            }
        });
        Ok(events)
    }

    /// Submits a durable unit with its whole payload. Returns once it is on this node's disk: from then on it ends exactly once, also
    /// if this node is killed and started again. Dropping what is returned leaves the unit running.
    pub async fn submit_durable(&self, request: UnitRequest, payload: Bytes) -> Result<DurableEvents, Eof> {
        let Some(work) = &self.work else {
            let message = "this node keeps no durable units: it joined for one command only";
            return Err(Eof::without_responses(Kind::Forbidden, message));
        };
        let mut draft = work.begin(request.durable(payload.len() as u64))?;
        draft.push(&payload).await?;
        match draft.finish().await {
            Ok(attachment) => Ok(DurableEvents(attachment)),
            Err(NotTaken::Refused(eof)) => Err(eof),
            Err(NotTaken::Unknown) => Err(Eof::without_responses(
                Kind::Draining,
                "the node stops; if the unit is stored, it goes on at the next start",
            )),
        }
    }

    /// Submits a unit whose payload follows as a stream.
    pub async fn submit_stream(&self, request: UnitRequest) -> Result<SubmittedUnit, Eof> {
        self.units.submit(request, Bytes::new(), false).await
    }

    /// Asks a node, or this one, how it is.
    pub async fn ping(&self, node: Option<&NodeId>) -> Result<PingReport, Fault> {
        self.units.ping(node).await
    }

    /// What this node knows.
    pub fn status(&self) -> StatusReport {
        self.status.report()
    }

    /// Waits until `node` can be reached; false if it takes longer than `patience`.
    pub async fn wait_for(&self, node: &NodeId, patience: Duration) -> bool {
        let mut views = self.units.mesh.watch();
        let reachable = views.wait_for(|view| view.route(node.hash()).is_some());
        tokio::time::timeout(patience, reachable)
            .await
            .is_ok_and(|known| known.is_ok())
    }

    /// The control protocol, for the socket.
    pub(crate) fn control(&self) -> &Control {
        &self.control
    }

    /// Opens one control conversation with this node from within the process.
    pub(crate) fn control_stream(control: &Control) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(LEAF_PIPE_BYTES);
        tokio::spawn(control.clone().serve(theirs));
        ours
    }

    /// Waits until this node can't go on: an older node carries the same id, or the mesh driver is gone.
    pub async fn failed(&mut self) -> NodeError {
        let Some(duplicate) = &mut self.duplicate else {
            return std::future::pending().await;
        };
        let ended = duplicate.await;
        self.duplicate = None;
        match ended {
            Ok(_older) => NodeError::DuplicateId {
                node: self.id().clone(),
            },
            Err(_) => NodeError::DriverLost,
        }
    }

    /// Uses renewed certificates for new handshakes.
    pub(crate) fn reload(&self, settings: &Settings) -> Result<(), NodeError> {
        let identity = Identity::load(&settings.data_dir)?;
        if identity.node() != &self.units.node || identity.mesh() != &self.status.mesh {
            let found = format!("{} of mesh {}", identity.node(), identity.mesh());
            let expected = format!("{} of mesh {}", self.units.node, self.status.mesh);
            return Err(NodeError::Endpoint(format!(
                "expected the identity of {expected}, found {found}"
            )));
        }
        self.endpoint.reload(&identity)?;
        self.status.not_after.store(Arc::new(identity.not_after()));
        info!(not_after = %identity.not_after(), "certificate reloaded");
        Ok(())
    }

    /// Takes no new units, lets running ones end within `grace`, ends the others, and leaves the mesh.
    pub async fn stop(self, grace: Duration) {
        self.stop_sooner(grace, std::future::pending()).await;
    }

    /// As [`stop`](Self::stop); once `hurry` is ready, units are given no more time.
    pub(crate) async fn stop_sooner(mut self, grace: Duration, hurry: impl Future<Output = ()>) {
        tokio::select! {
            () = self.run_down(grace) => {}
            () = hurry => self.run_down_at_once().await,
        }
        if let Some(work) = &self.work {
            // What is not over goes on at the next start.
            let _late = tokio::time::timeout(KEEP, work.stop()).await;
        }
        self.dialers.shutdown().await;
        self.units.sessions().close_all();
        let _late = tokio::time::timeout(LEAVE, self.units.mesh.leave()).await;
        self.endpoint.close().await;
        self.driver.abort();
        self.tasks.shutdown().await;
    }

    /// Sees all units to their end, those that run here and those that local programs have submitted.
    async fn run_down(&self, grace: Duration) {
        let units = &self.units;
        units.begin_to_stop();
        let attended = tokio::time::timeout(grace, units.attended());
        let (_drained, attended) = tokio::join!(units.drain(grace), attended);
        if attended.is_err() {
            units.cut_short();
        }
        let delivered = async { tokio::join!(units.delivered(), units.attended()) };
        let _late = tokio::time::timeout(DELIVER, delivered).await;
        if units.sessions().count() > 0 {
            tokio::time::sleep(LAST_WORDS).await;
        }
    }

    /// Ends all units, and tells whoever waits for them as far as that takes no time.
    async fn run_down_at_once(&self) {
        let units = &self.units;
        units.stop_at_once().await;
        units.cut_short();
        let delivered = async { tokio::join!(units.delivered(), units.attended()) };
        let _late = tokio::time::timeout(DELIVER_AT_ONCE, delivered).await;
    }

    async fn wait_until_joined(&self, patience: Duration) -> Result<(), NodeError> {
        let mut views = self.units.mesh.watch();
        let joined = views.wait_for(|view| view.synced && !view.routes.is_empty());
        if tokio::time::timeout(patience, joined)
            .await
            .is_ok_and(|joined| joined.is_ok())
        {
            return Ok(());
        }
        let reasons = self.status.dialers.iter().map(|dialer| {
            let dial = dialer.lock();
            format!(
                "{}: {}",
                dial.address,
                dial.error.as_deref().unwrap_or("no answer")
            )
        });
        Err(NodeError::NoNeighbour(reasons.collect::<Vec<_>>().join("; ")))
    }
}

fn exec_settings(settings: &Settings, node: &NodeId, spool_dir: std::path::PathBuf) -> ExecSettings {
    ExecSettings {
        queue: settings.queue,
        max_bytes_payload: settings.max_bytes_payload,
        max_file_payload: settings.max_file_payload,
        payload_idle: settings.payload_idle,
        worker_config: settings.worker_config.clone(),
        ..ExecSettings::new(node.clone(), settings.max_workers, spool_dir)
    }
}

/// Opens the store of durable units and takes over what an earlier life has left there; nobody is answered before.
async fn start_work(
    settings: &Settings,
    open: OpenStore,
    units: &Arc<Units>,
    life: Incarnation,
    tasks: &mut JoinSet<()>,
) -> Result<Arc<Work>, NodeError> {
    let store_settings = StoreSettings::within(settings.work.quota, settings.work.reserve);
    let opening = tokio::task::spawn_blocking(move || {
        let (store, found) = open(store_settings)?;
        let starts = store.starts(life.0);
        Ok::<_, StoreError>((store, found, starts))
    });
    let (store, found, (starts, noted)) = opening
        .await
        .map_err(|error| NodeError::Store(error.to_string()))?
        .map_err(|error| NodeError::Store(error.to_string()))?;
    if let Err(error) = store.admit(0) {
        warn!(%error, "new durable units are refused");
    }
    let earlier = noted.map_or_else(EarlierStarts::unknown, |noted| {
        EarlierStarts::of(Incarnation(noted.life), noted.begun)
    });
    let executor = units.executor.clone();
    let host = Arc::new(Host::new(
        units.node.clone(),
        life,
        executor,
        store.clone(),
        starts,
        earlier.clone(),
        settings.work.clone(),
    ));
    let work = Work::new(units.clone(), host.clone(), store.clone(), settings.work.clone());
    durable::recover(&work, &host, found, &earlier).await;
    units.keep_durable(&work);
    units.host_durable(host.clone());
    tasks.spawn(store.attend());
    tasks.spawn(work.clone().watch_reach(units.mesh.clone()));
    tasks.spawn(work.clone().retain());
    tasks.spawn(host.clone().store_deferred());
    tasks.spawn(host.collect());
    Ok(work)
}

fn temporary_spool() -> Result<TempDir, NodeError> {
    TempDir::with_prefix("workmesh-leaf-").map_err(|error| NodeError::Io {
        what: "cannot make a temporary directory".to_owned(),
        error,
    })
}

/// Any free port: of both families where the system has IPv6.
fn any_address() -> SocketAddr {
    let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    if UdpSocket::bind(v6).is_ok() {
        v6
    } else {
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))
    }
}

/// Floods how full the pool is, whenever that changes.
async fn tell_load(executor: Executor, mesh: MeshHandle) {
    let mut changes = executor.load_changes();
    let mut load = executor.load();
    loop {
        mesh.load(load.advertised());
        tokio::time::sleep(LOAD_PAUSE).await;
        load = changes.changed().await;
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
