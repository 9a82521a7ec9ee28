//! Puts requests on their tenants' account: what they may use is reserved before they wait for anything, and what they
//! used is settled when they are over, however that happens.

use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use futures::StreamExt as _;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use super::error::ApiError;
use crate::limits::{CANCEL_AGAIN_AFTER, PURPOSE_BYTES_MAX, USAGE_DRAIN_MAX};
use crate::quota::Quota;
use crate::quota::amount::Tokens;
use crate::quota::charge::{Refusal, Spent};
use crate::quota::ledger::Outcome;
use crate::quota::reservation::{Reservation, Slip};
use crate::quota::standing::Level;
use crate::tenant::principal::Principal;
use crate::upstream::{Event, EventStream, GenerateRequest, Upstream, Usage};

/// What metering needs of the server.
#[derive(Debug, Clone)]
pub struct Metering {
    /// What is spent from.
    pub quota: Quota,
    /// Where the usage of aborted requests is awaited; the drain waits for it.
    pub tasks: TaskTracker,
}

/// One client's request as its account sees it.
#[derive(Debug, Clone)]
pub(super) struct Client {
    metering: Metering,
    principal: Arc<Principal>,
    purpose: Option<Arc<str>>,
}

impl Client {
    /// A request with these headers; what it may not do is refused.
    ///
    /// # Errors
    /// 403 where the key may not use the model or name the purpose.
    pub(super) fn admit(
        metering: &Metering,
        principal: &Arc<Principal>,
        headers: &HeaderMap,
        model: &str,
    ) -> Result<Self, ApiError> {
        if !principal.models.allows(model) {
            return Err(ApiError::model_not_allowed(model));
        }
        Ok(Self {
            metering: metering.clone(),
            principal: Arc::clone(principal),
            purpose: purpose(headers, principal)?,
        })
    }

    /// Id of the tenant.
    pub(super) fn tenant(&self) -> Arc<str> {
        Arc::clone(self.principal.account.tenant())
    }

    /// Fair-share flow.
    pub(super) fn flow(&self) -> u64 {
        self.principal.flow
    }

    /// Prefix-sharing pool.
    pub(super) fn pool(&self) -> u64 {
        self.principal.pool
    }

    /// Tokens of a choice where the client names no number.
    pub(super) fn default_max_tokens(&self) -> u32 {
        self.metering.quota.options().default_max_tokens
    }

    /// Holds what `requests` may use at most, all of them or nothing.
    ///
    /// # Errors
    /// 429 where there is not enough left; what the upstream says where it cannot count a prompt.
    pub(super) async fn reserve(
        &self,
        request: &Arc<str>,
        upstream: &Arc<dyn Upstream>,
        requests: &[Arc<GenerateRequest>],
    ) -> Result<Meter, ApiError> {
        let Some(model) = requests.first().map(|request| &request.model) else {
            return Err(ApiError::internal());
        };
        let (quota, account) = (&self.metering.quota, &self.principal.account);
        // Counting a prompt is work: who has nothing left does not get even that.
        quota.check(account, model).map_err(refused)?;
        let mut bound = Tokens::default();
        for request in requests {
            let prompt = upstream.count_tokens(Arc::clone(request)).await?;
            let of_choice = request.max_tokens.unwrap_or(self.default_max_tokens());
            let completion = u64::from(request.n) * u64::from(of_choice);
            bound.prompt = bound.prompt.saturating_add(prompt.into());
            bound.completion = bound.completion.saturating_add(completion);
        }
        Ok(Meter {
            reservation: self.hold(request, model, bound).await?,
            upstream: Arc::clone(upstream),
            ids: requests.iter().map(|r| Arc::clone(&r.id)).collect(),
            tasks: self.metering.tasks.clone(),
            started: false,
        })
    }

    /// Holds what is bounded already.
    ///
    /// # Errors
    /// 429 where there is not enough left.
    pub(super) async fn hold(
        &self,
        request: &Arc<str>,
        model: &Arc<str>,
        bound: Tokens,
    ) -> Result<Reservation, ApiError> {
        let slip = Slip {
            request: Arc::clone(request),
            purpose: self.purpose.clone(),
        };
        let (quota, account) = (&self.metering.quota, &self.principal.account);
        let admitted = quota.admit(account, model, bound, slip).await;
        admitted.map_err(refused)
    }

    /// Tells in `response` what is left, by the names that OpenAI has for it.
    pub(super) fn tell(&self, mut response: Response, model: &Arc<str>) -> Response {
        let quota = &self.metering.quota;
        let standing = quota.standing(&self.principal.account, model);
        let headers = response.headers_mut();
        if let Some(level) = standing.requests {
            tell_level(headers, &REQUESTS, level);
        }
        if let Some(level) = standing.tokens {
            tell_level(headers, &TOKENS, level);
        }
        if let Some((allocation, percent)) = standing.warning {
            let warning = format!("allocation {allocation}: {percent} % spent");
            insert(headers, &WARNING, &warning);
        }
        response
    }
}

/// What a request is for, where its client says so and may say so.
fn purpose(headers: &HeaderMap, principal: &Principal) -> Result<Option<Arc<str>>, ApiError> {
    let Some(purpose) = headers.get("x-hansa-purpose") else {
        return Ok(None);
    };
    let named = purpose.to_str().ok().filter(|purpose| {
        let sane = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        (1..=PURPOSE_BYTES_MAX).contains(&purpose.len()) && purpose.bytes().all(sane)
    });
    match named {
        Some(named) if principal.purposes.allows(named) => Ok(Some(named.into())),
        _ => Err(ApiError::purpose_not_allowed()),
    }
}

/// A refusal as clients know it: one that waiting ends, and one that it does not.
fn refused(refusal: Refusal) -> ApiError {
    match refusal {
        Refusal::Limit { short, .. } => match short.wait {
            Some(wait) => ApiError::rate_limited(wait),
            None => ApiError::rate_never_fits(short.bound.words(), short.limit),
        },
        Refusal::Exhausted { allocation } => {
            tracing::info!(%allocation, "an allocation has not enough left");
            ApiError::quota_exhausted()
        }
        Refusal::NotHere { .. } => ApiError::quota_exhausted(),
        Refusal::Away | Refusal::Busy => ApiError::overloaded(),
    }
}

/// Names of the headers that tell one rate.
struct LevelNames {
    limit: HeaderName,
    remaining: HeaderName,
    reset: HeaderName,
}

const REQUESTS: LevelNames = LevelNames {
    limit: HeaderName::from_static("x-ratelimit-limit-requests"),
    remaining: HeaderName::from_static("x-ratelimit-remaining-requests"),
    reset: HeaderName::from_static("x-ratelimit-reset-requests"),
};

const TOKENS: LevelNames = LevelNames {
    limit: HeaderName::from_static("x-ratelimit-limit-tokens"),
    remaining: HeaderName::from_static("x-ratelimit-remaining-tokens"),
    reset: HeaderName::from_static("x-ratelimit-reset-tokens"),
};

const WARNING: HeaderName = HeaderName::from_static("x-hansa-quota-warning");

fn tell_level(headers: &mut HeaderMap, names: &LevelNames, level: Level) {
    headers.insert(&names.limit, level.limit.into());
    headers.insert(&names.remaining, level.remaining.into());
    insert(headers, &names.reset, &reset(level.reset));
}

fn insert(headers: &mut HeaderMap, name: &HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// A duration as OpenAI writes it: `12ms`, `1.5s`, `6m0s`.
fn reset(time: Duration) -> String {
    let ms = time.as_nanos().div_ceil(1_000_000);
    match (ms / 60_000, ms % 60_000) {
        (0, ms) if ms < 1_000 => format!("{ms}ms"),
        (0, ms) => format!("{}s", ms as f64 / 1_000.0),
        (minutes, ms) => format!("{minutes}m{}s", ms as f64 / 1_000.0),
    }
}

/// The hold of one request, carried by its run.
pub(super) struct Meter {
    reservation: Reservation,
    upstream: Arc<dyn Upstream>,
    /// Of the parts, as the upstream knows them.
    ids: Vec<Arc<str>>,
    tasks: TaskTracker,
    started: bool,
}

impl Meter {
    /// The first content is there.
    pub(super) fn started(&mut self) {
        if !std::mem::replace(&mut self.started, true) {
            self.reservation.started();
        }
    }

    /// Settles what is over, and what the streams that are still `open` come to once they are stopped.
    pub(super) fn settle(self, used: Usage, open: Vec<EventStream>, outcome: Outcome) {
        // Without a runtime the process is ending: then the guard keeps its debit.
        if !open.is_empty() && Handle::try_current().is_ok() {
            let tasks = self.tasks.clone();
            tasks.spawn(self.stop(used, open, outcome));
        } else if open.is_empty() {
            self.finish(used, outcome);
        }
    }

    /// Cancels the streams and reads each to its last word, which says what it used.
    async fn stop(self, mut used: Usage, open: Vec<EventStream>, outcome: Outcome) {
        // Again and again: a request that its upstream is only about to start is not yet there to be cancelled.
        let cancelling = async {
            loop {
                self.ids.iter().for_each(|id| self.upstream.cancel(id));
                tokio::time::sleep(CANCEL_AGAIN_AFTER).await;
            }
        };
        let draining = async {
            for events in open {
                used.add(last_word(events).await?);
            }
            Some(used)
        };
        // Where nobody tells, the guard is dropped open, and keeps its debit.
        let told = async {
            tokio::select! {
                told = draining => told,
                () = cancelling => None,
            }
        };
        if let Ok(Some(used)) = tokio::time::timeout(USAGE_DRAIN_MAX, told).await {
            self.finish(used, outcome);
        }
    }

    fn finish(&self, used: Usage, outcome: Outcome) {
        if used == Usage::default() && outcome != Outcome::Finished {
            self.reservation.void();
            return;
        }
        let spent = Spent {
            tokens: used.into(),
            ..Spent::default()
        };
        self.reservation.settle(spent, outcome);
    }
}

/// What a stream used, by the last thing that it says.
async fn last_word(mut events: EventStream) -> Option<Usage> {
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Done(usage)) => return Some(usage),
            Ok(_) => {}
            Err(error) => return error.usage,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resets_are_written_as_openai_does() {
        for (ms, text) in [
            (0, "0ms"),
            (12, "12ms"),
            (1_000, "1s"),
            (1_500, "1.5s"),
            (60_000, "1m0s"),
            (366_250, "6m6.25s"),
        ] {
            assert_eq!(reset(Duration::from_millis(ms)), text);
        }
        assert_eq!(reset(Duration::from_nanos(1)), "1ms");
    }
}
