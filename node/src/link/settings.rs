//! The transport's numbers, all in one place.

use std::sync::Arc;
use std::time::Duration;

use quinn::{EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use workmesh_proto::wire::forward::HEADER_BYTES;

use super::LinkError;

/// The largest datagram that discovery tries, in bytes: what fits an Ethernet frame over IPv6.
const MAX_DATAGRAM_BYTES: u16 = 1452;
/// The smallest datagram that every path carries (RFC 9000, section 14).
pub(super) const MIN_DATAGRAM_BYTES: u16 = 1200;
/// What the kernel is asked for on each side of the socket, in bytes.
pub(super) const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// Unread bytes of one stream. As large as bulk needs on short paths and no larger: what a bulk stream has under way
/// stands before every small unit that shares its path.
const STREAM_WINDOW_BYTES: u32 = 768 * 1024;
/// Unread bytes of one session beyond what its streams in use may each hold. Streams that nobody reads - of units that
/// wait for a slot, of submitters that are slow - must never fill the session's window: all others would stand still.
const SESSION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// Unacknowledged bytes of one session.
const SEND_WINDOW_BYTES: u64 = 8 * 1024 * 1024;
/// Streams that a peer may have open on a fresh session; raised while they are used, because each costs memory.
pub(super) const FIRST_STREAMS: u32 = 128;
/// Streams that a peer may ever have open on a session.
pub(super) const MAX_STREAMS: u32 = 4096;
/// Handshakes that may wait for this node.
const MAX_INCOMING: usize = 256;
/// Bytes that may wait with them.
const MAX_INCOMING_BYTES: u64 = 4 * 1024 * 1024;
/// A session's shortest idle timeout: it has to outlive the detection of a dead relay and the change of route.
const MIN_SESSION_IDLE: Duration = Duration::from_secs(20);

/// What a path's round-trip time is taken for until it is measured: a lost first packet is sent again after three times
/// this, and first packets are lost whenever the peer is just starting.
const INITIAL_RTT: Duration = Duration::from_millis(100);

const _: () = assert!(
    (MAX_DATAGRAM_BYTES as usize + HEADER_BYTES) * 10 <= 65_507,
    "a batch of ten wrapped segments must fit one system call, or the kernel drops the batch silently"
);
const _: () = assert!(
    HEADER_BYTES <= 32,
    "a session's first packets must fit where 1232 bytes do"
);

/// The endpoint's settings. QUIC's fixed bit is never greased: it tells packets from forward frames.
pub(super) fn endpoint_config() -> EndpointConfig {
    let mut config = EndpointConfig::default();
    config.grease_quic_bit(false);
    config
}

/// A link's settings: `detection` is how long a dead peer stays unnoticed.
pub(super) fn link_transport(detection: Duration) -> Result<Arc<TransportConfig>, LinkError> {
    let mut config = TransportConfig::default();
    config
        .initial_rtt(INITIAL_RTT)
        .max_idle_timeout(Some(idle_timeout(detection)?))
        .keep_alive_interval(Some(detection / 4))
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(1024 * 1024))
        .receive_window(VarInt::from_u32(1024 * 1024))
        .send_window(4 * 1024 * 1024);
    Ok(Arc::new(config))
}

/// A session's settings.
pub(super) fn session_transport(detection: Duration) -> Result<Arc<TransportConfig>, LinkError> {
    let idle = MIN_SESSION_IDLE.max(detection * 4);
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(MAX_DATAGRAM_BYTES - HEADER_BYTES as u16);
    let mut config = TransportConfig::default();
    config
        .initial_rtt(INITIAL_RTT)
        .max_idle_timeout(Some(idle_timeout(idle)?))
        .keep_alive_interval(Some(idle / 4))
        .max_concurrent_bidi_streams(VarInt::from_u32(FIRST_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(session_window(0))
        .send_window(SEND_WINDOW_BYTES)
        .initial_mtu(MIN_DATAGRAM_BYTES)
        .mtu_discovery_config(Some(discovery));
    Ok(Arc::new(config))
}

/// The window of a session with this many streams in use: each may be full and unread, and there is still room.
pub(super) fn session_window(streams: u32) -> VarInt {
    let streams = streams.min(2 * MAX_STREAMS);
    VarInt::from_u64(u64::from(SESSION_WINDOW_BYTES) + u64::from(streams) * u64::from(STREAM_WINDOW_BYTES))
        .unwrap_or(VarInt::MAX)
}

/// Limits on handshakes that wait.
pub(super) fn limit_incoming(config: &mut quinn::ServerConfig) {
    config
        .max_incoming(MAX_INCOMING)
        .incoming_buffer_size(64 * 1024)
        .incoming_buffer_size_total(MAX_INCOMING_BYTES);
}

fn idle_timeout(idle: Duration) -> Result<IdleTimeout, LinkError> {
    IdleTimeout::try_from(idle)
        .map_err(|_| LinkError::Configuration(format!("detection time {idle:?} is too long")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_that_nobody_reads_never_fill_a_session() {
        for streams in [0, 1, 32, MAX_STREAMS] {
            let unread = u64::from(streams) * u64::from(STREAM_WINDOW_BYTES);
            assert!(session_window(streams).into_inner() - unread >= u64::from(SESSION_WINDOW_BYTES));
        }
    }
}
