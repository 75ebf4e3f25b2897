//! The command line: one file a verb. The only place that prints, and the only one that chooses an exit status.
//!
//! Called by `main`. A verb asks a node over its control socket; it never looks into the node itself.

use std::ffi::OsString;
use std::future::Future;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Command, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::RunArgs;
use crate::identity;

mod run;
mod init;
mod cert;
mod config;
mod bench;
mod demo;
mod unit;
mod drain;
mod completions;
mod connect;
mod conversation;
mod ended;
mod exit;
mod line;
mod output;
mod payload;
mod ping;
mod printer;
mod progress;
mod silence;
mod status;
mod submit;
mod text;
mod trace;
mod value;
mod work;
mod workers;

const EXAMPLES: &str = "\
First steps:
  node init                                   make a mesh and this node's identity
  node --listen 0.0.0.0:8888                  run the node
  node cert issue --id nodeB --out nodeB      make an identity for another machine; copy the directory there
  node --data-dir nodeB --peers a:8888        run that node
  node submit --to nodeB --directive echo:bytes hello
  node demo                                   see a mesh of three nodes work on this machine";

/// A mesh of nodes that runs work where it can be run
#[derive(Parser, Debug)]
#[command(name = "node", version, after_help = EXAMPLES, max_term_width = 110)]
struct Cli {
    /// Where the node keeps its identity, state and control socket
    #[arg(
        long,
        global = true,
        env = "NODE_DATA_DIR",
        value_name = "DIR",
        help_heading = "Connection"
    )]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    run: RunArgs,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand, Debug)]
enum Verb {
    Run(Box<run::RunVerb>),
    Init(init::InitArgs),
    Cert(cert::CertArgs),
    Config(config::ConfigArgs),
    Submit(submit::SubmitArgs),
    Work(work::WorkArgs),
    Ping(ping::PingArgs),
    Trace(trace::TraceArgs),
    Status(status::StatusArgs),
    Workers(workers::WorkersArgs),
    Drain(drain::DrainArgs),
    Bench(bench::BenchArgs),
    Demo(demo::DemoArgs),
    Completions(completions::CompletionsArgs),
}

/// Parses the command line, runs the verb, and gives the exit status of the process.
pub fn main() -> ExitCode {
    match run(parse(std::env::args_os())) {
        Ok(status) => status,
        Err(error) => {
            if let Some(line) = exit::line(&error) {
                // With stderr closed there is nobody left to tell.
                let _ = writeln!(anstream::stderr(), "{line}");
            }
            ExitCode::from(exit::of_error(&error))
        }
    }
}

/// Parses a command line; ends the process with a usage error, or with a help text that was asked for.
fn parse(line: impl IntoIterator<Item = OsString>) -> Cli {
    let mut command = Cli::command();
    command
        .try_get_matches_from_mut(line)
        .and_then(|matches| {
            check_places(&mut command, &matches)?;
            Cli::from_arg_matches(&matches)
        })
        .unwrap_or_else(|error| error.exit())
}

/// Options that run a node may stand without a verb, but not before one that takes its own.
fn check_places(command: &mut Command, matches: &ArgMatches) -> Result<(), clap::Error> {
    let Some(verb) = matches.subcommand_name() else {
        return Ok(());
    };
    let misplaced = command.get_arguments().find_map(|argument| {
        let given = matches.value_source(argument.get_id().as_str()) == Some(ValueSource::CommandLine);
        argument.get_long().filter(|_| given && !argument.is_global_set())
    });
    match misplaced {
        None => Ok(()),
        Some(long) => {
            let text = format!("--{long} stands before the verb {verb}; write it after the verb");
            Err(command.error(ErrorKind::ArgumentConflict, text))
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let data_dir = identity::data_dir(cli.data_dir.as_deref())?;
    let Some(verb) = cli.verb else {
        return block_on(run::run(&cli.run, &data_dir));
    };
    match verb {
        Verb::Run(verb) => block_on(run::run(&verb.args, &data_dir)),
        Verb::Init(args) => init::run(&args, &data_dir),
        Verb::Cert(args) => cert::run(&args, &data_dir),
        Verb::Config(args) => config::run(&args, &data_dir),
        Verb::Submit(mut args) => {
            args.connect.data_dir = data_dir;
            block_on(submit::run(args))
        }
        Verb::Work(args) => block_on(work::run(args, &data_dir)),
        Verb::Ping(mut args) => {
            args.connect.data_dir = data_dir;
            block_on(ping::run(args))
        }
        Verb::Trace(mut args) => {
            args.connect.data_dir = data_dir;
            block_on(trace::run(args))
        }
        Verb::Status(mut args) => {
            args.connect.data_dir = data_dir;
            block_on(status::run(args))
        }
        Verb::Workers(mut args) => {
            args.connect.data_dir = data_dir;
            block_on(workers::run(args))
        }
        Verb::Drain(args) => block_on(drain::run(args, data_dir)),
        Verb::Bench(mut args) => {
            args.connect.data_dir = data_dir;
            block_on(bench::run(args))
        }
        Verb::Demo(args) => block_on(demo::run(args)),
        Verb::Completions(args) => completions::run(&args, &mut Cli::command()),
    }
}

/// How many turns of tasks may pass before sockets and timers are looked at: a busy session must not keep a small unit waiting.
const EVENT_INTERVAL: u32 = 16;
/// How many turns of tasks may pass before those are looked at that other threads have woken.
const QUEUE_INTERVAL: u32 = 8;

/// Runs a verb on this thread.
fn block_on<T>(verb: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .event_interval(EVENT_INTERVAL)
        .global_queue_interval(QUEUE_INTERVAL)
        .enable_io()
        .enable_time()
        .build()
        .context("starting the runtime")?;
    let result = runtime.block_on(verb);
    // A thread that still reads a payload must not hold up the exit.
    runtime.shutdown_background();
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn misplaced(line: &str) -> Option<String> {
        let mut command = Cli::command();
        let matches = command.try_get_matches_from_mut(line.split(' ')).unwrap();
        let error = check_places(&mut command, &matches).err()?;
        Some(error.to_string())
    }

    #[test]
    fn the_data_directory_stands_anywhere_and_other_options_behind_their_verb() {
        assert_eq!(misplaced("node --data-dir d ping b"), None);
        assert_eq!(misplaced("node ping b --data-dir d"), None);
        assert_eq!(misplaced("node --peers a:1 --data-dir d"), None);
        assert_eq!(misplaced("node ping b --peers a:1"), None);
        let error = misplaced("node --peers a:1 ping b").unwrap();
        assert!(error.contains("--peers stands before the verb ping"), "{error}");
    }

    #[test]
    fn every_verb_says_what_it_does_and_shows_examples() {
        for verb in Cli::command().get_subcommands() {
            let name = verb.get_name();
            assert!(verb.get_about().is_some(), "{name} has no description");
            let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            let shown = help.contains("Examples:\n  ") || verb.has_subcommands();
            assert!(shown, "{name} has no examples");
        }
    }

    #[test]
    fn help_keeps_to_the_width_of_a_terminal() {
        fn check(mut command: Command) {
            let help = command.render_long_help().to_string();
            for line in help.lines() {
                assert!(line.chars().count() <= 120, "{}: {line:?}", command.get_name());
            }
            command.get_subcommands().cloned().for_each(check);
        }
        check(Cli::command());
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
