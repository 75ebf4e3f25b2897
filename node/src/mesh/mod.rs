//! This node's place in the mesh: the task around the mesh machine, the dialling of neighbours, and the sessions to
//! nodes anywhere.

mod acceptor;
mod dialer;
mod driver;
mod links;
mod refusals;
mod drops;
mod sessions;

pub(crate) use acceptor::accept_peers;
pub(crate) use dialer::{DialState, Dialer};
pub(crate) use driver::{Driver, MeshHandle};
pub(crate) use sessions::{Conversation, InUse, SessionError, Sessions};
