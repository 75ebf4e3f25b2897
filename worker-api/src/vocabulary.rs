//! The words that a worker, a node and the wire share: directives and payload kinds.
//! Parsed once at the edge; a value of these types is well formed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest directive, in bytes.
pub const MAX_DIRECTIVE_BYTES: usize = 256;

/// What a unit asks for: `module:function`, split at the first colon.
///
/// Neither half is empty, both are printable ASCII without white space, the whole is at most
/// [`MAX_DIRECTIVE_BYTES`] long. Dots, slashes and further colons are legal right of the first colon.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Directive {
    text: Box<str>,
    colon: u16,
}

impl Directive {
    /// Parses `module:function`.
    pub fn parse(text: &str) -> Result<Self, DirectiveError> {
        if text.len() > MAX_DIRECTIVE_BYTES {
            return Err(DirectiveError::TooLong(text.len()));
        }
        if let Some(bad) = text.chars().find(|c| !c.is_ascii_graphic()) {
            return Err(DirectiveError::BadCharacter(bad));
        }
        match text.find(':') {
            None => Err(DirectiveError::NoColon(text.to_owned())),
            Some(0) => Err(DirectiveError::NoModule(text.to_owned())),
            Some(at) if at + 1 == text.len() => Err(DirectiveError::NoFunction(text.to_owned())),
            Some(at) => Ok(Self {
                text: text.into(),
                colon: at as u16,
            }),
        }
    }

    /// The part left of the first colon.
    pub fn module(&self) -> &str {
        &self.text[..usize::from(self.colon)]
    }

    /// The part right of the first colon.
    pub fn function(&self) -> &str {
        &self.text[usize::from(self.colon) + 1..]
    }

    /// The whole, as it was parsed.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for Directive {
    type Err = DirectiveError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Directive {
    type Error = DirectiveError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<Directive> for String {
    fn from(directive: Directive) -> Self {
        directive.text.into()
    }
}

impl fmt::Display for Directive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for Directive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why a text is no directive. The submitter's mistake; nothing was started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DirectiveError {
    /// There is no colon at all.
    #[error("malformed directive {0:?}: no colon; write module:function, for example echo:bytes")]
    NoColon(String),
    /// Nothing stands left of the colon.
    #[error("malformed directive {0:?}: no module before the colon; write module:function")]
    NoModule(String),
    /// Nothing stands right of the colon.
    #[error("malformed directive {0:?}: no function after the colon; write module:function")]
    NoFunction(String),
    /// A character that is not printable ASCII, or white space.
    #[error("malformed directive: character {0:?} is not allowed; use printable ASCII without spaces")]
    BadCharacter(char),
    /// Longer than [`MAX_DIRECTIVE_BYTES`].
    #[error("malformed directive: {0} bytes long; at most {MAX_DIRECTIVE_BYTES} are allowed")]
    TooLong(usize),
}

/// How a worker takes its payload; chosen by the type of its first parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PayloadKind {
    /// Whole, in memory, limited.
    Bytes,
    /// As a stream; the first byte can be read before the last has arrived.
    Buffer,
    /// As a private temporary file.
    File,
}

impl PayloadKind {
    /// The kind's name in listings and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Buffer => "buffer",
            Self::File => "file",
        }
    }
}

impl fmt::Display for PayloadKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directive_splits_at_the_first_colon() {
        let directive = Directive::parse("kv:proto.KV/Get:x").unwrap();
        assert_eq!(
            (directive.module(), directive.function()),
            ("kv", "proto.KV/Get:x")
        );
    }

    #[test]
    fn each_malformed_directive_says_what_is_missing() {
        assert!(matches!(
            Directive::parse("nocolon"),
            Err(DirectiveError::NoColon(_))
        ));
        assert!(matches!(Directive::parse(":x"), Err(DirectiveError::NoModule(_))));
        assert!(matches!(
            Directive::parse("a:"),
            Err(DirectiveError::NoFunction(_))
        ));
        assert!(matches!(Directive::parse(""), Err(DirectiveError::NoColon(_))));
        assert!(matches!(
            Directive::parse("a b:c"),
            Err(DirectiveError::BadCharacter(' '))
        ));
        assert!(matches!(
            Directive::parse("a:\u{7}"),
            Err(DirectiveError::BadCharacter('\u{7}'))
        ));
    }

    #[test]
    fn directive_length_is_limited() {
        let longest = format!("a:{}", "x".repeat(MAX_DIRECTIVE_BYTES - 2));
        assert!(Directive::parse(&longest).is_ok());
        assert_eq!(
            Directive::parse(&format!("{longest}x")),
            Err(DirectiveError::TooLong(MAX_DIRECTIVE_BYTES + 1))
        );
    }
}
