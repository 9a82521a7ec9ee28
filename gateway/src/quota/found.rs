//! Settles what an earlier life of this server began and a crash kept it from settling.
//!
//! An open charge is not on the disk. But servers of ours that serve a request keep its usage beside a stub that came with
//! it, and hand both out to whoever owns the ledger; so what was used is charged after all, once.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Quota;
use super::amount::Tokens;
use super::charge::{Account, ChargeId, Claim, Spent};
use super::ledger::{LedgerError, Outcome};
use super::reservation::Slip;
use crate::upstream::usage::Finished;

/// What travels with a request: all that settles it without this server's memory. Opaque to everyone else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stub {
    charge: ChargeId,
    /// Which part of the request.
    part: u32,
    request: Arc<str>,
    purpose: Option<Arc<str>>,
    organisation: Arc<str>,
    project: Option<Arc<str>>,
    key: Arc<str>,
    model: Arc<str>,
}

impl Stub {
    /// The charge of this part alone: that of the request is there only where its server lived to settle it.
    fn own(&self) -> ChargeId {
        let part = u128::from(self.part) + 1;
        Uuid::from_u128(self.charge.as_u128() ^ part)
    }

    fn read(text: &str) -> Option<Self> {
        let (_, stub) = text.rsplit_once('.')?;
        serde_json::from_slice(&BASE64.decode(stub).ok()?).ok()
    }
}

impl Quota {
    /// Whose ledger it is, and which life of its server; `None` where the ledger ends with the process.
    #[must_use]
    pub fn lives(&self) -> Option<(Uuid, Uuid)> {
        let (owner, run) = self.shared.lives;
        Some((owner?, run))
    }

    /// What part `part` of the open charge is to be kept beside, wherever it is served.
    pub(super) fn stub(&self, charge: ChargeId, slip: &Slip, part: u32) -> Option<Arc<str>> {
        let stub = {
            let book = self.book();
            let claim = book.claim(charge)?;
            Stub {
                charge,
                part,
                request: Arc::clone(&slip.request),
                purpose: slip.purpose.clone(),
                organisation: Arc::clone(&claim.account.organisation),
                project: claim.account.project.clone(),
                key: Arc::clone(&claim.account.key),
                model: Arc::clone(&claim.model),
            }
        };
        let (owner, run) = self.shared.lives;
        // Without an owner nobody can ask later, and the part is only known by its request.
        let owner = owner.unwrap_or(run);
        let stub = BASE64.encode(serde_json::to_vec(&stub).ok()?);
        Some(format!("{owner}.{run}.{stub}").into())
    }

    /// Charges what was found, unless it was charged before; false where it is nothing of ours. Reads the ledger: call it
    /// off the event loop, and for one at a time.
    ///
    /// # Errors
    /// [`LedgerError`], where it cannot be read.
    pub fn settle_found(&self, found: &Finished) -> Result<bool, LedgerError> {
        let Some(stub) = Stub::read(&found.charge) else {
            return Ok(false);
        };
        let own = stub.own();
        if found.usage.is_nothing() || self.is_settled(stub.charge)? || self.is_settled(own)? {
            return Ok(true);
        }
        let here = &self.shared.options.home;
        let site = self.known(found.site.as_ref().unwrap_or(here));
        let claim = Claim {
            account: Arc::new(Account {
                key: stub.key,
                project: stub.project,
                organisation: stub.organisation,
            }),
            model: stub.model,
            site,
            bound: Tokens::from(found.usage),
        };
        let slip = Slip {
            request: stub.request,
            purpose: stub.purpose,
        };
        // It was let in by a life that is over: what it used is used, whether there is room for it or not.
        self.with_book(|book, at| book.recover(own, claim, at));
        self.post(own, &slip, Spent::from(found.usage), Outcome::Aborted);
        Ok(true)
    }

    fn is_settled(&self, charge: ChargeId) -> Result<bool, LedgerError> {
        let before = Uuid::from_u128(charge.as_u128().saturating_sub(1));
        let next = self.ledger().records(Some(before), 1)?;
        Ok(next.first().is_some_and(|record| record.charge == charge))
    }
}
