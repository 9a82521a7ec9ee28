//! What claims mean here: roles in tenants, by the config's list.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use hansa_config::schema::issuer::Claim;
use hansa_config::schema::tenancy;
use serde_json::{Map, Value};

use crate::limits::CLAIM_VALUES_MAX;
use crate::tenant::principal::Role;

/// Roles by claim and value.
pub(super) struct Mapping {
    /// By claim, then by value: places of rules in the config, and what they grant.
    rules: BTreeMap<String, HashMap<String, Vec<Grant>>>,
}

struct Grant {
    place: usize,
    tenant: Arc<str>,
    role: Role,
}

impl Mapping {
    pub(super) fn new<'a>(claims: impl Iterator<Item = &'a Claim>) -> Self {
        let mut rules: BTreeMap<String, HashMap<String, Vec<Grant>>> = BTreeMap::new();
        for (place, claim) in claims.enumerate() {
            let of_claim = rules.entry(claim.claim.clone()).or_default();
            of_claim
                .entry(claim.value.clone())
                .or_default()
                .push(Grant {
                    place,
                    tenant: claim.tenant.as_str().into(),
                    role: role(claim.role),
                });
        }
        Self { rules }
    }

    /// The highest role that these claims give in each tenant, in the order of the config.
    pub(super) fn roles(&self, claims: &Map<String, Value>) -> Vec<(Arc<str>, Role)> {
        let mut granted: Vec<&Grant> = Vec::new();
        for (name, by_value) in &self.rules {
            let values = find(claims, name).map(texts).unwrap_or_default();
            let found = values.iter().filter_map(|value| by_value.get(*value));
            granted.extend(found.flatten());
        }
        granted.sort_by_key(|grant| grant.place);
        let mut roles: Vec<(Arc<str>, Role)> = Vec::new();
        for grant in granted {
            match roles.iter_mut().find(|(tenant, _)| *tenant == grant.tenant) {
                Some((_, role)) => *role = grant.role.max(*role),
                None => roles.push((Arc::clone(&grant.tenant), grant.role)),
            }
        }
        roles
    }
}

/// The claim of that name; `realm_access.roles` is looked for within `realm_access` as well.
fn find<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    claims.get(name).or_else(|| {
        let (outer, inner) = name.split_once('.')?;
        claims.get(outer)?.as_object()?.get(inner)
    })
}

/// A text, or the texts of a list.
fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(values) => {
            let first = values.iter().take(CLAIM_VALUES_MAX);
            first.filter_map(Value::as_str).collect()
        }
        _ => Vec::new(),
    }
}

const fn role(role: tenancy::Role) -> Role {
    match role {
        tenancy::Role::Member => Role::Member,
        tenancy::Role::Manager => Role::Manager,
        tenancy::Role::Operator => Role::Operator,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claim(claim: &str, value: &str, tenant: &str, role: tenancy::Role) -> Claim {
        Claim {
            issuer: "i".to_owned(),
            claim: claim.to_owned(),
            value: value.to_owned(),
            tenant: tenant.to_owned(),
            role,
        }
    }

    fn roles(claims: &Value) -> Vec<(String, Role)> {
        let rules = [
            claim("groups", "physics", "uni/physics", tenancy::Role::Member),
            claim(
                "groups",
                "physics-pi",
                "uni/physics",
                tenancy::Role::Manager,
            ),
            claim("groups", "art", "uni/art", tenancy::Role::Member),
            claim("realm_access.roles", "ops", "uni", tenancy::Role::Operator),
            claim("https://x.example/g", "a", "x", tenancy::Role::Member),
        ];
        let mapping = Mapping::new(rules.iter());
        let roles = mapping.roles(claims.as_object().unwrap());
        roles
            .into_iter()
            .map(|(tenant, role)| (tenant.to_string(), role))
            .collect()
    }

    #[test]
    fn a_claim_gives_what_the_config_says_and_nothing_else() {
        let physics = |role| vec![("uni/physics".to_owned(), role)];
        assert_eq!(roles(&json!({"groups": "physics"})), physics(Role::Member));
        let both = json!({"groups": ["physics", "physics-pi", "chess"]});
        assert_eq!(roles(&both), physics(Role::Manager));
        // In the order of the config, whatever that of the token is.
        let two = roles(&json!({"groups": ["art", "physics"]}));
        assert_eq!(two[0].0, "uni/physics");
        assert_eq!(two[1].0, "uni/art");
        let nested = json!({"realm_access": {"roles": ["ops"]}});
        assert_eq!(roles(&nested), [("uni".to_owned(), Role::Operator)]);
        let url = json!({"https://x.example/g": ["a"]});
        assert_eq!(roles(&url), [("x".to_owned(), Role::Member)]);
    }

    #[test]
    fn claims_of_other_forms_give_nothing() {
        for claims in [
            json!({}),
            json!({"groups": null}),
            json!({"groups": 7}),
            json!({"groups": {"physics": true}}),
            json!({"groups": [["physics"], 1, "Physics", "physics "]}),
            json!({"group": "physics", "realm_access": ["ops"]}),
        ] {
            assert_eq!(roles(&claims), [], "{claims}");
        }
    }
}
