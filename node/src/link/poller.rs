//! Waits until the socket can send: what the endpoint asks for after a send would have blocked.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use quinn::UdpPoller;

use super::socket::ForwardSocket;

type Wait = Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>;

/// One connection's wait; made anew after each time it is over.
pub(super) struct Writable {
    socket: Arc<ForwardSocket>,
    wait: Option<Wait>,
}

impl Writable {
    pub(super) fn new(socket: Arc<ForwardSocket>) -> Self {
        Self { socket, wait: None }
    }
}

impl UdpPoller for Writable {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = self.socket.clone();
        let wait = self
            .wait
            .get_or_insert_with(|| Box::pin(async move { socket.writable().await }));
        let result = wait.as_mut().poll(cx);
        if result.is_ready() {
            self.wait = None;
        }
        result
    }
}

impl fmt::Debug for Writable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Writable")
    }
}
