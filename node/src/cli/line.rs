//! The connection that a unit is heard over; made anew for a durable one whose node went away, from the byte where it broke.

use std::fmt;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio::time::Instant;
use workmesh_proto::UnitId;
use workmesh_proto::unit::OriginEvent;

use crate::control::client::{Client, ClientError, UnitReceiver, UnitSender};

/// The first pause before a node that went away is looked for.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest one.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Pauses that double up to a limit. Each is shortened by up to a half, so that many commands don't come back at once.
#[derive(Debug)]
pub(crate) struct Pauses {
    next: Duration,
}

impl Pauses {
    /// Pauses from the shortest on.
    pub(crate) fn new() -> Self {
        Self { next: FIRST_PAUSE }
    }

    /// The next pause.
    pub(crate) fn next(&mut self) -> Duration {
        let longest = self.next;
        self.next = (longest * 2).min(LONGEST_PAUSE);
        longest.mul_f64(rand::random_range(0.5..=1.0))
    }
}

/// Opens another connection to the same node.
pub(crate) type Redial<S> = Box<dyn Fn() -> BoxFuture<'static, Result<Client<S>, ClientError>>>;

/// An open connection to a node, and the way to another one for units that outlive it.
pub(crate) struct Way<S> {
    pub(crate) client: Client<S>,
    pub(crate) redial: Option<Redial<S>>,
}

impl<S> From<Client<S>> for Way<S> {
    fn from(client: Client<S>) -> Self {
        Self { client, redial: None }
    }
}

/// What a unit's node says, over as many connections as it takes.
pub(crate) struct Line<S> {
    unit: UnitId,
    receiver: UnitReceiver<ReadHalf<S>>,
    redial: Option<Redial<S>>,
    away: Option<Away>,
}

/// A node that went away and has not been heard since.
#[derive(Debug)]
struct Away {
    pauses: Pauses,
    /// When to look for it; `None` while there is a connection that it has said nothing on.
    look_at: Option<Instant>,
}

/// What came over a line.
#[derive(Debug)]
pub(crate) enum Heard<S> {
    /// The unit's next event.
    Event(OriginEvent),
    /// The connection broke, and the unit goes on. Heard once for each absence.
    Away,
    /// There is another connection; this half belongs to it, and has still to be flushed.
    Back(UnitSender<WriteHalf<S>>),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Line<S> {
    /// The line of a unit that was just submitted or attached to. Without `redial` a broken connection is an error.
    pub(crate) fn new(unit: UnitId, receiver: UnitReceiver<ReadHalf<S>>, redial: Option<Redial<S>>) -> Self {
        Self {
            unit,
            receiver,
            redial,
            away: None,
        }
    }

    /// Whether the node is away, so that nothing that is sent reaches it.
    pub(crate) fn is_away(&self) -> bool {
        self.away.is_some()
    }

    /// Waits for what comes next, as long as it takes. May be dropped while it waits, without loss.
    pub(crate) async fn next(&mut self) -> Result<Heard<S>, ClientError> {
        loop {
            if let (Some(away), Some(redial)) = (&mut self.away, &self.redial)
                && let Some(look_at) = away.look_at
            {
                tokio::time::sleep_until(look_at).await;
                match redial().await {
                    Ok(client) => {
                        away.look_at = None;
                        return Ok(Heard::Back(self.receiver.resume(self.unit, client)));
                    }
                    Err(error) if error.is_absence() => away.pause(),
                    Err(error) => return Err(error),
                }
                continue;
            }
            match self.receiver.next().await {
                Ok(event) => {
                    self.away = None;
                    return Ok(Heard::Event(event));
                }
                Err(error) if error.is_absence() && self.redial.is_some() && self.receiver.is_resumable() => {
                    match &mut self.away {
                        Some(away) => away.pause(),
                        None => {
                            self.away = Some(Away::new());
                            return Ok(Heard::Away);
                        }
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Away {
    fn new() -> Self {
        let mut away = Self {
            pauses: Pauses::new(),
            look_at: None,
        };
        away.pause();
        away
    }

    fn pause(&mut self) {
        self.look_at = Some(Instant::now() + self.pauses.next());
    }
}

impl<S> fmt::Debug for Line<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { unit, away, .. } = self;
        f.debug_struct("Line")
            .field("unit", unit)
            .field("away", away)
            .finish_non_exhaustive()
    }
}

impl<S> fmt::Debug for Way<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Way").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::{Arc, Mutex};

    use tokio::io::DuplexStream;
    use workmesh_proto::wire::frame::FrameType;
    use workmesh_proto::wire::unit::{Kind, Submit};

    use super::*;
    use crate::control::scripted::{pair, submit};

    type Answers = Arc<Mutex<Vec<Result<Client<DuplexStream>, ClientError>>>>;

    /// Gives these answers, the last one first.
    fn redial(answers: &Answers) -> Redial<DuplexStream> {
        let answers = answers.clone();
        Box::new(move || {
            let answer = answers.lock().unwrap().pop().unwrap();
            Box::pin(async { answer })
        })
    }

    fn nobody() -> Result<Client<DuplexStream>, ClientError> {
        Err(ClientError::NoNode(PathBuf::new()))
    }

    #[tokio::test]
    async fn an_absence_is_told_once_however_often_the_node_is_looked_for() {
        let durable = Submit {
            durable: true,
            ..submit("echo:bytes")
        };
        let (client, mut first) = pair(4096);
        let (silent, gone) = pair(4096);
        let (back, mut second) = pair(4096);
        drop(gone);
        let answers = Arc::new(Mutex::new(vec![Ok(back), nobody(), Ok(silent), nobody()]));
        let (_sender, receiver) = client.submit(&durable).await.unwrap();
        let mut line = Line::new(durable.unit, receiver, Some(redial(&answers)));
        first.store(durable.unit).await;
        assert!(matches!(
            line.next().await,
            Ok(Heard::Event(OriginEvent::Stored(_)))
        ));
        drop(first);
        assert!(matches!(line.next().await, Ok(Heard::Away)));
        assert!(line.is_away());
        // The connection that breaks at once, then the one that holds.
        assert!(matches!(line.next().await, Ok(Heard::Back(_))));
        let Ok(Heard::Back(mut sender)) = line.next().await else {
            panic!("the node is not back");
        };
        assert!(answers.lock().unwrap().is_empty());
        assert!(line.is_away());
        sender.flush().await.unwrap();
        second.until(FrameType::Attach).await;
        second.end(Kind::Cancelled, "").await;
        assert!(matches!(line.next().await, Ok(Heard::Event(OriginEvent::Eof(_)))));
        assert!(!line.is_away());
    }

    #[tokio::test]
    async fn what_is_not_an_absence_is_an_error() {
        let durable = Submit {
            durable: true,
            ..submit("echo:bytes")
        };
        let (client, mut first) = pair(4096);
        let refused = Err(ClientError::NotAllowed(PathBuf::from("control.sock")));
        let answers = Arc::new(Mutex::new(vec![refused]));
        let (_sender, receiver) = client.submit(&durable).await.unwrap();
        let mut line = Line::new(durable.unit, receiver, Some(redial(&answers)));
        first.store(durable.unit).await;
        drop(first);
        assert!(matches!(line.next().await, Ok(Heard::Event(_))));
        assert!(matches!(line.next().await, Ok(Heard::Away)));
        assert!(matches!(line.next().await, Err(ClientError::NotAllowed(_))));
    }

    #[tokio::test]
    async fn a_unit_that_is_not_stored_yet_does_not_outlive_its_connection() {
        for durable in [false, true] {
            let submit = Submit {
                durable,
                ..submit("echo:bytes")
            };
            let (client, first) = pair(4096);
            let (_sender, receiver) = client.submit(&submit).await.unwrap();
            let mut line = Line::new(submit.unit, receiver, Some(redial(&Answers::default())));
            drop(first);
            assert!(matches!(line.next().await, Err(ClientError::Broken(_))));
        }
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_are_never_shorter_than_half() {
        let mut pauses = Pauses::new();
        for longest in [100, 200, 400, 800, 1600, 2000, 2000] {
            let pause = pauses.next().as_secs_f64() * 1e3;
            let longest = f64::from(longest);
            assert!((longest / 2.0..=longest).contains(&pause), "{pause} of {longest}");
        }
    }
}
