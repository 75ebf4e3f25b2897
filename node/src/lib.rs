//! Placeholder.

pub mod exec;
