//! A node as a daemon: logging, the control socket, signals, and the word to the service manager.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, Settings};
use crate::control::ControlSocket;
use crate::identity::Identity;
use crate::node::{Node, NodeError};

/// Runs a node until it is told to stop: SIGTERM or SIGINT drain it, a second one stops it at once; SIGHUP reloads
/// the certificate.
pub(crate) async fn run(settings: Settings) -> anyhow::Result<()> {
    init_logging(&settings)?;
    Identity::load(&settings.data_dir)?;
    let socket = ControlSocket::bind(&settings.data_dir).await?;
    let mut node = Node::start(settings.clone()).await?;
    let report = node.status();
    info!(
        node = %report.node,
        mesh = report.mesh,
        listen = report.listen.as_deref().unwrap_or("nowhere"),
        data_dir = %settings.data_dir.display(),
        workers = report.workers.len(),
        version = report.version,
        "node runs"
    );
    notify(&[sd_notify::NotifyState::Ready]);
    let control = node.control().clone();
    let ended = tokio::select! {
        () = socket.serve(control.clone()) => Ok(()),
        ended = follow_signals(&mut node, &settings) => ended,
    };
    notify(&[sd_notify::NotifyState::Stopping]);
    match ended {
        Ok(()) => {
            let mut again = StopSignals::new()?;
            info!("stopping; send the signal again to stop at once");
            tokio::select! {
                () = node.stop_sooner(settings.drain_grace, again.wait()) => info!("stopped"),
                () = socket.serve(control) => {}
            }
            Ok(())
        }
        Err(refused) => {
            error!("{refused}");
            Err(refused.into())
        }
    }
}

async fn follow_signals(node: &mut Node, settings: &Settings) -> Result<(), NodeError> {
    let broken = |error| NodeError::Io {
        what: "cannot listen for signals".to_owned(),
        error,
    };
    let mut stop = StopSignals::new().map_err(broken)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(broken)?;
    loop {
        tokio::select! {
            () = stop.wait() => return Ok(()),
            _ = hangup.recv() => {
                if let Err(error) = node.reload(settings) {
                    error!(%error, "cannot reload the certificate; the one in use stays");
                }
            }
            refused = node.failed() => return Err(refused),
        }
    }
}

/// The signals that ask a process to stop.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Tells the service manager, if there is one (`NOTIFY_SOCKET`).
fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "cannot notify the service manager");
    }
}

fn init_logging(settings: &Settings) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&settings.log)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    match settings.log_format {
        LogFormat::Text => builder.with_ansi(ansi).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}
