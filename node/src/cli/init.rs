//! `node init`: makes a new mesh on this machine, its CA and its first node.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use workmesh_proto::{MeshName, NodeId};

use crate::identity::{self, DEFAULT_DAYS, Identity, MAX_DAYS, paths};

const EXAMPLES: &str = "\
Examples:
  node init
  node init --mesh lab --id web1
  node init --data-dir /srv/mesh --id web1

Nothing is ever overwritten: with an identity in place the exit status is 2.";

/// Make a new mesh: its CA, and this node's identity
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct InitArgs {
    /// Name of the mesh: letters, digits, '-' and '_'
    #[arg(long, value_name = "NAME", default_value = "mesh")]
    mesh: MeshName,
    /// Id of this node [default: made of the host name]
    #[arg(long, value_name = "ID")]
    id: Option<NodeId>,
    /// Days for which the node's certificate is valid
    #[arg(long, value_name = "N", default_value_t = DEFAULT_DAYS, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_DAYS)))]
    days: u32,
}

/// Runs the verb.
pub(crate) fn run(args: &InitArgs, data_dir: &Path) -> anyhow::Result<ExitCode> {
    let node = args.id.clone().unwrap_or_else(paths::host_node_id);
    let identity = identity::create_mesh(data_dir, &args.mesh, &node, args.days, Timestamp::now())?;
    let usual = identity::data_dir(None).is_ok_and(|usual| usual == data_dir);
    anstream::stdout().write_all(page(&identity, data_dir, usual).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// What was made, and the next commands; `usual`: they work without `--data-dir`.
fn page(identity: &Identity, data_dir: &Path, usual: bool) -> String {
    let node = identity.node();
    let flag = if usual {
        String::new()
    } else {
        format!(" --data-dir {}", data_dir.display())
    };
    format!(
        "Made mesh {mesh} and node {node}, in {dir}.

  {dir}/identity  this node's key and certificate, valid until {until}
  {dir}/ca        the mesh's CA: keep a copy in a safe place, and its key on this machine alone

Next:
  node{flag}                                     run this node, on UDP port 8888
  node cert issue{flag} --id nodeB --out nodeB   make an identity for another machine; copy the directory nodeB there, and run
  node --data-dir nodeB --peers {node}:8888",
        mesh = identity.mesh(),
        dir = data_dir.display(),
        until = identity.not_after().strftime("%Y-%m-%d"),
    ) + "\n"
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        init: InitArgs,
    }

    fn parse(args: &[&str]) -> Result<InitArgs, String> {
        Command::try_parse_from(["init"].iter().chain(args))
            .map(|command| command.init)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_page_names_what_was_made_and_the_next_commands() {
        let dir = tempfile::tempdir().unwrap();
        let now = Timestamp::constant(1_800_000_000, 0);
        let identity = identity::create_mesh(
            dir.path(),
            &"lab".parse().unwrap(),
            &"web1".parse().unwrap(),
            DEFAULT_DAYS,
            now,
        )
        .unwrap();
        let shown = page(&identity, Path::new("/d"), true);
        assert!(
            shown.starts_with("Made mesh lab and node web1, in /d.\n"),
            "{shown}"
        );
        assert!(shown.contains("valid until 2028-01-15"), "{shown}");
        assert!(
            shown.ends_with("  node --data-dir nodeB --peers web1:8888\n"),
            "{shown}"
        );
        assert!(page(&identity, Path::new("/d"), false).contains("node cert issue --data-dir /d --id nodeB"));
    }

    #[test]
    fn names_and_days_are_checked_on_the_command_line() {
        assert!(parse(&["--mesh", "a.b"]).unwrap_err().contains("contains '.'"));
        assert!(parse(&["--id", "-"]).is_err());
        assert!(parse(&["--days", "0"]).is_err());
        assert!(parse(&["--days", "3654"]).is_err());
        assert_eq!(parse(&["--days", "3653"]).unwrap().days, 3653);
        assert_eq!(parse(&[]).unwrap().mesh.as_str(), "mesh");
    }

    #[test]
    fn a_second_init_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let args = parse(&["--id", "a"]).unwrap();
        run(&args, dir.path()).unwrap();
        let error = run(&args, dir.path()).unwrap_err().to_string();
        assert!(error.contains("exists and is never overwritten"), "{error}");
    }
}
