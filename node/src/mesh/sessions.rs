//! Sessions to nodes anywhere: dialled when first needed, shared by all units, watched, and closed when idle.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::{debug, info, warn};
use workmesh_proto::mesh::{Member, Reach, View};
use workmesh_proto::{Incarnation, NodeId};

use super::driver::MeshHandle;
use crate::link::{Endpoint, FrameReceiver, FrameSender, LinkError, SessionConnection};

/// A session without a conversation is closed after this.
const IDLE: Duration = Duration::from_secs(60);
/// How many detection times a peer may be out of reach, after it was found to be, before its session is given up.
const UNREACHABLE_DETECTIONS: u32 = 2;
/// How often a session looks whether it is idle, and its peer out of reach, restarted or gone.
const CHECK: Duration = Duration::from_secs(1);
/// How long the mesh must say that the peer has restarted or left before the session is given up: while a second node with
/// the peer's id is found out and refused, the mesh says both, and a peer that does either in order closes its sessions.
const DOUBT: Duration = Duration::from_secs(2);
/// How long the handshake of a session may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long the advertisement of a node's present life may come after its session.
const LATE_ADVERTISEMENT: Duration = Duration::from_secs(2);

/// Why there is no session to a node.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum SessionError {
    /// Nobody has heard of the node.
    #[error("no such node: {0}; `node status` lists the nodes that are known")]
    NoSuchNode(NodeId),
    /// The node is known, but no route leads to it.
    #[error("no route to {0}; `node status` shows links and routes")]
    NoRoute(NodeId),
    /// The node does not answer, or not as itself.
    #[error("no session to {node}: {error}")]
    Failed {
        /// Whom we meant.
        node: NodeId,
        /// What went wrong.
        error: LinkError,
    },
}

/// One stream of a session that is in use: the session is not idle while it lives.
#[derive(Debug)]
pub(crate) struct InUse(Arc<AtomicU32>);

impl InUse {
    fn new(count: &Arc<AtomicU32>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream of a session, with one conversation on it.
pub(crate) struct Conversation {
    /// The other end, as its certificate proves it.
    pub(crate) peer: NodeId,
    /// Frames out.
    pub(crate) sender: FrameSender,
    /// Frames in.
    pub(crate) receiver: FrameReceiver,
    /// Keeps the session from being idle.
    pub(crate) in_use: InUse,
}

/// What is done with conversations that peers open.
pub(crate) type Serve = Arc<dyn Fn(Conversation) + Send + Sync>;

#[derive(Clone)]
struct Session {
    connection: SessionConnection,
    node: NodeId,
    in_use: Arc<AtomicU32>,
    /// How many streams in use the session's window has been made for.
    room: Arc<AtomicU32>,
    /// The mesh says that the peer has restarted or left: further conversations take another session.
    doubted: Arc<AtomicBool>,
}

impl Session {
    /// Counts one more stream, and makes room for its unread bytes.
    fn use_stream(&self) -> InUse {
        let in_use = InUse::new(&self.in_use);
        let count = self.in_use.load(Ordering::Relaxed);
        if count > self.room.load(Ordering::Relaxed) {
            let room = count.next_power_of_two();
            self.room.store(room, Ordering::Relaxed);
            self.connection.make_room(room);
        }
        in_use
    }

    fn is_up(&self) -> bool {
        !self.connection.is_closed()
    }

    /// Whether a further conversation may be opened on it.
    fn is_open(&self) -> bool {
        self.is_up() && !self.doubted.load(Ordering::Relaxed)
    }
}

type Slot = Arc<tokio::sync::Mutex<Option<Session>>>;

/// See the module.
pub(crate) struct Sessions {
    endpoint: Arc<Endpoint>,
    mesh: MeshHandle,
    serve: Serve,
    slots: Mutex<HashMap<NodeId, Slot>>,
}

impl Sessions {
    pub(crate) fn new(endpoint: Arc<Endpoint>, mesh: MeshHandle, serve: Serve) -> Arc<Self> {
        Arc::new(Self {
            endpoint,
            mesh,
            serve,
            slots: Mutex::default(),
        })
    }

    /// Opens a conversation with `node`, over the session that is up or a fresh one.
    pub(crate) async fn open(self: &Arc<Self>, node: &NodeId) -> Result<Conversation, SessionError> {
        match self.try_open(node).await {
            // The session has ended meanwhile, and nothing was said on it.
            Err(SessionError::Failed {
                error: LinkError::Closed(_) | LinkError::Idle,
                ..
            }) => self.try_open(node).await,
            result => result,
        }
    }

    async fn try_open(self: &Arc<Self>, node: &NodeId) -> Result<Conversation, SessionError> {
        let session = self.session(node).await?;
        let failed = |error| SessionError::Failed {
            node: node.clone(),
            error,
        };
        let in_use = session.use_stream();
        let (sender, receiver) = session.connection.open().await.map_err(failed)?;
        Ok(Conversation {
            peer: session.connection.certified.clone(),
            sender,
            receiver,
            in_use,
        })
    }

    async fn session(self: &Arc<Self>, node: &NodeId) -> Result<Session, SessionError> {
        let slot = self.slot(node);
        let mut place = slot.lock().await;
        if let Some(session) = place.as_ref().filter(|session| session.is_open()) {
            return Ok(session.clone());
        }
        // Boxed: most find a session, and do not make room for it.
        let session = Box::pin(self.dial(node)).await?;
        *place = Some(session.clone());
        Ok(session)
    }

    async fn dial(self: &Arc<Self>, node: &NodeId) -> Result<Session, SessionError> {
        let member = check_reachable(&self.mesh.view(), node)?;
        let failed = |error| SessionError::Failed {
            node: node.clone(),
            error,
        };
        let connection = tokio::time::timeout(HANDSHAKE, self.endpoint.dial_session(member.node()))
            .await
            .map_err(|_| failed(LinkError::Handshake("no answer".to_owned())))?
            .map_err(failed)?;
        debug!(%node, "session up");
        Ok(self.start(connection, member.node().clone(), Some(member.incarnation())))
    }

    fn slot(&self, node: &NodeId) -> Slot {
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.get(node) {
            return slot.clone();
        }
        // A dial that has failed or was given up leaves its slot empty.
        slots.retain(|_, slot| {
            Arc::strong_count(slot) > 1 || slot.try_lock().is_ok_and(|place| place.is_some())
        });
        slots.entry(node.clone()).or_default().clone()
    }

    /// Takes a session that a peer has opened.
    pub(super) async fn accepted(self: Arc<Self>, connection: SessionConnection) {
        let Some(node) = self.identify(&connection).await else {
            warn!(certified = %connection.certified, address = ?connection.address, "refused a session: the certificate is not the sender's");
            connection.close("your certificate is not your address's");
            return;
        };
        debug!(%node, "session accepted");
        let session = self.start(connection, node.clone(), None);
        if let Ok(mut place) = self.slot(&node).try_lock()
            && !place.as_ref().is_some_and(Session::is_open)
        {
            *place = Some(session);
        }
    }

    /// Which node a session's address belongs to, if the certificate bears it out.
    async fn identify(&self, connection: &SessionConnection) -> Option<NodeId> {
        if connection.certified.hash() == connection.address {
            return Some(connection.certified.clone());
        }
        let mut views = self.mesh.watch();
        let address = connection.address;
        let known = views.wait_for(|view| view.member_of(address).is_some());
        let view = tokio::time::timeout(LATE_ADVERTISEMENT, known)
            .await
            .ok()?
            .ok()?
            .clone();
        let node = view.member_of(address)?.node().clone();
        (node.base() == connection.certified).then_some(node)
    }

    /// `life` is the peer's, if it is known: a peer that dials may be heard of later than its session.
    fn start(
        self: &Arc<Self>,
        connection: SessionConnection,
        node: NodeId,
        life: Option<Incarnation>,
    ) -> Session {
        let session = Session {
            connection,
            node,
            in_use: Arc::default(),
            room: Arc::default(),
            doubted: Arc::default(),
        };
        tokio::spawn(accept_streams(session.clone(), self.serve.clone()));
        tokio::spawn(self.clone().watch(session.clone(), life));
        session
    }

    /// Closes the session when it is idle, when the peer is out of reach for long, or when the peer has restarted.
    async fn watch(self: Arc<Self>, session: Session, known: Option<Incarnation>) {
        let started = Instant::now();
        let (mut idle_since, mut reached) = (started, started);
        let mut life = known;
        let mut doubted = None;
        let reason = loop {
            tokio::select! {
                reason = session.connection.closed() => break reason,
                () = tokio::time::sleep(CHECK) => {}
            }
            let now = Instant::now();
            let view = self.mesh.view();
            if session.in_use.load(Ordering::Relaxed) > 0 {
                idle_since = now;
            }
            // A peer's session may be older than what is heard of its present life.
            if life.is_none() || (known.is_none() && now.duration_since(started) < LATE_ADVERTISEMENT) {
                life = view.member(&session.node).map(|member| member.incarnation());
            }
            let member = view.member(&session.node);
            if member.is_some_and(|member| member.reach != Reach::Nowhere) {
                reached = now;
            }
            let gone = match (member, life) {
                (Some(member), Some(life)) if life < member.incarnation() => Some("the peer has restarted"),
                (None, Some(_)) => Some("the peer has left"),
                _ => None,
            };
            session.doubted.store(gone.is_some(), Ordering::Relaxed);
            match gone {
                Some(gone) if now.duration_since(*doubted.get_or_insert(now)) >= DOUBT => {
                    break gone.to_owned();
                }
                Some(_) => {}
                None => doubted = None,
            }
            if now.duration_since(reached) > self.endpoint.detection() * UNREACHABLE_DETECTIONS {
                break "the peer is out of reach".to_owned();
            }
            if now.duration_since(idle_since) > IDLE {
                session.connection.close_idle();
                break "idle".to_owned();
            }
        };
        session.connection.close(&reason);
        info!(node = %session.node, reason, "session closed");
        self.forget(&session);
    }

    fn forget(&self, session: &Session) {
        let mut slots = self.slots.lock();
        let Some(slot) = slots.get(&session.node) else {
            return;
        };
        let Ok(mut place) = slot.clone().try_lock_owned() else {
            return;
        };
        if place.as_ref().is_some_and(|held| !held.is_up()) {
            *place = None;
        }
        if place.is_none() && Arc::strong_count(slot) <= 2 {
            slots.remove(&session.node);
            self.endpoint.socket().forget(session.connection.address);
        }
    }

    /// Closes all sessions, while the links can still carry the word.
    pub(crate) fn close_all(&self) {
        for slot in self.slots.lock().values() {
            if let Ok(place) = slot.try_lock()
                && let Some(session) = &*place
            {
                session.connection.close("the node stops");
            }
        }
    }

    /// Sessions that are up.
    pub(crate) fn count(&self) -> usize {
        let slots = self.slots.lock();
        let is_up = |slot: &&Slot| {
            slot.try_lock()
                .is_ok_and(|place| place.as_ref().is_some_and(Session::is_up))
        };
        slots.values().filter(is_up).count()
    }
}

fn check_reachable(view: &View, node: &NodeId) -> Result<Arc<Member>, SessionError> {
    let member = view
        .member(node)
        .ok_or_else(|| SessionError::NoSuchNode(node.clone()))?;
    match member.reach {
        Reach::Via(_) => Ok(member.clone()),
        Reach::Here | Reach::Nowhere => Err(SessionError::NoRoute(node.clone())),
    }
}

/// Serves the peer's conversations, and lets it have more streams while it uses those it has.
async fn accept_streams(session: Session, serve: Serve) {
    let mut allowed = 0;
    while let Ok((sender, receiver)) = session.connection.accept().await {
        let in_use = session.use_stream();
        if !session.is_up() {
            // Who opened it is told that it was not seen.
            return;
        }
        let wanted = session.in_use.load(Ordering::Relaxed).saturating_mul(2);
        if wanted > allowed {
            allowed = wanted.next_power_of_two();
            session.connection.allow_streams(allowed);
        }
        let peer = session.connection.certified.clone();
        serve(Conversation {
            peer,
            sender,
            receiver,
            in_use,
        });
    }
}
