//! What lives of gateways left open that are over: who they are, and their charges, settled once by whoever finds them.
//!
//! Whoever was taken for dead may only have been paused, and come back to settle the same charges itself. So both hold the
//! row of that life while they do: a gateway shares it for each of its own commits, and whoever settles for it has it alone.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, Row, Transaction};
use uuid::Uuid;

use super::pools::{self, signed};
use crate::limits::{USAGE_KEPT, USAGE_RUNS_MAX};
use crate::quota::lease::Subject;
use crate::quota::lease::late::Late;

/// The store's own id.
pub(super) async fn owner(client: &Client) -> Result<Uuid, Error> {
    let rows = client
        .query_typed("SELECT id FROM hansa.owner", &[])
        .await?;
    Ok(rows.first().map_or_else(Uuid::nil, |row| row.get(0)))
}

/// Lives that have ended without a goodbye, the latest first; at most [`USAGE_RUNS_MAX`].
pub(super) async fn ended(client: &Client) -> Result<Vec<Uuid>, Error> {
    let read =
        "SELECT id FROM hansa.run WHERE ended_ms IS NOT NULL ORDER BY ended_ms DESC LIMIT $1";
    let limit = i64::try_from(USAGE_RUNS_MAX).unwrap_or(i64::MAX);
    let rows = client.query_typed(read, &[(&limit, Type::INT8)]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// `run` lives, under the lease `gateway`.
pub(super) async fn lives(
    transaction: &Transaction<'_>,
    run: Uuid,
    gateway: Uuid,
) -> Result<(), Error> {
    let live = "INSERT INTO hansa.run (id, gateway) VALUES ($1, $2) \
                ON CONFLICT (id) DO UPDATE SET gateway = EXCLUDED.gateway, ended_ms = NULL";
    transaction
        .execute_typed(live, &[(&run, Type::UUID), (&gateway, Type::UUID)])
        .await?;
    Ok(())
}

/// The lease that `run` began last, whether it heard of that or not.
pub(super) async fn lease_of(
    transaction: &Transaction<'_>,
    run: Uuid,
) -> Result<Option<Uuid>, Error> {
    let read = "SELECT gateway FROM hansa.run WHERE id = $1";
    let rows = transaction.query_typed(read, &[(&run, Type::UUID)]).await?;
    Ok(rows.first().map(|row| row.get(0)))
}

/// The life with the lease `gateway` is over, as far as anyone knows.
pub(super) async fn ends(transaction: &Transaction<'_>, gateway: Uuid) -> Result<(), Error> {
    let end = "UPDATE hansa.run r SET ended_ms = c.now_ms, was_ended = true FROM hansa.clock c \
               WHERE r.gateway = $1 AND r.ended_ms IS NULL";
    transaction
        .execute_typed(end, &[(&gateway, Type::UUID)])
        .await?;
    Ok(())
}

/// The life with the lease `gateway` said goodbye: it left nothing open.
pub(super) async fn leaves(transaction: &Transaction<'_>, gateway: Uuid) -> Result<(), Error> {
    let leave = "DELETE FROM hansa.run WHERE gateway = $1";
    transaction
        .execute_typed(leave, &[(&gateway, Type::UUID)])
        .await?;
    Ok(())
}

/// Forgets lives that ended so long ago that nobody keeps usage of theirs any more; only by the grantor of `tenure`.
pub(super) async fn forget(client: &Client, tenure: u64) -> Result<(), Error> {
    let tenure = signed(tenure);
    let forget = "DELETE FROM hansa.run r USING hansa.clock c WHERE c.tenure = $1 AND r.ended_ms + $2 < c.now_ms";
    let kept_ms = i64::try_from((USAGE_KEPT + MARGIN).as_millis()).unwrap_or(i64::MAX);
    client
        .execute_typed(forget, &[(&tenure, Type::INT8), (&kept_ms, Type::INT8)])
        .await?;
    Ok(())
}

/// Time beyond that of whoever keeps usage, whose clock is not the store's.
const MARGIN: Duration = Duration::from_secs(60);

/// Which of `charges`, all of the life `run`, others have settled meanwhile. It holds the life's row from now on.
pub(super) async fn settled_by_others(
    transaction: &Transaction<'_>,
    run: Uuid,
    charges: &[Uuid],
) -> Result<HashSet<Uuid>, Error> {
    let hold = "SELECT was_ended FROM hansa.run WHERE id = $1 FOR SHARE";
    let rows = transaction.query_typed(hold, &[(&run, Type::UUID)]).await?;
    // Of a life that nobody ever took for over nobody has settled anything.
    if rows.first().is_some_and(|row| !row.get::<_, bool>(0)) {
        return Ok(HashSet::new());
    }
    let read = "SELECT part_of FROM hansa.record WHERE part_of = ANY($1)";
    let rows = transaction
        .query_typed(read, &[(&charges, Type::UUID_ARRAY)])
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Settles what was found, each once and out of nobody's lease; which of them need no longer be kept.
pub(super) async fn settle(client: &mut Client, found: Vec<Late>) -> Result<Vec<bool>, Error> {
    let mut done = vec![false; found.len()];
    let mut lives: BTreeMap<Uuid, Vec<(usize, Late)>> = BTreeMap::new();
    for (place, late) in found.into_iter().enumerate() {
        lives.entry(late.run).or_default().push((place, late));
    }
    for (run, of_run) in lives {
        let places: Vec<usize> = of_run.iter().map(|(place, _)| *place).collect();
        let late = of_run.into_iter().map(|(_, late)| late).collect();
        if settle_of(client, run, late).await? {
            places.into_iter().for_each(|place| done[place] = true);
        }
    }
    Ok(done)
}

/// Settles what is of one life; false where that goes on, and settles its own.
async fn settle_of(client: &mut Client, run: Uuid, mut late: Vec<Late>) -> Result<bool, Error> {
    let transaction = client.transaction().await?;
    let hold = "SELECT 1 FROM hansa.run WHERE id = $1 AND ended_ms IS NOT NULL FOR UPDATE";
    let held = transaction.query_typed(hold, &[(&run, Type::UUID)]).await?;
    if held.is_empty() {
        return Ok(false);
    }
    let charges = late.iter().flat_map(|one| [one.of, one.record.charge]);
    let charges: Vec<Uuid> = charges.collect();
    let read = "SELECT charge FROM hansa.record WHERE charge = ANY($1)";
    let settled = transaction
        .query_typed(read, &[(&charges, Type::UUID_ARRAY)])
        .await?;
    let settled: HashSet<Uuid> = settled.iter().map(|row: &Row| row.get(0)).collect();
    let mut seen = settled.clone();
    late.retain(|one| !settled.contains(&one.of) && seen.insert(one.record.charge));
    draw(&transaction, &mut late).await?;
    write(&transaction, &late).await?;
    transaction.commit().await?;
    Ok(true)
}

/// Takes what the records draw out of their pools, and notes in them what is beyond.
async fn draw(transaction: &Transaction<'_>, late: &mut [Late]) -> Result<(), Error> {
    let mut sizes = BTreeMap::new();
    for one in &*late {
        for (drawn, size) in one.record.drawn.iter().zip(&one.sizes) {
            let subject = Subject::allocation(drawn.allocation.clone(), drawn.period);
            sizes.insert(subject, Some(*size));
        }
    }
    if sizes.is_empty() {
        return Ok(());
    }
    let mut pools = pools::lock(transaction, None, &sizes).await?;
    for one in late {
        for (drawn, size) in one.record.drawn.iter_mut().zip(&one.sizes) {
            let subject = Subject::allocation(drawn.allocation.clone(), drawn.period);
            if let Some(held) = pools.get_mut(&subject) {
                drawn.total.excess = held.pool.post_late(*size, drawn.total.posted);
            }
        }
    }
    pools::save(transaction, None, &pools, false).await
}

async fn write(transaction: &Transaction<'_>, late: &[Late]) -> Result<(), Error> {
    let charges: Vec<Uuid> = late.iter().map(|one| one.record.charge).collect();
    let of: Vec<Uuid> = late.iter().map(|one| one.of).collect();
    let bodies = late
        .iter()
        .map(|one| serde_json::to_string(&one.record).unwrap_or_default());
    let bodies: Vec<String> = bodies.collect();
    let insert = "INSERT INTO hansa.record (charge, body, part_of) SELECT charge, body::json, part_of \
                  FROM unnest($1::uuid[], $2::text[], $3::uuid[]) AS u(charge, body, part_of)";
    transaction
        .execute_typed(
            insert,
            &[
                (&charges, Type::UUID_ARRAY),
                (&bodies, Type::TEXT_ARRAY),
                (&of, Type::UUID_ARRAY),
            ],
        )
        .await?;
    Ok(())
}
