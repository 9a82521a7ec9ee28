//! A replica against a small Slurm that lives in the test.

use proptest::prelude::*;

use super::*;

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const RULES: Rules = Rules {
    time_limit: Duration::from_secs(1_000),
    grace: Duration::from_secs(50),
    load: Duration::from_secs(100),
    start_max: Duration::from_secs(200),
    poll: Duration::from_secs(10),
};

fn seen(id: JobId, state: State, used: u64) -> Seen {
    Seen {
        id,
        name: "hansa-a.0".to_owned(),
        state,
        left: Some(RULES.time_limit.saturating_sub(s(used))),
        used: s(used),
    }
}

fn observe(chain: &mut Chain, jobs: &[Seen], now: u64) {
    let jobs: Vec<&Seen> = jobs.iter().collect();
    chain.observed(&jobs, s(now), s(now));
}

/// A chain whose job 1 serves since second 30.
fn serving() -> Chain {
    let mut chain = Chain::new(RULES);
    observe(&mut chain, &[], 0);
    assert_eq!(chain.next(s(0)), Some(Command::Submit));
    chain.submitted(Some(1), s(0));
    observe(&mut chain, &[seen(1, State::Running, 0)], 10);
    chain.connected(&[1], s(30));
    chain
}

#[test]
fn nothing_is_submitted_before_the_jobs_are_known() {
    let mut chain = Chain::new(RULES);
    assert_eq!(chain.next(s(5)), None);
    observe(&mut chain, &[seen(7, State::Running, 300)], 10);
    assert_eq!(
        chain.next(s(10)),
        None,
        "it goes on with the one that is there"
    );
    assert_eq!(chain.jobs()[0].id, 7);
}

#[test]
fn the_next_one_comes_by_the_measured_time_and_the_last_one_finishes_once_it_serves() {
    let mut chain = serving();
    // 10 s in line, 20 s to load, a fifth more of each; then grace, how early Slurm may be, and poll.
    assert_eq!(chain.lead(), s(12 + 24 + 50 + 60 + 10));
    // It ends at 1,010.
    assert_eq!(chain.next(s(853)), None);
    assert_eq!(chain.next(s(854)), Some(Command::Submit));
    assert_eq!(chain.next(s(915)), None, "once");
    chain.submitted(Some(2), s(915));
    let both = [seen(1, State::Running, 910), seen(2, State::Running, 0)];
    observe(&mut chain, &both, 920);
    chain.connected(&[1], s(920));
    assert_eq!(chain.next(s(920)), None, "the next one does not serve yet");
    chain.connected(&[1, 2], s(940));
    assert_eq!(chain.next(s(940)), Some(Command::Finish(1)));
    assert_eq!(chain.next(s(940)), None);
    observe(
        &mut chain,
        &[seen(1, State::Over, 950), seen(2, State::Running, 40)],
        960,
    );
    assert_eq!(chain.next(s(960)), None);
    assert_eq!(chain.jobs().len(), 1);
}

#[test]
fn a_job_that_does_not_finish_is_ended() {
    let mut chain = serving();
    let both = [seen(1, State::Running, 20), seen(2, State::Running, 0)];
    observe(&mut chain, &both, 40);
    chain.connected(&[1, 2], s(40));
    assert_eq!(chain.next(s(40)), Some(Command::Finish(1)));
    chain.refused(1);
    assert_eq!(chain.next(s(50)), Some(Command::Finish(1)), "told again");
    assert_eq!(chain.next(s(51)), None);
    let late = s(50) + RULES.grace + JOB_SETTLE;
    assert_eq!(chain.next(late), Some(Command::Cancel(1)));
}

#[test]
fn failures_make_the_next_one_wait_longer() {
    let mut chain = Chain::new(RULES);
    let (mut now, mut waits) = (0, Vec::new());
    for id in 1..6 {
        let asked = now;
        observe(&mut chain, &[], now);
        while chain.next(s(now)) != Some(Command::Submit) {
            now += 1;
        }
        waits.push(now - asked);
        chain.submitted(Some(id), s(now));
        observe(&mut chain, &[seen(id, State::Over, 0)], now);
    }
    assert_eq!(waits[0], 0);
    assert!(
        waits[1..].windows(2).all(|pair| pair[0] < pair[1]),
        "{waits:?}"
    );
}

#[test]
fn a_submission_that_may_have_gone_through_is_not_made_twice() {
    let mut chain = Chain::new(RULES);
    observe(&mut chain, &[], 0);
    assert_eq!(chain.next(s(0)), Some(Command::Submit));
    chain.submitted(None, s(30));
    let later = s(30) + JOB_RETRY.1;
    assert_eq!(chain.next(later), None, "nobody knows");
    observe(&mut chain, &[seen(9, State::Waiting, 0)], 700);
    assert_eq!(chain.next(s(2_000)), None, "it went through");
    let both = [seen(9, State::Waiting, 0), seen(10, State::Waiting, 0)];
    observe(&mut chain, &both, 2_000);
    assert_eq!(
        chain.next(s(2_000)),
        Some(Command::Cancel(10)),
        "one too many"
    );
    assert_eq!(chain.next(s(2_000)), None);
}

#[test]
fn a_job_that_never_serves_or_is_cut_off_is_given_up() {
    let mut chain = Chain::new(RULES);
    observe(&mut chain, &[seen(3, State::Running, 0)], 10);
    assert_eq!(chain.next(s(209)), None);
    assert_eq!(chain.next(s(210)), Some(Command::Cancel(3)));
    let mut chain = serving();
    chain.connected(&[], s(100));
    assert_eq!(chain.next(s(299)), None, "it may come back");
    assert_eq!(chain.next(s(300)), Some(Command::Cancel(1)));
    assert_eq!(chain.next(s(300)), Some(Command::Submit));
}

#[test]
fn a_picture_without_a_job_may_be_a_mistake_and_two_are_not() {
    let mut chain = serving();
    observe(&mut chain, &[], 100);
    assert_eq!(chain.jobs().len(), 1);
    observe(&mut chain, &[], 110);
    assert_eq!(chain.jobs().len(), 0);
    assert!(chain.next(s(110) + JOB_RETRY.0) == Some(Command::Submit));
}

/// A cluster: jobs that wait, run for as long as they may, and serve some time after their start.
#[derive(Debug, Default)]
struct Cluster {
    jobs: Vec<Fate>,
    next: JobId,
}

#[derive(Debug)]
struct Fate {
    id: JobId,
    starts: u64,
    serves: u64,
    ends: u64,
}

impl Cluster {
    fn submit(&mut self, now: u64, (wait, load): (u64, u64)) -> JobId {
        self.next += 1;
        let starts = now + wait;
        self.jobs.push(Fate {
            id: self.next,
            starts,
            serves: starts + load,
            ends: starts + RULES.time_limit.as_secs(),
        });
        self.next
    }

    fn end(&mut self, id: JobId, at: u64) {
        let job = self.jobs.iter_mut().find(|job| job.id == id);
        job.into_iter().for_each(|job| job.ends = job.ends.min(at));
    }

    fn picture(&self, now: u64) -> Vec<Seen> {
        let known = self.jobs.iter().filter(|job| now < job.ends + 300);
        let state = |job: &Fate| match now {
            now if now >= job.ends => State::Over,
            now if now >= job.starts => State::Running,
            _ => State::Waiting,
        };
        known
            .map(|job| seen(job.id, state(job), now.saturating_sub(job.starts)))
            .collect()
    }

    fn serving(&self, now: u64) -> Vec<JobId> {
        let serves = |job: &&Fate| (job.serves..job.ends).contains(&now);
        self.jobs.iter().filter(serves).map(|job| job.id).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever Slurm does: never more than two jobs beside those that leave, none is told to finish while it is the only
    /// one that serves, and with a Slurm that works again there is one that serves.
    #[test]
    fn a_replica_survives_its_slurm(
        fates in proptest::collection::vec((0u64..120, 5u64..90, any::<bool>(), 0u32..10), 40),
        silences in proptest::collection::vec(0u32..4, 400),
    ) {
        let (mut chain, mut cluster) = (Chain::new(RULES), Cluster::default());
        let mut fates = fates.into_iter();
        for (step, silence) in (0u64..).zip(silences) {
            let now = step * 10;
            let troubled = step < 300;
            let heard = silence > 0 || !troubled;
            if heard {
                let picture = cluster.picture(now);
                observe(&mut chain, &picture, now);
            }
            chain.connected(&cluster.serving(now), s(now));
            for _ in 0..8 {
                let Some(command) = chain.next(s(now)) else { break };
                match command {
                    Command::Submit => {
                        let (wait, load, clear, luck) = fates.next().unwrap_or((10, 10, true, 1));
                        let fate = if troubled { (wait, load) } else { (10, 10) };
                        // Some never went through, some went through unheard, some die early.
                        let went = luck > 0 || !troubled;
                        let id = went.then(|| cluster.submit(now, fate));
                        if let Some(id) = id.filter(|_| luck == 1 && troubled) {
                            cluster.end(id, now + wait + load + 7);
                        }
                        chain.submitted(id.filter(|_| clear || !troubled), s(now));
                    }
                    Command::Finish(id) => {
                        let others = cluster.serving(now).into_iter().filter(|other| *other != id);
                        prop_assert!(others.count() > 0, "the only one was told to finish");
                        cluster.end(id, now + 20);
                    }
                    Command::Cancel(id) => cluster.end(id, now + 5),
                }
            }
            let live = chain.jobs().iter().filter(|job| job.is_live()).count();
            prop_assert!(live <= 3, "{live} jobs at {now}");
            prop_assert!(chain.jobs().len() <= CHAIN_JOBS_MAX);
        }
        prop_assert!(chain.serves(), "{chain:?}");
    }
}
