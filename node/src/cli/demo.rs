//! `node demo`: a mesh of three real nodes on this machine that does real work, told step by step.

use std::collections::VecDeque;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anstyle::Style;
use anyhow::{Context as _, bail, ensure};
use bytes::{Bytes, BytesMut};
use clap::Args;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tempfile::TempDir;
use workmesh_proto::NodeId;
use workmesh_proto::wire::unit::Kind;

use self::material::{Material, WebPage};
use self::mesh::{DemoMesh, PATIENCE};
use super::connect::Access;
use super::exit::{self, Failure};
use super::{text, unit};

mod material;
mod mesh;

const EXAMPLES: &str = "\
Examples:
  node demo
  node demo --keep                  leaves the mesh running and prints commands to try

The demo makes a CA and three identities in a directory of its own, starts nodes A, B and C in a line on loopback, so
that A reaches C through B alone, and works on the files of the current directory. Nothing is left behind without
--keep. The exit status is 0 if every unit succeeded with the right bytes, else 1.";

/// Units that are under way at once.
const CONCURRENT_UNITS: usize = 8;
/// Payload pieces, in bytes.
const PIECE_BYTES: usize = 64 * 1024;

/// See a mesh of three nodes work on this machine
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DemoArgs {
    /// Leave the mesh running, and print commands to try
    #[arg(long)]
    keep: bool,
    /// Keep everything in this new or empty directory, instead of a temporary one
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Runs the verb.
pub(crate) async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let place = Place::open(args.dir)?;
    let mut mesh = DemoMesh::new(place.path.clone());
    let told = tokio::select! {
        told = Story::new(&mut mesh).tell() => told,
        _ = tokio::signal::ctrl_c() => Err(Failure::new(exit::CANCELLED, "demo stopped; its nodes are stopped too").into()),
    };
    if told.is_ok() && args.keep {
        say(&kept(&mesh, &place))?;
        mesh.keep();
        place.keep();
        return Ok(ExitCode::SUCCESS);
    }
    mesh.stop().await;
    place.remove();
    told?;
    say("  Nodes stopped, files removed. Try `node demo --keep` to play with the mesh.\n")?;
    Ok(ExitCode::SUCCESS)
}

/// Where the demo keeps its files.
struct Place {
    path: PathBuf,
    temporary: Option<TempDir>,
}

impl Place {
    fn open(directory: Option<PathBuf>) -> anyhow::Result<Self> {
        let Some(path) = directory else {
            let made = tempfile::Builder::new().prefix("workmesh-demo-").tempdir();
            let temporary = made.context("making a temporary directory")?;
            let path = temporary.path().to_owned();
            return Ok(Self {
                path,
                temporary: Some(temporary),
            });
        };
        let refuse = |why: String| Failure::usage(format!("--dir {}: {why}", path.display()));
        std::fs::create_dir_all(&path).map_err(|error| refuse(error.to_string()))?;
        let mut entries = std::fs::read_dir(&path).map_err(|error| refuse(error.to_string()))?;
        if entries.next().is_some() {
            return Err(refuse("not empty; name a new directory".into()).into());
        }
        let path = std::path::absolute(&path)?;
        Ok(Self {
            path,
            temporary: None,
        })
    }

    fn keep(self) {
        if let Some(temporary) = self.temporary {
            let _ = temporary.keep();
        }
    }

    /// Removes a temporary directory; one that was named keeps its logs.
    fn remove(self) {
        if let Some(temporary) = self.temporary {
            // What can't be removed lies in the system's directory for temporary files.
            let _ = temporary.close();
        }
    }
}

/// The demo's steps, and what they add up to.
struct Story<'a> {
    mesh: &'a mut DemoMesh,
    started: Instant,
    units: u64,
    carried: u64,
}

impl<'a> Story<'a> {
    fn new(mesh: &'a mut DemoMesh) -> Self {
        Self {
            mesh,
            started: Instant::now(),
            units: 0,
            carried: 0,
        }
    }

    async fn tell(mut self) -> anyhow::Result<()> {
        say("Three nodes in a line on this machine: A - B - C. A reaches C through B alone.\n")?;
        self.start_nodes().await?;
        self.watch_routes().await?;
        self.look_at_the_way().await?;
        let material = Material::gather(&std::env::current_dir()?)?;
        title(&format!(
            "Work on C, submitted at A: {}",
            text::one_line(&material.name)
        ))?;
        self.digest(&material).await?;
        self.compress(&material).await?;
        self.fetch().await?;
        self.sum_up().await
    }

    async fn start_nodes(&mut self) -> anyhow::Result<()> {
        title("Nodes")?;
        self.mesh.make_identities(&["A", "B", "C"])?;
        line("identities", "a CA, and a key and certificate for each node")?;
        let mut peer: Option<(&str, String)> = None;
        for id in ["A", "B", "C"] {
            let node = self
                .mesh
                .start(id, peer.as_ref().map(|(_, address)| address.as_str()))
                .await?;
            let dials = peer.map_or_else(String::new, |(peer, _)| format!(", dials {peer}"));
            line(
                &format!("node {id}"),
                &format!("listens on {}{dials}", node.address),
            )?;
            peer = Some((id, node.address.clone()));
        }
        Ok(())
    }

    async fn watch_routes(&mut self) -> anyhow::Result<()> {
        title("The mesh, as A sees it")?;
        let started = Instant::now();
        for id in ["B", "C"] {
            let target = NodeId::parse(id)?;
            let found =
                |route: &crate::unit::report::RouteReport| route.node == target && route.next_hop.is_some();
            let wanted = format!("route to {id}");
            let status = self
                .mesh
                .wait("A", &wanted, |status| status.routes.iter().any(found))
                .await?;
            let route = status
                .routes
                .iter()
                .find(|route| found(route))
                .context("the route was seen")?;
            let hops = text::count(route.hops.unwrap_or_default().into(), "hop");
            let via = match &route.next_hop {
                Some(hop) if *hop != target => format!(" by way of {hop}"),
                _ => String::new(),
            };
            line(&format!("node {id}"), &format!("{hops}{via}, {}", after(started)))?;
        }
        let access = self.mesh.access("A");
        let workers = loop {
            let workers = access.connect().await?.workers().await?;
            let on_c = workers
                .iter()
                .filter(|worker| worker.node.as_str() == "C")
                .count();
            if on_c > 0 {
                break on_c as u64;
            }
            ensure!(
                started.elapsed() < PATIENCE,
                "A learned of no worker on C within {} s",
                PATIENCE.as_secs()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        line(
            "workers",
            &format!("{} on C, {}", text::count(workers, "function"), after(started)),
        )
    }

    async fn look_at_the_way(&mut self) -> anyhow::Result<()> {
        title("The way from A to C")?;
        let access = self.mesh.access("A");
        let target = NodeId::parse("C")?;
        let started = Instant::now();
        access.connect().await?.ping(Some(target.clone())).await?;
        line(
            "session",
            &format!(
                "A and C have authenticated each other through B, {}",
                after(started)
            ),
        )?;
        let pong = access.connect().await?.ping(Some(target.clone())).await?;
        let pool = pong.pool;
        line(
            "ping C",
            &format!(
                "{}, version {}, {} of {} slots running",
                text::milliseconds(pong.rtt_ms),
                text::one_line(&pong.version),
                pool.running,
                pool.slots
            ),
        )?;
        let mut hops = access.connect().await?.trace(target).await?;
        while let Some(hop) = hops.next().await? {
            line(
                &format!("hop {}", hop.hop),
                &format!("{}, {}", hop.node, text::milliseconds(hop.rtt_ms)),
            )?;
        }
        Ok(())
    }

    /// A unit for each file; each digest is compared with one that is computed here.
    async fn digest(&mut self, material: &Material) -> anyhow::Result<()> {
        let started = Instant::now();
        let access = self.mesh.access("A");
        let mut waiting: VecDeque<&Bytes> = material.files.iter().collect();
        let mut running = FuturesUnordered::new();
        loop {
            while running.len() < CONCURRENT_UNITS
                && let Some(file) = waiting.pop_front()
            {
                let access = &access;
                running.push(async move {
                    let answer = work(access, "digest:blake3", std::slice::from_ref(file)).await?;
                    let expected = blake3::hash(file).to_hex();
                    ensure!(
                        answer == expected.as_bytes(),
                        "digest:blake3 on C gave a wrong digest"
                    );
                    anyhow::Ok(())
                });
            }
            match running.next().await {
                Some(ended) => ended?,
                None => break,
            }
        }
        let files = material.files.len() as u64;
        self.units += files;
        self.carried += material.bytes();
        let what = format!(
            "{}, {}: all digests equal those computed here, {}",
            text::count(files, "file"),
            text::bytes(material.bytes()),
            took(started)
        );
        line("digest:blake3", &what)
    }

    /// All files in one stream, there and back.
    async fn compress(&mut self, material: &Material) -> anyhow::Result<()> {
        let access = self.mesh.access("A");
        let whole = material.bytes();
        let started = Instant::now();
        let packed = work(&access, "zstd:compress", &material.files).await?;
        let share = packed.len() as f64 * 100.0 / whole as f64;
        let size = packed.len() as u64;
        let what = format!(
            "{} to {}, {share:.0} %, {}",
            text::bytes(whole),
            text::bytes(size),
            took(started)
        );
        line("zstd:compress", &what)?;
        let started = Instant::now();
        let unpacked = work(&access, "zstd:decompress", &[packed]).await?;
        let mut expected = blake3::Hasher::new();
        for file in &material.files {
            expected.update(file);
        }
        ensure!(
            blake3::hash(&unpacked) == expected.finalize(),
            "zstd:decompress on C gave other bytes back"
        );
        self.units += 2;
        self.carried += 2 * (whole + size);
        let what = format!(
            "{} back, every byte as it was, {}",
            text::bytes(unpacked.len() as u64),
            took(started)
        );
        line("zstd:decompress", &what)
    }

    async fn fetch(&mut self) -> anyhow::Result<()> {
        let page = WebPage::listen().await?;
        let url = format!("http://{}/", page.address()?);
        let request = Bytes::from(serde_json::json!({"method": "GET", "url": url}).to_string());
        let access = self.mesh.access("A");
        let started = Instant::now();
        let payload = [request];
        let fetched = work(&access, "http:execute", &payload);
        let (fetched, answered) = tokio::join!(fetched, async {
            tokio::time::timeout(PATIENCE, page.answer()).await
        });
        let fetched = fetched?;
        answered.context("C did not ask the web page")??;
        let answer: serde_json::Value =
            serde_json::from_slice(&fetched).context("reading what http:execute gave")?;
        let body = answer["body"].as_str().unwrap_or_default();
        ensure!(
            answer["status"] == 200 && body == WebPage::TEXT,
            "http:execute on C gave {answer}"
        );
        self.units += 1;
        self.carried += fetched.len() as u64;
        line(
            "http:execute",
            &format!("GET {url}: 200 {body:?}, {}", took(started)),
        )
    }

    async fn sum_up(self) -> anyhow::Result<()> {
        title("Summary")?;
        let status = self.mesh.access("B").connect().await?.status().await?;
        let units = text::count(self.units, "unit");
        let (carried, spent) = (text::bytes(self.carried), took(self.started));
        let packets = text::count(status.forwarded.packets, "packet");
        let forwarded = text::bytes(status.forwarded.bytes);
        line(
            "units",
            &format!("{units}, all succeeded; {carried} of payloads and responses; {spent} in all"),
        )?;
        line(
            "relay",
            &format!("B passed on {packets}, {forwarded}, sealed between A and C: it can't read them"),
        )
    }
}

/// Runs a unit on C from A and gives all its responses, one after the other.
async fn work(access: &Access, directive: &str, payload: &[Bytes]) -> anyhow::Result<Bytes> {
    let length = payload.iter().map(|part| part.len() as u64).sum();
    let submit = unit::submission(directive, Some(&NodeId::parse("C")?), length);
    let pieces = payload.iter().flat_map(|part| {
        (0..part.len())
            .step_by(PIECE_BYTES)
            .map(|at| part.slice(at..part.len().min(at + PIECE_BYTES)))
    });
    let mut answer = BytesMut::new();
    let client = access.connect().await?;
    let eof = unit::run(client, &submit, pieces, |piece| {
        answer.extend_from_slice(&piece.data)
    })
    .await?;
    if eof.kind != Kind::Ok {
        bail!("{directive} on C: {}: {}", eof.kind, text::one_line(&eof.message));
    }
    Ok(answer.freeze())
}

/// What to do with a mesh that was kept.
fn kept(mesh: &DemoMesh, place: &Place) -> String {
    let program = std::env::current_exe().map_or_else(|_| "node".into(), |path| path.display().to_string());
    let a = mesh.data_dir("A");
    let a = a.display();
    let stop = mesh
        .process_ids()
        .iter()
        .map(u32::to_string)
        .collect::<Vec<_>>()
        .join(" ");
    let listening: Vec<_> = mesh
        .nodes()
        .iter()
        .map(|node| format!("{} {}", node.id, node.address))
        .collect();
    let strong = Style::new().bold();
    format!(
        "\n{strong}The mesh keeps running{strong:#}: {}

  export NODE_DATA_DIR={a}
  {program} status
  {program} workers
  {program} submit --to C --directive text:upper 'hello mesh'
  {program} submit --to C --directive sleep:execute '{{\"duration\": 1, \"repeat\": 5}}'
  {program} bench --to C --concurrency 16

Stop it and remove its files:
  kill {stop}
  rm -r {}\n",
        listening.join(", "),
        place.path.display()
    )
}

fn after(started: Instant) -> String {
    format!("after {}", text::duration(started.elapsed()))
}

fn took(started: Instant) -> String {
    text::duration(started.elapsed())
}

fn title(text: &str) -> anyhow::Result<()> {
    let strong = Style::new().bold();
    say(&format!("\n{strong}{text}{strong:#}\n"))
}

fn line(name: &str, text: &str) -> anyhow::Result<()> {
    say(&format!("  {name:<16} {text}\n"))
}

fn say(text: &str) -> anyhow::Result<()> {
    let mut out = anstream::stdout();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}
