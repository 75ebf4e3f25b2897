//! A node's incarnation: a number that rises at each start, even when the clock was set back.
//!
//! Called once at the start of a node. Never reads the clock itself.

use std::path::Path;

use workmesh_proto::Incarnation;

use super::{IdentityError, store};

/// The incarnation of this start: `now_ms` (milliseconds since 1970), or one more than the last start's, whichever is
/// greater. It is on the disk before this returns.
///
/// # Errors
/// When the file can't be read or written, or holds anything but a number.
pub fn next_incarnation(data_dir: &Path, now_ms: u64) -> Result<Incarnation, IdentityError> {
    let path = data_dir.join("incarnation");
    let last = match store::read(&path) {
        Ok(bytes) => Some(parse(&bytes).ok_or_else(|| IdentityError::BadIncarnation { path: path.clone() })?),
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(error),
    };
    let next = last.map_or(now_ms, |last| now_ms.max(last.saturating_add(1)));
    store::make_private_dir(data_dir)?;
    store::replace(&path, format!("{next}\n").as_bytes(), store::PRIVATE)?;
    Ok(Incarnation(next))
}

fn parse(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn incarnations_rise_even_when_the_clock_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("data");
        let next = |now| next_incarnation(&data_dir, now).unwrap().0;
        assert_eq!(next(1000), 1000);
        assert_eq!(next(1000), 1001);
        assert_eq!(next(10), 1002);
        assert_eq!(next(5000), 5000);
    }

    #[test]
    fn a_broken_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("incarnation"), "x").unwrap();
        let text = next_incarnation(dir.path(), 1).unwrap_err().to_string();
        assert!(
            text.contains("incarnation") && text.contains("remove it"),
            "{text}"
        );
    }
}
