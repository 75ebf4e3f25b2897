//! Small text files that end with a checksum of themselves, and are replaced whole. Called by those who keep `FORMAT` and `SEGMENTS`.

use std::io;

use twox_hash::XxHash3_64;

use super::files::{self, Files};

/// The longest file that is read, in bytes.
const MAX_BYTES: u64 = 16 << 20;
const SUM: &str = "sum ";

/// What the last line says of those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seal {
    /// They are as they were written.
    Right,
    /// They are not.
    Wrong,
    /// There is no such line.
    Missing,
}

/// The text of a file.
#[derive(Debug)]
pub(super) struct Text {
    pub(super) text: String,
    pub(super) seal: Seal,
}

impl Text {
    fn of(text: String) -> Self {
        let at = text.rfind("\nsum ").map(|at| at + 1);
        let seal = match at.map(|at| text.split_at(at)) {
            None => Seal::Missing,
            Some((lines, last)) if last == sum_line(lines) => Seal::Right,
            Some(_) => Seal::Wrong,
        };
        Self { text, seal }
    }

    /// The version, which the first line has.
    pub(super) fn version(&self) -> Option<u32> {
        self.text
            .lines()
            .next()?
            .strip_prefix("workmesh-store ")?
            .parse()
            .ok()
    }

    /// The store's mark.
    pub(super) fn mark(&self) -> Option<u64> {
        self.text
            .lines()
            .find_map(|line| line.strip_prefix("mark "))
            .filter(|digits| digits.len() == 16)
            .and_then(|digits| u64::from_str_radix(digits, 16).ok())
    }
}

/// The lines that such a file begins with.
pub(super) fn title(version: u32, mark: u64) -> String {
    format!("workmesh-store {version}\nmark {mark:016x}\n")
}

fn sum_line(lines: &str) -> String {
    format!("{SUM}{:016x}\n", XxHash3_64::oneshot(lines.as_bytes()))
}

/// Reads a file of the store's folder; `None` if there is none.
pub(super) fn read(files: &dyn Files, name: &str) -> io::Result<Option<Text>> {
    let file = match files.open(name) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = vec![0; file.length()?.min(MAX_BYTES) as usize];
    files::read_all(&*file, 0, &mut bytes)?;
    Ok(Some(Text::of(String::from_utf8_lossy(&bytes).into_owned())))
}

/// Replaces a file of the store's folder, or makes it: after a crash it has its old lines or the new ones.
pub(super) fn replace(files: &dyn Files, name: &str, lines: &str) -> io::Result<()> {
    let new = format!("{name}.new");
    match files.remove(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = files.create(&new)?;
    let text = format!("{lines}{}", sum_line(lines));
    let written = files::write_all(&*file, 0, text.as_bytes()).and_then(|()| file.sync());
    if let Err(error) = written {
        // What stays of it is removed before the next one is made.
        let _ = files.remove(&new);
        return Err(error);
    }
    files.rename(&new, name)?;
    files.sync_dir("")
}

#[cfg(test)]
mod tests {
    use super::super::faulty::Faulty;
    use super::*;

    fn text(text: &str) -> Text {
        Text::of(text.to_owned())
    }

    #[test]
    fn versions_and_marks_are_read_and_later_lines_are_left_alone() {
        let plain = text("workmesh-store 1\nmark 00000000000000ff\n");
        assert_eq!(
            (plain.version(), plain.mark(), plain.seal),
            (Some(1), Some(255), Seal::Missing)
        );
        let later = text("workmesh-store 7\ncompressed yes\nmark 00000000000000ff\nmore\n");
        assert_eq!((later.version(), later.mark()), (Some(7), Some(255)));
        assert_eq!(text("workmesh-store 1\nmark ff\n").mark(), None);
        for bad in ["", "workmesh-store", "workmesh-store x", "store 1", "\u{fffd}"] {
            assert_eq!(text(bad).version(), None, "{bad:?}");
        }
    }

    #[test]
    fn a_changed_byte_breaks_the_seal() {
        let disk = Faulty::new();
        replace(&disk, "F", &title(3, 0x1234_5678_9abc_def0)).unwrap();
        let found = read(&disk, "F").unwrap().unwrap();
        assert_eq!(
            (found.seal, found.version(), found.mark()),
            (Seal::Right, Some(3), Some(0x1234_5678_9abc_def0))
        );
        let whole = disk.content("F");
        for at in 0..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 1;
            disk.set_content("F", bad);
            assert_ne!(read(&disk, "F").unwrap().unwrap().seal, Seal::Right, "byte {at}");
            disk.set_content("F", whole[..at].to_vec());
            assert_ne!(
                read(&disk, "F").unwrap().unwrap().seal,
                Seal::Right,
                "cut at {at}"
            );
        }
        assert!(read(&disk, "G").unwrap().is_none());
    }
}
