//! Settles what an earlier life of this server began and a crash kept it from settling.
//!
//! An open charge is not on the disk. But servers of ours that serve a request keep its usage beside a stub that came with
//! it, and hand both out to whoever owns the ledger; so what was used is charged after all, once. Where gateways share a
//! store, any of them does that for one whose life is over.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::Quota;
use super::amount::Tokens;
use super::charge::{Account, ChargeId, Claim, Moment, Spent};
use super::lease::late::Late;
use super::ledger::{LedgerError, Outcome, Record, Served};
use super::reservation::{By, Slip};
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

    /// With the life that let it in.
    fn read(text: &str) -> Option<(Uuid, Self)> {
        let (lives, stub) = text.rsplit_once('.')?;
        let (_, run) = lives.rsplit_once('.')?;
        let stub = serde_json::from_slice(&BASE64.decode(stub).ok()?).ok()?;
        Some((run.parse().ok()?, stub))
    }

    fn slip(&self) -> Slip {
        Slip {
            request: Arc::clone(&self.request),
            purpose: self.purpose.clone(),
        }
    }

    /// When it was let in, seconds since the epoch: its charge says so.
    fn began_s(&self, at: Moment) -> i64 {
        let began = self.charge.get_timestamp().map(|time| time.to_unix().0);
        let began = began.and_then(|seconds| i64::try_from(seconds).ok());
        began.unwrap_or(at.unix_s)
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

    /// Charges what was found, each request once, and unless it was charged before; the requests that need not be kept any
    /// longer. Asks the ledger: call it off the event loop, and once at a time.
    ///
    /// # Errors
    /// [`LedgerError`]; some may be settled all the same.
    pub fn settle_found(&self, mut found: Vec<Finished>) -> Result<Vec<Arc<str>>, LedgerError> {
        // Of several servers that served the same request the one that did most is paid.
        found.sort_by_key(|one| Reverse(one.usage.completion_tokens));
        let (mut seen, mut settled, mut open) = (HashSet::new(), Vec::new(), Vec::new());
        for one in found {
            match Stub::read(&one.charge) {
                None => {}
                Some(_) if !seen.insert(Arc::clone(&one.charge)) => settled.push(one.id),
                Some(_) if one.usage.is_nothing() => settled.push(one.id),
                Some((run, stub)) => open.push((one, run, stub)),
            }
        }
        if let Some(rounds) = &self.shared.rounds {
            let late = open
                .iter()
                .map(|(one, run, stub)| self.late(one, *run, stub));
            let done = rounds.lessor().settle_late(late.collect())?;
            let ids = open.into_iter().map(|(one, ..)| one.id).zip(done);
            settled.extend(ids.filter_map(|(id, done)| done.then_some(id)));
            return Ok(settled);
        }
        for (one, _, stub) in open {
            if !self.is_settled(stub.charge)? && !self.is_settled(stub.own())? {
                self.settle_own(&one, &stub);
            }
            settled.push(one.id);
        }
        self.ledger().flush()?;
        Ok(settled)
    }

    /// Charges what an earlier life of this server left open.
    fn settle_own(&self, found: &Finished, stub: &Stub) {
        let (own, claim) = (stub.own(), self.claim_of(found, stub));
        // It was let in by a life that is over: what it used is used, whether there is room for it or not.
        self.with_book(|book, at| book.recover(own, claim, stub.began_s(at), at));
        let spent = Spent::from(found.usage);
        let slip = stub.slip();
        self.post(own, &slip, spent, Outcome::Aborted, By::default());
    }

    /// The record of what a life of another gateway left open.
    fn late(&self, found: &Finished, run: Uuid, stub: &Stub) -> Late {
        let claim = self.claim_of(found, stub);
        let spent = Spent::from(found.usage);
        let (left, began_s) =
            self.with_book(|book, at| (book.left_open(&claim, spent, at), stub.began_s(at)));
        let (drawn, sizes) = left.drawn.into_iter().unzip();
        let account = &claim.account;
        let record = Record {
            charge: stub.own(),
            request: Arc::clone(&stub.request),
            organisation: Arc::clone(&account.organisation),
            project: account.project.clone(),
            key: Arc::clone(&account.key),
            model: Arc::clone(&claim.model),
            site: Arc::clone(&claim.site),
            purpose: stub.purpose.clone(),
            tokens: spent.tokens,
            amounts: left.amounts,
            estimated: spent.estimated,
            micrograms: spent.micrograms,
            outcome: Outcome::Aborted,
            began_s,
            took_ms: 0,
            drawn,
            served: Served::default(),
        };
        let of = stub.charge;
        Late {
            run,
            of,
            record,
            sizes,
        }
    }

    fn claim_of(&self, found: &Finished, stub: &Stub) -> Claim {
        let here = &self.shared.options.home;
        let account = Account {
            key: Arc::clone(&stub.key),
            project: stub.project.clone(),
            organisation: Arc::clone(&stub.organisation),
        };
        Claim {
            account: Arc::new(account),
            model: Arc::clone(&stub.model),
            site: self.known(found.site.as_ref().unwrap_or(here)),
            bound: Tokens::from(found.usage),
        }
    }

    /// Resolves when lives of other gateways are over that may have left charges open: which they are. Never where nobody
    /// shares the ledger.
    pub async fn left_behind(&self) -> Vec<Uuid> {
        let Some(rounds) = &self.shared.rounds else {
            return std::future::pending().await;
        };
        let (lessor, mut told) = (Arc::clone(rounds.lessor()), rounds.lessor().left_behind());
        if told.wait_for(|lives| *lives > 0).await.is_err() {
            return std::future::pending().await;
        }
        let asked = spawn_blocking(move || lessor.ended_runs()).await;
        // A store that does not answer is asked again.
        asked.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// Whether others spend from the same.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.shared.rounds.is_some()
    }

    fn is_settled(&self, charge: ChargeId) -> Result<bool, LedgerError> {
        let before = Uuid::from_u128(charge.as_u128().saturating_sub(1));
        let next = self.ledger().records(Some(before), 1)?;
        Ok(next.first().is_some_and(|record| record.charge == charge))
    }
}
