//! The settings both sides of a comparison share: windows, socket buffers, packet sizes and the sizes of the exchanges.
//!
//! The floor's roles read them here; whoever changes the product's transport changes these with it, or the ratios lie.
//! It opens no socket.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use quinn::{EndpointConfig, MtuDiscoveryConfig, TokioRuntime, TransportConfig, VarInt};
use socket2::{Domain, Protocol, Socket, Type};

/// Bytes of a request and of its answer.
pub(crate) const EXCHANGE_BYTES: usize = 64;
/// Bytes the bulk sender hands to the stream at once.
pub(crate) const BULK_CHUNK_BYTES: usize = 64 * 1024;
/// Threads of the pool a request is handed to where the load asks for the hand-off.
pub(crate) const POOL_THREADS: usize = 2;

/// Records that have to be on its origin's disk before a durable unit is done, one after the other: that it was taken and offered,
/// and what came of it.
pub(crate) const KEPT_STEPS: usize = 2;
/// Bytes of such a record, on average, where a unit has [`EXCHANGE_BYTES`] each way.
pub(crate) const KEPT_BYTES: usize = 300;

/// Bytes a socket asks the system for, each way; the system may grant less.
pub(crate) const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// The largest packet MTU discovery tries, in bytes of UDP payload.
pub(crate) const MTU_UPPER_BOUND_BYTES: u16 = 1452;
/// Bytes a peer may send on one stream before it is read. What is under way stands before every small exchange on the same
/// path: 8 MiB make one four to five times slower beside bulk, and bulk no faster.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 768 * 1024;
/// Bytes a peer may send on all streams of a connection before they are read.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// Bytes of a connection that may be sent and not yet acknowledged.
pub(crate) const SEND_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
/// Streams a peer may have open; each costs memory in advance on an idle connection.
pub(crate) const OPEN_STREAMS: u32 = 512;

const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// The transport of every floor connection, either end.
pub(crate) fn transport() -> Result<Arc<TransportConfig>> {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(MTU_UPPER_BOUND_BYTES);
    let mut transport = TransportConfig::default();
    transport
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .send_window(u64::from(SEND_WINDOW_BYTES))
        .max_concurrent_bidi_streams(VarInt::from_u32(OPEN_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .mtu_discovery_config(Some(discovery))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IDLE_TIMEOUT.try_into().context("idle timeout")?));
    Ok(Arc::new(transport))
}

/// A UDP socket on loopback, its port chosen by the system, its buffers as large as the system grants up to
/// [`SOCKET_BUFFER_BYTES`].
pub(crate) fn loopback_socket() -> Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).context("open a UDP socket")?;
    socket
        .set_recv_buffer_size(SOCKET_BUFFER_BYTES)
        .context("size the receive buffer")?;
    socket
        .set_send_buffer_size(SOCKET_BUFFER_BYTES)
        .context("size the send buffer")?;
    socket
        .set_nonblocking(true)
        .context("make the socket non-blocking")?;
    socket
        .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
        .context("bind to loopback")?;
    Ok(socket.into())
}

/// A quinn endpoint on a fresh [`loopback_socket`].
pub(crate) fn endpoint(server: Option<quinn::ServerConfig>) -> Result<quinn::Endpoint> {
    quinn::Endpoint::new(
        EndpointConfig::default(),
        server,
        loopback_socket()?,
        Arc::new(TokioRuntime),
    )
    .context("make a QUIC endpoint")
}
