//! Worlds drawn from seeds whose servers are slow besides: they stand still before their first word or in the middle of a
//! stream, for a moment or until they are given up, fall silent, speak again, and lie about how they stand. Time is the
//! test's, so that a minute of waiting takes none.

use std::time::Duration;

use futures::future::{join, join_all};
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::seeds::{Draws, check, drawn, options, told, worlds};
use super::*;
use crate::route::options::Hedge;
use crate::upstream::UpstreamErrorKind::TimedOut;

/// No world may take longer: every wait has an end of its own.
const LIFE_MAX: Duration = Duration::from_secs(600);

/// More fates than the requests of a world can meet.
const FATES: usize = 500;

/// How a request is served that is not refused.
#[derive(Debug, Clone, Default)]
pub(super) struct Pace {
    /// Before there is anything at all.
    head: Duration,
    /// Between two events.
    gap: Duration,
    /// After so many events it stands still for so long, and then this comes.
    stall: Option<(usize, Duration, Then)>,
}

/// What follows a standstill.
#[derive(Debug, Clone)]
enum Then {
    Rest,
    /// The end of the stream, without a word.
    Closed,
    /// As where its link has given it up.
    Error(UpstreamErrorKind),
}

/// What an upstream says of itself, true or not: as far as the figures of a report can be believed.
#[derive(Debug, Clone)]
pub(super) struct Claimed {
    running: u32,
    waiting: u32,
    tokens_per_s: f64,
    kv_tokens_free: u64,
    age: Duration,
    walltime_left: Option<Duration>,
}

impl Claimed {
    fn drawn(draws: &mut Draws) -> Self {
        let of = |draws: &mut Draws, kinds: &[u64]| kinds[draws.below(kinds.len() as u64) as usize];
        Self {
            running: of(draws, &[0, 1, 1_000_000]) as u32,
            waiting: of(draws, &[0, 1, 1_000_000]) as u32,
            tokens_per_s: of(draws, &[0, 1, 1_000_000_000]) as f64,
            kv_tokens_free: of(draws, &[0, 1_000, 1_000_000_000]),
            age: Duration::from_millis(of(draws, &[0, 500, 100_000])),
            walltime_left: (draws.below(4) == 0)
                .then(|| Duration::from_secs(of(draws, &[0, 3, 1_000_000]))),
        }
    }

    pub(super) fn instead_of(&self, truth: UpstreamStatus) -> UpstreamStatus {
        UpstreamStatus {
            running: self.running,
            waiting: self.waiting,
            prefill_tokens_per_s: self.tokens_per_s,
            decode_tokens_per_s: self.tokens_per_s,
            kv_tokens_total: 1_000_000_000,
            kv_tokens_free: self.kv_tokens_free,
            age: self.age,
            walltime_left: self.walltime_left,
            ..truth
        }
    }
}

impl Draws {
    /// Nothing, a moment, longer than anyone should wait.
    fn while_(&mut self) -> Duration {
        let ms = [0, 5, 300, 3_000, 45_000][self.below(5) as usize];
        Duration::from_millis(ms)
    }

    fn pace(&mut self) -> Pace {
        let then = match self.below(5) {
            0..=2 => Then::Rest,
            3 => Then::Closed,
            _ => Then::Error([TimedOut, self.error()][self.below(2) as usize].clone()),
        };
        let stall = (self.below(30) as usize, self.while_(), then);
        Pace {
            head: self.while_(),
            gap: Duration::from_millis([0, 0, 20][self.below(3) as usize]),
            stall: (self.below(3) > 0).then_some(stall),
        }
    }

    fn slow_fate(&mut self) -> Fate {
        match self.below(6) {
            0 => Fate::Refuse(self.error()),
            1 => Fate::Slow(Pace::default()),
            _ => Fate::Slow(self.pace()),
        }
    }
}

/// What `engine` answers, at this pace. Its work is done on a thread that holds the test's time, so that none passes by it.
pub(super) async fn slowly(
    engine: &LocalUpstream,
    request: Arc<GenerateRequest>,
    pace: Pace,
) -> Result<EventStream, UpstreamError> {
    sleep(pace.head).await;
    let (runtime, engine) = (Handle::current(), engine.clone());
    let answering = spawn_blocking(move || {
        runtime.block_on(async {
            let events = engine.generate(request).await?;
            Ok(events.collect::<VecDeque<_>>().await)
        })
    });
    let events: Result<VecDeque<_>, UpstreamError> = answering.await.unwrap();
    let said = stream::unfold((events?, 0), move |(mut left, said)| {
        let (gap, stall) = (pace.gap, pace.stall.clone());
        async move {
            sleep(gap).await;
            let mut next = left.pop_front();
            if let Some((_, still, then)) = stall.filter(|(after, ..)| *after == said) {
                sleep(still).await;
                next = match then {
                    Then::Rest => next,
                    Then::Closed => None,
                    Then::Error(kind) => Some(Err(kind.into())),
                };
                if !matches!(next, Some(Ok(_))) {
                    left.clear();
                }
            }
            Some((next?, (left, said + 1)))
        }
    });
    Ok(said.boxed())
}

/// Falls silent and speaks again, as drawn, for a while.
async fn flicker(fates: &Fates, times: Vec<Duration>) {
    for (turn, after) in times.into_iter().enumerate() {
        sleep(after).await;
        fates.silent.send_replace(turn % 2 == 0);
    }
    fates.silent.send_replace(false);
}

#[tokio::test(start_paused = true)]
async fn whatever_stands_still_an_answer_is_right_and_comes_to_its_end() {
    let (mut whole, mut all) = (0, 0);
    for seed in 0..worlds() {
        let (good, asked) = live(seed).await;
        whole += good;
        all += asked;
    }
    println!("{whole} of {all} whole");
    assert!(whole > all / 3, "{whole} of {all}");
}

/// One world; answers that came whole, and all.
async fn live(seed: u64) -> (usize, usize) {
    let mut draws = Draws(seed ^ 0x57a1_1ed0);
    let mut options = options(&mut draws);
    options.hedge = (draws.below(2) == 0).then_some(Hedge {
        after: Duration::from_millis(200),
        prompt_bytes_max: 4_096,
    });
    let names = &["a", "b", "c", "d"][..2 + draws.below(3) as usize];
    let world = World::at(names, true, options, Clock::of_runtime()).await;
    let requests: Vec<GenerateRequest> = (0..1 + draws.below(6))
        .map(|_| drawn(&mut draws, names))
        .collect();
    // Nobody is served but by a thread that holds the time.
    let well = || std::iter::repeat_n(Fate::Slow(Pace::default()), FATES);
    world.ordain(well());
    let right = join_all(requests.iter().map(|request| told(&world, request))).await;
    let all_well = right.iter().all(|outcome| outcome.end.is_ok());
    assert!(all_well, "seed {seed}: {right:?}");
    world.fates.asked.lock().unwrap().clear();
    let lies = names.iter().filter(|_| draws.below(3) == 0).copied();
    let lies: Vec<&str> = lies.collect();
    *world.fates.claims.lock().unwrap() = lies
        .into_iter()
        .map(|name| (name, Claimed::drawn(&mut draws)))
        .collect();
    let fates: Vec<Fate> = (0..draws.below(20)).map(|_| draws.slow_fate()).collect();
    world.ordain(fates.into_iter().chain(well()));
    let times = (0..draws.below(6)).map(|_| draws.while_()).collect();
    let asking = join_all(requests.iter().map(|request| told(&world, request)));
    let living = join(asking, flicker(&world.fates, times));
    let (came, ()) = timeout(LIFE_MAX, living)
        .await
        .unwrap_or_else(|_| panic!("seed {seed} does not end"));
    for (right, came) in right.iter().zip(&came) {
        check(right, came).unwrap_or_else(|what| panic!("seed {seed}: {what}: {came:?}"));
    }
    world.is_tidy(seed);
    let whole = came.iter().filter(|outcome| outcome.end.is_ok());
    (whole.count(), came.len())
}
