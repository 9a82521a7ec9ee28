//! Where requests go: the URL of the server, resolved once, and the headers that every request carries.

use std::net::SocketAddr;
use std::path::Path;

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue};
use http::{Uri, uri::PathAndQuery};

use super::prompt::Endpoint;
use super::tls::{Tls, TlsError};
use crate::limits::MAX_HEADERS;

/// The endpoint under test.
#[derive(Debug, Clone)]
pub struct Target {
    /// Host and port as written.
    authority: String,
    host: String,
    port: u16,
    path: PathAndQuery,
    headers: HeaderMap,
    /// For https.
    tls: Option<Tls>,
}

/// Why a target cannot be driven. Never shows a header's value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Not a URL, or one without a host.
    #[error("--url {0:?} is no URL of the form http[s]://host[:port][/v1]")]
    Url(String),
    /// Its TLS, or the file of authorities.
    #[error("TLS: {0}")]
    Tls(TlsError),
    /// Secrets do not belong into a URL.
    #[error("--url holds a user name or password; use --api-key or --header instead")]
    UserInfo,
    /// A header that HTTP does not allow, or that the client sets itself.
    #[error("--header {0:?}: expected name:value, and none that HTTP or this client sets itself")]
    Header(String),
    /// The key has bytes that no header may hold.
    #[error("the API key holds characters that no header may hold")]
    ApiKey,
    /// Too many headers.
    #[error("more than {MAX_HEADERS} --header")]
    TooManyHeaders,
    /// The host's name leads nowhere.
    #[error("cannot resolve host {0:?}")]
    Resolve(String),
}

impl Target {
    /// Reads a base URL; `/v1` is added where it does not end with it.
    ///
    /// # Errors
    /// No http or https URL with a host, or one that holds credentials.
    pub fn parse(url: &str, endpoint: Endpoint) -> Result<Self, TargetError> {
        let unusable = || TargetError::Url(url.chars().take(200).collect());
        if url.contains('@') {
            return Err(TargetError::UserInfo);
        }
        let uri: Uri = url.parse().map_err(|_| unusable())?;
        let host = uri
            .host()
            .filter(|host| !host.is_empty())
            .ok_or_else(unusable)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let (tls, port) = match uri.scheme_str() {
            Some("http") => (None, 80),
            Some("https") => (Some(Tls::with(host).map_err(TargetError::Tls)?), 443),
            _ => return Err(unusable()),
        };
        let base = uri.path().trim_end_matches('/').trim_end_matches("/v1");
        let path = format!("{base}/v1{}", endpoint.path());
        let authority = uri.authority().ok_or_else(unusable)?.to_string();
        let mut headers = HeaderMap::new();
        let host_value = HeaderValue::from_str(&authority).map_err(|_| unusable())?;
        headers.insert(HOST, host_value);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let accept = if endpoint.streams() {
            "text/event-stream"
        } else {
            "application/json"
        };
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        Ok(Self {
            authority,
            host: host.to_owned(),
            port: uri.port_u16().unwrap_or(port),
            path: path.parse().map_err(|_| unusable())?,
            headers,
            tls,
        })
    }

    /// Reads the URL of one page, such as a server's metrics; `/metrics` where it has no path.
    ///
    /// # Errors
    /// As [`Target::parse`].
    pub fn page(url: &str) -> Result<Self, TargetError> {
        let target = Self::parse(url, Endpoint::Chat)?;
        let uri: Uri = url.parse().map_err(|_| TargetError::Url(target.url()))?;
        let given = uri.path_and_query().filter(|path| path.as_str() != "/");
        let path = given
            .cloned()
            .unwrap_or(PathAndQuery::from_static("/metrics"));
        let mut headers = target.headers;
        headers.remove(CONTENT_TYPE);
        headers.insert(ACCEPT, HeaderValue::from_static("text/plain"));
        Ok(Self {
            path,
            headers,
            ..target
        })
    }

    /// Trusts only the authorities of a PEM file; says whether it is asked at all, which plain http never does.
    ///
    /// # Errors
    /// The file cannot be read or holds none.
    pub fn trust(&mut self, authorities: &Path) -> Result<bool, TargetError> {
        let Some(tls) = self.tls.take() else {
            return Ok(false);
        };
        self.tls = Some(tls.trusting(authorities).map_err(TargetError::Tls)?);
        Ok(true)
    }

    /// Adds `authorization: Bearer KEY`.
    ///
    /// # Errors
    /// The key has characters that no header may hold.
    pub fn set_api_key(&mut self, key: &str) -> Result<(), TargetError> {
        self.headers.insert(AUTHORIZATION, bearer(key)?);
        Ok(())
    }

    /// Adds a header written as `name:value`; one of the same name is replaced.
    ///
    /// # Errors
    /// Not of that form, too many, or a header that frames the request.
    pub fn add_header(&mut self, text: &str) -> Result<(), TargetError> {
        if self.headers.len() >= MAX_HEADERS {
            return Err(TargetError::TooManyHeaders);
        }
        let name_only = || TargetError::Header(text.split(':').next().unwrap_or("").to_owned());
        let (name, value) = text.split_once(':').ok_or_else(name_only)?;
        let name: HeaderName = name.trim().parse().map_err(|_| name_only())?;
        if matches!(
            name.as_str(),
            "host" | "content-length" | "transfer-encoding" | "connection"
        ) {
            return Err(name_only());
        }
        let mut value = HeaderValue::from_str(value.trim()).map_err(|_| name_only())?;
        value.set_sensitive(true);
        self.headers.insert(name, value);
        Ok(())
    }

    /// Looks the host up. Done once: a name server's speed is not what is measured.
    ///
    /// # Errors
    /// The name leads nowhere.
    pub async fn resolve(&self) -> Result<Vec<SocketAddr>, TargetError> {
        let unknown = || TargetError::Resolve(self.host.clone());
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await;
        let addresses: Vec<SocketAddr> = found.map_err(|_| unknown())?.collect();
        if addresses.is_empty() {
            Err(unknown())
        } else {
            Ok(addresses)
        }
    }

    /// The full URL of the endpoint, for reports.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority, self.path)
    }

    /// How TLS is spoken with it; none for plain http.
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// Path of the endpoint.
    pub fn path(&self) -> &PathAndQuery {
        &self.path
    }

    /// Headers of every request.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }
}

/// The value of `authorization` for an API key; never shown.
///
/// # Errors
/// The key has characters that no header may hold.
pub fn bearer(key: &str) -> Result<HeaderValue, TargetError> {
    let value = format!("Bearer {}", key.trim());
    let mut value = HeaderValue::from_str(&value).map_err(|_| TargetError::ApiKey)?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(url: &str) -> Result<String, TargetError> {
        Target::parse(url, Endpoint::Chat).map(|target| target.url())
    }

    #[test]
    fn a_base_url_may_end_with_v1_or_not() {
        let full = "http://h:8080/v1/chat/completions";
        for base in [
            "http://h:8080",
            "http://h:8080/",
            "http://h:8080/v1",
            "http://h:8080/v1/",
        ] {
            assert_eq!(url(base).as_deref(), Ok(full), "{base}");
        }
        assert_eq!(
            url("http://[::1]/x").as_deref(),
            Ok("http://[::1]/x/v1/chat/completions")
        );
    }

    #[test]
    fn a_page_has_the_path_that_it_is_given() {
        let page = |url: &str| Target::page(url).unwrap().url();
        assert_eq!(page("http://h:9900"), "http://h:9900/metrics");
        assert_eq!(page("http://h:9900/a/b?c=d"), "http://h:9900/a/b?c=d");
        assert_eq!(page("https://h"), "https://h/metrics");
    }

    #[test]
    fn https_has_its_own_port_and_trusts_whom_it_is_told_to() {
        let mut target = Target::parse("https://[::1]/x", Endpoint::Chat).unwrap();
        assert_eq!(target.url(), "https://[::1]/x/v1/chat/completions");
        assert_eq!((target.port, target.host.as_str()), (443, "::1"));
        let nobody = tempfile::NamedTempFile::new().unwrap();
        let refused = target.clone().trust(nobody.path()).unwrap_err();
        assert!(refused.to_string().contains("name a PEM file"), "{refused}");
        assert!(target.trust(Path::new("/nowhere/ca.pem")).is_err());
        let mut plain = Target::parse("http://h", Endpoint::Chat).unwrap();
        assert_eq!(plain.trust(Path::new("/nowhere/ca.pem")), Ok(false));
    }

    #[test]
    fn unusable_urls_are_refused_by_name() {
        assert_eq!(url("http://u:p@h"), Err(TargetError::UserInfo));
        for bad in ["", "h:80", "/v1", "ftp://h", "http://", "http:// h"] {
            assert!(matches!(url(bad), Err(TargetError::Url(_))), "{bad}");
        }
    }

    #[test]
    fn headers_are_checked_and_never_shown() {
        let mut target = Target::parse("http://h", Endpoint::Completions).unwrap();
        target.add_header("x-tenant: a:b").unwrap();
        assert_eq!(target.headers()["x-tenant"], "a:b");
        target.set_api_key("sk-secret\n").unwrap();
        assert_eq!(target.headers()["authorization"], "Bearer sk-secret");
        assert!(!format!("{target:?}").contains("secret"));
        for bad in [
            "novalue",
            "a b:c",
            "x:\u{1}",
            "Host: x",
            "content-length: 1",
        ] {
            assert!(
                matches!(target.add_header(bad), Err(TargetError::Header(_))),
                "{bad}"
            );
        }
        assert_eq!(target.set_api_key("a\u{0}b"), Err(TargetError::ApiKey));
        let refused = (0..=MAX_HEADERS).find_map(|n| target.add_header(&format!("x-{n}: 1")).err());
        assert_eq!(refused, Some(TargetError::TooManyHeaders));
    }
}
