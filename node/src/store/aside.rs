//! Copies of bytes of the log that could not be read, for whoever looks at them: the store never does. Called when damage is found, at a
//! start or while a segment is emptied.

use std::io;
use std::ops::Range;

use super::files::{self, Files};
use super::segment::Number;

/// The folder of what could not be read.
pub(super) const DAMAGED: &str = "damaged";

/// The copy's name, relative to the store's folder.
pub(super) fn path(number: Number, at: usize) -> String {
    format!("{DAMAGED}/{number:010}-{at}")
}

/// Keeps `bytes`, which stand in `range` of a segment.
pub(super) fn keep(files: &dyn Files, number: Number, range: &Range<usize>, bytes: &[u8]) {
    let name = path(number, range.start);
    if let Err(error) = copy(files, &name, bytes) {
        let path = files.path(&name);
        tracing::warn!(path = %path.display(), %error, "cannot keep a copy of what is damaged");
    }
}

fn copy(files: &dyn Files, name: &str, bytes: &[u8]) -> io::Result<()> {
    let file = match files.create(name) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            // Of an earlier time, which may have failed before it was whole.
            let file = files.open(name)?;
            if file.length()? >= bytes.len() as u64 {
                return Ok(());
            }
            file
        }
        file => file?,
    };
    files::write_all(&*file, 0, bytes)?;
    file.sync()?;
    files.sync_dir(DAMAGED)
}
