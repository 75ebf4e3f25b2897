//! `node run`, and `node` without a verb: runs a node until it is told to stop.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use crate::config::{Environment, RunArgs, resolve};
use crate::daemon;

const EXAMPLES: &str = "\
Examples:
  node run                                   listen on UDP port 8888
  node run --peers a:8888,backup@b:8888      and stay linked with two neighbours
  node run --no-listen --peers a:8888        behind a firewall: only dial
  node --peers a:8888                        the verb may be left out

SIGTERM or Ctrl-C lets running units end, for 30 s at most; a second one stops at once. SIGHUP reloads the certificate.";

/// Run a node
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RunVerb {
    #[command(flatten)]
    pub(crate) args: RunArgs,
}

/// Runs the verb.
pub(crate) async fn run(args: &RunArgs, data_dir: &Path) -> anyhow::Result<ExitCode> {
    let settings = resolve(args, data_dir, &Environment::of_process())?.settings;
    daemon::run(settings).await?;
    Ok(ExitCode::SUCCESS)
}
