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
        let colon = split(text).map_err(|fault| match fault {
            Fault::TooLong => DirectiveError::TooLong(text.len()),
            Fault::BadCharacter { at } => {
                DirectiveError::BadCharacter(text[at..].chars().next().unwrap_or_default())
            }
            Fault::NoColon => DirectiveError::NoColon(text.to_owned()),
            Fault::NoModule => DirectiveError::NoModule(text.to_owned()),
            Fault::NoFunction => DirectiveError::NoFunction(text.to_owned()),
        })?;
        Ok(Self {
            text: text.into(),
            colon,
        })
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

/// What is wrong with a directive; the one grammar behind [`Directive::parse`] and `#[worker]`.
#[derive(Clone, Copy)]
enum Fault {
    TooLong,
    /// Where the character starts; everything before it is ASCII.
    BadCharacter {
        at: usize,
    },
    NoColon,
    NoModule,
    NoFunction,
}

/// Finds the colon that splits a directive.
const fn split(text: &str) -> Result<u16, Fault> {
    let bytes = text.as_bytes();
    if bytes.len() > MAX_DIRECTIVE_BYTES {
        return Err(Fault::TooLong);
    }
    let mut colon = None;
    let mut at = 0;
    while at < bytes.len() {
        if !bytes[at].is_ascii_graphic() {
            return Err(Fault::BadCharacter { at });
        }
        if bytes[at] == b':' && colon.is_none() {
            colon = Some(at);
        }
        at += 1;
    }
    match colon {
        None => Err(Fault::NoColon),
        Some(0) => Err(Fault::NoModule),
        Some(at) if at + 1 == bytes.len() => Err(Fault::NoFunction),
        Some(at) => Ok(at as u16),
    }
}

/// Stops the compiler at a directive that [`Directive::parse`] would refuse.
#[track_caller]
pub const fn assert_directive(text: &str) {
    match split(text) {
        Ok(_) => {}
        Err(Fault::TooLong) => panic!("malformed directive: longer than 256 bytes; shorten it"),
        Err(Fault::BadCharacter { .. }) => {
            panic!("malformed directive: use printable ASCII without spaces")
        }
        Err(Fault::NoColon) => {
            panic!("malformed directive: no colon; write module:function, for example text:upper")
        }
        Err(Fault::NoModule) => {
            panic!("malformed directive: no module before the colon; write module:function")
        }
        Err(Fault::NoFunction) => {
            panic!("malformed directive: no function after the colon; write module:function")
        }
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
