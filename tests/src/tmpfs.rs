//! A small disk of a test's own, which can be filled.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Whether a disk can be mounted here.
///
/// # Panics
/// In continuous integration (`CI` is set), where these tests have to run.
#[expect(clippy::print_stderr, reason = "says why a test shows nothing")]
pub fn may_mount() -> bool {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let made = try_mount(dir.path(), 1).and_then(|()| unmount(dir.path()));
    let Err(reason) = made else { return true };
    let text = format!("tests with a full disk need root and `mount -t tmpfs`: {reason}");
    assert!(std::env::var_os("CI").is_none_or(|ci| ci.is_empty()), "{text}");
    eprintln!("skipped: {text}");
    false
}

/// A disk in memory; gone when dropped, even if files on it are in use.
#[derive(Debug)]
pub struct Tmpfs(PathBuf);

impl Tmpfs {
    /// A disk of so many MiB, mounted at a directory.
    pub fn mount(at: &Path, mib: u64) -> Self {
        if let Err(error) = try_mount(at, mib) {
            panic!("mount a tmpfs at {}: {error}", at.display());
        }
        Self(at.to_owned())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Nothing can be done about a mount that stays, and the test has its result.
        let _stays = unmount(&self.0);
    }
}

fn try_mount(at: &Path, mib: u64) -> Result<(), String> {
    let size = format!("size={mib}m");
    run(Command::new("mount")
        .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
        .arg(at))
}

fn unmount(at: &Path) -> Result<(), String> {
    run(Command::new("umount").arg("--lazy").arg(at))
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command
        .output()
        .map_err(|error| format!("cannot run {command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}
