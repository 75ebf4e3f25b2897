//! The rounds of a run: every load on every subject in turn, seconds apart, so that a slow minute of the machine hits all
//! alike.

use anyhow::Result;

use crate::gates::{KEPT, MANY, ONE};
use crate::measure::{self, Extent, Figures};
use crate::one_shot;
use crate::protocol::Handling;
use crate::reading::{Cell, Load, Place, Quantity, Readings, Spread};
use crate::subject::{OneShot, Running, Shape, Subject};

/// Idle neighbours of the node whose memory is read.
const NEIGHBOURS: usize = 32;
/// Units that wait where the memory of waiting units is read.
const PENDING: usize = 400;
/// Times each of two builds is measured in a round.
const TURNS: usize = 4;
/// Times a whole-process command is timed in a round.
const COMMAND_REPEATS: usize = 15;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Everything that this build has to say.
    All,
    /// Durable units.
    Durable,
    /// Small exchanges beside another build's.
    Against,
}

/// What a run does.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) scope: Scope,
    /// How often everything is measured.
    pub(crate) rounds: usize,
    /// The lengths of line, in relays between the ends.
    pub(crate) relays: Vec<usize>,
    pub(crate) extent: Extent,
}

/// Carries out the plan. `progress` is told what is up and comes next.
pub(crate) fn run(
    subjects: &[Box<dyn Subject>],
    plan: &Plan,
    mut progress: impl FnMut(&str),
) -> Result<Readings> {
    let mut readings = Readings::default();
    for round in 1..=plan.rounds {
        let mut progress = |what: &str| progress(&format!("round {round} of {}: {what}", plan.rounds));
        if plan.scope == Scope::Against {
            progress("small units of two builds");
            load_in_turn(subjects, plan.extent, &mut readings)?;
            continue;
        }
        progress("durable units");
        load_keeping(subjects, plan.extent, &mut readings)?;
        if plan.scope == Scope::Durable {
            continue;
        }
        for &relays in &plan.relays {
            let mut lines = raise_all(subjects, Shape::Line { relays })?;
            progress(&format!("{relays} relays"));
            load_lines(subjects, &mut lines, relays, plan.extent, &mut readings)?;
        }
        progress("memory and starts");
        for subject in subjects {
            read_memory(subject.as_ref(), &mut readings)?;
        }
        time_commands(subjects, &mut readings)?;
    }
    Ok(readings)
}

/// Every load of a line, each on one subject after the other while all of their processes are up.
fn load_lines(
    subjects: &[Box<dyn Subject>],
    lines: &mut [Running],
    relays: usize,
    extent: Extent,
    readings: &mut Readings,
) -> Result<()> {
    for load in loads() {
        for (subject, running) in subjects.iter().zip(&mut *lines) {
            let handling = subject.handlings().first().copied().unwrap_or(Handling::Pool);
            let figures = match load {
                Load::Exchange {
                    outstanding,
                    handling,
                } if subject.handlings().contains(&handling) => {
                    measure::exchange(running, extent, outstanding, handling)?
                }
                Load::Bulk => measure::bulk(running, extent)?,
                Load::Mixed => measure::mixed(running, extent, handling)?,
                _ => continue,
            };
            for (quantity, figure) in figures {
                let cell = Cell {
                    relays,
                    load,
                    quantity,
                };
                readings.push(subject.name(), cell, figure);
            }
        }
    }
    Ok(())
}

/// Durable units, in each place on one subject after the other while all of their processes are up.
fn load_keeping(subjects: &[Box<dyn Subject>], extent: Extent, readings: &mut Readings) -> Result<()> {
    for place in [Place::Neighbour, Place::Here] {
        let raised = subjects.iter().map(|subject| subject.raise_keeping(place));
        let mut raised = raised.collect::<Result<Vec<_>>>()?;
        for outstanding in [ONE, KEPT] {
            let load = Load::Durable { outstanding, place };
            for (subject, keeping) in subjects.iter().zip(&mut raised) {
                let figures = measure::durable(keeping, extent, outstanding)?;
                push(readings, subject.name(), load, figures);
            }
        }
    }
    Ok(())
}

/// Small exchanges on two builds in turn, [`TURNS`] times, each the first as often as the other.
fn load_in_turn(subjects: &[Box<dyn Subject>], extent: Extent, readings: &mut Readings) -> Result<()> {
    let mut lines = raise_all(subjects, Shape::Line { relays: 0 })?;
    let handling = Handling::Pool;
    for outstanding in [ONE, MANY] {
        let load = Load::Exchange {
            outstanding,
            handling,
        };
        for turn in 0..TURNS {
            let mut order: Vec<usize> = (0..subjects.len()).collect();
            if turn % 2 == 1 {
                order.reverse();
            }
            for index in order {
                let figures = measure::exchange(&mut lines[index], extent, outstanding, handling)?;
                push(readings, subjects[index].name(), load, figures);
            }
        }
    }
    Ok(())
}

fn push(readings: &mut Readings, subject: &'static str, load: Load, figures: Figures) {
    for (quantity, figure) in figures {
        let cell = Cell {
            relays: 0,
            load,
            quantity,
        };
        readings.push(subject, cell, figure);
    }
}

fn loads() -> impl Iterator<Item = Load> {
    let exchanges = [ONE, MANY].into_iter().flat_map(|outstanding| {
        [Handling::InPlace, Handling::Pool].map(|handling| Load::Exchange {
            outstanding,
            handling,
        })
    });
    exchanges.chain([Load::Bulk, Load::Mixed])
}

fn read_memory(subject: &dyn Subject, readings: &mut Readings) -> Result<()> {
    let mut push = |load, quantity, figure| {
        let cell = Cell {
            relays: 0,
            load,
            quantity,
        };
        readings.push(subject.name(), cell, figure);
    };
    let alone = subject.raise(Shape::Star { neighbours: 0 })?;
    for (load, quantity, figure) in measure::rest(&alone)? {
        push(load, quantity, figure);
    }
    let among = subject.raise(Shape::Star {
        neighbours: NEIGHBOURS,
    })?;
    for (quantity, figure) in measure::neighbours(&alone, &among)? {
        push(Load::Neighbours, quantity, figure);
    }
    drop((alone, among));
    let mut line = subject.raise(Shape::Line { relays: 0 })?;
    for (quantity, figure) in measure::pending(&mut line, PENDING)? {
        push(Load::Pending, quantity, figure);
    }
    Ok(())
}

fn time_commands(subjects: &[Box<dyn Subject>], readings: &mut Readings) -> Result<()> {
    let lines = raise_all(subjects, Shape::Line { relays: 0 })?;
    let mut owners = Vec::new();
    let mut commands: Vec<OneShot> = Vec::new();
    for (subject, running) in subjects.iter().zip(&lines) {
        for command in subject.commands(running)? {
            owners.push(subject.name());
            commands.push(command);
        }
    }
    let times = one_shot::time(&commands, COMMAND_REPEATS)?;
    for ((owner, command), times) in owners.into_iter().zip(&commands).zip(times) {
        let millis: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1000.0).collect();
        if let Some(spread) = Spread::of(&millis) {
            let cell = Cell {
                relays: 0,
                load: Load::Command(command.name),
                quantity: Quantity::WallMillis,
            };
            readings.push(owner, cell, spread.median);
        }
    }
    Ok(())
}

fn raise_all(subjects: &[Box<dyn Subject>], shape: Shape) -> Result<Vec<Running>> {
    subjects.iter().map(|subject| subject.raise(shape)).collect()
}
