//! Named scenarios: each one thing that must hold, and every seed that ever failed.

use std::sync::Arc;
use std::time::Duration;

use workmesh_proto::mesh::{LoadFigures, Timings, View};
use workmesh_proto::{Incarnation, NodeId};

use crate::world::{Weather, World};
use crate::{chaos, reference};

const LATENCY: Duration = Duration::from_millis(10);
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn joiner_has_the_whole_picture_within_a_second_and_all_have_the_joiner() {
    let mut world = line(20);
    let joiner = world.add_node(id("joiner"), 10, false);
    world.nodes[joiner].figures.slots = 4;
    world.add_cable([joiner, 0], [true, false], LATENCY);
    world.start(joiner);
    world.run(SECOND);
    assert_eq!(reference::check(&world), Ok(()));
}

#[test]
fn leave_is_seen_at_once_by_all() {
    let mut world = line(10);
    world.leave(9);
    world.run(LATENCY * 10 + Duration::from_millis(50));
    for index in 0..9 {
        assert!(view(&world, index).member(&name(9)).is_none());
    }
    world.run(SECOND * 10);
    assert_eq!(reference::check(&world), Ok(()));
}

#[test]
fn restarted_node_is_back_with_its_new_life_before_its_death_was_noticed() {
    let mut world = line(5);
    world.crash(2);
    world.start(2);
    world.run(SECOND * 2);
    for index in 0..5 {
        let view = view(&world, index);
        let member = view.member(&name(2)).expect("known");
        assert_eq!(member.incarnation(), world.nodes[2].config.incarnation);
    }
    world.run(SECOND * 20);
    assert_eq!(reference::check(&world), Ok(()));
}

#[test]
fn traffic_takes_the_other_way_as_soon_as_a_neighbour_notices() {
    let mut world = World::new(1);
    let nodes = [0, 1, 2, 3].map(|i| world.add_node(name(i), 10, false));
    let cables = [[0, 1], [1, 3], [0, 2], [2, 3]].map(|ends| world.add_cable(ends, [true, false], LATENCY));
    nodes.iter().for_each(|node| world.start(*node));
    world.run(SECOND * 2);
    let far = name(3).hash();
    assert_eq!(view(&world, 0).route(far).map(|r| &r.next_hop), Some(&name(1)));
    world.cut(cables[0]);
    world.run(SECOND * 5);
    assert_eq!(view(&world, 0).route(far).map(|r| &r.next_hop), Some(&name(2)));
}

#[test]
fn partition_heals_after_a_moment_and_after_all_is_forgotten() {
    for apart in [SECOND, SECOND * 8, SECOND * 30, SECOND * 64, SECOND * 200] {
        let mut world = line(10);
        world.cut(4);
        world.run(apart);
        let figures = LoadFigures {
            slots: 9,
            ..LoadFigures::default()
        };
        world.set_load(0, figures);
        world.mend(4);
        world.run(SECOND * 17);
        assert_eq!(reference::check(&world), Ok(()), "apart for {apart:?}");
    }
}

#[test]
fn dead_part_of_the_mesh_is_forgotten_for_good() {
    let mut world = line(10);
    world.crash(5);
    world.run(Timings::default().max_age + SECOND * 20);
    assert_eq!(reference::check(&world), Ok(()));
    assert_eq!(view(&world, 0).members.len(), 5);
}

#[test]
fn duplicate_far_away_is_driven_out() {
    let mut world = line(10);
    let double = world.add_node(name(0), 10, false);
    world.add_cable([double, 9], [true, false], LATENCY);
    world.start(double);
    world.run(SECOND * 12);
    assert!(world.nodes[double].stopped);
    assert_eq!(reference::check(&world), Ok(()));
}

#[test]
fn duplicate_at_the_same_neighbour_is_refused_at_once() {
    let mut world = line(3);
    let double = world.add_node(name(0), 10, false);
    world.add_cable([double, 1], [true, false], LATENCY);
    world.start(double);
    world.run(SECOND * 2);
    assert!(world.nodes[double].stopped);
    assert_eq!(reference::check(&world), Ok(()));
}

#[test]
fn duplicates_that_meet_after_a_partition_leave_the_older_one() {
    let mut world = line(6);
    world.cut(2);
    world.run(SECOND * 10);
    let double = world.add_node(name(0), 10, false);
    world.add_cable([double, 5], [true, false], LATENCY);
    world.start(double);
    world.run(SECOND * 10);
    assert_eq!(
        incarnation_seen(&world, 4, 0),
        Some(world.nodes[double].config.incarnation)
    );
    world.mend(2);
    world.run(SECOND * 15);
    assert!(world.nodes[double].stopped);
    assert_eq!(reference::check(&world), Ok(()));
}

#[test]
fn many_short_lived_leafs_leave_nothing_behind() {
    let mut world = line(4);
    for number in 0..50 {
        let leaf = world.add_node(id("laptop").leaf(number), 10, true);
        world.add_cable([leaf, (number % 4) as usize], [true, false], LATENCY);
        world.start(leaf);
        world.run(Duration::from_millis(200));
        assert_eq!(view(&world, leaf).members.len(), 5, "the leaf knows all");
        match number % 2 {
            0 => world.leave(leaf),
            _ => world.crash(leaf),
        }
        world.run(Duration::from_millis(5500));
        assert_eq!(view(&world, 0).members.len(), 4);
    }
    world.run(SECOND * 10);
    assert_eq!(reference::check(&world), Ok(()));
}

#[test]
fn what_foul_weather_has_lost_is_found_again() {
    let mut world = line(12);
    world.weather = Weather {
        lost: 40,
        overtaking: 40,
        twice: 20,
    };
    for round in 0..30 {
        let figures = LoadFigures {
            slots: 9,
            running: round,
            ..LoadFigures::default()
        };
        world.set_load((round % 12) as usize, figures);
        world.run(SECOND);
    }
    world.weather = Weather::default();
    world.run(SECOND * 40);
    assert_eq!(reference::check(&world), Ok(()));
}

/// Two live nodes with one id had cables to one neighbour, which was content with either.
#[test]
fn seed_504() {
    assert!(chaos::run(504).is_ok());
}

/// Running nodes in a line, that know each other.
fn line(length: usize) -> World {
    let mut world = World::new(length as u64);
    for index in 0..length {
        let node = world.add_node(name(index), 10, false);
        world.start(node);
        if index > 0 {
            world.add_cable([index, index - 1], [true, index % 3 == 0], LATENCY);
        }
    }
    world.run(SECOND * 3);
    assert_eq!(reference::check(&world), Ok(()));
    world
}

fn view(world: &World, index: usize) -> Arc<View> {
    world.nodes[index].mesh.as_ref().expect("the node runs").view()
}

fn incarnation_seen(world: &World, by: usize, node: usize) -> Option<Incarnation> {
    view(world, by).member(&name(node)).map(|m| m.incarnation())
}

fn name(index: usize) -> NodeId {
    id(&format!("n{index:02}"))
}

fn id(text: &str) -> NodeId {
    NodeId::parse(text).expect("an id")
}
