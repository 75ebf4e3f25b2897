//! Completes the handshakes that others begin, and sorts them into links and sessions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tracing::{debug, warn};

use super::driver::MeshHandle;
use super::refusals::Refusals;
use super::sessions::Sessions;
use crate::link::{Accepted, Endpoint, Handshake};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes under way at once; further ones wait.
const MAX_HANDSHAKES: usize = 64;

/// Accepts until the endpoint is closed.
pub(crate) async fn accept_peers(endpoint: Arc<Endpoint>, mesh: MeshHandle, sessions: Arc<Sessions>) {
    let refusals = Arc::new(Refusals::default());
    let places = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    while let Some(handshake) = endpoint.accept().await {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let (endpoint, mesh, sessions) = (endpoint.clone(), mesh.clone(), sessions.clone());
        let refusals = refusals.clone();
        tokio::spawn(async move {
            accept_one(&endpoint, &mesh, &sessions, &refusals, handshake).await;
            drop(place);
        });
    }
}

async fn accept_one(
    endpoint: &Endpoint,
    mesh: &MeshHandle,
    sessions: &Arc<Sessions>,
    refusals: &Refusals,
    handshake: Handshake,
) {
    let peer = handshake.peer();
    let Ok(accepted) = tokio::time::timeout(HANDSHAKE, endpoint.complete(handshake)).await else {
        debug!(peer, "handshake took too long");
        return;
    };
    match accepted {
        Ok(Accepted::Link(link)) => mesh.link_opened(*link, None).await,
        Ok(Accepted::Session(connection)) => sessions.clone().accepted(connection).await,
        Err(error) => {
            let reason = error.to_string();
            if refusals.is_news(&peer, &reason, Instant::now()) {
                warn!(peer, reason, "refused");
            }
        }
    }
}
