//! `node cert`: certificates for other machines, and what this one has.

use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use workmesh_proto::NodeId;

use crate::identity::{self, Ca, CertificateSummary, DEFAULT_DAYS, MAX_DAYS};

const EXAMPLES: &str = "\
In one step, on the machine where `node init` was run:
  node cert issue --id nodeB --out nodeB      then copy the directory to nodeB: node --data-dir nodeB

Without ever moving a key:
  node cert request --id nodeB --out b.csr    on nodeB; copy b.csr to the CA's machine
  node cert sign b.csr --out b.crt            there; copy b.crt back
  node cert install b.crt                     on nodeB

Both again, when a certificate nears its end:
  node cert show                              days that are left
  node cert renew                             on the CA's machine; on others request, sign and install";

const REQUEST_EXAMPLES: &str = "\
Examples:
  node cert request --id nodeB --out b.csr
  node cert request --out - | ssh ca node cert sign - --out - | node cert install -

The key stays in the data directory. If there is one already it is kept, so that this renews a certificate too.";

const SIGN_EXAMPLES: &str = "\
Examples:
  node cert sign b.csr --out b.crt
  node cert sign b.csr --out b.crt --id nodeB --days 90

Only the public key is taken from the request, and its id unless --id names one.
Names, usages and dates are the CA's decision.";

const ISSUE_EXAMPLES: &str = "\
Examples:
  node cert issue --id nodeB --out nodeB
  scp -pr nodeB host-b: && ssh host-b node --data-dir nodeB --peers host-a:8888";

const SHOW_EXAMPLES: &str = "\
Examples:
  node cert show
  node cert show b.crt --json | jq -r '.[] | select(.kind == \"node\") | .not_after'

With --json: an array of {kind, subject, node, mesh, serial, not_before, not_after, days_left, issuer, fingerprint}.";

/// Request, sign, install, issue, renew and show certificates
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CertArgs {
    #[command(subcommand)]
    verb: CertVerb,
}

#[derive(Subcommand, Clone, Debug)]
enum CertVerb {
    Request(RequestArgs),
    Sign(SignArgs),
    Install(InstallArgs),
    Issue(IssueArgs),
    Renew(RenewArgs),
    Show(ShowArgs),
}

/// Make a key on this machine, and a request for its certificate
#[derive(Args, Clone, Debug)]
#[command(after_help = REQUEST_EXAMPLES)]
struct RequestArgs {
    /// Id to ask for [default: that of the certificate in place, else made of the host name]
    #[arg(long, value_name = "ID")]
    id: Option<NodeId>,
    /// Where to write the request; - for stdout
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Sign another machine's request, with the CA of this one
#[derive(Args, Clone, Debug)]
#[command(after_help = SIGN_EXAMPLES)]
struct SignArgs {
    /// The request; - for stdin
    #[arg(value_name = "REQUEST")]
    request: PathBuf,
    /// Where to write the certificate and the CA's; - for stdout
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Id to certify [default: the one that the request asks for]
    #[arg(long, value_name = "ID")]
    id: Option<NodeId>,
    #[command(flatten)]
    validity: Validity,
}

/// Install a signed certificate over the key that waits for it
#[derive(Args, Clone, Debug)]
struct InstallArgs {
    /// What `node cert sign` wrote; - for stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Make a whole identity for another node in one step
#[derive(Args, Clone, Debug)]
#[command(after_help = ISSUE_EXAMPLES)]
struct IssueArgs {
    /// Id of the node
    #[arg(long, value_name = "ID")]
    id: NodeId,
    /// Data directory to make; copy it to the node's machine, as it holds the key
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    validity: Validity,
}

/// Renew this node's certificate, on the machine with the CA
#[derive(Args, Clone, Debug)]
struct RenewArgs {
    #[command(flatten)]
    validity: Validity,
}

/// Show certificates: whose, of which mesh, for how long
#[derive(Args, Clone, Debug)]
#[command(after_help = SHOW_EXAMPLES)]
struct ShowArgs {
    /// A file of certificates; - for stdin [default: this node's]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Clone, Debug)]
struct Validity {
    /// Days for which the certificate is valid
    #[arg(long, value_name = "N", default_value_t = DEFAULT_DAYS, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_DAYS)))]
    days: u32,
}

/// Runs the verb.
pub(crate) fn run(args: &CertArgs, data_dir: &Path) -> anyhow::Result<ExitCode> {
    let now = Timestamp::now();
    match &args.verb {
        CertVerb::Request(args) => request(args, data_dir),
        CertVerb::Sign(args) => sign(args, data_dir, now),
        CertVerb::Install(args) => install(args, data_dir, now),
        CertVerb::Issue(args) => issue(args, data_dir, now),
        CertVerb::Renew(args) => renew(args, data_dir, now),
        CertVerb::Show(args) => show(args, data_dir, now),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn request(args: &RequestArgs, data_dir: &Path) -> anyhow::Result<()> {
    let (node, pem) = identity::new_request(data_dir, args.id.clone())?;
    let made = format!("Made a request for node {node}.\n");
    let next = format!(
        "Copy it to the CA's machine, and run there:\n  node cert sign {} --out {node}.crt\nThen copy {node}.crt back, and \
         run here:\n  node cert install {node}.crt\n",
        args.out.display()
    );
    deliver(&args.out, &pem, &made, &next)
}

fn sign(args: &SignArgs, data_dir: &Path, now: Timestamp) -> anyhow::Result<()> {
    let ca = Ca::load(data_dir, now)?;
    let request = identity::read_request(&args.request)?;
    let node = match &args.id {
        Some(id) => id.clone(),
        None => request.proposed_id(&args.request)?,
    };
    let bundle = identity::sign_request(&ca, &request, &node, args.validity.days, now)?;
    let mut made = format!(
        "Signed a certificate for node {node} of mesh {}, valid until {}, serial {}.\n",
        ca.mesh(),
        bundle.issued.not_after.strftime("%Y-%m-%d"),
        bundle.issued.serial
    );
    for asked in &request.ignored {
        writeln!(made, "The request also asked for {asked}: not granted.")?;
    }
    let next = format!(
        "Copy it to the node's machine, and run there:\n  node cert install {}\n",
        args.out.display()
    );
    deliver(&args.out, &bundle.pem, &made, &next)
}

fn install(args: &InstallArgs, data_dir: &Path, now: Timestamp) -> anyhow::Result<()> {
    let identity = identity::install(data_dir, &args.file, now)?;
    writeln!(
        anstream::stdout(),
        "Installed the certificate of node {} of mesh {}, valid until {}. Next:\n  node --peers HOST:8888",
        identity.node(),
        identity.mesh(),
        identity.not_after().strftime("%Y-%m-%d"),
    )?;
    Ok(())
}

fn issue(args: &IssueArgs, data_dir: &Path, now: Timestamp) -> anyhow::Result<()> {
    let ca = Ca::load(data_dir, now)?;
    let identity = identity::create_identity(&ca, &args.out, &args.id, args.validity.days, now)?;
    writeln!(
        anstream::stdout(),
        "Made the identity of node {} of mesh {} in {out}, valid until {}.\nIt holds the node's key: move it to the \
         node's machine, and run there:\n  node --data-dir {out} --peers HOST:8888",
        identity.node(),
        identity.mesh(),
        identity.not_after().strftime("%Y-%m-%d"),
        out = args.out.display(),
    )?;
    Ok(())
}

fn renew(args: &RenewArgs, data_dir: &Path, now: Timestamp) -> anyhow::Result<()> {
    let identity = identity::renew(data_dir, args.validity.days, now)?;
    writeln!(
        anstream::stdout(),
        "Renewed the certificate of node {} of mesh {}, valid until {}.",
        identity.node(),
        identity.mesh(),
        identity.not_after().strftime("%Y-%m-%d"),
    )?;
    Ok(())
}

fn show(args: &ShowArgs, data_dir: &Path, now: Timestamp) -> anyhow::Result<()> {
    let summaries = match &args.file {
        Some(path) => identity::summaries(path, now)?,
        None => identity::installed_summaries(data_dir, now)?,
    };
    let mut out = anstream::stdout();
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&summaries)?)?;
    } else {
        let pages: Vec<String> = summaries.iter().map(page).collect();
        out.write_all(pages.join("\n").as_bytes())?;
    }
    Ok(())
}

/// Writes `text` to a file and says on stdout what was made and what is next.
/// With `-` the text goes to stdout, and only what was made to stderr: the next step is in the pipe.
fn deliver(path: &Path, text: &str, made: &str, next: &str) -> anyhow::Result<()> {
    if path == Path::new("-") {
        anstream::stdout().write_all(text.as_bytes())?;
        anstream::stderr().write_all(made.as_bytes())?;
    } else {
        identity::write_public(path, text)?;
        write!(anstream::stdout(), "{made}{next}")?;
    }
    Ok(())
}

/// One certificate for a person.
fn page(certificate: &CertificateSummary) -> String {
    let dash = || "-".to_owned();
    let left = match certificate.days_left {
        ..0 => "expired".to_owned(),
        1 => "1 day left".to_owned(),
        days @ (0 | 2..) => format!("{days} days left"),
    };
    let rows = [
        ("subject", certificate.subject.clone()),
        ("kind", certificate.kind.to_owned()),
        (
            "node",
            certificate.node.as_ref().map_or_else(dash, ToString::to_string),
        ),
        (
            "mesh",
            certificate.mesh.as_ref().map_or_else(dash, ToString::to_string),
        ),
        ("issuer", certificate.issuer.clone()),
        ("serial", certificate.serial.clone()),
        ("not before", certificate.not_before.to_string()),
        ("not after", format!("{} ({left})", certificate.not_after)),
        ("SHA-256", certificate.fingerprint.clone()),
    ];
    rows.iter().fold(String::new(), |mut page, (name, value)| {
        writeln!(page, "{name:<11} {value}").expect("writing to a string cannot fail");
        page
    })
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::identity::{Identity, paths};

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        cert: CertArgs,
    }

    fn cert(data_dir: &Path, args: &[&str]) -> anyhow::Result<ExitCode> {
        let command = Command::try_parse_from(["cert"].iter().chain(args))?;
        run(&command.cert, data_dir)
    }

    /// A directory with the CA of mesh `lab` and node `a`, and an empty one.
    fn two_machines() -> (tempfile::TempDir, tempfile::TempDir) {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let now = Timestamp::now();
        identity::create_mesh(a.path(), &"lab".parse().unwrap(), &"a".parse().unwrap(), 30, now).unwrap();
        (a, b)
    }

    #[test]
    fn the_command_line_is_consistent() {
        Command::command().debug_assert();
    }

    #[test]
    fn request_sign_and_install_make_an_identity() {
        let (a, b) = two_machines();
        let (csr, crt) = (b.path().join("b.csr"), b.path().join("b.crt"));
        let (csr, crt) = (csr.to_str().unwrap(), crt.to_str().unwrap());
        cert(b.path(), &["request", "--id", "b", "--out", csr]).unwrap();
        cert(a.path(), &["sign", csr, "--out", crt, "--days", "7"]).unwrap();
        cert(b.path(), &["install", crt]).unwrap();
        cert(b.path(), &["show"]).unwrap();
        let identity = Identity::load(b.path()).unwrap();
        assert_eq!((identity.node().as_str(), identity.mesh().as_str()), ("b", "lab"));
    }

    #[test]
    fn the_ca_may_choose_another_id() {
        let (a, b) = two_machines();
        let (csr, crt) = (b.path().join("b.csr"), b.path().join("b.crt"));
        let (csr, crt) = (csr.to_str().unwrap(), crt.to_str().unwrap());
        cert(b.path(), &["request", "--id", "b", "--out", csr]).unwrap();
        cert(a.path(), &["sign", csr, "--out", crt, "--id", "c"]).unwrap();
        cert(b.path(), &["install", crt]).unwrap();
        assert_eq!(Identity::load(b.path()).unwrap().node().as_str(), "c");
    }

    #[test]
    fn issue_makes_a_directory_that_runs() {
        let (a, b) = two_machines();
        let out = b.path().join("nodeB");
        let issue = || {
            cert(
                a.path(),
                &["issue", "--id", "nodeB", "--out", out.to_str().unwrap()],
            )
        };
        issue().unwrap();
        assert_eq!(Identity::load(&out).unwrap().node().as_str(), "nodeB");
        assert!(issue().unwrap_err().to_string().contains("never overwritten"));
    }

    #[test]
    fn renew_works_beside_the_ca_and_says_where_elsewhere() {
        let (a, b) = two_machines();
        let before = Identity::load(a.path()).unwrap().not_after();
        cert(a.path(), &["renew"]).unwrap();
        assert!(Identity::load(a.path()).unwrap().not_after() > before);
        let error = cert(b.path(), &["renew"]).unwrap_err().to_string();
        assert!(error.contains("no CA in"), "{error}");
    }

    #[test]
    fn a_certificate_is_shown_with_what_is_left() {
        let (a, _b) = two_machines();
        let now = Timestamp::now();
        let mut summary = identity::summaries(&paths::node_certificate(a.path()), now)
            .unwrap()
            .swap_remove(0);
        summary.days_left = 30;
        assert!(page(&summary).contains("(30 days left)\n"), "{}", page(&summary));
        assert!(page(&summary).starts_with("subject     CN=a\n"));
        summary.days_left = -1;
        assert!(page(&summary).contains("(expired)"));
    }
}
