//! Whatever a neighbour sends, in whatever order: nothing breaks, and this node stays what it is.

use proptest::prelude::*;

use super::*;
use crate::wire::link::{Digest, Goodbye, Load, ProbeReply, Synced};

proptest! {
    #[test]
    fn no_sequence_of_frames_harms_the_machine(
        steps in proptest::collection::vec((frame(), 0u64..3000), 1..60),
    ) {
        let mut table = Table::new(&["a"]);
        let mut link = table.open_half(0, "b");
        table.frame(0, link, &LinkFrame::Hello(hello("b", 1)));
        for (frame, millis) in &steps {
            table.frame(0, link, frame);
            table.pass(Duration::from_millis(*millis));
            if table.closed(0, link).is_some() {
                link = table.open_half(0, "b");
                table.frame(0, link, &LinkFrame::Hello(hello("b", 1)));
            }
            table.log.clear();
        }
        let view = table.meshes[0].view();
        let own = view.member(&node("a")).expect("a node knows itself");
        prop_assert_eq!((own.incarnation(), &own.reach), (Incarnation(INCARNATION), &Reach::Here));
        prop_assert!(view.members.len() <= NAMES.len());
        prop_assert!(view.route(node("a").hash()).is_none());
    }
}

/// Of every machine on a table that is not told otherwise: no life is older.
const INCARNATION: u64 = 1;
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn frame() -> impl Strategy<Value = LinkFrame> {
    let name = || proptest::sample::select(&NAMES[..]);
    let lsa = (name(), 0u64..4, 0u64..9, any::<[bool; 6]>()).prop_map(|(id, incarnation, sequence, bits)| {
        let near = NAMES
            .iter()
            .zip(bits)
            .filter(|(_, bit)| *bit)
            .map(|(near, _)| Adjacency {
                node: node(near),
                cost: Cost(sequence as u16),
            });
        LinkFrame::Lsa(Arc::new(Lsa {
            origin: node(id),
            incarnation: Incarnation(incarnation),
            sequence,
            leaf: bits[4],
            leaving: bits[4] && bits[5],
            batches: bits[4],
            version: String::new(),
            adjacencies: near.collect(),
            workers: Vec::new(),
            labels: BTreeMap::new(),
        }))
    });
    let load = (name(), 0u64..4, 0u64..4).prop_map(|(id, incarnation, sequence)| {
        LinkFrame::Load(Load {
            origin: node(id),
            incarnation: Incarnation(incarnation),
            sequence,
            slots: 1,
            running: 0,
            queued: 0,
            queue_limit: 0,
        })
    });
    let conflict = (name(), 1u64..3, 1u64..3).prop_map(|(id, older, more)| {
        LinkFrame::Conflict(Conflict {
            node: node(id),
            older: Incarnation(older),
            younger: Incarnation(older + more),
        })
    });
    let digest = (0u64..3).prop_map(|n| {
        LinkFrame::Digest(Digest {
            entries: n,
            hash: n,
            load_hash: n,
        })
    });
    let token = 0u64..9;
    prop_oneof![
        8 => lsa,
        2 => load,
        2 => conflict,
        1 => digest,
        1 => Just(LinkFrame::Synced(Synced {})),
        1 => (0u64..3).prop_map(|life| LinkFrame::Hello(hello("b", life))),
        1 => token.clone().prop_map(|token| LinkFrame::Probe(Probe { token })),
        1 => token.prop_map(|token| LinkFrame::ProbeReply(ProbeReply { token })),
        1 => Just(LinkFrame::Goodbye(Goodbye { reason: String::new() })),
    ]
}
