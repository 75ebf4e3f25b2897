//! The file `SEGMENTS`: which segments the log must have, and how long each is at least. It is replaced when a segment is begun or
//! removed, and when the store is opened or closed; never for an append.
//!
//! A segment is listed after it has got its name, and before anything else is written to it; it is taken from the list before it
//! is removed, or the list goes before it, where there is no room for another one. So one that is listed and not there was not removed by the store.

use std::collections::BTreeMap;
use std::io;

use parking_lot::Mutex;

use super::error::StoreError;
use super::files::Files;
use super::index::Index;
use super::log::Log;
use super::sealed::{self, Seal, Text};
use super::segment::Number;

pub(super) const SEGMENTS: &str = "SEGMENTS";

/// Segments, and how many of their bytes are on the disk at least.
pub(super) type Listing = BTreeMap<Number, u32>;

/// The file, as it was found.
#[derive(Debug)]
pub(super) enum Read {
    Sound {
        version: u32,
        mark: u64,
        listing: Listing,
    },
    Damaged,
    Missing,
}

/// Reads the file.
pub(super) fn read(files: &dyn Files) -> io::Result<Read> {
    let Some(text) = sealed::read(files, SEGMENTS)? else {
        return Ok(Read::Missing);
    };
    Ok(parse(&text).unwrap_or(Read::Damaged))
}

fn parse(text: &Text) -> Option<Read> {
    if text.seal != Seal::Right {
        return None;
    }
    let segment = |line: &str| {
        let (number, bytes) = line.split_once(' ')?;
        Some((number.parse().ok()?, bytes.parse().ok()?))
    };
    let lines = text.text.lines().filter_map(|line| line.strip_prefix("segment "));
    Some(Read::Sound {
        version: text.version()?,
        mark: text.mark()?,
        listing: lines.map(segment).collect::<Option<_>>()?,
    })
}

/// What the file has to say. Owned by the log.
pub(super) struct Inventory {
    version: u32,
    mark: u64,
    /// What it says; `None` if that is not known.
    written: Option<Listing>,
    /// What it said of segments that are damaged: it goes on saying so until their units' records do, even if they are removed.
    owed: Listing,
}

impl Inventory {
    /// The inventory of a store whose file says `written`.
    pub(super) fn new(version: u32, mark: u64, written: Option<Listing>) -> Self {
        Self {
            version,
            mark,
            written,
            owed: Listing::new(),
        }
    }

    /// Segments were found damaged, and nothing else says so yet.
    pub(super) fn owe(&mut self, owed: Listing) {
        self.owed = owed;
    }

    /// Whether anything else would not say what the list says.
    pub(super) fn is_owing(&self) -> bool {
        !self.owed.is_empty()
    }

    /// The units that are concerned know now, and that is on the disk.
    pub(super) fn settle(&mut self) {
        self.owed.clear();
    }

    fn write(&mut self, files: &dyn Files, mut listing: Listing) -> io::Result<()> {
        for (number, bytes) in &self.owed {
            let listed = listing.entry(*number).or_default();
            *listed = (*listed).max(*bytes);
        }
        if self.written.as_ref() == Some(&listing) {
            return Ok(());
        }
        self.written = None;
        let mut lines = sealed::title(self.version, self.mark);
        for (number, bytes) in &listing {
            lines.push_str(&format!("segment {number} {bytes}\n"));
        }
        sealed::replace(files, SEGMENTS, &lines)?;
        self.written = Some(listing);
        Ok(())
    }
}

impl Log {
    /// Removes the list, for good until another one is written.
    pub(super) fn unlist(&mut self) -> Result<(), StoreError> {
        let failed = |error| StoreError::io("remove", &self.files.path(SEGMENTS), error);
        match self.files.remove(SEGMENTS) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        self.inventory.written = None;
        self.files.sync_dir("").map_err(failed)
    }

    /// Writes down which segments there are, but for the one that is about to be removed.
    pub(super) fn list(&mut self, index: &Mutex<Index>, but: Option<Number>) -> Result<(), StoreError> {
        let mut listing: Listing = index
            .lock()
            .segments
            .iter()
            .map(|(number, segment)| (*number, segment.length))
            .collect();
        if let Some(active) = &self.active {
            listing.insert(active.number, active.synced());
        }
        if let Some(but) = but {
            listing.remove(&but);
        }
        self.inventory
            .write(&*self.files, listing)
            .map_err(|error| StoreError::undone("write", &self.files.path(SEGMENTS), error))
    }

    /// The same, if it could not be done when it was due.
    pub(super) fn list_if_due(&mut self, index: &Mutex<Index>) -> Result<(), StoreError> {
        if self.inventory.written.is_some() {
            return Ok(());
        }
        self.list(index, None)
    }
}

#[cfg(test)]
mod tests {
    use super::super::faulty::{Fault, Faulty, Op};
    use super::*;

    fn listed(disk: &Faulty) -> Option<(u64, Vec<(u32, u32)>)> {
        match read(disk).unwrap() {
            Read::Sound { mark, listing, .. } => Some((mark, listing.into_iter().collect())),
            Read::Damaged | Read::Missing => None,
        }
    }

    #[test]
    fn what_is_listed_is_read_again() {
        let disk = Faulty::new();
        assert!(listed(&disk).is_none());
        let mut inventory = Inventory::new(1, 77, None);
        inventory
            .write(&disk, Listing::from([(3, 500), (9, 24)]))
            .unwrap();
        assert_eq!(listed(&disk), Some((77, vec![(3, 500), (9, 24)])));
        let mut bad = disk.content(SEGMENTS);
        bad[40] ^= 1;
        disk.set_content(SEGMENTS, bad);
        assert!(matches!(read(&disk).unwrap(), Read::Damaged));
    }

    #[test]
    fn what_is_owed_stays_until_it_is_settled() {
        let disk = Faulty::new();
        let mut inventory = Inventory::new(1, 77, None);
        inventory.owe(Listing::from([(1, 100), (2, 200)]));
        inventory.write(&disk, Listing::from([(2, 50), (3, 30)])).unwrap();
        assert_eq!(listed(&disk), Some((77, vec![(1, 100), (2, 200), (3, 30)])));
        inventory.settle();
        inventory.write(&disk, Listing::from([(2, 50), (3, 30)])).unwrap();
        assert_eq!(listed(&disk), Some((77, vec![(2, 50), (3, 30)])));
    }

    #[test]
    fn a_listing_that_could_not_be_written_is_written_the_next_time() {
        let disk = Faulty::new();
        let mut inventory = Inventory::new(1, 77, Some(Listing::from([(1, 24)])));
        let listing = Listing::from([(1, 24), (2, 24)]);
        disk.fault(Fault::Fail {
            op: Op::SyncDir,
            nth: 0,
            times: 1,
        });
        assert!(inventory.write(&disk, listing.clone()).is_err());
        assert!(inventory.written.is_none());
        inventory.write(&disk, listing.clone()).unwrap();
        let before = disk.changes();
        inventory.write(&disk, listing).unwrap();
        assert_eq!(disk.changes(), before, "nothing is written that is there already");
    }
}
