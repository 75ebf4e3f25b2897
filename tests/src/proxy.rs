//! A UDP proxy between a dialling node and the one that it dials: keeps what passes, loses, swaps, delays or cuts it where it
//! is told to, and adds datagrams of the test.

use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the proxy looks whether it has to end.
const LOOK: Duration = Duration::from_millis(100);
/// The shortest wait for a datagram that is due.
const MIN_WAIT: Duration = Duration::from_micros(100);
/// Datagrams that are kept for a direction.
const MAX_KEPT: usize = 4096;
/// Datagrams of a direction that wait because of a delay; what comes beyond is lost.
const MAX_DELAYED: usize = 4096;

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
    /// Whether nothing passes.
    cut: AtomicBool,
    /// How much later each datagram comes out, in milliseconds.
    delay_ms: AtomicU64,
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
            cut: AtomicBool::new(false),
            delay_ms: AtomicU64::new(0),
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

    /// From here on loses every datagram, those that are delayed too.
    pub fn cut(&self) {
        self.shared.cut.store(true, Ordering::Relaxed);
    }

    /// Passes datagrams on again.
    pub fn mend(&self) {
        self.shared.cut.store(false, Ordering::Relaxed);
    }

    /// From here on passes each datagram on so much later; zero ends it.
    pub fn delay(&self, delay: Duration) {
        let delay_ms = delay.as_millis().try_into().unwrap_or(u64::MAX);
        self.shared.delay_ms.store(delay_ms, Ordering::Relaxed);
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
        let mut delayed: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
        let from = match direction {
            Direction::ToListener => &self.front,
            Direction::ToDialler => &self.back,
        };
        let mut timeout = LOOK;
        while !self.ends.load(Ordering::Relaxed) {
            while let Some((_, datagram)) = delayed.pop_front_if(|(due, _)| *due <= Instant::now()) {
                self.send(direction, &datagram);
            }
            let wanted = delayed.front().map_or(LOOK, |(due, _)| {
                due.saturating_duration_since(Instant::now())
                    .clamp(MIN_WAIT, LOOK)
            });
            if wanted != timeout {
                timeout = wanted;
                from.set_read_timeout(Some(timeout))
                    .expect("a timeout above zero is legal");
            }
            let Ok((length, sender)) = from.recv_from(&mut buffer) else {
                continue;
            };
            if direction == Direction::ToListener {
                *self.dialler.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
            }
            let datagram = &buffer[..length];
            if self.cut.load(Ordering::Relaxed) {
                delayed.clear();
                continue;
            }
            self.keep(direction, datagram);
            let delay_ms = self.delay_ms.load(Ordering::Relaxed);
            if delay_ms > 0 {
                if delayed.len() < MAX_DELAYED {
                    let due = Instant::now() + Duration::from_millis(delay_ms);
                    delayed.push_back((due, datagram.to_vec()));
                }
                continue;
            }
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
