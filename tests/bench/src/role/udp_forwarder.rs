//! The floor of a relay: passes UDP packets both ways without looking into them.
//!
//! One socket. What comes from the far side goes to whoever last sent from the near side; what comes from anyone else goes
//! to the far side. Packets that arrived in one receive leave in one send (GRO in, GSO out), ECN bits kept.

use std::io::IoSliceMut;
use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use quinn::udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::settings;

/// The most bytes one receive can yield.
const RECEIVE_BYTES: usize = 64 * 1024;

/// The arguments of this role.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The far side: the answering end, or the next forwarder before it.
    #[arg(long)]
    to: SocketAddr,
}

/// Listens, says where, and forwards until stdin ends.
pub(crate) async fn run(args: Args) -> Result<()> {
    let mut forwarder = Forwarder::new(settings::loopback_socket()?, args.to)?;
    super::say_ready(forwarder.socket.local_addr().context("read the own address")?)?;
    super::until_stdin_ends(forwarder.run()).await
}

struct Forwarder {
    socket: UdpSocket,
    state: UdpSocketState,
    far: SocketAddr,
    near: Option<SocketAddr>,
    buffers: Vec<Vec<u8>>,
    metas: [RecvMeta; BATCH_SIZE],
}

impl Forwarder {
    fn new(socket: std::net::UdpSocket, far: SocketAddr) -> Result<Self> {
        let state = UdpSocketState::new((&socket).into()).context("prepare the socket")?;
        Ok(Self {
            socket: UdpSocket::from_std(socket).context("watch the socket")?,
            state,
            far,
            near: None,
            buffers: vec![vec![0; RECEIVE_BYTES]; BATCH_SIZE],
            metas: [RecvMeta::default(); BATCH_SIZE],
        })
    }

    async fn run(&mut self) -> Result<()> {
        loop {
            let received = self.receive().await.context("receive")?;
            for index in 0..received {
                self.forward(index).await.context("forward")?;
            }
        }
    }

    /// The number of buffers filled.
    async fn receive(&mut self) -> std::io::Result<usize> {
        let mut slices = self.buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer));
        let mut slices: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| slices.next().expect("there are BATCH_SIZE buffers"));
        self.socket
            .async_io(Interest::READABLE, || {
                self.state
                    .recv((&self.socket).into(), &mut slices, &mut self.metas)
            })
            .await
    }

    /// Waits while the socket would block: the packets behind wait in its receive buffer, and are lost where that is full.
    async fn forward(&mut self, index: usize) -> std::io::Result<()> {
        let meta = self.metas[index];
        let destination = if meta.addr == self.far {
            match self.near {
                Some(near) => near,
                None => return Ok(()),
            }
        } else {
            self.near = Some(meta.addr);
            self.far
        };
        let most_bytes = meta.stride.saturating_mul(self.state.max_gso_segments()).max(1);
        for contents in self.buffers[index][..meta.len].chunks(most_bytes) {
            let transmit = Transmit {
                destination,
                ecn: meta.ecn,
                contents,
                segment_size: (contents.len() > meta.stride).then_some(meta.stride),
                src_ip: None,
            };
            self.socket
                .async_io(Interest::WRITABLE, || {
                    self.state.try_send((&self.socket).into(), &transmit)
                })
                .await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn packets_pass_both_ways_with_their_borders() {
        let far = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let near = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut forwarder =
            Forwarder::new(settings::loopback_socket().unwrap(), far.local_addr().unwrap()).unwrap();
        let between = forwarder.socket.local_addr().unwrap();

        let exchange = async {
            let mut buffer = [0; 2048];
            for length in [1200, 1200, 7] {
                near.send_to(&vec![1; length], between).await.unwrap();
            }
            for length in [1200, 1200, 7] {
                assert_eq!(far.recv_from(&mut buffer).await.unwrap(), (length, between));
            }
            far.send_to(b"back", between).await.unwrap();
            assert_eq!(near.recv_from(&mut buffer).await.unwrap(), (4, between));
            assert_eq!(&buffer[..4], b"back");
        };
        tokio::select! {
            () = exchange => {}
            outcome = forwarder.run() => outcome.unwrap(),
        }
    }

    #[tokio::test]
    async fn a_packet_from_the_far_side_goes_nowhere_before_the_near_side_is_known() {
        let far = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut forwarder =
            Forwarder::new(settings::loopback_socket().unwrap(), far.local_addr().unwrap()).unwrap();
        far.send_to(b"early", forwarder.socket.local_addr().unwrap())
            .await
            .unwrap();
        let received = forwarder.receive().await.unwrap();
        assert_eq!(received, 1);
        forwarder.forward(0).await.unwrap();
        assert_eq!(forwarder.near, None);
    }
}
