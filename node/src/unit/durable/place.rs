//! Where a durable unit may run now.

use worker_api::Directive;
use workmesh_proto::NodeId;
use workmesh_proto::mesh::{Member, Reach};
use workmesh_proto::record::Order;
use workmesh_proto::unit::durable::Candidate;
use workmesh_proto::wire::unit::Kind;

use crate::unit::placement;
use crate::unit::units::Units;

/// Why there is no node for a unit.
#[derive(Clone, Debug)]
pub(super) struct NoPlace {
    pub(super) kind: Kind,
    pub(super) message: String,
}

/// The node that is to be asked next; one that has just refused is asked last.
pub(super) fn place(units: &Units, order: &Order, refused: &[NodeId]) -> Result<Candidate, NoPlace> {
    let directive = Directive::parse(&order.directive).map_err(|error| NoPlace {
        kind: Kind::MalformedDirective,
        message: error.to_string(),
    })?;
    match &order.to {
        Some(node) => named(units, node, &directive),
        None => nearest(units, &directive, refused),
    }
}

fn named(units: &Units, node: &NodeId, directive: &Directive) -> Result<Candidate, NoPlace> {
    let view = units.mesh.view();
    let Some(member) = view.member(node) else {
        return Err(NoPlace {
            kind: Kind::NoSuchNode,
            message: format!("no such node: {node}; `node status` lists the nodes that are known"),
        });
    };
    if member.reach == Reach::Nowhere {
        return Err(NoPlace {
            kind: Kind::NoRoute,
            message: format!("no route to {node}; `node status` shows links and routes"),
        });
    }
    // A node that drains has withdrawn its workers.
    if member.workers().is_empty() && !member.is_leaf() {
        return Err(busy(format!("{node} takes no units now")));
    }
    if placement::fullness(member, units.outstanding.on(node)).0 {
        return Err(busy(format!(
            "all slots of {node} are taken and its queue is full"
        )));
    }
    Ok(candidate(member, directive))
}

fn busy(message: String) -> NoPlace {
    NoPlace {
        kind: Kind::Busy,
        message,
    }
}

fn nearest(units: &Units, directive: &Directive, refused: &[NodeId]) -> Result<Candidate, NoPlace> {
    let view = units.mesh.view();
    let found = placement::candidates(&view, directive, &units.outstanding);
    if !found.is_empty() && found.iter().all(|found| found.full) {
        return Err(busy(format!(
            "all nodes that have the worker {directive} are full"
        )));
    }
    let room = || found.iter().filter(|found| !found.full);
    let fresh = room().find(|found| !refused.contains(&found.node));
    let member = fresh.or(room().next()).and_then(|found| view.member(&found.node));
    match member {
        Some(member) => Ok(candidate(member, directive)),
        None => Err(NoPlace {
            kind: Kind::NoCapableNode,
            message: format!(
                "no reachable node has the worker {directive}; `node workers` lists what there is"
            ),
        }),
    }
}

fn candidate(member: &Member, directive: &Directive) -> Candidate {
    let ad = member.workers().iter().find(|ad| ad.directive == *directive);
    Candidate {
        executor: member.node().clone(),
        life: member.incarnation(),
        idempotent: ad.is_some_and(|ad| ad.idempotent),
    }
}
