//! Records, sums, settings and the audit trail in the store.

use std::collections::{HashMap, HashSet};

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, Row, Transaction};
use uuid::Uuid;

use super::late;
use super::leases;
use super::pools::unsigned;
use super::session::SETTING;
use crate::limits::AUDIT_LINES_MAX;
use crate::quota::allocation::Total;
use crate::quota::charge::ChargeId;
use crate::quota::ledger::{AuditLine, Change, Kind, Record, Revision, Totals, add};
use crate::quota::store::memory::audit_line;

/// Writes records of the life `run` and what they draw in one transaction. Those that are there already change nothing, and
/// neither do those that others have settled for it when they took it for over; whether there were any of these.
pub(super) async fn commit(
    client: &mut Client,
    (run, gateway): (Uuid, Option<Uuid>),
    records: &[Record],
) -> Result<bool, Error> {
    let charges: Vec<Uuid> = records.iter().map(|record| record.charge).collect();
    let transaction = client.transaction().await?;
    let theirs = late::settled_by_others(&transaction, run, &charges).await?;
    let records = records
        .iter()
        .filter(|record| !theirs.contains(&record.charge));
    let records: Vec<&Record> = records.collect();
    let charges: Vec<Uuid> = records.iter().map(|record| record.charge).collect();
    // A record is strings and numbers: it always serialises.
    let bodies = records
        .iter()
        .map(|record| serde_json::to_string(record).unwrap_or_default());
    let bodies: Vec<String> = bodies.collect();
    let insert = "INSERT INTO hansa.record (charge, body) \
                  SELECT charge, body::json FROM unnest($1::uuid[], $2::text[]) AS u(charge, body) \
                  ON CONFLICT DO NOTHING RETURNING charge";
    let new = transaction
        .query_typed(
            insert,
            &[(&charges, Type::UUID_ARRAY), (&bodies, Type::TEXT_ARRAY)],
        )
        .await?;
    let mut new: HashSet<Uuid> = new.iter().map(|row| row.get(0)).collect();
    let mut drawn = Totals::new();
    for record in records {
        if new.remove(&record.charge) {
            add(&mut drawn, record);
        }
    }
    if !drawn.is_empty() {
        leases::post(&transaction, gateway, &drawn).await?;
    }
    transaction.commit().await?;
    Ok(!theirs.is_empty())
}

/// Sums by allocation and period.
pub(super) async fn totals(client: &Client) -> Result<Totals, Error> {
    let read = "SELECT name, period, posted, excess FROM hansa.pool WHERE kind = 'allocation' AND posted > 0";
    let rows = client.query_typed(read, &[]).await?;
    let total = |row: &Row| {
        let name: String = row.get(0);
        let (posted, excess) = (unsigned(row.get(2)), unsigned(row.get(3)));
        (
            (name.into(), unsigned(row.get(1))),
            Total { posted, excess },
        )
    };
    Ok(rows.iter().map(total).collect())
}

/// At most `limit` records after `after`, as JSON.
pub(super) async fn records(
    client: &Client,
    after: Option<ChargeId>,
    limit: usize,
) -> Result<Vec<String>, Error> {
    let read = "SELECT body::text FROM hansa.record WHERE $1::uuid IS NULL OR charge > $1 ORDER BY charge LIMIT $2";
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = client
        .query_typed(read, &[(&after, Type::UUID), (&limit, Type::INT8)])
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Changes records that are there, and leaves their sums alone.
pub(super) async fn revise(client: &mut Client, revisions: &[Revision]) -> Result<(), Error> {
    let charges: Vec<Uuid> = revisions.iter().map(Revision::charge).collect();
    let transaction = client.transaction().await?;
    let delete = "DELETE FROM hansa.record WHERE charge = ANY($1) RETURNING charge, part_of";
    let gone = transaction
        .query_typed(delete, &[(&charges, Type::UUID_ARRAY)])
        .await?;
    let gone: HashMap<Uuid, Option<Uuid>> =
        gone.iter().map(|row| (row.get(0), row.get(1))).collect();
    for revision in revisions {
        let Revision::Replace(record) = revision else {
            continue;
        };
        if let Some(part_of) = gone.get(&record.charge) {
            let body = serde_json::to_string(record).unwrap_or_default();
            let insert =
                "INSERT INTO hansa.record (charge, body, part_of) VALUES ($1, $2::text::json, $3)";
            transaction
                .execute_typed(
                    insert,
                    &[
                        (&record.charge, Type::UUID),
                        (&body, Type::TEXT),
                        (part_of, Type::UUID),
                    ],
                )
                .await?;
        }
    }
    transaction.commit().await
}

/// Makes a change, writes it into the audit trail and tells every gateway.
pub(super) async fn change(client: &mut Client, change: &Change) -> Result<(), Error> {
    let (kind, id) = (change.kind.name(), change.id.as_str());
    let transaction = client.transaction().await?;
    // First, so that changes come one after the other.
    let number = "UPDATE hansa.revision SET number = number + 1";
    transaction.execute_typed(number, &[]).await?;
    match &change.value {
        Some(value) => {
            let set = "INSERT INTO hansa.setting (kind, id, value) VALUES ($1, $2, $3) \
                       ON CONFLICT (kind, id) DO UPDATE SET value = EXCLUDED.value";
            let of = [
                (
                    &kind as &(dyn tokio_postgres::types::ToSql + Sync),
                    Type::TEXT,
                ),
                (&id, Type::TEXT),
                (value, Type::TEXT),
            ];
            transaction.execute_typed(set, &of).await?
        }
        None => {
            let remove = "DELETE FROM hansa.setting WHERE kind = $1 AND id = $2";
            let of = [
                (
                    &kind as &(dyn tokio_postgres::types::ToSql + Sync),
                    Type::TEXT,
                ),
                (&id, Type::TEXT),
            ];
            transaction.execute_typed(remove, &of).await?
        }
    };
    write(&transaction, &audit_line(change)).await?;
    let tell = "SELECT pg_notify($1, '')";
    transaction
        .query_typed(tell, &[(&SETTING, Type::TEXT)])
        .await?;
    transaction.commit().await
}

/// Writes a line into the audit trail alone.
pub(super) async fn note(client: &mut Client, line: &AuditLine) -> Result<(), Error> {
    let transaction = client.transaction().await?;
    write(&transaction, line).await?;
    transaction.commit().await
}

async fn write(transaction: &Transaction<'_>, line: &AuditLine) -> Result<(), Error> {
    let line = serde_json::to_string(line).unwrap_or_default();
    let write = "INSERT INTO hansa.audit (line) VALUES ($1::text::json)";
    transaction
        .execute_typed(write, &[(&line, Type::TEXT)])
        .await?;
    let trim = "DELETE FROM hansa.audit WHERE number <= (SELECT max(number) FROM hansa.audit) - $1";
    transaction
        .execute_typed(trim, &[(&(AUDIT_LINES_MAX as i64), Type::INT8)])
        .await?;
    Ok(())
}

/// Ids and JSON of one kind.
pub(super) async fn settings(client: &Client, kind: Kind) -> Result<Vec<(String, String)>, Error> {
    let read = "SELECT id, value FROM hansa.setting WHERE kind = $1 ORDER BY id";
    let rows = client
        .query_typed(read, &[(&kind.name(), Type::TEXT)])
        .await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// The last lines of the audit trail, latest first.
pub(super) async fn audit(client: &Client, limit: usize) -> Result<Vec<AuditLine>, Error> {
    let read = "SELECT line::text FROM hansa.audit ORDER BY number DESC LIMIT $1";
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = client.query_typed(read, &[(&limit, Type::INT8)]).await?;
    let line = |row: &Row| serde_json::from_str(&row.get::<_, String>(0)).ok();
    Ok(rows.iter().filter_map(line).collect())
}
