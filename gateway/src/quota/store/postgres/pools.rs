//! Pools in the store: locked, read, and written back, with what one gateway has on lease of each.
//!
//! Everybody locks in one order: a gateway's row first, then that of its life, then pools by kind, name and period; so nobody
//! waits in a circle.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio_postgres::types::Type;
use tokio_postgres::{Error, Row, Transaction};
use uuid::Uuid;

use crate::quota::allocation::carry_over;
use crate::quota::lease::pool::Pool;
use crate::quota::lease::{Kind, Size, Subject};

/// A pool under lock, and what a gateway has of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) pool: Pool,
    pub(super) mine: u64,
    before: (Pool, u64),
}

/// Pools under lock.
pub(super) type Pools = BTreeMap<Subject, Held>;

/// Subjects as three arrays.
struct Columns {
    kinds: Vec<&'static str>,
    names: Vec<String>,
    periods: Vec<i64>,
}

impl Columns {
    fn of<'a>(subjects: impl Iterator<Item = &'a Subject>) -> Self {
        let mut columns = Self {
            kinds: Vec::new(),
            names: Vec::new(),
            periods: Vec::new(),
        };
        for subject in subjects {
            columns.kinds.push(subject.kind.name());
            columns.names.push(subject.name.to_string());
            columns.periods.push(signed(subject.period));
        }
        columns
    }
}

/// Locks the pools of `sizes`, making those that are missing, and reads them.
pub(super) async fn lock(
    transaction: &Transaction<'_>,
    gateway: Option<Uuid>,
    sizes: &BTreeMap<Subject, Option<Size>>,
) -> Result<Pools, Error> {
    let columns = Columns::of(sizes.keys());
    let locked = lock_rows(transaction, &columns).await?;
    if locked < sizes.len() as u64 {
        make_missing(transaction, &columns, sizes).await?;
        lock_rows(transaction, &columns).await?;
    }
    // Only now: amounts on lease change under the lock alone, and a statement sees what was there when it began.
    let read = "SELECT p.kind, p.name, p.period, p.posted, p.excess, p.carried, p.leased, p.full_at_ns, \
                COALESCE(l.amount, 0), p.is_closed \
                FROM unnest($1::text[], $2::text[], $3::int8[]) AS u(kind, name, period) \
                JOIN hansa.pool p USING (kind, name, period) \
                LEFT JOIN hansa.lease l ON l.gateway = $4 \
                AND (l.kind, l.name, l.period) = (p.kind, p.name, p.period)";
    let rows = transaction
        .query_typed(
            read,
            &[
                (&columns.kinds, Type::TEXT_ARRAY),
                (&columns.names, Type::TEXT_ARRAY),
                (&columns.periods, Type::INT8_ARRAY),
                (&gateway, Type::UUID),
            ],
        )
        .await?;
    Ok(rows.iter().filter_map(held).collect())
}

/// Writes back what has changed. Leases are only made where `may_lend`: the gateway's row is under lock then.
pub(super) async fn save(
    transaction: &Transaction<'_>,
    gateway: Option<Uuid>,
    pools: &Pools,
    may_lend: bool,
) -> Result<(), Error> {
    let changed = || pools.iter().filter(|(_, held)| held.pool != held.before.0);
    if changed().next().is_some() {
        let columns = Columns::of(changed().map(|(subject, _)| subject));
        let figures = |of: fn(&Pool) -> u64| -> Vec<i64> {
            changed().map(|(_, held)| signed(of(&held.pool))).collect()
        };
        let update = "UPDATE hansa.pool p SET posted = u.posted, excess = u.excess, carried = u.carried, \
                      leased = u.leased, full_at_ns = u.full_at_ns \
                      FROM unnest($1::text[], $2::text[], $3::int8[], $4::int8[], $5::int8[], $6::int8[], $7::int8[], \
                      $8::int8[]) AS u(kind, name, period, posted, excess, carried, leased, full_at_ns) \
                      WHERE (p.kind, p.name, p.period) = (u.kind, u.name, u.period)";
        transaction
            .execute_typed(
                update,
                &[
                    (&columns.kinds, Type::TEXT_ARRAY),
                    (&columns.names, Type::TEXT_ARRAY),
                    (&columns.periods, Type::INT8_ARRAY),
                    (&figures(|pool| pool.posted), Type::INT8_ARRAY),
                    (&figures(|pool| pool.excess), Type::INT8_ARRAY),
                    (&figures(|pool| pool.carried), Type::INT8_ARRAY),
                    (&figures(|pool| pool.leased), Type::INT8_ARRAY),
                    (&figures(|pool| nanos(pool.full_at)), Type::INT8_ARRAY),
                ],
            )
            .await?;
    }
    save_leases(transaction, gateway, pools, may_lend).await
}

async fn save_leases(
    transaction: &Transaction<'_>,
    gateway: Option<Uuid>,
    pools: &Pools,
    may_lend: bool,
) -> Result<(), Error> {
    let changed = || pools.iter().filter(|(_, held)| held.mine != held.before.1);
    if changed().next().is_none() {
        return Ok(());
    }
    let columns = Columns::of(changed().map(|(subject, _)| subject));
    let amounts: Vec<i64> = changed().map(|(_, held)| signed(held.mine)).collect();
    let write = match may_lend {
        true => {
            "INSERT INTO hansa.lease (gateway, kind, name, period, amount) \
             SELECT $1, * FROM unnest($2::text[], $3::text[], $4::int8[], $5::int8[]) \
             ON CONFLICT (gateway, kind, name, period) DO UPDATE SET amount = EXCLUDED.amount"
        }
        false => {
            "UPDATE hansa.lease l SET amount = u.amount \
             FROM unnest($2::text[], $3::text[], $4::int8[], $5::int8[]) AS u(kind, name, period, amount) \
             WHERE l.gateway = $1 AND (l.kind, l.name, l.period) = (u.kind, u.name, u.period)"
        }
    };
    transaction
        .execute_typed(
            write,
            &[
                (&gateway, Type::UUID),
                (&columns.kinds, Type::TEXT_ARRAY),
                (&columns.names, Type::TEXT_ARRAY),
                (&columns.periods, Type::INT8_ARRAY),
                (&amounts, Type::INT8_ARRAY),
            ],
        )
        .await?;
    Ok(())
}

async fn lock_rows(transaction: &Transaction<'_>, columns: &Columns) -> Result<u64, Error> {
    let lock = "SELECT 1 FROM hansa.pool p \
                JOIN unnest($1::text[], $2::text[], $3::int8[]) AS u(kind, name, period) USING (kind, name, period) \
                ORDER BY p.kind, p.name, p.period FOR UPDATE OF p";
    let locked = transaction
        .query_typed(
            lock,
            &[
                (&columns.kinds, Type::TEXT_ARRAY),
                (&columns.names, Type::TEXT_ARRAY),
                (&columns.periods, Type::INT8_ARRAY),
            ],
        )
        .await?;
    Ok(locked.len() as u64)
}

/// Makes the pools that are missing; one of an allocation begins with what its last period left.
async fn make_missing(
    transaction: &Transaction<'_>,
    columns: &Columns,
    sizes: &BTreeMap<Subject, Option<Size>>,
) -> Result<(), Error> {
    let insert = "INSERT INTO hansa.pool (kind, name, period) \
                  SELECT * FROM unnest($1::text[], $2::text[], $3::int8[]) AS u(kind, name, period) \
                  ORDER BY 1, 2, 3 ON CONFLICT DO NOTHING RETURNING kind, name, period";
    let made = transaction
        .query_typed(
            insert,
            &[
                (&columns.kinds, Type::TEXT_ARRAY),
                (&columns.names, Type::TEXT_ARRAY),
                (&columns.periods, Type::INT8_ARRAY),
            ],
        )
        .await?;
    for subject in made.iter().filter_map(subject_of) {
        let size = sizes.get(&subject).copied().flatten();
        if let Some(
            size @ Size::Stock {
                carry_over_percent: 1..,
                ..
            },
        ) = size
        {
            carry(transaction, &subject, size).await?;
        }
    }
    Ok(())
}

/// Takes what the last period of an allocation left over into a new one.
async fn carry(transaction: &Transaction<'_>, subject: &Subject, size: Size) -> Result<(), Error> {
    let (name, period) = (subject.name.to_string(), signed(subject.period));
    let earlier = "SELECT period, carried, LEAST(posted::numeric + leased, 9223372036854775807)::int8 FROM hansa.pool \
                   WHERE kind = 'allocation' AND name = $1 AND period < $2 ORDER BY period DESC LIMIT 1 FOR UPDATE";
    let earlier = transaction
        .query_typed(earlier, &[(&name, Type::TEXT), (&period, Type::INT8)])
        .await?;
    // Without an earlier one nothing was spent since the beginning.
    let (from, carried, committed) = earlier.first().map_or((0, 0, 0), |row| {
        let figure = |column| unsigned(row.get(column));
        (figure(0), figure(1), figure(2))
    });
    let passed = subject.period.saturating_sub(from);
    let carried = signed(carry_over(size, carried, committed, passed));
    // What has gone over must not be spent there as well, by a gateway whose clock is behind.
    let set = "UPDATE hansa.pool SET carried = CASE period WHEN $2 THEN $3 ELSE carried END, \
               is_closed = is_closed OR period < $2 \
               WHERE kind = 'allocation' AND name = $1 AND period <= $2";
    transaction
        .execute_typed(
            set,
            &[
                (&name, Type::TEXT),
                (&period, Type::INT8),
                (&carried, Type::INT8),
            ],
        )
        .await?;
    Ok(())
}

fn held(row: &Row) -> Option<(Subject, Held)> {
    let pool = Pool {
        posted: unsigned(row.get(3)),
        excess: unsigned(row.get(4)),
        carried: unsigned(row.get(5)),
        leased: unsigned(row.get(6)),
        full_at: Duration::from_nanos(unsigned(row.get(7))),
        is_closed: row.get(9),
    };
    let mine = unsigned(row.get(8));
    let before = (pool, mine);
    Some((subject_of(row)?, Held { pool, mine, before }))
}

/// `None` for a kind of a later version.
pub(super) fn subject_of(row: &Row) -> Option<Subject> {
    let (kind, name): (String, String) = (row.get(0), row.get(1));
    Some(Subject {
        kind: Kind::ALL.into_iter().find(|known| known.name() == kind)?,
        name: name.into(),
        period: unsigned(row.get(2)),
    })
}

/// Figures in the store are 64 bits with a sign; amounts beyond that are as good as unbounded.
pub(super) fn signed(figure: u64) -> i64 {
    i64::try_from(figure).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(figure: i64) -> u64 {
    u64::try_from(figure).unwrap_or(0)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
