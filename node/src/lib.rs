//! A Workmesh node as a library: a program of ten lines makes a node with its own workers.

mod cli;
pub mod control;

pub use cli::main;
