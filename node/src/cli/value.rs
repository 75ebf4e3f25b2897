//! Values of the command line that clap does not know: durations, `key=value`, numbers within limits.

use std::time::Duration;

use jiff::SignedDuration;

/// A duration with its unit, as in `30s`, `1h30m` or `250ms`; above zero.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration; write it with a unit, as in 500ms, 30s, 5m or 1h30m");
    let signed: SignedDuration = text.parse().map_err(|_| wrong())?;
    let duration = Duration::try_from(signed).map_err(|_| wrong())?;
    if duration.is_zero() {
        Err("a duration must be above zero".into())
    } else {
        Ok(duration)
    }
}

/// A key, `=`, and a value that may be empty.
pub(crate) fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not KEY=VALUE")),
    }
}

/// A number of bytes, as in `64`, `64KiB` or `1MB`.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    text.parse::<bytesize::ByteSize>()
        .map(|size| size.as_u64())
        .map_err(|_| format!("{text:?} is no size; write bytes, or a unit as in 64KiB"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit_and_a_length() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for bad in ["30", "", "x", "-3s", "0s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn parameters_are_split_at_the_first_equals_sign() {
        assert_eq!(key_value("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(key_value("a="), Ok(("a".into(), String::new())));
        assert!(key_value("a").is_err());
        assert!(key_value("=b").is_err());
    }

    #[test]
    fn sizes_take_units() {
        assert_eq!(bytes("64"), Ok(64));
        assert_eq!(bytes("64KiB"), Ok(65536));
        assert!(bytes("many").is_err());
    }
}
