//! How a worker fails.

use std::fmt;

use crate::cancel::StopReason;

/// What a worker returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A worker's failure. Its text reaches the submitter in the unit's EOF.
///
/// Any error type converts with `?`; [`Error::msg`] makes one from a text.
pub struct Error {
    text: String,
    stopped: Option<StopReason>,
}

impl Error {
    /// A failure with this text: one line that names what went wrong.
    pub fn msg(text: impl fmt::Display) -> Self {
        Self {
            text: text.to_string(),
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

impl<E: std::error::Error> From<E> for Error {
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.contains(&cause_text) {
                text.push_str(": ");
                text.push_str(&cause_text);
            }
            source = cause.source();
        }
        Self { text, stopped: None }
    }
}
