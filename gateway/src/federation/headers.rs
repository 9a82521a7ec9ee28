//! Names of the headers between servers of ours, and what they claim of a request.
//!
//! All but the hops are believed of peers alone (`layers/peer.rs` takes them away from everyone else).

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName};

use crate::limits;
use crate::openai::error::ApiError;
use crate::route::residency::{AllowList, Rules};

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
/// Countries that the request may go to, with commas between.
pub const ALLOW_COUNTRIES: HeaderName = HeaderName::from_static("x-hansa-allow-countries");
/// `on` opts in to experimental sites. Of tenants, too.
pub const EXPERIMENTAL: HeaderName = HeaderName::from_static("x-hansa-experimental");
/// `off` ends a stream with an error rather than going on with it elsewhere. Of tenants, too.
pub const RESUME: HeaderName = HeaderName::from_static("x-hansa-resume");
/// `batch` where nobody waits for the answer. Of tenants, too.
pub const CLASS: HeaderName = HeaderName::from_static("x-hansa-class");
/// What the request is for. Of tenants, too.
pub const PURPOSE: HeaderName = HeaderName::from_static("x-hansa-purpose");

/// What the first server will settle the request under, opaque to all others; they keep its usage beside this.
pub const CHARGE: HeaderName = HeaderName::from_static("x-hansa-charge");
/// In an error answer to a peer: what the request used, as JSON.
pub const USAGE: HeaderName = HeaderName::from_static("x-hansa-usage");

/// The headers that only a peer may send.
pub const OF_PEERS: [HeaderName; 7] = [
    CHARGE,
    DEADLINE_MS,
    TENANT,
    POOL,
    FLOW,
    ALLOW_SITES,
    ALLOW_COUNTRIES,
];

/// Whether there is any header of ours, which most requests have not: to look for each of them takes longer.
#[must_use]
pub fn any_of_ours(headers: &HeaderMap) -> bool {
    let mut names = headers.keys().map(HeaderName::as_str);
    names.any(|name| name.starts_with("x-hansa-"))
}

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
    /// Id of the tenant.
    pub tenant: Option<Arc<str>>,
    /// What the first server will settle it under.
    pub charge: Option<Arc<str>>,
    /// Sites that it may go to.
    pub allow_sites: AllowList,
    /// Countries that it may go to.
    pub allow_countries: AllowList,
}

impl Said {
    /// Reads `headers`, from which those that are not to be believed have been taken.
    ///
    /// # Errors
    /// A request that has gone through too many servers is refused, and so is a header that makes no sense: what a peer
    /// says by mistake of a list of sites must not be dropped.
    pub fn read(headers: &HeaderMap) -> Result<Self, ApiError> {
        if !any_of_ours(headers) {
            return Ok(Self::default());
        }
        Ok(Self {
            hops: hops(headers)?,
            time_left: number(headers, &DEADLINE_MS)?.map(Duration::from_millis),
            pool: number(headers, &POOL)?.unwrap_or(0),
            flow: number(headers, &FLOW)?.unwrap_or(0),
            tenant: text(headers, &TENANT)?.map(Arc::from),
            charge: text(headers, &CHARGE)?.map(Arc::from),
            allow_sites: list(headers, &ALLOW_SITES)?,
            allow_countries: list(headers, &ALLOW_COUNTRIES)?,
        })
    }

    /// Where the server before this one lets the request go.
    #[must_use]
    pub fn rules(&self) -> Rules {
        Rules {
            countries: self.allow_countries.clone(),
            sites: self.allow_sites.clone(),
            // These are the request's own to say, and travel in headers of their own.
            experimental: true,
            purpose: None,
        }
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

/// A list of names; an empty one allows none.
fn list(headers: &HeaderMap, name: &HeaderName) -> Result<AllowList, ApiError> {
    let Some(text) = text(headers, name)? else {
        return Ok(None);
    };
    let names = text.split(',').map(str::trim);
    let names: Arc<[Arc<str>]> = names.filter(|n| !n.is_empty()).map(Arc::from).collect();
    match names.len() <= limits::CLAIM_SITES_MAX {
        true => Ok(Some(names)),
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
            (ALLOW_COUNTRIES, "FI"),
        ]);
        let all = all.unwrap();
        assert_eq!((all.hops, all.pool, all.flow), (2, 7, 0));
        assert_eq!(all.time_left, Some(Duration::from_millis(1500)));
        assert_eq!(all.allow_sites, Some(["a".into(), "b".into()].into()));
        assert_eq!(all.allow_countries, Some(["FI".into()].into()));
        assert_eq!(said(&[]).unwrap(), Said::default());
        assert_eq!(said(&[(REQUEST_ID, "r")]).unwrap(), Said::default());
        let nowhere = said(&[(ALLOW_SITES, "")]).unwrap();
        assert_eq!(nowhere.allow_sites, Some([].into()));
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
