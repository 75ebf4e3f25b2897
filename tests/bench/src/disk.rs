//! Where a run keeps its files: on a disk, because durable units wait for one.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

/// Type numbers of file systems as `statfs` tells them.
const NAMES: [(u32, &str); 8] = [
    (TMPFS, "tmpfs"),
    (RAMFS, "ramfs"),
    (0x0000_ef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0x2fc1_2fc1, "zfs"),
    (0x794c_7630, "overlayfs"),
    (0xf2f5_2010, "f2fs"),
];
const TMPFS: u32 = 0x0102_1994;
const RAMFS: u32 = 0x8584_58f6;

/// A directory for the run's files.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) directory: PathBuf,
    kind: u32,
}

impl Disk {
    /// The directory that was asked for; otherwise the one for temporary files, or, where that is in memory, the program's.
    pub(crate) fn choose(wanted: Option<&Path>) -> Result<Self> {
        if let Some(wanted) = wanted {
            let disk = Self::at(wanted)?;
            ensure!(
                !disk.is_memory(),
                "{} is {}: choose a directory on a disk with --dir",
                wanted.display(),
                disk.name()
            );
            return Ok(disk);
        }
        let temporary = Self::at(&std::env::temp_dir())?;
        if !temporary.is_memory() {
            return Ok(temporary);
        }
        let program = std::env::current_exe().context("find the own program")?;
        let beside = Self::at(program.parent().context("find the own program's directory")?)?;
        ensure!(
            !beside.is_memory(),
            "neither {} nor {} is on a disk: choose a directory that is with --dir",
            temporary.directory.display(),
            beside.directory.display()
        );
        Ok(beside)
    }

    fn at(directory: &Path) -> Result<Self> {
        let found =
            rustix::fs::statfs(directory).with_context(|| format!("look at {}", directory.display()))?;
        Ok(Self {
            directory: directory.to_owned(),
            // Type numbers have 32 bits; the field's width and sign are the machine's.
            kind: found.f_type as u32,
        })
    }

    /// Whether a sync has nothing to wait for.
    fn is_memory(&self) -> bool {
        matches!(self.kind, TMPFS | RAMFS)
    }

    /// The file system's name, or its number.
    pub(crate) fn name(&self) -> String {
        let known = NAMES.iter().find(|(kind, _)| *kind == self.kind);
        known.map_or_else(|| format!("{:#x}", self.kind), |(_, name)| (*name).to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_in_memory_is_no_disk() {
        let Ok(memory) = Disk::at(Path::new("/dev/shm")) else {
            return;
        };
        if memory.is_memory() {
            let error = Disk::choose(Some(Path::new("/dev/shm"))).unwrap_err();
            assert!(error.to_string().contains("--dir"), "{error}");
        }
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let error = Disk::choose(Some(Path::new("/no/such/place"))).unwrap_err();
        assert!(error.to_string().contains("/no/such/place"), "{error}");
    }
}
