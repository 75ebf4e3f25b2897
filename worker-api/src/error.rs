//! How a worker fails.

use std::fmt;
use std::io;

use crate::cancel::StopReason;

/// What a worker returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The longest text of an [`Error`], in bytes; a longer one is cut.
pub const MAX_ERROR_BYTES: usize = 1024;

/// A worker's failure. Its text reaches the submitter in the unit's EOF: one line of at most
/// [`MAX_ERROR_BYTES`], control characters escaped.
///
/// Any type that implements [`std::error::Error`] converts with `?`, its causes appended;
/// [`Error::msg`] makes one from a text.
pub struct Error {
    text: String,
    stopped: Option<StopReason>,
}

impl Error {
    /// A failure with this text: one line that names what went wrong.
    pub fn msg(text: impl fmt::Display) -> Self {
        Self {
            text: one_line(&text.to_string()),
            stopped: None,
        }
    }

    /// The unit was told to stop; what [`crate::Context::check`] and a failed send return.
    pub fn stopped(reason: StopReason) -> Self {
        Self {
            text: reason.as_str().to_owned(),
            stopped: Some(reason),
        }
    }

    /// The same failure with `what` and a colon before its text; a stop reason is kept.
    pub fn context(self, what: impl fmt::Display) -> Self {
        Self {
            text: one_line(&format!("{what}: {}", self.text)),
            stopped: self.stopped,
        }
    }

    /// Why the unit was told to stop, if that is what this error says.
    pub fn stop_reason(&self) -> Option<StopReason> {
        self.stopped
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl<E: std::error::Error + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut stopped = stop_reason_in(&error);
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.contains(&cause_text) {
                text.push_str(": ");
                text.push_str(&cause_text);
            }
            stopped = stopped.or_else(|| stop_reason_in(cause));
            source = cause.source();
        }
        Self {
            text: one_line(&text),
            stopped,
        }
    }
}

/// The stop reason that `error` is, or that it carries as an I/O error.
fn stop_reason_in(error: &(dyn std::error::Error + 'static)) -> Option<StopReason> {
    if let Some(reason) = error.downcast_ref::<StopReason>() {
        return Some(*reason);
    }
    error
        .downcast_ref::<io::Error>()?
        .get_ref()?
        .downcast_ref::<StopReason>()
        .copied()
}

/// `text` with control characters escaped, cut at [`MAX_ERROR_BYTES`].
fn one_line(text: &str) -> String {
    const CUT: &str = "...";
    let mut line = String::with_capacity(text.len().min(MAX_ERROR_BYTES));
    for c in text.trim_end().chars() {
        let before = line.len();
        if c.is_control() {
            line.extend(c.escape_default())
        } else {
            line.push(c)
        }
        if line.len() > MAX_ERROR_BYTES - CUT.len() {
            line.truncate(before);
            line.push_str(CUT);
            break;
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_one_line() {
        assert_eq!(Error::msg("a\nb\u{1b}[0m").to_string(), "a\\nb\\u{1b}[0m");
        assert_eq!(Error::msg("ends in a newline\n").to_string(), "ends in a newline");
    }

    #[test]
    fn text_is_cut_at_its_limit() {
        let fits = "x".repeat(MAX_ERROR_BYTES - 3);
        assert_eq!(Error::msg(&fits).to_string(), fits);
        let cut = Error::msg("\u{e9}".repeat(MAX_ERROR_BYTES)).to_string();
        assert!(
            cut.len() <= MAX_ERROR_BYTES && cut.ends_with("\u{e9}..."),
            "{cut}"
        );
    }

    #[test]
    fn causes_are_appended_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("reading the table")]
        struct Outer(#[source] io::Error);
        let error = Error::from(Outer(io::Error::other("disk is full")));
        assert_eq!(error.to_string(), "reading the table: disk is full");
    }

    #[test]
    fn context_stands_before_the_text_and_keeps_the_stop_reason() {
        let error = Error::stopped(StopReason::Cancelled).context("compressing");
        assert_eq!(error.to_string(), "compressing: the unit was cancelled");
        assert_eq!(error.stop_reason(), Some(StopReason::Cancelled));
    }

    #[test]
    fn stop_reason_survives_an_io_error() {
        let error = Error::from(io::Error::from(StopReason::Expired));
        assert_eq!(error.stop_reason(), Some(StopReason::Expired));
        assert_eq!(error.to_string(), StopReason::Expired.as_str());
    }
}
