//! Who gets in, and what changes while the server runs.

use hansa_config::schema::tenancy;

use super::principal::Role;
use super::secret::{KeyDigest, Secret};
use super::*;
use crate::clock::Clock;

const NOW_S: i64 = 1_700_000_000;

fn config(secret: &Secret) -> Config {
    let tenant = |id: &str| tenancy::Tenant {
        id: id.to_owned(),
        ..tenancy::Tenant::default()
    };
    Config {
        tenants: vec![
            tenancy::Tenant {
                countries: vec!["DE".to_owned(), "FI".to_owned()],
                ..tenant("acme")
            },
            tenancy::Tenant {
                countries: vec!["fi".to_owned()],
                ..tenant("acme/research")
            },
            tenant("other"),
        ],
        keys: vec![tenancy::ApiKey {
            id: "k".to_owned(),
            tenant: "acme/research".to_owned(),
            sha256: secret.digest().to_string(),
            role: tenancy::Role::Operator,
            expires_s: Some(NOW_S + 10),
            ..tenancy::ApiKey::default()
        }],
        ..Config::default()
    }
}

fn open(secret: &Secret) -> Tenants {
    let config = config(secret);
    let quota = crate::quota::open::open(&config, &Clock::manual(NOW_S)).unwrap();
    Tenants::open(&config, quota).unwrap()
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "each value is made for its call"
)]
fn set(kind: Kind, id: &str, value: serde_json::Value) -> Change {
    Change {
        kind,
        id: id.to_owned(),
        value: Some(value.to_string()),
        by: "k".to_owned(),
        at_s: NOW_S,
    }
}

fn remove(kind: Kind, id: &str) -> Change {
    Change {
        value: None,
        ..set(kind, id, serde_json::Value::Null)
    }
}

fn key(id: &str, secret: &Secret, tenant: &str) -> serde_json::Value {
    serde_json::json!({"id": id, "tenant": tenant, "sha256": secret.digest().to_string()})
}

#[test]
fn a_key_opens_what_its_project_and_organisation_allow_together() {
    let secret = Secret::new();
    let tenants = open(&secret);
    let principal = tenants.authenticate(secret.reveal(), NOW_S).unwrap();
    assert_eq!(&*principal.account.organisation, "acme");
    assert_eq!(principal.account.project.as_deref(), Some("acme/research"));
    assert_eq!(principal.role, Role::Operator);
    assert!(principal.countries.allows("FI") && !principal.countries.allows("DE"));
    assert!(principal.models.allows("anything"));
    assert!(!principal.experimental);
}

#[test]
fn wrong_keys_are_told_from_expired_ones() {
    let secret = Secret::new();
    let tenants = open(&secret);
    let beyond = |at_s| tenants.authenticate(secret.reveal(), at_s).map(|_| ());
    assert_eq!(beyond(NOW_S + 9), Ok(()));
    assert_eq!(beyond(NOW_S + 10), Err(Denied::Expired));
    let own = secret.reveal();
    let longer = format!("{own}x");
    let digest = secret.digest().to_string();
    let megabyte = "hk-".repeat(350_000);
    for wrong in ["", "hk-", &own[..66], &longer, &digest, &megabyte] {
        let denied = tenants.authenticate(wrong, NOW_S).map(|_| ());
        assert_eq!(denied, Err(Denied::Unknown));
    }
}

#[test]
fn keys_come_and_go_while_the_server_runs() {
    let (configured, stored) = (Secret::new(), Secret::new());
    let tenants = open(&configured);
    tenants
        .change(set(Kind::Key, "new", key("new", &stored, "other")))
        .unwrap();
    let principal = tenants.authenticate(stored.reveal(), NOW_S).unwrap();
    assert_eq!(&*principal.account.organisation, "other");
    let mut revoked = key("new", &stored, "other");
    revoked["revoked"] = true.into();
    tenants.change(set(Kind::Key, "new", revoked)).unwrap();
    let denied = tenants.authenticate(stored.reveal(), NOW_S).map(|_| ());
    assert_eq!(denied, Err(Denied::Revoked));
    tenants.change(remove(Kind::Key, "new")).unwrap();
    let denied = tenants.authenticate(stored.reveal(), NOW_S).map(|_| ());
    assert_eq!(denied, Err(Denied::Unknown));
    let audit = tenants.quota().ledger().audit(10).unwrap();
    let actions: Vec<_> = audit.iter().map(|line| line.action.as_str()).collect();
    assert_eq!(actions, ["remove", "set", "set"]);
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let secret = Secret::new();
    let tenants = open(&secret);
    let new = Secret::new();
    let long = "x".repeat(200);
    for change in [
        // The config's own.
        set(Kind::Key, "k", key("k", &new, "other")),
        remove(Kind::Tenant, "acme"),
        // Nobody's.
        set(Kind::Key, "new", key("new", &new, "nobody")),
        set(
            Kind::Tenant,
            "no/body",
            serde_json::json!({"id": "no/body"}),
        ),
        // The same key under another id.
        set(Kind::Key, "new", key("new", &secret, "other")),
        // Wrong forms.
        set(Kind::Tenant, "a/b/c", serde_json::json!({"id": "a/b/c"})),
        set(Kind::Tenant, &long, serde_json::json!({"id": long})),
        set(
            Kind::Key,
            "new",
            serde_json::json!({"id": "new", "tenant": "other", "sha256": "x"}),
        ),
        set(Kind::Tenant, "t", serde_json::json!({"id": "t", "typo": 1})),
        set(
            Kind::Allocation,
            "a",
            serde_json::json!({"id": "a", "tenant": "other", "currency": "tokens", "amount": -1}),
        ),
        set(
            Kind::Allocation,
            "a",
            serde_json::json!({"id": "a", "tenant": "nobody", "currency": "tokens", "amount": 1}),
        ),
    ] {
        let refused = tenants.change(change.clone());
        assert!(refused.is_err(), "{change:?}");
    }
    assert!(tenants.quota().ledger().audit(10).unwrap().is_empty());
    assert!(tenants.authenticate(secret.reveal(), NOW_S).is_ok());
}

#[test]
fn bounds_and_allocations_follow_their_documents() {
    let tenants = open(&Secret::new());
    let scope = Scope::Tenant("new".into());
    let limit = |tenants: &Tenants| {
        tenants.quota().with_book(|book, _| {
            let meter = book.meter(&scope)?;
            meter.rates().next().map(|(_, rate)| rate.per_minute())
        })
    };
    for per_minute in [5, 7] {
        let limits = serde_json::json!({"requests_per_minute": per_minute});
        let document = serde_json::json!({"id": "new", "limits": limits});
        tenants.change(set(Kind::Tenant, "new", document)).unwrap();
        assert_eq!(limit(&tenants), Some(per_minute));
    }
    let grant = serde_json::json!({"id": "a", "tenant": "new", "currency": "tokens", "amount": 9});
    tenants.change(set(Kind::Allocation, "a", grant)).unwrap();
    let left = |tenants: &Tenants| {
        let quota = tenants.quota();
        quota.with_book(|book, at| book.allocations_of("new", at).first().map(|a| a.left()))
    };
    assert_eq!(left(&tenants), Some(9));
    tenants.change(remove(Kind::Allocation, "a")).unwrap();
    assert_eq!(left(&tenants), None);
    tenants.change(remove(Kind::Tenant, "new")).unwrap();
    assert_eq!(limit(&tenants), None);
}

#[test]
fn a_digest_tells_nothing_of_where_a_key_differs() {
    // What is compared are digests: keys that share all but their last letter share nothing there.
    let (one, other) = (KeyDigest::of("hk-aaaaaaaa"), KeyDigest::of("hk-aaaaaaab"));
    let (one, other) = (one.to_string(), other.to_string());
    let alike = one
        .bytes()
        .zip(other.bytes())
        .take_while(|(a, b)| a == b)
        .count();
    assert!(alike < 8, "{one} {other}");
}
