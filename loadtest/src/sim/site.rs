//! One simulated site: its nodes, the router before them, and what it reports of itself.
//!
//! A report says how things stood at a tick of its period. Between two ticks nobody looks, so a report is made when
//! something is about to change after a tick, or when someone wants to read: no event is needed for it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use hansa_gateway::route::decision::Attempt;
use hansa_gateway::route::facts::{CandidateId, Facts, Figures};
use hansa_gateway::route::means::Means;
use hansa_gateway::route::options::Options;
use hansa_gateway::route::residency::Rules;
use hansa_gateway::route::{Ask, End, Router, Ticket};

use super::node::{Effect, Job, Leg, Node, Stand};
use super::plan;
use crate::clock::Nanos;

/// The one model of a simulation.
pub(super) const MODEL: &str = "model";

/// What is known of a request where it is routed: never how long its answer will be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish<'a> {
    pub(super) attempt: Attempt,
    pub(super) prompt_tokens: u64,
    pub(super) blocks: &'a [u64],
    pub(super) session: Option<u64>,
    pub(super) max_tokens: Option<u32>,
    pub(super) rules: &'a Rules,
}

/// Bytes of a token, as many as the router's blocks take it to have.
pub(super) const BYTES_PER_TOKEN: u64 = 4;

impl<'a> Wish<'a> {
    /// The question for a router.
    pub(super) fn ask(
        &self,
        tried: &'a [Arc<str>],
        hops: u8,
        allocation: &'a (dyn Fn(&Facts) -> Means + Sync),
    ) -> Ask<'a> {
        Ask {
            attempt: self.attempt,
            model: MODEL,
            prompt_bytes: self.prompt_tokens * BYTES_PER_TOKEN,
            blocks: self.blocks,
            session: self.session,
            max_tokens: self.max_tokens,
            n: 1,
            rules: self.rules,
            hops,
            tried,
            numerics: None,
            allocation,
            time_left: None,
            waits: false,
        }
    }
}

/// A request that was handed to a node.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) node: usize,
    pub(super) ticket: Ticket,
    /// When the run that it began or cut short ends, and its number.
    pub(super) run: Option<(Nanos, u32)>,
}

/// A report of a site: how it stood at a moment.
#[derive(Debug, Clone)]
pub(super) struct Report {
    pub(super) at: Nanos,
    pub(super) figures: Figures,
}

/// A site.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) plan: plan::Site,
    posts: Vec<Post>,
    /// When each node's next report is due, side by side: it is looked at for every request.
    due: Vec<Nanos>,
    /// Nodes whose last report the router has not seen.
    news: Vec<usize>,
    router: Router,
    attempts_max: u32,
    period: Nanos,
    next_report: Nanos,
    sequence: u64,
    /// The last ones, as far back as someone may still be waiting for.
    reports: VecDeque<Report>,
    /// How long a report is on its way at most.
    delay_max: Nanos,
    start_hour: f64,
    /// All of it is away.
    pub(super) is_gone: bool,
}

/// A node in its place.
#[derive(Debug)]
struct Post {
    id: CandidateId,
    node: Node,
    /// When its job ends; `None` for never.
    ends_at: Option<Nanos>,
    up: bool,
    /// Its last report: when, what, and whether the router has seen it.
    reported_at: Nanos,
    reported: Stand,
    was_up: bool,
    is_news: bool,
    sequence: u64,
}

impl Site {
    /// A site without work. `offset` tells the ticks of its reports from those of others.
    pub(super) fn new(
        plan: &plan::Site,
        options: &Options,
        network: &plan::Network,
        (seed, delay_max): (u64, Nanos),
    ) -> Self {
        let period = network.status_period.max(1);
        let mut router = Router::new(options.clone(), seed);
        let post = |number: usize| {
            let name = format!("{}/{number}", plan.name);
            let facts = Facts {
                hop: true,
                ..Facts::new(&name, &plan.name, &number.to_string(), MODEL)
            };
            Some(Post::new(router.add(facts, Duration::ZERO)?, plan))
        };
        let posts: Vec<Post> = (0..plan.nodes).map_while(post).collect();
        let tick = |number: usize| period * number as u64 / plan.nodes as u64;
        Self {
            plan: plan.clone(),
            due: (0..posts.len()).map(tick).collect(),
            news: (0..posts.len()).collect(),
            posts,
            router,
            attempts_max: options.attempts_max,
            period,
            next_report: 0,
            sequence: 0,
            reports: VecDeque::new(),
            delay_max,
            start_hour: network.start_hour,
            is_gone: false,
        }
    }

    /// Its nodes' jobs: when each ends for the first time.
    pub(super) fn first_ends(&self) -> impl Iterator<Item = (usize, Nanos)> {
        let ends = self.posts.iter().enumerate();
        ends.filter_map(|(number, post)| Some((number, post.ends_at?)))
    }

    /// Hands a request to a node; `None` where none takes it.
    pub(super) fn send(&mut self, wish: &Wish<'_>, job: &Job, now: Nanos) -> Option<Sent> {
        self.report(now);
        (0..self.posts.len()).for_each(|node| self.report_node(node, now));
        self.tell_router(now);
        let mut tried: Vec<Arc<str>> = Vec::new();
        let at = Duration::from_nanos(now);
        for attempt in 0..self.attempts_max {
            let wish = Wish {
                attempt: if attempt == 0 {
                    wish.attempt
                } else {
                    Attempt::Retry
                },
                // The rules of countries were applied on the way here.
                ..*wish
            };
            let placed = self
                .router
                .place(&wish.ask(&tried, 1, &|_| Means::Any), at)
                .ok()?;
            let node = placed.candidate.index();
            let post = self.posts.get_mut(node)?;
            if post.up && !post.node.is_full() {
                return Some(Sent {
                    node,
                    ticket: placed.ticket,
                    run: post.node.take(job.clone(), now),
                });
            }
            tried.extend(
                self.router
                    .facts(placed.candidate)
                    .map(|f| f.upstream.clone()),
            );
            self.router.ended(placed.ticket, End::Overloaded(None), at);
        }
        None
    }

    /// The end of a node's run; see [`Node::end`].
    pub(super) fn run_ended(
        &mut self,
        node: usize,
        version: u32,
        now: Nanos,
        effects: &mut Vec<Effect>,
    ) -> Option<(Nanos, u32)> {
        self.report(now);
        self.report_node(node, now);
        self.posts.get_mut(node)?.node.end(version, now, effects)
    }

    /// A node's job ends, or all of the site goes away. What it had, with the tokens still to produce.
    pub(super) fn stop(
        &mut self,
        node: usize,
        now: Nanos,
        effects: &mut Vec<Effect>,
    ) -> Vec<(Leg, u64)> {
        self.report(now);
        self.report_node(node, now);
        let Some(post) = self.posts.get_mut(node) else {
            return Vec::new();
        };
        post.up = false;
        post.ends_at = None;
        post.node.stop(now, effects)
    }

    /// A node is there again, for as long as its jobs last. Says when that is over.
    pub(super) fn start(&mut self, node: usize, now: Nanos) -> Option<Nanos> {
        self.report(now);
        self.report_node(node, now);
        let ends_at = self.plan.walltime.map(|walltime| now + walltime.lasts);
        let post = self.posts.get_mut(node)?;
        if self.is_gone || post.up {
            return None;
        }
        (post.up, post.ends_at) = (true, ends_at);
        ends_at
    }

    /// When a node's job ends.
    pub(super) fn ends_at(&self, node: usize) -> Option<Nanos> {
        self.posts.get(node)?.ends_at
    }

    /// Whether its router counts nothing in flight (I10).
    pub(super) fn is_idle(&self) -> bool {
        let mut posts = self.posts.iter();
        posts.all(|post| self.router.in_flight(post.id) == 0)
    }

    /// The router before the nodes.
    pub(super) fn router(&mut self) -> &mut Router {
        &mut self.router
    }

    /// The newest report that had left by `left_by`, and was made after report number `seen`.
    pub(super) fn newest(&mut self, now: Nanos, left_by: Nanos, seen: u64) -> Option<&Report> {
        self.report(now);
        let had_left = |report: &&Report| report.at <= left_by;
        let newest = self.reports.iter().rev().find(had_left)?;
        (newest.figures.sequence > seen).then_some(newest)
    }

    /// Nodes, for reports of the run.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.posts.iter().map(|post| &post.node)
    }

    /// Grams of CO2 of a kilowatt-hour at `at`.
    pub(super) fn grams_per_kwh(&self, at: Nanos) -> f64 {
        self.plan.carbon.at(self.start_hour + at as f64 / 3.6e12)
    }

    /// Makes the reports that are due by `now`: nothing has changed since.
    fn report(&mut self, now: Nanos) {
        if now >= self.next_report {
            let last = now - (now - self.next_report) % self.period;
            // Only those that someone may still be waiting for are worth making.
            let oldest = last.saturating_sub(self.delay_max + self.period);
            let skipped = oldest
                .saturating_sub(self.next_report)
                .div_ceil(self.period);
            let mut at = self.next_report + skipped * self.period;
            while at <= last {
                self.report_one(at);
                at += self.period;
            }
            self.next_report = at;
        }
    }

    /// Makes a node's report where one is due.
    fn report_node(&mut self, node: usize, now: Nanos) {
        let (Some(due), Some(post)) = (self.due.get_mut(node), self.posts.get_mut(node)) else {
            return;
        };
        if now < *due {
            return;
        }
        let at = now - (now - *due) % self.period;
        *due = at + self.period;
        post.report(at);
        if !std::mem::replace(&mut post.is_news, true) {
            self.news.push(node);
        }
    }

    fn report_one(&mut self, at: Nanos) {
        (0..self.posts.len()).for_each(|node| self.report_node(node, at));
        self.sequence += 1;
        let figures = self.combined(at);
        self.reports.push_back(Report { at, figures });
        let kept = at.saturating_sub(self.delay_max + 2 * self.period);
        while self.reports.front().is_some_and(|report| report.at < kept) {
            self.reports.pop_front();
        }
    }

    /// The figures of all nodes as those of one, as a site gateway adds them up (`federation/status.rs`).
    fn combined(&self, at: Nanos) -> Figures {
        let mut sum = Figures {
            sequence: self.sequence,
            joules_per_token: Some(self.plan.engine.joules_per_token),
            grams_per_kwh: Some(self.grams_per_kwh(at)),
            ..Figures::default()
        };
        let (mut walltime, mut endless) = (Duration::ZERO, false);
        for post in self.posts.iter().filter(|post| post.was_up) {
            let stand = &post.reported;
            sum.ready = true;
            sum.age = sum.age.max(post.age(at));
            sum.running += stand.running;
            sum.waiting += stand.waiting;
            sum.queued_tokens += stand.queued_tokens;
            sum.kv_tokens_total += self.plan.engine.kv_tokens;
            sum.kv_tokens_free += stand.kv_free;
            sum.prefill_tokens_per_s += stand.prefill_per_s;
            sum.decode_tokens_per_s += stand.decode_per_s;
            match post.ends_at {
                Some(end) => walltime = walltime.max(Duration::from_nanos(end.saturating_sub(at))),
                None => endless = true,
            }
        }
        sum.walltime_left = (sum.ready && !endless).then_some(walltime);
        sum
    }

    fn tell_router(&mut self, now: Nanos) {
        for node in self.news.drain(..) {
            if let Some(post) = self.posts.get_mut(node) {
                post.is_news = false;
                let figures = post.figures(self.plan.engine.kv_tokens, now);
                let at = Duration::from_nanos(now);
                self.router.observe(post.id, figures, at);
            }
        }
    }
}

impl Post {
    fn new(id: CandidateId, plan: &plan::Site) -> Self {
        // The jobs of a site did not all begin at the same time.
        let share = (id.index() as f64 + 1.0) / plan.nodes as f64;
        let ends_at = plan
            .walltime
            .map(|walltime| (walltime.lasts as f64 * share) as Nanos);
        let node = Node::new(plan.engine);
        Self {
            id,
            reported: node.stand(),
            node,
            ends_at,
            up: true,
            reported_at: 0,
            was_up: true,
            is_news: true,
            sequence: 1,
        }
    }

    /// Nothing has changed since `at`.
    fn report(&mut self, at: Nanos) {
        self.reported_at = at;
        self.reported = self.node.stand();
        self.was_up = self.up;
        self.sequence += 1;
    }

    fn age(&self, now: Nanos) -> Duration {
        Duration::from_nanos(now.saturating_sub(self.reported_at))
    }

    fn figures(&self, kv_tokens: u64, now: Nanos) -> Figures {
        let left = |end: Nanos| Duration::from_nanos(end.saturating_sub(now));
        Figures {
            ready: self.was_up,
            sequence: self.sequence,
            age: self.age(now),
            running: self.reported.running,
            waiting: self.reported.waiting,
            queued_tokens: self.reported.queued_tokens,
            kv_tokens_total: kv_tokens,
            kv_tokens_free: self.reported.kv_free,
            prefill_tokens_per_s: self.reported.prefill_per_s,
            decode_tokens_per_s: self.reported.decode_per_s,
            // The router takes the age of the report off again.
            walltime_left: self.ends_at.map(|end| left(end) + self.age(now)),
            ..Figures::default()
        }
    }
}
