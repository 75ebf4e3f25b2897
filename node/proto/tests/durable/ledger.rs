//! What has really happened, and what the machines may never contradict.

use std::collections::BTreeMap;

use bytes::Bytes;
use workmesh_proto::unit::durable::ResponseCursor;
use workmesh_proto::wire::durable::Position;
use workmesh_proto::wire::unit::{Eof, Kind, Outcome};

use crate::plan::{Plan, Sent};

/// One run of a unit's function.
#[derive(Default)]
struct Run {
    sent: Vec<Sent>,
    complete: bool,
}

/// All that is known of a unit.
#[derive(Default)]
pub(crate) struct Account {
    /// Its submitter was told that it is stored.
    pub(crate) stored: bool,
    /// Its submitter was told how it ended.
    pub(crate) ended: Option<Eof>,
    pub(crate) offered: bool,
    /// Somebody was told that nobody sees it any more.
    pub(crate) forgotten: bool,
    /// It may have begun for all that executors know: one was killed twice, or as it was about to
    /// begin, or it was offered to an earlier life.
    pub(crate) in_doubt: bool,
    /// How often each executor was killed before the unit's end.
    kills: BTreeMap<usize, u32>,
    runs: Vec<Run>,
}

/// The accounts of all units.
pub(crate) struct Ledger {
    only_kills: bool,
    pub(crate) units: Vec<Account>,
    /// What was seen, by name: a simulation in which nothing happens proves nothing.
    pub(crate) seen: BTreeMap<&'static str, u64>,
}

impl Ledger {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self {
            only_kills: plan.only_kills,
            units: plan.units.iter().map(|_| Account::default()).collect(),
            seen: BTreeMap::new(),
        }
    }

    pub(crate) fn see(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    /// A function begins; answers with the number of the run, from 1.
    pub(crate) fn begin(&mut self, unit: usize, idempotent: bool) -> Result<usize, String> {
        let account = &mut self.units[unit];
        account.runs.push(Run::default());
        let runs = account.runs.len();
        if runs > 1 && !idempotent {
            return Err(format!("unit {unit} is not idempotent and runs {runs} times"));
        }
        if !account.offered {
            return Err(format!("unit {unit} runs though it was never offered"));
        }
        Ok(runs)
    }

    /// Nobody is to see the unit any more.
    pub(crate) fn forget(&mut self, unit: usize) {
        if !std::mem::replace(&mut self.units[unit].forgotten, true) {
            self.see("forgotten while its executor was owed the word");
        }
    }

    /// An executor is killed.
    pub(crate) fn killed(&mut self, executor: usize) {
        let unended = |account: &&mut Account| account.ended.is_none();
        for account in self.units.iter_mut().filter(unended) {
            let kills = account.kills.entry(executor).or_default();
            *kills += 1;
            account.in_doubt |= *kills > 1;
        }
    }

    pub(crate) fn sent(&mut self, unit: usize, run: usize, piece: Sent) {
        self.units[unit].runs[run - 1].sent.push(piece);
    }

    pub(crate) fn completed(&mut self, unit: usize, run: usize) {
        self.units[unit].runs[run - 1].complete = true;
    }

    /// The end as it is told, or as it is found after a restart, with the stream that is on the disk.
    pub(crate) fn end(&mut self, unit: usize, eof: &Eof, stream: &[u8]) -> Result<(), String> {
        let kept = read(stream)?;
        let account = &mut self.units[unit];
        match &account.ended {
            Some(first) if first != eof => {
                return Err(format!("unit {unit} ended as {first:?} and as {eof:?}"));
            }
            _ => account.ended = Some(eof.clone()),
        }
        let unlucky = self.only_kills && eof.kind == Kind::NodeLost && !account.in_doubt;
        if unlucky && account.runs.is_empty() {
            return Err(format!("unit {unit} is lost and has never begun"));
        }
        if !account.offered && !account.runs.is_empty() {
            return Err(format!("unit {unit} ran without an offer"));
        }
        let mut tally = workmesh_proto::unit::ResponseTally::new();
        for (data, last) in &kept {
            tally.add(data, *last);
        }
        if (eof.responses, eof.bytes, eof.digest) != (tally.responses(), tally.bytes(), tally.digest()) {
            return Err(format!(
                "unit {unit} ended with {} responses of {} bytes, kept are {} of {}, or the digest differs",
                eof.responses,
                eof.bytes,
                tally.responses(),
                tally.bytes()
            ));
        }
        if eof.outcome == Outcome::Succeeded {
            let whole = |run: &Run| run.complete && join(&run.sent) == kept;
            if !account.runs.iter().any(whole) {
                return Err(format!(
                    "unit {unit} succeeded with what no complete run has sent"
                ));
            }
        }
        self.check(unit, stream)
    }

    /// What is kept at the origin is the beginning of what one run has sent.
    pub(crate) fn check(&self, unit: usize, stream: &[u8]) -> Result<(), String> {
        let kept = read(stream)?;
        let runs = &self.units[unit].runs;
        let good = kept.is_empty() || runs.iter().any(|run| begins(&join(&run.sent), &kept));
        if good {
            return Ok(());
        }
        let lengths = |sent: &[Sent]| -> Vec<_> { sent.iter().map(|(d, last)| (d.len(), *last)).collect() };
        let sent: Vec<_> = runs.iter().map(|run| lengths(&join(&run.sent))).collect();
        Err(format!(
            "unit {unit}: what is kept, {:?}, is not the beginning of any run: {sent:?}",
            lengths(&kept)
        ))
    }
}

/// Where a stream of frames leads to.
pub(crate) fn place(stream: &[u8]) -> Result<Position, String> {
    let kept = read(stream)?;
    Ok(Position {
        responses: kept.iter().filter(|(_, last)| *last).count() as u64,
        bytes: kept.iter().map(|(data, _)| data.len() as u64).sum(),
    })
}

/// The responses in a stream of frames, whole but for the last.
fn read(stream: &[u8]) -> Result<Vec<Sent>, String> {
    let mut cursor = ResponseCursor::new(Position::default());
    cursor
        .feed(Bytes::copy_from_slice(stream))
        .map_err(|error| error.to_string())?;
    let mut pieces = Vec::new();
    while let Some(piece) = cursor.next_piece() {
        pieces.push((piece.data.to_vec(), piece.last));
    }
    Ok(join(&pieces))
}

fn join(pieces: &[Sent]) -> Vec<Sent> {
    let mut joined: Vec<Sent> = Vec::new();
    for (data, last) in pieces {
        match joined.last_mut() {
            Some((open, done)) if !*done => {
                open.extend_from_slice(data);
                *done = *last;
            }
            _ => joined.push((data.clone(), *last)),
        }
    }
    joined
}

fn begins(whole: &[Sent], part: &[Sent]) -> bool {
    let Some(((open, done), complete)) = part.split_last() else {
        return true;
    };
    let next = whole.get(complete.len());
    whole.starts_with(complete)
        && next.is_some_and(|(data, last)| match done {
            true => *last && data == open,
            false => data.starts_with(open),
        })
}
