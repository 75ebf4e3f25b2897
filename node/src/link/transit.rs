//! Transit on its way through the socket: runs of segments that stand side by side, and runs put together, because a system call and
//! everything the kernel does for it cost far more than the copy that saves them.

use std::net::SocketAddr;
use std::ops::Range;

use quinn::udp::{EcnCodepoint, Transmit};
use workmesh_proto::wire::forward::HEADER_BYTES;

use super::settings::MIN_DATAGRAM_BYTES;

/// How much one system call may send with segmentation offload: the largest UDP payload over IPv4.
const MAX_BATCH_BYTES: usize = 65_507;
/// How many segments one system call may send with segmentation offload.
pub(super) const MAX_BATCH_SEGMENTS: usize = 64;

/// The most bytes that one system call may send in segments of this size, if it may send so many of them.
pub(super) fn batch_bytes(segment_bytes: usize, offload_segments: usize) -> usize {
    let segments = offload_segments.clamp(1, MAX_BATCH_SEGMENTS);
    let fitting = (MAX_BATCH_BYTES / segment_bytes).max(1);
    segments.min(fitting) * segment_bytes
}

/// A run of transit segments of one size to one next hop, side by side in a buffer. Only its last may be shorter.
#[derive(Default)]
pub(super) struct Run {
    pub(super) next: Option<SocketAddr>,
    pub(super) bytes: Range<usize>,
    pub(super) segment_bytes: usize,
}

impl Run {
    pub(super) fn start(next: SocketAddr, segment: Range<usize>) -> Self {
        Self {
            next: Some(next),
            segment_bytes: segment.len(),
            bytes: segment,
        }
    }

    /// Whether it may be a probe for a larger datagram: put together with others it would be an error of them all.
    pub(super) fn may_be_probe(&self) -> bool {
        self.bytes.len() == self.segment_bytes
            && self.segment_bytes > usize::from(MIN_DATAGRAM_BYTES) + HEADER_BYTES
    }

    /// Whether the segment behind this run may be sent with it.
    pub(super) fn joins(&self, next: SocketAddr, segment_bytes: usize) -> bool {
        self.next == Some(next)
            && segment_bytes <= self.segment_bytes
            && self.bytes.len().is_multiple_of(self.segment_bytes)
    }
}

/// Runs from several received buffers that leave as one batch.
#[derive(Default)]
pub(super) struct Gathered {
    next: Option<SocketAddr>,
    ecn: Option<EcnCodepoint>,
    segment_bytes: usize,
    contents: Vec<u8>,
}

impl Gathered {
    pub(super) fn is_empty(&self) -> bool {
        self.contents.is_empty()
    }

    /// Whether a run may be sent with what is here, in a batch of at most `most` bytes.
    pub(super) fn joins(
        &self,
        next: SocketAddr,
        ecn: Option<EcnCodepoint>,
        segment_bytes: usize,
        run_bytes: usize,
        most: usize,
    ) -> bool {
        self.next == Some(next)
            && self.ecn == ecn
            && segment_bytes == self.segment_bytes
            && self.contents.len().is_multiple_of(self.segment_bytes)
            && self.contents.len() + run_bytes <= most
    }

    /// Takes a copy of a run.
    pub(super) fn push(&mut self, run: &Run, ecn: Option<EcnCodepoint>, contents: &[u8]) {
        (self.next, self.ecn, self.segment_bytes) = (run.next, ecn, run.segment_bytes);
        self.contents.extend_from_slice(contents);
    }

    /// Hands out the batch that is here, and is empty then.
    pub(super) fn send(&mut self, send: impl FnOnce(&Transmit<'_>, usize)) {
        if let Some(destination) = self.next.take() {
            let contents = self.contents.as_slice();
            let transmit = Transmit {
                destination,
                ecn: self.ecn,
                contents,
                segment_size: (contents.len() > self.segment_bytes).then_some(self.segment_bytes),
                src_ip: None,
            };
            send(&transmit, self.segment_bytes);
            self.contents.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn gathered(runs: &[&[u8]]) -> Gathered {
        let mut gathered = Gathered::default();
        for run in runs {
            gathered.push(&Run::start(hop(1), 0..4), None, run);
        }
        gathered
    }

    #[test]
    fn a_batch_is_whole_segments_and_never_too_long() {
        assert_eq!(batch_bytes(1452, 64), 45 * 1452);
        assert_eq!(batch_bytes(40, 64), 64 * 40);
        assert_eq!(batch_bytes(40, 1000), 64 * 40);
        assert_eq!(batch_bytes(1452, 1), 1452);
        assert_eq!(batch_bytes(65_507, 64), 65_507);
    }

    #[test]
    fn only_whole_segments_of_one_size_one_hop_and_one_mark_go_together() {
        let two = gathered(&[&[0; 4], &[0; 4]]);
        assert!(two.joins(hop(1), None, 4, 4, 12));
        assert!(!two.joins(hop(1), None, 4, 4, 11));
        assert!(!two.joins(hop(2), None, 4, 4, 12));
        assert!(!two.joins(hop(1), Some(EcnCodepoint::Ce), 4, 4, 12));
        assert!(!two.joins(hop(1), None, 3, 3, 12));
        assert!(!gathered(&[&[0; 4], &[0; 3]]).joins(hop(1), None, 4, 4, 12));
    }

    #[test]
    fn only_a_long_segment_by_itself_may_be_a_probe() {
        let common = usize::from(MIN_DATAGRAM_BYTES) + HEADER_BYTES;
        assert!(!Run::start(hop(1), 0..common).may_be_probe());
        let mut run = Run::start(hop(1), 5..5 + common + 1);
        assert!(run.may_be_probe());
        run.bytes.end += 7;
        assert!(!run.may_be_probe());
    }

    #[test]
    fn what_was_gathered_leaves_once() {
        let mut two = gathered(&[&[1; 4], &[2; 3]]);
        let mut sent = Vec::new();
        two.send(|transmit, segment_bytes| sent.push((transmit.contents.to_vec(), segment_bytes)));
        two.send(|transmit, segment_bytes| sent.push((transmit.contents.to_vec(), segment_bytes)));
        assert_eq!(sent, [(vec![1, 1, 1, 1, 2, 2, 2], 4)]);
        assert!(two.is_empty());
    }
}
