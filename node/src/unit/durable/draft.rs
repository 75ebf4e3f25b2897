//! A durable unit whose payload is on its way from its submitter into the store.

use std::hash::Hasher as _;
use std::sync::Arc;

use bytes::BytesMut;
use twox_hash::xxhash3_64::Hasher;
use workmesh_proto::UnitId;
use workmesh_proto::record::Order;
use workmesh_proto::wire::unit::{Eof, Kind, Submit};

use super::attach::Attachment;
use super::drive::{key, store_fault};
use super::now_ms;
use super::work::{Entry as Known, NotTaken, Work};
use crate::store::{Entry, Stream, Sync};

/// A payload up to this size is stored together with the submission.
const INLINE_BYTES: usize = 64 * 1024;

/// See the module. Dropped before it is finished, it leaves nothing.
pub(crate) struct Draft {
    work: Arc<Work>,
    submit: Submit,
    submitted_ms: u64,
    /// The unit is here already: its payload is only looked at.
    known: Option<Known>,
    head: BytesMut,
    /// Counts what is not in `head` any more, or never was.
    hasher: Option<Box<Hasher>>,
    bytes: u64,
    /// What has gone to the store.
    stored: u64,
    finished: bool,
}

impl Work {
    /// Begins to take a durable unit, or says why not, at once.
    pub(crate) fn begin(self: &Arc<Self>, submit: Submit) -> Result<Draft, Eof> {
        let known = self.reserve(submit.unit).err();
        // One that is here already is no new work.
        if known.is_none()
            && let Err(eof) = self.may_begin(&submit)
        {
            self.drop_unstored(submit.unit);
            return Err(eof);
        }
        Ok(Draft {
            work: self.clone(),
            submit,
            submitted_ms: now_ms(),
            hasher: known.is_some().then(Box::default),
            known,
            head: BytesMut::new(),
            bytes: 0,
            stored: 0,
            finished: false,
        })
    }
}

impl Work {
    fn may_begin(&self, submit: &Submit) -> Result<(), Eof> {
        if let Some(refused) = self.units.refusal() {
            return Err(Eof::without_responses(refused.kind, refused.message));
        }
        if let Err(limit) = submit.check() {
            return Err(Eof::without_responses(Kind::Protocol, limit));
        }
        if self.units.was_submitted(submit.unit) {
            let message = format!(
                "unit {} was submitted before, and not as a durable one; choose another --id",
                submit.unit
            );
            return Err(Eof::without_responses(Kind::Duplicate, message));
        }
        let admitted = self.store.admit(submit.payload_bytes.unwrap_or(0));
        admitted.map_err(|error| store_fault(&error))
    }
}

impl Draft {
    /// Takes the next bytes of the payload.
    pub(crate) async fn push(&mut self, data: &[u8]) -> Result<(), Eof> {
        if let Some(hasher) = &mut self.hasher {
            hasher.write(data);
        }
        self.bytes += data.len() as u64;
        if self
            .submit
            .payload_bytes
            .is_some_and(|announced| self.bytes > announced)
        {
            return Err(broken("longer than announced"));
        }
        if self.known.is_some() {
            return Ok(());
        }
        self.head.extend_from_slice(data);
        if self.head.len() > INLINE_BYTES {
            if self.hasher.is_none() {
                self.hasher.insert(Box::default()).write(&self.head);
            }
            let piece = self.head.split().freeze();
            self.stored += piece.len() as u64;
            self.work
                .store
                .admit(piece.len() as u64)
                .map_err(|e| store_fault(&e))?;
            let append = vec![Entry::Data(Stream::Payload, piece)];
            let written = self
                .work
                .store
                .append(key(self.submit.unit), append, Sync::Written);
            written.await.map_err(|error| store_fault(&error))?;
        }
        Ok(())
    }

    /// The payload is complete: stores the unit. When this answers, the unit is on the disk.
    pub(crate) async fn finish(mut self) -> Result<Attachment, NotTaken> {
        if self
            .submit
            .payload_bytes
            .is_some_and(|announced| self.bytes < announced)
        {
            return Err(broken("shorter than announced").into());
        }
        let order = self.order();
        let unit = self.submit.unit;
        if let Some(known) = self.known.clone() {
            return Ok(same_unit(&self.work, unit, known, &order).await?);
        }
        self.finished = true;
        let payload = self.head.split().freeze();
        let stored = self.work.store_unit(unit, order, payload).await;
        if matches!(stored, Err(NotTaken::Refused(_))) {
            self.finished = false;
        }
        Ok(Attachment::live(&self.work, stored?))
    }

    fn order(&mut self) -> Order {
        let submit = &mut self.submit;
        Order {
            directive: std::mem::take(&mut submit.directive),
            to: submit.to.take(),
            params: std::mem::take(&mut submit.params),
            payload_bytes: self.bytes,
            payload_digest: match &self.hasher {
                Some(hasher) => hasher.finish(),
                None => Hasher::oneshot(&self.head),
            },
            submitted_ms: self.submitted_ms,
            deadline_ms: submit.deadline_ms.map(|ms| self.submitted_ms.saturating_add(ms)),
            trace: submit.trace.take(),
            idempotent: submit.idempotent,
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.finished || self.known.is_some() {
            return;
        }
        let (work, unit) = (self.work.clone(), self.submit.unit);
        if self.stored == 0 {
            return work.drop_unstored(unit);
        }
        work.discard(unit);
    }
}

/// The same id again: the same unit if the same is asked for.
async fn same_unit(work: &Arc<Work>, unit: UnitId, known: Known, order: &Order) -> Result<Attachment, Eof> {
    let duplicate = || {
        let message = format!("unit {unit} is another one: choose another --id");
        Err(Eof::without_responses(Kind::Duplicate, message))
    };
    let known = match known {
        Known::Storing => work.once_stored(unit).await,
        known => Some(known),
    };
    match known {
        // Released, and not gone yet.
        Some(Known::Active(_) | Known::Ended(_)) if work.find(unit).is_none() => {
            let message = format!("unit {unit} is being removed: try again, or choose another --id");
            Err(Eof::without_responses(Kind::Busy, message))
        }
        None | Some(Known::Storing) => {
            let message =
                format!("unit {unit} is being submitted by somebody else, or was refused: try again");
            Err(Eof::without_responses(Kind::Busy, message))
        }
        Some(Known::Active(active)) => {
            let held = active.with_state(|state| state.history.order().identity());
            match held == order.identity() {
                true => Ok(Attachment::live(work, active)),
                false => duplicate(),
            }
        }
        Some(Known::Ended(ended)) => match ended.identity == order.identity() {
            true => Ok(Attachment::ended(work, ended)),
            false => duplicate(),
        },
    }
}

fn broken(how: &str) -> Eof {
    Eof::without_responses(Kind::PayloadBroken, format!("the payload is {how}"))
}
