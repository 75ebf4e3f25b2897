//! A unit that is to survive: submitted until the node says that it is stored, then followed to its end or left.

use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::pin::pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use workmesh_proto::UnitId;
use workmesh_proto::unit::OriginEvent;
use workmesh_proto::wire::unit::{Eof, Submit};

use super::{SubmitArgs, conversation, interrupt, stdout};
use crate::cli::connect::{connect_node, redial};
use crate::cli::conversation::{NotStored, upload};
use crate::cli::ended::{End, Ended};
use crate::cli::exit::{self, Failure};
use crate::cli::line::{Pauses, Way};
use crate::cli::output::{Format, Output};
use crate::cli::payload::Payload;
use crate::cli::progress::Progress;
use crate::control::client::{BoxedStream, Client, connect_socket};

/// How long a unit is submitted again whose node went away before it was stored.
const REPEAT: Duration = Duration::from_secs(30);

/// Runs the verb for a durable unit; gives its exit status. `out` takes the id of a detached one.
pub(super) async fn run(
    args: &SubmitArgs,
    submit: Submit,
    payload: Payload,
    out: &mut impl Write,
) -> anyhow::Result<u8> {
    let data_dir = args.connect.data_dir.as_path();
    let unit = submit.unit;
    let (begun, deadline_ms) = (Instant::now(), submit.deadline_ms);
    let mut client = Some(connect_node(data_dir).await?);
    let mut payload = Some(payload);
    let mut interrupt = pin!(interrupt());
    let mut pauses = Pauses::new();
    let mut give_up: Option<Instant> = None;
    loop {
        let payload = match payload.take() {
            Some(payload) => payload,
            None => Payload::open(args.payload.as_deref())?,
        };
        let repeats = payload.repeats;
        let submit = Submit {
            deadline_ms: deadline_ms.map(|ms| left(ms, begun.elapsed())),
            ..submit.clone()
        };
        let attempt = async {
            let client = match client.take() {
                Some(client) => client,
                None => connect_socket(data_dir).await.map_err(|error| NotStored {
                    error,
                    stopped: false,
                })?,
            };
            once(args, submit, payload, client, interrupt.as_mut(), out).await
        };
        let error = match attempt.await {
            Ok(ended) => return ended,
            Err(not_stored) => not_stored,
        };
        if error.stopped {
            return Err(unsure_and_stopped(unit).into());
        }
        if !error.error.is_absence() {
            return Err(anyhow::Error::from(error.error).context(format!("unit {unit}")));
        }
        if !repeats || give_up.is_some_and(|at| Instant::now() > at) {
            return Err(unsure(unit).into());
        }
        if give_up.is_none() {
            give_up = Some(Instant::now() + REPEAT);
            Progress::new(None).say("the node went away before the unit was stored; submitting it again...");
        }
        tokio::select! {
            () = tokio::time::sleep(pauses.next()) => {}
            () = interrupt.as_mut() => return Err(unsure_and_stopped(unit).into()),
        }
    }
}

/// Submits once, and stays to the end or leaves. The outer error: whether the unit is stored is not known.
async fn once(
    args: &SubmitArgs,
    submit: Submit,
    payload: Payload,
    client: Client<BoxedStream>,
    interrupt: impl Future<Output = ()>,
    out: &mut impl Write,
) -> Result<anyhow::Result<u8>, NotStored> {
    let unit = submit.unit;
    if submit.detach {
        let progress = Progress::new(payload.length);
        let stored = store(client, &submit, payload, &progress, interrupt).await;
        progress.hide();
        return Ok(match stored? {
            Ok(()) => tell_stored(unit, args.format, out),
            Err(Kept::Refused(ended)) => tell_refused(ended, args.format, out),
            Err(Kept::Failed(failure)) => Err(failure.into()),
        });
    }
    let terminal = io::stdout().is_terminal();
    let way = Way {
        client,
        redial: Some(redial(&args.connect.data_dir)),
    };
    let conversation = conversation(submit, payload, args.format, terminal);
    match conversation.hold(way, stdout, interrupt).await {
        Ok(ended) => Ok(ended.report()),
        Err(error) => match error.downcast::<NotStored>() {
            Ok(not_stored) => Err(not_stored),
            Err(error) => Ok(Err(error)),
        },
    }
}

/// Why a unit is not stored.
#[derive(Debug)]
enum Kept {
    /// The node does not take it.
    Refused(Ended),
    /// Something here went wrong, or it was stopped.
    Failed(Failure),
}

/// Sends a unit, and waits for no more than word that it is stored.
async fn store<S: AsyncRead + AsyncWrite + Unpin>(
    client: Client<S>,
    submit: &Submit,
    payload: Payload,
    progress: &Progress,
    interrupt: impl Future<Output = ()>,
) -> Result<Result<(), Kept>, NotStored> {
    let unit = submit.unit;
    let unsure = |error| NotStored {
        error,
        stopped: false,
    };
    let (sender, mut receiver) = client.submit(submit).await.map_err(unsure)?;
    let stop = CancellationToken::new();
    let mut upload = pin!(upload(sender, Some(payload), &stop, progress));
    let mut interrupt = pin!(interrupt);
    let mut uploading = true;
    loop {
        tokio::select! {
            event = receiver.next() => match event.map_err(unsure)? {
                OriginEvent::Stored(_) => return Ok(Ok(())),
                OriginEvent::Refused(refused) => {
                    return Ok(Err(Kept::Refused(Ended {
                        unit,
                        executor: None,
                        chosen: submit.to.is_some(),
                        end: End::Eof(Eof::without_responses(refused.kind, refused.message)),
                        stopped: None,
                        written: Ok(()),
                    })));
                }
                OriginEvent::Accepted(_)
                | OriginEvent::Piece(_)
                | OriginEvent::Eof(_)
                | OriginEvent::Started(_)
                | OriginEvent::Unfinished(_) => {}
            },
            sent = &mut upload, if uploading => {
                uploading = false;
                if let Err(error) = sent {
                    let text = format!("unit {unit}: not stored, because its payload can't be read: {error}");
                    return Ok(Err(Kept::Failed(Failure::new(exit::FAILED, text))));
                }
            }
            () = &mut interrupt => return Ok(Err(Kept::Failed(unsure_and_stopped(unit)))),
        }
    }
}

fn tell_stored(unit: UnitId, format: Option<Format>, out: &mut impl Write) -> anyhow::Result<u8> {
    let told = match format {
        Some(Format::Json) => Output::new(format, false).stored(unit, out),
        Some(Format::Raw | Format::Lines) | None => writeln!(out, "{unit}"),
    };
    match told {
        Ok(()) => Ok(exit::OK),
        Err(error) => {
            let text = format!("unit {unit} is stored, but its id can't be written: {error}");
            Err(Failure::new(exit::FAILED, text).into())
        }
    }
}

fn tell_refused(ended: Ended, format: Option<Format>, out: &mut impl Write) -> anyhow::Result<u8> {
    if let End::Eof(eof) = &ended.end {
        Output::new(format, false).eof(eof, out)?;
    }
    ended.report()
}

fn left(deadline_ms: u64, gone: Duration) -> u64 {
    deadline_ms.saturating_sub(gone.as_millis().try_into().unwrap_or(u64::MAX))
}

fn unsure(unit: UnitId) -> Failure {
    let text = format!(
        "unit {unit}: the node went away before it said that the unit is stored; submit it again with --id {unit}: the same id \
         twice is one unit"
    );
    Failure::new(exit::UNREACHABLE, text)
}

fn unsure_and_stopped(unit: UnitId) -> Failure {
    let text = format!(
        "unit {unit}: stopped before the node said that it is stored; `node work cancel {unit}` makes sure that it does not run"
    );
    Failure::new(exit::CANCELLED, text)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;
    use tokio::net::UnixListener;
    use workmesh_proto::wire::codec;
    use workmesh_proto::wire::frame::FrameType;
    use workmesh_proto::wire::unit::{Kind, Refused};

    use super::*;
    use crate::control::client::SOCKET_NAME;
    use crate::control::scripted::Scripted;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: SubmitArgs,
    }

    struct Place {
        dir: tempfile::TempDir,
        listener: UnixListener,
    }

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let listener = UnixListener::bind(dir.path().join(SOCKET_NAME)).unwrap();
            Self { dir, listener }
        }

        /// The node's end of the next connection.
        async fn node(&self) -> Scripted {
            let (mut stream, _) = self.listener.accept().await.unwrap();
            let (node, mut far) = Scripted::alone(4096);
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut stream, &mut far).await });
            node
        }
    }

    /// Runs the command; gives its status, what it printed and its error.
    async fn submit(dir: &Path, line: &str) -> (u8, String, String) {
        let line = format!("submit --directive echo:bytes {line}");
        let mut args = Line::try_parse_from(line.split(' ')).unwrap().args;
        args.connect.data_dir = dir.to_owned();
        let payload = Payload::open(args.payload.as_deref()).unwrap();
        let mut out = Vec::new();
        let ended = run(&args, args.to_submit().unwrap(), payload, &mut out).await;
        let out = String::from_utf8(out).unwrap();
        match ended {
            Ok(status) => (status, out, String::new()),
            Err(error) => (
                exit::of_error(&error),
                out,
                exit::line(&error).unwrap_or_default(),
            ),
        }
    }

    const ID: &str = "0199c3a4-7b6c-7d11-9c7e-0242ac120002";

    async fn asked(node: &mut Scripted) -> Submit {
        codec::decode(&node.until(FrameType::Submit).await.body).unwrap()
    }

    #[tokio::test]
    async fn a_detached_unit_prints_its_id_once_it_is_stored() {
        let id = format!("{ID}\n");
        let object = format!("{{\"type\":\"stored\",\"unit\":\"{ID}\"}}\n");
        for (format, printed) in [("", id), ("--format json ", object)] {
            let place = Place::new();
            let line = format!("--detach --id {ID} {format}text");
            let (seen, ()) = tokio::join!(submit(place.dir.path(), &line), async {
                let mut node = place.node().await;
                let submit = asked(&mut node).await;
                assert!(submit.durable && submit.detach);
                assert_eq!(node.payload().await, b"text");
                node.store(submit.unit).await;
            });
            assert_eq!(seen, (exit::OK, printed, String::new()));
        }
    }

    #[tokio::test]
    async fn a_detached_unit_that_is_refused_prints_no_id() {
        let place = Place::new();
        let line = format!("--detach --id {ID}");
        let (seen, ()) = tokio::join!(submit(place.dir.path(), &line), async {
            let mut node = place.node().await;
            node.payload().await;
            let refused = Refused {
                kind: Kind::NoSpace,
                message: "the store is full".into(),
            };
            node.say_cbor(FrameType::Refused, &refused).await;
        });
        let line = format!(
            "node: unit {ID}: no_space: the store is full; `node work release --all` forgets what has ended"
        );
        assert_eq!(seen, (exit::REFUSED, String::new(), line));
    }

    #[tokio::test]
    async fn a_unit_is_submitted_again_until_it_is_known_to_be_stored() {
        for flag in ["--durable", "--detach"] {
            let place = Place::new();
            let line = format!("{flag} --id {ID} --deadline 1h text");
            let (seen, deadlines) = tokio::join!(submit(place.dir.path(), &line), async {
                let mut deadlines = Vec::new();
                let mut first = place.node().await;
                deadlines.push(asked(&mut first).await.deadline_ms.unwrap());
                drop(first);
                let mut second = place.node().await;
                let submit = asked(&mut second).await;
                assert_eq!(submit.unit.to_string(), ID);
                deadlines.push(submit.deadline_ms.unwrap());
                assert_eq!(second.payload().await, b"text");
                second.store(submit.unit).await;
                if flag == "--durable" {
                    second.end(Kind::Ok, "").await;
                }
                deadlines
            });
            assert_eq!((seen.0, &*seen.2), (exit::OK, ""), "{flag}");
            assert!(
                deadlines[1] < deadlines[0],
                "the time that passed counts: {deadlines:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_payload_that_can_not_be_read_twice_is_not_submitted_again() {
        let place = Place::new();
        let line = format!("--durable --id {ID} @/proc/self/status");
        let (seen, ()) = tokio::join!(submit(place.dir.path(), &line), async {
            drop(place.node().await);
        });
        let (status, _, line) = seen;
        assert_eq!(status, exit::UNREACHABLE);
        assert!(
            line.contains(&format!("submit it again with --id {ID}")),
            "{line}"
        );
    }

    #[tokio::test]
    async fn without_a_node_nothing_is_submitted() {
        let dir = tempfile::tempdir().unwrap();
        let (status, _, line) = submit(dir.path(), "--detach").await;
        assert_eq!(status, exit::UNREACHABLE);
        assert!(
            line.contains("start it with `node run") && !line.contains("--peers"),
            "{line}"
        );
    }
}
