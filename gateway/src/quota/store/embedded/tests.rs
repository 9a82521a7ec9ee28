//! The file under crashes: a disk that loses and tears what was not synced.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

use proptest::prelude::Rng as _;
use proptest::test_runner::{RngAlgorithm, TestRng};

use super::*;
use crate::quota::amount::Tokens;
use crate::quota::book::Book;
use crate::quota::ledger::{self, Drawn, Outcome};
use crate::quota::{allocation, invariants};

/// Crashes in the test command; `scripts/soak` sets more.
const CRASHES: u64 = 40;

fn record(number: u128, posted: u64) -> Record {
    Record {
        charge: ChargeId::from_u128(number),
        request: format!("r{number}").into(),
        organisation: "acme".into(),
        project: None,
        key: "k".into(),
        model: "m".into(),
        site: "here".into(),
        purpose: None,
        tokens: Tokens {
            prompt: posted,
            ..Tokens::default()
        },
        amounts: crate::quota::amount::Amounts::default(),
        micrograms: 0,
        estimated: false,
        outcome: Outcome::Finished,
        began_s: 0,
        took_ms: 0,
        drawn: vec![Drawn {
            allocation: "a".into(),
            period: u64::try_from(number % 3).unwrap_or(0),
            total: Total { posted, excess: 0 },
        }],
        served: ledger::Served::default(),
    }
}

/// That the sums are those of the records, and every charge is there once.
fn check_sums(ledger: &EmbeddedLedger) -> Vec<Record> {
    let records = ledger.records(None, usize::MAX).unwrap();
    let mut sums = Totals::new();
    let mut seen = BTreeSet::new();
    for record in &records {
        assert!(seen.insert(record.charge), "{} twice", record.charge);
        ledger::add(&mut sums, record);
    }
    assert_eq!(ledger.totals().unwrap(), sums);
    records
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ledger.redb");
    (folder, file)
}

#[test]
fn what_was_settled_is_there_after_a_restart_and_once() {
    let (_folder, file) = folder();
    for round in 0..3_u128 {
        let ledger = EmbeddedLedger::open(&file).unwrap();
        // The first of each round was written in the round before.
        for number in round..round + 2 {
            ledger.append(record(number, 10));
            ledger.append(record(number, 10));
        }
        ledger.flush().unwrap();
        assert_eq!(ledger.unsettled(), 0);
        let records = check_sums(&ledger);
        assert_eq!(records.len(), usize::try_from(round).unwrap() + 2);
    }
    let ledger = EmbeddedLedger::open(&file).unwrap();
    let after = Some(ChargeId::from_u128(1));
    let page = ledger.records(after, 2).unwrap();
    assert_eq!(page, [record(2, 10), record(3, 10)]);
}

#[test]
fn settings_and_their_audit_are_kept() {
    let (_folder, file) = folder();
    let change = |id: &str, value: Option<&str>, at_s| Change {
        kind: Kind::Tenant,
        id: id.to_owned(),
        value: value.map(str::to_owned),
        by: "ops".to_owned(),
        at_s,
    };
    let ledger = EmbeddedLedger::open(&file).unwrap();
    ledger.change(change("a", Some("1"), 1)).unwrap();
    ledger.change(change("b", Some("2"), 2)).unwrap();
    ledger.change(change("a", None, 3)).unwrap();
    drop(ledger);
    let ledger = EmbeddedLedger::open(&file).unwrap();
    let tenants = ledger.settings(Kind::Tenant).unwrap();
    assert_eq!(tenants, [("b".to_owned(), "2".to_owned())]);
    assert_eq!(ledger.settings(Kind::Key).unwrap(), []);
    let audit = ledger.audit(2).unwrap();
    let told: Vec<_> = audit.iter().map(|l| (l.at_s, &*l.action, &*l.id)).collect();
    assert_eq!(told, [(3, "remove", "a"), (2, "set", "b")]);
}

#[test]
fn a_file_that_is_not_a_ledger_is_refused_by_name_and_left_alone() {
    let (_folder, file) = folder();
    let name = file.display().to_string();
    drop(EmbeddedLedger::open(&file).unwrap());
    let whole = std::fs::read(&file).unwrap();
    let mut other_magic = whole.clone();
    other_magic[0] ^= 1;
    for damaged in [
        Vec::new(),
        b"not a ledger".to_vec(),
        other_magic,
        whole[..700].to_vec(),
    ] {
        std::fs::write(&file, &damaged).unwrap();
        let refused = EmbeddedLedger::open(&file).map(|_| ()).unwrap_err();
        assert!(matches!(refused, LedgerError::Damaged { .. }), "{refused}");
        let message = refused.to_string();
        assert!(
            message.contains(&name) && message.contains("backup"),
            "{message}"
        );
        assert_eq!(std::fs::read(&file).unwrap(), damaged);
    }
}

#[test]
fn a_file_of_a_later_version_or_in_use_is_refused() {
    let (_folder, file) = folder();
    let ledger = EmbeddedLedger::open(&file).unwrap();
    let refused = EmbeddedLedger::open(&file).map(|_| ()).unwrap_err();
    assert!(matches!(refused, LedgerError::InUse { .. }), "{refused}");
    drop(ledger);
    let database = Database::open(&file).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction
        .open_table(META)
        .unwrap()
        .insert("schema", SCHEMA + 1)
        .unwrap();
    transaction.commit().unwrap();
    drop(database);
    let refused = EmbeddedLedger::open(&file).map(|_| ()).unwrap_err();
    assert!(
        matches!(refused, LedgerError::Newer { found: 2, .. }),
        "{refused}"
    );
}

/// A disk that keeps what was synced, and of the rest what chance leaves.
#[derive(Debug, Clone, Default)]
struct Disk(Arc<Mutex<Platters>>);

#[derive(Debug, Default)]
struct Platters {
    /// As the program sees it.
    cached: Vec<u8>,
    /// As it was at the last sync.
    durable: Vec<u8>,
    /// Writes since then.
    unsynced: Vec<Write>,
    /// Operations until the power fails.
    until_failure: Option<u64>,
}

#[derive(Debug)]
enum Write {
    Bytes(usize, Vec<u8>),
    Length(usize),
}

impl Write {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Self::Length(length) => to.resize(*length, 0),
            Self::Bytes(at, bytes) => {
                let end = at + bytes.len();
                if to.len() < end {
                    to.resize(end, 0);
                }
                to[*at..end].copy_from_slice(bytes);
            }
        }
    }
}

impl Disk {
    fn platters(&self) -> MutexGuard<'_, Platters> {
        self.0.lock().unwrap()
    }

    /// The platters, unless the power has failed; `costs` says whether the operation brings that nearer.
    fn on(&self, costs: bool) -> io::Result<MutexGuard<'_, Platters>> {
        let mut platters = self.platters();
        match &mut platters.until_failure {
            Some(0) => return Err(io::Error::other("no power")),
            Some(left) if costs => *left -= 1,
            _ => {}
        }
        Ok(platters)
    }

    /// What a crash leaves: all that was synced, and some of the rest, some of it torn.
    fn after_crash(&self, random: &mut TestRng) -> Self {
        let platters = self.platters();
        let mut left = platters.durable.clone();
        for write in &platters.unsynced {
            match (random.next_u32() % 4, write) {
                (0, _) => {}
                (1, Write::Bytes(at, bytes)) => {
                    let torn = random.next_u32() as usize % bytes.len().max(1);
                    Write::Bytes(*at, bytes[..torn].to_vec()).apply(&mut left);
                }
                _ => write.apply(&mut left),
            }
        }
        let platters = Platters {
            cached: left.clone(),
            durable: left,
            ..Platters::default()
        };
        Self(Arc::new(Mutex::new(platters)))
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.on(false)?.cached.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let platters = self.on(false)?;
        let start = usize::try_from(offset).unwrap();
        let bytes = platters.cached.get(start..start + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut platters = self.on(true)?;
        let write = Write::Length(usize::try_from(len).unwrap());
        write.apply(&mut platters.cached);
        platters.unsynced.push(write);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut platters = self.on(true)?;
        platters.unsynced.clear();
        platters.durable = platters.cached.clone();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut platters = self.on(true)?;
        let write = Write::Bytes(usize::try_from(offset).unwrap(), data.to_vec());
        write.apply(&mut platters.cached);
        platters.unsynced.push(write);
        Ok(())
    }
}

/// One disk through several crashes, each at a random operation of random work.
fn lives(seed: u64, crashes: u64) {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut disk = Disk::default();
    let mut sent: BTreeMap<u128, u64> = BTreeMap::new();
    let mut settled: BTreeSet<u128> = BTreeSet::new();
    // The first life only makes the file.
    drop(EmbeddedLedger::on(disk.clone()).unwrap());
    for _ in 0..crashes {
        let ledger = EmbeddedLedger::on(disk.clone()).unwrap();
        for record in check_sums(&ledger) {
            let number = record.charge.as_u128();
            assert_eq!(
                sent.get(&number),
                Some(&record.tokens.prompt),
                "seed {seed}"
            );
        }
        for number in &settled {
            let before = number.checked_sub(1).map(ChargeId::from_u128);
            let found = ledger.records(before, 1).unwrap();
            let is_there = found
                .iter()
                .any(|record| record.charge.as_u128() == *number);
            assert!(is_there, "seed {seed} lost {number}, which was settled");
        }
        check_l1(&ledger);
        disk.platters().until_failure = Some(u64::from(random.next_u32() % 160));
        loop {
            let batch = random.next_u32() % 8;
            let numbers: Vec<u128> = (0..batch).map(|_| u128::from(random.next_u64())).collect();
            for number in &numbers {
                let posted = u64::from(random.next_u32() % 1_000);
                sent.insert(*number, posted);
                ledger.append(record(*number, posted));
            }
            if ledger.flush().is_err() {
                break;
            }
            settled.extend(numbers);
        }
        drop(ledger);
        disk = disk.after_crash(&mut random);
    }
}

fn check_l1(ledger: &EmbeddedLedger) {
    let mut book = Book::default();
    book.set_grant(allocation::tests::grant("a", "acme", 1 << 40));
    for ((allocation, period), total) in ledger.totals().unwrap() {
        book.replay(&allocation, period, total);
    }
    assert_eq!(invariants::all(&book), Ok(()));
}

#[test]
fn crashes_lose_nothing_that_was_settled_and_double_nothing() {
    let crashes = std::env::var("HANSA_SOAK_CRASHES");
    let crashes = crashes.map_or(CRASHES, |text| text.parse().unwrap());
    for seed in 0..crashes.div_ceil(5) {
        lives(seed, 5);
    }
}

#[test]
fn a_failed_sync_ends_the_ledger_and_says_so() {
    let disk = Disk::default();
    let ledger = EmbeddedLedger::on(disk.clone()).unwrap();
    disk.platters().until_failure = Some(0);
    ledger.append(record(1, 1));
    assert_eq!(ledger.flush(), Err(LedgerError::Failed));
    assert_eq!(ledger.unsettled(), 1);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(ledger.failed());
}
