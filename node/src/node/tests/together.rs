//! Small units that are offered together.

use super::site::{Identities, Site, Unit, live};
use super::workers::{self, GATED};
use crate::Kind;
use crate::store::faulty::Faulty;

fn batched(site: &Site) -> u64 {
    site.a.status().counters["work.batched"]
}

/// Two nodes that have a unit go in a batch from so many others on, until `act` is over; then they are stopped.
fn together(batch_from: usize, act: impl AsyncFnOnce(&Site)) {
    let identities = Identities::new();
    live(async {
        let site = Site::start(&identities, &[Faulty::new(), Faulty::new()], batch_from).await;
        act(&site).await;
        site.stop().await;
    });
}

#[test]
fn units_go_together_from_a_number_on_and_each_has_its_own_responses() {
    const UNITS: usize = 200;
    together(2, async |site| {
        let units: Vec<_> = (0..UNITS).map(|at| Unit::new(workers::BYTES, at)).collect();
        let told = futures_util::future::join_all(units.iter().map(|unit| site.run(unit))).await;
        for (unit, told) in units.iter().zip(told) {
            told.is_true(unit);
            assert_eq!(told.kind(), Some(Kind::Ok));
            site.is_over(unit).await;
        }
        let count = batched(site);
        assert!((1..=UNITS as u64).contains(&count), "{count} went together");
        site.hosts_nothing().await;
        // One at a time goes alone.
        site.run(&Unit::new(workers::BYTES, 1)).await;
        assert_eq!(batched(site), count);
    });
}

#[test]
fn a_batch_takes_releases_along() {
    together(0, async |site| {
        let along = || site.a.status().counters["work.batched_releases"];
        let mut last = None;
        for at in 0.. {
            let unit = Unit::new(workers::BYTES, at);
            site.run(&unit).await.is_true(&unit);
            last = Some(unit);
            if along() > 0 {
                break;
            }
        }
        site.hosts_nothing().await;
        site.is_over(&last.unwrap()).await;
    });
}

#[test]
fn a_unit_goes_in_a_batch_if_enough_others_are_under_way() {
    for (batch_from, expected) in [(1, 1), (2, 0)] {
        together(batch_from, async |site| {
            let gate = site.hold(&Unit::new(GATED, 200)).await;
            assert_eq!(batched(site), 0, "it is alone");
            site.run(&Unit::new(workers::BYTES, 1)).await;
            assert_eq!(batched(site), expected);
            drop(gate);
        });
    }
}

#[test]
fn what_is_not_over_in_a_moment_is_followed_to_its_end() {
    together(0, async |site| {
        let units = [Unit::new(GATED, 200), Unit::new(workers::FILE, 300)];
        let gate = site.hold(&units[0]).await;
        let told = site.run(&units[1]).await;
        told.is_true(&units[1]);
        drop(gate);
        let told = site.read(&units[0]).await.unwrap();
        told.is_true(&units[0]);
        assert_eq!(told.kind(), Some(Kind::Ok));
        assert_eq!(batched(site), 2);
        let large = Unit::new(workers::BYTES, 20_000);
        site.run(&large).await.is_true(&large);
        assert_eq!(batched(site), 2, "it goes alone");
    });
}

#[test]
fn many_small_responses_are_whole_whether_they_fit_into_a_batch_or_not() {
    together(0, async |site| {
        for count in [1, 900, 1000, 1100, 1300, 3000] {
            let told = site.run(&Unit::new(workers::MANY, count)).await;
            let end = told.end.expect("there is an end");
            assert_eq!((end.kind, end.responses), (Kind::Ok, count as u64), "{end:?}");
        }
        assert_eq!(batched(site), 6);
    });
}
