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
/// Handshakes under way at once, for links and for sessions apart: strangers can begin only those of links. Further ones
/// wait; the endpoint bounds their number.
const MAX_HANDSHAKES: usize = 64;
/// How many of them may be under way before further peers have to prove their addresses.
const UNVALIDATED_HANDSHAKES: usize = 16;

/// Accepts until the endpoint is closed.
pub(crate) async fn accept_peers(endpoint: Arc<Endpoint>, mesh: MeshHandle, sessions: Arc<Sessions>) {
    let refusals = Arc::new(Refusals::default());
    let link_places = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    let session_places = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    while let Some(handshake) = endpoint.accept().await {
        let places = match handshake.is_session() {
            true => &session_places,
            false => &link_places,
        };
        let handshake = if is_crowded(places) {
            handshake.prove_address()
        } else {
            Some(handshake)
        };
        let Some(handshake) = handshake else { continue };
        let (endpoint, mesh, sessions) = (endpoint.clone(), mesh.clone(), sessions.clone());
        let (refusals, places) = (refusals.clone(), places.clone());
        tokio::spawn(async move {
            let Ok(Ok(_place)) = tokio::time::timeout(HANDSHAKE, places.acquire()).await else {
                return debug!(peer = handshake.peer(), "handshake waited too long");
            };
            accept_one(&endpoint, &mesh, &sessions, &refusals, handshake).await;
        });
    }
}

fn is_crowded(places: &Semaphore) -> bool {
    MAX_HANDSHAKES - places.available_permits() >= UNVALIDATED_HANDSHAKES
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_prove_their_addresses_once_many_handshakes_are_under_way() {
        let places = Semaphore::new(MAX_HANDSHAKES);
        let count = u32::try_from(UNVALIDATED_HANDSHAKES).unwrap();
        let one_less = places.try_acquire_many(count - 1).unwrap();
        assert!(!is_crowded(&places));
        let _last = places.try_acquire().unwrap();
        assert!(is_crowded(&places));
        drop(one_less);
        assert!(!is_crowded(&places));
    }
}
