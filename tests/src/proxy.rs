//! A UDP proxy between a dialling node and the one that it dials: keeps what passes, loses and swaps some of it where it
//! is told to, and adds datagrams of the test.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often the proxy looks whether it has to end.
const LOOK: Duration = Duration::from_millis(100);
/// Datagrams that are kept for a direction.
const MAX_KEPT: usize = 4096;

/// Which way a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the dialling node to the one that listens.
    ToListener,
    /// Back.
    ToDialler,
}

/// See the module. Ends when dropped.
#[derive(Debug)]
pub struct UdpProxy {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    /// What the dialling node dials.
    front: UdpSocket,
    /// What the listening node sees.
    back: UdpSocket,
    listener: SocketAddr,
    dialler: Mutex<Option<SocketAddr>>,
    kept: Mutex<Vec<(Direction, Vec<u8>)>>,
    /// Of so many datagrams one is lost and one comes late; 0 for none.
    bad_one_in: AtomicU64,
    ends: AtomicBool,
}

impl UdpProxy {
    /// A proxy in front of `listener`.
    pub fn start(listener: SocketAddr) -> Self {
        let socket = || {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("the loopback has free ports");
            socket
                .set_read_timeout(Some(LOOK))
                .expect("a timeout above zero is legal");
            socket
        };
        let shared = Arc::new(Shared {
            front: socket(),
            back: socket(),
            listener,
            dialler: Mutex::default(),
            kept: Mutex::default(),
            bad_one_in: AtomicU64::new(0),
            ends: AtomicBool::new(false),
        });
        let threads = [Direction::ToListener, Direction::ToDialler]
            .map(|direction| {
                let shared = shared.clone();
                std::thread::spawn(move || shared.pass(direction))
            })
            .into();
        Self { shared, threads }
    }

    /// The address to dial.
    pub fn address(&self) -> SocketAddr {
        self.shared
            .front
            .local_addr()
            .expect("a bound socket has an address")
    }

    /// Datagrams that went this way and that `wanted` accepts, oldest first.
    pub fn kept(&self, direction: Direction, wanted: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
        let kept = self.shared.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter()
            .filter(|(way, datagram)| *way == direction && wanted(datagram))
            .map(|(_, datagram)| datagram.clone())
            .collect()
    }

    /// From here on loses one datagram of `count` in each direction, and passes another on after the one behind it.
    pub fn lose_one_in(&self, count: u64) {
        self.shared.bad_one_in.store(count, Ordering::Relaxed);
    }

    /// Sends a datagram as if it came from the node at the other end.
    pub fn inject(&self, direction: Direction, datagram: &[u8]) {
        self.shared.send(direction, datagram);
    }
}

impl Drop for UdpProxy {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that has panicked has failed the test by what it did not pass.
            let _panicked = thread.join();
        }
    }
}

impl Shared {
    fn pass(&self, direction: Direction) {
        let mut buffer = vec![0; 65536];
        let mut passed = 0_u64;
        let mut late: Option<Vec<u8>> = None;
        while !self.ends.load(Ordering::Relaxed) {
            let from = match direction {
                Direction::ToListener => &self.front,
                Direction::ToDialler => &self.back,
            };
            let Ok((length, sender)) = from.recv_from(&mut buffer) else {
                continue;
            };
            if direction == Direction::ToListener {
                *self.dialler.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
            }
            let datagram = &buffer[..length];
            self.keep(direction, datagram);
            passed += 1;
            match passed.checked_rem(self.bad_one_in.load(Ordering::Relaxed)) {
                Some(0) => continue,
                Some(1) => late = Some(datagram.to_vec()),
                _ => {
                    self.send(direction, datagram);
                    if let Some(late) = late.take() {
                        self.send(direction, &late);
                    }
                }
            }
        }
    }

    fn keep(&self, direction: Direction, datagram: &[u8]) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < MAX_KEPT {
            kept.push((direction, datagram.to_vec()));
        }
    }

    fn send(&self, direction: Direction, datagram: &[u8]) {
        let sent = match direction {
            Direction::ToListener => self.back.send_to(datagram, self.listener),
            Direction::ToDialler => {
                let dialler = *self.dialler.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(dialler) = dialler else { return };
                self.front.send_to(datagram, dialler)
            }
        };
        // UDP may lose any datagram; both ends repeat what matters.
        let _lost = sent;
    }
}
