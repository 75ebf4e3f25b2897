//! Keeps one configured neighbour dialled: resolves its name anew each time, backs off with jitter, and waits while
//! another link leads to the same node.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::warn;
use workmesh_proto::NodeId;

use super::driver::MeshHandle;
use crate::config::PeerAddress;
use crate::link::{Endpoint, LinkConnection, plain_address};

/// The first pause after a failed attempt.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A link that has lasted this long was a good one: the next attempt comes soon after its end.
const LASTING: Duration = Duration::from_secs(10);
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(5);
/// Addresses of one name that are tried in one attempt.
const MAX_ADDRESSES: usize = 8;

/// What a dialer is at.
#[derive(Clone, Debug)]
pub(crate) struct DialState {
    /// `host:port` as configured.
    pub(crate) address: String,
    /// The node behind it, once it is known.
    pub(crate) node: Option<NodeId>,
    /// Whether the latest attempt led to a link that is up.
    pub(crate) linked: bool,
    /// Why the latest attempt failed.
    pub(crate) error: Option<String>,
}

/// See the module.
pub(crate) struct Dialer {
    peer: PeerAddress,
    endpoint: Arc<Endpoint>,
    mesh: MeshHandle,
    state: Arc<Mutex<DialState>>,
}

impl Dialer {
    pub(crate) fn new(peer: PeerAddress, endpoint: Arc<Endpoint>, mesh: MeshHandle) -> Self {
        let state = DialState {
            address: peer.to_string(),
            node: peer.id.clone(),
            linked: false,
            error: None,
        };
        Self {
            peer,
            endpoint,
            mesh,
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// What `status` shows.
    pub(crate) fn state(&self) -> Arc<Mutex<DialState>> {
        self.state.clone()
    }

    /// Dials for ever.
    pub(crate) async fn run(self) {
        let mut pause = FIRST_PAUSE;
        loop {
            self.wait_while_linked().await;
            let attempted = Instant::now();
            match self.attempt().await {
                Ok(link) => self.follow(link).await,
                Err(error) => self.note_failure(error),
            }
            // A link that did not last is as good as a failed attempt.
            if attempted.elapsed() > LASTING {
                pause = FIRST_PAUSE;
            }
            tokio::time::sleep(jittered(pause)).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    /// Another link may already lead to the node; a second one would only replace it.
    async fn wait_while_linked(&self) {
        let node = self.state.lock().node.clone();
        if let Some(node) = node {
            self.mesh.wait_until_not_linked(&node).await;
        }
    }

    async fn attempt(&self) -> Result<LinkConnection, String> {
        let name = (self.peer.host.as_str(), self.peer.port);
        let addresses = tokio::net::lookup_host(name)
            .await
            .map_err(|e| format!("cannot resolve {}: {e}", self.peer.host))?
            .take(MAX_ADDRESSES);
        let mut last = format!("{} resolves to no address", self.peer.host);
        for address in addresses {
            match self.attempt_at(address).await {
                Ok(link) => return Ok(link),
                Err(error) => last = format!("{}: {error}", plain_address(address)),
            }
        }
        Err(last)
    }

    async fn attempt_at(&self, address: SocketAddr) -> Result<LinkConnection, String> {
        let dialling = self.endpoint.dial_link(address, self.peer.id.as_ref());
        match tokio::time::timeout(ATTEMPT, dialling).await {
            Ok(result) => result.map_err(|e| e.to_string()),
            Err(_) => Err("no answer".to_owned()),
        }
    }

    async fn follow(&self, link: LinkConnection) {
        let handle = link.handle();
        {
            let mut state = self.state.lock();
            state.node = Some(link.certified.clone());
            state.linked = true;
            state.error = None;
        }
        self.mesh.link_opened(link, Some(self.peer.to_string())).await;
        let reason = handle.closed().await;
        let mut state = self.state.lock();
        state.linked = false;
        state.error = Some(reason);
        if self.peer.id.is_none() && !state.node.as_ref().is_some_and(|node| self.mesh.is_linked(node)) {
            state.node = None;
        }
    }

    fn note_failure(&self, error: String) {
        let mut state = self.state.lock();
        if state.error.as_ref() != Some(&error) {
            warn!(peer = %self.peer, reason = error, "cannot link; trying again");
        }
        state.error = Some(error);
    }
}

/// Between half of `pause` and one and a half times it.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.5..1.5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_half_and_one_and_a_half() {
        for _ in 0..100 {
            let pause = jittered(FIRST_PAUSE);
            assert!(pause >= FIRST_PAUSE / 2 && pause < FIRST_PAUSE * 3 / 2);
        }
    }
}
