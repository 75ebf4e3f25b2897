//! The files of large streams: which are open, which have to be synced, which are to be removed. Owned by the store's thread.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use super::error::StoreError;
use super::files::{self, Files, OpenFile};
use super::{Key, Role, Stream};

/// The folder of the files.
pub(super) const DATA: &str = "data";
/// Files that are kept open at most, however many the process may have.
const MAX_OPEN: usize = 64;
/// Files that are kept open at least, if the process may have any.
const MIN_OPEN: usize = 4;

/// How many files are kept open where a process may have so many: the rest is for sockets and segments.
fn share(descriptors: Option<u64>) -> usize {
    let quarter = descriptors.map_or(MAX_OPEN as u64, |limit| limit / 4);
    (quarter.min(MAX_OPEN as u64) as usize).max(MIN_OPEN)
}

/// Whose file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FileId {
    pub(super) key: Key,
    pub(super) life: u64,
    pub(super) stream: Stream,
}

impl FileId {
    /// Its name within the folder.
    pub(super) fn name(&self) -> String {
        let (role, stream) = (self.key.role.name(), self.stream.name());
        format!("{role}-{}-{:x}-{stream}", self.key.unit, self.life)
    }

    /// Its name, relative to the store's folder.
    pub(super) fn path(&self) -> String {
        format!("{DATA}/{}", self.name())
    }

    /// Whose file has this name in the folder.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (role, rest) = name.split_once('-')?;
        let role = [Role::Origin, Role::Executor]
            .into_iter()
            .find(|known| known.name() == role)?;
        let (rest, stream) = rest.rsplit_once('-')?;
        let stream = Stream::ALL.into_iter().find(|known| known.name() == stream)?;
        let (unit, life) = rest.rsplit_once('-')?;
        let unit = workmesh_proto::UnitId::parse(unit).ok()?;
        let life = u64::from_str_radix(life, 16).ok()?;
        let id = Self {
            key: Key { role, unit },
            life,
            stream,
        };
        (id.name() == name).then_some(id)
    }
}

struct Open {
    file: Arc<dyn OpenFile>,
    dirty: bool,
    used: u64,
}

/// The open files.
pub(super) struct DataFiles {
    files: Arc<dyn Files>,
    open: HashMap<FileId, Open>,
    max_open: usize,
    /// Whether a file was made whose name is not synced.
    names_dirty: bool,
    /// Files to be removed once the log says that they are not needed.
    doomed: Vec<FileId>,
    /// Some of them could not be.
    stays: bool,
    turn: u64,
    /// Files that could not be synced when they had to make room.
    failed: Vec<(FileId, StoreError)>,
    /// All that could not be synced since this was taken.
    in_doubt: Vec<FileId>,
    /// Files synced.
    pub(super) syncs: u64,
}

impl DataFiles {
    pub(super) fn new(files: Arc<dyn Files>) -> Self {
        Self {
            max_open: share(files.descriptors()),
            files,
            open: HashMap::new(),
            names_dirty: false,
            doomed: Vec::new(),
            stays: false,
            turn: 0,
            failed: Vec::new(),
            in_doubt: Vec::new(),
            syncs: 0,
        }
    }

    /// Writes at `offset` of a file; makes it if it is `new`.
    pub(super) fn write(
        &mut self,
        id: FileId,
        offset: u64,
        bytes: &[u8],
        new: bool,
    ) -> Result<(), StoreError> {
        let file = self.open(id, new)?;
        files::write_all(&*file, offset, bytes)
            .map_err(|error| StoreError::undone("write", &self.files.path(&id.path()), error))
    }

    fn open(&mut self, id: FileId, new: bool) -> Result<Arc<dyn OpenFile>, StoreError> {
        self.turn += 1;
        if let Some(open) = self.open.get_mut(&id) {
            (open.dirty, open.used) = (true, self.turn);
            return Ok(Arc::clone(&open.file));
        }
        if self.open.len() >= self.max_open {
            self.give_back();
        }
        let path = id.path();
        let file = loop {
            match self.open_file(&path, new) {
                Err(error) if error.is_no_descriptor() && self.give_back() => {}
                other => break other?,
            }
        };
        self.names_dirty |= new;
        let open = Open {
            file: Arc::clone(&file),
            dirty: true,
            used: self.turn,
        };
        self.open.insert(id, open);
        Ok(file)
    }

    fn open_file(&self, path: &str, new: bool) -> Result<Arc<dyn OpenFile>, StoreError> {
        let at = |verb, error| StoreError::undone(verb, &self.files.path(path), error);
        if !new {
            return self.files.open(path).map_err(|error| at("open", error));
        }
        match self.files.create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Left by an append that failed, and could not be taken away then.
                let file = self.files.open(path).map_err(|error| at("open", error))?;
                file.truncate(0).map_err(|error| at("cut", error))?;
                Ok(file)
            }
            other => other.map_err(|error| at("create", error)),
        }
    }

    /// Closes the file that was not used for longest, of the clean ones; without a clean one, syncs one first. `false`: none is open.
    pub(super) fn give_back(&mut self) -> bool {
        let oldest = self.open.iter().min_by_key(|(_, open)| (open.dirty, open.used));
        let Some(id) = oldest.map(|(id, _)| *id) else {
            return false;
        };
        let failed = self.sync(id).err();
        self.failed.extend(failed.map(|error| (id, error)));
        self.open.remove(&id);
        true
    }

    /// Makes what was written to this file survive; its name too. Fails for one that had to make room and could not be synced then,
    /// until that was taken note of.
    pub(super) fn sync(&mut self, id: FileId) -> Result<(), StoreError> {
        if let Some((_, error)) = self.failed.iter().find(|(failed, _)| *failed == id) {
            return Err(error.clone());
        }
        if let Some(open) = self.open.get_mut(&id)
            && open.dirty
        {
            self.syncs += 1;
            // Never tried again: what the system could not write it may have dropped.
            open.dirty = false;
            let file = Arc::clone(&open.file);
            file.sync().map_err(|error| {
                self.open.remove(&id);
                self.in_doubt.push(id);
                StoreError::io("sync", &self.files.path(&id.path()), error)
            })?;
        }
        if self.names_dirty {
            self.files
                .sync_dir(DATA)
                .map_err(|error| StoreError::io("sync", &self.files.path(DATA), error))?;
            self.names_dirty = false;
        }
        Ok(())
    }

    /// Those that could not be synced when they had to make room for another.
    pub(super) fn take_failed(&mut self) -> Vec<(FileId, StoreError)> {
        std::mem::take(&mut self.failed)
    }

    /// The files that could not be synced since the last call.
    pub(super) fn take_in_doubt(&mut self) -> Vec<FileId> {
        std::mem::take(&mut self.in_doubt)
    }

    /// Syncs all; answers with those that could not be.
    pub(super) fn sync_all(&mut self) -> Vec<(FileId, StoreError)> {
        let dirty: Vec<_> = self
            .open
            .iter()
            .filter(|(_, open)| open.dirty)
            .map(|(id, _)| *id)
            .collect();
        let failed = |id| self.sync(id).err().map(|error| (id, error));
        dirty.into_iter().filter_map(failed).collect()
    }

    /// Cuts a file back to what counts; one of which nothing counts is removed.
    pub(super) fn undo(&mut self, id: FileId, length: u64, exists: bool) {
        // What can't be taken away is overwritten by the next append, and does not count until then.
        if exists {
            if let Some(open) = self.open.get(&id) {
                let _ = open.file.truncate(length);
            }
        } else {
            self.open.remove(&id);
            let _ = self.files.remove(&id.path());
        }
    }

    /// Closes a file, to be removed after the next sync of the log.
    pub(super) fn doom(&mut self, id: FileId) {
        self.open.remove(&id);
        self.doomed.push(id);
    }

    /// Removes what was doomed. What can't be removed is tried again the next time, and found as an orphan when the store is opened.
    pub(super) fn remove_doomed(&mut self) {
        let mut stay = Vec::new();
        for id in std::mem::take(&mut self.doomed) {
            match self.files.remove(&id.path()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    if !std::mem::replace(&mut self.stays, true) {
                        let path = self.files.path(&id.path());
                        tracing::warn!(path = %path.display(), %error, "cannot remove a file of the store; it is tried again");
                    }
                    stay.push(id);
                }
                Ok(()) | Err(_) => {}
            }
        }
        self.stays &= !stay.is_empty();
        self.doomed = stay;
    }

    /// Whether files are to be removed that could not be.
    pub(super) fn is_owing(&self) -> bool {
        self.stays
    }
}

#[cfg(test)]
mod tests {
    use workmesh_proto::UnitId;

    use super::super::faulty::{Fault, Faulty, Op};
    use super::*;

    fn id(number: usize) -> FileId {
        let unit = UnitId(uuid::Uuid::from_u128(number as u128));
        FileId {
            key: Key {
                role: Role::Origin,
                unit,
            },
            life: 1,
            stream: Stream::Payload,
        }
    }

    #[test]
    fn the_share_of_the_descriptors_follows_their_limit() {
        let shares = [None, Some(0), Some(16), Some(64), Some(256), Some(1 << 20)].map(share);
        assert_eq!(shares, [64, 4, 4, 16, 64, 64]);
    }

    #[test]
    fn a_file_that_can_not_be_removed_is_removed_later() {
        let disk = Faulty::new();
        let mut data = DataFiles::new(Arc::new(disk.clone()));
        for number in 0..2 {
            data.write(id(number), 0, b"x", true).unwrap();
            data.doom(id(number));
        }
        disk.fault(Fault::Fail {
            op: Op::Remove,
            nth: 0,
            times: 2,
        });
        for stay in [2, 0] {
            data.remove_doomed();
            let there = (0..2).filter(|number| disk.has(&id(*number).path()));
            assert_eq!((data.is_owing(), there.count()), (stay > 0, stay));
        }
    }

    #[test]
    fn a_file_that_made_room_unsynced_is_not_taken_for_synced() {
        let disk = Faulty::new();
        let mut data = DataFiles::new(Arc::new(disk.clone()));
        for number in 0..MAX_OPEN {
            data.write(id(number), 0, b"x", true).unwrap();
        }
        disk.fault(Fault::Fail {
            op: Op::Sync,
            nth: 0,
            times: 1,
        });
        data.write(id(MAX_OPEN), 0, b"x", true).unwrap();
        assert!(data.sync(id(0)).is_err());
        data.write(id(0), 1, b"y", false).unwrap();
        assert!(data.sync(id(0)).is_err(), "what was dropped is not there again");
        assert!(data.sync(id(1)).is_ok());
        assert_eq!(data.take_in_doubt(), [id(0)]);
        let failed: Vec<_> = data.take_failed().into_iter().map(|(id, _)| id).collect();
        assert_eq!(failed, [id(0)]);
    }
}
