//! The forward frame: one QUIC packet of a session on its way from node to node.
//!
//! ```text
//! 0      1      2                10               18            24              32
//! +------+------+----------------+----------------+-------------+---------------+------ - -
//! | type | hops | destination    | source         | sequence    | tag           | QUIC packet
//! +------+------+----------------+----------------+-------------+---------------+------ - -
//! ```
//!
//! The two top bits of the type are 0, so that no QUIC packet is taken for a frame: QUIC sets the fixed bit
//! (RFC 9000, sections 17.2 and 17.3), and greasing it (RFC 9287) is off. The tag is SipHash-2-4 over bytes 0 to 23 and the
//! first 16 bytes of the packet, keyed for each link and direction by TLS key export (RFC 8446, section 7.5). Frames are
//! numbered under each key, so that a receiver can refuse those that came before: [`super::replay`].

use std::ops::Range;

use siphasher::sip::SipHasher24;

use crate::id::NodeHash;

/// Bytes before the QUIC packet.
pub const HEADER_BYTES: usize = 32;
/// How many nodes may pass a frame on.
pub const HOP_LIMIT: u8 = 32;
/// Type and version of the only frame so far.
pub const TYPE_SESSION_1: u8 = 0x01;
/// Sequence numbers stay below this. They never wrap: at a million frames a second they last nine years.
pub const SEQUENCE_LIMIT: u64 = 1 << 48;
/// How much of the packet the tag covers, in bytes.
const TAGGED_PACKET_BYTES: usize = 16;
/// Where the sequence number begins.
const SEQUENCE_AT: usize = 18;
/// Where the tag begins.
const TAG_AT: usize = 24;

/// The key of one link in one direction.
#[derive(Clone)]
pub struct LinkKey(SipHasher24);

impl LinkKey {
    /// A key of 16 secret bytes.
    pub fn new(secret: &[u8; 16]) -> Self {
        Self(SipHasher24::new_with_key(secret))
    }

    fn tag(&self, head: &[u8], packet: &[u8]) -> u64 {
        // Both parts side by side, so that the hash is taken in one go.
        let mut tagged = [0; TAG_AT + TAGGED_PACKET_BYTES];
        let covered = packet.len().min(TAGGED_PACKET_BYTES);
        tagged[..TAG_AT].copy_from_slice(head);
        tagged[TAG_AT..TAG_AT + covered].copy_from_slice(&packet[..covered]);
        self.0.hash(&tagged[..TAG_AT + covered])
    }
}

impl std::fmt::Debug for LinkKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LinkKey(..)")
    }
}

/// The fields of a frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForwardHeader {
    /// How many more nodes may pass the frame on.
    pub hops: u8,
    /// The session's end that the packet goes to.
    pub destination: NodeHash,
    /// The session's end that sent it.
    pub source: NodeHash,
}

/// Whether a datagram, or a segment of one, is a forward frame rather than a QUIC packet.
pub fn is_forward_frame(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| first & 0xc0 == 0)
}

impl ForwardHeader {
    /// The header's bytes for `packet` on the link whose sending key is `key`. `sequence` is below [`SEQUENCE_LIMIT`]
    /// and was never used under this key.
    pub fn seal(&self, key: &LinkKey, sequence: u64, packet: &[u8]) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0] = TYPE_SESSION_1;
        bytes[1] = self.hops;
        bytes[2..10].copy_from_slice(&self.destination.0.to_be_bytes());
        bytes[10..SEQUENCE_AT].copy_from_slice(&self.source.0.to_be_bytes());
        bytes[SEQUENCE_AT..TAG_AT].copy_from_slice(&sequence.to_be_bytes()[2..]);
        let tag = key.tag(&bytes[..TAG_AT], packet);
        bytes[TAG_AT..].copy_from_slice(&tag.to_be_bytes());
        bytes
    }

    /// Reads and checks the header of `frame`, which came over the link whose receiving key is `key`. Gives the sequence number
    /// too: whether the frame came before is for the link's replay window to say.
    pub fn open(key: &LinkKey, frame: &[u8]) -> Result<(Self, u64), ForwardError> {
        let Some((header, packet)) = frame.split_first_chunk::<HEADER_BYTES>() else {
            return Err(ForwardError::TooShort);
        };
        if packet.is_empty() {
            return Err(ForwardError::TooShort);
        }
        if header[0] != TYPE_SESSION_1 {
            return Err(ForwardError::UnknownType(header[0]));
        }
        let number = |bytes: Range<usize>| header[bytes].iter().fold(0u64, |sum, b| sum << 8 | u64::from(*b));
        if key.tag(&header[..TAG_AT], packet) != number(TAG_AT..HEADER_BYTES) {
            return Err(ForwardError::BadTag);
        }
        let fields = Self {
            hops: header[1],
            destination: NodeHash(number(2..10)),
            source: NodeHash(number(10..SEQUENCE_AT)),
        };
        Ok((fields, number(SEQUENCE_AT..TAG_AT)))
    }
}

/// Why a frame is dropped. Counted by reason, never answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// No room for a header and a packet.
    #[error("forward frame is too short")]
    TooShort,
    /// A type that this version does not know.
    #[error("forward frame of unknown type {0:#04x}")]
    UnknownType(u8),
    /// Not sealed with the link's key: forged, or of an old link.
    #[error("forward frame with a wrong tag")]
    BadTag,
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: ForwardHeader = ForwardHeader {
        hops: HOP_LIMIT,
        destination: NodeHash(0x0123_4567_89ab_cdef),
        source: NodeHash(0xfedc_ba98_7654_3210),
    };
    const SEQUENCE: u64 = 0x1234_5678_9abc;
    const PACKET: &[u8] = b"\x40 the twenty-four bytes.";

    #[test]
    fn sealed_header_opens_under_the_same_key() {
        let frame = sealed(PACKET);
        assert!(is_forward_frame(&frame));
        assert_eq!(ForwardHeader::open(&key(), &frame), Ok((HEADER, SEQUENCE)));
    }

    #[test]
    fn first_and_last_sequence_numbers_are_read_as_written() {
        for sequence in [0, 1, SEQUENCE_LIMIT - 1] {
            let frame = [&HEADER.seal(&key(), sequence, PACKET)[..], PACKET].concat();
            assert_eq!(ForwardHeader::open(&key(), &frame), Ok((HEADER, sequence)));
        }
    }

    #[test]
    fn frame_needs_a_header_and_one_byte_of_packet() {
        let frame = sealed(&PACKET[..1]);
        assert_eq!(ForwardHeader::open(&key(), &frame), Ok((HEADER, SEQUENCE)));
        for end in 0..frame.len() {
            assert_eq!(
                ForwardHeader::open(&key(), &frame[..end]),
                Err(ForwardError::TooShort)
            );
        }
    }

    #[test]
    fn other_types_are_refused_before_the_tag_is_computed() {
        let mut frame = sealed(PACKET);
        for other in (0..=255).filter(|kind| *kind != TYPE_SESSION_1) {
            frame[0] = other;
            assert_eq!(
                ForwardHeader::open(&key(), &frame),
                Err(ForwardError::UnknownType(other))
            );
        }
    }

    #[test]
    fn each_flipped_bit_of_header_and_packet_head_is_seen() {
        let frame = sealed(PACKET);
        for bit in 8..(HEADER_BYTES + TAGGED_PACKET_BYTES) * 8 {
            let mut forged = frame.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                ForwardHeader::open(&key(), &forged),
                Err(ForwardError::BadTag),
                "bit {bit}"
            );
        }
    }

    #[test]
    fn rest_of_the_packet_is_left_to_quic() {
        let mut frame = sealed(PACKET);
        frame[HEADER_BYTES + TAGGED_PACKET_BYTES] ^= 1;
        assert_eq!(ForwardHeader::open(&key(), &frame), Ok((HEADER, SEQUENCE)));
    }

    #[test]
    fn key_of_another_link_does_not_open() {
        let other = LinkKey::new(&[1; 16]);
        assert_eq!(
            ForwardHeader::open(&other, &sealed(PACKET)),
            Err(ForwardError::BadTag)
        );
    }

    #[test]
    fn quic_packets_are_no_forward_frames() {
        assert!((0x00..0x40).all(|first| is_forward_frame(&[first])));
        assert!((0x40..=0xff).all(|first| !is_forward_frame(&[first])));
        assert!(!is_forward_frame(&[]));
    }

    #[test]
    fn key_is_not_printed() {
        assert_eq!(format!("{:?}", key()), "LinkKey(..)");
    }

    fn key() -> LinkKey {
        LinkKey::new(&[0; 16])
    }

    fn sealed(packet: &[u8]) -> Vec<u8> {
        [&HEADER.seal(&key(), SEQUENCE, packet)[..], packet].concat()
    }
}
