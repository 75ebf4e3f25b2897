//! Being told of changes of the pool's load. For the task that advertises it, and for a drain.

use std::fmt;
use std::sync::Arc;

use super::pool::Pool;
use super::report::LoadFigures;

/// Tells of changes of the load; those that come faster than they are asked for are told as one.
pub(crate) struct LoadChanges {
    pool: Arc<Pool>,
    known: LoadFigures,
}

impl LoadChanges {
    pub(super) fn new(pool: Arc<Pool>) -> Self {
        let known = pool.load();
        Self { pool, known }
    }

    /// Waits until the load is another than the one told last, at first than that at this value's making.
    /// Dropping the future loses nothing.
    pub(crate) async fn changed(&mut self) -> LoadFigures {
        let known = self.known;
        self.wait_for(|load| *load != known).await
    }

    /// Waits for a load of which `wanted` is true; one that lasts too short may be missed.
    pub(crate) async fn wait_for(&mut self, mut wanted: impl FnMut(&LoadFigures) -> bool) -> LoadFigures {
        loop {
            let notified = self.pool.load_changed.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            let load = self.pool.watch_load();
            if wanted(&load) {
                self.known = load;
                return load;
            }
            notified.await;
        }
    }
}

impl fmt::Debug for LoadChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadChanges")
            .field("known", &self.known)
            .finish_non_exhaustive()
    }
}
