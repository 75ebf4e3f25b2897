//! Which units have begun, noted before they begin: of a unit that was taken and is not among them it is known that it has not.
//!
//! The notes are written and not synced. So they count if the process was killed, and not after a loss of power; and they tell of the
//! units of one life of the node, the one that wrote them.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::Arc;

use bytes::{Buf, BufMut};
use parking_lot::Mutex;
use tracing::{error, warn};
use twox_hash::XxHash3_64;
use uuid::Uuid;
use workmesh_proto::UnitId;

use super::files::{self, Files, OpenFile};

const NAME: &str = "starts";
const MARK: &[u8; 8] = b"wmstarts";
const HEAD_BYTES: usize = 64;
const HEAD_SUM_AT: usize = HEAD_BYTES - 8;
const BOOT_BYTES: usize = HEAD_SUM_AT - 16;
const CELL_BYTES: usize = 32;
const CELL_SUM_AT: usize = CELL_BYTES - 8;
const CELL_MARK_AT: usize = 16;
/// What a cell has there that tells of no unit.
const EMPTY: [u8; CELL_SUM_AT - CELL_MARK_AT] = [0xff; CELL_SUM_AT - CELL_MARK_AT];
/// Cells that the file grows by. They are empty then, so that each is written without regard to those before it.
const GROWTH: usize = 64;
/// Units that room is kept for in memory, however few there are.
const KEPT_ROOM: usize = 1024;
/// More units than an executor holds at a time.
const MAX_CELLS: usize = 128 * 1024;

/// Where starts are noted. Clones are handles of one file.
#[derive(Clone)]
pub(crate) struct Starts(Arc<Mutex<Cells>>);

struct Cells {
    files: Arc<dyn Files>,
    life: u64,
    /// `None`: what is written can't be told from what another boot of the system has left.
    boot: Option<String>,
    /// `None`: it can't be written, and will not be believed.
    file: Option<Arc<dyn OpenFile>>,
    /// Cells of units that are noted.
    used: HashMap<UnitId, usize>,
    /// Cells that nobody has; those that are being written are in neither.
    free: Vec<usize>,
    /// Cells in the file.
    count: usize,
    most: usize,
}

/// What an earlier life has noted, if that is all that has begun in it.
#[derive(Debug)]
pub(crate) struct Noted {
    /// The life.
    pub(crate) life: u64,
    /// The units, perhaps with some that are forgotten.
    pub(crate) begun: BTreeSet<UnitId>,
}

impl Starts {
    /// Reads what was noted. Nothing is noted for this `life` until it has [begun](Self::begin).
    pub(super) fn open(files: Arc<dyn Files>, life: u64) -> (Self, Option<Noted>) {
        Self::open_with(files, life, MAX_CELLS)
    }

    fn open_with(files: Arc<dyn Files>, life: u64, most: usize) -> (Self, Option<Noted>) {
        let boot = files.boot().filter(|boot| boot.len() <= BOOT_BYTES);
        let earlier = boot.as_ref().and_then(|boot| {
            read(&*files, boot).unwrap_or_else(|error| {
                let path = files.path(NAME);
                warn!(path = %path.display(), %error, "can't read which units began: those that waited when this node ended count as begun");
                None
            })
        });
        let cells = Cells {
            files,
            life,
            boot,
            file: None,
            used: HashMap::new(),
            free: Vec::new(),
            count: 0,
            most,
        };
        (Self(Arc::new(Mutex::new(cells))), earlier)
    }

    /// Notes for this life from here on, in place of what the earlier one has noted. Blocks. To be called before the first unit begins,
    /// and once what follows from the earlier notes is stored: until then another start needs them.
    pub(crate) fn begin(&self) {
        let mut cells = self.0.lock();
        let Some(boot) = &cells.boot else { return };
        match begin(&*cells.files, boot, cells.life) {
            Ok(file) => {
                cells.file = Some(file);
                cells.add(0);
            }
            Err(error) => {
                warn!(%error, "units that wait when this node is killed will count as begun");
            }
        }
    }

    /// The unit is about to begin. An error: that can't be noted, and it must not begin.
    pub(crate) fn note(&self, unit: UnitId) -> io::Result<()> {
        let Some((file, at)) = self.0.lock().reserve(unit)? else {
            return Ok(());
        };
        // Without the lock: others note and forget units meanwhile.
        let written = files::write_all(&*file, place(at), &cell(unit));
        self.0.lock().settle(unit, at, &*file, written)
    }

    /// The unit's origin has released it: nobody will ask whether it has begun.
    pub(crate) fn forget(&self, unit: UnitId) {
        let mut cells = self.0.lock();
        if let Some(at) = cells.used.remove(&unit) {
            cells.free.push(at);
        }
        if cells.used.capacity() > 2 * KEPT_ROOM && cells.used.len() < cells.used.capacity() / 4 {
            let room = KEPT_ROOM.max(cells.used.len() * 2);
            cells.used.shrink_to(room);
        }
    }

    /// Forgets all units but those that are to be kept.
    pub(crate) fn retain(&self, keep: impl Fn(UnitId) -> bool) {
        let mut cells = self.0.lock();
        let Cells { used, free, .. } = &mut *cells;
        free.extend(used.extract_if(|unit, _| !keep(*unit)).map(|(_, at)| at));
    }
}

impl Cells {
    /// A cell for the unit, to be written and then [settled](Self::settle); `None`: nothing is to be written for it.
    fn reserve(&mut self, unit: UnitId) -> io::Result<Option<(Arc<dyn OpenFile>, usize)>> {
        let Some(file) = self.file.clone() else {
            return Ok(None);
        };
        if self.used.contains_key(&unit) {
            return Ok(None);
        }
        let cell = match self.free.pop() {
            Some(at) => Ok(at),
            None => self.grow(&*file),
        };
        match cell {
            Ok(at) => Ok(Some((file, at))),
            Err(error) => self.give_up(&*file, error).map(|()| None),
        }
    }

    /// Puts empty cells behind the others, and answers with the first of them.
    fn grow(&mut self, file: &dyn OpenFile) -> io::Result<usize> {
        let first = self.count;
        if first + GROWTH > self.most {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        write_empty(file, first)?;
        self.add(first + 1);
        Ok(first)
    }

    /// Has the cells that the file has grown by, from `free` on.
    fn add(&mut self, free: usize) {
        self.count += GROWTH;
        self.free.extend((free..self.count).rev());
    }

    /// Takes note of what became of a reserved cell.
    fn settle(
        &mut self,
        unit: UnitId,
        at: usize,
        file: &dyn OpenFile,
        written: io::Result<()>,
    ) -> io::Result<()> {
        if self.file.is_none() {
            // Given up meanwhile.
            return Ok(());
        }
        match written {
            Ok(()) => {
                // Another one, if two have noted it at once.
                self.free.extend(self.used.insert(unit, at));
                Ok(())
            }
            Err(error) => {
                self.free.push(at);
                self.give_up(file, error)
            }
        }
    }

    /// A file that lacks a note must not be believed.
    fn give_up(&mut self, file: &dyn OpenFile, why: io::Error) -> io::Result<()> {
        if file.truncate(0).is_err() && self.files.remove(NAME).is_err() {
            error!(error = %why, "can't note that a unit begins: it is given back");
            return Err(why);
        }
        warn!(error = %why, "can't note which units begin: those that wait when this node is killed will count as begun");
        self.file = None;
        (self.used, self.free) = (HashMap::new(), Vec::new());
        Ok(())
    }
}

fn place(cell: usize) -> u64 {
    (HEAD_BYTES + cell * CELL_BYTES) as u64
}

fn cell(unit: UnitId) -> [u8; CELL_BYTES] {
    let mut cell = [0; CELL_BYTES];
    cell[..CELL_MARK_AT].copy_from_slice(unit.0.as_bytes());
    sealed(cell)
}

fn empty_cell() -> [u8; CELL_BYTES] {
    let mut cell = [0; CELL_BYTES];
    cell[CELL_MARK_AT..CELL_SUM_AT].copy_from_slice(&EMPTY);
    sealed(cell)
}

fn sealed(mut cell: [u8; CELL_BYTES]) -> [u8; CELL_BYTES] {
    let sum = XxHash3_64::oneshot(&cell[..CELL_SUM_AT]);
    cell[CELL_SUM_AT..].copy_from_slice(&sum.to_be_bytes());
    cell
}

fn head(boot: &str, life: u64) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    let mut rest = &mut head[..];
    rest.put_slice(MARK);
    rest.put_u64(life);
    rest.put_slice(boot.as_bytes());
    let sum = XxHash3_64::oneshot(&head[..HEAD_SUM_AT]);
    head[HEAD_SUM_AT..].copy_from_slice(&sum.to_be_bytes());
    head
}

fn begin(files: &dyn Files, boot: &str, life: u64) -> io::Result<Arc<dyn OpenFile>> {
    let file = match files.open(NAME) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => files.create(NAME)?,
        file => file?,
    };
    file.truncate(0)?;
    files::write_all(&*file, 0, &head(boot, life))?;
    write_empty(&*file, 0)?;
    Ok(file)
}

/// Writes as many empty cells as the file grows by, from this one on.
fn write_empty(file: &dyn OpenFile, first: usize) -> io::Result<()> {
    files::write_all(file, place(first), &empty_cell().repeat(GROWTH))
}

/// What the file tells; `None`: it is not to be believed, or not there.
fn read(files: &dyn Files, boot: &str) -> io::Result<Option<Noted>> {
    let file = match files.open(NAME) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let most = (HEAD_BYTES + MAX_CELLS * CELL_BYTES) as u64;
    let length = file.length()?;
    if !(HEAD_BYTES as u64..=most).contains(&length) {
        return Ok(None);
    }
    let mut bytes = vec![0; length as usize];
    files::read_all(&*file, 0, &mut bytes)?;
    Ok(parse(&bytes, boot))
}

fn parse(bytes: &[u8], boot: &str) -> Option<Noted> {
    let (first, cells) = bytes.split_at_checked(HEAD_BYTES)?;
    // It never has none, and grows by as many at a time.
    if cells.is_empty() || !cells.len().is_multiple_of(GROWTH * CELL_BYTES) {
        return None;
    }
    let life = first.get(MARK.len()..)?.get_u64();
    if first != head(boot, life) {
        return None;
    }
    let mut begun = BTreeSet::new();
    let empty = empty_cell();
    for bytes in cells.chunks(CELL_BYTES) {
        if bytes == empty {
            continue;
        }
        let unit = UnitId(Uuid::from_slice(bytes.get(..CELL_MARK_AT)?).ok()?);
        if bytes != cell(unit) {
            return None;
        }
        begun.insert(unit);
    }
    Some(Noted { life, begun })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::faulty::{Crash, Fault, Faulty, Op};

    fn unit(number: u128) -> UnitId {
        UnitId(Uuid::from_u128(number))
    }

    fn open(disk: &Faulty, life: u64) -> (Starts, Option<Noted>) {
        let (starts, noted) = Starts::open(Arc::new(disk.clone()), life);
        starts.begin();
        (starts, noted)
    }

    /// Which of the units 1 to 3, taken in life 7, have certainly not begun.
    fn unbegun(disk: &Faulty) -> Vec<u128> {
        let (_, noted) = Starts::open(Arc::new(disk.clone()), 99);
        (1..=3)
            .filter(|number| is_unbegun(noted.as_ref(), *number))
            .collect()
    }

    fn is_unbegun(noted: Option<&Noted>, number: u128) -> bool {
        noted.is_some_and(|noted| noted.life == 7 && !noted.begun.contains(&unit(number)))
    }

    fn disk_with_two() -> (Faulty, Starts) {
        let disk = Faulty::new();
        let (starts, noted) = open(&disk, 7);
        assert!(noted.is_none());
        starts.note(unit(1)).unwrap();
        starts.note(unit(2)).unwrap();
        (disk, starts)
    }

    /// A note that is on its way: its place is reserved, and nothing of it is written.
    struct OnItsWay {
        unit: UnitId,
        file: Arc<dyn OpenFile>,
        at: usize,
    }

    impl OnItsWay {
        fn of(starts: &Starts, number: u128) -> Self {
            let unit = unit(number);
            let (file, at) = starts.0.lock().reserve(unit).unwrap().unwrap();
            Self { unit, file, at }
        }

        fn arrive(self, starts: &Starts) {
            let Self { unit, file, at } = self;
            let written = files::write_all(&*file, place(at), &cell(unit));
            starts.0.lock().settle(unit, at, &*file, written).unwrap();
        }
    }

    #[test]
    fn after_a_kill_it_is_known_which_units_have_not_begun() {
        let (disk, _starts) = disk_with_two();
        assert_eq!(unbegun(&disk.kill()), [3]);
    }

    #[test]
    fn what_was_noted_stays_until_the_next_life_has_begun() {
        let (disk, _starts) = disk_with_two();
        let (second, _) = Starts::open(Arc::new(disk.clone()), 8);
        assert_eq!(unbegun(&disk.kill()), [3]);
        second.begin();
        assert_eq!(unbegun(&disk.kill()), []);
    }

    #[test]
    fn each_life_begins_anew() {
        let (disk, _starts) = disk_with_two();
        drop(open(&disk, 8));
        assert_eq!(unbegun(&disk), []);
    }

    #[test]
    fn after_a_loss_of_power_nothing_is_known() {
        let (disk, _starts) = disk_with_two();
        let content = disk.content(NAME);
        for crash in [Crash::Synced, Crash::Unlinked] {
            let left = disk.crash(crash);
            left.set_content(NAME, content.clone());
            assert_eq!(unbegun(&left), []);
        }
    }

    #[test]
    fn a_place_is_used_again_once_nothing_is_left_of_its_unit() {
        let (disk, starts) = disk_with_two();
        let length = disk.content(NAME).len();
        starts.forget(unit(1));
        starts.note(unit(3)).unwrap();
        starts.note(unit(2)).unwrap();
        assert_eq!(disk.content(NAME).len(), length);
        assert_eq!(unbegun(&disk.kill()), [1]);
    }

    #[test]
    fn a_unit_whose_note_is_on_its_way_has_not_begun_and_others_are_noted_meanwhile() {
        let (disk, starts) = disk_with_two();
        let late = OnItsWay::of(&starts, 3);
        starts.note(unit(4)).unwrap();
        starts.forget(unit(1));
        assert_eq!(unbegun(&disk.kill()), [3]);
        late.arrive(&starts);
        assert_eq!(unbegun(&disk.kill()), []);
    }

    #[test]
    fn a_note_that_arrives_in_a_file_that_was_given_up_is_not_believed() {
        let (disk, starts) = disk_with_two();
        let late = OnItsWay::of(&starts, 3);
        disk.fault(Fault::Fail {
            op: Op::Write,
            nth: 0,
            times: 1,
        });
        starts.note(unit(4)).unwrap();
        late.arrive(&starts);
        assert_eq!(unbegun(&disk.kill()), []);
    }

    #[test]
    fn a_unit_that_two_note_at_once_leaves_no_place_behind() {
        let (disk, starts) = disk_with_two();
        let late = OnItsWay::of(&starts, 3);
        starts.note(unit(3)).unwrap();
        late.arrive(&starts);
        for number in 1..=3 {
            starts.forget(unit(number));
        }
        assert_eq!(starts.0.lock().free.len(), GROWTH);
        for number in 10..10 + GROWTH as u128 {
            starts.note(unit(number)).unwrap();
        }
        assert_eq!(disk.content(NAME).len() as u64, place(GROWTH));
        assert_eq!(unbegun(&disk.kill()), [1, 2, 3]);
        starts.note(unit(1)).unwrap();
        assert_eq!(disk.content(NAME).len() as u64, place(2 * GROWTH));
    }

    #[test]
    fn a_file_that_is_damaged_is_not_believed() {
        let (disk, _starts) = disk_with_two();
        let whole = disk.content(NAME);
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            disk.set_content(NAME, bytes);
            assert_eq!(unbegun(&disk), [], "byte {at}");
        }
        for length in 1..whole.len() {
            disk.set_content(NAME, whole[..length].to_vec());
            assert_eq!(unbegun(&disk), [], "{length} bytes");
        }
    }

    #[test]
    fn a_file_that_can_not_be_read_is_not_believed_and_stays() {
        let (disk, _starts) = disk_with_two();
        for op in [Op::Open, Op::Read] {
            disk.fault(Fault::Fail { op, nth: 0, times: 1 });
            assert_eq!(unbegun(&disk), [], "{op:?}");
            assert_eq!(unbegun(&disk), [3], "{op:?}");
        }
    }

    #[test]
    fn a_file_that_can_not_be_written_is_not_believed() {
        let (disk, starts) = disk_with_two();
        disk.fault(Fault::Fail {
            op: Op::Write,
            nth: 0,
            times: 1,
        });
        starts.note(unit(3)).unwrap();
        disk.heal();
        starts.note(unit(1)).unwrap();
        assert_eq!(unbegun(&disk.kill()), []);
    }

    #[test]
    fn a_unit_that_can_not_be_noted_at_all_does_not_begin() {
        let (disk, starts) = disk_with_two();
        disk.fault(Fault::FailAny { nth: 0, times: 3 });
        assert!(starts.note(unit(3)).is_err());
        disk.heal();
        assert_eq!(unbegun(&disk.kill()), [3]);
        starts.note(unit(3)).unwrap();
        assert_eq!(unbegun(&disk.kill()), []);
    }

    #[test]
    fn more_units_than_there_are_places_are_not_noted() {
        let disk = Faulty::new();
        let (starts, _) = Starts::open_with(Arc::new(disk.clone()), 7, GROWTH);
        starts.begin();
        for number in 1..=GROWTH as u128 {
            starts.note(unit(number)).unwrap();
        }
        let (_, noted) = Starts::open(Arc::new(disk.kill()), 99);
        assert_eq!(noted.unwrap().begun.len(), GROWTH);
        starts.note(unit(1000)).unwrap();
        assert_eq!(unbegun(&disk.kill()), []);
    }
}
