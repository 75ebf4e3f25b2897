//! The local control socket: one conversation a connection, in the frames of a session's streams.

pub mod client;
pub mod report;
mod server;
mod status;
mod stream;
mod unit;

pub(crate) use server::{Control, ControlSocket, SocketError};
pub(crate) use status::StatusSource;
