//! One life of a durable unit during which a disk fails, and the judgement of what came of it.

use std::cell::RefCell;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::super::*;
use super::site::{Identities, LOOK, Site, Told, Unit, hear, live};
use super::workers::{self, GATED, runs};
use crate::store::faulty::{Crash, Fault, Faulty, Op};

/// How the unit's bytes are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Within the log.
    Small,
    /// The same, offered in a batch.
    Batched,
    /// Payload and responses go to files, the payload together with the submission.
    Medium,
    /// The payload goes to a file before the submission, at the executor too.
    Large,
}

impl Class {
    pub(super) fn is_small(self) -> bool {
        matches!(self, Self::Small | Self::Batched)
    }
}

/// Whose disk fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Origin,
    Executor,
}

/// What follows once the disk has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// It is whole again after a while; when all has ended, both nodes are killed and started again.
    Heal,
    /// The same, but both nodes are stopped in order.
    Stop,
    /// The power goes at once, on both nodes.
    Cut,
}

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trial {
    pub(super) class: Class,
    pub(super) side: Side,
    pub(super) fault: Option<Fault>,
    pub(super) then: Then,
    /// What is left on the disks when the power goes.
    pub(super) left: Crash,
}

/// What was seen.
#[derive(Debug)]
pub(super) struct Seen {
    /// What has failed.
    pub(super) struck: Vec<Op>,
    /// Operations that change something, from the submission to the end for all concerned.
    pub(super) changes: usize,
    /// How the submission was refused.
    pub(super) refused: Option<Kind>,
    /// How the unit ended; `None`: it was not taken.
    pub(super) end: Option<Kind>,
}

/// The units of a trial.
struct Cast {
    /// The one that the disk fails for.
    subject: Unit,
    /// One that has ended before.
    kept: Unit,
    /// One that is under way.
    held: Unit,
}

/// What the client of the subject knows.
#[derive(Default)]
struct Client {
    taken: bool,
    refused: Option<Eof>,
    told: Told,
}

/// What is left of the first lives of both nodes.
struct Left {
    disks: [Faulty; 2],
    client: Client,
    kept: Told,
    held: Told,
    struck: Vec<Op>,
    changes: usize,
}

impl Trial {
    pub(super) fn run(&self, identities: &Identities) -> Seen {
        let subject = match self.class {
            Class::Small | Class::Batched => Unit::new(workers::BYTES, 300),
            Class::Medium => Unit::new(workers::FILE, 40_000),
            Class::Large => Unit::new(workers::BUFFER, 200_000),
        };
        let cast = Cast {
            subject,
            kept: Unit::new(workers::BYTES, 500),
            held: Unit::new(GATED, 200),
        };
        let left = live(self.first_life(identities, &cast));
        let end = live(self.second_life(identities, &cast, &left));
        Seen {
            struck: left.struck,
            changes: left.changes,
            refused: left.client.refused.map(|eof| eof.kind),
            end,
        }
    }

    /// How many units have to be under way for the next one to go in a batch.
    fn batch_from(&self) -> usize {
        match self.class {
            Class::Batched => 0,
            _ => usize::MAX,
        }
    }

    async fn first_life(&self, identities: &Identities, cast: &Cast) -> Left {
        let disks = [Faulty::new(), Faulty::new()];
        let site = Site::start(identities, &disks, self.batch_from()).await;
        let kept = site.run(&cast.kept).await;
        kept.is_true(&cast.kept);
        assert_eq!(kept.kind(), Some(Kind::Ok));
        site.is_over(&cast.kept).await;
        let gate = site.hold(&cast.held).await;

        let disk = match self.side {
            Side::Origin => &disks[0],
            Side::Executor => &disks[1],
        };
        disk.fault(self.fault.unwrap_or(Fault::FailAny { nth: 0, times: 0 }));
        let struck = disk.struck();
        let client = RefCell::default();
        let held = RefCell::default();
        let over = CancellationToken::new();
        let healed = CancellationToken::new();
        let mut changes = 0;
        let living = async {
            self.submit(&site, &cast.subject, &client, &healed).await;
            let taken = client.borrow().taken;
            if taken {
                site.is_over(&cast.subject).await;
            }
            over.cancel();
            healed.cancelled().await;
            *held.borrow_mut() = site.read(&cast.held).await.expect("the unit is here");
            site.is_over(&cast.held).await;
            site.hosts_nothing().await;
        };
        let failing = async {
            tokio::select! {
                () = has_struck(struck.clone()) => {}
                () = async {
                    over.cancelled().await;
                    while !disks[1].files("data").is_empty() {
                        tokio::time::sleep(LOOK).await;
                    }
                } => {}
            }
            if self.then == Then::Cut {
                return;
            }
            changes = disk.changes();
            // What is under way goes on while the disk fails.
            drop(gate);
            site.is_up().await;
            site.read(&cast.kept)
                .await
                .expect("the unit is here")
                .follows(&kept);
            disk.heal();
            healed.cancel();
            std::future::pending().await
        };
        tokio::select! {
            biased;
            () = failing => {}
            () = living => {}
        }
        let (client, held) = (client.into_inner(), held.into_inner());
        let struck = struck.borrow().clone();
        if self.then == Then::Stop {
            site.stop().await;
        }
        Left {
            disks: disks.map(|disk| disk.cut(self.left)),
            client,
            kept,
            held,
            struck,
            changes,
        }
    }

    /// What the subject's client does.
    async fn submit(&self, site: &Site, unit: &Unit, client: &RefCell<Client>, healed: &CancellationToken) {
        let mut attached = match site.submit(unit).await {
            Ok(attached) => attached,
            Err(eof) => {
                client.borrow_mut().refused = Some(eof);
                assert_eq!(runs(unit.id), 0, "what was refused has run");
                if self.then == Then::Stop {
                    return;
                }
                // The same once more, when it can be taken.
                healed.cancelled().await;
                site.submit_again(unit).await
            }
        };
        client.borrow_mut().taken = true;
        site.follow(&mut attached, |event| {
            hear(&mut client.borrow_mut().told, event);
        })
        .await;
    }

    async fn second_life(&self, identities: &Identities, cast: &Cast, left: &Left) -> Option<Kind> {
        let site = Site::start(identities, &left.disks, self.batch_from()).await;
        let kept = site.read(&cast.kept).await.expect("what was stored is here");
        assert_eq!(kept, left.kept);
        let held = site.read(&cast.held).await.expect("what was stored is here");
        held.follows(&left.held);
        held.is_true(&cast.held);
        assert_eq!(runs(cast.held.id), 1);
        let expected = match self.then {
            Then::Heal | Then::Stop => Kind::Ok,
            Then::Cut => Kind::NodeLost,
        };
        assert_eq!(held.kind(), Some(expected), "{:?}", held.end);
        site.is_over(&cast.held).await;
        let subject = site.read(&cast.subject).await;
        self.judge(cast, left, subject.as_ref());
        if let Some(told) = &subject {
            site.is_over(&cast.subject).await;
            let again = site.read(&cast.subject).await;
            assert_eq!(again.as_ref(), Some(told), "one end");
        }
        let after = Unit::new(workers::BYTES, 100);
        let told = site.run(&after).await;
        told.is_true(&after);
        assert_eq!(told.kind(), Some(Kind::Ok));
        site.is_over(&after).await;
        // A removal that is not synced may be undone by the loss of power.
        if self.left == Crash::Written || self.then == Then::Stop {
            site.hosts_nothing().await;
        }
        site.is_up().await;
        subject.and_then(|told| told.kind())
    }
}

impl Trial {
    /// What is told of the subject in the end is what it has to be.
    fn judge(&self, cast: &Cast, left: &Left, subject: Option<&Told>) {
        let client = &left.client;
        if let Some(eof) = &client.refused {
            assert!(!left.struck.is_empty(), "{eof:?}");
            assert!(matches!(eof.kind, Kind::NoSpace | Kind::Internal), "{eof:?}");
        }
        let Some(told) = subject else {
            assert!(!client.taken, "what was taken is gone");
            assert_eq!(runs(cast.subject.id), 0, "what was not taken has run");
            return;
        };
        let full = matches!(self.fault, Some(Fault::Full { .. }));
        let refused = client.refused.is_some() && !client.taken;
        assert!(!(full && refused), "what had no room is there");
        told.follows(&client.told);
        told.is_true(&cast.subject);
        // What could not be synced is of no use any more: a unit may lose its file by that.
        let file_lost =
            !self.class.is_small() && left.struck.iter().any(|op| matches!(op, Op::Sync | Op::SyncDir));
        let allowed = match told.kind() {
            Some(Kind::Ok) => true,
            Some(Kind::NodeLost) => self.then == Then::Cut || file_lost,
            Some(Kind::Internal) => file_lost,
            _ => false,
        };
        assert!(allowed, "{:?}", told.end);
    }
}

async fn has_struck(mut struck: watch::Receiver<Vec<Op>>) {
    // An error: the disk is gone, and will not fail any more.
    if struck.wait_for(|struck| !struck.is_empty()).await.is_err() {
        std::future::pending().await
    }
}
