//! Names of the headers between servers of ours, and what they claim of a request.
//!
//! All but the hops are believed of peers alone (`layers/peer.rs` takes them away from everyone else).

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName};

use crate::limits;
use crate::openai::error::ApiError;
use crate::upstream::Claims;

/// Id of the request.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Servers of ours that the request has crossed. Read from anyone, since it can only refuse.
pub const HOPS: HeaderName = HeaderName::from_static("x-hansa-hops");
/// The secret that peers share.
pub const PEER: HeaderName = HeaderName::from_static("x-hansa-peer");
/// Milliseconds until nobody waits for the answer any more.
pub const DEADLINE_MS: HeaderName = HeaderName::from_static("x-hansa-deadline-ms");
/// Id of the tenant.
pub const TENANT: HeaderName = HeaderName::from_static("x-hansa-tenant");
/// Prefix-sharing pool.
pub const POOL: HeaderName = HeaderName::from_static("x-hansa-pool");
/// Fair-share flow.
pub const FLOW: HeaderName = HeaderName::from_static("x-hansa-flow");
/// Names of the sites that the request may go to, with commas between.
pub const ALLOW_SITES: HeaderName = HeaderName::from_static("x-hansa-allow-sites");
/// What the request is for. Of tenants, too.
pub const PURPOSE: HeaderName = HeaderName::from_static("x-hansa-purpose");

/// The headers that only a peer may send.
pub const OF_PEERS: [HeaderName; 5] = [DEADLINE_MS, TENANT, POOL, FLOW, ALLOW_SITES];

/// What the headers say of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// Servers of ours that it has crossed.
    pub hops: u8,
    /// Time that is left.
    pub time_left: Option<Duration>,
    /// Prefix-sharing pool.
    pub pool: u64,
    /// Fair-share flow.
    pub flow: u64,
    /// The rest.
    pub claims: Claims,
}

impl Said {
    /// Reads `headers`, from which those that are not to be believed have been taken.
    ///
    /// # Errors
    /// A request that has gone through too many servers is refused, and so is a header that makes no sense: what a peer
    /// says by mistake of a list of sites must not be dropped.
    pub fn read(headers: &HeaderMap) -> Result<Self, ApiError> {
        let sites = text(headers, &ALLOW_SITES)?;
        Ok(Self {
            hops: hops(headers)?,
            time_left: number(headers, &DEADLINE_MS)?.map(Duration::from_millis),
            pool: number(headers, &POOL)?.unwrap_or(0),
            flow: number(headers, &FLOW)?.unwrap_or(0),
            claims: Claims {
                tenant: text(headers, &TENANT)?.map(Arc::from),
                allow_sites: sites.map(|sites| split(&sites)).transpose()?,
                purpose: text(headers, &PURPOSE)?.map(Arc::from),
            },
        })
    }
}

fn hops(headers: &HeaderMap) -> Result<u8, ApiError> {
    let Some(hops) = headers.get(HOPS) else {
        return Ok(0);
    };
    let hops = hops.to_str().ok().and_then(|hops| hops.parse().ok());
    match hops {
        Some(hops) if hops <= limits::HOPS_MAX => Ok(hops),
        _ => Err(ApiError::too_many_hops()),
    }
}

/// The list of sites; an empty list allows none.
fn split(sites: &str) -> Result<Vec<String>, ApiError> {
    let sites: Vec<String> = sites
        .split(',')
        .map(|site| site.trim().to_owned())
        .filter(|site| !site.is_empty())
        .collect();
    match sites.len() <= limits::CLAIM_SITES_MAX {
        true => Ok(sites),
        false => Err(ApiError::peer_header()),
    }
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, ApiError> {
    let mut values = headers.get_all(name).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return match headers.contains_key(name) {
            true => Err(ApiError::peer_header()),
            false => Ok(None),
        };
    };
    let text = value
        .to_str()
        .ok()
        .filter(|text| text.len() <= limits::CLAIM_BYTES_MAX);
    let text = text.ok_or_else(ApiError::peer_header)?;
    Ok(Some(text.to_owned()))
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Result<Option<u64>, ApiError> {
    let Some(text) = text(headers, name)? else {
        return Ok(None);
    };
    text.parse().map(Some).map_err(|_| ApiError::peer_header())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn said(pairs: &[(HeaderName, &str)]) -> Result<Said, u16> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        Said::read(&headers).map_err(|error| error.status().as_u16())
    }

    #[test]
    fn headers_are_read_whole_or_refused() {
        let all = said(&[
            (HOPS, "2"),
            (DEADLINE_MS, "1500"),
            (POOL, "7"),
            (ALLOW_SITES, "a, b"),
            (PURPOSE, "research"),
        ]);
        let all = all.unwrap();
        assert_eq!((all.hops, all.pool, all.flow), (2, 7, 0));
        assert_eq!(all.time_left, Some(Duration::from_millis(1500)));
        assert_eq!(
            all.claims.allow_sites,
            Some(vec!["a".to_owned(), "b".to_owned()])
        );
        assert_eq!(said(&[]).unwrap(), Said::default());
        assert_eq!(
            said(&[(ALLOW_SITES, "")]).unwrap().claims.allow_sites,
            Some(Vec::new())
        );
        for bad in [(DEADLINE_MS, "soon"), (POOL, "-1")] {
            assert_eq!(said(&[bad]), Err(400));
        }
        assert_eq!(said(&[(ALLOW_SITES, "a"), (ALLOW_SITES, "b")]), Err(400));
    }

    #[test]
    fn a_request_that_went_through_too_many_servers_is_refused() {
        assert_eq!(said(&[(HOPS, "3")]).unwrap().hops, 3);
        for hops in ["4", "300", "-1", "x", ""] {
            assert_eq!(said(&[(HOPS, hops)]), Err(508), "{hops}");
        }
    }
}
