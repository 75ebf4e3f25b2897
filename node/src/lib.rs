//! A Workmesh node as a library: a program of ten lines makes a node with its own workers.

mod cli;
pub mod config;
pub mod control;
mod daemon;
mod exec;
pub mod identity;
mod link;
mod mesh;
mod node;
mod unit;

pub use cli::main;
