//! Which of the candidates that may serve does.
//!
//! `cost` draws two of those whose cost is about the lowest, each as often as it takes requests, and takes the cheaper one
//! (Mitzenmacher, "The power of two choices", 2001): the best alone would be everybody's choice at once. Where others send to the
//! same candidates they take turns by the shares of `crowd.rs`. It stays at home, and with the candidate that knows the session,
//! while that costs little more.

use hansa_config::schema::Policy;

use super::cost::Terms;
use super::crowd::Drift;
use super::draw::Draw;
use super::facts::CandidateId;
use super::number::smaller;
use super::options::Options;

/// Seconds within which costs are equal however small they are: nobody can tell them apart.
const BAND_FLOOR_S: f64 = 0.005;
/// Requests that a candidate may lag behind its share, or be before it: more would come at once, or to others alone, once that
/// changes.
const OWED_MAX: f64 = 2.0;
/// Share of a prompt that a candidate must have seen for `prefix` to prefer it.
const PREFIX_SHARE_MIN: f64 = 0.5;
/// A candidate that has seen the prompt is still left where it has so many times the least load and so many more.
const PREFIX_LOAD_RATIO: f64 = 1.5;
const PREFIX_LOAD_EXTRA: f64 = 8.0;

/// A candidate that may serve.
#[derive(Debug, Clone, Copy)]
pub(super) struct Eligible {
    pub(super) id: CandidateId,
    pub(super) cost: f64,
    pub(super) terms: Terms,
    pub(super) drift: Drift,
    /// Prompt tokens that it has seen, of all.
    pub(super) cached: f64,
    pub(super) prompt: f64,
    /// Sequences there, by its weight.
    pub(super) load: f64,
    pub(super) weight: u32,
    pub(super) at_home: bool,
    /// Whether it may not be well, and nobody is known to be.
    pub(super) in_doubt: bool,
    pub(super) flaws: Flaws,
}

/// What makes a candidate worse than others whatever it costs, a bit each.
pub(super) type Flaws = u8;

/// It says nothing any more.
pub(super) const SILENT: Flaws = 1;
/// Others reach all that it reaches.
pub(super) const DETOUR: Flaws = 2;
/// The longest answer that may come is over only after the candidate ends.
pub(super) const ENDS: Flaws = 4;
/// Its answer is expected after its time.
pub(super) const LATE: Flaws = 8;
/// Its site has no allocation of the tenant's that is good there alone.
pub(super) const NOT_OWN: Flaws = 16;

/// What the choice remembers of a model from one request to the next.
#[derive(Debug, Default)]
pub(super) struct Habit {
    /// Counts requests, for policies that take turns.
    turn: u64,
    /// Requests have left home.
    away: bool,
    /// Places in the list that are drawn from, and the requests that each takes; kept for its memory.
    pool: Vec<(usize, f64)>,
    /// Requests that candidates, by their numbers, should have got by their shares and did not; below 0 where they got more.
    owed: Vec<f64>,
}

impl Habit {
    /// The place of the pick in `eligible`, which is not empty. `session` is the candidate that served the session.
    pub(super) fn pick(
        &mut self,
        options: &Options,
        eligible: &[Eligible],
        session: Option<CandidateId>,
        draw: &mut Draw,
    ) -> usize {
        self.turn = self.turn.wrapping_add(1);
        match options.policy {
            Policy::Cost => self.by_cost(options, eligible, session, draw),
            Policy::RoundRobin => (self.turn % eligible.len().max(1) as u64) as usize,
            Policy::LeastLoad => self.by_load(eligible),
            Policy::Prefix => self.by_prefix(eligible, session),
            Policy::Weighted => weighted(eligible, draw),
        }
    }

    fn by_cost(
        &mut self,
        options: &Options,
        eligible: &[Eligible],
        session: Option<CandidateId>,
        draw: &mut Draw,
    ) -> usize {
        let (best, home) = lowest(eligible);
        let edge = best * (1.0 + options.band) + BAND_FLOOR_S;
        let near = |e: &Eligible| e.cost <= edge + options.hysteresis_s;
        if let Some(known) = place(eligible, session).filter(|i| eligible.get(*i).is_some_and(near))
        {
            return known;
        }
        // Leaving takes more than coming back needs, or requests would go to and fro.
        let leave = if self.away { 0.5 } else { 1.0 };
        self.away = home.is_finite() && home > edge + leave * options.hysteresis_s;
        let stay = home.is_finite() && !self.away;
        let (edge, stay) = if stay {
            (home * (1.0 + options.band) + BAND_FLOOR_S, true)
        } else {
            (edge, false)
        };
        if let Some(place) = self.shared_out(eligible, stay, draw) {
            return place;
        }
        self.pool.clear();
        let within = |(_, e): &(usize, &Eligible)| e.cost <= edge && (e.at_home || !stay);
        let places = eligible.iter().enumerate().filter(within);
        self.pool
            .extend(places.map(|(place, e)| (place, e.drift.per_s)));
        self.two_choices(eligible, draw)
    }

    /// Of those that requests are shared out to, or those of them at home where they `stay`, the one that lags most behind its
    /// share; `None` where nothing is shared out. Who is cheaper was true some time ago, and the shares hold what that is worth.
    /// In turn and not by chance: chance alone makes lines.
    fn shared_out(&mut self, eligible: &[Eligible], stay: bool, draw: &mut Draw) -> Option<usize> {
        let gets = |e: &&Eligible| e.drift.share > 0.0 && (e.at_home || !stay);
        let all: f64 = eligible.iter().filter(gets).map(|e| e.drift.share).sum();
        let numbers = eligible.iter().map(|e| e.id.index() + 1);
        // Gateways that begin alike would go on alike.
        self.owed
            .resize_with(self.owed.len().max(numbers.max()?), || draw.unit());
        let mut most = (None, f64::NEG_INFINITY);
        for (place, one) in eligible.iter().enumerate().filter(|(_, e)| gets(e)) {
            if let Some(owed) = self.owed.get_mut(one.id.index()) {
                *owed = (*owed + one.drift.share / all).min(OWED_MAX);
                most = if *owed > most.1 {
                    (Some(place), *owed)
                } else {
                    most
                };
            }
        }
        let picked = eligible.get(most.0?)?.id.index();
        if let Some(owed) = self.owed.get_mut(picked) {
            *owed = (*owed - 1.0).max(-OWED_MAX);
        }
        most.0
    }

    /// The cheaper of two of the pool.
    fn two_choices(&mut self, eligible: &[Eligible], draw: &mut Draw) -> usize {
        let one = self.draw_out(draw);
        let other = self.draw_out(draw);
        let cost = |place: usize| eligible.get(place).map_or(f64::INFINITY, |e| e.cost);
        match (one, other) {
            (Some(one), Some(other)) if cost(other) < cost(one) => other,
            (one, other) => one.or(other).unwrap_or_default(),
        }
    }

    /// Takes one out of the pool: who takes twice as many requests until it is as much dearer is drawn twice as often.
    fn draw_out(&mut self, draw: &mut Draw) -> Option<usize> {
        let mut left = self.pool.iter().map(|(_, share)| share).sum::<f64>() * draw.unit();
        let reached = self.pool.iter().position(|(_, share)| {
            left -= share;
            left < 0.0
        });
        let last = self.pool.len().checked_sub(1)?;
        let (place, _) = self.pool.remove(reached.unwrap_or(last));
        Some(place)
    }

    /// The least load; of equals the one whose turn it is, or the first would get everything while all are idle.
    fn by_load(&self, eligible: &[Eligible]) -> usize {
        let start = (self.turn % eligible.len().max(1) as u64) as usize;
        let places = (start..eligible.len()).chain(0..start);
        let load = |place: &usize| eligible.get(*place).map_or(f64::INFINITY, |e| e.load);
        places
            .min_by(|a, b| load(a).total_cmp(&load(b)))
            .unwrap_or_default()
    }

    fn by_prefix(&self, eligible: &[Eligible], session: Option<CandidateId>) -> usize {
        let least = self.by_load(eligible);
        let least_load = eligible.get(least).map_or(0.0, |e| e.load);
        let bearable = |e: &Eligible| e.load <= least_load * PREFIX_LOAD_RATIO + PREFIX_LOAD_EXTRA;
        let knows = |e: &Eligible| e.cached >= PREFIX_SHARE_MIN * e.prompt;
        let warm = eligible.iter().enumerate();
        let warm = warm.filter(|(_, e)| e.cached > 0.0 && knows(e) && bearable(e));
        let longest = warm.max_by(|(_, a), (_, b)| {
            let longer = a.cached.total_cmp(&b.cached);
            longer.then(b.load.total_cmp(&a.load))
        });
        let known = place(eligible, session).filter(|i| eligible.get(*i).is_some_and(bearable));
        longest.map(|(place, _)| place).or(known).unwrap_or(least)
    }
}

fn weighted(eligible: &[Eligible], draw: &mut Draw) -> usize {
    let all: u64 = eligible.iter().map(|e| u64::from(e.weight)).sum();
    let mut drawn = draw.below(all);
    for (place, candidate) in eligible.iter().enumerate() {
        match drawn.checked_sub(u64::from(candidate.weight)) {
            Some(rest) => drawn = rest,
            None => return place,
        }
    }
    // All weights are 0: they say only that nobody is preferred.
    draw.below(eligible.len() as u64) as usize
}

fn place(eligible: &[Eligible], wanted: Option<CandidateId>) -> Option<usize> {
    let wanted = wanted?;
    eligible.iter().position(|e| e.id == wanted)
}

/// The lowest cost of all, and of those at home; infinite where there are none.
fn lowest(eligible: &[Eligible]) -> (f64, f64) {
    let (mut all, mut home) = (f64::INFINITY, f64::INFINITY);
    for one in eligible {
        all = smaller(one.cost, all);
        if one.at_home {
            home = smaller(one.cost, home);
        }
    }
    (all, home)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Eligible {
        /// One that takes as many requests as all others, and whose cost is all pressure.
        pub(in crate::route) fn example(id: CandidateId, cost: f64) -> Self {
            let terms = Terms {
                pressure: cost,
                ramp: 1.0,
                ..Terms::default()
            };
            Self {
                id,
                cost,
                terms,
                drift: Drift {
                    one_more_s: 1.0,
                    per_s: 1.0,
                    ..Drift::default()
                },
                cached: 0.0,
                prompt: 100.0,
                load: cost,
                weight: 1,
                at_home: false,
                in_doubt: false,
                flaws: 0,
            }
        }
    }

    fn eligible(costs: &[f64]) -> Vec<Eligible> {
        let places = (0_u16..).zip(costs);
        let one = |(place, cost): (u16, &f64)| Eligible::example(CandidateId(place), *cost);
        places.map(one).collect()
    }

    fn options(policy: Policy) -> Options {
        Options {
            policy,
            band: 0.1,
            hysteresis_s: 0.1,
            ..Options::default()
        }
    }

    fn picks(policy: Policy, eligible: &[Eligible], times: usize) -> Vec<usize> {
        let (mut habit, mut draw) = (Habit::default(), Draw::new(1));
        let options = options(policy);
        (0..times)
            .map(|_| habit.pick(&options, eligible, None, &mut draw))
            .collect()
    }

    fn counts(picks: &[usize], of: usize) -> Vec<usize> {
        (0..of)
            .map(|place| picks.iter().filter(|pick| **pick == place).count())
            .collect()
    }

    #[test]
    fn equals_share_and_those_beyond_the_band_get_nothing() {
        let counts = counts(&picks(Policy::Cost, &eligible(&[1.0, 1.05, 1.2]), 1_000), 3);
        // Of two candidates both are drawn, and the cheaper one is taken.
        assert_eq!(counts, [1_000, 0, 0]);
        let three = eligible(&[1.0, 1.0, 1.0, 3.0]);
        let counts = self::counts(&picks(Policy::Cost, &three, 3_000), 4);
        assert!(counts[..3].iter().all(|count| *count > 800), "{counts:?}");
        assert_eq!(counts[3], 0);
    }

    #[test]
    fn who_takes_more_requests_is_drawn_more_often() {
        let mut sizes = eligible(&[1.0, 1.0, 1.0, 1.0]);
        sizes[0].drift.per_s = 7.0;
        let counts = counts(&picks(Policy::Cost, &sizes, 10_000), 4);
        // Equals: the first that is drawn is taken.
        assert!((6_700..7_300).contains(&counts[0]), "{counts:?}");
        assert!(counts[1..].iter().all(|count| *count > 800), "{counts:?}");
    }

    #[test]
    fn what_is_shared_out_goes_by_shares_and_home_keeps_its_own() {
        let mut three = eligible(&[1.0, 5.0, 3.0]);
        (three[0].drift.share, three[1].drift.share) = (1.0, 3.0);
        let drawn = counts(&picks(Policy::Cost, &three, 4_000), 3);
        assert!((2_900..3_100).contains(&drawn[1]), "{drawn:?}");
        assert_eq!(drawn[2], 0);
        // It costs no more than the best.
        three[0].at_home = true;
        assert_eq!(counts(&picks(Policy::Cost, &three, 100), 3), [100, 0, 0]);
    }

    #[test]
    fn home_is_left_late_and_returned_to_later() {
        let (mut habit, mut draw) = (Habit::default(), Draw::new(1));
        let options = options(Policy::Cost);
        let mut at = |home: f64| {
            let mut both = eligible(&[home, 1.0]);
            both[0].at_home = true;
            habit.pick(&options, &both, None, &mut draw) == 0
        };
        // The edge of the band is at 1.105 s; home may cost 0.1 s more than that, and to come back 0.05 s more.
        assert!(at(1.20));
        assert!(!at(1.21));
        assert!(!at(1.17));
        assert!(at(1.15));
        assert!(at(1.20));
    }

    #[test]
    fn a_session_stays_where_it_was_while_that_costs_little_more() {
        let (mut habit, mut draw) = (Habit::default(), Draw::new(1));
        let options = options(Policy::Cost);
        let mut pick =
            |costs| habit.pick(&options, &eligible(costs), Some(CandidateId(1)), &mut draw);
        assert_eq!(pick(&[1.0, 1.2]), 1);
        assert_eq!(pick(&[1.0, 1.3]), 0);
    }

    #[test]
    fn the_simple_policies_do_what_they_say() {
        assert_eq!(
            picks(Policy::RoundRobin, &eligible(&[1.0, 9.0, 5.0]), 6),
            [1, 2, 0, 1, 2, 0]
        );
        assert_eq!(
            picks(Policy::LeastLoad, &eligible(&[2.0, 1.0, 5.0]), 2),
            [1, 1]
        );
        let idle = counts(&picks(Policy::LeastLoad, &eligible(&[0.0, 0.0]), 10), 2);
        assert_eq!(idle, [5, 5]);
        let mut heavy = eligible(&[1.0, 1.0]);
        heavy[1].weight = 3;
        let counts = counts(&picks(Policy::Weighted, &heavy, 4_000), 2);
        assert!((2_900..3_100).contains(&counts[1]), "{counts:?}");
    }

    #[test]
    fn prefix_goes_where_the_prompt_was_seen_unless_that_is_swamped() {
        let mut warm = eligible(&[1.0, 3.0, 2.0]);
        warm[1].cached = 80.0;
        warm[2].cached = 30.0;
        assert_eq!(picks(Policy::Prefix, &warm, 1), [1]);
        warm[1].load = 20.0;
        assert_eq!(picks(Policy::Prefix, &warm, 1), [0]);
    }
}
