//! Where things lie: the data directory, and the files of an identity and of a CA in it.
//!
//! Called by the command line and by the rest of `identity`. Never touches the disk.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use workmesh_proto::NodeId;

use super::IdentityError;

/// The environment variable that names the data directory.
pub const DATA_DIR_VARIABLE: &str = "NODE_DATA_DIR";
const SYSTEM_DATA_DIR: &str = "/var/lib/workmesh";

/// This node's certificate chain, PEM.
pub fn node_certificate(data_dir: &Path) -> PathBuf {
    data_dir.join("identity/node.crt")
}

/// This node's private key, PKCS #8 in PEM, mode 0600.
pub fn node_key(data_dir: &Path) -> PathBuf {
    data_dir.join("identity/node.key")
}

/// The CA certificates that this node trusts, PEM.
pub fn trusted_ca(data_dir: &Path) -> PathBuf {
    data_dir.join("identity/ca.crt")
}

/// The CA's own certificate, on the machine that issues certificates.
pub fn ca_certificate(data_dir: &Path) -> PathBuf {
    data_dir.join("ca/ca.crt")
}

/// The CA's private key, on the machine that issues certificates.
pub fn ca_key(data_dir: &Path) -> PathBuf {
    data_dir.join("ca/ca.key")
}

/// The list of all certificates that the CA has issued, a JSON object a line.
pub fn ca_ledger(data_dir: &Path) -> PathBuf {
    data_dir.join("ca/issued.jsonl")
}

/// The data directory: `flag`, else `NODE_DATA_DIR`, else `/var/lib/workmesh` for root and
/// `$XDG_STATE_HOME/workmesh` or `~/.local/state/workmesh` for others.
///
/// Fails when none of them is known.
pub fn data_dir(flag: Option<&Path>) -> Result<PathBuf, IdentityError> {
    choose_data_dir(flag, rustix::process::geteuid().is_root(), |name| {
        std::env::var_os(name)
    })
}

pub(crate) fn choose_data_dir(
    flag: Option<&Path>,
    root: bool,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<PathBuf, IdentityError> {
    let set = |name| {
        variable(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let absolute = |name| set(name).filter(|path| path.is_absolute());
    if let Some(path) = flag.map(Path::to_owned).or_else(|| set(DATA_DIR_VARIABLE)) {
        return Ok(path);
    }
    if root {
        return Ok(SYSTEM_DATA_DIR.into());
    }
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map(|state| state.join("workmesh"))
        .ok_or(IdentityError::NoDataDir)
}

/// A node id made of this machine's host name: its first label, other characters replaced by `-`.
/// `node` when nothing is left.
pub fn host_node_id() -> NodeId {
    node_id_of_host(&rustix::system::uname().nodename().to_string_lossy())
}

fn node_id_of_host(name: &str) -> NodeId {
    let label: String = name
        .split('.')
        .next()
        .unwrap_or_default()
        .chars()
        .take(workmesh_proto::id::MAX_LABEL_BYTES)
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '_' {
                c
            } else {
                '-'
            }
        })
        .collect();
    NodeId::parse(label.trim_matches('-'))
        .or_else(|_| NodeId::parse("node"))
        .expect("\"node\" is a label")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(flag: Option<&str>, root: bool, env: &[(&str, &str)]) -> Result<PathBuf, IdentityError> {
        choose_data_dir(flag.map(Path::new), root, |name| {
            env.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into())
        })
    }

    #[test]
    fn the_flag_wins_over_the_environment_and_that_over_the_default() {
        let env = [
            ("NODE_DATA_DIR", "/env"),
            ("XDG_STATE_HOME", "/state"),
            ("HOME", "/home/u"),
        ];
        assert_eq!(choose(Some("/flag"), true, &env).unwrap(), Path::new("/flag"));
        assert_eq!(choose(None, true, &env).unwrap(), Path::new("/env"));
        assert_eq!(
            choose(None, true, &env[1..]).unwrap(),
            Path::new("/var/lib/workmesh")
        );
        assert_eq!(
            choose(None, false, &env[1..]).unwrap(),
            Path::new("/state/workmesh")
        );
        assert_eq!(
            choose(None, false, &env[2..]).unwrap(),
            Path::new("/home/u/.local/state/workmesh")
        );
        assert!(matches!(choose(None, false, &[]), Err(IdentityError::NoDataDir)));
    }

    #[test]
    fn an_empty_variable_is_as_good_as_none_and_a_relative_state_directory_too() {
        let env = [
            ("NODE_DATA_DIR", ""),
            ("XDG_STATE_HOME", "state"),
            ("HOME", "/home/u"),
        ];
        assert_eq!(
            choose(None, false, &env).unwrap(),
            Path::new("/home/u/.local/state/workmesh")
        );
    }

    #[test]
    fn host_names_become_node_ids() {
        for (host, id) in [
            ("web1.example.org", "web1"),
            ("Édith-2", "dith-2"),
            ("my box", "my-box"),
            ("", "node"),
            ("...", "node"),
        ] {
            assert_eq!(node_id_of_host(host).as_str(), id);
        }
        assert_eq!(node_id_of_host(&"a".repeat(100)).as_str().len(), 63);
    }
}
