//! An executor that is out of reach, and a unit that may run again.

use workmesh_proto::NodeId;
use workmesh_proto::record::Order;
use workmesh_proto::unit::durable::{OriginInput, OriginPhase};

use super::{Bench, TIMINGS, candidate, order};

/// A unit that may run again, for `to` if that is named, whose executor has been out of reach for so long.
fn out_of_reach(to: Option<NodeId>, for_ms: u64) -> Bench {
    let mut bench = Bench::running(Order { to, ..order(true) });
    bench.tell(OriginInput::Broken(1, "cut".into()));
    bench.tell(OriginInput::Unreachable(2, "no route".into()));
    bench.wait(for_ms);
    let (conversation, _) = bench.resumed();
    bench.tell(OriginInput::Unreachable(conversation, "no route".into()));
    bench
}

#[test]
fn what_may_run_again_is_not_given_up_soon_if_it_is_for_one_node() {
    for (to, attempts) in [(None, 2), (Some(candidate("E").executor), 1)] {
        let named = to.is_some();
        let mut bench = out_of_reach(to, TIMINGS.give_up_ms);
        if named {
            bench.wait(TIMINGS.retry_most_ms);
            let (conversation, _) = bench.resumed();
            bench.tell(OriginInput::Accepted(conversation));
            assert_eq!(bench.unit.phase(), OriginPhase::Running);
        } else {
            assert_eq!(bench.unit.phase(), OriginPhase::Waiting, "for another one");
            bench.wait(TIMINGS.retry_most_ms);
            bench.found("F");
        }
        assert_eq!(bench.unit.history().attempts(), attempts);
    }
}

#[test]
fn what_may_run_again_waits_for_its_one_node_once_that_is_given_up() {
    let to = Some(candidate("E").executor);
    let mut bench = out_of_reach(to, TIMINGS.lost_ms);
    assert_eq!((bench.unit.phase(), bench.end()), (OriginPhase::Waiting, None));
    bench.wait(TIMINGS.retry_most_ms);
    bench.found("E");
    assert_eq!(bench.unit.history().attempts(), 2);
}
