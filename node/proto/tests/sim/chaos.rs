//! One random run: a network grows, suffers, comes to rest, and is compared with the reference.

use std::time::Duration;

use worker_api::{Directive, PayloadKind};
use workmesh_proto::NodeId;
use workmesh_proto::mesh::LoadFigures;
use workmesh_proto::wire::link::WorkerAd;

use crate::reference;
use crate::world::{Weather, World};

/// Long enough for every end of a dead link to notice, for digests to heal, and for the dead to be forgotten.
const REST: Duration = Duration::from_secs(150);

/// Runs a seed. Returns how many frames were delivered.
pub(crate) fn run(seed: u64) -> Result<u64, String> {
    let mut world = World::new(seed);
    if world.rng.chance(50) {
        world.weather = Weather {
            lost: world.rng.range(0..15),
            overtaking: world.rng.range(0..30),
            twice: world.rng.range(0..10),
        };
    }
    build(&mut world);
    for index in 0..world.nodes.len() {
        if world.rng.chance(90) {
            world.start(index);
        }
        let pause = world.rng.millis(0..300);
        world.run(pause);
    }
    for _ in 0..world.rng.range(5..40) {
        suffer(&mut world);
        let pause = match world.rng.chance(10) {
            true => world.rng.millis(5000..90_000),
            false => world.rng.millis(0..3000),
        };
        world.run(pause);
    }
    if world.rng.chance(60) {
        (0..world.cables.len()).for_each(|cable| world.mend(cable));
    }
    world.weather = Weather::default();
    world.run(REST);
    reference::check(&world).map(|()| world.frames)
}

/// A tree with some more cables; a few leafs at its border.
fn build(world: &mut World) {
    let size = world.rng.range(5..51) as usize;
    for index in 0..size {
        let leaf = index > 2 && world.rng.chance(12);
        let cost = if world.rng.chance(50) {
            10
        } else {
            world.rng.range(0..30) as u16
        };
        let mut id = NodeId::parse(&format!("n{index:02}")).expect("a label");
        if leaf && world.rng.chance(50) {
            id = id.leaf(index as u64);
        }
        let node = world.add_node(id, cost, leaf);
        let workers = world.rng.range(0..4);
        world.nodes[node].config.workers = (0..workers).map(worker).collect();
        world.nodes[node].figures = figures(world);
    }
    let inner: Vec<usize> = (0..size).filter(|i| !world.nodes[*i].config.leaf).collect();
    for index in 1..size {
        let before: Vec<usize> = inner.iter().copied().filter(|i| *i < index).collect();
        let other = before[world.rng.index(before.len())];
        connect(world, index, other);
    }
    for _ in 0..world.rng.range(0..size as u64) {
        let (a, b) = (inner[world.rng.index(inner.len())], world.rng.index(size));
        connect(world, b, a);
    }
}

/// Lays a cable, unless there is one. Leafs only dial, of two others one or both do.
fn connect(world: &mut World, a: usize, b: usize) {
    let laid = world
        .cables
        .iter()
        .any(|c| c.ends.contains(&a) && c.ends.contains(&b));
    if a == b || laid {
        return;
    }
    let both = !world.nodes[a].config.leaf && world.rng.chance(30);
    let latency = world.rng.millis(1..80);
    world.add_cable([a, b], [true, both], latency);
}

fn worker(number: u64) -> WorkerAd {
    WorkerAd {
        directive: Directive::parse(&format!("sim:work{number}")).expect("a directive"),
        kind: PayloadKind::Bytes,
        version: "1".into(),
        idempotent: number == 0,
        description: "Works in the simulation.".into(),
    }
}

fn figures(world: &mut World) -> LoadFigures {
    LoadFigures {
        slots: world.rng.range(1..9) as u32,
        running: world.rng.range(0..9) as u32,
        queued: 0,
        queue_limit: 8,
    }
}

/// Something happens.
fn suffer(world: &mut World) {
    let (node, cable) = (
        world.rng.index(world.nodes.len()),
        world.rng.index(world.cables.len()),
    );
    match world.rng.range(0..100) {
        0..15 => world.cut(cable),
        15..30 => world.mend(cable),
        30..40 => flap(world, cable),
        40..48 => partition(world),
        48..55 => (0..world.cables.len()).for_each(|cable| world.mend(cable)),
        55..65 => world.crash(node),
        65..72 => {
            world.crash(node);
            let pause = world.rng.millis(0..2000);
            world.run(pause);
            world.start(node);
        }
        72..78 => world.leave(node),
        78..88 => start_unless_stopped(world, node),
        88..96 => {
            let figures = figures(world);
            world.set_load(node, figures);
        }
        _ => duplicate(world, node),
    }
}

fn start_unless_stopped(world: &mut World, node: usize) {
    if !world.nodes[node].stopped {
        world.start(node);
    }
}

fn flap(world: &mut World, cable: usize) {
    for _ in 0..world.rng.range(1..6) {
        world.cut(cable);
        let pause = world.rng.millis(1..800);
        world.run(pause);
        world.mend(cable);
        let pause = world.rng.millis(1..800);
        world.run(pause);
    }
}

/// Cuts all cables between two halves.
fn partition(world: &mut World) {
    let half: Vec<bool> = (0..world.nodes.len()).map(|_| world.rng.chance(50)).collect();
    for cable in 0..world.cables.len() {
        let [a, b] = world.cables[cable].ends;
        if half[a] != half[b] {
            world.cut(cable);
        }
    }
}

/// Somebody starts a second node with an id that is taken.
fn duplicate(world: &mut World, of: usize) {
    let original = &world.nodes[of].config;
    if original.leaf || world.nodes.len() > 55 {
        return;
    }
    let (id, cost) = (original.node.clone(), original.cost.0);
    let double = world.add_node(id, cost, false);
    let inner: Vec<usize> = (0..double).filter(|i| !world.nodes[*i].config.leaf).collect();
    for _ in 0..world.rng.range(1..3) {
        let other = inner[world.rng.index(inner.len())];
        connect(world, double, other);
    }
    world.nodes[double].figures = figures(world);
    world.start(double);
}
