//! Opens the quota of a server: the ledger first, then what the config and the ledger say, then what was spent.

use std::fmt::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hansa_config::secret::SecretError;
use hansa_config::{Config, schema};
use sha2::{Digest as _, Sha256};

use super::allocation::Grant;
use super::amount::{Currency, Price};
use super::book::Book;
use super::charge::Scope;
use super::lease::Lessor;
use super::lease::term::StoreAway;
use super::ledger::{Ledger, LedgerError};
use super::meter::Limits;
use super::store::embedded::EmbeddedLedger;
use super::store::memory::MemoryLedger;
use super::store::postgres::PostgresLedger;
use super::{Options, Quota};
use crate::clock::Clock;
use crate::start::HERE;
use crate::tls::{self, TlsError};

/// The quota that `config` describes, with its ledger.
///
/// # Errors
/// [`OpenError`] of a ledger that cannot be used; it is never started empty in its place.
pub fn open(config: &Config, clock: &Clock) -> Result<Quota, OpenError> {
    let (ledger, lessor) = keeper(&config.quota, clock)?;
    let of_tenants = config.tenants.iter().map(|tenant| &tenant.rates);
    let of_keys = config.keys.iter().map(|key| &key.rates);
    let rates = of_tenants
        .chain(of_keys)
        .filter(|rates| !limits(rates).is_empty());
    let mut book = Book::with_room(config.allocations.len(), rates.count());
    for rate in &config.rates {
        let scope = match rate.site.is_empty() {
            true => Scope::Model(rate.model.as_str().into()),
            false => Scope::Site(rate.site.as_str().into()),
        };
        book.set_limits(scope, &limits(&rate.rates), clock.now());
    }
    for price in &config.prices {
        let model = price.model.as_str().into();
        book.set_price(model, named(&price.site), price_of(price));
    }
    for allocation in &config.allocations {
        book.set_grant(grant(allocation));
    }
    let options = Options {
        site: config.quota.site.as_str().into(),
        home: config.route.home_site.as_deref().unwrap_or(HERE).into(),
        default_max_tokens: config.quota.default_max_tokens,
        policy: Some(policy(config)),
    };
    Ok(match lessor {
        Some(lessor) => Quota::shared(book, ledger, clock.clone(), options, lessor),
        None => Quota::new(book, ledger, clock.clone(), options),
    })
}

/// Version of the rules that a config sets: the first half of a SHA-256 over all that says who may use what, at which price,
/// and where requests go. Gateways with the same sections have the same.
fn policy(config: &Config) -> Arc<str> {
    let who = (
        &config.tenants,
        &config.keys,
        &config.issuers,
        &config.claims,
    );
    let what = (&config.allocations, &config.prices, &config.rates);
    let here = (&config.quota.site, config.quota.default_max_tokens);
    // Straight into the digest: the text of a hundred thousand tenants is long.
    let mut rules = Digested(Sha256::new());
    // A digest takes everything.
    let _ = write!(rules, "{who:?}{what:?}{here:?}{:?}", config.route);
    let digest = rules.0.finalize();
    let hex = digest.iter().take(16).map(|byte| format!("{byte:02x}"));
    hex.collect::<String>().into()
}

/// The SHA-256 of what is written.
struct Digested(Sha256);

impl fmt::Write for Digested {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text.as_bytes());
        Ok(())
    }
}

/// Why there is no quota.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The ledger cannot be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// There is no address of the store.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The authority of its certificate cannot be read.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

type Kept = (Arc<dyn Ledger>, Option<Arc<dyn Lessor>>);

/// Who keeps the records, and who lends where others spend from the same.
fn keeper(quota: &schema::tenancy::Quota, clock: &Clock) -> Result<Kept, OpenError> {
    if let Some(store) = &quota.store {
        let url = store.read()?;
        let tls = tls::trusting(quota.store_ca.as_ref())?;
        let ttl = Duration::from_millis(quota.lease_ttl_ms.into());
        let store = PostgresLedger::open(url.expose(), &tls, ttl, clock.clone())?;
        let store = Arc::new(store);
        return Ok((Arc::clone(&store) as Arc<dyn Ledger>, Some(store)));
    }
    Ok(match &quota.ledger {
        Some(file) => (Arc::new(EmbeddedLedger::open(Path::new(file))?), None),
        None => (Arc::new(MemoryLedger::default()), None),
    })
}

impl Quota {
    /// Counts what the ledger says was spent; once, after every allocation is known.
    ///
    /// # Errors
    /// [`LedgerError`], where it cannot be read.
    pub fn replay(&self) -> Result<(), LedgerError> {
        // Sorted by allocation and then by period, as a book wants them.
        let totals = self.ledger().totals()?;
        self.with_book(|book, at| {
            for ((allocation, period), total) in totals {
                book.replay(&allocation, period, total);
            }
            book.roll(at);
        });
        Ok(())
    }
}

/// The bounds of a config.
#[must_use]
pub fn limits(rates: &schema::tenancy::Rates) -> Limits {
    Limits {
        requests_per_minute: rates.requests_per_minute,
        input_tokens_per_minute: rates.input_tokens_per_minute,
        output_tokens_per_minute: rates.output_tokens_per_minute,
        tokens_per_minute: rates.tokens_per_minute,
        concurrent_max: rates.concurrent_max,
        queued_max: rates.queued_max,
        store_away: rates.store_away.map(|away| match away {
            schema::tenancy::StoreAway::Closed => StoreAway::Closed,
            schema::tenancy::StoreAway::Safe => StoreAway::Safe,
            schema::tenancy::StoreAway::Open => {
                StoreAway::Open(rates.open_tokens_per_minute.unwrap_or_default())
            }
        }),
    }
}

/// The grant of a config, in smallest units.
fn grant(allocation: &schema::tenancy::Allocation) -> Grant {
    let currency = match allocation.currency {
        schema::tenancy::Currency::Tokens => Currency::Tokens,
        schema::tenancy::Currency::Money => Currency::Money,
        schema::tenancy::Currency::GpuSeconds => Currency::GpuSeconds,
        schema::tenancy::Currency::Joules => Currency::Joules,
    };
    let units = |whole: u64| whole.saturating_mul(currency.units());
    let percent = |percent: u32| u8::try_from(percent).unwrap_or(100);
    Grant {
        id: allocation.id.as_str().into(),
        tenant: allocation.tenant.as_str().into(),
        site: named(&allocation.site),
        currency,
        amount: units(allocation.amount),
        overdraft: units(allocation.overdraft),
        soft_percent: percent(allocation.soft_percent),
        start_s: allocation.start_s.unwrap_or(0),
        end_s: allocation.end_s.unwrap_or(i64::MAX),
        renew_days: allocation.renew_days,
        carry_over_percent: percent(allocation.carry_over_percent),
    }
}

fn price_of(price: &schema::tenancy::Price) -> Price {
    Price {
        input: price.input,
        cached: price.cached.unwrap_or(price.input),
        output: price.output,
    }
}

fn named(name: &str) -> Option<Arc<str>> {
    (!name.is_empty()).then(|| name.into())
}
