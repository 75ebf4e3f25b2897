//! What all conversations of a node share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use workmesh_proto::{NodeId, UnitId};

use super::durable::{Host, Work};
use super::placement::Outstanding;
use super::recent::RecentUnits;
use super::serve;
use crate::exec::Executor;
use crate::link::Endpoint;
use crate::mesh::{MeshHandle, Sessions};

/// See the module. One for each node, shared by all its tasks.
pub(crate) struct Units {
    /// This node.
    pub(crate) node: NodeId,
    /// When it started.
    pub(crate) started: Instant,
    /// Its executor.
    pub(crate) executor: Executor,
    /// Its place in the mesh.
    pub(crate) mesh: MeshHandle,
    pub(super) outstanding: Arc<Outstanding>,
    pub(super) recent: Mutex<RecentUnits>,
    stopping: AtomicBool,
    sessions: OnceLock<Arc<Sessions>>,
    /// The durable units that run here; none on a node without a store.
    host: OnceLock<Arc<Host>>,
    /// The durable units of which this node is the origin; likewise.
    work: OnceLock<Weak<Work>>,
    /// Conversations of peers, until their streams are delivered.
    served: TaskTracker,
    /// Conversations of local programs that a stop waits for.
    attended: TaskTracker,
    cut_short: CancellationToken,
}

impl Units {
    /// Joins executor and mesh; from here on peers' conversations are served.
    pub(crate) fn start(
        node: NodeId,
        executor: Executor,
        mesh: MeshHandle,
        endpoint: Arc<Endpoint>,
    ) -> Arc<Self> {
        let units = Arc::new(Self {
            node,
            started: Instant::now(),
            executor,
            mesh: mesh.clone(),
            outstanding: Arc::default(),
            recent: Mutex::default(),
            stopping: AtomicBool::new(false),
            sessions: OnceLock::new(),
            host: OnceLock::new(),
            work: OnceLock::new(),
            served: TaskTracker::new(),
            attended: TaskTracker::new(),
            cut_short: CancellationToken::new(),
        });
        let weak = Arc::downgrade(&units);
        let sessions = Sessions::new(
            endpoint,
            mesh,
            Arc::new(move |conversation| {
                if let Some(units) = weak.upgrade() {
                    let serving = serve::serve(units.clone(), conversation);
                    units.served.spawn(serving);
                }
            }),
        );
        let _first = units.sessions.set(sessions);
        units
    }

    /// From here on each conversation lasts until the peer has all of it.
    pub(crate) fn begin_to_stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Waits until everything that peers have asked for is delivered to them.
    pub(crate) async fn delivered(&self) {
        self.served.close();
        self.served.wait().await;
    }

    /// A local program has a conversation that a stop waits for, as long as the token lives.
    pub(crate) fn attend(&self) -> TaskTrackerToken {
        self.attended.token()
    }

    /// Waits until local programs have all that they have asked for.
    pub(crate) async fn attended(&self) {
        self.attended.close();
        self.attended.wait().await;
    }

    /// Units that were submitted here and run elsewhere get no more time.
    pub(crate) fn cut_short(&self) {
        self.cut_short.cancel();
    }

    /// Waits until [`cut_short`](Self::cut_short).
    pub(crate) async fn until_cut_short(&self) {
        self.cut_short.cancelled().await;
    }

    /// From here on an id of these is no other unit's.
    pub(crate) fn keep_durable(&self, work: &Arc<Work>) {
        // The first one counts.
        let _second = self.work.set(Arc::downgrade(work));
    }

    /// Whether a unit with this id that is not durable was submitted here lately.
    pub(super) fn was_submitted(&self, unit: UnitId) -> bool {
        self.recent.lock().contains(unit)
    }

    /// Whether this node is the origin of a durable unit with this id.
    pub(super) fn has_durable(&self, unit: UnitId) -> bool {
        let work = self.work.get().and_then(Weak::upgrade);
        work.is_some_and(|work| work.has(unit))
    }

    /// From here on durable units are taken.
    pub(crate) fn host_durable(&self, host: Arc<Host>) {
        let _first = self.host.set(host);
    }

    /// The durable units that run here; `None` on a node without a store.
    pub(super) fn host(&self) -> Option<&Arc<Host>> {
        self.host.get()
    }

    /// Its sessions.
    pub(crate) fn sessions(&self) -> &Arc<Sessions> {
        self.sessions
            .get()
            .expect("start sets the sessions before it gives the value away")
    }
}
