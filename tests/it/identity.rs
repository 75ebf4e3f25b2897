//! Whom a mesh does not let in: each refused with one line that says whom, what was expected and what was found, while
//! work goes on.

use std::fs::File;
use std::io::BufReader;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use workmesh_node::NodeId;
use workmesh_node::identity::{Ca, create_identity, paths};
use workmesh_tests::{Running, Spec, TestMesh, wait_until};

type Credentials = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// A unit that runs from B on A while somebody knocks.
struct Work(Running, u64);

impl Work {
    fn begin(mesh: &TestMesh) -> Self {
        let endless = r#"{"duration":0.02,"repeat":1000000000}"#;
        let submit = [
            "submit",
            "--to",
            "A",
            "--directive",
            "sleep:execute",
            "--format",
            "json",
            endless,
        ];
        let mut unit = mesh.begin("B", &submit);
        assert_eq!(unit.next_object()["type"], "accepted");
        Self(unit, 0)
    }

    fn goes_on(&mut self) {
        for _ in 0..10 {
            self.1 += 1;
            assert_eq!(self.0.next_object()["serial"], self.1);
        }
    }
}

/// Opens a link as a program that is no node would, and waits until it is closed.
fn knock(address: SocketAddr, credentials: Option<&Credentials>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        endpoint.set_default_client_config(client_config(credentials));
        let connected = endpoint.connect(address, "test.mesh.internal").unwrap().await;
        if let Ok(connection) = connected {
            // TLS 1.3 lets a client finish before its certificate is judged.
            let _reason = connection.closed().await;
        }
    });
}

fn client_config(credentials: Option<&Credentials>) -> quinn::ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustsAnyone(provider)));
    let mut config = match credentials {
        Some((chain, key)) => config
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .unwrap(),
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"workmesh-link/1".to_vec()];
    quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()))
}

fn credentials(data_dir: &Path) -> Credentials {
    let certificate = BufReader::new(File::open(paths::node_certificate(data_dir)).unwrap());
    let chain = CertificateDer::pem_reader_iter(certificate)
        .map(Result::unwrap)
        .collect();
    let key = PrivateKeyDer::from_pem_file(paths::node_key(data_dir)).unwrap();
    (chain, key)
}

#[derive(Debug)]
struct TrustsAnyone(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustsAnyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Makes an identity of the mesh's own CA that was valid for a day, ten days ago.
fn expired_identity(mesh: &TestMesh, id: &str) -> std::path::PathBuf {
    let dir = mesh.dir().join("expired");
    let then = Timestamp::now() - SignedDuration::from_hours(240);
    let ca = Ca::load(&mesh.ca_dir(), Timestamp::now()).unwrap();
    // The new identity is checked against that time, at which the CA was not yet valid; its files are there all the same.
    let _checked = create_identity(&ca, &dir, &NodeId::parse(id).unwrap(), 1, then);
    dir
}

#[test]
fn strangers_are_refused_with_one_line_and_disturb_nobody() {
    let mesh = TestMesh::line(&["A", "B"]);
    let same_name = TestMesh::named("test");
    let other = TestMesh::named("other");
    let expired = credentials(&expired_identity(&mesh, "late"));
    let strangers = [
        ("no certificate", None, vec!["certificate"]),
        (
            "another CA",
            Some(credentials(&same_name.identity("evil"))),
            vec!["CN=evil", "expected a certificate of the CA", "test mesh CA"],
        ),
        (
            "another mesh",
            Some(credentials(&other.identity("guest"))),
            vec![
                "CN=guest",
                "expected a certificate of the CA",
                "test mesh CA",
                "other mesh CA",
            ],
        ),
        (
            "expired",
            Some(expired),
            vec!["CN=late", "expected a valid certificate", "expired"],
        ),
    ];
    let (address, log) = (mesh.node("A").address(), mesh.node("A").log());
    let refusals = || {
        log.lines()
            .into_iter()
            .filter(|line| line.contains(r#""message":"refused""#))
            .collect::<Vec<_>>()
    };
    let mut work = Work::begin(&mesh);
    for (count, (who, credentials, named)) in strangers.iter().enumerate() {
        knock(address, credentials.as_ref());
        wait_until(&format!("{who} is refused"), || refusals().len() == count + 1);
        let line = refusals().pop().unwrap();
        for word in named {
            assert!(line.contains(word), "{who}: {word:?} is missing in {line}");
        }
        for _ in 0..3 {
            knock(address, credentials.as_ref());
        }
        work.goes_on();
        assert_eq!(refusals().len(), count + 1, "{who} is logged once");
    }
    assert_eq!(mesh.status("A")["links"].as_array().unwrap().len(), 1);
}

#[test]
fn a_node_of_another_ca_is_refused_by_both_sides() {
    let mesh = TestMesh::line(&["A", "B"]);
    let mut other = TestMesh::named("test");
    let mut work = Work::begin(&mesh);
    other.start(Spec::new("X").peer(mesh.node("A").address()));
    let event = other.node("X").log().wait_for_event("cannot link; trying again");
    let reason = event["reason"].as_str().unwrap();
    assert!(
        reason.contains("expected a certificate of the CA") && reason.contains("CN=A"),
        "{reason}"
    );
    work.goes_on();
    assert_eq!(mesh.status("A")["routes"].as_array().unwrap().len(), 1);
    assert_eq!(other.node("X").log().count("cannot link; trying again"), 1);
}

#[test]
fn a_peer_that_is_not_the_one_that_was_named_is_refused() {
    let mut mesh = TestMesh::line(&["A", "B"]);
    let mut work = Work::begin(&mesh);
    let address = format!("Z@{}", mesh.node("A").address());
    mesh.start(Spec::new("C").peer(address));
    let event = mesh.node("C").log().wait_for_event("cannot link; trying again");
    let reason = event["reason"].as_str().unwrap();
    assert!(reason.contains("expected node Z, found A"), "{reason}");
    work.goes_on();
    assert!(mesh.status("C")["routes"].as_array().unwrap().is_empty());
    assert_eq!(mesh.node("C").log().count("cannot link; trying again"), 1);
}

#[test]
fn a_node_does_not_start_with_an_identity_that_is_of_no_use() {
    let mesh = TestMesh::new();
    let expired = expired_identity(&mesh, "late");
    let readable = mesh.identity("readable");
    let key = paths::node_key(&readable);
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let mixed = mesh.identity("mixed");
    std::fs::copy(paths::node_key(&mesh.identity("donor")), paths::node_key(&mixed)).unwrap();
    for (dir, named) in [
        (&expired, "node.crt"),
        (&readable, "node.key"),
        (&mixed, "node.key"),
    ] {
        let done = mesh.command(&["run", "--no-listen", "--data-dir", dir.to_str().unwrap()]);
        assert_eq!(done.status, 2, "{}", done.stderr);
        assert!(done.stderr.contains(named), "{named}: {}", done.stderr);
    }
}

#[test]
fn keys_are_private() {
    let mesh = TestMesh::new();
    let node = mesh.identity("A");
    for key in [paths::node_key(&node), paths::ca_key(&mesh.ca_dir())] {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(&key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", key.display());
    }
}

#[test]
fn a_renewed_certificate_is_used_after_a_hangup() {
    let mesh = TestMesh::line(&["A", "B"]);
    let (node, ca) = (mesh.node("A").data_dir().to_owned(), mesh.ca_dir());
    let [node, ca] = [&node, &ca].map(|dir| dir.to_str().unwrap());
    let csr = mesh.dir().join("a.csr");
    let crt = mesh.dir().join("a.crt");
    let [csr, crt] = [&csr, &crt].map(|file| file.to_str().unwrap());
    let before = mesh.status("A")["certificate"]["not_after"].clone();
    mesh.command(&["cert", "request", "--out", csr, "--data-dir", node])
        .ok();
    mesh.command(&[
        "cert",
        "sign",
        csr,
        "--out",
        crt,
        "--days",
        "30",
        "--data-dir",
        ca,
    ])
    .ok();
    mesh.command(&["cert", "install", crt, "--data-dir", node]).ok();
    mesh.node("A").signal(rustix::process::Signal::HUP);
    mesh.node("A").log().wait_for_event("certificate reloaded");
    assert_ne!(mesh.status("A")["certificate"]["not_after"], before);
    assert_eq!(
        mesh.at("B", &["submit", "--to", "A", "--directive", "text:upper", "up"])
            .ok()
            .text(),
        "UP"
    );
}
