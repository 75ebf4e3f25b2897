//! `http:execute`: one HTTP request from the node's place in the network. Shows a typed request and answer,
//! the worker's own configuration, and a deadline that shortens a timeout.

use std::collections::BTreeMap;
use std::path::PathBuf;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use ureq::http::header::{CONTENT_TYPE, HeaderValue};
use ureq::http::{Method, Request, Uri};
use worker_api::{Context, Error, Json, Result, worker};

use self::exchange::{Answer, Exchange, TimeLimit};

mod exchange;

/// The payload.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    method: String,
    url: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// Appended to the query of `url`, percent-encoded.
    #[serde(default)]
    params: BTreeMap<String, String>,
    /// The body as it is; not together with `json`.
    data: Option<String>,
    /// The body as JSON, with its content type; not together with `data`.
    json: Option<serde_json::Value>,
    /// Seconds for the whole exchange.
    timeout: Option<f64>,
}

/// The table `[workers.http]` of the node's configuration.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct HttpConfig {
    /// Seconds for calls that name no timeout.
    timeout: Option<f64>,
    /// If set, only these hosts are called and no redirect is followed. `*.example.com` stands for all names below it.
    allowed_hosts: Option<Vec<String>>,
    /// PEM certificates to trust in place of Mozilla's roots.
    ca_file: Option<PathBuf>,
    /// A proxy for all calls; the environment's proxy variables are not read.
    proxy: Option<String>,
}

/// Makes one HTTP request and sends the answer's status and body.
///
/// Any status is an answer. A body that is not UTF-8 comes as `body_base64`.
#[worker("http:execute", version = "1.0.0")]
fn execute(Json(call): Json<Call>, cx: &Context) -> Result<Json<Answer>> {
    let config: HttpConfig = cx.config()?;
    let uri = uri(&call)?;
    config.admit(&uri)?;
    let exchange = Exchange {
        limit: TimeLimit::of(call.timeout.or(config.timeout), cx)?,
        config,
        cx,
    };
    let builder = Request::builder().method(method(&call.method)?).uri(uri);
    let builder = call
        .headers
        .iter()
        .fold(builder, |builder, (name, value)| builder.header(name, value));
    match (call.data, call.json) {
        (None, None) => exchange.run(builder.body(())?),
        (Some(data), None) => exchange.run(builder.body(data)?),
        (None, Some(json)) => {
            let mut request = builder.body(serde_json::to_vec(&json)?)?;
            let json_type = HeaderValue::from_static("application/json");
            request.headers_mut().entry(CONTENT_TYPE).or_insert(json_type);
            exchange.run(request)
        }
        (Some(_), Some(_)) => Err(Error::msg("data and json are both given; give one of them")),
    }
}

fn method(name: &str) -> Result<Method> {
    match Method::from_bytes(name.to_ascii_uppercase().as_bytes()) {
        Ok(Method::CONNECT) | Err(_) => Err(Error::msg(format!(
            "method {name:?} can't be used; write GET, for example"
        ))),
        Ok(method) => Ok(method),
    }
}

/// The call's address with its `params` in the query.
fn uri(call: &Call) -> Result<Uri> {
    let mut text = call.url.split('#').next().unwrap_or_default().to_owned();
    for (key, value) in &call.params {
        text.push(if text.contains('?') { '&' } else { '?' });
        text.extend(utf8_percent_encode(key, NON_ALPHANUMERIC));
        text.push('=');
        text.extend(utf8_percent_encode(value, NON_ALPHANUMERIC));
    }
    match text.parse::<Uri>() {
        Ok(uri) if matches!(uri.scheme_str(), Some("http" | "https")) => Ok(uri),
        _ => Err(Error::msg(format!(
            "url {:?} can't be used; write http://host/path or https://host/path",
            call.url
        ))),
    }
}

impl HttpConfig {
    fn admit(&self, uri: &Uri) -> Result<()> {
        let Some(allowed) = &self.allowed_hosts else {
            return Ok(());
        };
        let host = uri.host().unwrap_or_default();
        if allowed.iter().any(|pattern| host_matches(pattern, host)) {
            return Ok(());
        }
        Err(Error::msg(format!(
            "host {host:?} is not among allowed_hosts of [workers.http] on this node"
        )))
    }
}

fn host_matches(pattern: &str, host: &str) -> bool {
    let (pattern, host) = (pattern.to_ascii_lowercase(), host.to_ascii_lowercase());
    match pattern.strip_prefix('*') {
        Some(suffix) => suffix.starts_with('.') && host.len() > suffix.len() && host.ends_with(suffix),
        None => pattern == host,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    use std::net::TcpListener;
    use std::thread::{self, JoinHandle};
    use std::time::Duration;

    use serde_json::{Value, json};
    use worker_api::StopReason;
    use worker_api::testing::{Finished, Unit};

    use super::exchange::MAX_BODY_BYTES;
    use super::*;

    #[test]
    fn answer_has_status_and_body() {
        let (url, server) = server("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
        let done = call(json!({"method": "get", "url": url}));
        assert_eq!(answer(&done), json!({"status": 200, "body": "hello"}));
        let seen = server.join().unwrap();
        assert!(seen.starts_with("GET / HTTP/1.1\r\n"), "{seen}");
        assert!(!seen.to_lowercase().contains("content-length"), "{seen}");
    }

    #[test]
    fn a_status_of_failure_is_an_answer() {
        let (url, _server) = server("HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nlate");
        let done = call(json!({"method": "GET", "url": url}));
        assert_eq!(answer(&done), json!({"status": 503, "body": "late"}));
    }

    #[test]
    fn a_body_that_is_not_utf8_comes_as_base64() {
        let (url, _server) = server(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\xff\x00");
        let done = call(json!({"method": "GET", "url": url}));
        assert_eq!(answer(&done), json!({"status": 200, "body_base64": "/wA="}));
    }

    #[test]
    fn params_headers_and_json_are_sent() {
        let (url, server) = server("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n");
        let done = call(json!({
            "method": "POST",
            "url": format!("{url}/p?q=1#fragment"),
            "params": {"a b": "c&d"},
            "headers": {"x-test": "yes"},
            "json": {"k": [1]},
        }));
        assert_eq!(answer(&done), json!({"status": 201, "body": ""}));
        let seen = server.join().unwrap();
        assert!(seen.starts_with("POST /p?q=1&a%20b=c%26d HTTP/1.1\r\n"), "{seen}");
        assert!(seen.contains("x-test: yes\r\n"), "{seen}");
        assert!(seen.contains("content-type: application/json\r\n"), "{seen}");
        assert!(seen.ends_with("\r\n\r\n{\"k\":[1]}"), "{seen}");
    }

    #[test]
    fn data_is_sent_as_it_is() {
        let (url, server) = server("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        let headers = json!({"content-type": "text/csv"});
        answer(&call(
            json!({"method": "PUT", "url": url, "data": "a,b", "headers": headers}),
        ));
        let seen = server.join().unwrap();
        assert!(
            seen.contains("content-type: text/csv\r\n") && seen.ends_with("\r\n\r\na,b"),
            "{seen}"
        );
    }

    #[test]
    fn a_body_up_to_the_limit_is_an_answer_and_one_past_it_an_error() {
        for (length, fits) in [(MAX_BODY_BYTES, true), (MAX_BODY_BYTES + 1, false)] {
            let mut response = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into_bytes();
            response.resize(response.len() + length, b'x');
            let (url, _server) = server(response);
            let done = call(json!({"method": "GET", "url": url}));
            match fits {
                true => assert_eq!(answer(&done)["body"].as_str().map(str::len), Some(length)),
                false => assert_eq!(done.error(), "the answer's body is larger than 16777216 bytes"),
            }
        }
    }

    #[test]
    fn a_body_that_breaks_off_is_an_error() {
        let (url, _server) = server("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello");
        assert!(call(json!({"method": "GET", "url": url})).result.is_err());
    }

    #[test]
    fn an_answer_that_is_no_http_is_an_error() {
        let (url, _server) = server("SSH-2.0-OpenSSH\r\n\r\n");
        assert!(call(json!({"method": "GET", "url": url})).result.is_err());
    }

    #[test]
    fn a_silent_server_runs_into_the_timeout() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap());
        let error = call(json!({"method": "GET", "url": url, "timeout": 0.05})).error();
        assert!(error.starts_with("no answer within 50ms"), "{error}");
    }

    #[test]
    fn the_deadline_shortens_the_timeout() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap());
        let payload = json!({"method": "GET", "url": url, "timeout": 3600}).to_string();
        for left in [Duration::ZERO, Duration::from_millis(50)] {
            let done = Unit::new("http:execute")
                .payload(payload.clone())
                .deadline(left)
                .run();
            assert_eq!(
                done.result.unwrap_err().stop_reason(),
                Some(StopReason::Expired),
                "{left:?}"
            );
        }
    }

    #[test]
    fn the_node_may_restrict_hosts_and_then_redirects_are_answers() {
        let run = |url: &str, allowed: Value| {
            let payload = json!({"method": "GET", "url": url}).to_string();
            Unit::new("http:execute")
                .payload(payload)
                .config(json!({"allowed_hosts": allowed}))
                .run()
        };
        let (url, _server) =
            server("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.2/\r\nContent-Length: 0\r\n\r\n");
        assert!(
            run(&url, json!(["*.example.com"]))
                .error()
                .contains("allowed_hosts")
        );
        assert!(
            run("http://allowed@127.0.0.1/", json!(["allowed"]))
                .error()
                .contains("127.0.0.1")
        );
        assert_eq!(answer(&run(&url, json!(["127.0.0.1"])))["status"], 302);
    }

    #[test]
    fn hosts_match_whole_names_or_names_below() {
        assert!(host_matches("A.example", "a.EXAMPLE"));
        assert!(host_matches("*.example", "a.b.example"));
        for (pattern, host) in [
            ("*.example", ".example"),
            ("*.example", "aexample"),
            ("*", "a"),
            ("b", "a.b"),
        ] {
            assert!(!host_matches(pattern, host), "{pattern} {host}");
        }
    }

    #[test]
    fn bad_requests_are_refused_without_a_connection() {
        for (bad, says) in [
            (json!({"url": "http://h/"}), "missing field `method`"),
            (json!({"method": "GET"}), "missing field `url`"),
            (
                json!({"method": "GET", "url": "http://h/", "uri": 1}),
                "unknown field `uri`",
            ),
            (json!({"method": "G T", "url": "http://h/"}), "method"),
            (json!({"method": "CONNECT", "url": "http://h/"}), "method"),
            (
                json!({"method": "GET", "url": "file:///etc/passwd"}),
                "can't be used",
            ),
            (json!({"method": "GET", "url": "h/p"}), "can't be used"),
            (json!({"method": "GET", "url": "http://a b/"}), "can't be used"),
            (
                json!({"method": "GET", "url": "http://h/", "timeout": 0}),
                "timeout",
            ),
            (
                json!({"method": "GET", "url": "http://h/", "timeout": -1}),
                "timeout",
            ),
            (
                json!({"method": "GET", "url": "http://h/", "headers": {"a\nb": "c"}}),
                "header",
            ),
            (
                json!({"method": "GET", "url": "http://h/", "headers": {"a": "b\r\nc: d"}}),
                "header",
            ),
            (
                json!({"method": "PUT", "url": "http://h/", "data": "a", "json": 1}),
                "both",
            ),
        ] {
            let error = call(bad.clone()).error();
            assert!(error.contains(says), "{bad}: {error}");
        }
    }

    fn call(payload: Value) -> Finished {
        Unit::new("http:execute").payload(payload.to_string()).run()
    }

    fn answer(done: &Finished) -> Value {
        serde_json::from_str(done.text()[0]).unwrap()
    }

    /// Answers one request with `response`, then closes; the thread returns the request.
    fn server(response: impl Into<Vec<u8>>) -> (String, JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let response = response.into();
        let server = thread::spawn(move || {
            let mut connection = BufReader::new(listener.accept().unwrap().0);
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && connection.read_line(&mut head).unwrap() > 0 {}
            let length = head
                .lines()
                .find_map(|line| {
                    line.to_ascii_lowercase()
                        .strip_prefix("content-length:")?
                        .trim()
                        .parse()
                        .ok()
                })
                .unwrap_or(0);
            let mut body = vec![0; length];
            connection.read_exact(&mut body).unwrap();
            // The client hangs up in the middle of an answer that is too large.
            drop(connection.get_mut().write_all(&response));
            head + str::from_utf8(&body).unwrap()
        });
        (url, server)
    }
}
