//! Quotas in one PostgreSQL: what the store keeps, and that gateways that share it never spend anything twice.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use hansa_config::secret::SecretSource;
use hansa_gateway::clock::Clock;
use hansa_gateway::quota::allocation::Grant;
use hansa_gateway::quota::amount::{Amounts, Tokens};
use hansa_gateway::quota::book::Book;
use hansa_gateway::quota::charge::{Account, Refusal, Scope, Spent};
use hansa_gateway::quota::lease::term::StoreAway;
use hansa_gateway::quota::lease::{Lessor, Line, Size, Subject};
use hansa_gateway::quota::ledger::{
    Change, Drawn, Kind, Ledger, LedgerError, Outcome, Record, Served,
};
use hansa_gateway::quota::meter::Limits;
use hansa_gateway::quota::open::OpenError;
use hansa_gateway::quota::reservation::{Reservation, Slip};
use hansa_gateway::quota::store::postgres::PostgresLedger;
use hansa_gateway::quota::{Options, Quota, allocation::Total};
use hansa_gateway::route::means::Means;
use hansa_gateway::serve::{App, ServeError};
use hansa_gateway::tls;
use hansa_gateway::upstream::purse::Purse;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::harness::{PATIENCE, bare, file, spawn};
use crate::postgres::Postgres;

const TTL: Duration = Duration::from_secs(3);

/// One gateway's quota, without the gateway.
struct Member {
    ledger: Arc<PostgresLedger>,
    quota: Quota,
    keeping: JoinHandle<()>,
}

impl Member {
    /// With so many tokens for `acme`, and what `set` sets.
    fn join(store: &Postgres, tokens: u64, set: impl FnOnce(&mut Book)) -> Self {
        let clock = Clock::system();
        let ledger = Arc::new(open(store, &clock));
        let mut book = Book::default();
        book.set_grant(grant(tokens));
        set(&mut book);
        let options = Options {
            site: "here".into(),
            home: "here".into(),
            default_max_tokens: 16,
            policy: None,
        };
        let (kept, lessor) = (
            Arc::clone(&ledger) as Arc<dyn Ledger>,
            Arc::clone(&ledger) as Arc<dyn Lessor>,
        );
        let quota = Quota::shared(book, kept, clock, options, lessor);
        let keeping = spawn(quota.clone().keep_leases());
        Self {
            ledger,
            quota,
            keeping,
        }
    }

    async fn admit(&self, tokens: u64) -> Result<Reservation, Refusal> {
        let slip = Slip {
            request: "r".into(),
            purpose: None,
        };
        let bound = Tokens {
            prompt: tokens,
            ..Tokens::default()
        };
        self.quota.admit(&account(), &"m".into(), bound, slip).await
    }

    /// Whether a request that uses all it reserves was served.
    async fn spend(&self, tokens: u64) -> bool {
        let Ok(reservation) = self.admit(tokens).await else {
            return false;
        };
        reservation.settle(spent(tokens), Outcome::Finished)
    }

    async fn settled(&self) {
        let settled = async {
            while self.ledger.unsettled() > 0 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, settled).await.unwrap();
    }

    async fn leave(self) {
        self.settled().await;
        self.keeping.abort();
        self.quota.leave().await;
    }
}

fn open(store: &Postgres, clock: &Clock) -> PostgresLedger {
    let tls = tls::trusting(None).unwrap();
    PostgresLedger::open(&store.url(), &tls, TTL, clock.clone()).unwrap()
}

fn grant(amount: u64) -> Grant {
    let json = format!(r#"{{"id":"a","tenant":"acme","currency":"tokens","amount":{amount}}}"#);
    serde_json::from_str(&json).unwrap()
}

fn account() -> Arc<Account> {
    Arc::new(Account {
        key: "k".into(),
        project: None,
        organisation: "acme".into(),
    })
}

fn spent(tokens: u64) -> Spent {
    let tokens = Tokens {
        prompt: tokens,
        ..Tokens::default()
    };
    Spent {
        tokens,
        ..Spent::default()
    }
}

fn record(charge: Uuid, posted: u64) -> Record {
    Record {
        charge,
        request: "r".into(),
        organisation: "acme".into(),
        project: None,
        key: "k".into(),
        model: "m".into(),
        site: "here".into(),
        purpose: None,
        tokens: spent(posted).tokens,
        amounts: Amounts::default(),
        micrograms: 0,
        estimated: false,
        outcome: Outcome::Finished,
        began_s: 1_700_000_000,
        took_ms: 5,
        drawn: vec![Drawn {
            allocation: "a".into(),
            period: 0,
            total: Total { posted, excess: 0 },
        }],
        served: Served::default(),
    }
}

/// Posted, excess and what is out on lease of the allocation.
fn pool(store: &Postgres) -> String {
    store.query("SELECT posted, excess, leased FROM hansa.pool WHERE kind = 'allocation'")
}

#[tokio::test]
async fn a_record_is_kept_once_with_its_sums_however_often_it_comes() {
    let store = Postgres::start();
    let ledger = open(&store, &Clock::system());
    let records: Vec<Record> = (1..=5).map(|n| record(Uuid::now_v7(), n * 10)).collect();
    for twice in [&records[..3], &records[..]] {
        twice
            .iter()
            .for_each(|record| ledger.append(record.clone()));
        ledger.flush().unwrap();
    }
    assert_eq!(ledger.records(None, 100).unwrap(), records);
    assert_eq!(
        ledger.records(Some(records[1].charge), 2).unwrap(),
        records[2..4]
    );
    let total = Total {
        posted: 150,
        excess: 150,
    };
    assert_eq!(ledger.totals().unwrap(), [(("a".into(), 0), total)].into());
    drop(ledger);
    // Another process sees the same, and nobody can change a line.
    let again = open(&store, &Clock::system());
    assert_eq!(again.records(None, 100).unwrap().len(), 5);
    let refused = store.query(
        "DO $$ BEGIN UPDATE hansa.record SET body = '{}'; EXCEPTION WHEN raise_exception THEN RAISE NOTICE 'refused'; END $$; \
         SELECT count(*) FROM hansa.record WHERE body::text = '{}'",
    );
    assert_eq!(refused, "0");
}

#[tokio::test]
async fn what_operators_set_is_seen_by_every_gateway_at_once() {
    let store = Postgres::start();
    let (first, second) = (
        open(&store, &Clock::system()),
        open(&store, &Clock::system()),
    );
    let mut revisions = second.revisions().unwrap();
    revisions.mark_unchanged();
    let change = |value: Option<&str>| Change {
        kind: Kind::Key,
        id: "k".to_owned(),
        value: value.map(str::to_owned),
        by: "operator".to_owned(),
        at_s: 1,
    };
    first.change(change(Some("{}"))).unwrap();
    timeout(PATIENCE, revisions.changed())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        second.settings(Kind::Key).unwrap(),
        [("k".to_owned(), "{}".to_owned())]
    );
    assert_eq!(second.settings(Kind::Tenant).unwrap(), []);
    second.change(change(None)).unwrap();
    assert_eq!(first.settings(Kind::Key).unwrap(), []);
    let audit = first.audit(10).unwrap();
    let actions: Vec<&str> = audit.iter().map(|line| line.action.as_str()).collect();
    assert_eq!(actions, ["remove", "set"]);
}

#[tokio::test]
async fn a_store_that_cannot_be_used_is_refused_by_name_and_without_its_password() {
    let start = async |url: &str| {
        let mut config = bare();
        config.quota.store = Some(SecretSource::File(file(&Uuid::new_v4().to_string(), url)));
        match App::build(config).await {
            Err(ServeError::Quota(OpenError::Ledger(error))) => error,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(start("mysql://a:secret@b/c").await, LedgerError::Url);
    let error = start("postgres://u:secret@127.0.0.1:1/db").await;
    let text = error.to_string();
    assert!(matches!(error, LedgerError::Away { .. }), "{text}");
    assert!(
        text.contains("'db' at 127.0.0.1") && !text.contains("secret"),
        "{text}"
    );
    let store = Postgres::start();
    drop(open(&store, &Clock::system()));
    store.query("UPDATE hansa.schema SET version = 99");
    let error = start(&store.url()).await;
    assert!(
        matches!(error, LedgerError::Newer { found: 99, .. }),
        "{error}"
    );
    assert!(
        error.to_string().contains("use the newer program"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_one_store_admit_exactly_what_there_is() {
    let store = Postgres::start();
    let members: Vec<_> = (0..3)
        .map(|_| Member::join(&store, 10 * 100, |_| ()))
        .collect();
    let asked = (0..300).map(|n| members[n % 3].spend(100));
    let admitted = join_all(asked)
        .await
        .into_iter()
        .filter(|served| *served)
        .count();
    assert_eq!(admitted, 10);
    for member in members {
        member.leave().await;
    }
    assert_eq!(pool(&store), "1000|0|0");
    assert_eq!(store.query("SELECT count(*) FROM hansa.record"), "10");
    assert_eq!(store.query("SELECT count(*) FROM hansa.gateway"), "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lies_idle_at_one_gateway_comes_to_the_other_that_needs_it() {
    let store = Postgres::start();
    let (idle, busy) = (
        Member::join(&store, 1_000, |_| ()),
        Member::join(&store, 1_000, |_| ()),
    );
    // One spends a little, so that it has some at hand; the other then wants all that is left, to the last token.
    for _ in 0..20 {
        assert!(idle.spend(5).await);
    }
    for _ in 0..9 {
        assert!(busy.spend(100).await);
    }
    assert!(!busy.spend(1).await);
    idle.leave().await;
    busy.leave().await;
    assert_eq!(pool(&store), "1000|0|0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_the_steady_state_no_request_waits_for_the_store() {
    let store = Postgres::start();
    let limits = Limits {
        tokens_per_minute: Some(100_000_000),
        requests_per_minute: Some(1_000_000),
        ..Limits::default()
    };
    let tenant = Scope::Tenant("acme".into());
    let rated = |book: &mut Book| book.set_limits(tenant, &limits, Duration::ZERO);
    let member = Member::join(&store, 100_000_000, rated);
    // Until slices are as large as what is spent.
    let (mut steady, mut before) = (0, member.quota.lease_waits());
    let mut asked = member.ledger.asked();
    let settling = async {
        while steady < 500 {
            assert!(member.spend(100).await);
            sleep(Duration::from_millis(2)).await;
            steady += 1;
            if member.quota.lease_waits() > before {
                (steady, before, asked) = (0, member.quota.lease_waits(), member.ledger.asked());
            }
        }
    };
    timeout(PATIENCE, settling).await.unwrap();
    // Five hundred requests without one that waited; rounds and group commits come by time, not by request.
    assert!(member.ledger.asked() - asked < 1_000);
    member.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_store_is_away_a_tenant_gets_what_it_is_set_to() {
    let store = Postgres::start();
    let away = |store_away| {
        move |book: &mut Book| {
            let limits = Limits {
                store_away: Some(store_away),
                ..Limits::default()
            };
            book.set_limits(Scope::Tenant("acme".into()), &limits, Duration::ZERO);
        }
    };
    let amount = 1_000_000;
    let safe = Member::join(&store, amount, away(StoreAway::Safe));
    let closed = Member::join(&store, amount, away(StoreAway::Closed));
    let open = Member::join(&store, amount, away(StoreAway::Open(500)));
    for member in [&safe, &closed, &open] {
        for _ in 0..5 {
            assert!(member.spend(100).await);
        }
        member.settled().await;
    }
    store.pause();
    let refused = async |member: &Member| {
        let refusing = async {
            loop {
                match member.admit(100).await {
                    Ok(held) => drop(held.void()),
                    Err(refusal) => return refusal,
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, refusing).await.unwrap()
    };
    assert_eq!(refused(&closed).await, Refusal::Away);
    // In `safe` the lease ends after two thirds of its time at most, and not a token is let in after that.
    // Nobody knows what is left of the allocation: that it is spent nobody may say.
    assert_eq!(refused(&safe).await, Refusal::Away);
    sleep(TTL).await;
    assert_eq!(safe.admit(1).await.unwrap_err(), Refusal::Away);
    // In `open` a minute's worth goes beyond.
    let mut beyond = 0;
    while beyond < 100 && open.spend(100).await {
        beyond += 1;
    }
    assert!((4..=5).contains(&beyond), "{beyond}");
    store.resume();
    for member in [&safe, &closed, &open] {
        let served = async {
            while !member.spend(100).await {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(PATIENCE, served).await.unwrap();
    }
    let total = 100 * (3 * 5 + beyond + 3);
    for member in [safe, closed, open] {
        member.leave().await;
    }
    assert_eq!(
        store.query("SELECT posted, leased FROM hansa.pool WHERE kind = 'allocation'"),
        format!("{total}|0")
    );
    assert_eq!(
        store.query("SELECT count(*) FROM hansa.record"),
        (total / 100).to_string()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_gateway_that_is_gone_had_on_lease_comes_back_after_its_time() {
    let store = Postgres::start();
    let gone = Member::join(&store, 1_000, |_| ());
    let held = gone.admit(600).await.unwrap();
    // Its keeper stops as if the process were paused; the request still runs.
    gone.keeping.abort();
    let heir = Member::join(&store, 1_000, |_| ());
    assert!(!heir.spend(600).await);
    let served = async {
        while !heir.spend(600).await {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, served).await.unwrap();
    // What it had let in goes on to be settled, once, and what that is beyond the budget is recorded.
    assert!(held.settle(spent(600), Outcome::Finished));
    gone.settled().await;
    heir.settled().await;
    assert_eq!(pool(&store), "1200|600|0");
    heir.leave().await;
}

#[tokio::test]
async fn what_goes_over_into_a_period_is_not_left_in_the_one_before() {
    let store = Postgres::start();
    let ledger = open(&store, &Clock::system());
    ledger.enlist(Vec::new()).await.unwrap();
    let ask = async |period, need| {
        let line = Line {
            subject: Subject::allocation("a".into(), period),
            size: Size::Stock {
                amount: 1_000,
                overdraft: 0,
                carry_over_percent: 50,
            },
            spent: 0,
            refunded: 0,
            returned: 0,
            need,
            least: 1,
            surplus: 0,
        };
        let answers = ledger.exchange(vec![line]).await.unwrap();
        (answers[0].granted, answers[0].carried, answers[0].is_closed)
    };
    assert_eq!(ask(3, 200).await, (200, 875, false));
    // By a clock that is ahead the next period begins, with half of the 1,675 that are left.
    assert_eq!(ask(4, 10).await, (10, 837, false));
    // By one that is behind nothing more is lent of the old one.
    assert_eq!(ask(3, 10).await, (0, 875, true));
    assert_eq!(ask(4, 10_000).await, (1_827, 837, false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_allocations_at_other_sites_alone_is_let_in_and_paid_for_there() {
    let store = Postgres::start();
    let there =
        r#"{"id":"there","tenant":"acme","site":"there","currency":"tokens","amount":1000}"#;
    let there: Grant = serde_json::from_str(there).unwrap();
    let member = Member::join(&store, 1, |book| {
        book.remove_grant("a");
        book.set_grant(there);
    });
    let (here, there) = (Arc::from("here"), Arc::from("there"));
    for _ in 0..10 {
        member.quota.check(&account(), &"m".into()).unwrap();
        let held = member.admit(100).await.unwrap();
        let purse: &dyn Purse = &held;
        assert_eq!(
            (purse.at(&here), purse.at(&there)),
            (Means::Nothing, Means::Own)
        );
        assert!(!purse.move_to(&here));
        // What is not on lease is fetched once, and there the second time.
        if !purse.move_to(&there) {
            assert!(purse.fetch().await);
            assert!(purse.move_to(&there));
        }
        assert!(held.settle(spent(100), Outcome::Finished));
    }
    // The last one finds out that there is nothing more, and then everybody knows.
    if let Ok(held) = member.admit(100).await {
        let purse: &dyn Purse = &held;
        assert!(!purse.move_to(&there));
        assert!(!purse.fetch().await);
        assert!(held.void());
    }
    let refused = member.quota.check(&account(), &"m".into());
    assert_eq!(refused, Err(Refusal::NotHere { site: here }));
    member.leave().await;
    assert_eq!(pool(&store), "1000|0|0");
}
