//! The executor as its callers see it.
