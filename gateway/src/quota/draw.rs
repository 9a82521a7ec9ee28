//! Which of a tenant's allocations a request draws on.

use std::sync::Arc;

use super::allocation::Allocation;
use super::charge::{Hold, Refusal};

/// The allocation of one tenant and currency to draw `need` from; `None` where it has none at all and is not limited.
pub(super) fn choose_one<'a>(
    allocations: impl Iterator<Item = &'a Allocation>,
    site: &str,
    need: u64,
    unix_s: i64,
) -> Result<Option<Hold>, Refusal> {
    let (mut any, mut fallback, mut short) = (false, None, None);
    // What cannot be bounded ahead (time, energy) needs something left to begin with.
    let least = need.max(1);
    for allocation in allocations {
        any = true;
        let grant = allocation.grant();
        let own = grant.site.as_deref() == Some(site);
        if !own && grant.site.is_some() {
            continue;
        }
        if !allocation.is_open(unix_s) || allocation.left() < least {
            short = Some(Arc::clone(&grant.id));
            continue;
        }
        let hold = Hold {
            allocation: Arc::clone(&grant.id),
            currency: grant.currency,
            amount: need,
        };
        if own {
            return Ok(Some(hold));
        }
        fallback.get_or_insert(hold);
    }
    match (fallback, short) {
        (Some(hold), _) => Ok(Some(hold)),
        (None, Some(allocation)) => Err(Refusal::Exhausted { allocation }),
        (None, None) if any => Err(Refusal::NotHere { site: site.into() }),
        (None, None) => Ok(None),
    }
}
