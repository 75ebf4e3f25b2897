//! The `#[worker]` attribute of `worker-api`, which re-exports and documents it.
//! Reads the function, writes its registration; knows nothing of nodes.

mod expand;
mod options;
mod signature;

use proc_macro::TokenStream;

/// Registers a function as a worker.
///
/// The function's parameters are the payload, then `cx: &Context` if it is needed, then `out: &mut Responder` if it
/// is needed. The payload's type chooses how the payload is delivered: `Bytes`, `Buffer`, `PayloadFile`, `Json<T>`,
/// `Cbor<T>`, `()` or a type of your own that implements `FromPayload`. The function returns `Result<()>`, or one
/// response: `Result<Json<T>>`, `Result<Cbor<T>>`, `Result<Bytes>`, `Result<String>`. Its error may be any type that
/// converts to `worker_api::Error`. The first paragraph of its doc comment is the description that the node shows.
/// The function itself stays as it is and can be called.
///
/// Options, each at most once:
///
/// - `version = "1.2.3"`: the worker's version; the version of your package if absent.
/// - `idempotent`: running a unit twice does no harm, so the mesh may run it again when its node is lost.
/// - `max_concurrent = 4`: how many units of this worker may run at once on a node.
/// - `max_payload = "64MiB"`: the largest payload; a number of bytes, or a text with `kB`, `MB`, `GB`, `KiB`, `MiB`, `GiB`.
#[proc_macro_attribute]
pub fn worker(options: TokenStream, function: TokenStream) -> TokenStream {
    expand::worker(options.into(), function.into()).into()
}
