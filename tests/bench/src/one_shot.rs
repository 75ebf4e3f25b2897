//! Whole-process commands, timed from their start to their end, in turn so that a slow minute hits all alike.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::subject::OneShot;

/// Runs every command `repeats` times, in turn, after one run each that is not counted. Yields a list of wall times for
/// each, in the order of `commands`.
pub(crate) fn time(commands: &[OneShot], repeats: usize) -> Result<Vec<Vec<Duration>>> {
    let mut times = vec![Vec::with_capacity(repeats); commands.len()];
    for command in commands {
        run(command)?;
    }
    for _ in 0..repeats {
        for (command, times) in commands.iter().zip(&mut times) {
            times.push(run(command)?);
        }
    }
    Ok(times)
}

fn run(one_shot: &OneShot) -> Result<Duration> {
    let name = one_shot.name;
    let (program, arguments) = one_shot
        .argv
        .split_first()
        .context("a command without a program")?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    let started = Instant::now();
    let status = command.status().with_context(|| format!("run command {name}"))?;
    let elapsed = started.elapsed();
    ensure!(status.success(), "command {name} ended with {status}");
    Ok(elapsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_shot(program: &str) -> OneShot {
        OneShot {
            name: "it",
            argv: vec![program.into()],
        }
    }

    #[test]
    fn every_command_is_timed_as_often_as_asked() {
        let times = time(&[one_shot("/bin/true"), one_shot("/bin/true")], 3).unwrap();
        assert_eq!(times.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3]);
    }

    #[test]
    fn a_command_that_fails_is_not_timed() {
        let error = time(&[one_shot("/bin/false")], 3).unwrap_err();
        assert!(error.to_string().contains("command it ended with"), "{error}");
    }
}
