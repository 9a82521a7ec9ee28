//! One replica over time: a job, and before it ends the next one. Sans-IO: what Slurm says and who is connected go in with
//! `now`, commands come out.
//!
//! Jobs are found again by their name, so an agent that starts anew goes on with those that are there, and a submission of
//! which nobody knows whether it went through shows in the next picture. A job is told to finish only when a later one
//! serves. Without a picture nothing is submitted.

use std::time::Duration;

use super::JobId;
use super::lead::Recent;
use super::queue::{Seen, State};
use crate::limits::{CHAIN_JOBS_MAX, JOB_MISSED_MAX, JOB_RETRY, JOB_SETTLE, SIGNAL_EARLY};

/// What is known of a replica's jobs beforehand.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Time limit of one.
    pub time_limit: Duration,
    /// Time before its end at which Slurm tells it to finish.
    pub grace: Duration,
    /// From its start until it serves, until that was measured.
    pub load: Duration,
    /// From its start until it is given up.
    pub start_max: Duration,
    /// Between two pictures.
    pub poll: Duration,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Submit a job; what came of it is told by [`Chain::submitted`].
    Submit,
    /// Ask the server of a job to finish what it has.
    Finish(JobId),
    /// End a job.
    Cancel(JobId),
}

/// The jobs of one replica.
#[derive(Debug)]
pub struct Chain {
    rules: Rules,
    jobs: Vec<Job>,
    /// Whether the jobs are known: a picture has come since the start and since the last submission that failed.
    known: bool,
    submitting: bool,
    retry_at: Duration,
    /// Jobs that ended without having served, since one did.
    failures: u32,
    loads: Recent,
    waits: Recent,
}

/// A job of this replica.
#[derive(Debug, Clone)]
pub struct Job {
    /// Its number.
    pub id: JobId,
    /// Where it stands.
    pub stage: Stage,
    /// When we came to know it; a picture from before says nothing of it.
    since: Duration,
    /// Whether we submitted it, and so know how long it takes.
    ours: bool,
    /// When it started.
    started: Option<Duration>,
    /// When it ends.
    pub ends: Option<Duration>,
    /// When it was connected first.
    pub served: Option<Duration>,
    /// Whether its wait in line, and its load time, were taken down.
    waited: bool,
    loaded: bool,
    /// Since when it is not connected any more.
    apart: Option<Duration>,
    /// When it was told to finish or to end, the last time.
    told: Option<Duration>,
    /// Whether it was told to end.
    cancelled: bool,
    /// Pictures without it.
    missed: u32,
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// In line.
    Waiting,
    /// Started.
    Running,
    /// On its way out: told so, or ending by itself.
    Leaving,
}

impl Chain {
    /// A replica of which nothing is known yet.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            jobs: Vec::new(),
            known: false,
            submitting: false,
            retry_at: Duration::ZERO,
            failures: 0,
            loads: Recent::default(),
            waits: Recent::default(),
        }
    }

    /// Its jobs.
    #[must_use]
    pub fn jobs(&self) -> &[Job] {
        &self.jobs
    }

    /// Whether one of them serves now.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.jobs.iter().any(Job::is_connected)
    }

    /// What to do next, if anything. Each command is given once; [`Chain::refused`] takes one back.
    pub fn next(&mut self, now: Duration) -> Option<Command> {
        if let Some(id) = self.overdue(now).or_else(|| self.hopeless(now)) {
            return self.tell(id, Command::Cancel(id), now);
        }
        if let Some(id) = self.superseded() {
            return self.tell(id, Command::Finish(id), now);
        }
        if let Some(id) = self.surplus() {
            return self.tell(id, Command::Cancel(id), now);
        }
        if !self.wants_one(now) {
            return None;
        }
        self.submitting = true;
        Some(Command::Submit)
    }

    /// What came of [`Command::Submit`]. Where it failed, the job may be there all the same.
    pub fn submitted(&mut self, job: Option<JobId>, now: Duration) {
        self.submitting = false;
        match job {
            Some(id) if self.jobs.iter().all(|job| job.id != id) => {
                self.jobs.push(Job::new(id, true, now));
            }
            Some(_) => {}
            None => {
                self.known = false;
                self.fails(now);
            }
        }
    }

    /// A command for a job did not go through.
    pub fn refused(&mut self, id: JobId) {
        if let Some(job) = self.jobs.iter_mut().find(|job| job.id == id) {
            (job.told, job.cancelled) = (None, false);
        }
    }

    /// The jobs of this replica's name in a picture that was asked for at `asked`.
    pub fn observed(&mut self, seen: &[&Seen], asked: Duration, now: Duration) {
        self.known = true;
        for job in &mut self.jobs {
            match seen.iter().find(|seen| seen.id == job.id) {
                Some(seen) => job.observe(seen, now),
                // The picture may be older than the job.
                None if job.since < asked => job.missed += 1,
                None => {}
            }
        }
        for seen in seen {
            let known = self.jobs.iter().any(|job| job.id == seen.id);
            let lives = matches!(seen.state, State::Waiting | State::Running);
            if !known && lives && self.jobs.len() < CHAIN_JOBS_MAX {
                let mut job = Job::new(seen.id, false, now);
                job.observe(seen, now);
                self.jobs.push(job);
            }
        }
        let over = |job: &Job| {
            let seen = seen.iter().find(|seen| seen.id == job.id);
            job.missed >= JOB_MISSED_MAX || seen.is_some_and(|seen| seen.state == State::Over)
        };
        let (ended, left): (Vec<Job>, Vec<Job>) = self.jobs.drain(..).partition(over);
        self.jobs = left;
        for job in ended {
            self.ended(&job, now);
        }
        self.learn();
    }

    /// The jobs that are connected now, of whichever replica.
    pub fn connected(&mut self, jobs: &[JobId], now: Duration) {
        for job in &mut self.jobs {
            if jobs.contains(&job.id) {
                job.served.get_or_insert(now);
                job.apart = None;
                self.failures = 0;
            } else if job.served.is_some() {
                job.apart.get_or_insert(now);
            }
        }
        self.learn();
    }

    /// How long before the end of a job the next one is submitted: at most half of its life, or each would be the last
    /// one's contemporary.
    #[must_use]
    pub fn lead(&self) -> Duration {
        let load = self.loads.longest().unwrap_or(self.rules.load);
        let wait = self.waits.longest().unwrap_or_default();
        let told = SIGNAL_EARLY + self.rules.grace;
        let needed = load + wait + told + self.rules.poll;
        needed.min(self.rules.time_limit / 2)
    }

    /// A job that was told to finish, or to end, and is still there.
    fn overdue(&self, now: Duration) -> Option<JobId> {
        let patience = |job: &Job| match job.cancelled {
            true => JOB_SETTLE * 2,
            false => self.rules.grace + JOB_SETTLE,
        };
        let late = |job: &&Job| job.told.is_some_and(|told| now >= told + patience(job));
        self.jobs.iter().find(late).map(|job| job.id)
    }

    /// A job that runs without serving for too long, or is cut off for as long.
    fn hopeless(&self, now: Duration) -> Option<JobId> {
        let limit = self.rules.start_max;
        let useless = |job: &&Job| {
            let since = match job.served {
                Some(_) => job.apart,
                None => job.started,
            };
            job.is_live() && since.is_some_and(|since| now >= since + limit)
        };
        self.jobs.iter().find(useless).map(|job| job.id)
    }

    /// A job that a later one has taken the place of.
    fn superseded(&self) -> Option<JobId> {
        let serving = self
            .jobs
            .iter()
            .filter(|job| job.is_live() && job.is_connected());
        let latest = serving.max_by_key(|job| (job.started, job.id))?;
        let before = |job: &&Job| {
            let older = (job.started, job.id) < (latest.started, latest.id);
            job.is_live() && job.stage == Stage::Running && older
        };
        self.jobs.iter().find(before).map(|job| job.id)
    }

    /// A job in line beside another one that has not served yet: a submission went through twice.
    fn surplus(&self) -> Option<JobId> {
        let mut coming = self.jobs.iter().filter(|job| job.is_coming());
        let all = coming.clone().count();
        let last = coming.rfind(|job| job.stage == Stage::Waiting)?;
        (all > 1).then_some(last.id)
    }

    fn wants_one(&self, now: Duration) -> bool {
        let lead = self.lead();
        let lasts = |job: &Job| {
            let long = job.ends.is_none_or(|ends| now + lead < ends);
            job.is_live() && job.served.is_some() && long
        };
        let enough = self.jobs.iter().any(|job| job.is_coming() || lasts(job));
        let may = self.known && !self.submitting && now >= self.retry_at;
        may && !enough && self.jobs.len() < CHAIN_JOBS_MAX
    }

    fn tell(&mut self, id: JobId, command: Command, now: Duration) -> Option<Command> {
        let job = self.jobs.iter_mut().find(|job| job.id == id)?;
        job.told = Some(now);
        job.cancelled = matches!(command, Command::Cancel(_));
        Some(command)
    }

    /// A job that served to its end, or was told to go, is no failure; any other is, and the next one waits.
    fn ended(&mut self, job: &Job, now: Duration) {
        let margin = self.rules.grace + SIGNAL_EARLY + JOB_SETTLE;
        let in_time = job.ends.is_some_and(|ends| now + margin >= ends);
        let expected = job.served.is_some() && (job.told.is_some() || in_time);
        let needless = job.stage == Stage::Waiting && job.cancelled;
        if !expected && !needless {
            self.fails(now);
        }
    }

    fn fails(&mut self, now: Duration) {
        let (first, longest) = JOB_RETRY;
        let wait = first * 2_u32.saturating_pow(self.failures.min(16));
        self.failures += 1;
        self.retry_at = now + wait.min(longest);
    }

    /// Takes down what jobs tell of how long they take.
    fn learn(&mut self) {
        for job in &mut self.jobs {
            // One that was found says neither when it was submitted nor when it began to serve.
            let Some(started) = job.started.filter(|_| job.ours) else {
                continue;
            };
            if !std::mem::replace(&mut job.waited, true) {
                self.waits.note(started.saturating_sub(job.since));
            }
            if let (Some(served), false) = (job.served, job.loaded) {
                job.loaded = true;
                self.loads.note(served.saturating_sub(started));
            }
        }
    }
}

impl Job {
    fn new(id: JobId, ours: bool, now: Duration) -> Self {
        Self {
            id,
            stage: Stage::Waiting,
            since: now,
            ours,
            started: None,
            ends: None,
            served: None,
            waited: false,
            loaded: false,
            apart: None,
            told: None,
            cancelled: false,
            missed: 0,
        }
    }

    /// Whether it is connected now.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.served.is_some() && self.apart.is_none()
    }

    fn is_live(&self) -> bool {
        self.told.is_none() && self.stage != Stage::Leaving
    }

    fn is_coming(&self) -> bool {
        self.is_live() && self.served.is_none()
    }

    fn observe(&mut self, seen: &Seen, now: Duration) {
        self.missed = 0;
        match seen.state {
            State::Waiting => self.stage = Stage::Waiting,
            State::Running => {
                self.stage = Stage::Running;
                self.started.get_or_insert(now.saturating_sub(seen.used));
                self.ends = seen.left.map(|left| now + left);
            }
            State::Ending | State::Over => self.stage = Stage::Leaving,
        }
    }
}

#[cfg(test)]
mod tests;
