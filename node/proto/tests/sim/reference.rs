//! What each node should know and do, computed from above, in another way than the machine's.

use std::collections::{BTreeMap, BTreeSet};

use workmesh_proto::NodeId;
use workmesh_proto::mesh::{Reach, View};
use workmesh_proto::routes::MAX_HOPS;

use crate::world::World;

/// Cost, hops, first hop: the smallest is the best way.
type Way = (u32, u16, NodeId);

/// The best ways from one node, by relaxing all cables until nothing changes.
fn ways_from(world: &World, start: usize) -> BTreeMap<usize, Way> {
    let own = world.nodes[start].config.node.clone();
    let mut ways = BTreeMap::from([(start, (0, 0, own))]);
    loop {
        let mut changed = false;
        for (node, (cost, hops, first)) in ways.clone() {
            if world.nodes[node].config.leaf && node != start {
                continue;
            }
            for (next, step) in world.live_neighbours(node) {
                let first = match node == start {
                    true => world.nodes[next].config.node.clone(),
                    false => first.clone(),
                };
                let way = (cost + step, hops + 1, first);
                if ways.get(&next).is_none_or(|known| way < *known) {
                    ways.insert(next, way);
                    changed = true;
                }
            }
        }
        if !changed {
            return ways;
        }
    }
}

/// Whether every live node knows exactly the live nodes it can reach, with workers and load, and the best way to each.
pub(crate) fn check(world: &World) -> Result<(), String> {
    let live: Vec<usize> = (0..world.nodes.len())
        .filter(|i| world.nodes[*i].mesh.is_some())
        .collect();
    let views: BTreeMap<usize, _> = live
        .iter()
        .filter_map(|i| Some((*i, world.nodes[*i].mesh.as_ref()?.view())))
        .collect();
    for &index in &live {
        let name = &world.nodes[index].config.node;
        check_view(world, index, &views[&index]).map_err(|e| format!("at {name}: {e}"))?;
    }
    for &index in &live {
        for target in world.component(index) {
            follow(world, &views, index, target)?;
        }
    }
    Ok(())
}

fn check_view(world: &World, index: usize, view: &View) -> Result<(), String> {
    let ways = ways_from(world, index);
    let expected: BTreeSet<&NodeId> = ways.keys().map(|i| &world.nodes[*i].config.node).collect();
    if expected.len() < ways.len() {
        return Err("two live nodes of one id reach each other".into());
    }
    let known: BTreeSet<&NodeId> = view.members.keys().collect();
    if known != expected {
        let deaf: Vec<_> = expected.difference(&known).collect();
        let ghosts: Vec<_> = known.difference(&expected).collect();
        return Err(format!("does not know {deaf:?}, still knows {ghosts:?}"));
    }
    if !view.synced {
        return Err("is not synced".into());
    }
    for (target, (cost, hops, first)) in &ways {
        let node = &world.nodes[*target];
        let id = &node.config.node;
        let member = &view.members[id];
        if member.incarnation() != node.config.incarnation {
            return Err(format!("knows a former life of {id}"));
        }
        if member.workers() != node.config.workers {
            return Err(format!("wrong workers of {id}"));
        }
        let load = member.load.as_ref().ok_or_else(|| format!("no load of {id}"))?;
        if (load.slots, load.running) != (node.figures.slots, node.figures.running) {
            return Err(format!("old load of {id}"));
        }
        let right = match &member.reach {
            Reach::Here => *target == index,
            Reach::Via(route) => {
                let link_leads_there = world.nodes[index].up.get(&route.link) == Some(first);
                (route.cost, route.hops, &route.next_hop) == (*cost, *hops, first)
                    && link_leads_there
                    && view.route(id.hash()) == Some(route)
            }
            Reach::Nowhere => *hops > MAX_HOPS,
        };
        if !right {
            return Err(format!(
                "way to {id}: {:?}, not cost {cost} in {hops} over {first}",
                member.reach
            ));
        }
    }
    Ok(())
}

/// Goes from node to node as packets do.
fn follow(
    world: &World,
    views: &BTreeMap<usize, impl AsRef<View>>,
    from: usize,
    to: usize,
) -> Result<(), String> {
    let target = &world.nodes[to].config.node;
    if views[&from]
        .as_ref()
        .member(target)
        .is_some_and(|m| !m.is_reachable())
    {
        return Ok(());
    }
    let mut at = from;
    for _ in 0..=MAX_HOPS {
        if at == to {
            return Ok(());
        }
        let route = views[&at].as_ref().route(target.hash());
        let next = route
            .map(|r| &r.next_hop)
            .ok_or_else(|| format!("no way to {target} on the way"))?;
        let neighbours = world.live_neighbours(at);
        let hop = neighbours
            .iter()
            .find(|(n, _)| world.nodes[*n].config.node == *next);
        at = hop
            .ok_or_else(|| format!("{next} is no neighbour on the way to {target}"))?
            .0;
    }
    Err(format!("a loop on the way to {target}"))
}
