//! Draining: no new work, and an end for what is there. For a node that is about to stop, and for one that stays as a relay.

use std::time::Duration;

use workmesh_proto::wire::unit::{Kind, Refused};

use super::report::DrainReport;
use super::units::Units;
use crate::exec::Drained;

/// How long the mesh may take to hear that this node takes no more work.
const WITHDRAW: Duration = Duration::from_secs(1);
/// How long it may take to give back what has not started, when there is no time.
const GIVE_BACK: Duration = Duration::from_millis(500);

impl Units {
    /// Takes no new units from here on, neither from peers nor from local programs. The mesh hears so first, so that nobody
    /// chooses this node any more. May be called again.
    pub(crate) async fn take_no_more(&self) {
        let _late = tokio::time::timeout(WITHDRAW, self.mesh.withdraw_workers()).await;
        self.executor.refuse_new();
        if let Some(host) = self.host() {
            host.give_back().await;
        }
    }

    /// As a drain without any grace, and without a word to the mesh. What has not started goes back, if its store takes that in time.
    pub(crate) async fn stop_at_once(&self) {
        self.executor.refuse_new();
        if let Some(host) = self.host() {
            let _late = tokio::time::timeout(GIVE_BACK, host.give_back()).await;
        }
        self.executor.stop_now();
    }

    /// Why a local program may submit nothing; `None` as long as it may.
    pub(crate) fn refusal(&self) -> Option<Refused> {
        self.executor.is_draining().then(|| Refused {
            kind: Kind::Draining,
            message: "this node takes no new units, it drains or shuts down: submit at another one"
                .to_owned(),
        })
    }

    /// Drains the node: the units that run here have `grace` to end. Asked again, it answers with the same.
    pub(crate) async fn drain(&self, grace: Duration) -> DrainReport {
        self.take_no_more().await;
        let Drained {
            ended,
            stopped,
            stuck,
        } = self.executor.drain(grace).await;
        DrainReport {
            node: self.node.clone(),
            ended,
            stopped: stopped as u64,
            stuck: stuck as u64,
        }
    }
}
