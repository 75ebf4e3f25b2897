//! The file `FORMAT`: which version of the store this is, and the mark that its records begin with.

use std::io;

use super::error::StoreError;
use super::files::{self, Files};
use super::segment::LOG;

/// The version that this program writes.
pub(super) const KNOWN: u32 = 1;
/// The oldest version that this program reads.
const OLDEST: u32 = 1;
const FORMAT: &str = "FORMAT";
const NEW: &str = "FORMAT.new";
const MAX_BYTES: usize = 4096;

/// Reads the file and answers with the store's mark; makes it for a store that is new.
pub(super) fn open(files: &dyn Files) -> Result<u64, StoreError> {
    let path = files.path(FORMAT);
    let file = match files.open(FORMAT) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return create(files),
        Err(error) => return Err(StoreError::io("open", &path, error)),
    };
    let mut bytes = vec![0; MAX_BYTES];
    let length = files::read_full(&*file, 0, &mut bytes).map_err(|e| StoreError::io("read", &path, e))?;
    let text = String::from_utf8_lossy(&bytes[..length]);
    match parse(&text) {
        Some((version, _)) if version > KNOWN => Err(StoreError::Newer {
            found: version,
            known: KNOWN,
        }),
        Some((OLDEST..=KNOWN, Some(mark))) => Ok(mark),
        _ => Err(unreadable(files, &text)),
    }
}

fn unreadable(files: &dyn Files, text: &str) -> StoreError {
    let cut: String = text.chars().take(60).collect();
    StoreError::Unreadable {
        path: files.path(FORMAT).display().to_string(),
        found: format!("{cut:?}"),
        known: KNOWN,
    }
}

/// Version and mark; further lines are for later versions to add.
fn parse(text: &str) -> Option<(u32, Option<u64>)> {
    let mut lines = text.lines();
    let version = lines.next()?.strip_prefix("workmesh-store ")?.parse().ok()?;
    let mark = lines
        .find_map(|line| line.strip_prefix("mark "))
        .filter(|digits| digits.len() == 16)
        .and_then(|digits| u64::from_str_radix(digits, 16).ok());
    Some((version, mark))
}

fn create(files: &dyn Files) -> Result<u64, StoreError> {
    let at = |verb: &'static str, name: &str| {
        let path = files.path(name);
        move |error| StoreError::undone(verb, &path, error)
    };
    match files.list(LOG) {
        Ok(log) if log.iter().any(|file| file.bytes > 0) => return Err(unreadable(files, "")),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at("list", LOG)(error)),
        _ => {}
    }
    // Never all zero: zeros are what a file system leaves where nothing was written.
    let mark = rand::random::<u64>() | 1 << 63;
    match files.remove(NEW) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at("remove", NEW)(error)),
        _ => {}
    }
    let text = format!("workmesh-store {KNOWN}\nmark {mark:016x}\n");
    let file = files.create(NEW).map_err(at("create", NEW))?;
    files::write_all(&*file, 0, text.as_bytes()).map_err(at("write", NEW))?;
    file.sync().map_err(at("sync", NEW))?;
    files.rename(NEW, FORMAT).map_err(at("rename", NEW))?;
    files.sync_dir("").map_err(at("sync", ""))?;
    Ok(mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_marks_are_read_and_later_lines_are_left_alone() {
        let text = "workmesh-store 1\nmark 00000000000000ff\n";
        assert_eq!(parse(text), Some((1, Some(255))));
        let later = "workmesh-store 7\ncompressed yes\nmark 00000000000000ff\nmore\n";
        assert_eq!(parse(later), Some((7, Some(255))));
        assert_eq!(parse("workmesh-store 1\nmark ff\n"), Some((1, None)));
        for bad in ["", "workmesh-store", "workmesh-store x", "store 1", "\u{fffd}"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
