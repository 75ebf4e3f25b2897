//! The command line: one file a verb. The only place that prints, and the only one that chooses an exit status.
//!
//! Called by `main`. A verb asks a node over its control socket; it never looks into the node itself.

use std::future::Future;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory, Parser, Subcommand};

use crate::config::RunArgs;

mod run;
mod init;
mod cert;
mod config;
mod completions;
mod connect;
mod conversation;
mod exit;
mod output;
mod payload;
mod ping;
mod printer;
mod progress;
mod status;
mod submit;
mod text;
mod trace;
mod value;
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
#[command(name = "node", version, after_help = EXAMPLES, max_term_width = 110, args_conflicts_with_subcommands = true)]
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
    Run(run::RunVerb),
    Init(init::InitArgs),
    Cert(cert::CertArgs),
    Config(config::ConfigArgs),
    Submit(submit::SubmitArgs),
    Ping(ping::PingArgs),
    Trace(trace::TraceArgs),
    Status(status::StatusArgs),
    Workers(workers::WorkersArgs),
    Completions(completions::CompletionsArgs),
}

/// Parses the command line, runs the verb, and gives the exit status of the process.
pub fn main() -> ExitCode {
    match run(Cli::parse()) {
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

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let data_dir = cli.data_dir.unwrap_or_else(connect::default_data_dir);
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
        Verb::Completions(args) => completions::run(&args, &mut Cli::command()),
    }
}

/// Runs a verb on this thread.
fn block_on<T>(verb: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
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

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
