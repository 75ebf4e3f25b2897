//! The file `FORMAT`: which version of the store this is, and the mark that its records begin with. What is damaged of it is taken
//! from `SEGMENTS`, or from the heads of the segments.

use std::collections::BTreeSet;
use std::io;

use super::error::StoreError;
use super::files::{self, Files};
use super::inventory::{self, Listing, Read, SEGMENTS};
use super::sealed::{self, Seal, Text};
use super::segment::{self, LOG};

const FORMAT: &str = "FORMAT";
/// Bytes of a segment in which its head is looked for.
const HEAD_BYTES: usize = 4096;

/// The versions of the store that a program knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Versions {
    /// The oldest one that it reads.
    pub(super) oldest: u32,
    /// The one that it writes.
    pub(super) known: u32,
}

impl Versions {
    /// This program's own. The second one has records that programs of the first can't read.
    pub(super) const OWN: Self = Self { oldest: 1, known: 2 };
}

/// What the files say of the store as a whole.
pub(super) struct Format {
    pub(super) mark: u64,
    /// What `SEGMENTS` says, if it is there and sound.
    pub(super) listing: Option<Listing>,
    /// What is damaged, a line each.
    pub(super) damage: Vec<String>,
    /// The version that is written.
    pub(super) version: u32,
    /// The version that was found, if there is a store.
    found: Option<u32>,
    /// Whether the file is as it was written.
    sealed: bool,
}

/// What stands in the folder of the log.
struct Heads {
    /// The marks of all sound heads.
    marks: BTreeSet<u64>,
    /// Whether there is anything at all.
    any: bool,
}

/// Reads what kind of store this is; a new one gets a mark. Nothing is written.
pub(super) fn open(files: &dyn Files, versions: Versions) -> Result<Format, StoreError> {
    let failed = |name: &'static str| move |error| StoreError::io("read", &files.path(name), error);
    let text = sealed::read(files, FORMAT).map_err(failed(FORMAT))?;
    let read = inventory::read(files).map_err(failed(SEGMENTS))?;
    let heads = heads(files)?;
    let looked = Look {
        files,
        versions,
        heads,
    };
    looked.decide(text, read)
}

struct Look<'a> {
    files: &'a dyn Files,
    versions: Versions,
    heads: Heads,
}

impl Look<'_> {
    fn decide(&self, text: Option<Text>, read: Read) -> Result<Format, StoreError> {
        let mut format = Format {
            mark: 0,
            listing: None,
            damage: Vec::new(),
            version: self.versions.known,
            found: None,
            sealed: false,
        };
        if let Some(found) = text.as_ref().and_then(Text::version) {
            self.check_newer(found)?;
        }
        let sealed = text.as_ref().filter(|text| text.seal == Seal::Right);
        if let Some((version, mark)) = sealed.and_then(|text| text.version().zip(text.mark())) {
            self.check(version, text.as_ref())?;
            (format.found, format.sealed, format.mark) = (Some(version), true, mark);
            format.listing = self.listing(mark, read, &mut format.damage);
            self.check_heads(mark)?;
            return Ok(format);
        }
        match read {
            Read::Sound {
                version,
                mark,
                listing,
            } => {
                self.check(version, text.as_ref())?;
                self.check_heads(mark)?;
                (format.found, format.mark) = (Some(version), mark);
                let new = text.is_none() && listing.is_empty() && !self.heads.any;
                let old = text
                    .as_ref()
                    .is_some_and(|text| text.text == sealed::title(version, mark));
                if !new && !old {
                    format.damage.push(format!(
                        "{FORMAT} is damaged or missing: restored from {SEGMENTS}"
                    ));
                }
                format.listing = Some(listing);
            }
            Read::Missing if text.is_none() && !self.heads.any => {
                // Never all zero: zeros are what a file system leaves where nothing was written.
                format.mark = rand::random::<u64>() | 1 << 63;
            }
            Read::Missing | Read::Damaged => {
                if matches!(read, Read::Damaged) {
                    format.damage.push(format!("{SEGMENTS} is damaged"));
                }
                format.mark = self.deduce(text.as_ref(), &mut format.damage)?;
                format.found = text.as_ref().and_then(Text::version);
            }
        }
        Ok(format)
    }

    /// However a newer `FORMAT` looks, its first line has the version.
    fn check_newer(&self, found: u32) -> Result<(), StoreError> {
        let known = self.versions.known;
        match found > known {
            true => Err(StoreError::Newer { found, known }),
            false => Ok(()),
        }
    }

    fn check(&self, version: u32, text: Option<&Text>) -> Result<(), StoreError> {
        self.check_newer(version)?;
        if version < self.versions.oldest {
            return Err(self.unreadable(text));
        }
        Ok(())
    }

    /// A log of which every segment that can be read has another mark is not this store's.
    fn check_heads(&self, mark: u64) -> Result<(), StoreError> {
        let marks = &self.heads.marks;
        match marks.first() {
            Some(other) if !marks.contains(&mark) => Err(StoreError::Foreign {
                path: self.files.path(LOG).display().to_string(),
                found: *other,
                expected: mark,
            }),
            _ => Ok(()),
        }
    }

    /// What `SEGMENTS` says, if it is this store's.
    fn listing(&self, own: u64, read: Read, damage: &mut Vec<String>) -> Option<Listing> {
        let why = match read {
            Read::Sound { mark, listing, .. } if mark == own => return Some(listing),
            Read::Sound { .. } => "is another store's",
            Read::Damaged => "is damaged",
            Read::Missing => "is missing",
        };
        damage.push(format!(
            "{SEGMENTS} {why}: whether the log has all its segments is not known"
        ));
        None
    }

    /// The mark, where `FORMAT` is all that there is beside the segments, and has no checksum or a wrong one.
    fn deduce(&self, text: Option<&Text>, damage: &mut Vec<String>) -> Result<u64, StoreError> {
        let (Some(text), Some(version)) = (text, text.and_then(Text::version)) else {
            return Err(self.unreadable(text));
        };
        self.check(version, Some(text))?;
        let (told, marks) = (text.mark(), &self.heads.marks);
        let mark = match (told, marks.first()) {
            (Some(told), _) if marks.contains(&told) => told,
            (Some(told), None) if text.seal == Seal::Missing => told,
            (_, Some(only)) if marks.len() == 1 => *only,
            _ => return Err(self.unreadable(Some(text))),
        };
        if told != Some(mark) {
            damage.push(format!(
                "the mark in {FORMAT} is damaged: restored from the segments"
            ));
        } else if text.seal == Seal::Wrong {
            damage.push(format!("{FORMAT} is damaged: its mark is that of the segments"));
        }
        Ok(mark)
    }

    fn unreadable(&self, text: Option<&Text>) -> StoreError {
        let found = match text {
            None => "no file".to_owned(),
            Some(text) => {
                let cut: String = text.text.chars().take(60).collect();
                let wrong = match text.seal {
                    Seal::Wrong => ", with a wrong checksum",
                    Seal::Right | Seal::Missing => "",
                };
                format!("{cut:?}{wrong}")
            }
        };
        StoreError::Unreadable {
            path: self.files.path(FORMAT).display().to_string(),
            found,
            known: self.versions.known,
        }
    }
}

impl Format {
    /// Writes the file, unless it says what it should. To be called once `SEGMENTS` is there: a `FORMAT` with a checksum tells that
    /// there is one.
    pub(super) fn write(&self, files: &dyn Files) -> Result<(), StoreError> {
        if self.sealed && !self.is_due() {
            return Ok(());
        }
        let lines = sealed::title(self.version, self.mark);
        sealed::replace(files, FORMAT, &lines)
            .map_err(|error| StoreError::undone("write", &files.path(FORMAT), error))
    }

    /// Whether there was no store.
    pub(super) fn is_new(&self) -> bool {
        self.found.is_none()
    }

    /// Whether the file has to be written before anything else may be: the store is new, or of an older version.
    pub(super) fn is_due(&self) -> bool {
        self.found != Some(self.version)
    }
}

fn heads(files: &dyn Files) -> Result<Heads, StoreError> {
    let mut heads = Heads {
        marks: BTreeSet::new(),
        any: false,
    };
    let listed = match files.list(LOG) {
        Ok(listed) => listed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(heads),
        Err(error) => return Err(StoreError::io("list", &files.path(LOG), error)),
    };
    heads.any = listed.iter().any(|file| file.bytes > 0);
    for listed in listed {
        let Some(number) = segment::number(&listed.name) else {
            continue;
        };
        let path = segment::path(number);
        let failed = |verb| {
            let path = files.path(&path);
            move |error| StoreError::io(verb, &path, error)
        };
        let file = files.open(&path).map_err(failed("open"))?;
        let mut head = vec![0; HEAD_BYTES.min(listed.bytes as usize)];
        files::read_all(&*file, 0, &mut head).map_err(failed("read"))?;
        heads.marks.extend(segment::head_mark(&head, number));
    }
    Ok(heads)
}
