//! What a run does and when: units and faults, a function of the seed and the options alone.

use std::fmt;
use std::time::Duration;

use uuid::Uuid;

use crate::rng::Rng;
use crate::work::{Responses, Work};

/// Mean pause between two units, in milliseconds.
const UNIT_EVERY_MS: u64 = 350;
/// Mean pause between two faults, in milliseconds.
const FAULT_EVERY_MS: u64 = 4000;
/// No fault begins before this: the first units find a mesh that is whole.
const CALM: Duration = Duration::from_secs(2);
/// Of the units, one in so many has a result of [`LARGE_BYTES`].
const LARGE_ONE_IN: u64 = 60;
const LARGE_BYTES: u64 = 64 * MIB;
const MIB: u64 = 1024 * 1024;
/// With one unit in so many there come, in the same moment, [`BURST`] small ones.
const BURST_ONE_IN: u64 = 40;
const BURST: usize = 12;
/// Deadline of a unit of a steady load that names its node.
const STEADY_DEADLINE: Duration = Duration::from_secs(100);
/// Purposes of the seed's generators.
const LOAD: u64 = 1;
const FAULTS: u64 = 2;

/// What a plan is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The plan is the same for the same seed.
    pub(crate) seed: u64,
    /// How long load and faults last.
    pub(crate) duration: Duration,
    /// How many nodes there are, from 3.
    pub(crate) nodes: usize,
    /// Which units there are.
    pub(crate) ways: Ways,
}

/// Which units a plan has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ways {
    /// All.
    Mixed,
    /// Only durable ones.
    Durable,
    /// Only those that are not.
    Plain,
}

/// How a unit is submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// `submit --detach`.
    Detached,
    /// `submit --durable`.
    Durable,
    /// `submit`.
    Plain,
}

/// What its client does to a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whim {
    /// Nothing: it waits.
    None,
    /// Cancels it so long after the submission.
    Cancel(Duration),
    /// Is killed so long after the submission; another one attaches.
    Die(Duration),
    /// Submits it again so long after the submission.
    Repeat(Duration),
}

/// A unit of the load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    /// When it is submitted, from the start.
    pub(crate) at: Duration,
    /// Its id.
    pub(crate) id: Uuid,
    /// The node that it is submitted to.
    pub(crate) origin: usize,
    /// The node that has to run it, if it is named.
    pub(crate) to: Option<usize>,
    /// How it is submitted.
    pub(crate) way: Way,
    /// What it asks for.
    pub(crate) work: Work,
    /// Its deadline, from its submission.
    pub(crate) deadline: Option<Duration>,
    /// Whether it may run again.
    pub(crate) idempotent: bool,
    /// What its client does.
    pub(crate) whim: Whim,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// `kill -9` of a node, and its start so long after.
    Kill(usize, Duration),
    /// SIGSTOP of a node, and SIGCONT so long after.
    Pause(usize, Duration),
    /// SIGTERM of a node, and its start so long after its end.
    Restart(usize, Duration),
    /// A link that passes nothing for so long.
    Cut(usize, Duration),
    /// A link that is slower by the first for as long as the second.
    Delay(usize, Duration, Duration),
}

/// A fault and when it begins, from the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) at: Duration,
    pub(crate) fault: Fault,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// What it was made from.
    pub(crate) settings: Settings,
    /// Units in the order in which they are submitted.
    pub(crate) units: Vec<Unit>,
    /// Faults in the order in which they begin.
    pub(crate) faults: Vec<Planned>,
}

impl Plan {
    /// The plan for these settings.
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            units: units(&settings),
            faults: faults(&settings),
        }
    }
}

/// The links of a mesh of so many nodes, dialling node first: a ring, and from every other node a chord across it.
pub(crate) fn links(nodes: usize) -> Vec<(usize, usize)> {
    let ring = (0..nodes).map(|node| (node, (node + 1) % nodes));
    let chords = (0..nodes)
        .step_by(2)
        .map(|node| (node, (node + 3) % nodes))
        .filter(|_| nodes > 5);
    let mut links: Vec<_> = ring.chain(chords).map(|(a, b)| (a.max(b), a.min(b))).collect();
    links.sort_unstable();
    links.dedup();
    links
}

fn units(settings: &Settings) -> Vec<Unit> {
    let mut rng = Rng::new(settings.seed, LOAD);
    let mut units = Vec::new();
    let mut at = Duration::ZERO;
    while at < settings.duration {
        let first = unit(&mut rng, settings, at);
        if rng.range(1..=BURST_ONE_IN) == 1 {
            units.extend(burst(&mut rng, &first));
        }
        units.push(first);
        at += rng.millis(0..=2 * UNIT_EVERY_MS);
    }
    units
}

/// Small units at an even rate, without end: nothing but their ids, nodes and lengths is left to chance.
pub(crate) fn steady(settings: &Settings, rate: u32) -> impl Iterator<Item = Unit> {
    let mut rng = Rng::new(settings.seed, LOAD);
    let nodes = settings.nodes;
    (0..).map(move |number: u32| {
        let to = rng.chance(20).then(|| rng.index(nodes));
        Unit {
            at: Duration::from_secs(1) * number / rate,
            id: id(&mut rng),
            origin: rng.index(nodes),
            to,
            way: Way::Durable,
            work: Work::Record(Responses {
                count: 1,
                bytes: rng.range(1..=512),
                chunk: 0,
                sleep_ms: rng.range(0..=20),
            }),
            // With one it waits for a node that is away.
            deadline: to.map(|_| STEADY_DEADLINE),
            idempotent: false,
            whim: Whim::None,
        }
    })
}

fn id(rng: &mut Rng) -> Uuid {
    uuid::Builder::from_u128(u128::from(rng.next()) << 64 | u128::from(rng.next()))
        .with_variant(uuid::Variant::RFC4122)
        .with_version(uuid::Version::SortRand)
        .into_uuid()
}

fn unit(rng: &mut Rng, settings: &Settings, at: Duration) -> Unit {
    let ways: &[(u64, Way)] = match settings.ways {
        Ways::Mixed => &[(40, Way::Detached), (30, Way::Durable), (30, Way::Plain)],
        Ways::Durable => &[(60, Way::Detached), (40, Way::Durable)],
        Ways::Plain => &[(1, Way::Plain)],
    };
    let way = rng.weighted(ways).unwrap_or(Way::Plain);
    let whims: &[(u64, u8)] = match way {
        Way::Detached => &[(75, 0), (12, 1), (13, 3)],
        Way::Durable => &[(68, 0), (12, 1), (20, 2)],
        Way::Plain => &[(88, 0), (12, 1)],
    };
    let after = rng.millis(50..=3000);
    let whim = match rng.weighted(whims) {
        Some(1) => Whim::Cancel(after),
        Some(2) => Whim::Die(after),
        Some(3) => Whim::Repeat(after),
        _ => Whim::None,
    };
    Unit {
        at,
        id: id(rng),
        origin: rng.index(settings.nodes),
        to: rng.chance(75).then(|| rng.index(settings.nodes)),
        way,
        work: work(rng),
        deadline: rng.chance(15).then(|| rng.millis(500..=8000)),
        idempotent: rng.chance(30),
        whim,
    }
}

/// Small units of the origin and for the executor of `first`: some of them are offered together.
fn burst(rng: &mut Rng, first: &Unit) -> Vec<Unit> {
    let mut one = || Unit {
        id: id(rng),
        way: match first.way {
            Way::Plain => Way::Plain,
            Way::Durable | Way::Detached => Way::Detached,
        },
        work: Work::Record(Responses {
            count: rng.range(0..=2),
            bytes: rng.range(0..=1024),
            chunk: 0,
            sleep_ms: rng.range(0..=9).saturating_sub(4),
        }),
        idempotent: rng.chance(30),
        whim: Whim::None,
        ..first.clone()
    };
    (0..BURST).map(|_| one()).collect()
}

fn work(rng: &mut Rng) -> Work {
    if rng.range(1..=LARGE_ONE_IN) == 1 {
        let count = 1 << rng.range(0..=2);
        return Work::Record(Responses {
            count,
            bytes: LARGE_BYTES / count,
            chunk: MIB,
            sleep_ms: rng.range(0..=100),
        });
    }
    let small = rng.range(0..=4096);
    let sleep_ms = rng.range(0..=400);
    match rng.weighted(&[(15, 0), (10, 1), (10, 2), (5, 3), (15, 4), (25, 5), (20, 6)]) {
        Some(0) => Work::Echo(small),
        Some(1) => Work::Echo(MIB),
        Some(2) => Work::Digest(small),
        Some(3) => Work::Digest(MIB),
        Some(4) => Work::Sleep(rng.range(1..=5), sleep_ms),
        Some(5) => Work::Record(Responses {
            count: rng.range(0..=4),
            bytes: small,
            chunk: 0,
            sleep_ms,
        }),
        _ => Work::Record(Responses {
            count: rng.range(1..=8),
            bytes: MIB / 8,
            chunk: 16 * 1024,
            sleep_ms: sleep_ms / 10,
        }),
    }
}

fn faults(settings: &Settings) -> Vec<Planned> {
    let mut rng = Rng::new(settings.seed, FAULTS);
    let links = links(settings.nodes).len();
    // Until when each node and link has a fault already.
    let mut nodes_busy = vec![Duration::ZERO; settings.nodes];
    let mut links_busy = vec![Duration::ZERO; links];
    let mut faults = Vec::new();
    let mut at = CALM;
    loop {
        at += rng.millis(0..=2 * FAULT_EVERY_MS);
        if at >= settings.duration {
            return faults;
        }
        let (node, link) = (rng.index(settings.nodes), rng.index(links));
        let (short, long) = (rng.millis(200..=6000), rng.millis(1000..=12_000));
        let fault = match rng.weighted(&[(30, 0), (20, 1), (15, 2), (20, 3), (15, 4)]) {
            Some(0) => Fault::Kill(node, short),
            Some(1) => Fault::Pause(node, short),
            Some(2) => Fault::Restart(node, short / 2),
            Some(3) => Fault::Cut(link, long),
            _ => Fault::Delay(link, rng.millis(20..=400), long),
        };
        let (busy, until) = match fault {
            Fault::Kill(..) | Fault::Pause(..) | Fault::Restart(..) => (&mut nodes_busy[node], at + short),
            Fault::Cut(..) | Fault::Delay(..) => (&mut links_busy[link], at + long),
        };
        if *busy > at {
            continue;
        }
        *busy = until;
        faults.push(Planned { at, fault });
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Detached => "detached",
            Self::Durable => "durable",
            Self::Plain => "plain",
        })
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let to = self.to.map_or_else(|| "any".to_owned(), name);
        write!(
            f,
            "{} {:8} {} to {to:3}  {}",
            self.id,
            self.way,
            name(self.origin),
            self.work
        )?;
        if self.idempotent {
            f.write_str(", idempotent")?;
        }
        if let Some(deadline) = self.deadline {
            write!(f, ", deadline {}", Seconds(deadline))?;
        }
        match self.whim {
            Whim::None => Ok(()),
            Whim::Cancel(after) => write!(f, ", cancelled after {}", Seconds(after)),
            Whim::Die(after) => write!(f, ", its client killed after {}", Seconds(after)),
            Whim::Repeat(after) => write!(f, ", submitted again after {}", Seconds(after)),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Kill(node, down) => write!(f, "kill -9 {}, down for {}", name(node), Seconds(down)),
            Self::Pause(node, lasts) => write!(f, "SIGSTOP {} for {}", name(node), Seconds(lasts)),
            Self::Restart(node, down) => write!(f, "SIGTERM {}, down for {}", name(node), Seconds(down)),
            Self::Cut(link, lasts) => write!(f, "cut link {link} for {}", Seconds(lasts)),
            Self::Delay(link, by, lasts) => {
                write!(f, "delay link {link} by {} for {}", Seconds(by), Seconds(lasts))
            }
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (dialler, listener)) in links(self.settings.nodes).into_iter().enumerate() {
            writeln!(f, "link {number:2}  {} - {}", name(dialler), name(listener))?;
        }
        let mut faults = self.faults.iter().peekable();
        for unit in &self.units {
            while let Some(planned) = faults.next_if(|planned| planned.at <= unit.at) {
                writeln!(f, "{}  FAULT {}", Seconds(planned.at), planned.fault)?;
            }
            writeln!(f, "{}  {unit}", Seconds(unit.at))?;
        }
        faults.try_for_each(|planned| writeln!(f, "{}  FAULT {}", Seconds(planned.at), planned.fault))
    }
}

/// A time as seconds with three digits behind the point.
pub(crate) struct Seconds(pub(crate) Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} s", self.0.as_secs_f64())
    }
}

/// The node id of a node.
pub(crate) fn name(node: usize) -> String {
    format!("n{node}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn settings(seed: u64) -> Settings {
        Settings {
            seed,
            duration: Duration::from_secs(600),
            nodes: 7,
            ways: Ways::Mixed,
        }
    }

    #[test]
    fn the_plan_is_a_function_of_the_seed() {
        assert_eq!(Plan::new(settings(1)), Plan::new(settings(1)));
        assert_eq!(
            Plan::new(settings(1)).to_string(),
            Plan::new(settings(1)).to_string()
        );
        let other = Plan::new(settings(2));
        assert_ne!(Plan::new(settings(1)).units, other.units);
        assert_ne!(Plan::new(settings(1)).faults, other.faults);
    }

    #[test]
    fn a_longer_run_begins_like_a_shorter_one() {
        let short = Settings {
            duration: Duration::from_secs(60),
            ..settings(3)
        };
        let (short, long) = (Plan::new(short), Plan::new(settings(3)));
        assert_eq!(short.units, long.units[..short.units.len()]);
        assert_eq!(short.faults, long.faults[..short.faults.len()]);
    }

    #[test]
    fn a_steady_load_has_as_many_units_in_each_second() {
        let second = Duration::from_secs(1);
        for rate in [1, 3, 200, 1000] {
            let times: Vec<_> = steady(&settings(3), rate)
                .take(10 * rate as usize)
                .map(|unit| unit.at)
                .collect();
            for start in 0..10 {
                let within = times
                    .iter()
                    .filter(|&at| (second * start..second * (start + 1)).contains(at));
                assert_eq!(within.count(), rate as usize);
            }
        }
        assert!(
            steady(&settings(3), 9)
                .take(50)
                .eq(steady(&settings(3), 9).take(50))
        );
    }

    #[test]
    fn ids_are_those_of_different_units() {
        let plan = Plan::new(settings(4));
        let ids: BTreeSet<_> = plan.units.iter().map(|unit| unit.id).collect();
        assert_eq!(ids.len(), plan.units.len());
        assert!(ids.iter().all(|id| id.get_version_num() == 7));
    }

    #[test]
    fn every_kind_of_unit_and_of_fault_occurs() {
        let plan = Plan::new(settings(5));
        let has = |wanted: &dyn Fn(&Unit) -> bool| assert!(plan.units.iter().any(wanted));
        for way in [Way::Detached, Way::Durable, Way::Plain] {
            has(&|unit| unit.way == way && unit.deadline.is_some());
            has(&|unit| unit.way == way && matches!(unit.whim, Whim::Cancel(_)));
            has(&|unit| unit.way == way && unit.idempotent);
        }
        has(&|unit| matches!(unit.work, Work::Record(r) if r.count * r.bytes == LARGE_BYTES));
        has(&|unit| matches!(unit.whim, Whim::Die(_)) && unit.way == Way::Durable);
        let together = |units: &[Unit]| {
            units
                .iter()
                .all(|unit| (unit.at, unit.origin) == (units[0].at, units[0].origin))
        };
        assert!(plan.units.windows(BURST).any(together));
        has(&|unit| matches!(unit.whim, Whim::Repeat(_)) && unit.way == Way::Detached);
        let names: BTreeSet<_> = plan
            .faults
            .iter()
            .map(|planned| std::mem::discriminant(&planned.fault))
            .map(|kind| format!("{kind:?}"))
            .collect();
        assert_eq!(names.len(), 5, "{names:?}");
    }

    #[test]
    fn ways_that_were_not_asked_for_do_not_occur() {
        for (ways, allowed) in [
            (Ways::Durable, &[Way::Detached, Way::Durable][..]),
            (Ways::Plain, &[Way::Plain]),
        ] {
            let plan = Plan::new(Settings { ways, ..settings(6) });
            assert!(plan.units.iter().all(|unit| allowed.contains(&unit.way)));
        }
    }

    #[test]
    fn links_make_one_ring_with_chords_and_lead_down() {
        for nodes in 3..=16 {
            let links = links(nodes);
            assert!(links.iter().all(|(dialler, listener)| listener < dialler));
            assert!(links.len() >= nodes, "{links:?}");
            assert!((0..nodes).all(|a| {
                let b = (a + 1) % nodes;
                links.contains(&(a.max(b), a.min(b)))
            }));
        }
        assert!(links(7).len() > 7);
    }
}
