//! Many small worlds, each drawn from a seed: some servers, some requests at once, and one fault after the other. Whatever
//! happens, what a client was told is the beginning of the right answer, or all of it. `HANSA_SOAK_WORLDS` says how many.

use futures::future::join_all;

use super::*;
use crate::route::residency::allow_list;
use crate::upstream::UpstreamErrorKind::{
    Internal, NotReady, Overloaded, ShuttingDown, TimedOut, Unreachable,
};

/// Worlds of an ordinary run, or as many as the environment says.
pub(super) fn worlds() -> u64 {
    let worlds = std::env::var("HANSA_SOAK_WORLDS").ok();
    worlds.and_then(|text| text.parse().ok()).unwrap_or(20)
}

/// SplitMix64 (Vigna), for draws that are the same on every machine.
pub(super) struct Draws(pub(super) u64);

impl Draws {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    pub(super) fn error(&mut self) -> UpstreamErrorKind {
        let kinds = [
            Overloaded,
            NotReady,
            Unreachable,
            ShuttingDown,
            TimedOut,
            Internal,
        ];
        let at = self.below(kinds.len() as u64) as usize;
        kinds.into_iter().nth(at).unwrap_or(Internal)
    }

    pub(super) fn fate(&mut self) -> Fate {
        match self.below(8) {
            0..=2 => Fate::Well,
            3 => Fate::Refuse(self.error()),
            4 | 5 => Fate::Break(self.below(30) as usize, None),
            6 => Fate::Break(self.below(30) as usize, Some(self.error())),
            _ => Fate::Break(0, None),
        }
    }
}

#[tokio::test]
async fn whatever_fails_an_answer_is_right_as_far_as_it_goes() {
    let (mut whole, mut all) = (0, 0);
    for seed in 0..worlds() {
        let mut draws = Draws(seed);
        let options = options(&mut draws);
        let names = &["a", "b", "c", "d"][..2 + draws.below(3) as usize];
        let world = World::of(names, true, options).await;
        let requests: Vec<GenerateRequest> = (0..1 + draws.below(6))
            .map(|_| drawn(&mut draws, names))
            .collect();
        let right = join_all(requests.iter().map(|request| told(&world, request))).await;
        assert!(
            right.iter().all(|outcome| outcome.end.is_ok()),
            "seed {seed}: {right:?}"
        );
        world.fates.asked.lock().unwrap().clear();
        world.ordain(
            (0..draws.below(20))
                .map(|_| draws.fate())
                .collect::<Vec<_>>(),
        );
        let came = join_all(requests.iter().map(|request| told(&world, request))).await;
        for (right, came) in right.iter().zip(&came) {
            check(right, came).unwrap_or_else(|what| panic!("seed {seed}: {what}: {came:?}"));
            whole += u32::from(came.end.is_ok());
            all += 1;
        }
        world.is_tidy(seed);
    }
    assert!(whole > all / 5, "{whole} of {all}");
}

/// How a world routes.
pub(super) fn options(draws: &mut Draws) -> Options {
    let mut options = Options {
        resumes_max: draws.below(4) as u32,
        ..Options::default()
    };
    options.retry.per_s = [0.0, 10.0, 1_000.0][draws.below(3) as usize];
    options.ejection.percent_max = [0, 50, 100][draws.below(3) as usize];
    options
}

impl World {
    /// Holds that nothing is in flight any more, and that nothing went where it may not go.
    pub(super) fn is_tidy(&self, seed: u64) {
        assert_eq!(self.roster.in_flight(MODEL), 0, "seed {seed}");
        for (name, request) in self.fates.asked.lock().unwrap().iter() {
            let sites = request.wishes.rules.sites.as_ref();
            let allowed = sites.is_none_or(|sites| sites.iter().any(|site| **site == **name));
            assert!(allowed, "seed {seed}: {name}");
        }
    }
}

/// A request to anyone, or to all but the first.
pub(super) fn drawn(draws: &mut Draws, names: &[&str]) -> GenerateRequest {
    let mut request = request(1 + draws.below(3) as u32, 1 + draws.below(25) as u32);
    request.seed = draws.below(1_000);
    if draws.below(3) == 0 {
        let sites: Vec<String> = names[1..].iter().map(|name| (*name).to_owned()).collect();
        let rules = Rules {
            sites: allow_list(&sites),
            ..Rules::default()
        };
        request.wishes = Arc::new(Wishes {
            rules,
            ..Wishes::default()
        });
    }
    request
}

/// What a client is told; an error before anything counts as its end.
pub(super) async fn told(world: &World, request: &GenerateRequest) -> Outcome {
    let routed = world.roster.model(MODEL);
    let events = match routed.generate(Arc::new(request.clone())).await {
        Ok(events) => events.collect().await,
        Err(error) => vec![Err(error)],
    };
    Outcome::of(events, request.n)
}

/// Holds an answer against the right one.
pub(super) fn check(right: &Outcome, came: &Outcome) -> Result<(), &'static str> {
    if came.end.is_ok() {
        return if right == came {
            Ok(())
        } else {
            Err("ended well and is not right")
        };
    }
    let begins = right
        .texts
        .iter()
        .zip(&came.texts)
        .all(|(right, came)| right.starts_with(came.as_str()));
    if begins {
        Ok(())
    } else {
        Err("was told something else")
    }
}
