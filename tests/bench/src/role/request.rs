//! The floor's request: as many bytes as an exchange has, the first saying what is asked.
//!
//! Both ends of the floor use it; the product has its own frames.

use crate::settings::EXCHANGE_BYTES;

/// What a request asks of the answering end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// The same bytes back, from the task that read them.
    Echo,
    /// The same bytes back, through the pool.
    EchoThroughPool,
    /// So many bytes; the receiver may stop earlier.
    Bulk(u64),
    /// One byte at once, then nothing until the asking end stops the stream.
    Hold,
}

impl Request {
    /// The request as it travels.
    pub(super) fn encode(self) -> [u8; EXCHANGE_BYTES] {
        let (kind, count) = match self {
            Self::Echo => (b'E', 0),
            Self::EchoThroughPool => (b'P', 0),
            Self::Bulk(bytes) => (b'B', bytes),
            Self::Hold => (b'H', 0),
        };
        let mut request = [0; EXCHANGE_BYTES];
        request[0] = kind;
        request[1..9].copy_from_slice(&u64::to_be_bytes(count));
        request
    }

    /// The request in `bytes`, unless they are none.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (&kind, rest) = bytes.split_first()?;
        let (count, rest) = rest.split_first_chunk::<8>()?;
        if rest.len() + 9 != EXCHANGE_BYTES {
            return None;
        }
        match kind {
            b'E' => Some(Self::Echo),
            b'P' => Some(Self::EchoThroughPool),
            b'B' => Some(Self::Bulk(u64::from_be_bytes(*count))),
            b'H' => Some(Self::Hold),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_survives_its_encoding() {
        for request in [
            Request::Echo,
            Request::EchoThroughPool,
            Request::Bulk(u64::MAX),
            Request::Hold,
        ] {
            assert_eq!(Request::decode(&request.encode()), Some(request));
        }
    }

    #[test]
    fn a_request_of_another_length_is_none() {
        let bytes = Request::Echo.encode();
        assert_eq!(Request::decode(&bytes[..EXCHANGE_BYTES - 1]), None);
        assert_eq!(Request::decode(&[bytes.as_slice(), &[0]].concat()), None);
    }
}
