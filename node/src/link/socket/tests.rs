//! Batches as the kernel hands them over, sorted by a socket between two neighbours.

use std::cell::Cell;

use workmesh_proto::wire::forward::LinkKey;
use workmesh_proto::wire::replay::REPLAY_WINDOW;

use super::super::table::LinkPath;
use super::super::transit::MAX_BATCH_SEGMENTS;
use super::*;

const HERE: NodeHash = NodeHash(1);
const FAR: NodeHash = NodeHash(2);
const SENDER: NodeHash = NodeHash(3);

#[tokio::test]
async fn packets_of_links_pass_unchanged() {
    let relay = Relay::new().await;
    let kept = relay.sort(&[&quic(1, 40), &quic(2, 40), &quic(3, 7)]);
    assert_eq!(
        kept,
        [
            (mapped_address(relay.neighbour), quic(1, 40)),
            (mapped_address(relay.neighbour), quic(2, 40)),
            (mapped_address(relay.neighbour), quic(3, 7))
        ]
    );
}

#[tokio::test]
async fn frames_for_this_node_come_without_their_headers() {
    let relay = Relay::new().await;
    let frames = [1, 2].map(|n| relay.arriving(HERE, SENDER, &quic(n, 40)));
    let last = relay.arriving(HERE, SENDER, &quic(3, 7));
    let kept = relay.sort(&[&frames[0], &frames[1], &last]);
    let source = virtual_address(SENDER);
    assert_eq!(
        kept,
        [(source, quic(1, 40)), (source, quic(2, 40)), (source, quic(3, 7))]
    );
}

#[tokio::test]
async fn frames_of_several_sources_are_all_kept() {
    let relay = Relay::new().await;
    let other = NodeHash(9);
    let frames = [
        relay.arriving(HERE, SENDER, &quic(1, 40)),
        relay.arriving(HERE, other, &quic(2, 40)),
        relay.arriving(HERE, SENDER, &quic(3, 40)),
    ];
    let kept = relay.sort(&frames.each_ref().map(Vec::as_slice));
    assert_eq!(
        kept,
        [
            (virtual_address(SENDER), quic(1, 40)),
            (virtual_address(SENDER), quic(3, 40)),
            (virtual_address(other), quic(2, 40)),
        ]
    );
}

#[tokio::test]
async fn transit_leaves_for_the_next_link_with_one_hop_less() {
    let relay = Relay::new().await;
    let frames = [
        relay.arriving(FAR, SENDER, &quic(1, 40)),
        relay.arriving(FAR, SENDER, &quic(2, 40)),
        relay.arriving(FAR, SENDER, &quic(3, 7)),
    ];
    assert_eq!(relay.sort(&frames.each_ref().map(Vec::as_slice)), []);
    let left = [quic(1, 40), quic(2, 40), quic(3, 7)].map(|packet| relay.leaving(&packet));
    assert_eq!(relay.received(), left);
    assert_eq!(relay.socket.counters.packets.get(), 3);
}

/// What is kept moves to the start of the buffer, over the bytes of transit that stood there.
#[tokio::test]
async fn transit_mixed_with_frames_for_this_node_arrives_unharmed() {
    let relay = Relay::new().await;
    let frames = [
        relay.arriving(FAR, SENDER, &quic(1, 40)),
        relay.arriving(HERE, SENDER, &quic(2, 40)),
        relay.arriving(FAR, SENDER, &quic(3, 40)),
        relay.arriving(FAR, SENDER, &quic(4, 40)),
        relay.arriving(HERE, SENDER, &quic(5, 40)),
        relay.arriving(FAR, SENDER, &quic(6, 7)),
    ];
    let kept = relay.sort(&frames.each_ref().map(Vec::as_slice));
    let source = virtual_address(SENDER);
    assert_eq!(kept, [(source, quic(2, 40)), (source, quic(5, 40))]);
    let left = [quic(1, 40), quic(3, 40), quic(4, 40), quic(6, 7)].map(|packet| relay.leaving(&packet));
    assert_eq!(relay.received(), left);
}

#[tokio::test]
async fn more_transit_than_one_system_call_takes_leaves_in_several() {
    let relay = Relay::new().await;
    let frames: Vec<_> = (0..=2 * MAX_BATCH_SEGMENTS)
        .map(|n| relay.arriving(FAR, SENDER, &quic(n as u8, 40)))
        .collect();
    relay.sort(&frames.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let left: Vec<_> = (0..=2 * MAX_BATCH_SEGMENTS)
        .map(|n| relay.leaving(&quic(n as u8, 40)))
        .collect();
    assert_eq!(relay.received(), left);
}

#[tokio::test]
async fn runs_that_fit_together_leave_together() {
    let relay = Relay::new().await;
    let run = |length: usize| Run::start(relay.next.local_addr().unwrap(), 0..length);
    let (frame, buffer) = (quic(1, 40), vec![7; 1400]);
    let state = &mut *relay.socket.state.lock();
    relay.socket.pass_on(state, &run(40), &frame, None);
    relay.socket.pass_on(state, &run(40), &frame, None);
    assert_eq!(relay.received(), Vec::<Vec<u8>>::new());
    relay
        .socket
        .pass_on(state, &run(40), &frame, Some(EcnCodepoint::Ect0));
    assert_eq!(relay.received(), [frame.clone(), frame.clone()], "another mark");
    relay.socket.pass_on(state, &run(1400), &buffer, None);
    assert_eq!(
        relay.received(),
        [frame, buffer],
        "a probe goes alone, in its turn"
    );
    assert!(state.gathered.is_empty());
}

#[tokio::test]
async fn transit_of_buffers_that_came_together_leaves_in_order() {
    let relay = Relay::new().await;
    let lengths = [[40, 40], [40, 40], [40, 7], [50, 50], [40, 40]];
    let frame = |n: usize, at: usize| quic((2 * n + at) as u8, lengths[n][at]);
    let mut buffers: Vec<_> = (0..lengths.len())
        .map(|n| {
            [0, 1]
                .map(|at| relay.arriving(FAR, SENDER, &frame(n, at)))
                .concat()
        })
        .collect();
    let mut metas: Vec<_> = buffers
        .iter()
        .zip(lengths)
        .map(|(buffer, [first, _])| RecvMeta {
            addr: relay.neighbour,
            len: buffer.len(),
            stride: first + HEADER_BYTES,
            ecn: None,
            dst_ip: None,
        })
        .collect();
    let mut slices: Vec<_> = buffers.iter_mut().map(|b| IoSliceMut::new(b)).collect();
    assert_eq!(relay.socket.sort_all(&mut slices, &mut metas, lengths.len()), 0);
    let left: Vec<_> = (0..lengths.len())
        .flat_map(|n| [0, 1].map(|at| relay.leaving(&frame(n, at))))
        .collect();
    assert_eq!(relay.received(), left);
    assert_eq!(relay.socket.counters.packets.get(), left.len() as u64);
    assert!(relay.socket.state.lock().gathered.is_empty());
}

#[tokio::test]
async fn frames_that_may_not_pass_are_dropped_and_counted() {
    let relay = Relay::new().await;
    let packet = quic(1, 40);
    let sealed = |header: &ForwardHeader| relay.sealed(header, &packet);
    let header = ForwardHeader {
        hops: HOP_LIMIT,
        destination: HERE,
        source: SENDER,
    };
    let other_key = LinkKey::new(&[9; 16]);
    let forged = [&header.seal(&other_key, 0, &packet)[..], &packet].concat();
    let spent = ForwardHeader {
        hops: 1,
        destination: FAR,
        ..header
    };
    let nowhere = ForwardHeader {
        destination: NodeHash(77),
        ..header
    };
    for (frame, reason) in [
        (forged, Drop::BadFrame),
        (sealed(&header)[..HEADER_BYTES].to_vec(), Drop::BadFrame),
        (sealed(&spent), Drop::HopLimit),
        (sealed(&nowhere), Drop::NoRoute),
    ] {
        let before = relay.socket.counters.dropped(reason);
        assert_eq!(relay.sort(&[&frame]), []);
        assert_eq!(relay.socket.counters.dropped(reason), 1 + before, "{reason:?}");
    }
    relay.socket.remove_link(LinkId(1));
    assert_eq!(relay.sort(&[&sealed(&header)]), []);
    assert_eq!(relay.socket.counters.dropped(Drop::UnknownLink), 1);
    assert_eq!(relay.received(), Vec::<Vec<u8>>::new());
}

/// No interface carries a virtual address: such a datagram is forged, and must not be taken for a session's.
#[tokio::test]
async fn a_datagram_from_a_virtual_address_is_dropped() {
    let relay = Relay::new().await;
    let kept = relay.sort_from(virtual_address(SENDER), &[&quic(1, 40)]);
    assert_eq!(kept, []);
    assert_eq!(relay.socket.counters.dropped(Drop::UnknownLink), 1);
}

#[tokio::test]
async fn a_sent_batch_is_wrapped_packet_by_packet() {
    let relay = Relay::new().await;
    let batch = [quic(1, 40), quic(2, 40), quic(3, 7)];
    relay.send(FAR, &batch.concat(), 40);
    let header = ForwardHeader {
        hops: HOP_LIMIT,
        destination: FAR,
        source: HERE,
    };
    let key = &relay.leaving_key;
    let wrapped = [0, 1, 2].map(|n| [&header.seal(key, n as u64, &batch[n])[..], &batch[n]].concat());
    assert_eq!(relay.received(), wrapped);
}

#[tokio::test]
async fn replayed_frames_are_dropped_and_counted() {
    let relay = Relay::new().await;
    let local = [1, 2, 3].map(|n| relay.arriving(HERE, SENDER, &quic(n, 40)));
    let transit = [4, 5].map(|n| relay.arriving(FAR, SENDER, &quic(n, 40)));
    let late = relay.arriving(HERE, SENDER, &quic(6, 40));
    let frames: Vec<_> = local.iter().chain(&transit).map(Vec::as_slice).collect();
    assert_eq!(relay.sort(&frames).len(), 3);
    assert_eq!(relay.received().len(), 2);

    assert_eq!(relay.sort(&frames), []);
    assert_eq!(relay.sort(&[&local[0], &late, &local[1], &transit[0]]).len(), 1);
    assert_eq!(relay.received(), Vec::<Vec<u8>>::new());
    assert_eq!(relay.socket.counters.dropped(Drop::Replayed), 5 + 3);
    assert_eq!(relay.socket.counters.dropped_in_all(), 5 + 3);
    let from = relay.socket.counters.offender(Drop::Replayed);
    assert_eq!(from, Some(relay.neighbour));
}

#[tokio::test]
async fn a_frame_that_comes_far_too_late_is_dropped() {
    let relay = Relay::new().await;
    let late = [1, 2].map(|n| relay.arriving(HERE, SENDER, &quic(n, 40)));
    relay.arriving_sequence.set(1 + REPLAY_WINDOW);
    let newest = relay.arriving(HERE, SENDER, &quic(3, 40));
    assert_eq!(relay.sort(&[&newest, &late[0], &late[1]]).len(), 2);
    assert_eq!(relay.socket.counters.dropped(Drop::Replayed), 1);
}

/// A forger who can't make tags must not be able to move the window, and so shut out what the neighbour sends.
#[tokio::test]
async fn forged_numbers_do_not_move_the_window() {
    let relay = Relay::new().await;
    let frame = relay.arriving(HERE, SENDER, &quic(1, 40));
    let mut forged = frame.clone();
    forged[18] = 0xff;
    assert_eq!(relay.sort(&[&forged, &frame]).len(), 1);
    assert_eq!(relay.socket.counters.dropped(Drop::BadFrame), 1);
    assert_eq!(relay.socket.counters.dropped(Drop::Replayed), 0);
}

#[tokio::test]
async fn a_packet_sent_again_has_a_number_of_its_own() {
    let relay = Relay::new().await;
    relay.send(FAR, &quic(1, 40), 40);
    let mut sent = relay.received();
    relay.socket.set_routes(NextHops::default());
    relay.socket.set_routes(NextHops::from_iter([(FAR, LinkId(2))]));
    sent.extend(relay.received());
    assert_eq!(sent.len(), 2);
    let mut receiver = LinkPath::new(
        relay.neighbour,
        LinkKeys {
            sending: relay.arriving_key.clone(),
            receiving: relay.leaving_key.clone(),
        },
    );
    assert!(sent.iter().all(|frame| receiver.open(frame).is_ok()));
}

#[tokio::test]
async fn the_last_packets_are_sent_again_when_the_route_changes() {
    let relay = Relay::new().await;
    relay.socket.set_routes(NextHops::default());
    relay.send(FAR, &quic(1, 40), 40);
    assert_eq!(relay.socket.counters.unroutable.get(), 1);
    assert_eq!(relay.received(), Vec::<Vec<u8>>::new());
    relay.socket.set_routes(NextHops::from_iter([(FAR, LinkId(2))]));
    assert_eq!(relay.received().len(), 1);
    assert_eq!(relay.socket.counters.resent.get(), 1);
}

#[tokio::test]
async fn transit_that_the_socket_refused_leaves_with_the_next_poll() {
    let relay = Relay::new().await;
    let frame = relay.leaving(&quic(1, 40));
    let waiting = Transmit {
        destination: relay.next.local_addr().unwrap(),
        ecn: None,
        contents: &frame,
        segment_size: None,
        src_ip: None,
    };
    assert!(relay.socket.state.lock().outbox.push(&waiting));
    std::future::poll_fn(|cx| {
        let (mut buffer, mut metas) = ([0; 2048], [RecvMeta::default()]);
        let polled = relay
            .socket
            .poll_recv(cx, &mut [IoSliceMut::new(&mut buffer)], &mut metas);
        assert!(polled.is_pending());
        Poll::Ready(())
    })
    .await;
    assert_eq!(relay.received(), [frame]);
}

/// A node with two links: to the neighbour that batches come from, and to the next hop towards [`FAR`].
struct Relay {
    socket: ForwardSocket,
    neighbour: SocketAddr,
    arriving_key: LinkKey,
    arriving_sequence: Cell<u64>,
    next: std::net::UdpSocket,
    leaving_key: LinkKey,
    leaving_sequence: Cell<u64>,
}

impl Relay {
    async fn new() -> Self {
        let bind = || std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let socket = ForwardSocket::new(bind(), HERE).unwrap();
        socket.writable().await.unwrap();
        let next = bind();
        next.set_nonblocking(true).unwrap();
        let keys = |n: u8| LinkKeys {
            sending: LinkKey::new(&[n; 16]),
            receiving: LinkKey::new(&[n + 1; 16]),
        };
        let neighbour = SocketAddr::from(([127, 0, 0, 1], 9));
        socket.add_link(LinkId(1), neighbour, keys(1));
        socket.add_link(LinkId(2), next.local_addr().unwrap(), keys(3));
        socket.set_routes(NextHops::from_iter([(FAR, LinkId(2))]));
        Self {
            socket,
            neighbour,
            arriving_key: keys(1).receiving,
            arriving_sequence: Cell::new(0),
            next,
            leaving_key: keys(3).sending,
            leaving_sequence: Cell::new(0),
        }
    }

    /// A frame as the neighbour sends it, with the number behind that of its last one.
    fn arriving(&self, destination: NodeHash, source: NodeHash, packet: &[u8]) -> Vec<u8> {
        let header = ForwardHeader {
            hops: HOP_LIMIT,
            destination,
            source,
        };
        self.sealed(&header, packet)
    }

    fn sealed(&self, header: &ForwardHeader, packet: &[u8]) -> Vec<u8> {
        let sequence = next(&self.arriving_sequence);
        [&header.seal(&self.arriving_key, sequence, packet)[..], packet].concat()
    }

    /// The frame of [`SENDER`] to [`FAR`] as this node passes it on, with the number behind that of the last one.
    fn leaving(&self, packet: &[u8]) -> Vec<u8> {
        let header = ForwardHeader {
            hops: HOP_LIMIT - 1,
            destination: FAR,
            source: SENDER,
        };
        let sequence = next(&self.leaving_sequence);
        [&header.seal(&self.leaving_key, sequence, packet)[..], packet].concat()
    }

    fn send(&self, node: NodeHash, contents: &[u8], segment_bytes: usize) {
        let transmit = Transmit {
            destination: virtual_address(node),
            ecn: None,
            contents,
            segment_size: Some(segment_bytes),
            src_ip: None,
        };
        self.socket.try_send(&transmit).unwrap();
    }

    fn sort(&self, segments: &[&[u8]]) -> Vec<(SocketAddr, Vec<u8>)> {
        self.sort_from(self.neighbour, segments)
    }

    /// What the endpoint gets of a batch: first what is left in its buffer, then what waits in the inbox.
    fn sort_from(&self, addr: SocketAddr, segments: &[&[u8]]) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut buffer = segments.concat();
        let meta = RecvMeta {
            addr,
            len: buffer.len(),
            stride: segments[0].len(),
            ecn: None,
            dst_ip: None,
        };
        let state = &mut *self.socket.state.lock();
        let mut all = Vec::new();
        if let Some(kept) = self.socket.sort(state, &meta, &mut buffer) {
            let packets = buffer[..kept.len].chunks(kept.stride);
            all.extend(packets.map(|packet| (kept.addr, packet.to_vec())));
        }
        self.socket.depart(state);
        let (mut buffer, mut metas) = ([0; 2048], [RecvMeta::default()]);
        while state.inbox.serve(&mut [IoSliceMut::new(&mut buffer)], &mut metas) > 0 {
            all.push((metas[0].addr, buffer[..metas[0].len].to_vec()));
        }
        all
    }

    /// The datagrams that have reached the next hop.
    fn received(&self) -> Vec<Vec<u8>> {
        let mut buffer = [0; 2048];
        std::iter::from_fn(|| {
            self.next
                .recv(&mut buffer)
                .ok()
                .map(|length| buffer[..length].to_vec())
        })
        .collect()
    }
}

fn next(sequence: &Cell<u64>) -> u64 {
    sequence.replace(sequence.get() + 1)
}

/// A packet with QUIC's fixed bit.
fn quic(number: u8, length: usize) -> Vec<u8> {
    let mut packet = vec![number; length];
    packet[0] = 0x40;
    packet
}
