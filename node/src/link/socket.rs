//! The one UDP socket of a node. QUIC packets of links pass through it unchanged; packets of sessions are wrapped in
//! forward frames when they leave, unwrapped when they are for this node, and passed on when they are not.
//!
//! The QUIC endpoint calls it; it never decrypts, never blocks, and never waits for another task.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use quinn::udp::{EcnCodepoint, RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use workmesh_proto::wire::forward::{ForwardHeader, HEADER_BYTES, HOP_LIMIT, is_forward_frame};
use workmesh_proto::{LinkId, NodeHash};

use super::counters::{Drop, ForwardCounters};
use super::queue::{Inbox, Outbox};
use super::table::{ForwardTable, LinkKeys, NextHops};
use super::transit::{Gathered, Run, batch_bytes};

/// The port of every virtual address; it has no meaning.
const VIRTUAL_PORT: u16 = 1;
/// How many received batches of nothing but transit one poll takes before it lets other tasks run.
const MAX_TRANSIT_ROUNDS: usize = 16;

/// The virtual address under which the endpoint knows a node.
pub(super) fn virtual_address(node: NodeHash) -> SocketAddr {
    SocketAddr::V6(SocketAddrV6::new(node.virtual_address(), VIRTUAL_PORT, 0, 0))
}

/// The node that a virtual address stands for.
pub(super) fn virtual_node(address: SocketAddr) -> Option<NodeHash> {
    match address {
        SocketAddr::V6(v6) => NodeHash::from_virtual_address(*v6.ip()),
        SocketAddr::V4(_) => None,
    }
}

/// An address as a person writes it: IPv4 without the mapping that the endpoint uses.
pub(crate) fn plain_address(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// An address as the endpoint knows it: IPv4 mapped into IPv6.
fn mapped_address(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) => SocketAddr::new(IpAddr::V6(v4.ip().to_ipv6_mapped()), v4.port()),
        SocketAddr::V6(_) => address,
    }
}

/// See the module.
pub(crate) struct ForwardSocket {
    node: NodeHash,
    io: UdpSocket,
    offload: UdpSocketState,
    is_v4: bool,
    counters: ForwardCounters,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    table: ForwardTable,
    scratch: Vec<u8>,
    inbox: Inbox,
    outbox: Outbox,
    /// Transit of the buffers that were received together.
    gathered: Gathered,
}

impl ForwardSocket {
    pub(crate) fn new(socket: std::net::UdpSocket, node: NodeHash) -> io::Result<Self> {
        let offload = UdpSocketState::new((&socket).into())?;
        let is_v4 = socket.local_addr()?.is_ipv4();
        socket.set_nonblocking(true)?;
        Ok(Self {
            node,
            io: UdpSocket::from_std(socket)?,
            offload,
            is_v4,
            counters: ForwardCounters::default(),
            state: Mutex::default(),
        })
    }

    pub(crate) fn counters(&self) -> &ForwardCounters {
        &self.counters
    }

    pub(crate) fn bound_address(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    /// Lets forward frames come and go over a link.
    pub(crate) fn add_link(&self, link: LinkId, address: SocketAddr, keys: LinkKeys) {
        self.state
            .lock()
            .table
            .add_link(link, self.real_address(address), keys);
    }

    /// The peer's address has changed.
    pub(crate) fn move_link(&self, link: LinkId, address: SocketAddr) {
        self.state
            .lock()
            .table
            .move_link(link, self.real_address(address));
    }

    pub(crate) fn remove_link(&self, link: LinkId) {
        self.state.lock().table.remove_link(link);
    }

    /// Takes new routes, and sends the last packets of each session whose route has changed again: the sender would
    /// otherwise wait for its probe timeout, which has doubled while the old route was dead.
    pub(crate) fn set_routes(&self, routes: NextHops) {
        let mut state = self.state.lock();
        for node in state.table.set_routes(routes) {
            for packet in state.table.kept_for(node) {
                if self
                    .send_wrapped(&mut state, node, &packet, packet.len(), None)
                    .is_ok()
                {
                    self.counters.resent.add(1);
                }
            }
        }
    }

    /// Forgets the packets kept for a session that has ended.
    pub(crate) fn forget(&self, node: NodeHash) {
        self.state.lock().table.forget(node);
    }

    /// An address as the system wants it for this socket's family.
    fn real_address(&self, address: SocketAddr) -> SocketAddr {
        if self.is_v4 {
            plain_address(address)
        } else {
            mapped_address(address)
        }
    }

    fn send_now(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.io.try_io(Interest::WRITABLE, || {
            self.offload.send((&self.io).into(), transmit)
        })
    }

    /// Wraps each segment of `batch` in a forward frame and sends them as one batch. A node without a route is
    /// as good as a lost packet.
    fn send_wrapped(
        &self,
        state: &mut State,
        node: NodeHash,
        batch: &[u8],
        segment_bytes: usize,
        ecn: Option<EcnCodepoint>,
    ) -> io::Result<()> {
        let unroutable = || {
            self.counters
                .unroutable
                .add(batch.len().div_ceil(segment_bytes) as u64);
            Ok(())
        };
        let Some(path) = state.table.path_to(node) else {
            return unroutable();
        };
        let header = ForwardHeader {
            hops: HOP_LIMIT,
            destination: node,
            source: self.node,
        };
        state.scratch.clear();
        for packet in batch.chunks(segment_bytes) {
            let Some(sealed) = path.seal(&header, packet) else {
                return unroutable();
            };
            state.scratch.extend_from_slice(&sealed);
            state.scratch.extend_from_slice(packet);
        }
        self.send_now(&Transmit {
            destination: path.address,
            ecn,
            contents: &state.scratch,
            segment_size: (batch.len() > segment_bytes).then_some(segment_bytes + HEADER_BYTES),
            src_ip: None,
        })
    }

    /// Sorts the segments of one received buffer: frames for this node are moved together at its start without their
    /// headers, transit is gathered, and what does not fit goes to the inbox. Says what is left for the endpoint.
    fn sort(&self, state: &mut State, meta: &RecvMeta, buffer: &mut [u8]) -> Option<RecvMeta> {
        let stride = meta.stride.max(1);
        let from = mapped_address(meta.addr);
        if virtual_node(from).is_some() {
            // No interface carries such an address: the datagram is forged, and no session's.
            self.counters.drop_frames(Drop::UnknownLink, 1, Some(from));
            return None;
        }
        if !buffer[..meta.len].chunks(stride).any(is_forward_frame) {
            return Some(RecvMeta { addr: from, ..*meta });
        }
        let link = state.table.link_at(&meta.addr);
        let mut kept: Option<RecvMeta> = None;
        let mut transit = Run::default();
        let mut at = 0;
        while at < meta.len {
            let end = meta.len.min(at + stride);
            let segment = self.classify(state, link, meta.addr, &mut buffer[at..end]);
            if let Segment::Transit(next) = segment
                && transit.joins(next, end - at)
            {
                transit.bytes.end = end;
                at = end;
                continue;
            }
            // What is kept moves down over the bytes of the transit before it.
            self.pass_on(state, &transit, buffer, meta.ecn);
            transit = Run::default();
            let fits = match segment {
                Segment::Link => keep(state, &mut kept, buffer, at..end, from, meta),
                Segment::Local(source) => {
                    let packet = at + HEADER_BYTES..end;
                    keep(state, &mut kept, buffer, packet, virtual_address(source), meta)
                }
                Segment::Transit(next) => {
                    transit = Run::start(next, at..end);
                    true
                }
                Segment::Dropped => true,
            };
            if !fits {
                self.counters.drop_frames(Drop::QueueFull, 1, None);
            }
            at = end;
        }
        self.pass_on(state, &transit, buffer, meta.ecn);
        kept
    }

    /// What a segment is. Transit has its header rewritten in place for the next link.
    fn classify(
        &self,
        state: &mut State,
        link: Option<LinkId>,
        from: SocketAddr,
        segment: &mut [u8],
    ) -> Segment {
        if !is_forward_frame(segment) {
            return Segment::Link;
        }
        let Some(path) = link.and_then(|link| state.table.link(link)) else {
            return self.drop_one(Drop::UnknownLink, from);
        };
        let header = match path.open(segment) {
            Ok(header) => header,
            Err(reason) => return self.drop_one(reason, from),
        };
        if header.destination == self.node {
            return Segment::Local(header.source);
        }
        let Some(hops) = header.hops.checked_sub(1).filter(|hops| *hops > 0) else {
            return self.drop_one(Drop::HopLimit, from);
        };
        let Some(next) = state.table.path_to(header.destination) else {
            return self.drop_one(Drop::NoRoute, from);
        };
        let (head, packet) = segment.split_at_mut(HEADER_BYTES);
        let Some(sealed) = next.seal(&ForwardHeader { hops, ..header }, packet) else {
            return self.drop_one(Drop::NoRoute, from);
        };
        head.copy_from_slice(&sealed);
        Segment::Transit(next.address)
    }

    fn drop_one(&self, reason: Drop, from: SocketAddr) -> Segment {
        self.counters.drop_frames(reason, 1, Some(from));
        Segment::Dropped
    }

    /// Gathers a run of transit segments. A long one that joins nothing, or what may be a probe, is sent from the buffer that it
    /// arrived in.
    fn pass_on(&self, state: &mut State, run: &Run, buffer: &[u8], ecn: Option<EcnCodepoint>) {
        let Some(next) = run.next else { return };
        let contents = &buffer[run.bytes.clone()];
        let most = batch_bytes(run.segment_bytes, self.offload.max_gso_segments());
        let alone = run.may_be_probe();
        let joins = !alone
            && state
                .gathered
                .joins(next, ecn, run.segment_bytes, contents.len(), most);
        if !joins {
            self.depart(state);
        }
        if alone || (state.gathered.is_empty() && contents.len() > most / 2) {
            for batch in contents.chunks(most) {
                let transmit = Transmit {
                    destination: next,
                    ecn,
                    contents: batch,
                    segment_size: (batch.len() > run.segment_bytes).then_some(run.segment_bytes),
                    src_ip: None,
                };
                self.send_transit(&mut state.outbox, &transmit, run.segment_bytes);
            }
        } else {
            state.gathered.push(run, ecn, contents);
        }
    }

    /// Sends the transit that was gathered.
    fn depart(&self, state: &mut State) {
        let State { gathered, outbox, .. } = state;
        gathered.send(|transmit, segment_bytes| self.send_transit(outbox, transmit, segment_bytes));
    }

    fn send_transit(&self, outbox: &mut Outbox, transmit: &Transmit<'_>, segment_bytes: usize) {
        let sent = outbox.is_empty() && self.send_now(transmit).is_ok();
        let frames = transmit.contents.len().div_ceil(segment_bytes) as u64;
        if sent || outbox.push(transmit) {
            self.counters.packets.add(frames);
            self.counters.bytes.add(transmit.contents.len() as u64);
        } else {
            self.counters.drop_frames(Drop::QueueFull, frames, None);
        }
    }

    /// Sends what waits in the outbox; asks to be woken if the socket still blocks.
    fn flush(&self, cx: &mut Context<'_>, state: &mut State) {
        while let Some(transmit) = state.outbox.front() {
            match self.send_now(&transmit) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => match self.io.poll_send_ready(cx) {
                    Poll::Ready(_) => {}
                    Poll::Pending => return,
                },
                Ok(()) | Err(_) => state.outbox.pop(),
            }
        }
    }

    fn sort_all(&self, bufs: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta], received: usize) -> usize {
        let mut state = self.state.lock();
        let mut kept = 0;
        for at in 0..received {
            if let Some(meta) = self.sort(&mut state, &metas[at], &mut bufs[at]) {
                metas[kept] = meta;
                bufs.swap(kept, at);
                kept += 1;
            }
        }
        self.depart(&mut state);
        kept
    }
}

/// What a received segment is.
enum Segment {
    Link,
    Local(NodeHash),
    Transit(SocketAddr),
    Dropped,
}

/// Keeps a segment for the endpoint: at the start of its buffer if it continues the run there, else in the inbox.
/// False if the inbox is full.
fn keep(
    state: &mut State,
    kept: &mut Option<RecvMeta>,
    buffer: &mut [u8],
    segment: Range<usize>,
    source: SocketAddr,
    received: &RecvMeta,
) -> bool {
    let length = segment.len();
    match kept {
        None => {
            buffer.copy_within(segment, 0);
            let dst_ip = if virtual_node(source).is_some() {
                None
            } else {
                received.dst_ip
            };
            *kept = Some(RecvMeta {
                addr: source,
                len: length,
                stride: length,
                dst_ip,
                ..*received
            });
            true
        }
        Some(run) if run.addr == source && run.len % run.stride == 0 && length <= run.stride => {
            buffer.copy_within(segment, run.len);
            run.len += length;
            true
        }
        Some(_) => state.inbox.push(source, received.ecn, &buffer[segment]),
    }
}

impl AsyncUdpSocket for ForwardSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(super::poller::Writable::new(self))
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        match virtual_node(transmit.destination) {
            Some(node) => {
                let segment_bytes = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
                let state = &mut *self.state.lock();
                self.send_wrapped(state, node, transmit.contents, segment_bytes, transmit.ecn)?;
                state.table.keep(node, transmit.contents, segment_bytes);
                Ok(())
            }
            None => {
                let destination = self.real_address(transmit.destination);
                self.send_now(&Transmit {
                    destination,
                    ..transmit.clone()
                })
            }
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        {
            let state = &mut *self.state.lock();
            self.flush(cx, state);
            let served = state.inbox.serve(bufs, metas);
            if served > 0 {
                return Poll::Ready(Ok(served));
            }
        }
        for _ in 0..MAX_TRANSIT_ROUNDS {
            let Poll::Ready(ready) = self.io.poll_recv_ready(cx) else {
                // Transit of this very poll may wait for the socket too.
                self.flush(cx, &mut self.state.lock());
                return Poll::Pending;
            };
            ready?;
            let received = self.io.try_io(Interest::READABLE, || {
                self.offload.recv((&self.io).into(), bufs, metas)
            });
            match received {
                Ok(received) => {
                    let kept = self.sort_all(bufs, metas, received);
                    if kept > 0 {
                        return Poll::Ready(Ok(kept));
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        let bound = self.io.local_addr()?;
        Ok(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), bound.port()))
    }

    fn max_transmit_segments(&self) -> usize {
        self.offload.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.offload.gro_segments()
    }

    fn may_fragment(&self) -> bool {
        self.offload.may_fragment()
    }
}

impl ForwardSocket {
    pub(super) async fn writable(&self) -> io::Result<()> {
        self.io.writable().await
    }
}

impl fmt::Debug for ForwardSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForwardSocket")
            .field("io", &self.io)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
