//! Runs the driver in process against a mock and keeps every record.

use std::sync::Arc;
use std::time::Duration;

use hansa_loadtest::clock::{Clock, nanos};
use hansa_loadtest::drive::arrival::{Arrival, Schedule, Until};
use hansa_loadtest::drive::client::Client;
use hansa_loadtest::drive::prompt::Endpoint;
use hansa_loadtest::drive::record::Record;
use hansa_loadtest::drive::target::Target;
use hansa_loadtest::drive::verdict::{Failure, Verdict};
use hansa_loadtest::drive::{Load, Outcome, run};
use hansa_loadtest::spread::Spread;
use hansa_loadtest::workload::mix::Mix;
use hansa_loadtest::workload::{Source, Synthetic, Workload};
use tokio::sync::watch;

/// What a test may vary.
pub(crate) struct Setup {
    pub(crate) url: String,
    pub(crate) load: Load,
    pub(crate) timeout: Duration,
    pub(crate) check_sim_tokens: bool,
    pub(crate) workload: Workload,
    pub(crate) clock: Clock,
}

/// A run and its records in the order in which requests ended.
pub(crate) struct Ran {
    pub(crate) outcome: Outcome,
    pub(crate) records: Vec<Record>,
}

impl Setup {
    pub(crate) fn closed(url: &str, users: usize, requests: u64) -> Self {
        let until = Until {
            duration: None,
            requests: Some(requests),
        };
        let think = None;
        Self::new(
            url,
            Load::Closed {
                users,
                until,
                think,
            },
        )
    }

    pub(crate) fn open(url: &str, rate: f64, requests: u64) -> Self {
        let until = Until {
            duration: None,
            requests: Some(requests),
        };
        let schedule = Schedule::build(Arrival::Constant, rate, until, 1).unwrap();
        Self::new(url, Load::Open(Arc::new(schedule)))
    }

    fn new(url: &str, load: Load) -> Self {
        let (url, timeout) = (url.to_owned(), Duration::from_secs(30));
        Self {
            url,
            load,
            timeout,
            check_sim_tokens: false,
            workload: workload(),
            clock: Clock::start(),
        }
    }

    /// Runs to the end.
    pub(crate) fn run(&self) -> Ran {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let mut records = Vec::new();
        let (_stop, stopped) = watch::channel(false);
        let outcome = runtime.block_on(async {
            let client = Arc::new(self.client().await);
            run(client, &self.load, stopped, &mut |record| {
                records.push(record.clone())
            })
            .await
        });
        Ran {
            outcome: outcome.unwrap(),
            records,
        }
    }

    async fn client(&self) -> Client {
        let target = Target::parse(&self.url, Endpoint::Chat).unwrap();
        let workload = Workload {
            send_seed: self.check_sim_tokens,
            ..self.workload.clone()
        };
        Client {
            workload: Arc::new(workload),
            addresses: target.resolve().await.unwrap(),
            target,
            timeout: nanos(self.timeout),
            check_sim_tokens: self.check_sim_tokens,
            clock: self.clock,
            meters: Arc::default(),
        }
    }
}

/// Prompts of 8 words for at most 16 tokens.
pub(crate) fn workload() -> Workload {
    Workload {
        seed: 1,
        endpoint: Endpoint::Chat,
        ignore_eos: false,
        send_seed: false,
        source: Source::Synthetic(Synthetic {
            prompt: Spread::Fixed(8.0),
            output: Spread::Fixed(16.0),
            ..Synthetic::default()
        }),
        models: Mix::one(crate::mock::MODEL.into()),
        tenants: Mix::none(),
        priorities: Mix::none(),
        forms: Mix::none(),
        abort: None,
    }
}

impl Ran {
    /// Requests judged good.
    pub(crate) fn good(&self) -> usize {
        self.records
            .iter()
            .filter(|record| record.verdict == Verdict::Good)
            .count()
    }

    /// Failures in words, each once.
    pub(crate) fn failures(&self) -> Vec<String> {
        let failures = self.records.iter().filter_map(failure);
        let mut all: Vec<String> = failures.map(ToString::to_string).collect();
        all.sort();
        all.dedup();
        all
    }
}

fn failure(record: &Record) -> Option<&Failure> {
    match &record.verdict {
        Verdict::Good | Verdict::Aborted => None,
        Verdict::Failed(failure) => Some(failure),
    }
}
