//! Gathers what a node knows into its reports.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use parking_lot::Mutex;
use workmesh_proto::mesh::Reach;
use workmesh_proto::{MeshName, NodeId};

use crate::link::{DROPS, Endpoint};
use crate::mesh::DialState;
use crate::unit::durable::Work;
use crate::unit::report::{
    CertificateReport, ForwardedReport, LinkReport, RouteReport, StatusReport, WorkerReport,
};
use crate::unit::{Units, pool_report};

/// Where the figures come from.
pub(crate) struct StatusSource {
    pub(crate) units: Arc<Units>,
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) mesh: MeshName,
    pub(crate) listens: bool,
    pub(crate) dialers: Vec<Arc<Mutex<DialState>>>,
    pub(crate) not_after: ArcSwap<Timestamp>,
    /// None on a node without a store.
    pub(crate) work: Option<Arc<Work>>,
}

impl StatusSource {
    /// What the node knows at this moment.
    pub(crate) fn report(&self) -> StatusReport {
        let counters = self.endpoint.socket().counters();
        let bound = self
            .endpoint
            .socket()
            .bound_address()
            .ok()
            .filter(|_| self.listens);
        StatusReport {
            node: self.units.node.clone(),
            mesh: self.mesh.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: self.units.started.elapsed().as_secs_f64(),
            listen: bound.map(|address| address.to_string()),
            links: self.links(),
            routes: self.routes(),
            workers: self
                .units
                .executor
                .registry()
                .iter()
                .map(|w| w.directive.to_owned())
                .collect(),
            draining: self.units.executor.is_draining(),
            pool: pool_report(&self.units),
            durable: self.work.as_ref().map(|work| work.kept()),
            forwarded: ForwardedReport {
                packets: counters.packets.get(),
                bytes: counters.bytes.get(),
                dropped: counters.dropped_in_all(),
            },
            sessions: self.units.sessions().count(),
            counters: self.counters(),
            certificate: CertificateReport {
                not_after: **self.not_after.load(),
            },
        }
    }

    fn counters(&self) -> BTreeMap<String, u64> {
        let mut totals = BTreeMap::new();
        let forward = self.endpoint.socket().counters();
        totals.insert("forward.unroutable".to_owned(), forward.unroutable.get());
        totals.insert("forward.resent".to_owned(), forward.resent.get());
        totals.extend(DROPS.map(|reason| {
            (
                format!("forward.dropped.{}", reason.name()),
                forward.dropped(reason),
            )
        }));
        let exec = self.units.executor.counters();
        totals.insert("units.accepted".to_owned(), exec.accepted);
        totals.extend(
            exec.refused
                .iter()
                .map(|(kind, count)| (format!("units.refused.{kind}"), count)),
        );
        totals.extend(
            exec.ended
                .iter()
                .map(|(kind, count)| (format!("units.ended.{kind}"), count)),
        );
        totals.insert("threads.abandoned".to_owned(), exec.abandoned);
        totals.insert("payload.bytes".to_owned(), exec.payload_bytes);
        totals.insert("payload.spooled_bytes".to_owned(), exec.spool_bytes);
        totals.insert("response.bytes".to_owned(), exec.response_bytes);
        let mesh = self.units.mesh.counters();
        totals.insert("mesh.malformed".to_owned(), mesh.malformed);
        totals.insert("mesh.stale".to_owned(), mesh.stale);
        totals.insert("mesh.over_limit".to_owned(), mesh.over_limit);
        totals.insert("mesh.digest_mismatches".to_owned(), mesh.digest_mismatches);
        totals.insert("mesh.spf_runs".to_owned(), mesh.spf_runs);
        let work = self.work.iter().flat_map(|work| work.figures());
        totals.extend(work.map(|(name, figure)| (name.to_owned(), figure)));
        totals
    }

    /// Links that are up, then neighbours that are being dialled.
    fn links(&self) -> Vec<LinkReport> {
        let mut links: Vec<_> = self
            .units
            .mesh
            .links()
            .into_iter()
            .map(|link| LinkReport {
                rtt_ms: Some(link.rtt().as_secs_f64() * 1000.0),
                node: Some(link.node),
                address: link.address,
                cost: u32::from(link.cost.0),
                state: "up".to_owned(),
                error: None,
            })
            .collect();
        let is_up = |node: &Option<NodeId>, links: &[LinkReport]| links.iter().any(|link| link.node == *node);
        for dialer in &self.dialers {
            let dial = dialer.lock().clone();
            if dial.linked || (dial.node.is_some() && is_up(&dial.node, &links)) {
                continue;
            }
            links.push(LinkReport {
                node: dial.node,
                address: dial.address,
                cost: 0,
                rtt_ms: None,
                state: if dial.error.is_some() {
                    "waiting"
                } else {
                    "dialling"
                }
                .to_owned(),
                error: dial.error,
            });
        }
        links
    }

    fn routes(&self) -> Vec<RouteReport> {
        let view = self.units.mesh.view();
        let others = view
            .members
            .values()
            .filter(|m| m.reach != Reach::Here && !m.is_leaf());
        others
            .map(|member| match &member.reach {
                Reach::Via(route) => RouteReport {
                    node: member.node().clone(),
                    next_hop: Some(route.next_hop.clone()),
                    cost: Some(route.cost),
                    hops: Some(route.hops),
                },
                Reach::Here | Reach::Nowhere => RouteReport {
                    node: member.node().clone(),
                    next_hop: None,
                    cost: None,
                    hops: None,
                },
            })
            .collect()
    }

    /// The workers of all reachable nodes.
    pub(crate) fn workers(&self) -> Vec<WorkerReport> {
        let view = self.units.mesh.view();
        let reachable = view
            .members
            .values()
            .filter(|member| member.reach != Reach::Nowhere);
        let rows = reachable.flat_map(|member| {
            member.workers().iter().map(|ad| WorkerReport {
                node: member.node().clone(),
                directive: ad.directive.to_string(),
                payload: ad.kind.to_string(),
                version: ad.version.clone(),
                idempotent: ad.idempotent,
                description: ad.description.clone(),
            })
        });
        rows.collect()
    }
}
