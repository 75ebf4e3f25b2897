//! The local control socket: one conversation a connection, in the frames of a session's streams.

pub mod client;
mod server;
mod stream;
mod unit;
mod status;
mod work;
#[cfg(test)]
pub(crate) mod scripted;

pub(crate) use server::{Control, ControlSocket};
pub(crate) use status::StatusSource;
