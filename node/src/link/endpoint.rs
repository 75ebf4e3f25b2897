//! The node's QUIC endpoint: dials and accepts links and sessions, and checks who is at the other end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use quinn::{ClientConfig, Connection, ServerConfig, TransportConfig};
use rustls_pki_types::CertificateDer;
use socket2::{Domain, Protocol, Socket, Type};
use workmesh_proto::wire::forward::LinkKey;
use workmesh_proto::{MeshName, NodeHash, NodeId};

use super::error::{CLOSED, CLOSED_IDLE, LinkError};
use super::settings;
use super::socket::{ForwardSocket, plain_address, virtual_address, virtual_node};
use super::stream::{FrameReceiver, FrameSender};
use super::table::LinkKeys;
use super::tls::{LINK_ALPN, Refusal, SESSION_ALPN, Tls};
use crate::identity::{Identity, peer_identity};

/// The label under which a link's forwarding keys are exported from its TLS session (RFC 8446, section 7.5).
const EXPORT_LABEL: &[u8] = b"EXPORTER-workmesh-forward-1";
/// How long the last words of a closing endpoint may take.
const CLOSE_GRACE: Duration = Duration::from_millis(500);

/// What the endpoint has to know beside the identity.
#[derive(Clone, Debug)]
pub(crate) struct EndpointSettings {
    /// The node's id, with its instance if it is a leaf.
    pub(crate) node: NodeId,
    /// Where to bind.
    pub(crate) bind: SocketAddr,
    /// Whether neighbours may dial this node.
    pub(crate) accepts_links: bool,
    /// How long a dead peer may stay unnoticed.
    pub(crate) detection: Duration,
}

/// See the module.
pub(crate) struct Endpoint {
    quinn: quinn::Endpoint,
    socket: Arc<ForwardSocket>,
    tls: ArcSwap<Tls>,
    mesh: MeshName,
    accepts_links: bool,
    detection: Duration,
    link_transport: Arc<TransportConfig>,
    session_transport: Arc<TransportConfig>,
}

impl Endpoint {
    /// Binds the socket and starts to accept. Needs a tokio runtime.
    pub(crate) fn bind(settings: &EndpointSettings, identity: &Identity) -> Result<Self, LinkError> {
        let socket = bind_socket(settings.bind).map_err(|e| {
            LinkError::Configuration(format!(
                "cannot listen on {}: {e}; choose another --listen",
                settings.bind
            ))
        })?;
        let broken = |e: std::io::Error| LinkError::Configuration(format!("cannot use the socket: {e}"));
        let socket = Arc::new(ForwardSocket::new(socket, settings.node.hash()).map_err(broken)?);
        let tls = Tls::new(identity)?;
        let (server, _) = tls.server_config(LINK_ALPN)?;
        let link_transport = settings::link_transport(settings.detection)?;
        let session_transport = settings::session_transport(settings.detection)?;
        let mut server = ServerConfig::with_crypto(Arc::new(server));
        settings::limit_incoming(&mut server);
        let quinn = quinn::Endpoint::new_with_abstract_socket(
            settings::endpoint_config(),
            Some(server),
            socket.clone(),
            Arc::new(quinn::TokioRuntime),
        )
        .map_err(broken)?;
        Ok(Self {
            quinn,
            socket,
            tls: ArcSwap::from_pointee(tls),
            mesh: identity.mesh().clone(),
            accepts_links: settings.accepts_links,
            detection: settings.detection,
            link_transport,
            session_transport,
        })
    }

    /// How long a dead neighbour may stay unnoticed.
    pub(crate) fn detection(&self) -> Duration {
        self.detection
    }

    /// The socket, for its forwarding table and counters.
    pub(crate) fn socket(&self) -> &Arc<ForwardSocket> {
        &self.socket
    }

    /// Dials a neighbour at a real address, and opens the control stream.
    pub(crate) async fn dial_link(
        &self,
        address: SocketAddr,
        expected: Option<&NodeId>,
    ) -> Result<LinkConnection, LinkError> {
        let name = self.mesh.dns_name();
        let connection = self.dial(address, &name, LINK_ALPN, &self.link_transport).await?;
        let certified = self.certified(&connection)?;
        if let Some(expected) = expected.filter(|id| **id != certified) {
            close(&connection, "you are not the node that was dialled");
            return Err(LinkError::WrongNode {
                expected: expected.clone(),
                found: certified,
            });
        }
        let (send, recv) = connection.open_bi().await.map_err(LinkError::from)?;
        LinkConnection::new(connection, certified, Role::Dialler, send, recv)
    }

    /// Dials a node anywhere in the mesh, through whatever route there is.
    pub(crate) async fn dial_session(&self, node: &NodeId) -> Result<SessionConnection, LinkError> {
        let name = self.mesh.dns_name_of(node);
        let address = virtual_address(node.hash());
        let connection = self
            .dial(address, &name, SESSION_ALPN, &self.session_transport)
            .await?;
        let certified = self.certified(&connection)?;
        if certified != node.base() {
            close(&connection, "you are not the node that was dialled");
            return Err(LinkError::WrongNode {
                expected: node.clone(),
                found: certified,
            });
        }
        Ok(SessionConnection {
            connection,
            certified,
            address: node.hash(),
        })
    }

    async fn dial(
        &self,
        address: SocketAddr,
        name: &str,
        alpn: &[u8],
        transport: &Arc<TransportConfig>,
    ) -> Result<Connection, LinkError> {
        let (crypto, refusal) = self.tls.load().client_config(alpn)?;
        let mut config = ClientConfig::new(Arc::new(crypto));
        config.transport_config(transport.clone());
        let connecting = self
            .quinn
            .connect_with(config, address, name)
            .map_err(|e| LinkError::Configuration(format!("cannot dial {}: {e}", plain_address(address))))?;
        connecting.await.map_err(|e| handshake_error(&e, &refusal))
    }

    /// The next handshake that somebody has begun with this node; `None` once the endpoint is closed.
    pub(crate) async fn accept(&self) -> Option<Handshake> {
        loop {
            let incoming = self.quinn.accept().await?;
            let address = incoming.remote_address();
            let session = virtual_node(address);
            if session.is_none() && !self.accepts_links {
                incoming.refuse();
                continue;
            }
            return Some(Handshake {
                incoming,
                address,
                session,
            });
        }
    }

    /// Completes a handshake that [`Self::accept`] yielded.
    pub(crate) async fn complete(&self, handshake: Handshake) -> Result<Accepted, LinkError> {
        let (alpn, transport) = match handshake.session {
            Some(_) => (SESSION_ALPN, &self.session_transport),
            None => (LINK_ALPN, &self.link_transport),
        };
        let (crypto, refusal) = self.tls.load().server_config(alpn)?;
        let mut config = ServerConfig::with_crypto(Arc::new(crypto));
        config
            .transport_config(transport.clone())
            // A link's peer may move behind its address translation; a session's address is the node itself.
            .migration(handshake.session.is_none());
        let connecting = handshake
            .incoming
            .accept_with(Arc::new(config))
            .map_err(|e| handshake_error(&e, &refusal))?;
        let connection = connecting.await.map_err(|e| handshake_error(&e, &refusal))?;
        let certified = self.certified(&connection)?;
        match handshake.session {
            Some(address) => Ok(Accepted::Session(SessionConnection {
                connection,
                certified,
                address,
            })),
            None => {
                let (send, recv) = connection.accept_bi().await.map_err(LinkError::from)?;
                let link = LinkConnection::new(connection, certified, Role::Acceptor, send, recv)?;
                Ok(Accepted::Link(Box::new(link)))
            }
        }
    }

    /// The node that the peer's certificate names. The handshake has checked the chain; the mesh is checked here.
    fn certified(&self, connection: &Connection) -> Result<NodeId, LinkError> {
        let certificates = connection
            .peer_identity()
            .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok())
            .unwrap_or_default();
        let leaf = certificates
            .first()
            .ok_or_else(|| LinkError::RefusedPeer("expected a certificate, found none".to_owned()))?;
        let refuse = |reason: String| {
            close(connection, &reason);
            LinkError::RefusedPeer(reason)
        };
        let peer = peer_identity(leaf).map_err(|e| refuse(e.to_string()))?;
        if peer.mesh != self.mesh {
            return Err(refuse(format!(
                "{}: expected mesh {}, found mesh {}",
                peer.subject, self.mesh, peer.mesh
            )));
        }
        Ok(peer.node)
    }

    /// Uses another identity for new handshakes; connections that are up stay up.
    pub(crate) fn reload(&self, identity: &Identity) -> Result<(), LinkError> {
        self.tls.store(Arc::new(Tls::new(identity)?));
        Ok(())
    }

    /// Closes every connection and waits, for a moment, until the peers can have heard of it.
    pub(crate) async fn close(&self) {
        self.quinn.close(0u32.into(), b"the node stops");
        let _late = tokio::time::timeout(CLOSE_GRACE, self.quinn.wait_idle()).await;
    }
}

/// A socket with room for bursts: the kernel's default holds fewer than 100 packets.
fn bind_socket(address: SocketAddr) -> std::io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_recv_buffer_size(settings::SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(settings::SOCKET_BUFFER_BYTES)?;
    socket.bind(&address.into())?;
    tracing::debug!(
        receive_bytes = socket.recv_buffer_size()?,
        send_bytes = socket.send_buffer_size()?,
        asked_bytes = settings::SOCKET_BUFFER_BYTES,
        "socket buffers granted"
    );
    Ok(socket.into())
}

fn close(connection: &Connection, reason: &str) {
    connection.close(CLOSED, reason.as_bytes());
}

fn handshake_error(error: &quinn::ConnectionError, refusal: &Refusal) -> LinkError {
    match (refusal.take(), error) {
        (Some(refused), _) => LinkError::RefusedPeer(refused),
        (None, quinn::ConnectionError::TimedOut) => LinkError::Handshake("no answer".to_owned()),
        (None, other) => LinkError::Handshake(other.to_string()),
    }
}

/// A handshake that was begun by somebody else.
pub(crate) struct Handshake {
    incoming: quinn::Incoming,
    address: SocketAddr,
    session: Option<NodeHash>,
}

impl Handshake {
    /// Who began it, for the log: a real address, or the hash of a node.
    pub(crate) fn peer(&self) -> String {
        match self.session {
            Some(node) => format!("session of {node:?}"),
            None => plain_address(self.address).to_string(),
        }
    }

    /// Whether it is for a session, and so came over a link.
    pub(crate) fn is_session(&self) -> bool {
        self.session.is_some()
    }

    /// Has whoever began it prove its address first (RFC 9000, section 8.1.2); `None` until it has.
    pub(crate) fn prove_address(self) -> Option<Self> {
        if self.incoming.remote_address_validated() || !self.incoming.may_retry() {
            return Some(self);
        }
        let _sent = self.incoming.retry();
        None
    }
}

/// A connection that was accepted and checked.
pub(crate) enum Accepted {
    Link(Box<LinkConnection>),
    Session(SessionConnection),
}

enum Role {
    Dialler,
    Acceptor,
}

/// A connection to a neighbour, with its control stream.
pub(crate) struct LinkConnection {
    connection: Connection,
    /// The node id that the certificate proves.
    pub(crate) certified: NodeId,
    /// Keys of the forward frames on this link.
    pub(crate) keys: LinkKeys,
    /// The control stream, out.
    pub(crate) sender: FrameSender,
    /// The control stream, in.
    pub(crate) receiver: FrameReceiver,
    /// Whether this node dialled.
    pub(crate) dialled: bool,
}

impl LinkConnection {
    fn new(
        connection: Connection,
        certified: NodeId,
        role: Role,
        send: quinn::SendStream,
        recv: quinn::RecvStream,
    ) -> Result<Self, LinkError> {
        let dialler = export_key(&connection, b"dialler")?;
        let acceptor = export_key(&connection, b"acceptor")?;
        let dialled = matches!(role, Role::Dialler);
        let (sending, receiving) = if dialled {
            (dialler, acceptor)
        } else {
            (acceptor, dialler)
        };
        Ok(Self {
            certified,
            keys: LinkKeys { sending, receiving },
            sender: FrameSender::new(send),
            receiver: FrameReceiver::new(recv),
            connection,
            dialled,
        })
    }

    /// A handle that outlives the streams' halves.
    pub(crate) fn handle(&self) -> LinkHandle {
        LinkHandle(self.connection.clone())
    }
}

/// Asks and closes a link.
#[derive(Clone, Debug)]
pub(crate) struct LinkHandle(Connection);

impl LinkHandle {
    pub(crate) fn address(&self) -> SocketAddr {
        self.0.remote_address()
    }

    pub(crate) fn rtt(&self) -> Duration {
        self.0.rtt()
    }

    pub(crate) async fn closed(&self) -> String {
        self.0.closed().await.to_string()
    }

    pub(crate) fn close(&self, reason: &str) {
        close(&self.0, reason);
    }
}

fn export_key(connection: &Connection, context: &[u8]) -> Result<LinkKey, LinkError> {
    let mut secret = [0; 16];
    connection
        .export_keying_material(&mut secret, EXPORT_LABEL, context)
        .map_err(|e| LinkError::Configuration(format!("cannot export the link's key: {e:?}")))?;
    Ok(LinkKey::new(&secret))
}

/// An end-to-end connection to a node anywhere in the mesh.
#[derive(Clone, Debug)]
pub(crate) struct SessionConnection {
    connection: Connection,
    /// The node id that the certificate proves, without a leaf's instance.
    pub(crate) certified: NodeId,
    /// The address that the peer's packets carry: the hash of its id, instance included.
    pub(crate) address: NodeHash,
}

impl SessionConnection {
    /// Opens a stream for one conversation; waits while the peer allows no further one.
    pub(crate) async fn open(&self) -> Result<(FrameSender, FrameReceiver), LinkError> {
        let (send, recv) = self.connection.open_bi().await.map_err(LinkError::from)?;
        Ok((FrameSender::new(send), FrameReceiver::new(recv)))
    }

    /// The next conversation that the peer opens.
    pub(crate) async fn accept(&self) -> Result<(FrameSender, FrameReceiver), LinkError> {
        let (send, recv) = self.connection.accept_bi().await.map_err(LinkError::from)?;
        Ok((FrameSender::new(send), FrameReceiver::new(recv)))
    }

    /// Makes the session's window large enough for this many streams that nobody reads.
    pub(crate) fn make_room(&self, streams: u32) {
        self.connection
            .set_receive_window(settings::session_window(streams));
    }

    /// Lets the peer have this many streams open, within bounds.
    pub(crate) fn allow_streams(&self, count: u32) {
        let count = count.clamp(settings::FIRST_STREAMS, settings::MAX_STREAMS);
        self.connection.set_max_concurrent_bi_streams(count.into());
    }

    /// Waits until the connection has ended; says why.
    pub(crate) async fn closed(&self) -> String {
        self.connection.closed().await.to_string()
    }

    /// Closes for want of conversations. Tells the peer that what it has just begun was not seen.
    pub(crate) fn close_idle(&self) {
        self.connection.close(CLOSED_IDLE, b"idle");
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.connection.close_reason().is_some()
    }

    pub(crate) fn close(&self, reason: &str) {
        close(&self.connection, reason);
    }
}
