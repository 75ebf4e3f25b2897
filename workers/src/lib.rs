//! The workers that ship with the node, one file a module; each is a model to copy.
//!
//! A program links them with `use workmesh_workers as _;`: each function registers itself.
//! Nothing else is exported, and no worker calls another.

mod digest;
mod echo;
mod http;
mod sleep;
mod sys;
mod text;
mod zstd;
