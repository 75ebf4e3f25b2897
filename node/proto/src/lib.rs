//! The core of Workmesh without a socket: what goes over the wire, who can reach whom, how a unit lives and ends.
//!
//! No clock, socket, file, thread or randomness of its own: time comes in as `now`, inputs by `handle_*`,
//! outputs leave by `poll_*`. The same code runs in simulation and in production.

pub mod id;
pub mod wire;

pub mod lsdb;
pub mod spf;

pub mod routes;

pub mod mesh;

pub mod unit;

pub mod record;

pub use id::{Cost, Incarnation, LinkId, MeshName, NodeHash, NodeId, NodeIdError, UnitId};
