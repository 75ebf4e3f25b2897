//! `sleep:execute`: a unit of known length. Shows parameters with defaults, and a sleep that ends when the unit has to stop.

use std::time::Duration;

use serde::Deserialize;
use worker_api::{Context, Error, Json, Responder, Result, worker};

/// What to do; an empty payload is all defaults.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Sleep {
    /// Seconds that each iteration sleeps before it responds.
    duration: f64,
    /// How many iterations.
    repeat: u32,
    /// How the responses begin.
    ident: String,
    /// How many responses each iteration sends.
    responses: u32,
}

impl Default for Sleep {
    fn default() -> Self {
        Self {
            duration: 30.0,
            repeat: 1,
            ident: "No ID".to_owned(),
            responses: 1,
        }
    }
}

/// Sleeps for `duration` seconds, `repeat` times, and sends `responses` responses after each.
#[worker("sleep:execute", version = "1.0.0", idempotent)]
fn execute(request: Option<Json<Sleep>>, cx: &Context, out: &mut Responder) -> Result<()> {
    let Json(Sleep {
        duration,
        repeat,
        ident,
        responses,
    }) = request.unwrap_or_default();
    let duration = Duration::try_from_secs_f64(duration)
        .map_err(|_| Error::msg(format!("duration is a number of seconds from 0, not {duration}")))?;
    for iteration in 1..=repeat {
        cx.sleep(duration)?;
        for response in 1..=responses {
            out.send(format!("{ident}: iteration {iteration}, response {response}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use worker_api::StopReason;
    use worker_api::testing::Unit;

    #[test]
    fn each_iteration_sends_its_responses_in_order() {
        let payload = r#"{"duration":0,"repeat":2,"responses":2,"ident":"x"}"#;
        assert_eq!(
            Unit::new("sleep:execute").payload(payload).run().text(),
            [
                "x: iteration 1, response 1",
                "x: iteration 1, response 2",
                "x: iteration 2, response 1",
                "x: iteration 2, response 2",
            ]
        );
    }

    #[test]
    fn absent_fields_have_defaults() {
        let done = Unit::new("sleep:execute").payload(r#"{"duration":0.0}"#).run();
        assert_eq!(done.text(), ["No ID: iteration 1, response 1"]);
    }

    #[test]
    fn no_iteration_sends_nothing() {
        let done = Unit::new("sleep:execute").payload(r#"{"repeat":0}"#).run();
        assert!(done.text().is_empty());
    }

    #[test]
    fn an_empty_payload_sleeps_for_the_default_until_it_is_cancelled() {
        let unit = Unit::new("sleep:execute");
        unit.cancel_flag().stop(StopReason::Cancelled);
        let done = unit.run();
        assert_eq!(
            done.result.unwrap_err().stop_reason(),
            Some(StopReason::Cancelled)
        );
        assert!(done.responses.is_empty());
    }

    #[test]
    fn bad_requests_are_refused() {
        for bad in [
            r#"{"duration":-1}"#,
            r#"{"duration":1e300}"#,
            r#"{"duration":"1"}"#,
            r#"{"duration":0,"repeat":-1}"#,
            r#"{"duration":0,"repeat":4294967296}"#,
            r#"{"seconds":1}"#,
            "[",
            "\u{0}",
        ] {
            assert!(
                Unit::new("sleep:execute").payload(bad).run().result.is_err(),
                "{bad}"
            );
        }
    }
}
