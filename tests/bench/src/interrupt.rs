//! What a signal does to a run: every process of it is ended, its directory goes, and the driver exits.
//!
//! A run that ends by itself, by an error or by a panic unwinds and needs none of this.

use std::path::PathBuf;
use std::thread;

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};

use crate::process;

/// Exit status after a signal.
const INTERRUPTED: i32 = 130;

/// Watches for an interrupt or a request to terminate, from a thread of its own.
pub(crate) fn watch(directory: PathBuf) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime that watches for signals")?;
    let (mut interrupt, mut terminate) = {
        let _entered = runtime.enter();
        let interrupt = signal(SignalKind::interrupt()).context("watch for an interrupt")?;
        let terminate = signal(SignalKind::terminate()).context("watch for termination")?;
        (interrupt, terminate)
    };
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        process::end_all();
        // What cannot be removed is left to the system's own sweep of temporary files.
        let _ = std::fs::remove_dir_all(directory);
        std::process::exit(INTERRUPTED);
    });
    Ok(())
}
