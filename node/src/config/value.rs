//! How single values are written, wherever they stand: in the file, in a variable, in a flag.
//!
//! Each function takes the text and returns the checked value, or a fragment that says what was expected.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use jiff::SignedDuration;
use workmesh_proto::NodeId;
use workmesh_proto::wire::link::{MAX_LABELS, MAX_TEXT_BYTES};

use super::{DEFAULT_PORT, LogFormat};

/// The most peers that one node dials.
pub const MAX_PEERS: usize = 256;
const MAX_HOST_BYTES: usize = 253;
const MAX_WORKERS: usize = 1024;
const MAX_QUEUE: usize = 1_000_000;
const DETECTION: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(600));
const PAYLOAD_IDLE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(86_400));
const DRAIN_GRACE: (Duration, Duration) = (Duration::ZERO, Duration::from_secs(86_400));
const LOST_AFTER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(8760 * 3600));
const MAX_BATCH_FROM: usize = 1_000_000;
const KEEP_FOR: (Duration, Duration) = (Duration::ZERO, Duration::from_secs(87_600 * 3600));
const MAX_KEEP_COUNT: usize = 10_000_000;
const MIN_QUOTA_BYTES: u64 = 16 * 1024 * 1024;
const MIN_SPOOL_BYTES: u64 = 64 * 1024;
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// A peer to dial: `host:port`, or `id@host:port` to demand that it is this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// Who it has to be; `None`: any member of the mesh.
    pub id: Option<NodeId>,
    /// A name, resolved at each dial, or an address; IPv6 without brackets.
    pub host: String,
    /// The UDP port.
    pub port: u16,
}

impl FromStr for PeerAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (id, address) = match text.split_once('@') {
            Some((id, address)) => (Some(peer_id(id)?), address),
            None => (None, text),
        };
        let (host, port) = split_port(address)?;
        check_host(&host)?;
        Ok(Self { id, host, port })
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(id) = &self.id {
            write!(f, "{id}@")?;
        }
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

fn peer_id(text: &str) -> Result<NodeId, String> {
    match NodeId::parse(text) {
        Ok(id) if !id.is_leaf() => Ok(id),
        Ok(id) => Err(format!("{id} is a leaf instance and can't be dialled")),
        Err(error) => Err(error.to_string()),
    }
}

fn split_port(address: &str) -> Result<(String, u16), String> {
    if let Some(rest) = address.strip_prefix('[') {
        let (host, rest) = rest
            .split_once(']')
            .ok_or_else(|| format!("{address:?} lacks the closing ']'"))?;
        let literal = host.split_once('%').map_or(host, |(literal, _zone)| literal);
        if literal.parse::<Ipv6Addr>().is_err() {
            return Err(format!("{host:?} is no IPv6 address"));
        }
        return match rest.strip_prefix(':') {
            Some(digits) => Ok((host.to_owned(), port(digits)?)),
            None if rest.is_empty() => Ok((host.to_owned(), DEFAULT_PORT)),
            None => Err(format!("expected ':' and a port after ']', found {rest:?}")),
        };
    }
    match address.split_once(':') {
        None => Ok((address.to_owned(), DEFAULT_PORT)),
        Some((_, rest)) if rest.contains(':') => Err(format!(
            "{address:?} has several colons; write an IPv6 address in brackets, as in [::1]:{DEFAULT_PORT}"
        )),
        Some((host, digits)) => Ok((host.to_owned(), port(digits)?)),
    }
}

fn port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err(format!("expected a port from 1 to 65535, found {text:?}")),
        Ok(port) => Ok(port),
    }
}

fn check_host(host: &str) -> Result<(), String> {
    if host.contains(':') {
        return Ok(());
    }
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if host.is_empty() || host.len() > MAX_HOST_BYTES || !host.chars().all(good) {
        return Err(format!(
            "{host:?} is no host name; expected host:port or id@host:port"
        ));
    }
    Ok(())
}

/// Peers with commas between them.
pub(super) fn peers(text: &str) -> Result<Vec<PeerAddress>, String> {
    let peers = text
        .split(',')
        .map(str::trim)
        .filter(|peer| !peer.is_empty())
        .map(PeerAddress::from_str)
        .collect::<Result<Vec<_>, _>>()?;
    check_peers(peers)
}

pub(super) fn check_peers(peers: Vec<PeerAddress>) -> Result<Vec<PeerAddress>, String> {
    match peers.len() {
        0..=MAX_PEERS => Ok(peers),
        found => Err(format!("expected at most {MAX_PEERS} peers, found {found}")),
    }
}

/// Where to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listen {
    At(SocketAddr),
    Off,
}

/// An address to bind: `address:port`, `address`, or `:port` for all IPv4 addresses. Port 0: one that is free.
pub(super) fn listen(text: &str) -> Result<Listen, String> {
    let bad = || {
        format!(
            "expected an address and port such as 0.0.0.0:{DEFAULT_PORT} or [::]:{DEFAULT_PORT}, found {text:?}"
        )
    };
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .unwrap_or(text);
    let port_only = || {
        let port = text.strip_prefix(':')?.parse().ok()?;
        Some((Ipv4Addr::UNSPECIFIED, port).into())
    };
    text.parse::<SocketAddr>()
        .ok()
        .or_else(|| bare.parse::<IpAddr>().ok().map(|ip| (ip, DEFAULT_PORT).into()))
        .or_else(port_only)
        .map(Listen::At)
        .ok_or_else(bad)
}

/// The cost of a link.
pub(super) fn cost(text: &str) -> Result<u16, String> {
    let number = text.parse().unwrap_or(-1);
    check_cost(number).map_err(|_| format!("expected a cost from 1 to 65535, found {text:?}"))
}

pub(super) fn check_cost(number: i64) -> Result<u16, String> {
    match u16::try_from(number) {
        Ok(0) | Err(_) => Err(format!("expected a cost from 1 to 65535, found {number}")),
        Ok(cost) => Ok(cost),
    }
}

/// The number of slots.
pub(super) fn max_workers(text: &str) -> Result<usize, String> {
    count(text, 1, MAX_WORKERS)
}

pub(super) fn check_max_workers(number: i64) -> Result<usize, String> {
    check_count(number, 1, MAX_WORKERS)
}

/// The length of the queue.
pub(super) fn queue(text: &str) -> Result<usize, String> {
    count(text, 0, MAX_QUEUE)
}

pub(super) fn check_queue(number: i64) -> Result<usize, String> {
    check_count(number, 0, MAX_QUEUE)
}

fn count(text: &str, min: usize, max: usize) -> Result<usize, String> {
    let number = text.parse().unwrap_or(-1);
    check_count(number, min, max)
        .map_err(|_| format!("expected a number from {min} to {max}, found {text:?}"))
}

fn check_count(number: i64, min: usize, max: usize) -> Result<usize, String> {
    usize::try_from(number)
        .ok()
        .filter(|count| (min..=max).contains(count))
        .ok_or_else(|| format!("expected a number from {min} to {max}, found {number}"))
}

/// How long a silence makes a neighbour dead.
pub(super) fn detection(text: &str) -> Result<Duration, String> {
    duration(text, DETECTION)
}

/// How long a payload may stand still.
pub(super) fn payload_idle(text: &str) -> Result<Duration, String> {
    duration(text, PAYLOAD_IDLE)
}

/// How long units may go on while the node drains or stops.
pub(super) fn drain_grace(text: &str) -> Result<Duration, String> {
    duration(text, DRAIN_GRACE)
}

/// How long an executor may be out of reach.
pub(super) fn lost_after(text: &str) -> Result<Duration, String> {
    duration(text, LOST_AFTER)
}

/// How long ended units are kept.
pub(super) fn keep_for(text: &str) -> Result<Duration, String> {
    duration(text, KEEP_FOR)
}

/// How many other units are under way when one goes in a batch.
pub(super) fn batch_from(text: &str) -> Result<usize, String> {
    count(text, 0, MAX_BATCH_FROM)
}

pub(super) fn check_batch_from(number: i64) -> Result<usize, String> {
    check_count(number, 0, MAX_BATCH_FROM)
}

/// How many ended units are kept.
pub(super) fn keep_count(text: &str) -> Result<usize, String> {
    count(text, 0, MAX_KEEP_COUNT)
}

pub(super) fn check_keep_count(number: i64) -> Result<usize, String> {
    check_count(number, 0, MAX_KEEP_COUNT)
}

fn duration(text: &str, (min, max): (Duration, Duration)) -> Result<Duration, String> {
    let bad = || format!("expected a duration with a unit, such as 500ms, 5s, 2m or 24h, found {text:?}");
    let parsed: SignedDuration = text.parse().map_err(|_| bad())?;
    let duration = Duration::try_from(parsed).map_err(|_| bad())?;
    if !(min..=max).contains(&duration) {
        return Err(format!(
            "expected a duration from {} to {}, found {text:?}",
            show_duration(min),
            show_duration(max)
        ));
    }
    Ok(duration)
}

/// A duration as the file takes it.
pub(super) fn show_duration(duration: Duration) -> String {
    SignedDuration::try_from(duration).map_or_else(|_| format!("{duration:?}"), |d| format!("{d:#}"))
}

/// A length in bytes, at least 1.
pub(super) fn size(text: &str) -> Result<u64, String> {
    match text.parse::<ByteSize>() {
        Ok(ByteSize(0)) | Err(_) => Err(format!(
            "expected a size of at least 1 byte, such as 16MiB, found {text:?}"
        )),
        Ok(ByteSize(bytes)) => Ok(bytes),
    }
}

/// The share of the disk for durable units.
pub(super) fn quota(text: &str) -> Result<u64, String> {
    size_from(text, MIN_QUOTA_BYTES)
}

/// What stays free of the disk.
pub(super) fn reserve(text: &str) -> Result<u64, String> {
    size_from(text, 0)
}

/// How far a worker may be ahead of its origin.
pub(super) fn spool_limit(text: &str) -> Result<u64, String> {
    size_from(text, MIN_SPOOL_BYTES)
}

fn size_from(text: &str, min: u64) -> Result<u64, String> {
    match text.parse::<ByteSize>() {
        Ok(ByteSize(bytes)) if bytes >= min => Ok(bytes),
        Ok(_) | Err(_) => Err(format!(
            "expected a size of at least {}, such as 1GiB, found {text:?}",
            show_size(min)
        )),
    }
}

/// A size as the file takes it, without loss.
pub(super) fn show_size(bytes: u64) -> String {
    let units = [
        (1u64 << 40, "TiB"),
        (1 << 30, "GiB"),
        (1 << 20, "MiB"),
        (1 << 10, "KiB"),
    ];
    match units
        .iter()
        .find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit))
    {
        Some((unit, name)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes}B"),
    }
}

/// Labels as `key=value`, with commas between them.
pub(super) fn labels(text: &str) -> Result<BTreeMap<String, String>, String> {
    let labels = text
        .split(',')
        .map(str::trim)
        .filter(|label| !label.is_empty())
        .map(|label| {
            label
                .split_once('=')
                .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
                .ok_or_else(|| format!("expected key=value, found {label:?}"))
        })
        .collect::<Result<_, _>>()?;
    check_labels(labels)
}

pub(super) fn check_labels(labels: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, String> {
    if labels.len() > MAX_LABELS {
        return Err(format!(
            "expected at most {MAX_LABELS} labels, found {}",
            labels.len()
        ));
    }
    for (key, value) in &labels {
        if key.is_empty() || key.len() > MAX_TEXT_BYTES || value.len() > MAX_TEXT_BYTES {
            return Err(format!(
                "label {key:?}: expected a name and a value of at most {MAX_TEXT_BYTES} bytes"
            ));
        }
    }
    Ok(labels)
}

/// What to log: a level, or `target=level` pairs, with commas between them.
pub(super) fn log(text: &str) -> Result<String, String> {
    let good = |part: &str| {
        let level = part.split_once('=').map_or(part, |(_target, level)| level);
        LEVELS
            .iter()
            .any(|known| known.eq_ignore_ascii_case(level.trim()))
    };
    if text.split(',').all(good) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "expected a level ({}) or target=level with commas, found {text:?}",
        LEVELS.join(", ")
    ))
}

/// How to write the log.
pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("expected text or json, found {text:?}")),
    }
}

/// Yes or no.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err(format!("expected true or false, found {text:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_have_a_host_and_perhaps_an_id_and_a_port() {
        for (text, shown) in [
            ("a", "a:8888"),
            ("a:1", "a:1"),
            ("b.example.org:65535", "b.example.org:65535"),
            ("nodeB@b:7", "nodeB@b:7"),
            ("[::1]", "[::1]:8888"),
            ("x@[fe80::1%eth0]:9", "x@[fe80::1%eth0]:9"),
            ("10.0.0.1:5", "10.0.0.1:5"),
        ] {
            let peer: PeerAddress = text.parse().unwrap();
            assert_eq!(peer.to_string(), shown);
        }
        let peer: PeerAddress = "b@[::1]:5".parse().unwrap();
        assert_eq!((peer.host.as_str(), peer.port), ("::1", 5));
    }

    #[test]
    fn malformed_peers_say_what_was_expected() {
        for (text, part) in [
            ("", "no host name"),
            (":8888", "no host name"),
            ("a:0", "port from 1 to 65535"),
            ("a:65536", "port from 1 to 65535"),
            ("a:x", "port from 1 to 65535"),
            ("::1", "in brackets"),
            ("[::1", "closing"),
            ("[a]:1", "no IPv6 address"),
            ("[::1]x", "after ']'"),
            ("@a:1", "empty"),
            ("b.c@a:1", "contains '.'"),
            ("b+12@a:1", "leaf instance"),
            ("a b:1", "no host name"),
            ("quic://a:1", "several colons"),
        ] {
            let error = text.parse::<PeerAddress>().unwrap_err();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }

    #[test]
    fn the_list_of_peers_has_a_limit() {
        let list = |n: usize| vec!["a"; n].join(",");
        assert_eq!(peers(&list(MAX_PEERS)).unwrap().len(), MAX_PEERS);
        assert!(peers(&list(MAX_PEERS + 1)).unwrap_err().contains("at most 256"));
        assert_eq!(peers(" a , b:2,").unwrap().len(), 2);
    }

    #[test]
    fn listen_addresses_may_lack_the_port_or_the_address() {
        for (text, address) in [
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("127.0.0.1", "127.0.0.1:8888"),
            (":9", "0.0.0.0:9"),
            ("[::]:9", "[::]:9"),
            ("::1", "[::1]:8888"),
            ("[::1]", "[::1]:8888"),
        ] {
            assert_eq!(listen(text), Ok(Listen::At(address.parse().unwrap())), "{text}");
        }
        for text in ["", "8888", "localhost:8888", "1.2.3.4:65536", ":x"] {
            assert!(listen(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_are_good_at_their_limits_and_not_past_them() {
        assert_eq!((cost("1"), cost("65535")), (Ok(1), Ok(65535)));
        assert_eq!((max_workers("1"), max_workers("1024")), (Ok(1), Ok(1024)));
        assert_eq!((queue("0"), queue("1000000")), (Ok(0), Ok(1_000_000)));
        for bad in ["0", "65536", "-1", "x", "", "1.5"] {
            assert!(cost(bad).is_err(), "{bad}");
        }
        for bad in ["0", "1025", "x"] {
            assert!(max_workers(bad).is_err(), "{bad}");
        }
        assert_eq!((keep_count("0"), keep_count("10000000")), (Ok(0), Ok(10_000_000)));
        for bad in ["-1", "10000001"] {
            assert!(keep_count(bad).is_err(), "{bad}");
        }
        assert_eq!((batch_from("0"), batch_from("1000000")), (Ok(0), Ok(1_000_000)));
        for bad in ["-1", "1000001"] {
            assert!(queue(bad).is_err(), "{bad}");
            assert!(batch_from(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_good_at_their_limits_and_not_past_them() {
        assert_eq!(detection("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(detection("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(detection("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(
            detection("199ms").unwrap_err(),
            "expected a duration from 200ms to 10m, found \"199ms\""
        );
        assert!(detection("601s").is_err());
        for bad in ["5", "", "-5s", "5 parsecs", "1 month"] {
            assert!(detection(bad).unwrap_err().contains("with a unit"), "{bad}");
        }
        assert_eq!(payload_idle("24h"), Ok(Duration::from_secs(86_400)));
        assert!(payload_idle("99ms").is_err());
        assert_eq!(drain_grace("0s"), Ok(Duration::ZERO));
        assert_eq!(drain_grace("24h"), Ok(Duration::from_secs(86_400)));
        assert!(drain_grace("24h 1s").is_err());
        assert_eq!(lost_after("1s"), Ok(Duration::from_secs(1)));
        assert!(lost_after("8760h").is_ok());
        assert!(lost_after("999ms").is_err() && lost_after("8760h 1s").is_err());
        assert_eq!(keep_for("0s"), Ok(Duration::ZERO));
        assert!(keep_for("87600h").is_ok());
        assert!(keep_for("87600h 1s").is_err());
    }

    #[test]
    fn sizes_have_units_of_1024_and_of_1000() {
        assert_eq!(size("16MiB"), Ok(16 << 20));
        assert_eq!(size("1kB"), Ok(1000));
        assert_eq!(size("1"), Ok(1));
        for bad in ["0", "", "much", "-1"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        for bytes in [1, 1000, 1024, 16 << 20, 16 << 30, (1 << 30) + 1] {
            assert_eq!(size(&show_size(bytes)), Ok(bytes));
        }
        assert_eq!(show_size(16 << 20), "16MiB");
        assert_eq!(show_size(0), "0B");
    }

    #[test]
    fn sizes_are_good_at_their_limits_and_not_past_them() {
        assert_eq!(quota("16MiB"), Ok(16 << 20));
        assert_eq!(
            quota("16777215").unwrap_err(),
            "expected a size of at least 16MiB, such as 1GiB, found \"16777215\""
        );
        assert_eq!(reserve("0B"), Ok(0));
        assert!(reserve("-1").is_err() && reserve("").is_err());
        assert_eq!(spool_limit("64KiB"), Ok(64 << 10));
        assert!(spool_limit("65535").is_err());
    }

    #[test]
    fn durations_are_shown_as_they_are_read() {
        for text in ["200ms", "5s", "1m 30s"] {
            assert_eq!(show_duration(detection(text).unwrap()), text);
        }
    }

    #[test]
    fn labels_have_limits() {
        assert_eq!(labels("site=berlin, rack = 4").unwrap().len(), 2);
        let many = |n: usize| (0..n).map(|i| format!("k{i}=v")).collect::<Vec<_>>().join(",");
        assert!(labels(&many(MAX_LABELS)).is_ok());
        assert!(labels(&many(MAX_LABELS + 1)).is_err());
        assert!(labels(&format!("k={}", "v".repeat(MAX_TEXT_BYTES))).is_ok());
        assert!(labels(&format!("k={}", "v".repeat(MAX_TEXT_BYTES + 1))).is_err());
        assert!(labels("novalue").is_err() && labels("=v").is_err());
    }

    #[test]
    fn log_filters_are_levels_and_targets() {
        for good in ["info", "WARN", "info,workmesh_node::link=debug", "off"] {
            assert!(log(good).is_ok(), "{good}");
        }
        for bad in ["", "infoo", "info,", "link=loud"] {
            assert!(log(bad).is_err(), "{bad}");
        }
    }
}
