//! After a start, asks servers of ours for usage that an earlier life of this one never settled, and settles it.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::sync::Arc;

use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use crate::limits::{USAGE_ASK, USAGE_KEPT};
use crate::quota::Quota;
use crate::quota::ledger::LedgerError;
use crate::upstream::registry::Models;
use crate::upstream::usage::{Finished, Wanted};

/// Asks `models` for what is `quota`'s, for as long as upstreams keep it. Whatever is found is charged once.
pub(crate) async fn collect(models: Arc<Models>, quota: Quota) {
    let Some((owner, run)) = quota.lives() else {
        return;
    };
    let collecting = async {
        let (first, longest) = USAGE_ASK;
        let mut wait = first;
        loop {
            let found = models.finished(Wanted::Of { owner, run }).await;
            wait = match found.is_empty() {
                true => longest.min(wait * 2),
                false => first,
            };
            if !found.is_empty() {
                let quota = quota.clone();
                let settled = spawn_blocking(move || settle(&quota, found)).await;
                // A ledger that fails ends the server by itself.
                let Ok(Ok(settled)) = settled else { return };
                tracing::info!(
                    requests = settled.len(),
                    "charged what an earlier life of this server left open"
                );
                models.acknowledge(&settled);
            }
            sleep(wait).await;
        }
    };
    // Then nobody has anything of it any more.
    let _ = timeout(USAGE_KEPT, collecting).await;
}

/// Charges what was found; the requests that are safe in the ledger.
fn settle(quota: &Quota, mut found: Vec<Finished>) -> Result<Vec<Arc<str>>, LedgerError> {
    // Of several servers that served the same request the one that did most is paid.
    found.sort_by_key(|one| Reverse(one.usage.completion_tokens));
    let (mut seen, mut settled) = (HashSet::new(), Vec::new());
    for one in found {
        if !seen.insert(Arc::clone(&one.charge)) || quota.settle_found(&one)? {
            settled.push(one.id);
        }
    }
    quota.ledger().flush()?;
    Ok(settled)
}
