//! `node config`: what the node would run with, and whether its configuration is good.

use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::config::{self, Entry, Environment, Resolved, RunArgs};

const EXAMPLES: &str = "\
Examples:
  node config check
  node config check /etc/workmesh/node.toml
  node config show
  node config show --peers a:8888 --json | jq '.settings[] | select(.origin != \"default\")'

A flag wins over its NODE_* variable, that over the file, that over the default.
The file is that of --config, else of NODE_CONFIG, else node.toml in the data directory, else
/etc/workmesh/node.toml, if there.";

/// Check and show the configuration
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    verb: ConfigVerb,
}

#[derive(Subcommand, Clone, Debug)]
enum ConfigVerb {
    Check(CheckArgs),
    Show(Box<ShowArgs>),
}

/// Check the configuration: exit status 0, or 2 and the file, line and key that is wrong
#[derive(Args, Clone, Debug)]
struct CheckArgs {
    /// The file to check [default: the one that the node would read]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Show every effective value and where it comes from
#[derive(Args, Clone, Debug)]
struct ShowArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    run: RunArgs,
}

/// What `config show --json` prints.
#[derive(Serialize)]
struct Shown<'a> {
    data_dir: &'a Path,
    file: Option<&'a Path>,
    settings: &'a [Entry],
}

/// Runs the verb.
pub(crate) fn run(args: &ConfigArgs, data_dir: &Path) -> anyhow::Result<ExitCode> {
    let environment = Environment::of_process();
    match &args.verb {
        ConfigVerb::Check(args) => check(args, data_dir, &environment),
        ConfigVerb::Show(args) => show(args, data_dir, &environment),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn check(args: &CheckArgs, data_dir: &Path, environment: &Environment) -> anyhow::Result<()> {
    let run = RunArgs::of_file(args.file.clone());
    let resolved = config::resolve(&run, data_dir, environment)?;
    for variable in environment.unknown() {
        writeln!(
            anstream::stderr(),
            "node: environment variable {} means nothing to this program",
            variable.escape_debug()
        )?;
    }
    match &resolved.file {
        Some(path) => writeln!(anstream::stdout(), "{}: ok", path.display())?,
        None => writeln!(anstream::stdout(), "no configuration file: ok")?,
    }
    Ok(())
}

fn show(args: &ShowArgs, data_dir: &Path, environment: &Environment) -> anyhow::Result<()> {
    let resolved = config::resolve(&args.run, data_dir, environment)?;
    let mut out = anstream::stdout();
    if args.json {
        let shown = Shown {
            data_dir,
            file: resolved.file.as_deref(),
            settings: &resolved.entries,
        };
        writeln!(out, "{}", serde_json::to_string(&shown)?)?;
    } else {
        out.write_all(page(&resolved, data_dir).as_bytes())?;
    }
    Ok(())
}

/// All values as a configuration file, with their origins as comments.
fn page(resolved: &Resolved, data_dir: &Path) -> String {
    let lines: Vec<(String, String)> = resolved
        .entries
        .iter()
        .map(|entry| (line(entry), entry.origin.to_string()))
        .collect();
    let width = lines
        .iter()
        .map(|(line, _)| line.chars().count())
        .filter(|width| *width <= MAX_COLUMN)
        .max()
        .unwrap_or_default();
    let file = match &resolved.file {
        Some(path) => path.display().to_string(),
        None => "none".to_owned(),
    };
    let mut page = format!("# data directory: {}\n# file: {file}\n", data_dir.display());
    for (line, origin) in lines {
        writeln!(page, "{line:<width$}  # {origin}").expect("writing to a string cannot fail");
    }
    page
}

/// Origins are aligned behind lines of up to this length, in characters.
const MAX_COLUMN: usize = 60;

fn line(entry: &Entry) -> String {
    let value = match serde_json::from_value::<toml::Value>(entry.value.clone()) {
        Ok(value) => value.to_string(),
        Err(_) => entry.value.to_string(),
    };
    format!("{} = {value}", entry.key)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        config: ConfigArgs,
    }

    fn shown(text: &str, variables: &[(&str, &str)]) -> String {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("node.toml"), text).unwrap();
        let environment = variables.iter().copied().collect();
        let resolved = config::resolve(&RunArgs::default(), dir.path(), &environment).unwrap();
        page(&resolved, dir.path()).replace(dir.path().to_str().unwrap(), "DATA")
    }

    #[test]
    fn the_command_line_is_consistent() {
        Command::command().debug_assert();
    }

    #[test]
    fn every_value_is_shown_with_its_origin() {
        let page = shown(
            "[pool]\nmax_workers = 2\n[workers.http]\nlimit = 3\n[work]\nkeep_failed_bytes = \"4GiB\"\n",
            &[("NODE_COST", "7")],
        );
        assert_eq!(
            page,
            "\
# data directory: DATA
# file: DATA/node.toml
mesh.listen = \"0.0.0.0:8888\"        # default
mesh.peers = []                     # default
mesh.cost = 7                       # environment NODE_COST
mesh.detection = \"5s\"               # default
mesh.labels = {}                    # default
pool.max_workers = 2                # DATA/node.toml:2
pool.queue = 1024                   # default
pool.max_bytes_payload = \"16MiB\"    # default
pool.max_file_payload = \"16GiB\"     # default
pool.payload_idle = \"1m\"            # default
pool.drain_grace = \"30s\"            # default
work.quota = \"16GiB\"                # default
work.reserve = \"256MiB\"             # default
work.spool_limit = \"1GiB\"           # default
work.lost_after = \"24h\"             # default
work.batch_from = 8                 # default
work.keep_succeeded_for = \"24h\"     # default
work.keep_succeeded_count = 100000  # default
work.keep_succeeded_bytes = \"4GiB\"  # default
work.keep_failed_for = \"168h\"       # default
work.keep_failed_count = 100000     # default
work.keep_failed_bytes = \"4GiB\"     # DATA/node.toml:6
log.level = \"info\"                  # default
log.format = \"text\"                 # default
workers.http = { limit = 3 }        # DATA/node.toml:3
"
        );
    }

    #[test]
    fn what_is_shown_is_a_configuration_file() {
        let page = shown("[mesh]\nlabels = { site = \"b\\\"\\u0007\" }\n", &[]);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("copy.toml");
        std::fs::write(&path, &page).unwrap();
        let args = ["config", "check", path.to_str().unwrap()];
        let command = Command::try_parse_from(args).unwrap();
        run(&command.config, dir.path()).unwrap();
    }

    #[test]
    fn a_bad_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("node.toml"), "[mesh]\ncots = 1\n").unwrap();
        let command = Command::try_parse_from(["config", "show"]).unwrap();
        let error = run(&command.config, dir.path()).unwrap_err().to_string();
        assert!(
            error.ends_with("node.toml:2:1: mesh.cots: unknown key; did you mean mesh.cost?"),
            "{error}"
        );
    }
}
