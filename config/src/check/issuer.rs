//! What issuers and claims mean together.

use std::collections::HashSet;

use super::tenancy::{at, each, unique};
use crate::keys::issuer::{CLAIM, ISSUER};
use crate::problems::{Fault, quote};
use crate::read::Reader;
use crate::schema::issuer::{ALGORITHMS, Issuer};

/// Notes every broken rule of these sections.
pub(super) fn check(reader: &mut Reader) {
    let config = reader.config.clone();
    each(reader, "issuer", ISSUER, config.issuers.len());
    each(reader, "claim", CLAIM, config.claims.len());
    let ids: Vec<&str> = config.issuers.iter().map(|i| i.id.as_str()).collect();
    unique(reader, "issuer", "id", &ids);
    let urls: Vec<&str> = config.issuers.iter().map(|i| i.url.as_str()).collect();
    unique(reader, "issuer", "url", &urls);
    for (index, issuer) in config.issuers.iter().enumerate() {
        one(reader, index, issuer);
    }
    let known: HashSet<&str> = ids.into_iter().collect();
    for (index, claim) in config.claims.iter().enumerate() {
        if !claim.issuer.is_empty() && !known.contains(&*claim.issuer) {
            let message = format!("there is no issuer {}", quote(&claim.issuer));
            let help = format!("add [[issuer]] with id = {:?}", claim.issuer);
            let fault = Fault::new(message, help);
            at(reader, &format!("claim[{index}].issuer"), fault);
        }
    }
}

fn one(reader: &mut Reader, index: usize, issuer: &Issuer) {
    if issuer.url.starts_with("http://") && !is_here(&issuer.url) {
        let help = "write https://: whoever can change its keys on the way can be anyone";
        let fault = Fault::new("is not encrypted and not on this machine", help);
        at(reader, &format!("issuer[{index}].url"), fault);
    }
    if issuer.audiences.is_empty() {
        let help = "name what tokens for this service have in `aud`";
        let fault = Fault::new("is empty, so that no token would do", help);
        at(reader, &format!("issuer[{index}].audiences"), fault);
    }
    let known = |name: &&String| ALGORITHMS.contains(&name.as_str());
    let wrong = issuer.algorithms.iter().find(|name| !known(name));
    let message = match wrong {
        Some(name) => format!("{} is none that is taken", quote(name)),
        None if issuer.algorithms.is_empty() => "is empty, so that no token would do".to_owned(),
        None => return,
    };
    let help = format!("choose of {}", ALGORITHMS.join(", "));
    let path = format!("issuer[{index}].algorithms");
    at(reader, &path, Fault::new(message, help));
}

/// Whether a URL leads to this machine by a name that nobody else decides.
fn is_here(url: &str) -> bool {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let authority = rest.split('/').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    let address = host.parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}
