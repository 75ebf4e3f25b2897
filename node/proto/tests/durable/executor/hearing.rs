//! What an executor hears from the origin, and what it answers at once.

use workmesh_proto::unit::durable::{DurableExecutor, ReleaseAnswer, Resumed};
use workmesh_proto::wire::durable::{Offer, Position};
use workmesh_proto::wire::unit::Kind;

use super::Unit;
use crate::net::{Answer, Ask};
use crate::world::{Event, World};

impl World {
    pub(crate) fn hear(&mut self, talk: u64, ask: Ask) {
        let (e, unit) = (self.talks[&talk].executor, self.talks[&talk].unit);
        let id = self.plan.units[unit].id;
        let now = self.now;
        let origin = self.origin.name.clone();
        match ask {
            Ask::Submit(offer) => self.hear_submit(talk, e, unit, offer),
            Ask::Payload | Ask::End => {}
            Ask::PayloadEnd => {
                let arriving = self.talks.get_mut(&talk).and_then(|talk| talk.arriving.take());
                if let Some(offer) = arriving {
                    self.hear_payload_end(talk, e, unit, offer);
                }
            }
            Ask::Resume(offer, position) => match self.executors[e].table.resume(id, &origin, offer, now) {
                Resumed::Here => {
                    self.attach(talk, position);
                    self.pump(e, unit);
                }
                Resumed::Refused { kind, message, .. } => {
                    self.ledger.see(match kind {
                        Kind::NoSuchUnit => "resumed in vain",
                        Kind::NodeLost => "resumed in another life",
                        _ => "put off",
                    });
                    self.answer(talk, Answer::Refused(kind, message));
                }
            },
            Ask::Ack(position) => {
                let attached = self.talks[&talk].feed.is_some();
                if attached && let Some(held) = self.executors[e].table.get_mut(id) {
                    held.machine.handle_ack(position);
                    if let Some(worker) = &mut held.worker
                        && std::mem::take(&mut worker.waits)
                    {
                        let (life, run) = (
                            self.executors[e].life,
                            self.executors[e].table.get(id).map_or(0, |u| u.run),
                        );
                        self.after(
                            1,
                            Event::Step {
                                executor: e,
                                life,
                                unit,
                                run,
                            },
                        );
                    }
                }
            }
            Ask::Release(number) => {
                if !self.let_go(e, unit, number) {
                    return self.cut(talk, true);
                }
                if !self.executors[e].up {
                    return;
                }
                let length = self.executors[e].log.length();
                self.executors[e].releasing.push((talk, length));
                self.sync_soon(e);
            }
        }
    }

    /// `false`: not now.
    fn let_go(&mut self, e: usize, unit: usize, number: u32) -> bool {
        let (id, origin) = (self.plan.units[unit].id, self.origin.name.clone());
        let answer = self.executors[e].table.release(id, &origin, number, self.now);
        match answer {
            ReleaseAnswer::Forget(held) => self.forget(e, unit, held, number),
            ReleaseAnswer::Nothing => self.ledger.see("released what was not there"),
            ReleaseAnswer::Later => {
                self.ledger.see("release put off");
                return false;
            }
        }
        true
    }

    fn hear_submit(&mut self, talk: u64, e: usize, unit: usize, offer: Offer) {
        let id = self.plan.units[unit].id;
        let origin = self.origin.name.clone();
        if self.executors[e].table.replaces(id, &origin, offer) {
            self.ledger.see("a later offer released the earlier one");
            self.let_go(e, unit, offer.number - 1);
            if !self.executors[e].up {
                return;
            }
        }
        let refused = if self.executors[e].draining {
            Some((Kind::Draining, "shuts down".to_owned()))
        } else if self.is_rough() && self.rng.chance(4) {
            Some((Kind::Busy, "pool is full".to_owned()))
        } else {
            let value = || Unit {
                machine: DurableExecutor::offered(origin.clone(), offer),
                stream: Vec::new(),
                written: 0,
                brief: false,
                accepted: false,
                run: 0,
                worker: None,
            };
            let answer = self.executors[e].table.submit(id, &origin, offer, value);
            answer.err().map(|denial| (denial.kind, denial.message))
        };
        match refused {
            Some((kind, message)) => {
                self.ledger.see(match kind {
                    Kind::Duplicate => "late offer refused",
                    Kind::NodeLost => "offer to another life",
                    _ => "offer refused",
                });
                self.answer(talk, Answer::Refused(kind, message));
            }
            None => {
                if let Some(talk) = self.talks.get_mut(&talk) {
                    talk.arriving = Some(offer);
                }
            }
        }
    }

    fn hear_payload_end(&mut self, talk: u64, e: usize, unit: usize, offer: Offer) {
        let id = self.plan.units[unit].id;
        let now = self.now;
        if let Err(denial) = self.executors[e].table.take(id, offer) {
            self.ledger.see("arrival overtaken");
            return self.answer(talk, Answer::Refused(denial.kind, denial.message));
        }
        if self.is_rough() && self.rng.chance(3) {
            self.executors[e].table.abandon(id, offer);
            return self.answer(talk, Answer::Refused(Kind::NoSpace, "disk full".to_owned()));
        }
        let brief = self.rng.chance(50);
        if let Some(held) = self.executors[e].table.get_mut(id) {
            held.machine.take("sim:unit", now);
            held.brief = brief;
        }
        self.attach(talk, Position::default());
        self.carry_out_executor(e, unit);
        if brief {
            self.store_later(e, unit);
        }
    }
}
