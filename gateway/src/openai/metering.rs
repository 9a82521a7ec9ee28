//! Puts requests on their tenants' account: what they may use is reserved before they wait for anything. `meter.rs` settles
//! it when they are over.

use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio_util::task::TaskTracker;

use super::error::ApiError;
use super::meter::{Meter, Payer};
use crate::federation::kept::Kept;
use crate::limits::PURPOSE_BYTES_MAX;
use crate::quota::Quota;
use crate::quota::amount::Tokens;
use crate::quota::charge::Refusal;
use crate::quota::reservation::{Reservation, Slip};
use crate::quota::standing::Level;
use crate::tenant::principal::Principal;
use crate::upstream::link::LinkTasks;
use crate::upstream::purse::Purse;
use crate::upstream::{GenerateRequest, Upstream};

/// What metering needs of the server.
#[derive(Debug, Clone)]
pub struct Metering {
    /// What is spent from.
    pub quota: Quota,
    /// Where the usage of aborted requests is awaited; the drain waits for it.
    pub tasks: TaskTracker,
    /// Where usage that a stream could not tell is asked for; the drain ends it.
    pub links: LinkTasks,
    /// What peers' requests used that are over.
    pub kept: Kept,
}

/// One client's request as its account sees it.
#[derive(Debug, Clone)]
pub(super) struct Client {
    metering: Metering,
    principal: Arc<Principal>,
    purpose: Option<Arc<str>>,
}

impl Client {
    /// A request that is for `purpose`; what it may not do is refused.
    ///
    /// # Errors
    /// 403 where the key may not use the model or name the purpose.
    pub(super) fn admit(
        metering: &Metering,
        principal: &Arc<Principal>,
        purpose: Option<&HeaderValue>,
        model: &str,
    ) -> Result<Self, ApiError> {
        if !principal.models.allows(model) {
            return Err(ApiError::model_not_allowed(model));
        }
        Ok(Self {
            metering: metering.clone(),
            principal: Arc::clone(principal),
            purpose: named(purpose, principal)?,
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

    /// Holds what `requests` may use at most, all of them or nothing, and gives them the charge that they go under.
    ///
    /// # Errors
    /// 429 where there is not enough left; what the upstream says where it cannot count a prompt.
    pub(super) async fn reserve(
        &self,
        request: &Arc<str>,
        upstream: &Arc<dyn Upstream>,
        requests: &mut [Arc<GenerateRequest>],
    ) -> Result<Meter, ApiError> {
        let Some(model) = requests.first().map(|request| Arc::clone(&request.model)) else {
            return Err(ApiError::internal());
        };
        let (quota, account) = (&self.metering.quota, &self.principal.account);
        let counts = upstream.counts_tokens();
        if counts {
            // It is work: who has nothing left does not get even that.
            quota.check(account, &model).map_err(refused)?;
        }
        let mut bound = Tokens::default();
        for request in &*requests {
            let prompt = match counts {
                true => upstream.count_tokens(Arc::clone(request)).await?,
                false => request.prompt_tokens_max(),
            };
            let of_choice = request.max_tokens.unwrap_or(self.default_max_tokens());
            let completion = u64::from(request.n) * u64::from(of_choice);
            bound.prompt = bound.prompt.saturating_add(prompt.into());
            bound.completion = bound.completion.saturating_add(completion);
        }
        let reservation = Arc::new(self.hold(request, &model, bound).await?);
        let kept = upstream.keeps_usage();
        if requests.len() > 1 {
            reservation.has_several_parts();
        }
        for (request, part) in requests.iter_mut().zip(0..) {
            let request = Arc::make_mut(request);
            request.purse = Some(Arc::clone(&reservation) as Arc<dyn Purse>);
            request.charge = if kept { reservation.tag(part) } else { None };
        }
        let payer = Payer::Tenant(reservation);
        Ok(Meter::new(&self.metering, payer, upstream, requests))
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
fn named(
    purpose: Option<&HeaderValue>,
    principal: &Principal,
) -> Result<Option<Arc<str>>, ApiError> {
    let Some(purpose) = purpose else {
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
