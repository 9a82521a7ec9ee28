//! What tenants, quota and ledger cost, on a quiet machine:
//! `cargo bench -p hansa-gateway --no-default-features --features engine --bench quota`, or with `-- requests`, `replay` or
//! `tenants` one part of it.
//!
//! CPU time is that of the whole process, so that the thread which writes the ledger counts as well.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement that prints its figures"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hansa_config::Config;
use hansa_config::schema::tenancy::{Allocation, ApiKey, Rates, Tenant};
use hansa_gateway::clock::Clock;
use hansa_gateway::quota::allocation::Total;
use hansa_gateway::quota::amount::{Amounts, Tokens};
use hansa_gateway::quota::charge::Spent;
use hansa_gateway::quota::export::report::{self, Report};
use hansa_gateway::quota::ledger::{Drawn, Ledger, Outcome, Record, Served};
use hansa_gateway::quota::reservation::Slip;
use hansa_gateway::quota::store::embedded::EmbeddedLedger;
use hansa_gateway::quota::{Quota, open};
use hansa_gateway::tenant::Tenants;
use hansa_gateway::tenant::secret::Secret;
use uuid::Uuid;

/// Requests whose cost is measured.
const REQUESTS: u64 = 200_000;
/// Requests after which all that was settled is awaited, as a server at its bound would have to.
const AT_ONCE: u64 = 20_000;
const RECORDS: u64 = 1_000_000;
const TENANTS: usize = 100_000;

fn main() {
    let folder = tempfile::tempdir().unwrap();
    if is_wanted("requests") {
        for file in [None, Some(folder.path().join("requests.redb"))] {
            requests(file.as_deref());
        }
    }
    if is_wanted("replay") {
        replay(&folder.path().join("records.redb"));
    }
    if is_wanted("tenants") {
        tenants();
    }
}

/// Whether the command line names this part, or none.
fn is_wanted(part: &str) -> bool {
    let mut named = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .peekable();
    named.peek().is_none() || named.any(|name| name == part)
}

/// Nanoseconds that the process has computed.
fn cpu_ns() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let of_task = |task: std::io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    };
    tasks.filter_map(of_task).sum()
}

/// Kibibytes of memory that the process has.
fn rss_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// `count` projects of a hundred organisations, each with a key, a rate and an allocation.
fn config(count: usize, ledger: Option<&Path>) -> (Config, Vec<Secret>) {
    let mut config = Config::default();
    config.quota.ledger = ledger.map(Path::to_owned);
    let mut secrets = Vec::new();
    for organisation in 0..100 {
        config.tenants.push(Tenant {
            id: format!("o{organisation}"),
            ..Tenant::default()
        });
    }
    for number in 0..count {
        let id = format!("o{}/p{number}", number % 100);
        let (secret, rates) = (
            Secret::new(),
            Rates {
                requests_per_minute: Some(1_000_000_000),
                tokens_per_minute: Some(1_000_000_000_000),
                ..Rates::default()
            },
        );
        config.tenants.push(Tenant {
            id: id.clone(),
            rates,
            ..Tenant::default()
        });
        config.keys.push(ApiKey {
            id: format!("k{number}"),
            tenant: id.clone(),
            sha256: secret.digest().to_string(),
            ..ApiKey::default()
        });
        config.allocations.push(Allocation {
            id: format!("a{number}"),
            tenant: id,
            amount: 1_000_000_000_000,
            ..Allocation::default()
        });
        secrets.push(secret);
    }
    (config, secrets)
}

fn open(config: &Config, clock: &Clock) -> (Tenants, Quota) {
    let quota = open::open(config, clock).unwrap();
    let tenants = Tenants::open(config, quota.clone()).unwrap();
    quota.replay().unwrap();
    (tenants, quota)
}

/// Authentication, reservation and settlement of a request.
fn requests(ledger: Option<&Path>) {
    let clock = Clock::system();
    let (config, secrets) = config(1_000, ledger);
    let (tenants, quota) = open(&config, &clock);
    let (began, cpu) = (clock.now(), cpu_ns());
    for number in 0..REQUESTS {
        let secret = &secrets[usize::try_from(number).unwrap() % secrets.len()];
        request(&tenants, &quota, secret, &clock);
        if number % AT_ONCE == AT_ONCE - 1 {
            quota.ledger().flush().unwrap();
        }
    }
    let (took, cpu) = (clock.now() - began, cpu_ns() - cpu);
    let kept = ledger.map_or("in memory", |_| "in a file");
    println!(
        "request, ledger {kept}: {:.2} us of CPU, {:.2} us of time (bar 15 us of CPU)",
        cpu as f64 / REQUESTS as f64 / 1e3,
        took.as_secs_f64() * 1e6 / REQUESTS as f64,
    );
}

fn request(tenants: &Tenants, quota: &Quota, secret: &Secret, clock: &Clock) {
    let principal = tenants
        .authenticate(secret.reveal(), clock.unix_s())
        .unwrap();
    let (account, model) = (&principal.account, Arc::from("model"));
    quota.check(account, &model).unwrap();
    let slip = Slip {
        request: "req-0123456789".into(),
        purpose: None,
    };
    let bound = Tokens {
        prompt: 100,
        cached: 0,
        completion: 400,
    };
    let held = quota.reserve(account, &model, bound, slip).unwrap();
    held.started();
    let tokens = Tokens {
        completion: 150,
        ..bound
    };
    let spent = Spent {
        tokens,
        ..Spent::default()
    };
    held.settle(spent, Outcome::Finished);
    let _ = quota.standing(account, &model);
}

/// A start with so many records, and a report of them all.
fn replay(file: &Path) {
    let clock = Clock::system();
    let (config, _) = config(1_000, Some(file));
    fill(file);
    let began = clock.now();
    let (_, quota) = open(&config, &clock);
    let took = clock.now() - began;
    println!("start with {RECORDS} records: {took:.2?} (bar 2 s)");
    let mut sums = Report::default();
    let began = clock.now();
    let ledger = quota.ledger();
    report::pages(&**ledger, i64::MIN..i64::MAX, |page| {
        page.iter().try_for_each(|record| sums.add(record)).is_ok()
    })
    .unwrap();
    let took = clock.now() - began;
    let requests: u64 = sums.into_lines().iter().map(|line| line.requests).sum();
    println!("report over {requests} records: {took:.2?}");
}

fn fill(file: &Path) {
    let ledger = EmbeddedLedger::open(file).unwrap();
    for number in 0..RECORDS {
        ledger.append(record(number));
        if number % AT_ONCE == AT_ONCE - 1 {
            ledger.flush().unwrap();
        }
    }
    ledger.flush().unwrap();
}

fn record(number: u64) -> Record {
    let project = number % 1_000;
    let tokens = Tokens {
        prompt: 100,
        cached: 0,
        completion: 150,
    };
    Record {
        charge: Uuid::from_u128(u128::from(number) + 1),
        request: "req-0123456789".into(),
        organisation: format!("o{}", project % 100).into(),
        project: Some(format!("o{}/p{project}", project % 100).into()),
        key: format!("k{project}").into(),
        model: "model".into(),
        site: "here".into(),
        purpose: None,
        tokens,
        amounts: Amounts {
            tokens: tokens.total(),
            ..Amounts::default()
        },
        micrograms: 0,
        estimated: false,
        outcome: Outcome::Finished,
        began_s: 1_700_000_000,
        took_ms: 1_000,
        drawn: vec![Drawn {
            allocation: format!("a{project}").into(),
            period: 0,
            total: Total {
                posted: tokens.total(),
                excess: 0,
            },
        }],
        served: Served::default(),
    }
}

/// What tenants hold of memory, each with a key, its bounds and an allocation.
fn tenants() {
    let (config, secrets) = config(TENANTS, None);
    let before_kb = rss_kb();
    let clock = Clock::manual(1_700_000_000);
    let (tenants, quota) = open(&config, &clock);
    let grown_mb = (rss_kb() - before_kb) as f64 / 1e3;
    println!("{TENANTS} tenants: {grown_mb:.0} MB (bar 200 MB)");
    // Once each has been used, its meters exist as well.
    for secret in &secrets {
        request(&tenants, &quota, secret, &clock);
    }
    clock.advance(Duration::from_secs(1));
    let grown_mb = (rss_kb() - before_kb) as f64 / 1e3;
    println!("{TENANTS} tenants that were all used, with their records: {grown_mb:.0} MB");
}
