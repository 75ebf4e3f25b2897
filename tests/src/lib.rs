//! Meshes of real `node` processes for tests: made in a temporary directory, watched by their logs, gone when dropped.
//!
//! Used by the test binary `it`, and by the program `workmesh-chaos`. Nothing here asserts on the product or measures time: a limit only turns a hang
//! into a failure that shows what every node has logged.

mod programs;
mod command;
mod log;
mod process;
mod mesh;
mod memory;
mod pattern;
mod proxy;
mod namespaces;
mod tmpfs;

pub use command::{Finished, Running, Stdin, feed};
pub use log::Log;
pub use memory::Memory;
pub use mesh::{Spec, TestMesh, wait_until};
pub use namespaces::{Cable, Namespaces, may_make_namespaces};
pub use pattern::Pattern;
pub use process::NodeProcess;
pub use programs::{node_program, own_node_program, repository};
pub use proxy::{Direction, UdpProxy};
pub use tmpfs::{Tmpfs, may_mount};

use std::time::Duration;

/// How long anything may take before a test fails: far above what a slow machine needs.
pub const LIMIT: Duration = Duration::from_secs(120);
