//! The one task that owns the mesh machine: feeds it, carries out what it asks for, and publishes what it knows.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};
use workmesh_proto::mesh::{CloseReason, LoadFigures, Mesh, MeshConfig, MeshCounters, Output, Reach, View};
use workmesh_proto::wire::frame::Frame;
use workmesh_proto::{Cost, Incarnation, LinkId, NodeId};

use super::drops::DropLog;
use super::links::{self, MAX_QUEUED_FRAMES};
use crate::link::{Endpoint, ForwardSocket, LinkConnection, LinkHandle, LinkKeys, plain_address};

/// Events that may wait for the driver; links wait beyond that.
const MAX_INPUTS: usize = 1024;
/// How often links are asked whether their peer's address has changed, and counters are looked at.
const CHECK: Duration = Duration::from_secs(1);

/// How long the last frames of all links may take.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What reaches the driver.
pub(super) enum Input {
    Opened {
        connection: Box<LinkConnection>,
        label: Option<String>,
    },
    Frame {
        link: LinkId,
        frame: Frame,
    },
    Closed {
        link: LinkId,
        reason: String,
    },
    Load(LoadFigures),
    Withdraw(oneshot::Sender<()>),
    Leave(oneshot::Sender<()>),
}

/// A link that is up, for `status`.
#[derive(Clone, Debug)]
pub(crate) struct LinkState {
    /// The neighbour.
    pub(crate) node: NodeId,
    /// As it was dialled, or where the peer dialled from.
    pub(crate) address: String,
    /// What it costs to cross.
    pub(crate) cost: Cost,
    handle: LinkHandle,
}

impl LinkState {
    pub(crate) fn rtt(&self) -> Duration {
        self.handle.rtt()
    }
}

/// What everyone else holds of the driver. Clones are cheap.
#[derive(Clone)]
pub(crate) struct MeshHandle {
    inputs: mpsc::Sender<Input>,
    view: watch::Receiver<Arc<View>>,
    links: watch::Receiver<BTreeMap<LinkId, LinkState>>,
    counters: Arc<Mutex<MeshCounters>>,
}

impl MeshHandle {
    /// Hands a fresh link to the mesh. `label` is the address that was dialled.
    pub(super) async fn link_opened(&self, connection: LinkConnection, label: Option<String>) {
        let connection = Box::new(connection);
        let _stopping = self.inputs.send(Input::Opened { connection, label }).await;
    }

    /// What is known of the mesh at this moment.
    pub(crate) fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// For waiting until what is known changes.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// The links that are up.
    pub(crate) fn links(&self) -> Vec<LinkState> {
        self.links.borrow().values().cloned().collect()
    }

    /// What the mesh machine has counted, up to a second ago.
    pub(crate) fn counters(&self) -> MeshCounters {
        self.counters.lock().clone()
    }

    /// Tells the mesh how full the pool is. A figure that finds the driver busy is left out: a fresher one follows.
    pub(crate) fn load(&self, figures: LoadFigures) {
        let _busy = self.inputs.try_send(Input::Load(figures));
    }

    /// Advertises no workers from here on; done when the advertisement is on its way to the neighbours.
    pub(crate) async fn withdraw_workers(&self) {
        let (done, sent) = oneshot::channel();
        if self.inputs.send(Input::Withdraw(done)).await.is_ok() {
            let _stopped = sent.await;
        }
    }

    /// Leaves the mesh: the neighbours know at once.
    pub(crate) async fn leave(&self) {
        let (done, left) = oneshot::channel();
        if self.inputs.send(Input::Leave(done)).await.is_ok() {
            let _stopped = left.await;
        }
    }

    pub(super) fn is_linked(&self, node: &NodeId) -> bool {
        self.links.borrow().values().any(|link| link.node == *node)
    }

    /// Waits while a link to `node` is up.
    pub(super) async fn wait_until_not_linked(&self, node: &NodeId) {
        let mut links = self.links.clone();
        let _stopping = links
            .wait_for(|links| links.values().all(|link| link.node != *node))
            .await;
    }
}

struct LinkEntry {
    handle: LinkHandle,
    keys: LinkKeys,
    label: String,
    address: SocketAddr,
    queue: mpsc::Sender<Frame>,
    close_reason: oneshot::Sender<String>,
    node: NodeId,
}

/// The tasks that write to links: a node's last words take a moment to leave.
struct Writers {
    open: mpsc::Sender<Infallible>,
    all_closed: mpsc::Receiver<Infallible>,
}

impl Writers {
    fn new() -> Self {
        let (open, all_closed) = mpsc::channel(1);
        Self { open, all_closed }
    }

    /// Waits until those whose queue was dropped have written the rest and closed their links.
    async fn finish(self) {
        let Self { open, mut all_closed } = self;
        drop(open);
        let _late = tokio::time::timeout(LAST_WORDS, all_closed.recv()).await;
    }
}

/// See the module.
pub(crate) struct Driver {
    mesh: Mesh,
    endpoint: Arc<Endpoint>,
    inputs: mpsc::Receiver<Input>,
    sender: mpsc::Sender<Input>,
    view: watch::Sender<Arc<View>>,
    shown: watch::Sender<BTreeMap<LinkId, LinkState>>,
    writers: Writers,
    links: HashMap<LinkId, LinkEntry>,
    next_link: u64,
    drops: DropLog,
    counters: Arc<Mutex<MeshCounters>>,
}

impl Driver {
    pub(crate) fn new(config: MeshConfig, endpoint: Arc<Endpoint>) -> (Self, MeshHandle) {
        let mesh = Mesh::new(config, Instant::now());
        let (sender, inputs) = mpsc::channel(MAX_INPUTS);
        let (view, watch) = watch::channel(mesh.view());
        let (shown, links) = watch::channel(BTreeMap::new());
        let counters = Arc::new(Mutex::new(MeshCounters::default()));
        let handle = MeshHandle {
            inputs: sender.clone(),
            view: watch,
            links,
            counters: counters.clone(),
        };
        let driver = Self {
            mesh,
            endpoint,
            inputs,
            sender,
            view,
            shown,
            writers: Writers::new(),
            links: HashMap::new(),
            next_link: 1,
            drops: DropLog::default(),
            counters,
        };
        (driver, handle)
    }

    /// Runs until the mesh was left, or until an older node of the same id is found: then that node's life is given back.
    pub(crate) async fn run(mut self) -> Result<(), Incarnation> {
        let mut check = tokio::time::interval(CHECK);
        let mut leaving = None;
        loop {
            let refused = self.carry_out();
            if refused.is_err() || (leaving.is_some() && self.links.is_empty()) {
                self.links.clear();
                self.writers.finish().await;
                return refused;
            }
            let timeout = self.mesh.poll_timeout();
            tokio::select! {
                input = self.inputs.recv() => match input {
                    Some(Input::Leave(done)) => {
                        self.mesh.handle_leave(Instant::now());
                        leaving = Some(done);
                    }
                    Some(input) => self.on_input(input),
                    None => return Ok(()),
                },
                () = sleep_until(timeout) => self.mesh.handle_timeout(Instant::now()),
                _ = check.tick() => self.look_around(),
            }
        }
    }

    fn on_input(&mut self, input: Input) {
        let now = Instant::now();
        match input {
            Input::Opened { connection, label } => self.on_opened(now, *connection, label),
            Input::Frame { link, frame } => self.mesh.handle_frame(now, link, &frame),
            Input::Closed { link, reason } => {
                if let Some(entry) = self.links.remove(&link) {
                    self.endpoint.socket().remove_link(link);
                    info!(node = %entry.node, address = entry.label, reason, "link closed");
                }
                self.mesh.handle_link_closed(now, link);
            }
            Input::Load(figures) => self.mesh.handle_load(now, figures),
            Input::Withdraw(done) => {
                self.mesh.handle_withdrawal(now);
                // What the mesh asks for is carried out before the next task runs.
                let _gone = done.send(());
            }
            Input::Leave(_) => unreachable!("the caller has taken it"),
        }
    }

    fn on_opened(&mut self, now: Instant, connection: LinkConnection, label: Option<String>) {
        let link = LinkId(self.next_link);
        self.next_link += 1;
        let handle = connection.handle();
        let address = handle.address();
        let (queue, queued) = mpsc::channel(MAX_QUEUED_FRAMES);
        let (close_reason, reason) = oneshot::channel();
        tokio::spawn(links::read(
            link,
            handle.clone(),
            connection.receiver,
            self.sender.clone(),
        ));
        let open = self.writers.open.clone();
        tokio::spawn(links::write(
            handle.clone(),
            connection.sender,
            queued,
            reason,
            open,
        ));
        let node = connection.certified.clone();
        let label = label.unwrap_or_else(|| plain_address(address).to_string());
        let keys = connection.keys;
        self.links.insert(
            link,
            LinkEntry {
                handle,
                keys,
                label,
                address,
                queue,
                close_reason,
                node: node.clone(),
            },
        );
        self.mesh.handle_link_opened(now, link, node, connection.dialled);
    }

    fn carry_out(&mut self) -> Result<(), Incarnation> {
        while let Some(output) = self.mesh.poll_output() {
            match output {
                Output::Send { link, frame } => self.send(link, frame),
                Output::Close { link, reason } => self.close(link, &reason),
                Output::LinkUp { link, node, cost, .. } => self.on_link_up(link, node, cost),
                Output::LinkDown { link, .. } => {
                    self.endpoint.socket().remove_link(link);
                    self.hide(link);
                }
                Output::ViewChanged(view) => self.on_view(view),
                Output::DuplicateId { older } => return Err(older),
            }
        }
        Ok(())
    }

    fn send(&mut self, link: LinkId, frame: Frame) {
        let Some(entry) = self.links.get(&link) else {
            return;
        };
        if entry.queue.try_send(frame).is_err() {
            entry.handle.close("too slow");
        }
    }

    fn close(&mut self, link: LinkId, reason: &CloseReason) {
        let Some(entry) = self.links.remove(&link) else {
            return;
        };
        self.endpoint.socket().remove_link(link);
        self.hide(link);
        match reason {
            CloseReason::Replaced
            | CloseReason::Restarted
            | CloseReason::Leaving
            | CloseReason::Goodbye(_) => {
                info!(node = %entry.node, address = entry.label, %reason, "link closed");
            }
            _ => warn!(node = %entry.node, address = entry.label, %reason, "link closed"),
        }
        let _gone = entry.close_reason.send(reason.to_string());
    }

    fn hide(&self, link: LinkId) {
        self.shown.send_if_modified(|shown| shown.remove(&link).is_some());
    }

    fn on_link_up(&mut self, link: LinkId, node: NodeId, cost: Cost) {
        let Some(entry) = self.links.get_mut(&link) else {
            return;
        };
        entry.address = entry.handle.address();
        self.endpoint
            .socket()
            .add_link(link, entry.address, entry.keys.clone());
        info!(%node, address = entry.label, cost = cost.0, "link up");
        let state = LinkState {
            node: node.clone(),
            address: entry.label.clone(),
            cost,
            handle: entry.handle.clone(),
        };
        entry.node = node;
        self.shown.send_modify(|shown| drop(shown.insert(link, state)));
    }

    fn on_view(&mut self, view: Arc<View>) {
        let next_hops = view.members.values().filter_map(|member| match &member.reach {
            Reach::Via(route) => Some((member.node().hash(), route.link)),
            Reach::Here | Reach::Nowhere => None,
        });
        let socket: &ForwardSocket = self.endpoint.socket();
        socket.set_routes(next_hops.collect());
        self.view.send_replace(view);
    }

    fn look_around(&mut self) {
        self.follow_addresses();
        self.drops
            .report(self.endpoint.socket().counters(), Instant::now());
        *self.counters.lock() = self.mesh.counters().clone();
    }

    /// A peer behind address translation can move: forward frames are known by the address they come from.
    fn follow_addresses(&mut self) {
        for (link, entry) in &mut self.links {
            let address = entry.handle.address();
            if address != entry.address {
                info!(node = %entry.node, from = %plain_address(entry.address), to = %plain_address(address), "peer has moved");
                entry.address = address;
                self.endpoint.socket().move_link(*link, address);
            }
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
