//! When somebody who waits at a terminal for a durable unit that sends nothing is told where it is: once.

use std::time::Duration;

use tokio::time::Instant;
use workmesh_proto::unit::OriginEvent;

/// How long nothing may be heard before they are told.
const SILENCE: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug)]
pub(crate) struct Silence {
    /// Nothing is to be told, or nothing more.
    over: bool,
    /// Since when nothing was heard, if it counts.
    since: Option<Instant>,
}

impl Silence {
    /// Whether anything is to be told. Counts from its [beginning](Self::begin) on.
    pub(crate) fn new(is_told: bool) -> Self {
        Self {
            over: !is_told,
            since: None,
        }
    }

    /// The unit is stored, and its node is there.
    pub(crate) fn begin(&mut self, now: Instant) {
        if !self.over {
            self.since = Some(now);
        }
    }

    /// The node is away, or the unit is to be stopped: where the unit is then says nothing.
    pub(crate) fn pause(&mut self) {
        self.since = None;
    }

    /// Something was heard.
    pub(crate) fn hear(&mut self, event: &OriginEvent, now: Instant) {
        match event {
            OriginEvent::Stored(_) => self.begin(now),
            OriginEvent::Accepted(_) | OriginEvent::Started(_) if self.since.is_some() => self.begin(now),
            OriginEvent::Accepted(_) | OriginEvent::Started(_) => {}
            OriginEvent::Piece(_)
            | OriginEvent::Refused(_)
            | OriginEvent::Eof(_)
            | OriginEvent::Unfinished(_) => self.told(),
        }
    }

    /// It was told, or need not be told any more.
    pub(crate) fn told(&mut self) {
        (self.over, self.since) = (true, None);
    }

    /// When it is to be told, if nothing is heard by then.
    pub(crate) fn ends_at(&self) -> Option<Instant> {
        self.since.map(|since| since + SILENCE)
    }
}

#[cfg(test)]
mod tests {
    use workmesh_proto::wire::durable::{Started, Stored};
    use workmesh_proto::wire::items::Piece;
    use workmesh_proto::wire::unit::Accepted;
    use workmesh_proto::{NodeId, UnitId};

    use super::*;

    fn stored() -> OriginEvent {
        let unit = UnitId(uuid::Uuid::nil());
        OriginEvent::Stored(Stored { unit })
    }

    fn accepted() -> OriginEvent {
        let executor = NodeId::parse("e").unwrap();
        OriginEvent::Accepted(Accepted { executor })
    }

    #[test]
    fn it_counts_from_the_latest_news_of_a_unit_that_is_stored() {
        let (mut silence, start) = (Silence::new(true), Instant::now());
        silence.hear(&accepted(), start);
        assert_eq!(silence.ends_at(), None, "it is not stored");
        let news = [stored(), accepted(), OriginEvent::Started(Started {})];
        for (seconds, event) in (1..).zip(news) {
            let now = start + Duration::from_secs(seconds);
            silence.hear(&event, now);
            assert_eq!(silence.ends_at(), Some(now + SILENCE));
        }
        silence.pause();
        silence.hear(&accepted(), start);
        assert_eq!(silence.ends_at(), None, "the node was away");
        silence.begin(start);
        assert_eq!(silence.ends_at(), Some(start + SILENCE));
    }

    #[test]
    fn it_is_told_once_and_not_of_a_unit_that_sends() {
        let start = Instant::now();
        let piece = OriginEvent::Piece(Piece {
            serial: 1,
            data: Default::default(),
            last: true,
        });
        let mut sends = Silence::new(true);
        sends.begin(start);
        sends.hear(&piece, start);
        let mut told = Silence::new(true);
        told.begin(start);
        told.told();
        for mut silence in [sends, told, Silence::new(false)] {
            silence.hear(&stored(), start);
            silence.begin(start);
            assert_eq!(silence.ends_at(), None);
        }
    }
}
