//! A long life with everything at once: arrivals, aborts, disconnects, slow readers, deadlines, preemptions, classes, flows,
//! pools, grammars, penalties and choices that go on from where they stood elsewhere, in a cache that is too small. `HANSA_SOAK_STEPS` makes it longer; `scripts/soak` runs a million steps.

use std::time::Duration;

use super::known::{KNOWN, known, resumed};
use super::model::{Bench, REPEATS, after_text, ids_of, take, take_all};
use crate::api::{Event, Priority, Submission};
use crate::events::EventStream;
use crate::random::splitmix64;

/// Turns of the ordinary test; the invariants are checked after each.
const STEPS: u64 = 100_000;
/// Submissions in the engine at once.
const CLIENTS_MAX: usize = 40;
/// Turns that a submission may take whose reader keeps up: several times what was ever seen with these loads.
const TURNS_MAX: u64 = 4_000;
/// A turn's time. Ages count after 50 turns.
const TURN: Duration = Duration::from_millis(100);

/// Chance that is the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = splitmix64(self.0);
        self.0 % sides
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }
}

struct Client {
    asked: Submission,
    /// What its choices say if nobody else is there.
    alone: Vec<Vec<u32>>,
    stream: EventStream,
    got: Vec<Event>,
    came: u64,
    slow: bool,
}

struct Soak {
    bench: Bench,
    dice: Dice,
    clients: Vec<Client>,
    turn: u64,
    submitted: u64,
    guided: u64,
    resumed: u64,
    /// The longest life of a submission of each class whose reader kept up, in turns.
    longest: [u64; 2],
    finished: [u64; 2],
}

impl Soak {
    fn new(seed: u64) -> Self {
        Self {
            bench: Bench::guessing(7, 6, 24, 48),
            dice: Dice(seed),
            clients: Vec::new(),
            turn: 0,
            submitted: 0,
            guided: 0,
            resumed: 0,
            longest: [0; 2],
            finished: [0; 2],
        }
    }

    fn arrive(&mut self) {
        let id = self.submitted;
        self.submitted += 1;
        let dice = &mut self.dice;
        let n = 1 + (dice.roll(6) / 4) as u32;
        // A fifth goes on from tokens that it has produced before.
        let emitted = dice.one_in(5).then(|| 1 + dice.roll(20) as usize);
        let emitted = emitted.unwrap_or(0);
        let (mut asked, alone) = if dice.one_in(12) {
            self.guided += 1;
            known(dice.roll(KNOWN)).asked(id, n, emitted)
        } else {
            let asked = unguided(dice, id, n);
            resumed(asked, emitted, self.bench.context_len)
        };
        self.resumed += u64::from(emitted > 0);
        asked.pool = dice.roll(3);
        // Every other flow is one that was never seen before, and so begins with the least of all counters.
        asked.flow = if dice.one_in(2) {
            dice.roll(3)
        } else {
            10 + id
        };
        asked.priority = if dice.one_in(3) {
            Priority::Batch
        } else {
            Priority::Interactive
        };
        asked.deadline = dice
            .one_in(8)
            .then(|| self.bench.now + TURN * dice.roll(300) as u32);
        let slow = dice.one_in(6);
        let stream = self.bench.submit(asked.clone());
        self.clients.push(Client {
            asked,
            alone,
            stream,
            got: Vec::new(),
            came: self.turn,
            slow,
        });
    }

    fn step(&mut self) {
        self.turn += 1;
        if self.clients.len() < CLIENTS_MAX && self.dice.one_in(3) {
            self.arrive();
        }
        if !self.clients.is_empty() && self.dice.one_in(40) {
            let index = self.dice.roll(self.clients.len() as u64) as usize;
            if self.dice.one_in(2) {
                self.bench.abort(&self.clients[index].asked.id);
            } else {
                self.clients.swap_remove(index);
            }
        }
        self.bench.turn();
        self.bench.now += TURN;
        self.read();
    }

    fn read(&mut self) {
        let mut index = 0;
        while index < self.clients.len() {
            let client = &mut self.clients[index];
            if client.slow {
                client.got.extend(
                    self.dice
                        .one_in(4)
                        .then(|| take(&mut client.stream))
                        .flatten(),
                );
            } else {
                client.got.extend(take_all(&mut client.stream));
            }
            let is_over = matches!(client.got.last(), Some(Event::Done(_) | Event::Failed(..)));
            if !client.slow {
                let class = usize::from(client.asked.priority == Priority::Batch);
                let age = self.turn - client.came;
                assert!(age <= TURNS_MAX, "one of class {class} starves");
                self.longest[class] = self.longest[class].max(age);
                self.finished[class] += u64::from(is_over);
            }
            if is_over {
                self.clients.swap_remove(index).check();
            } else {
                index += 1;
            }
        }
    }

    /// No more arrivals, until all is over.
    fn finish(&mut self) {
        for _ in 0..200_000 {
            if self.clients.is_empty() {
                break;
            }
            self.bench.turn();
            self.bench.now += TURN;
            self.turn += 1;
            self.read();
        }
        assert!(self.clients.is_empty(), "every accepted submission ends");
        self.bench.turn();
        let stats = self.bench.core.stats();
        assert_eq!((stats.running, stats.waiting), (0, 0));
        assert_eq!(stats.blocks_free, stats.blocks_total);
    }
}

/// A submission without a grammar.
fn unguided(dice: &mut Dice, id: u64, n: u32) -> Submission {
    let (shared, own) = (dice.roll(30) as u32, 1 + dice.roll(20) as u32);
    let max_tokens = 1 + dice.roll(40) as u32;
    let mut asked = after_text(dice.roll(4), shared, id, own, max_tokens);
    if dice.one_in(3) {
        let mut prompt = asked.prompt.to_vec();
        prompt[0] = REPEATS;
        asked.prompt = prompt.into();
    }
    Submission { n, ..asked }
}

impl Client {
    fn check(&self) {
        for (alone, choice) in self.alone.iter().zip(0..) {
            let ids = ids_of(&self.got, choice);
            assert!(alone.starts_with(&ids));
            assert!(!matches!(self.got.last(), Some(Event::Done(_))) || &ids == alone);
        }
    }
}

#[test]
fn a_long_life_keeps_every_promise() {
    let steps = std::env::var("HANSA_SOAK_STEPS").ok();
    let steps = steps.map_or(STEPS, |steps| {
        steps.parse().expect("HANSA_SOAK_STEPS is a number")
    });
    let mut soak = Soak::new(steps);
    for _ in 0..steps {
        soak.step();
    }
    let stats = soak.bench.core.stats();
    soak.finish();
    println!(
        "{steps} turns: {} submissions ({} guided, {} resumed), {} preemptions, {} of {} guessed tokens right, {} of {} prompt tokens cached, longest {:?}, finished {:?}",
        soak.submitted,
        soak.guided,
        soak.resumed,
        stats.preemptions,
        stats.accepted_tokens,
        stats.drafted_tokens,
        stats.prefix_hit_tokens,
        stats.prefix_tokens,
        soak.longest,
        soak.finished
    );
    assert!(
        stats.preemptions > steps / 1000,
        "the cache is too small on purpose"
    );
    assert!(stats.prefix_hit_tokens > 0 && stats.accepted_tokens > 0);
    assert!(soak.guided > steps / 200 && soak.resumed > steps / 200);
    assert!(soak.finished.iter().all(|&finished| finished > steps / 200));
}
