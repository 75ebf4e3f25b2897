//! Datagrams that nobody should have sent: noise, forged and replayed forward frames. Dropped, counted, logged once; work
//! goes on. And datagrams that are lost or come late.

use std::net::UdpSocket;

use rustix::process::Signal;
use workmesh_tests::{Direction, Log, Pattern, Running, Spec, TestMesh, UdpProxy, wait_until};

const NO_LINK: &str = "forward frame from an address that is no live link";
const FORGED: &str = "forward frame that is malformed, forged or of an old link";
const REPLAYED: &str = "forward frame that came before, or far too late: replayed";
/// Header of a forward frame, in bytes.
const HEADER: usize = 32;

fn dropped(mesh: &TestMesh, id: &str) -> u64 {
    mesh.status(id)["forwarded"]["dropped"].as_u64().unwrap()
}

fn dropped_for(mesh: &TestMesh, id: &str, reason: &str) -> u64 {
    mesh.status(id)["counters"][format!("forward.dropped.{reason}")]
        .as_u64()
        .unwrap()
}

fn wait_until_logged_once(log: &Log, reason: &str) {
    wait_until(&format!("the log says: {reason}"), || log.count(reason) > 0);
    assert_eq!(log.count(reason), 1, "{reason}");
}

/// Ticks from B at A.
fn begin_ticks(mesh: &TestMesh) -> Running {
    let submit = [
        "submit",
        "--to",
        "B",
        "--directive",
        "test:ticks",
        "--param",
        "count=60",
        "--format",
        "lines",
    ];
    let mut unit = mesh.begin("A", &submit);
    assert_eq!(unit.next_line().as_deref(), Some("1"));
    unit
}

fn all_ticks_come(mut unit: Running) {
    for tick in 2..=60 {
        assert_eq!(unit.next_line(), Some(tick.to_string()));
    }
    assert_eq!(unit.finish().status, 0);
}

/// B dials A through a proxy of the test.
fn pair() -> (TestMesh, UdpProxy) {
    let mut mesh = TestMesh::new();
    let a = mesh.start(Spec::new("A")).address();
    let proxy = UdpProxy::start(a);
    mesh.start(Spec::new("B").peer(proxy.address()).own_workers());
    mesh.wait_until_all_routes();
    (mesh, proxy)
}

fn is_forward_frame(datagram: &[u8]) -> bool {
    datagram.first() == Some(&1) && datagram.len() > HEADER
}

#[test]
fn noise_is_dropped_and_logged_once() {
    let mut mesh = TestMesh::new();
    let a = mesh.start(Spec::new("A")).address();
    mesh.start(Spec::new("B").peer(a).own_workers());
    mesh.wait_until_all_routes();
    let unit = begin_ticks(&mesh);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut frames = 0;
    for first in 0..=255_u8 {
        for length in [1, 2, 31, 32, 33, 100, 1200] {
            let datagram: Vec<u8> = (0..length)
                .map(|at| if at == 0 { first } else { first.wrapping_mul(31) })
                .collect();
            socket.send_to(&datagram, a).unwrap();
            frames += u64::from(first < 0x40);
        }
        if first % 16 == 0 {
            // Lets the node read, so that its socket's buffer loses nothing.
            mesh.status("A");
        }
    }
    socket.send_to(&[], a).unwrap();
    wait_until("all frames are dropped", || dropped(&mesh, "A") >= frames);
    wait_until_logged_once(mesh.node("A").log(), NO_LINK);
    all_ticks_come(unit);
}

#[test]
fn forged_frames_have_no_effect() {
    let (mesh, proxy) = pair();
    let unit = begin_ticks(&mesh);
    let way = Direction::ToDialler;
    wait_until("a frame has passed", || {
        !proxy.kept(way, is_forward_frame).is_empty()
    });
    let frame = &proxy.kept(way, is_forward_frame)[0];
    // Each byte that the tag covers, and the tag itself.
    let covered = (HEADER + 16).min(frame.len());
    for at in 1..covered {
        let mut forged = frame.clone();
        forged[at] ^= 0x55;
        proxy.inject(way, &forged);
    }
    wait_until("the forged frames are dropped", || {
        dropped_for(&mesh, "B", "bad_frame") >= covered as u64 - 1
    });
    wait_until_logged_once(mesh.node("B").log(), FORGED);
    assert_eq!(dropped_for(&mesh, "B", "replayed"), 0);
    all_ticks_come(unit);
}

#[test]
fn replayed_frames_are_refused_and_logged_once() {
    let (mesh, proxy) = pair();
    let unit = begin_ticks(&mesh);
    for (way, at) in [(Direction::ToDialler, "B"), (Direction::ToListener, "A")] {
        wait_until("frames have passed", || {
            proxy.kept(way, is_forward_frame).len() > 4
        });
        let frames = proxy.kept(way, is_forward_frame);
        for _ in 0..2 {
            for frame in &frames {
                proxy.inject(way, frame);
            }
            // Lets the node read, so that its socket's buffer loses nothing.
            mesh.status(at);
        }
        let replays = 2 * frames.len() as u64;
        wait_until("the replayed frames are dropped", || {
            dropped_for(&mesh, at, "replayed") >= replays
        });
        assert_eq!(dropped(&mesh, at), dropped_for(&mesh, at, "replayed"));
        wait_until_logged_once(mesh.node(at).log(), REPLAYED);
    }
    all_ticks_come(unit);
    assert_eq!(mesh.node("B").log().count(REPLAYED), 1);
}

#[test]
fn frames_of_an_earlier_link_are_worth_nothing() {
    let (mut mesh, proxy) = pair();
    all_ticks_come(begin_ticks(&mesh));
    let way = Direction::ToListener;
    let frames = proxy.kept(way, is_forward_frame);
    assert!(!frames.is_empty());
    mesh.node("B").signal(Signal::TERM);
    assert_eq!(mesh.node("B").wait(), 0);
    mesh.restart("B");
    mesh.wait_until_all_routes();
    let before = dropped(&mesh, "A");
    for frame in frames.iter().take(20) {
        proxy.inject(way, frame);
    }
    let replayed = frames.len().min(20) as u64;
    wait_until("the old frames are dropped", || {
        dropped(&mesh, "A") >= before + replayed
    });
    wait_until_logged_once(mesh.node("A").log(), FORGED);
    all_ticks_come(begin_ticks(&mesh));
}

#[test]
fn loss_and_reordering_cost_nothing_but_time() {
    let (mut mesh, proxy) = pair();
    proxy.lose_one_in(20);
    let b = mesh.node("B").address();
    mesh.start(Spec::new("C").peer(b));
    mesh.wait_until_all_routes();
    let mut payload = Vec::new();
    std::io::Read::read_to_end(&mut Pattern::new(8 * 1024 * 1024), &mut payload).unwrap();
    let digest = blake3::hash(&payload).to_string();
    let submit = ["submit", "--to", "A", "--directive", "digest:blake3", "-"];
    assert_eq!(
        mesh.at_with_input("C", &submit, payload.clone()).ok().text(),
        digest
    );
    let echo = ["submit", "--to", "C", "--directive", "echo:buffer", "-"];
    assert!(mesh.at_with_input("A", &echo, payload.clone()).ok().stdout == payload);
    all_ticks_come(begin_ticks(&mesh));
    for id in ["A", "B", "C"] {
        assert_eq!(dropped_for(&mesh, id, "replayed"), 0, "at {id}");
    }
}
