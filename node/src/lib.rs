//! A Workmesh node as a library: a program of ten lines makes a node with its own workers.

pub mod control;
pub mod identity;
