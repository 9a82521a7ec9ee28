//! Lets in who shows a key, and says to everything inside who it is.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, header};

use crate::clock::Clock;
use crate::layers::peer::Peer;
use crate::openai::error::ApiError;
use crate::quota::charge::Moment;
use crate::tenant::Tenants;
use crate::tenant::directory::Denied;
use crate::tenant::principal::{Principal, Role};

/// What authenticating needs.
#[derive(Debug, Clone)]
pub struct Gate {
    /// Who there is.
    pub tenants: Tenants,
    /// Keys expire by wall time.
    pub clock: Clock,
}

/// Whether a layer outside of this one knows who asks, and that they need no key of ours: a peer authenticated the request
/// before us, and says in its headers where it may go.
fn is_let_in_elsewhere(request: &Request) -> bool {
    request.extensions().get::<Peer>().is_some()
}

/// Hands on the requests of operators alone; nobody is one on a server without keys.
pub async fn operators(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    match gate.authenticate(request.headers()).await {
        Ok(principal) if principal.role == Role::Operator => {
            request.extensions_mut().insert(principal);
            next.run(request).await
        }
        Ok(_) => ApiError::operators_only().into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

/// Hands on the requests of whoever is known; what of the rest they may see is each handler's to say.
pub async fn anyone_known(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    match gate.authenticate(request.headers()).await {
        Ok(principal) => {
            request.extensions_mut().insert(principal);
            next.run(request).await
        }
        Err(refusal) => refusal.into_response(),
    }
}

/// As [`operators`] on a server with keys; elsewhere everyone passes.
pub async fn operators_if_keys(gate: State<Gate>, request: Request, next: Next) -> Response {
    if !gate.tenants.require_keys() {
        return next.run(request).await;
    }
    operators(gate, request, next).await
}

impl Gate {
    /// Puts the [`Principal`] beside a request, and where that may be served. A server without keys lets everyone pass as
    /// nobody.
    pub(crate) async fn check(&self, request: &mut Request) -> Result<(), ApiError> {
        if !self.tenants.require_keys() || is_let_in_elsewhere(request) {
            return Ok(());
        }
        let principal = self.admit(request.headers(), request.uri().path()).await?;
        request.extensions_mut().insert(principal.rules());
        request.extensions_mut().insert(principal);
        Ok(())
    }

    async fn admit(&self, headers: &HeaderMap, path: &str) -> Result<Arc<Principal>, ApiError> {
        let principal = self.authenticate(headers).await?;
        if may_use(&principal, path) {
            Ok(principal)
        } else {
            Err(ApiError::endpoint_not_allowed())
        }
    }

    async fn authenticate(&self, headers: &HeaderMap) -> Result<Arc<Principal>, ApiError> {
        let shown = bearer(headers).ok_or_else(ApiError::invalid_key)?;
        let at = Moment {
            now: self.clock.now(),
            unix_s: self.clock.unix_s(),
        };
        let found = self.tenants.identify(shown, project(headers)?, at).await;
        found.map_err(|denied| match denied {
            Denied::Unknown => ApiError::invalid_key(),
            Denied::Expired | Denied::Revoked => ApiError::key_expired(),
            Denied::Away => ApiError::issuer_away(),
            Denied::NoProject => ApiError::no_project(),
        })
    }
}

/// The key of the one `Authorization: Bearer KEY`.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let (value, another) = (all.next()?, all.next());
    if another.is_some() {
        return None;
    }
    let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

/// As OpenAI's clients name a project.
const PROJECT: HeaderName = HeaderName::from_static("openai-project");

/// The project that a person with several wants to use. Keys have one and ignore it.
fn project(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let named = headers.get(PROJECT).map(|value| value.to_str());
    named.transpose().map_err(|_| ApiError::no_project())
}

/// Whether the key's endpoints hold `path`; everyone may look at models and at the own usage.
fn may_use(principal: &Principal, path: &str) -> bool {
    let Some(endpoints) = principal.endpoints.names() else {
        return true;
    };
    let below = path.strip_prefix("/v1/").unwrap_or(path);
    let within = |name: &str| {
        let rest = below.strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    within("models") || within("usage") || endpoints.iter().any(|name| within(name))
}

#[cfg(test)]
pub(crate) mod tests {
    use hansa_config::Config;

    use super::*;
    use crate::quota::charge::Account;
    use crate::tenant::principal::AllowList;

    /// That of a server without keys.
    pub(crate) fn gate_without_keys(clock: &Clock) -> Gate {
        let config = Config::default();
        let quota = crate::quota::open::open(&config, clock).unwrap();
        Gate {
            tenants: Tenants::open(&config, quota).unwrap(),
            clock: clock.clone(),
        }
    }

    fn headers(values: &[&str]) -> HeaderMap {
        let pairs = values
            .iter()
            .map(|value| (header::AUTHORIZATION, value.parse().unwrap()));
        pairs.collect()
    }

    #[test]
    fn one_bearer_is_a_key_and_nothing_else_is() {
        for (values, key) in [
            (&["Bearer hk-1"][..], Some("hk-1")),
            (&["bearer  hk-1 "], Some("hk-1")),
            (&["Basic aGs6MQ=="], None),
            (&["Bearer"], None),
            (&["hk-1"], None),
            (&["Bearer a", "Bearer b"], None),
            (&[], None),
        ] {
            assert_eq!(bearer(&headers(values)), key, "{values:?}");
        }
    }

    #[test]
    fn endpoints_are_whole_parts_of_paths() {
        let names = ["chat/completions".to_owned()];
        let principal = Principal {
            account: Arc::new(Account {
                key: "k".into(),
                project: None,
                organisation: "o".into(),
            }),
            role: Role::Member,
            models: AllowList::default(),
            endpoints: AllowList::new(&names),
            sites: AllowList::default(),
            countries: AllowList::default(),
            purposes: AllowList::default(),
            experimental: false,
            flow: 0,
            pool: 0,
        };
        for (path, allowed) in [
            ("/v1/chat/completions", true),
            ("/v1/chat/completions/1", true),
            ("/v1/models/a/b", true),
            ("/v1/usage", true),
            ("/v1/completions", false),
            ("/v1/chat/completionsx", false),
            ("/v1/embeddings", false),
        ] {
            assert_eq!(may_use(&principal, path), allowed, "{path}");
        }
    }
}
