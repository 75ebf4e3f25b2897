//! Tests of real node processes, and the checks on the shape of the sources.

mod submit;
mod errors;
mod payloads;
mod pool;
mod reroute;
mod membership;
mod identity;
mod frames;
mod commands;
mod documents;
mod netns;
mod tidy;
