//! Ctrl-C and SIGTERM: the run begins nothing more, heals the mesh, ends what it started and exits. The second one exits at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};

/// Exit status of a run that was broken off.
pub(crate) const STATUS: u8 = 130;
/// How often a sleeper looks whether the run is broken off.
const LOOK: Duration = Duration::from_millis(100);

static STOPPED: AtomicBool = AtomicBool::new(false);

/// Watches for the signals, from a thread of its own.
pub(crate) fn watch() -> Result<()> {
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
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if STOPPED.swap(true, Ordering::Relaxed) {
                    std::process::exit(STATUS.into());
                }
            }
        });
    });
    Ok(())
}

/// Whether the run is broken off.
pub(crate) fn stopped() -> bool {
    STOPPED.load(Ordering::Relaxed)
}

/// Sleeps until then, or until the run is broken off; gives whether it goes on.
pub(crate) fn sleep_until(then: Instant) -> bool {
    loop {
        let left = then.saturating_duration_since(Instant::now());
        if stopped() || left.is_zero() {
            return !stopped();
        }
        thread::sleep(left.min(LOOK));
    }
}
