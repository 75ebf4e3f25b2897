//! Conversations: what one side says reaches the other in order, late, or as a beginning of it.

use std::collections::VecDeque;

use workmesh_proto::unit::durable::OriginInput;
use workmesh_proto::wire::durable::{Offer, Position};
use workmesh_proto::wire::items::Piece;
use workmesh_proto::wire::unit::{Eof, Kind};

use crate::executor::Feed;
use crate::plan::MAX_LATE_MS;
use crate::world::{Event, World};

/// What an origin says.
#[derive(Debug)]
pub(crate) enum Ask {
    Submit(Offer),
    Payload,
    PayloadEnd,
    Resume(Offer, Position),
    Ack(Position),
    Release(u32),
    /// Nothing more comes.
    End,
}

/// What an executor says.
#[derive(Debug)]
pub(crate) enum Answer {
    Accepted,
    Started,
    Piece(Piece),
    Eof(Eof),
    Returned(String),
    Refused(Kind, String),
    Released,
    /// Nothing more comes.
    Broken,
}

/// One conversation of the origin with one life of an executor.
pub(crate) struct Talk {
    pub(crate) unit: usize,
    /// The machine's number for it, or the offer that is released.
    pub(crate) number: u64,
    pub(crate) releases: bool,
    pub(crate) executor: usize,
    pub(crate) life: u64,
    asks: VecDeque<Ask>,
    answers: VecDeque<Answer>,
    asks_at: u64,
    answers_at: u64,
    /// The origin listens.
    pub(crate) at_origin: bool,
    /// The executor listens.
    pub(crate) at_executor: bool,
    /// The offer whose payload is arriving in it.
    pub(crate) arriving: Option<Offer>,
    /// What is sent of a unit's responses.
    pub(crate) feed: Option<Feed>,
}

impl World {
    /// Opens a conversation with an executor that is there.
    pub(crate) fn open(&mut self, unit: usize, number: u64, releases: bool, executor: usize, asks: Vec<Ask>) {
        let id = self.next_talk;
        self.next_talk += 1;
        self.talks.insert(
            id,
            Talk {
                unit,
                number,
                releases,
                executor,
                life: self.executors[executor].life,
                asks: VecDeque::new(),
                answers: VecDeque::new(),
                asks_at: self.now,
                answers_at: self.now,
                at_origin: true,
                at_executor: true,
                arriving: None,
                feed: None,
            },
        );
        for ask in asks {
            self.ask(id, ask);
        }
    }

    /// The conversation that the origin has under this number.
    pub(crate) fn talk_of(&self, unit: usize, number: u64) -> Option<u64> {
        let found = self
            .talks
            .iter()
            .find(|(_, talk)| talk.at_origin && !talk.releases && (talk.unit, talk.number) == (unit, number));
        found.map(|(id, _)| *id)
    }

    pub(crate) fn ask(&mut self, id: u64, ask: Ask) {
        let delay = self.rng.range(0..30);
        let cuts = self.is_rough() && self.rng.chance(self.plan.cut_percent);
        let Some(talk) = self.talks.get_mut(&id) else {
            return;
        };
        if !talk.at_executor {
            return;
        }
        talk.asks.push_back(ask);
        talk.asks_at = talk.asks_at.max(self.now + delay);
        let at = talk.asks_at;
        self.at(at, Event::ToExecutor { talk: id });
        if cuts {
            self.after(delay, Event::Cut { talk: id });
        }
    }

    pub(crate) fn answer(&mut self, id: u64, answer: Answer) {
        let delay = self.rng.range(0..30);
        let cuts = self.is_rough() && self.rng.chance(self.plan.cut_percent);
        let Some(talk) = self.talks.get_mut(&id) else {
            return;
        };
        if !talk.at_origin {
            return;
        }
        talk.answers.push_back(answer);
        talk.answers_at = talk.answers_at.max(self.now + delay);
        let at = talk.answers_at;
        self.at(at, Event::ToOrigin { talk: id });
        if cuts {
            self.after(delay, Event::Cut { talk: id });
        }
    }

    /// The conversation breaks. A beginning of what is under way may still arrive, late; `heard`: the origin notices.
    pub(crate) fn cut(&mut self, id: u64, heard: bool) {
        let Some(talk) = self.talks.get_mut(&id) else {
            return;
        };
        if talk.at_executor && !matches!(talk.asks.back(), Some(Ask::End)) {
            let late = if self.rng.chance(30) {
                self.rng.range(0..MAX_LATE_MS)
            } else {
                self.rng.range(0..20)
            };
            talk.asks.truncate(self.rng.index(talk.asks.len() + 1));
            // The one that is dropped has its event already: it finds the end.
            talk.asks_at = talk.asks_at.max(self.now + late);
            talk.asks.push_back(Ask::End);
            let at = talk.asks_at;
            self.at(at, Event::ToExecutor { talk: id });
        }
        let Some(talk) = self.talks.get_mut(&id) else {
            return;
        };
        if heard && talk.at_origin && !matches!(talk.answers.back(), Some(Answer::Broken)) {
            talk.answers.truncate(self.rng.index(talk.answers.len() + 1));
            talk.answers.push_back(Answer::Broken);
            let at = talk.answers_at.max(self.now + self.rng.range(0..50));
            talk.answers_at = at;
            self.at(at, Event::ToOrigin { talk: id });
        }
    }

    /// The origin no longer listens.
    pub(crate) fn close(&mut self, id: u64) {
        self.cut(id, false);
        if let Some(talk) = self.talks.get_mut(&id) {
            talk.at_origin = false;
        }
        self.drop_silent(id);
    }

    /// One of the two is dead.
    pub(crate) fn close_all(&mut self, concerns: impl Fn(&Talk) -> bool, executor_died: bool) {
        let ids: Vec<u64> = self
            .talks
            .iter()
            .filter(|(_, talk)| concerns(talk))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            if executor_died {
                self.cut(id, true);
                if let Some(talk) = self.talks.get_mut(&id) {
                    talk.at_executor = false;
                    talk.asks.clear();
                }
                self.drop_silent(id);
            } else {
                self.close(id);
            }
        }
    }

    fn drop_silent(&mut self, id: u64) {
        self.talks
            .retain(|other, talk| *other != id || talk.at_origin || talk.at_executor);
    }

    pub(crate) fn arrives_at_executor(&mut self, id: u64) {
        let Some(talk) = self.talks.get_mut(&id) else {
            return;
        };
        if talk.asks_at > self.now && matches!(talk.asks.back(), Some(Ask::End)) {
            // What is late is late as a whole.
            return;
        }
        let (executor, unit) = (talk.executor, talk.unit);
        let Some(ask) = talk.asks.pop_front() else { return };
        self.note(|| format!("E{executor} unit {unit} talk {id}: hears {ask:?}"));
        if matches!(ask, Ask::End) {
            talk_ends(self, id);
        } else {
            self.hear(id, ask);
        }
        let more = self
            .talks
            .get(&id)
            .is_some_and(|talk| talk.asks_at <= self.now && !talk.asks.is_empty());
        if more {
            self.after(0, Event::ToExecutor { talk: id });
        }
    }

    pub(crate) fn arrives_at_origin(&mut self, id: u64) {
        let Some(talk) = self.talks.get_mut(&id) else {
            return;
        };
        if !talk.at_origin {
            return;
        }
        let (unit, number, releases) = (talk.unit, talk.number, talk.releases);
        let eager = self.origin.wants_pieces(unit);
        let Some(talk) = self.talks.get_mut(&id) else {
            return;
        };
        if !eager && matches!(talk.answers.front(), Some(Answer::Piece(_))) {
            return self.after(5, Event::ToOrigin { talk: id });
        }
        let Some(answer) = talk.answers.pop_front() else {
            return;
        };
        let over = matches!(
            answer,
            Answer::Eof(_) | Answer::Returned(_) | Answer::Refused(..) | Answer::Released | Answer::Broken
        );
        let executor = self.executors[talk.executor].name.clone();
        if over {
            talk.at_origin = false;
        }
        if over && !matches!(answer, Answer::Broken) {
            // The last word has been heard: the origin closes its side.
            self.cut(id, false);
        }
        self.drop_silent(id);
        let input = match answer {
            Answer::Released => OriginInput::Released(executor, number as u32),
            _ if releases => OriginInput::NotReleased(executor, number as u32),
            Answer::Accepted => OriginInput::Accepted(number),
            Answer::Started => OriginInput::Started(number),
            Answer::Piece(piece) => OriginInput::Piece(number, piece),
            Answer::Eof(eof) => OriginInput::Eof(number, eof),
            Answer::Returned(why) => OriginInput::Returned(number, why),
            Answer::Refused(kind, why) => OriginInput::Refused(number, kind, why),
            Answer::Broken => OriginInput::Broken(number, "cut".to_owned()),
        };
        self.tell(unit, input);
    }
}

/// The executor notices that nothing more comes.
fn talk_ends(world: &mut World, id: u64) {
    let Some(talk) = world.talks.get_mut(&id) else {
        return;
    };
    talk.at_executor = false;
    talk.feed = None;
    let (executor, unit, arriving) = (talk.executor, talk.unit, talk.arriving.take());
    if let Some(offer) = arriving {
        world.abandon(executor, unit, offer);
    }
    world.cut(id, true);
    world.drop_silent(id);
}
