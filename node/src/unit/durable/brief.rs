//! A durable unit whose payload is in memory may run before anything of it is stored. If it is over in a moment, its origin is told at
//! once, and it is stored only if the origin does not release it soon; otherwise it is stored as all others are.
//!
//! Nothing depends on what the store has of a unit that is over: while this life of the node lasts, the unit is here. If the node is
//! killed, the next life knows from what was noted of starts that the unit may have begun, and says so to an origin that asks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use workmesh_proto::UnitId;
use workmesh_proto::unit::durable::ExecutorPhase;
use workmesh_proto::wire::frame::FrameType;
use workmesh_proto::wire::items::Piece;
use workmesh_proto::wire::unit::{Accepted, Kind};

use super::host::Host;
use super::hosted::Hosted;
use super::pipe::PipeSender;
use crate::exec::{OutputItem, UnitOutput};
use crate::link::LinkError;

/// Bytes of response frames that a unit may have to be told of before it is stored.
pub(super) const MAX_BYTES: usize = 64 * 1024;
/// Parts of its output.
pub(super) const MAX_ITEMS: usize = 1024;

/// So many units that wait for their ends together have each wait a moment longer: the last one has that much before it.
const UNITS_A_MOMENT: usize = 8;
/// The most moments that a unit waits.
const MAX_MOMENTS: usize = 10;

/// How long a unit waits for its end that waits among `waiting` others.
fn patience(moment: Duration, waiting: usize) -> Duration {
    let moments = (1 + waiting / UNITS_A_MOMENT).min(MAX_MOMENTS);
    moment.saturating_mul(moments as u32)
}

/// How long a unit waits for its end before it is stored.
pub(super) enum Moment<'a> {
    /// As long as it is used to, which is longer among many others.
    Own,
    /// Until this is cancelled: the units of a batch wait together.
    Shared(&'a CancellationToken),
}

/// A unit waits for its end, as long as this lives.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    /// One more; answers also with how many others there are.
    fn among(count: &'a AtomicUsize) -> (Self, usize) {
        let others = count.fetch_add(1, Ordering::Relaxed);
        (Self(count), others)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A unit that may run, and of which nothing is stored. Dropped, what it sends is kept from then on.
pub(super) struct Unstored<'a> {
    host: &'a Arc<Host>,
    hosted: &'a Arc<Hosted>,
    output: Option<UnitOutput>,
    /// What has come of the output.
    items: VecDeque<OutputItem>,
}

impl Drop for Unstored<'_> {
    fn drop(&mut self) {
        if let Some(output) = self.output.take() {
            self.hand_on();
            self.host.keep(self.hosted, output);
        }
    }
}

impl<'a> Unstored<'a> {
    pub(super) fn new(host: &'a Arc<Host>, hosted: &'a Arc<Hosted>, output: UnitOutput) -> Self {
        Self {
            host,
            hosted,
            output: Some(output),
            items: VecDeque::new(),
        }
    }

    /// Waits a moment for the unit's end. All that it has sent, if it is over by then and may be told of.
    pub(super) async fn see_end(&mut self, moment: &Moment<'_>) -> Option<VecDeque<OutputItem>> {
        let (host, hosted) = (self.host, self.hosted);
        let (_waiting, others) = Waiting::among(&host.waiting);
        let passed = async {
            match moment {
                Moment::Own => tokio::time::sleep(patience(host.moment, others)).await,
                Moment::Shared(passed) => passed.cancelled().await,
            }
        };
        // Whatever has come by then is among the items.
        tokio::select! {
            biased;
            () = self.see() => {}
            () = hosted.stop.cancelled() => {}
            () = passed => {}
        }
        let over = match self.items.back() {
            // One that was given back is told of once that is stored.
            Some(OutputItem::Eof(eof)) => !matches!(eof.kind, Kind::Shutdown | Kind::Draining),
            _ => false,
        };
        let items = self.hand_on();
        let bytes = hosted.with(|machine| machine.unasked().map(Bytes::len).sum());
        if !over || bytes > MAX_BYTES || items.len() > MAX_ITEMS {
            return None;
        }
        self.output = None;
        self.host.show(hosted, bytes);
        Some(items)
    }

    /// Sees the unit to its end, unless it sends too much.
    async fn see(&mut self) {
        let Some(output) = &mut self.output else { return };
        while !is_much(&self.items) && !matches!(self.items.back(), Some(OutputItem::Eof(_))) {
            output.next_batch(&mut self.items).await;
        }
    }

    /// Hands what has come to the machine.
    fn hand_on(&mut self) -> VecDeque<OutputItem> {
        let items = std::mem::take(&mut self.items);
        self.hosted.take(&items);
        items
    }

    /// Takes the unit back, if it has not begun, and never will. Its output goes with it.
    pub(super) fn take_back(&mut self) -> bool {
        let back = self.hosted.with(|machine| {
            let back = match machine.phase() {
                ExecutorPhase::Taken => self.host.executor.withdraw(self.hosted.unit),
                phase => phase == ExecutorPhase::Returned,
            };
            if back {
                machine.untake();
            }
            back
        });
        if back {
            self.output = None;
        }
        back
    }
}

/// Gathers what a unit that is over has sent.
pub(super) fn put_pieces(sender: &mut PipeSender, items: VecDeque<OutputItem>) {
    for item in items {
        if let OutputItem::Piece { serial, data, last } = item {
            sender.put_piece(Piece { serial, data, last });
        }
    }
}

fn is_much(items: &VecDeque<OutputItem>) -> bool {
    let bytes = |item: &OutputItem| match item {
        OutputItem::Piece { data, .. } => data.len(),
        _ => 0,
    };
    items.len() > MAX_ITEMS || items.iter().map(bytes).sum::<usize>() > MAX_BYTES
}

impl Host {
    /// How long units wait for their ends that come together, so many of them.
    pub(super) fn patience(&self, coming: usize) -> Duration {
        let others = self.waiting.load(Ordering::Relaxed) + coming.saturating_sub(1);
        patience(self.moment, others)
    }

    /// The unit is over: that may be told, and it need not be stored yet.
    fn show(&self, hosted: &Arc<Hosted>, bytes: usize) {
        hosted.show();
        if !self.deferred.put(hosted.unit, bytes) {
            self.store_in(&self.keepers, hosted.clone());
        }
    }

    /// Tells all of a unit that is over.
    pub(super) async fn tell_over(
        &self,
        hosted: &Hosted,
        items: VecDeque<OutputItem>,
        mut sender: PipeSender,
    ) -> Result<(), LinkError> {
        let executor = self.node.clone();
        sender.put(FrameType::Accepted, &Accepted { executor });
        let Some(eof) = hosted.with(|machine| machine.end_of().cloned()) else {
            return Err(LinkError::Closed("the unit is gone".to_owned()));
        };
        put_pieces(&mut sender, items);
        sender.put(FrameType::Eof, &eof);
        sender.finish().await
    }

    /// Stores the units that were told of before they were stored and that nobody has released in time, for ever.
    pub(crate) async fn store_deferred(self: Arc<Self>) {
        loop {
            for unit in self.deferred.due().await {
                self.store_if_over(unit);
            }
        }
    }

    /// Stores all that was told of and is not stored.
    pub(super) fn store_all_deferred(&self) {
        for unit in self.deferred.take_all() {
            self.store_if_over(unit);
        }
    }

    /// Stores the unit, if it is here, and not under a later offer.
    fn store_if_over(&self, unit: UnitId) {
        let hosted = self.table.lock().get(unit).cloned();
        if let Some(hosted) = hosted.filter(|hosted| hosted.is_unstored()) {
            self.store_in(&self.keepers, hosted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_that_wait_together_wait_longer_up_to_a_bound() {
        let waiting = AtomicUsize::new(0);
        let mut held = Vec::new();
        let mut waits = |until: usize| {
            while held.len() < until {
                let (one, others) = Waiting::among(&waiting);
                held.push(one);
                assert_eq!(others, held.len() - 1);
            }
            patience(Duration::from_millis(1), held.len() - 1).as_millis()
        };
        assert_eq!([1, 8, 9, 64, 1000].map(&mut waits), [1, 1, 2, 8, 10]);
        drop(held);
        assert_eq!(waiting.load(Ordering::Relaxed), 0);
        assert_eq!(patience(Duration::MAX, 99), Duration::MAX);
    }
}
