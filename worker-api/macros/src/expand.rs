//! Writes the function back, and behind it a `WorkerEntry` that is registered at start.

use proc_macro_crate::{FoundCrate, crate_name};
use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Error, Ident, ItemFn, Result};

use crate::options::Options;
use crate::signature::Signature;

/// The function and its registration, or the function and an error.
pub(crate) fn worker(options: TokenStream, function: TokenStream) -> TokenStream {
    let registration = register(options, function.clone()).unwrap_or_else(Error::into_compile_error);
    quote! { #function #registration }
}

fn register(options: TokenStream, function: TokenStream) -> Result<TokenStream> {
    let options: Options = syn::parse2(options)?;
    let span = function.span();
    let function: ItemFn = syn::parse2(function).map_err(|_| {
        Error::new(
            span,
            "#[worker] stands on a function: fn name(payload: Bytes) -> Result<()>",
        )
    })?;
    let signature = Signature::of(&function)?;
    Ok(entry(&options, &signature, &api()?))
}

fn entry(options: &Options, signature: &Signature, api: &TokenStream) -> TokenStream {
    let Signature {
        name,
        payload: payload_type,
        output,
        description,
        ..
    } = signature;
    let directive = &options.directive;
    let idempotent = options.idempotent;
    let version = match &options.version {
        Some(version) => quote! { #version },
        None => quote! { ::core::env!("CARGO_PKG_VERSION") },
    };
    let max_concurrent = optional(options.max_concurrent);
    let max_payload_bytes = optional(options.max_payload_bytes);
    let [cx, out, payload, returned] =
        ["cx", "out", "payload", "returned"].map(|name| Ident::new(name, Span::mixed_site()));
    let context = signature.takes_context.then(|| quote! { , #cx });
    let responder = signature.takes_responder.then(|| quote! { , &mut *#out });
    let check = quote_spanned! { directive.span() => #api::__private::assert_directive(#directive) };
    let kind = quote_spanned! { payload_type.span() => <#payload_type as #api::FromPayload>::KIND };
    let take = quote_spanned! { payload_type.span() => <#payload_type as #api::FromPayload>::from_payload };
    let conclude = quote_spanned! { output.span() => <#output as #api::WorkerResult>::conclude };
    quote! {
        const _: () = {
            const _: () = #check;
            fn __worker_entry_point(
                #payload: #api::Payload,
                #cx: &#api::Context,
                #out: &mut #api::Responder,
            ) -> #api::Result<()> {
                let _ = #cx;
                let #payload = #take(#payload)?;
                let #returned = #name(#payload #context #responder);
                #conclude(#returned, #out)
            }
            #api::__private::inventory::submit! {
                #api::WorkerEntry {
                    directive: #directive,
                    kind: #kind,
                    version: #version,
                    idempotent: #idempotent,
                    description: #description,
                    limits: #api::Limits {
                        max_concurrent: #max_concurrent,
                        max_payload_bytes: #max_payload_bytes,
                    },
                    location: #api::Location { file: ::core::file!(), line: ::core::line!() },
                    run: __worker_entry_point,
                }
            }
        };
    }
}

fn optional<T: quote::ToTokens>(value: Option<T>) -> TokenStream {
    match value {
        Some(value) => quote! { ::core::option::Option::Some(#value) },
        None => quote! { ::core::option::Option::None },
    }
}

/// The path of `worker-api` in the crate that uses the attribute, which may have renamed it.
/// `worker-api` itself names itself so that its own tests can use the attribute.
fn api() -> Result<TokenStream> {
    match crate_name("worker-api") {
        Ok(FoundCrate::Itself) => Ok(quote! { ::worker_api }),
        Ok(FoundCrate::Name(name)) => {
            let name = format_ident!("{name}");
            Ok(quote! { ::#name })
        }
        Err(_) => Err(Error::new(
            Span::call_site(),
            "#[worker] needs the package worker-api: name it under [dependencies] in this package's Cargo.toml",
        )),
    }
}
