//! Small durable units that one origin offers to one executor in the same moment share a conversation, in which each has a number.
//!
//! A stream of its own costs a small unit more than what is said on it. The origin decides which units go together ([`offer`]); their
//! executor takes each as if it had come alone, and tells all of it once it is over ([`answer`]). One that is not over in a moment is only
//! accepted there: its origin goes on as after a conversation that broke, and asks for what it sends.

mod answer;
mod offer;

pub(super) use offer::{Batches, Part, Reply, is_small};

use super::brief;
use workmesh_proto::wire::batch::{MAX_BATCHED_PIECES, MAX_BATCHED_RESPONSE_BYTES};

// What may be told of a unit that is over fits into a batch.
const _: () =
    assert!(brief::MAX_BYTES <= MAX_BATCHED_RESPONSE_BYTES && brief::MAX_ITEMS <= MAX_BATCHED_PIECES);
