//! What an earlier life of the node has left in the store.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{error, info, warn};
use workmesh_proto::record::{self, ExecutorRecord, OriginRecord};
use workmesh_proto::unit::ResponseTally;
use workmesh_proto::unit::durable::{
    DurableExecutor, DurableOrigin, EarlierStarts, OriginHistory, ResponseCount,
};
use workmesh_proto::wire::durable::Offer;

use super::active::Active;
use super::drive::Drive;
use super::happened::Happened;
use super::host::Host;
use super::hosted::Hosted;
use super::now_ms;
use super::rows::EndedUnit;
use super::work::Work;
use crate::store::{Found, Key, Role, Store, StoreError, Stream};

/// Bytes read from the store at once.
const READ_BYTES: usize = 1024 * 1024;
/// For how long, in all, it is tried again to read what the system does not give for the moment; and how often.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(100);

/// Takes over what is found. What can't be read costs its own unit: it is reported, and the rest goes on.
///
/// Executors' units come first: a unit whose origin and executor this node is finds itself.
pub(crate) async fn recover(work: &Arc<Work>, host: &Arc<Host>, found: Vec<Found>, starts: &EarlierStarts) {
    let (executors, origins): (Vec<_>, Vec<_>) = found
        .into_iter()
        .partition(|found| found.key.role == Role::Executor);
    if !origins.is_empty() || !executors.is_empty() {
        info!(
            origins = origins.len(),
            executors = executors.len(),
            "durable units found"
        );
    }
    let until = Instant::now() + PATIENCE;
    let mut taken_over = Vec::with_capacity(executors.len());
    for found in executors {
        let unit = found.key.unit;
        match take_executor(host, found, starts, until).await {
            Ok(task) => taken_over.extend(task),
            Err(why) => {
                error!(%unit, error = why, "what was kept of a unit that ran here can't be read; it stays in the store");
            }
        }
    }
    host.begin_life(taken_over).await;
    let mut drives = Vec::new();
    for found in origins {
        let unit = found.key.unit;
        match take_origin(work, found, until).await {
            Ok(drive) => drives.extend(drive),
            Err(why) => {
                error!(%unit, error = why, "what was kept of a durable unit can't be read; it stays in the store");
            }
        }
    }
    for drive in drives {
        work.run(drive);
    }
}

async fn forget(store: &Store, key: Key) {
    if let Err(error) = store.remove(key).await {
        warn!(unit = %key.unit, %error, "what is left of a unit can't be removed");
    }
}

async fn take_origin(work: &Arc<Work>, found: Found, until: Instant) -> Result<Option<Box<Drive>>, String> {
    let unit = found.key.unit;
    if found.records.is_empty() && found.damage.is_none() && found.doubt.is_none() {
        // A payload whose submission never came.
        forget(&work.store, found.key).await;
        return Ok(None);
    }
    let (records, mut unread) = read_all::<OriginRecord>(&found);
    let history = OriginHistory::fold(records.iter().cloned()).map_err(|fault| {
        let known = unread.clone().or_else(|| found.doubt.clone());
        known.unwrap_or_else(|| fault.to_string())
    })?;
    let over = history.end().is_some();
    let mut kept = ResponseTally::new();
    if !over {
        let damage;
        (kept, damage) = count(&work.store, &found, until).await;
        unread = unread.or(damage);
    }
    if over && let Some(damage) = unread.take() {
        error!(%unit, damage, "an ended unit is damaged: its end is known, of its payload or responses not all is left");
    }
    let settled = over && history.debts().next().is_none();
    if settled && history.is_forgotten() {
        forget(&work.store, found.key).await;
        return Ok(None);
    }
    let mut machine = DurableOrigin::recover(history, kept, work.timings(), now_ms());
    if let Some(why) = unread {
        error!(%unit, error = why, "the records of a durable unit are damaged; it ends");
        machine.give_up(format!("its records are damaged: {why}"), now_ms());
    }
    if let Some(doubt) = found.doubt.filter(|_| !over) {
        error!(%unit, doubt, "the last records of a durable unit may be lost; it is not offered again");
        machine.doubt(doubt);
    }
    if settled {
        let events = records.iter().filter_map(Happened::of).collect();
        let active = Active::new(unit, &machine, found.response_bytes, events);
        if let Some(ended) = EndedUnit::of(&active, &work.names) {
            work.take_ended(ended);
        }
        return Ok(None);
    }
    Ok(Some(work.take_over(
        unit,
        machine,
        found.response_bytes,
        &records,
    )))
}

pub(super) async fn take_executor(
    host: &Arc<Host>,
    found: Found,
    starts: &EarlierStarts,
    until: Instant,
) -> Result<Option<JoinHandle<()>>, String> {
    let unit = found.key.unit;
    if found.records.is_empty() && found.damage.is_none() {
        forget(&host.store, found.key).await;
        return Ok(None);
    }
    let (records, unread) = read_all::<ExecutorRecord>(&found);
    let (kept, damage) = count(&host.store, &found, until).await;
    let damaged = unread.is_some() || damage.is_some();
    let may_have_begun = |offer: Offer| damaged || starts.may_have_begun(unit, offer);
    let machine = DurableExecutor::recover(records, kept, may_have_begun, now_ms()).ok_or_else(|| {
        unread
            .or(damage)
            .unwrap_or_else(|| "its first record is missing".to_owned())
    })?;
    Ok(Some(host.take_over(Hosted::new(
        unit,
        machine,
        found.response_bytes,
    ))))
}

/// The records up to the first that can't be read, and why not.
fn read_all<T: serde::de::DeserializeOwned>(found: &Found) -> (Vec<T>, Option<String>) {
    let mut records = Vec::with_capacity(found.records.len());
    for bytes in &found.records {
        match record::decode(bytes) {
            Ok(record) => records.push(record),
            Err(error) => return (records, Some(error.to_string())),
        }
    }
    (records, found.damage.clone())
}

/// Counts what is kept of the responses, as far as it can be read; and why it can't be read further. A unit of which that is so ends: in
/// no list it could be submitted, or offered, once more.
async fn count(store: &Store, found: &Found, until: Instant) -> (ResponseTally, Option<String>) {
    let mut count = ResponseCount::default();
    let mut offset = 0;
    while offset < found.response_bytes {
        let fed = match read(store, found.key, offset, until).await {
            Ok(data) if data.is_empty() => break,
            Ok(data) => {
                offset += data.len() as u64;
                count.feed(data).map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        if let Err(why) = fed {
            return (count.so_far(), Some(why));
        }
    }
    let so_far = count.so_far();
    match count.finish() {
        Some(tally) => (tally, None),
        None => (so_far, Some("its kept responses end within a frame".to_owned())),
    }
}

/// Reads on, and up to `until` again and again what may go well the next time.
async fn read(store: &Store, key: Key, offset: u64, until: Instant) -> Result<Bytes, StoreError> {
    let mut failing = false;
    loop {
        match store.read(key, Stream::Responses, offset, READ_BYTES).await {
            Err(error) if error.may_pass() && Instant::now() < until => {
                if !std::mem::replace(&mut failing, true) {
                    warn!(unit = %key.unit, %error, "what is kept of a unit can't be read yet; it is tried again");
                }
                tokio::time::sleep(PAUSE).await;
            }
            read => return read,
        }
    }
}
