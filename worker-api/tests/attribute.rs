//! What `#[worker]` makes of the forms that a function may have, and what it refuses to compile.

use std::convert::Infallible;
use std::io::{self, Read as _};

use serde::{Deserialize, Serialize};
use worker_api::testing::Unit;
use worker_api::{
    Buffer, Bytes, Cbor, Context, Error, FromPayload, Json, Limits, Payload, PayloadFile, PayloadKind,
    Responder, Result, WorkerEntry, linked_workers, worker,
};

#[derive(Deserialize)]
struct Add {
    a: i64,
    b: i64,
}

#[derive(Serialize)]
struct Sum {
    sum: i64,
}

/// Adds two
/// numbers.
///
/// With a second paragraph.
#[worker("form:json")]
fn json(Json(Add { a, b }): Json<Add>) -> Result<Json<Sum>> {
    Ok(Json(Sum { sum: a + b }))
}

#[worker(
    "form:cbor",
    version = "2.3.4-rc.1",
    idempotent,
    max_concurrent = 4,
    max_payload = "64MiB"
)]
fn cbor(Cbor(text): Cbor<String>, cx: &Context) -> Result<Cbor<(String, String)>> {
    Ok(Cbor((text, cx.sender().to_owned())))
}

#[worker("form:optional", max_payload = 1_000)]
fn optional(number: Option<Json<u8>>, out: &mut Responder) -> Result<()> {
    match number {
        Some(Json(number)) => out.send(number.to_string()),
        None => out.send("none"),
    }
}

#[worker("form:both", max_concurrent = 1)]
fn both(payload: Bytes, _cx: &Context, out: &mut Responder) -> Result<String> {
    out.send(payload)?;
    Ok("last".to_owned())
}

type Stream = Buffer;

#[worker("form:alias")]
fn alias(mut payload: Stream) -> io::Result<String> {
    io::read_to_string(payload.by_ref().take(3))
}

#[worker("form:file")]
fn file(payload: PayloadFile, out: &mut Responder) -> std::result::Result<(), io::Error> {
    let mut content = payload.open()?;
    io::copy(&mut content, out)?;
    Ok(())
}

enum MyError {
    Odd,
}

impl From<MyError> for Error {
    fn from(error: MyError) -> Self {
        match error {
            MyError::Odd => Self::msg("the length is odd"),
        }
    }
}

#[worker("form:error")]
fn own_error(payload: Bytes) -> Result<(), MyError> {
    if payload.len().is_multiple_of(2) {
        Ok(())
    } else {
        Err(MyError::Odd)
    }
}

struct Words(Vec<String>);

impl FromPayload for Words {
    const KIND: PayloadKind = Bytes::KIND;

    fn from_payload(payload: Payload) -> Result<Self> {
        let text = String::from_utf8(Bytes::from_payload(payload)?.into())?;
        Ok(Self(text.split_whitespace().map(str::to_owned).collect()))
    }
}

#[worker("form:own/payload.with:colons")]
fn own_payload(words: Words) -> std::result::Result<Bytes, Infallible> {
    Ok(Bytes::from(words.0.join("+")))
}

mod private {
    mod nested {
        #[worker_api::worker("form:nested")]
        fn run((): ()) -> worker_api::Result<Vec<u8>> {
            Ok(vec![b'n'])
        }
    }
}

mod shadowed {
    mod worker_api {}
    mod core {}
    #[expect(
        dead_code,
        reason = "stands in the way of the names that the attribute writes"
    )]
    struct Result;

    #[::worker_api::worker("form:shadowed")]
    fn payload(payload: ::worker_api::Bytes) -> ::worker_api::Result<::worker_api::Bytes> {
        Ok(payload)
    }
}

#[test]
fn typed_payloads_and_results_become_one_response() {
    let done = Unit::new("form:json").payload(r#"{"a":1,"b":2}"#).run();
    assert_eq!(done.text(), [r#"{"sum":3}"#]);

    let done = Unit::new("form:cbor").payload(&b"\x61x"[..]).run();
    assert_eq!(done.responses, [&b"\x82\x61x\x64test"[..]]);
}

#[test]
fn context_and_responder_are_passed_if_the_function_takes_them() {
    assert_eq!(Unit::new("form:optional").payload("7").run().text(), ["7"]);
    assert_eq!(Unit::new("form:optional").run().text(), ["none"]);
    assert_eq!(
        Unit::new("form:both").payload("first").run().text(),
        ["first", "last"]
    );
}

#[test]
fn aliases_and_own_payload_types_choose_the_kind() {
    assert_eq!(entry("form:alias").kind, PayloadKind::Buffer);
    assert_eq!(Unit::new("form:alias").payload("abcdef").run().text(), ["abc"]);
    assert_eq!(entry("form:file").kind, PayloadKind::File);
    assert_eq!(
        Unit::new("form:file").payload("content").run().text(),
        ["content"]
    );
    assert_eq!(
        Unit::new("form:own/payload.with:colons")
            .payload("a b")
            .run()
            .text(),
        ["a+b"]
    );
}

#[test]
fn any_error_that_converts_may_be_returned() {
    assert_eq!(
        Unit::new("form:error").payload("x").run().error(),
        "the length is odd"
    );
    assert!(Unit::new("form:error").run().text().is_empty());
}

#[test]
fn private_functions_and_shadowed_names_work() {
    assert_eq!(Unit::new("form:nested").run().text(), ["n"]);
    assert_eq!(Unit::new("form:shadowed").payload("s").run().text(), ["s"]);
}

#[test]
fn function_can_still_be_called() {
    let Json(Sum { sum }) = json(Json(Add { a: 2, b: 3 })).unwrap();
    assert_eq!(sum, 5);
}

#[test]
fn entry_says_what_the_attribute_said() {
    let cbor = entry("form:cbor");
    assert_eq!((cbor.version, cbor.idempotent), ("2.3.4-rc.1", true));
    assert_eq!(
        cbor.limits,
        Limits {
            max_concurrent: Some(4),
            max_payload_bytes: Some(64 << 20)
        }
    );
    assert_eq!(entry("form:optional").limits.max_payload_bytes, Some(1000));

    let json = entry("form:json");
    assert_eq!(
        (json.version, json.idempotent),
        (env!("CARGO_PKG_VERSION"), false)
    );
    assert_eq!(json.description, "Adds two numbers.");
    assert_eq!(json.limits, Limits::default());
    assert!(
        json.location.to_string().contains("attribute.rs:"),
        "{}",
        json.location
    );
}

#[test]
fn misuse_does_not_compile_and_the_message_helps() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}

fn entry(directive: &str) -> &'static WorkerEntry {
    linked_workers()
        .find(|entry| entry.directive == directive)
        .expect("it stands in this file")
}
