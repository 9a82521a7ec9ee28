//! Asks servers of ours for usage that a life which is over never settled, and settles it: that of this server's own earlier
//! lives after a start, and where gateways share a store that of any of them, whenever one ends without a goodbye.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::limits::{USAGE_ASK, USAGE_KEPT};
use crate::quota::Quota;
use crate::upstream::registry::Models;
use crate::upstream::usage::{Finished, Lives, Wanted};

/// Asks `models` for what is `quota`'s. Whatever is found is charged once.
pub(crate) async fn collect(models: Arc<Models>, quota: Quota) {
    let Some((owner, run)) = quota.lives() else {
        return;
    };
    if quota.is_shared() {
        of_others(&models, &quota, owner).await;
    } else {
        let own = of_own(&models, &quota, owner, run);
        // Then nobody has anything of it any more.
        let _ = timeout(USAGE_KEPT, own).await;
    }
}

/// What earlier lives of this server left, for ever.
async fn of_own(models: &Models, quota: &Quota, owner: Uuid, run: Uuid) {
    let mut pace = Pace::default();
    loop {
        let lives = Lives::But(run);
        let found = models.finished(Wanted::Of { owner, lives }).await;
        // A ledger that fails ends the server by itself.
        let Some(charged) = charge(models, quota, found).await else {
            return;
        };
        sleep(pace.after(charged > 0)).await;
    }
}

/// What lives of gateways left that share the store, for ever. All that go on ask, and each request is charged once.
async fn of_others(models: &Models, quota: &Quota, owner: Uuid) {
    let mut pace = Pace::default();
    loop {
        let mut found = Vec::new();
        for run in quota.left_behind().await {
            let lives = Lives::One(run);
            found.extend(models.finished(Wanted::Of { owner, lives }).await);
        }
        // A store that is away just now is asked again.
        let charged = charge(models, quota, found).await.unwrap_or(0);
        sleep(pace.after(charged > 0)).await;
    }
}

/// Charges what was found and lets it go; how many requests that were, or `None` where the ledger cannot.
async fn charge(models: &Models, quota: &Quota, found: Vec<Finished>) -> Option<usize> {
    if found.is_empty() {
        return Some(0);
    }
    let quota = quota.clone();
    let settled = spawn_blocking(move || quota.settle_found(found)).await;
    let settled = settled.ok()?.ok()?;
    let requests = settled.len();
    if requests > 0 {
        tracing::info!(requests, "charged what a life that is over left open");
        models.acknowledge(&settled);
    }
    Some(requests)
}

/// How long to wait before asking again.
#[derive(Debug, Default)]
struct Pace(Duration);

impl Pace {
    /// Short after something was found, and longer each time that nothing was.
    fn after(&mut self, any: bool) -> Duration {
        let (first, longest) = USAGE_ASK;
        self.0 = match any {
            true => first,
            false => longest.min(self.0.max(first) * 2),
        };
        self.0
    }
}
