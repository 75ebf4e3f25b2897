//! What can be wrong with a configuration. Every text is one line with the place, the key and what was expected.

use std::io;
use std::path::PathBuf;

/// Why the configuration can't be used. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("can't read configuration {}: {error}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file is too long.
    #[error("configuration {} is longer than {limit_bytes} bytes", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// The limit.
        limit_bytes: u64,
    },
    /// A place in the file is wrong.
    #[error("{}:{line}:{column}: {key}{}{problem}", path.display(), if key.is_empty() { "" } else { ": " })]
    File {
        /// Which file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// The key with its table; empty where the syntax is wrong.
        key: String,
        /// What was expected and found.
        problem: String,
    },
    /// A variable of the environment is wrong.
    #[error("environment variable {variable}: {problem}")]
    Variable {
        /// Which variable.
        variable: &'static str,
        /// What was expected and found.
        problem: String,
    },
    /// A flag is wrong.
    #[error("{flag}: {problem}")]
    Flag {
        /// Which flag.
        flag: &'static str,
        /// What was expected and found.
        problem: String,
    },
}
