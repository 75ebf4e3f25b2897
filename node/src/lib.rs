//! A Workmesh node as a library: a program of ten lines makes a node with its own workers.
//!
//! [`main`] is the whole command line, for a node with other workers than the ones that ship. [`Node`] is a node within
//! another program: it joins the mesh with the identity of a data directory, and submits units from there.

mod node;
mod daemon;
pub mod config;
pub mod identity;
mod link;
#[cfg(feature = "jemalloc")]
mod memory;
mod mesh;
mod exec;
mod store;
mod unit;
pub mod control;
mod cli;

pub use bytes::Bytes;
pub use cli::main;
pub use config::Settings;
pub use node::{DurableEvents, Node, NodeError};
pub use unit::report;
pub use unit::{PayloadClosed, SubmittedUnit, UnitEvent, UnitEvents, UnitPayload, UnitRequest};
pub use workmesh_proto::wire::items::Piece;
pub use workmesh_proto::wire::query::Fault;
pub use workmesh_proto::wire::unit::{Eof, Kind, Outcome};
pub use workmesh_proto::{MeshName, NodeId, UnitId};
