//! Where the programs under test are: named by the environment, else built beside the test binary.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The variable that names the `node` that ships.
const NODE_VARIABLE: &str = "WORKMESH_NODE";
/// The variable that names the node with the workers of the tests.
const OWN_NODE_VARIABLE: &str = "WORKMESH_OWN_NODE";

/// The `node` that ships.
pub fn node_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| find(NODE_VARIABLE, "workmesh-node", "node"))
}

/// The node that is also linked with the workers of the tests.
pub fn own_node_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| find(OWN_NODE_VARIABLE, "own-node", "own-node"))
}

/// The root of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests are a folder of the repository")
}

fn find(variable: &str, package: &str, binary: &str) -> PathBuf {
    match std::env::var_os(variable) {
        Some(path) if !path.is_empty() => {
            let path = PathBuf::from(path);
            assert!(
                path.is_file(),
                "{variable} names {}, which is no file",
                path.display()
            );
            path
        }
        _ => build(package, binary),
    }
}

/// Builds a program into the folder that holds this test binary's own `deps`.
fn build(package: &str, binary: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a running program has a path");
    let profile_dir = own
        .ancestors()
        .nth(2)
        .expect("a test binary lies in target/PROFILE/deps");
    let target_dir = profile_dir.parent().expect("a profile's folder lies in target");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args([
        "build",
        "--quiet",
        "--locked",
        "--package",
        package,
        "--bin",
        binary,
    ]);
    let profile = profile_dir.file_name().and_then(OsStr::to_str);
    let profile = profile.map_or("dev", |name| if name == "debug" { "dev" } else { name });
    cargo.args(["--profile", profile]);
    let status = cargo
        .current_dir(repository())
        .env("CARGO_TARGET_DIR", target_dir)
        .status()
        .expect("cargo has built this test and can be run again");
    assert!(status.success(), "cannot build {package}");
    profile_dir.join(binary)
}
