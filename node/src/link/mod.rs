//! The only place that names QUIC and TLS: the endpoint, its certificates' checks, links, sessions and their streams,
//! and the socket that forwards.

mod counters;
mod endpoint;
mod error;
mod poller;
mod queue;
mod settings;
mod socket;
mod stream;
mod table;
mod tls;
mod transit;

pub(crate) use counters::{DROPS, ForwardCounters};
pub(crate) use endpoint::{
    Accepted, Endpoint, EndpointSettings, Handshake, LinkConnection, LinkHandle, SessionConnection,
};
pub(crate) use error::LinkError;
pub(crate) use socket::{ForwardSocket, plain_address};
pub(crate) use stream::{FrameReceiver, FrameSender};
pub(crate) use table::LinkKeys;
