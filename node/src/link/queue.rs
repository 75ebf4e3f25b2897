//! The socket's two small queues: segments that wait for the endpoint, and transit that waits for a blocked socket.

use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::net::SocketAddr;

use bytes::Bytes;
use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};

/// Segments that may wait for the endpoint; further ones are lost, and QUIC sends them again.
const MAX_INBOX_SEGMENTS: usize = 1024;
/// Bytes of transit that may wait for the socket; further ones are lost, and QUIC sends them again.
const MAX_OUTBOX_BYTES: usize = 1024 * 1024;

/// Segments for the endpoint that did not fit into the buffer they arrived in.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    segments: VecDeque<(SocketAddr, Option<EcnCodepoint>, Bytes)>,
}

impl Inbox {
    /// Takes a copy of a segment; false if there is no room.
    pub(super) fn push(&mut self, source: SocketAddr, ecn: Option<EcnCodepoint>, segment: &[u8]) -> bool {
        let fits = self.segments.len() < MAX_INBOX_SEGMENTS;
        if fits {
            self.segments
                .push_back((source, ecn, Bytes::copy_from_slice(segment)));
        }
        fits
    }

    /// Fills the endpoint's buffers, one segment each; says how many.
    pub(super) fn serve(&mut self, bufs: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) -> usize {
        let mut served = 0;
        for (buf, meta) in bufs.iter_mut().zip(metas) {
            let Some((addr, ecn, segment)) = self.segments.pop_front() else {
                break;
            };
            let len = segment.len().min(buf.len());
            buf[..len].copy_from_slice(&segment[..len]);
            *meta = RecvMeta {
                addr,
                len,
                stride: len,
                ecn,
                dst_ip: None,
            };
            served += 1;
        }
        served
    }
}

/// Transit that the socket would not take at once.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    batches: VecDeque<Batch>,
    bytes: usize,
}

#[derive(Debug)]
struct Batch {
    destination: SocketAddr,
    ecn: Option<EcnCodepoint>,
    contents: Bytes,
    segment_size: Option<usize>,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Takes a copy of a batch; false if there is no room.
    pub(super) fn push(&mut self, transmit: &Transmit<'_>) -> bool {
        if self.bytes + transmit.contents.len() > MAX_OUTBOX_BYTES {
            return false;
        }
        self.bytes += transmit.contents.len();
        self.batches.push_back(Batch {
            destination: transmit.destination,
            ecn: transmit.ecn,
            contents: Bytes::copy_from_slice(transmit.contents),
            segment_size: transmit.segment_size,
        });
        true
    }

    pub(super) fn front(&self) -> Option<Transmit<'_>> {
        self.batches.front().map(|batch| Transmit {
            destination: batch.destination,
            ecn: batch.ecn,
            contents: &batch.contents,
            segment_size: batch.segment_size,
            src_ip: None,
        })
    }

    pub(super) fn pop(&mut self) {
        if let Some(batch) = self.batches.pop_front() {
            self.bytes -= batch.contents.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transmit(contents: &[u8]) -> Transmit<'_> {
        let destination = SocketAddr::from(([127, 0, 0, 1], 1));
        Transmit {
            destination,
            ecn: None,
            contents,
            segment_size: None,
            src_ip: None,
        }
    }

    #[test]
    fn outbox_is_bounded_and_makes_room_again() {
        let half = vec![0; MAX_OUTBOX_BYTES / 2];
        let mut outbox = Outbox::default();
        assert!(outbox.push(&transmit(&half)) && outbox.push(&transmit(&half)));
        assert!(!outbox.push(&transmit(&[0])));
        outbox.pop();
        assert!(outbox.push(&transmit(&[0])));
    }

    #[test]
    fn inbox_is_bounded_and_serves_in_order() {
        let mut inbox = Inbox::default();
        for number in 0..=MAX_INBOX_SEGMENTS {
            inbox.push(
                SocketAddr::from(([127, 0, 0, 1], 1)),
                None,
                &(number as u32).to_be_bytes(),
            );
        }
        let (mut a, mut b) = ([0; 8], [0; 8]);
        let mut metas = [RecvMeta::default(); 2];
        let mut bufs = [IoSliceMut::new(&mut a), IoSliceMut::new(&mut b)];
        let mut served = 0;
        loop {
            match inbox.serve(&mut bufs, &mut metas) {
                0 => break,
                some => served += some,
            }
        }
        assert_eq!(served, MAX_INBOX_SEGMENTS);
        assert_eq!(bufs[1][..4], (MAX_INBOX_SEGMENTS as u32 - 1).to_be_bytes());
    }
}
