//! Kills a process that writes a ledger, at random points, and looks at what is left.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use hansa_gateway::clock::Clock;
use hansa_gateway::quota::allocation::Grant;
use hansa_gateway::quota::amount::{Currency, Tokens};
use hansa_gateway::quota::book::Book;
use hansa_gateway::quota::charge::{Account, Spent};
use hansa_gateway::quota::ledger::{Ledger, Outcome, Totals, add};
use hansa_gateway::quota::reservation::Slip;
use hansa_gateway::quota::store::embedded::EmbeddedLedger;
use hansa_gateway::quota::{Options, Quota, invariants};
use std::sync::Arc;

/// Kills in the test command; `scripts/soak` sets more.
const KILLS: u32 = 5;

/// Names the ledger to the process that is killed.
const FILE: &str = "HANSA_TEST_LEDGER";

const GRANTED: u64 = 1_000_000_000;

fn quota(file: &Path) -> Quota {
    let mut book = Book::default();
    book.set_grant(Grant {
        id: "a".into(),
        tenant: "acme".into(),
        site: None,
        currency: Currency::Tokens,
        amount: GRANTED,
        overdraft: 0,
        soft_percent: 100,
        start_s: 0,
        end_s: i64::MAX,
        renew_days: 0,
        carry_over_percent: 0,
    });
    let ledger = Arc::new(EmbeddedLedger::open(file).unwrap());
    let options = Options {
        site: "here".into(),
        home: "here".into(),
        default_max_tokens: 16,
        policy: None,
    };
    let quota = Quota::new(book, ledger, Clock::system(), options);
    quota.replay().unwrap();
    quota
}

fn tokens(prompt: u64, completion: u64) -> Tokens {
    Tokens {
        prompt,
        cached: 0,
        completion,
    }
}

/// The process that is killed: spends for ever, and prints each charge once it is settled.
#[test]
fn spend_until_killed() {
    let Some(file) = std::env::var_os(FILE) else {
        // Run by hand or with the others, there is nothing to do.
        return;
    };
    let quota = quota(Path::new(&file));
    let account = Arc::new(Account {
        key: "k".into(),
        project: None,
        organisation: "acme".into(),
    });
    let mut stdout = std::io::stdout();
    loop {
        let mut charges = Vec::new();
        for used in 0..10 {
            let slip = Slip {
                request: "r".into(),
                purpose: None,
            };
            let held = quota.reserve(&account, &"m".into(), tokens(10, 10), slip);
            let held = held.unwrap();
            let spent = Spent {
                tokens: tokens(10, used),
                ..Spent::default()
            };
            assert!(held.settle(spent, Outcome::Finished));
            charges.push(held.charge());
        }
        quota.ledger().flush().unwrap();
        for charge in charges {
            writeln!(stdout, "settled {charge}").unwrap();
        }
    }
}

#[test]
fn a_killed_process_loses_nothing_that_was_settled_and_doubles_nothing() {
    let kills = std::env::var("HANSA_SOAK_CRASHES");
    let kills = kills.map_or(KILLS, |text| text.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ledger.redb");
    let mut settled = BTreeSet::new();
    for kill in 0..kills {
        // A different number of lines each time: the kill comes at another point of the work.
        let lines = 1 + (kill * 37) % 101;
        settled.extend(spend_and_kill(&file, lines));
        let ledger = EmbeddedLedger::open(&file).unwrap();
        let records = ledger.records(None, usize::MAX).unwrap();
        let kept: BTreeSet<String> = records.iter().map(|r| r.charge.to_string()).collect();
        assert_eq!(kept.len(), records.len());
        assert!(
            settled.is_subset(&kept),
            "kill {kill} lost what was settled"
        );
        let mut sums = Totals::new();
        for record in &records {
            add(&mut sums, record);
        }
        assert_eq!(ledger.totals().unwrap(), sums);
        drop(ledger);
        let quota = quota(&file);
        let spent: u64 = records.iter().map(|record| record.tokens.total()).sum();
        quota.with_book(|book, _| {
            assert_eq!(invariants::all(book), Ok(()));
            let left = book.allocations().next().unwrap().left();
            assert_eq!(left, GRANTED - spent);
        });
    }
}

/// Runs the process until it has printed so many lines, and a little longer; gives what it had settled by then.
fn spend_and_kill(file: &Path, lines: u32) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "spend_until_killed", "--nocapture"])
        .env(FILE, file)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let mut read = stdout.lines().map_while(Result::ok);
    let told = |line: String| line.split_once("settled ").map(|(_, id)| id.to_owned());
    let mut settled: Vec<String> = read
        .by_ref()
        .filter_map(told)
        .take(lines as usize)
        .collect();
    child.kill().unwrap();
    child.wait().unwrap();
    // What it printed before it died counts; a line that it could not finish does not.
    let rest = read.filter_map(told).filter(|id| id.len() == 36);
    settled.extend(rest);
    settled
}
