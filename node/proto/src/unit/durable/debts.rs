//! Executors that have to be told that a unit has ended, or that they are given up.

use super::offers::Backoff;
use super::words::OriginTimings;
use crate::id::NodeId;

#[derive(Debug)]
struct Debt {
    executor: NodeId,
    number: u32,
    /// Is being told; else is told at that time.
    at: Option<u64>,
    /// Not before this append is on the disk, or what makes it needless: an executor that was told has forgotten the unit, and an
    /// origin that still counts on it would take it for lost.
    after: Option<u64>,
    backoff: Backoff,
    since: u64,
}

/// What is owed by one unit: to each executor one word, about all offers up to a number.
#[derive(Debug)]
pub(super) struct Debts {
    debts: Vec<Debt>,
    backoff: Backoff,
    patience_ms: u64,
}

impl Debts {
    pub(super) fn new(timings: OriginTimings) -> Self {
        Self {
            debts: Vec::new(),
            backoff: Backoff::new(timings.retry_least_ms, timings.retry_most_ms),
            patience_ms: timings.owe_ms,
        }
    }

    /// `executor` is to be told from `now` on, once the append `after` is on the disk.
    pub(super) fn owe(&mut self, executor: NodeId, number: u32, now: u64, after: Option<u64>) {
        self.debts.retain(|debt| debt.executor != executor);
        self.debts.push(Debt {
            executor,
            number,
            at: Some(now),
            after,
            backoff: self.backoff,
            since: now,
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.debts.is_empty()
    }

    /// When somebody is to be told.
    pub(super) fn next_at(&self) -> Option<u64> {
        let free = self.debts.iter().filter(|debt| debt.after.is_none());
        free.filter_map(|debt| debt.at).min()
    }

    /// Whoever waits to be told waits no longer than until `latest`.
    pub(super) fn at_latest(&mut self, latest: u64) {
        for at in self.debts.iter_mut().filter_map(|debt| debt.at.as_mut()) {
            *at = latest.min(*at);
        }
    }

    /// Who is to be told at `now`, and the offers that are meant.
    pub(super) fn due(&mut self, now: u64) -> Vec<(NodeId, u32)> {
        let is_due = |debt: &&mut Debt| debt.after.is_none() && debt.at.is_some_and(|at| at <= now);
        let due = self.debts.iter_mut().filter(is_due).map(|debt| {
            debt.at = None;
            (debt.executor.clone(), debt.number)
        });
        due.collect()
    }

    /// The executor knows. `false`: that was known, or it does not know of a later offer.
    pub(super) fn settle(&mut self, executor: &NodeId, number: u32) -> bool {
        let before = self.debts.len();
        self.debts
            .retain(|debt| debt.executor != *executor || debt.number > number);
        self.debts.len() < before
    }

    /// The executor could not be told. `false`: it has been so for too long, and counts as gone for good.
    pub(super) fn defer(&mut self, executor: &NodeId, number: u32, now: u64) -> bool {
        let told = |debt: &&mut Debt| (&debt.executor, debt.number) == (executor, number);
        let Some(debt) = self.debts.iter_mut().find(told) else {
            return true;
        };
        debt.at = Some(now + debt.backoff.fail());
        now.saturating_sub(debt.since) < self.patience_ms
    }

    /// The append of this number is on the disk.
    pub(super) fn on_append(&mut self, number: u64) {
        for debt in &mut self.debts {
            debt.after.take_if(|append| *append == number);
        }
    }

    /// A later offer, or the end, is on the disk: nothing depends any more on what came before it, and may have failed.
    pub(super) fn on_successor(&mut self) {
        for debt in &mut self.debts {
            debt.after = None;
        }
    }
}
