//! Who may enter: counts of admitted and running units against slots, queue and the workers' own limits.
//! A plain value inside the pool's lock; knows no threads and no units.

/// Counts against limits.
#[derive(Debug)]
pub(super) struct Ledger {
    slots: usize,
    queue: usize,
    /// Admitted and not gone: they run or wait.
    units: usize,
    /// Of these, how many only wait because their worker's own limit is reached.
    held: usize,
    workers: Vec<WorkerCount>,
}

#[derive(Clone, Debug)]
struct WorkerCount {
    limit: usize,
    units: usize,
    reserved: usize,
}

impl WorkerCount {
    fn held(&self) -> usize {
        self.units.saturating_sub(self.limit)
    }
}

impl Ledger {
    /// An empty ledger; `limits` holds each worker's limit of units that run at once.
    pub(super) fn new(slots: usize, queue: usize, limits: impl Iterator<Item = Option<u32>>) -> Self {
        let count = |limit: Option<u32>| WorkerCount {
            limit: limit.map_or(usize::MAX, |l| l.max(1) as usize),
            units: 0,
            reserved: 0,
        };
        Self {
            slots,
            queue,
            units: 0,
            held: 0,
            workers: limits.map(count).collect(),
        }
    }

    /// Units that run or wait.
    pub(super) fn units(&self) -> usize {
        self.units
    }

    /// Admits a unit of this worker, unless the queue would grow past its limit.
    pub(super) fn enter(&mut self, worker: usize) -> bool {
        let count = &self.workers[worker];
        let held = self.held + usize::from(count.units >= count.limit);
        let waiting = held + (self.units + 1 - held).saturating_sub(self.slots);
        if waiting > self.queue {
            return false;
        }
        self.units += 1;
        self.held = held;
        self.workers[worker].units += 1;
        true
    }

    /// A unit is gone, or no longer counts because its thread was given up.
    pub(super) fn leave(&mut self, worker: usize) {
        let count = &mut self.workers[worker];
        self.held -= usize::from(count.held() > 0);
        count.units -= 1;
        self.units -= 1;
    }

    /// Reserves one of the units that the worker may run at once.
    pub(super) fn reserve(&mut self, worker: usize) -> bool {
        let count = &mut self.workers[worker];
        let free = count.reserved < count.limit;
        count.reserved += usize::from(free);
        free
    }

    /// Gives back what [`reserve`](Self::reserve) took.
    pub(super) fn unreserve(&mut self, worker: usize) {
        self.workers[worker].reserved -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(slots: usize, queue: usize, limits: &[Option<u32>]) -> Ledger {
        Ledger::new(slots, queue, limits.iter().copied())
    }

    #[test]
    fn slots_and_queue_fill_and_the_next_is_refused() {
        let mut ledger = ledger(2, 3, &[None]);
        assert!((0..5).all(|_| ledger.enter(0)));
        assert!(!ledger.enter(0));
        ledger.leave(0);
        assert!(ledger.enter(0));
    }

    #[test]
    fn without_a_queue_only_slots_take_units() {
        let mut ledger = ledger(1, 0, &[None]);
        assert!(ledger.enter(0));
        assert!(!ledger.enter(0));
    }

    #[test]
    fn a_limited_worker_fills_the_queue_but_leaves_the_slots_to_others() {
        let mut ledger = ledger(2, 3, &[Some(1), None]);
        assert!((0..4).all(|_| ledger.enter(0)));
        assert!(!ledger.enter(0), "one runs, three are held");
        assert!(ledger.enter(1), "the second slot is free");
        assert!(!ledger.enter(1));
        ledger.leave(0);
        assert!(ledger.enter(1));
    }

    #[test]
    fn reservations_keep_the_workers_limit() {
        let mut ledger = ledger(4, 4, &[Some(2)]);
        assert!(ledger.reserve(0) && ledger.reserve(0));
        assert!(!ledger.reserve(0));
        ledger.unreserve(0);
        assert!(ledger.reserve(0));
    }

    #[test]
    fn everything_returns_to_nothing() {
        let mut ledger = ledger(2, 10, &[Some(1), None]);
        for worker in [0, 1, 0, 1, 0, 0] {
            assert!(ledger.enter(worker));
        }
        for worker in [0, 0, 1, 0, 1, 0] {
            ledger.leave(worker);
        }
        assert_eq!((ledger.units, ledger.held), (0, 0));
    }
}
