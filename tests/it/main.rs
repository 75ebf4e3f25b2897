//! Tests of real node processes, and the checks on the shape of the sources.

#![expect(clippy::unwrap_used, reason = "what is not as expected fails the test")]

mod submit;
mod errors;
mod payloads;
mod pool;
mod drain;
mod reroute;
mod durable;
mod membership;
mod identity;
mod frames;
mod commands;
mod documents;
mod netns;
mod crates;
mod tidy;
