//! The local control socket: one conversation a connection, in the frames of a session's streams.

pub mod client;
pub mod report;

#[cfg(test)]
pub(crate) mod scripted;
