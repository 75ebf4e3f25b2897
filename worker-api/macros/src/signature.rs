//! The function under the attribute: which parameters it takes, and what is wrong with it.

use syn::spanned::Spanned;
use syn::{Error, Expr, FnArg, Ident, ItemFn, Lit, Meta, Result, ReturnType, Safety, Type};

const PARAMETERS: &str = "the parameters of a worker are the payload, then `cx: &Context`, then `out: &mut Responder`; the last two are optional";

/// What the registration has to know of a function.
pub(crate) struct Signature {
    pub(crate) name: Ident,
    pub(crate) payload: Type,
    pub(crate) takes_context: bool,
    pub(crate) takes_responder: bool,
    pub(crate) output: Type,
    pub(crate) description: String,
}

impl Signature {
    /// Reads a function; the error names each thing that is wrong with it.
    pub(crate) fn of(function: &ItemFn) -> Result<Self> {
        check_form(function)?;
        let ReturnType::Type(_, output) = &function.sig.output else {
            return Err(Error::new(
                function.sig.paren_token.span.close(),
                "a worker returns a Result: add `-> worker_api::Result<()>`, or `-> worker_api::Result<Json<T>>` to \
                 send one response",
            ));
        };
        let mut parameters = function.sig.inputs.iter().map(typed);
        let Some(payload) = parameters.next().transpose()? else {
            return Err(Error::new(
                function.sig.paren_token.span.join(),
                format!("a worker takes its payload; if it needs none, write `_: ()`; {PARAMETERS}"),
            ));
        };
        check_payload(payload)?;
        let mut signature = Self {
            name: function.sig.ident.clone(),
            payload: payload.clone(),
            takes_context: false,
            takes_responder: false,
            output: (**output).clone(),
            description: description(function),
        };
        for parameter in parameters {
            signature.add(parameter?)?;
        }
        Ok(signature)
    }

    fn add(&mut self, parameter: &Type) -> Result<()> {
        match parameter {
            Type::Reference(reference) if reference.mutability.is_some() && !self.takes_responder => {
                self.takes_responder = true;
            }
            Type::Reference(reference)
                if reference.mutability.is_none() && !self.takes_context && !self.takes_responder =>
            {
                self.takes_context = true;
            }
            _ => return Err(Error::new(parameter.span(), PARAMETERS)),
        }
        Ok(())
    }
}

fn check_form(function: &ItemFn) -> Result<()> {
    let sig = &function.sig;
    if let Some(asyncness) = &sig.asyncness {
        let help = "a worker is a blocking function on a thread of its own: remove `async`";
        return Err(Error::new(asyncness.span(), help));
    }
    if let Safety::Unsafe(token) = &sig.safety {
        return Err(Error::new(
            token.span(),
            "a worker is a safe function: remove `unsafe`",
        ));
    }
    if let Some(abi) = &sig.abi {
        return Err(Error::new(
            abi.span(),
            "a worker is an ordinary function: remove `extern`",
        ));
    }
    if !sig.generics.params.is_empty() || sig.generics.where_clause.is_some() {
        let span = sig
            .generics
            .params
            .first()
            .map_or_else(|| sig.ident.span(), Spanned::span);
        return Err(Error::new(
            span,
            "a worker has no generic parameters: the node calls it with one type; name that type",
        ));
    }
    if let Some(variadic) = &sig.variadic {
        return Err(Error::new(variadic.span(), PARAMETERS));
    }
    Ok(())
}

fn typed(parameter: &FnArg) -> Result<&Type> {
    match parameter {
        FnArg::Typed(typed) => Ok(&typed.ty),
        FnArg::Receiver(receiver) => Err(Error::new(
            receiver.span(),
            "a worker is a free function: move it out of its impl, without `self`",
        )),
    }
}

fn check_payload(payload: &Type) -> Result<()> {
    let help = match payload {
        Type::Reference(_) => {
            "the first parameter is the payload, by value: `Bytes`, `Buffer`, `PayloadFile`, `Json<T>`, `Cbor<T>` or `()`"
        }
        Type::ImplTrait(_) => "name the payload's type: `Buffer` is the one that implements `Read`",
        _ => return Ok(()),
    };
    Err(Error::new(payload.span(), help))
}

/// The first paragraph of the doc comment, on one line.
fn description(function: &ItemFn) -> String {
    let lines: Vec<String> = function.attrs.iter().filter_map(doc_text).collect();
    let text = lines.join("\n");
    let paragraph = text.trim().split("\n\n").next().unwrap_or_default();
    paragraph.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn doc_text(attribute: &syn::Attribute) -> Option<String> {
    let Meta::NameValue(meta) = &attribute.meta else {
        return None;
    };
    if !meta.path.is_ident("doc") {
        return None;
    }
    let Expr::Lit(value) = &meta.value else {
        return None;
    };
    let Lit::Str(text) = &value.lit else { return None };
    let lines: Vec<_> = text.value().lines().map(|line| line.trim().to_owned()).collect();
    Some(lines.join("\n"))
}
