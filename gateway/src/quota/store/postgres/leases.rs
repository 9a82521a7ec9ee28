//! Leases in the store: one transaction for each round, enlistment, goodbye, and end that the grantor judges.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, Row, Transaction};
use uuid::Uuid;

use super::late;
use super::pools::{self, Pools, signed, subject_of, unsigned};
use super::session::LEASE;
use crate::limits::STORE_NOTE_BYTES_MAX;
use crate::quota::lease::grantor::Seen;
use crate::quota::lease::pool::Round;
use crate::quota::lease::{Answer, Kind, Leased, Line, Size, Subject};
use crate::quota::ledger::Totals;

/// What a round came to.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) answers: Vec<Answer>,
    /// Number of changes to what operators set.
    pub(super) revision: i64,
    /// Lives of gateways that ended without a goodbye.
    pub(super) left_behind: u64,
}

/// One round of `gateway`; `None` where its lease is over.
pub(super) async fn exchange(
    client: &mut Client,
    gateway: Uuid,
    lines: &[Line],
) -> Result<Option<Told>, Error> {
    let transaction = client.transaction().await?;
    let renew = "UPDATE hansa.gateway g SET seen_ms = c.now_ms FROM hansa.clock c WHERE g.id = $1 \
                 RETURNING c.now_ms, (SELECT count(*) FROM hansa.gateway), (SELECT number FROM hansa.revision), \
                 (SELECT count(*) FROM hansa.run WHERE ended_ms IS NOT NULL)";
    let renewed = transaction
        .query_typed(renew, &[(&gateway, Type::UUID)])
        .await?;
    let Some(row) = renewed.first() else {
        return Ok(None);
    };
    let round = Round {
        now: Duration::from_millis(unsigned(row.get(0))),
        gateways: unsigned(row.get(1)),
    };
    let (revision, left_behind) = (row.get(2), unsigned(row.get(3)));
    let mut answers = Vec::with_capacity(lines.len());
    if !lines.is_empty() {
        let sizes = lines
            .iter()
            .map(|line| (line.subject.clone(), Some(line.size)));
        let mut pools = pools::lock(&transaction, Some(gateway), &sizes.collect()).await?;
        for line in lines {
            if let Some(held) = pools.get_mut(&line.subject) {
                answers.push(held.pool.exchange(line, &mut held.mine, round));
            }
        }
        pools::save(&transaction, Some(gateway), &pools, true).await?;
        call(&transaction, gateway, lines, &answers).await?;
    }
    transaction.commit().await?;
    Ok(Some(Told {
        answers,
        revision,
        left_behind,
    }))
}

/// Calls other gateways for what `lines` lack. It goes out with the commit.
async fn call(
    transaction: &Transaction<'_>,
    gateway: Uuid,
    lines: &[Line],
    answers: &[Answer],
) -> Result<(), Error> {
    let lacking = lines.iter().zip(answers);
    let lacking = lacking.filter(|(line, answer)| answer.lacks(line));
    let notes = lacking.map(|(line, _)| note(gateway, &line.subject));
    let notes: Vec<String> = notes
        .filter(|note| note.len() <= STORE_NOTE_BYTES_MAX)
        .collect();
    if notes.is_empty() {
        return Ok(());
    }
    let call = "SELECT pg_notify($1, note) FROM unnest($2::text[]) AS u(note)";
    transaction
        .query_typed(call, &[(&LEASE, Type::TEXT), (&notes, Type::TEXT_ARRAY)])
        .await?;
    Ok(())
}

/// How a gateway says what it lacks; [`called`] reads it.
fn note(gateway: Uuid, subject: &Subject) -> String {
    let Subject { kind, name, period } = subject;
    format!("{gateway} {} {period} {name}", kind.name())
}

/// Who lacks what, by a note; `None` for one of another version.
pub(super) fn called(note: &str) -> Option<(Uuid, Subject)> {
    let mut words = note.splitn(4, ' ');
    let mut word = || words.next();
    let (gateway, kind) = (word()?.parse().ok()?, word()?);
    let subject = Subject {
        kind: Kind::ALL.into_iter().find(|known| known.name() == kind)?,
        period: word()?.parse().ok()?,
        name: word()?.into(),
    };
    Some((gateway, subject))
}

/// Ends the lease that the life `run` has, one whose beginning it never heard of among them, and begins `gateway`'s with
/// `holdings`.
pub(super) async fn enlist(
    client: &mut Client,
    (run, gateway): (Uuid, Uuid),
    ttl: Duration,
    holdings: &BTreeMap<Subject, (Size, u64)>,
) -> Result<(), Error> {
    let transaction = client.transaction().await?;
    let before = late::lease_of(&transaction, run).await?;
    if let Some(before) = before {
        lock(&transaction, before).await?;
    }
    // Before its lease ends: it goes on.
    late::lives(&transaction, run, gateway).await?;
    if let Some(before) = before {
        end(&transaction, before).await?;
    }
    let begin =
        "INSERT INTO hansa.gateway (id, seen_ms, ttl_ms) SELECT $1, now_ms, $2 FROM hansa.clock";
    let ttl_ms = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
    transaction
        .execute_typed(begin, &[(&gateway, Type::UUID), (&ttl_ms, Type::INT8)])
        .await?;
    let sizes = holdings
        .iter()
        .map(|(subject, (size, _))| (subject.clone(), Some(*size)));
    let mut pools = pools::lock(&transaction, Some(gateway), &sizes.collect()).await?;
    for (subject, (size, amount)) in holdings {
        if let Some(held) = pools.get_mut(subject) {
            held.pool.adopt(*size, *amount, &mut held.mine);
        }
    }
    pools::save(&transaction, Some(gateway), &pools, true).await?;
    transaction.commit().await
}

/// Gives back all that `gateway` has on lease, and forgets it.
pub(super) async fn leave(client: &mut Client, gateway: Uuid) -> Result<(), Error> {
    let transaction = client.transaction().await?;
    end(&transaction, gateway).await?;
    late::leaves(&transaction, gateway).await?;
    transaction.commit().await
}

/// Settles what records draw, out of `gateway`'s leases where it still has them.
pub(super) async fn post(
    transaction: &Transaction<'_>,
    gateway: Option<Uuid>,
    drawn: &Totals,
) -> Result<(), Error> {
    let subject =
        |(id, period): &(std::sync::Arc<str>, u64)| Subject::allocation(id.clone(), *period);
    let sizes = drawn.keys().map(|key| (subject(key), None)).collect();
    let mut pools = pools::lock(transaction, gateway, &sizes).await?;
    for (key, total) in drawn {
        if let Some(held) = pools.get_mut(&subject(key)) {
            held.pool.post(total.posted, total.excess, &mut held.mine);
        }
    }
    pools::save(transaction, gateway, &pools, false).await
}

/// What is out on lease, at most `limit` lines; `run` is the life of whoever asks.
pub(super) async fn all(client: &Client, run: Uuid, limit: usize) -> Result<Vec<Leased>, Error> {
    let read = "SELECT l.kind, l.name, l.period, l.gateway, l.amount, c.now_ms - g.seen_ms, g.ttl_ms, \
                EXISTS (SELECT 1 FROM hansa.run r WHERE r.id = $1 AND r.gateway = g.id) \
                FROM hansa.lease l JOIN hansa.gateway g ON g.id = l.gateway, hansa.clock c \
                WHERE l.amount > 0 ORDER BY l.kind, l.name, l.period, l.gateway LIMIT $2";
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = client
        .query_typed(read, &[(&run, Type::UUID), (&limit, Type::INT8)])
        .await?;
    let leased = |row: &Row| {
        Some(Leased {
            gateway: row.get(3),
            here: row.get(7),
            subject: subject_of(row)?,
            amount: unsigned(row.get(4)),
            age_ms: unsigned(row.get(5)),
            ttl_ms: unsigned(row.get(6)),
        })
    };
    Ok(rows.iter().filter_map(leased).collect())
}

/// The row of the store's time.
pub(super) async fn clock(client: &Client) -> Result<Seen, Error> {
    let read = "SELECT tenure, is_held, now_ms FROM hansa.clock";
    let rows = client.query_typed(read, &[]).await?;
    Ok(rows.first().map_or_else(Seen::default, |row| Seen {
        tenure: unsigned(row.get(0)),
        is_held: row.get(1),
        now: Duration::from_millis(unsigned(row.get(2))),
    }))
}

/// Takes the tenure over, if the row is still as it was `seen`; the new one's number.
pub(super) async fn take_over(client: &Client, seen: Seen) -> Result<Option<u64>, Error> {
    let take = "UPDATE hansa.clock SET tenure = tenure + 1, is_held = true \
                WHERE tenure = $1 AND now_ms = $2 AND is_held = $3 RETURNING tenure";
    let (tenure, now_ms) = (signed(seen.tenure), millis(seen.now));
    let of = [
        (
            &tenure as &(dyn tokio_postgres::types::ToSql + Sync),
            Type::INT8,
        ),
        (&now_ms, Type::INT8),
        (&seen.is_held, Type::BOOL),
    ];
    let rows = client.query_typed(take, &of).await?;
    Ok(rows.first().map(|row| unsigned(row.get(0))))
}

/// Counts `step` on; false where the tenure is another's.
pub(super) async fn count(client: &Client, tenure: u64, step: Duration) -> Result<bool, Error> {
    let count = "UPDATE hansa.clock SET now_ms = now_ms + $2 WHERE tenure = $1 AND is_held";
    let (tenure, step_ms) = (signed(tenure), millis(step));
    let counted = client
        .execute_typed(count, &[(&tenure, Type::INT8), (&step_ms, Type::INT8)])
        .await?;
    Ok(counted == 1)
}

/// Gives the tenure up.
pub(super) async fn resign(client: &Client, tenure: u64) -> Result<(), Error> {
    let resign = "UPDATE hansa.clock SET is_held = false, tenure = tenure + 1 WHERE tenure = $1";
    client
        .execute_typed(resign, &[(&signed(tenure), Type::INT8)])
        .await?;
    Ok(())
}

/// Ends leases that have not been renewed for their ttl, as the grantor of `tenure` judges; how many.
pub(super) async fn expire(client: &mut Client, tenure: u64) -> Result<usize, Error> {
    let over = "SELECT g.id FROM hansa.gateway g, hansa.clock c WHERE c.tenure = $1 AND g.seen_ms + g.ttl_ms < c.now_ms";
    let tenure = signed(tenure);
    let found = client.query_typed(over, &[(&tenure, Type::INT8)]).await?;
    for row in &found {
        let gateway: Uuid = row.get(0);
        let transaction = client.transaction().await?;
        // It may have been renewed since.
        let again = "SELECT 1 FROM hansa.gateway g, hansa.clock c \
                     WHERE g.id = $2 AND c.tenure = $1 AND g.seen_ms + g.ttl_ms < c.now_ms FOR UPDATE OF g";
        let still = transaction
            .query_typed(again, &[(&tenure, Type::INT8), (&gateway, Type::UUID)])
            .await?;
        if !still.is_empty() {
            end(&transaction, gateway).await?;
        }
        transaction.commit().await?;
    }
    Ok(found.len())
}

async fn lock(transaction: &Transaction<'_>, gateway: Uuid) -> Result<(), Error> {
    let lock = "SELECT 1 FROM hansa.gateway WHERE id = $1 FOR UPDATE";
    transaction
        .query_typed(lock, &[(&gateway, Type::UUID)])
        .await?;
    Ok(())
}

/// Takes back all that a gateway has on lease. What it has open is given up with it.
async fn end(transaction: &Transaction<'_>, gateway: Uuid) -> Result<(), Error> {
    lock(transaction, gateway).await?;
    late::ends(transaction, gateway).await?;
    let of = "SELECT kind, name, period FROM hansa.lease WHERE gateway = $1 AND amount > 0";
    let rows = transaction
        .query_typed(of, &[(&gateway, Type::UUID)])
        .await?;
    let sizes = rows
        .iter()
        .filter_map(subject_of)
        .map(|subject| (subject, None));
    let mut pools: Pools = pools::lock(transaction, Some(gateway), &sizes.collect()).await?;
    for held in pools.values_mut() {
        held.pool.take_back(held.mine, &mut held.mine);
    }
    pools::save(transaction, Some(gateway), &pools, false).await?;
    let forget = "DELETE FROM hansa.gateway WHERE id = $1";
    transaction
        .execute_typed(forget, &[(&gateway, Type::UUID)])
        .await?;
    Ok(())
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_says_who_lacks_what() {
        let gateway = Uuid::new_v4();
        let subject = Subject {
            kind: Kind::Tokens,
            name: "project a b".into(),
            period: 7,
        };
        assert_eq!(called(&note(gateway, &subject)), Some((gateway, subject)));
        // An earlier version says who alone.
        assert_eq!(called(&gateway.to_string()), None);
    }
}
