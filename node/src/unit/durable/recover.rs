//! What an earlier life of the node has left in the store.

use std::sync::Arc;

use tracing::{error, info, warn};
use workmesh_proto::record::{self, ExecutorRecord, OriginRecord};
use workmesh_proto::unit::ResponseTally;
use workmesh_proto::unit::durable::{DurableExecutor, DurableOrigin, OriginHistory, ResponseCount};

use super::active::Active;
use super::drive::event;
use super::host::Host;
use super::hosted::Hosted;
use super::now_ms;
use super::rows::EndedUnit;
use super::work::Work;
use crate::store::{Found, Key, Role, Store, StoreError, Stream};

/// Bytes read from the store at once.
const READ_BYTES: usize = 1024 * 1024;

/// Takes over what is found. What can't be read costs its own unit: it is reported, and the rest goes on.
pub(crate) async fn recover(work: &Arc<Work>, host: &Arc<Host>, found: Vec<Found>) {
    let (mut origins, mut executors) = (0u64, 0u64);
    for found in found {
        let key = found.key;
        let taken = match key.role {
            Role::Origin => {
                origins += 1;
                take_origin(work, found).await
            }
            Role::Executor => {
                executors += 1;
                take_executor(host, found).await
            }
        };
        if let Err(why) = taken {
            error!(unit = %key.unit, role = ?key.role, error = why, "a durable unit can't be recovered; it is set aside");
            forget(&work.store, key).await;
        }
    }
    if origins + executors > 0 {
        info!(origins, executors, "durable units recovered");
    }
}

async fn forget(store: &Store, key: Key) {
    if let Err(error) = store.remove(key).await {
        warn!(unit = %key.unit, %error, "what is left of a unit can't be removed");
    }
}

async fn take_origin(work: &Arc<Work>, found: Found) -> Result<(), String> {
    let unit = found.key.unit;
    if found.records.is_empty() && found.damage.is_none() {
        // A payload whose submission never came.
        forget(&work.store, found.key).await;
        return Ok(());
    }
    let (records, unread) = read_all::<OriginRecord>(&found);
    let history = OriginHistory::fold(records.iter().cloned())
        .map_err(|fault| unread.clone().unwrap_or_else(|| fault.to_string()))?;
    let over = history.end().is_some();
    let kept = match over {
        true => ResponseTally::new(),
        false => count(&work.store, &found).await?,
    };
    let settled = over && history.debts().next().is_none();
    let mut machine = DurableOrigin::recover(history, kept, work.timings(), now_ms());
    if let Some(why) = unread.filter(|_| !over) {
        error!(%unit, error = why, "the records of a durable unit are damaged; it ends");
        machine.give_up(format!("its records are damaged: {why}"), now_ms());
    }
    if settled {
        let events = records.iter().filter_map(event).collect();
        let active = Active::new(unit, &machine, found.response_bytes, events);
        if let Some(ended) = EndedUnit::of(&active, &work.names) {
            work.take_ended(ended);
        }
        return Ok(());
    }
    work.take_over(unit, machine, found.response_bytes, &records);
    Ok(())
}

async fn take_executor(host: &Arc<Host>, found: Found) -> Result<(), String> {
    let unit = found.key.unit;
    if found.records.is_empty() && found.damage.is_none() {
        forget(&host.store, found.key).await;
        return Ok(());
    }
    let (records, unread) = read_all::<ExecutorRecord>(&found);
    let ended = records.iter().any(|record| {
        matches!(
            record,
            ExecutorRecord::Ended { .. } | ExecutorRecord::Returned { .. }
        )
    });
    let kept = match ended {
        true => ResponseTally::new(),
        false => count(&host.store, &found).await?,
    };
    let machine = DurableExecutor::recover(records, kept, now_ms())
        .ok_or_else(|| unread.unwrap_or_else(|| "its first record is missing".to_owned()))?;
    let hosted = Hosted::new(unit, machine, found.response_bytes);
    hosted.store_all(&host.store).await;
    host.take_over(hosted);
    Ok(())
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

/// Counts what is kept of the responses.
async fn count(store: &Store, found: &Found) -> Result<ResponseTally, String> {
    let mut count = ResponseCount::default();
    let mut offset = 0;
    while offset < found.response_bytes {
        let read = store.read(found.key, Stream::Responses, offset, READ_BYTES);
        let data = read.await.map_err(|error: StoreError| error.to_string())?;
        if data.is_empty() {
            break;
        }
        offset += data.len() as u64;
        count.feed(data).map_err(|error| error.to_string())?;
    }
    count
        .finish()
        .ok_or_else(|| "its kept responses end within a frame".to_owned())
}
