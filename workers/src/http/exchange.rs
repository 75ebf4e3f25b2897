//! One HTTP exchange under its limits: time, size of the answer, cancellation, trusted certificates.
//! Knows nothing of how a call is written down.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use ureq::http::Request;
use ureq::tls::{PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};
use ureq::{Agent, AsSendBody, Body, Proxy};
use worker_api::{Context, Error, Json, PIECE_BYTES, Result, StopReason};

use super::HttpConfig;

/// The largest body of an answer, in bytes.
pub(super) const MAX_BODY_BYTES: usize = 16 << 20;

const DEFAULT_TIMEOUT_SECONDS: f64 = 30.0;
const MAX_REDIRECTS: u32 = 10;

/// How soon a cancelled unit lets go of its connection.
const CANCEL_POLL: Duration = Duration::from_millis(50);

/// The response of the worker.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    status: u16,
    #[serde(flatten)]
    body: AnswerBody,
}

#[derive(Debug, Serialize)]
enum AnswerBody {
    #[serde(rename = "body")]
    Text(String),
    #[serde(rename = "body_base64")]
    Binary(String),
}

/// How long the whole exchange may take, and whether it is the unit's deadline that says so.
pub(super) struct TimeLimit {
    duration: Duration,
    from_deadline: bool,
}

impl TimeLimit {
    /// The asked-for seconds or the default, but no more than the unit has left.
    pub(super) fn of(seconds: Option<f64>, cx: &Context) -> Result<Self> {
        let seconds = seconds.unwrap_or(DEFAULT_TIMEOUT_SECONDS);
        let asked = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        if asked.is_zero() {
            return Err(Error::msg(format!(
                "timeout is a number of seconds above 0, not {seconds}"
            )));
        }
        match cx.remaining() {
            Some(left) if left.is_zero() => Err(Error::stopped(StopReason::Expired)),
            Some(left) if left < asked => Ok(Self {
                duration: left,
                from_deadline: true,
            }),
            _ => Ok(Self {
                duration: asked,
                from_deadline: false,
            }),
        }
    }
}

/// A call that may be made, and under which limits.
pub(super) struct Exchange<'a> {
    pub(super) limit: TimeLimit,
    pub(super) config: HttpConfig,
    pub(super) cx: &'a Context,
}

impl Exchange<'_> {
    /// Sends the request and reads the whole answer. A second thread cuts the connection once the unit has to stop.
    pub(super) fn run(&self, request: Request<impl AsSendBody>) -> Result<Json<Answer>> {
        self.cx.check()?;
        let agent = self.agent()?;
        thread::scope(|scope| {
            let (done, is_done) = mpsc::channel();
            let watched = agent.clone();
            thread::Builder::new().spawn_scoped(scope, move || self.watch(watched, &is_done))?;
            let answer = self.answer(&agent, request);
            drop::<mpsc::Sender<()>>(done);
            answer.map(Json).map_err(|e| self.cx.check().err().unwrap_or(e))
        })
    }

    fn watch(&self, agent: Agent, is_done: &Receiver<()>) {
        while is_done.recv_timeout(CANCEL_POLL) == Err(RecvTimeoutError::Timeout) {
            if self.cx.is_cancelled() {
                return agent.shutdown();
            }
        }
    }

    fn answer(&self, agent: &Agent, request: Request<impl AsSendBody>) -> Result<Answer> {
        let response = agent.run(request).map_err(|e| self.failure(e))?;
        let status = response.status().as_u16();
        let body = match String::from_utf8(self.body(response.into_body())?) {
            Ok(text) => AnswerBody::Text(text),
            Err(binary) => AnswerBody::Binary(STANDARD.encode(binary.as_bytes())),
        };
        Ok(Answer { status, body })
    }

    /// Reads the whole body, but no more than [`MAX_BODY_BYTES`].
    fn body(&self, body: Body) -> Result<Vec<u8>> {
        let mut reader = body.into_reader();
        let mut whole = Vec::new();
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            self.cx.check()?;
            let read = reader.read(&mut piece).map_err(|e| self.failure(e.into()))?;
            if read == 0 {
                return Ok(whole);
            }
            if whole.len() + read > MAX_BODY_BYTES {
                return Err(Error::msg(format!(
                    "the answer's body is larger than {MAX_BODY_BYTES} bytes"
                )));
            }
            whole.extend_from_slice(&piece[..read]);
        }
    }

    fn failure(&self, error: ureq::Error) -> Error {
        match error {
            ureq::Error::Timeout(_) if self.limit.from_deadline => Error::stopped(StopReason::Expired),
            ureq::Error::Timeout(phase) => Error::msg(format!(
                "no answer within {:?} (timeout: {phase})",
                self.limit.duration
            )),
            error => error.into(),
        }
    }

    /// A client for this one call: its connections end with it.
    fn agent(&self) -> Result<Agent> {
        let config = &self.config;
        let redirects = if config.allowed_hosts.is_some() {
            0
        } else {
            MAX_REDIRECTS
        };
        let roots = config.ca_file.as_deref().map_or(Ok(RootCerts::WebPki), roots)?;
        let proxy = config.proxy.as_deref().map(Proxy::new).transpose()?;
        Ok(Agent::config_builder()
            .tls_config(tls(roots))
            .timeout_global(Some(self.limit.duration))
            .max_redirects(redirects)
            .max_redirects_will_error(redirects > 0)
            .proxy(proxy)
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .user_agent(concat!("workmesh/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent())
    }
}

/// TLS 1.2 and 1.3 with the crypto provider named, so that the process needs no default one.
fn tls(roots: RootCerts) -> TlsConfig {
    TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .root_certs(roots)
        .build()
}

/// The certificates of a PEM file, of which there has to be one.
fn roots(file: &Path) -> Result<RootCerts> {
    let context = |e: Error| e.context(format!("ca_file {}", file.display()));
    let pem = fs::read(file).map_err(|e| context(e.into()))?;
    let mut certificates = Vec::new();
    for item in parse_pem(&pem) {
        if let PemItem::Certificate(certificate) = item.map_err(|e| context(e.into()))? {
            certificates.push(certificate);
        }
    }
    if certificates.is_empty() {
        return Err(context(Error::msg("no certificate in it; PEM is expected")));
    }
    Ok(certificates.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpListener;

    use rustls::pki_types::PrivateKeyDer;
    use rustls::{ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion, version};
    use serde_json::json;
    use tempfile::NamedTempFile;
    use worker_api::testing::{Finished, Unit};

    use super::*;

    #[test]
    fn both_tls_versions_work_without_a_process_wide_crypto_provider() {
        for version in [&version::TLS12, &version::TLS13] {
            let (url, certificate) = tls_server(version);
            let done = get(&url, json!({"ca_file": certificate.path()}));
            assert_eq!(done.text(), [r#"{"status":200,"body":"secret"}"#], "{version:?}");
        }
    }

    #[test]
    fn a_server_with_an_unknown_certificate_is_refused() {
        let (url, _certificate) = tls_server(&version::TLS13);
        assert!(get(&url, json!({})).error().contains("UnknownIssuer"));
    }

    #[test]
    fn a_ca_file_without_certificates_is_named() {
        let file = NamedTempFile::new().unwrap();
        let path = file.path().display().to_string();
        let error = get("https://127.0.0.1:1/", json!({"ca_file": path})).error();
        assert_eq!(
            error,
            format!("ca_file {path}: no certificate in it; PEM is expected")
        );
        file.close().unwrap();
        let error = get("https://127.0.0.1:1/", json!({"ca_file": path})).error();
        assert!(error.starts_with(&format!("ca_file {path}: ")), "{error}");
    }

    #[test]
    fn cancelling_cuts_a_connection_that_is_silent() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap());
        let unit = Unit::new("http:execute")
            .payload(json!({"method": "GET", "url": url, "timeout": 3600}).to_string());
        let flag = unit.cancel_flag();
        let client = thread::spawn(move || unit.run());
        let (mut connection, _) = silent.accept().unwrap();
        connection.read_exact(&mut [0; 4]).unwrap();
        flag.stop(StopReason::Cancelled);
        let done = client.join().unwrap();
        assert_eq!(
            done.result.unwrap_err().stop_reason(),
            Some(StopReason::Cancelled)
        );
    }

    fn get(url: &str, config: serde_json::Value) -> Finished {
        let payload = json!({"method": "GET", "url": url}).to_string();
        Unit::new("http:execute").payload(payload).config(config).run()
    }

    /// Answers one request over TLS of this version; its certificate is in the file.
    fn tls_server(version: &'static SupportedProtocolVersion) -> (String, NamedTempFile) {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(cert.pem().as_bytes()).unwrap();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let config =
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_protocol_versions(&[version])
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![cert.der().clone()], key)
                .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            let connection = ServerConnection::new(Arc::new(config)).unwrap();
            let mut stream = StreamOwned::new(connection, listener.accept().unwrap().0);
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                // A client that refuses the certificate hangs up.
                if stream.read_exact(&mut byte).is_err() {
                    return;
                }
                request.extend(byte);
            }
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret")
                .unwrap();
            stream.flush().unwrap();
        });
        (url, file)
    }
}
