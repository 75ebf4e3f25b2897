//! What goes wrong, and when.

use workmesh_proto::unit::durable::OriginInput;

use crate::log::Crash;
use crate::world::{Event, World};

impl World {
    pub(crate) fn any_crash(&mut self) -> Crash {
        if self.plan.only_kills {
            return Crash::Kill;
        }
        [Crash::Kill, Crash::Power, Crash::Torn][self.rng.index(3)]
    }

    /// The next fault; while the world is rough, another one follows.
    pub(crate) fn fault(&mut self) {
        if !self.is_rough() {
            return self.heal();
        }
        let e = self.rng.index(self.executors.len());
        match self.rng.range(0..100) {
            0..15 if self.executors[e].up => self.crash_executor(e, None),
            15..27 if self.origin.up => self.crash_origin(None),
            27..37 if self.executors[e].up && !self.executors[e].draining => self.shut_down(e),
            37..52 => {
                let ids: Vec<u64> = self.talks.keys().copied().collect();
                if !ids.is_empty() {
                    let talk = ids[self.rng.index(ids.len())];
                    self.after(0, Event::Cut { talk });
                }
            }
            52..67 => self.part(e),
            67..77 => {
                self.origin.full_until = self.now + self.rng.range(1..3000);
                self.note(|| "O: the disk is full");
            }
            77..86 => self.set_clock(),
            86..90 => self.forget_unasked(e),
            _ => self.mesh_changes(),
        }
        let wait = self.rng.range(1..1 + self.plan.fault_ms);
        self.after(wait, Event::Fault);
    }

    /// An executor is out of reach for a while.
    fn part(&mut self, e: usize) {
        self.executors[e].apart_until = self.now + self.rng.range(1..8000);
        self.note(|| format!("E{e} is out of reach"));
        let ids: Vec<u64> = self
            .talks
            .iter()
            .filter(|(_, talk)| talk.executor == e)
            .map(|(id, _)| *id)
            .collect();
        for talk in ids {
            self.cut(talk, true);
        }
    }

    fn set_clock(&mut self) {
        let by = self.rng.range(0..20_000) as i64;
        self.origin.clock += if self.rng.chance(60) { -by } else { by / 4 };
        self.origin.clock = self.origin.clock.max(-500_000);
        self.note(|| format!("O: the clock is set to {} ms", self.origin.clock));
        self.all_timers();
    }

    /// Whoever sleeps until a time of the clock looks at it again.
    fn all_timers(&mut self) {
        for unit in 0..self.plan.units.len() {
            self.tell(unit, OriginInput::Wake);
        }
    }

    /// The origin's view of the mesh changes.
    pub(crate) fn mesh_changes(&mut self) {
        for unit in 0..self.plan.units.len() {
            if self.rng.chance(80) {
                let (life, wait) = (self.origin.life, self.rng.range(0..50));
                let input = OriginInput::MeshChanged;
                self.after(wait, Event::Tell { unit, life, input });
            }
        }
    }

    fn heal(&mut self) {
        self.note(|| "all is well from here on");
        for executor in &mut self.executors {
            executor.apart_until = self.now;
        }
    }
}
