//! The least that keeping a unit can cost: records of a unit's size, gathered by one thread into one write and one sync each time,
//! and nothing else.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::{Context as _, Result};
use crossbeam_channel::{Receiver, Sender};
use tokio::sync::oneshot;

use super::asking::{self, Exchanger, Keeper};
use crate::protocol::{DiskUse, Disks, Handling, Ready};
use crate::settings::{KEPT_BYTES, KEPT_STEPS};

/// The arguments of this role.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file that takes the records; made anew.
    #[arg(long)]
    log: PathBuf,
}

/// Makes the file, says so, and obeys orders until stdin ends.
pub(crate) async fn run(args: Args) -> Result<()> {
    let disk = Disk::create(&args.log)?;
    super::say(&Ready { address: None })?;
    asking::obey_keeping(&disk).await
}

/// A record that waits to be on the disk, as whoever waits for it.
type Waiting = oneshot::Sender<()>;

/// The end of the file.
#[derive(Clone)]
struct Disk {
    records: Sender<Waiting>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    syncs: AtomicU64,
    appends: AtomicU64,
}

impl Disk {
    fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("make {}", path.display()))?;
        let (records, waiting) = crossbeam_channel::unbounded();
        let counts = Arc::new(Counts::default());
        let counting = Arc::clone(&counts);
        // It ends with the last sender, or with the first failure, which those who wait learn from its end.
        thread::spawn(move || commit(&file, &waiting, &counting));
        Ok(Self { records, counts })
    }

    async fn append(&self) -> Result<()> {
        let (done, on_disk) = oneshot::channel();
        self.records.send(done).context("append a record")?;
        on_disk.await.context("sync a record")
    }
}

/// Takes all that waits, writes it, syncs it, and tells those who wait.
fn commit(mut file: &File, waiting: &Receiver<Waiting>, counts: &Counts) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    while let Ok(first) = waiting.recv() {
        let batch: Vec<Waiting> = std::iter::once(first).chain(waiting.try_iter()).collect();
        bytes.resize(batch.len() * KEPT_BYTES, 0x45);
        file.write_all(&bytes)?;
        file.sync_data()?;
        counts.syncs.fetch_add(1, Ordering::Relaxed);
        counts.appends.fetch_add(batch.len() as u64, Ordering::Relaxed);
        for done in batch {
            // Nobody waits any more when the role ends.
            let _ = done.send(());
        }
    }
    Ok(())
}

impl Exchanger for Disk {
    async fn exchange(&self, _handling: Handling) -> Result<()> {
        for _ in 0..KEPT_STEPS {
            self.append().await?;
        }
        Ok(())
    }
}

impl Keeper for Disk {
    async fn disks(&self) -> Result<Disks> {
        let appends = self.counts.appends.load(Ordering::Relaxed);
        Ok(Disks {
            origin: DiskUse {
                syncs: self.counts.syncs.load(Ordering::Relaxed),
                appends,
                bytes: appends * KEPT_BYTES as u64,
            },
            executor: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_unit_is_as_many_records_as_it_has_steps() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let disk = Disk::create(&log).unwrap();
        for _ in 0..3 {
            disk.exchange(Handling::Pool).await.unwrap();
        }
        let kept = disk.disks().await.unwrap().origin;
        assert_eq!((kept.syncs, kept.appends), (6, 6));
        assert_eq!(log.metadata().unwrap().len(), kept.bytes);
    }

    #[tokio::test]
    async fn records_that_wait_together_share_a_sync() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::create(&directory.path().join("log")).unwrap();
        let waiting: Vec<_> = (0..64)
            .map(|_| {
                let (done, on_disk) = oneshot::channel();
                disk.records.send(done).unwrap();
                on_disk
            })
            .collect();
        for on_disk in waiting {
            on_disk.await.unwrap();
        }
        let kept = disk.disks().await.unwrap().origin;
        assert_eq!(kept.appends, 64);
        assert!(kept.syncs < 64, "{kept:?}");
    }
}
