//! Who asks the admin API, and what of it is theirs to see and change.
//!
//! An operator may do everything. A manager sees what is its project's, or its organisation's with all projects, and makes
//! and takes back keys there. A member sees what it used itself.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::request::Parts;

use crate::openai::error::ApiError;
use crate::quota::charge::Account;
use crate::quota::ledger::Record;
use crate::tenant::document::KeyDocument;
use crate::tenant::principal::{Principal, Role};

/// Whoever was let in.
pub(super) struct Caller(Arc<Principal>);

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let principal = Principal::of(&parts.extensions).cloned();
        // Without the layer that lets people in there is nobody, and nobody may do nothing.
        principal.map(Self).ok_or_else(ApiError::invalid_key)
    }
}

impl Caller {
    /// What the audit trail calls them.
    pub(super) fn id(&self) -> String {
        self.0.account.key.to_string()
    }

    /// Lets operators pass.
    pub(super) fn must_operate(&self) -> Result<(), ApiError> {
        match self.0.role {
            Role::Operator => Ok(()),
            _ => Err(ApiError::operators_only()),
        }
    }

    /// Lets whoever manages `tenant` pass; that somebody else's exists is not told.
    pub(super) fn must_manage(&self, tenant: &str) -> Result<(), ApiError> {
        match self.manages(tenant) {
            true => Ok(()),
            false => Err(ApiError::managers_only()),
        }
    }

    /// Lets whoever may give or take back this key pass: nobody makes a key that may do more than they may.
    pub(super) fn must_hold(&self, key: &KeyDocument) -> Result<(), ApiError> {
        self.must_manage(&key.tenant)?;
        match key.role <= self.0.role {
            true => Ok(()),
            false => Err(ApiError::operators_only()),
        }
    }

    /// Whether all of a tenant is theirs to see and its keys theirs to make.
    pub(super) fn manages(&self, tenant: &str) -> bool {
        match self.0.role {
            Role::Operator => true,
            Role::Manager => is_within(tenant, self.account().tenant()),
            Role::Member => false,
        }
    }

    /// Whether a tenant is theirs, or they manage it.
    pub(super) fn belongs_to(&self, tenant: &str) -> bool {
        self.manages(tenant) || self.account().tenants().any(|own| **own == *tenant)
    }

    /// Whether they may see what this key did for this tenant: a member what it did itself.
    pub(super) fn sees(&self, tenant: &str, key: &str) -> bool {
        let own = *self.account().key == *key && **self.account().tenant() == *tenant;
        own || self.manages(tenant)
    }

    /// As [`Caller::sees`], of a record.
    pub(super) fn sees_record(&self, record: &Record) -> bool {
        self.sees(record.tenant(), &record.key)
    }

    fn account(&self) -> &Account {
        &self.0.account
    }
}

/// Whether `tenant` is `own` or a project of it.
fn is_within(tenant: &str, own: &str) -> bool {
    let rest = tenant.strip_prefix(own);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::principal::AllowList;

    fn caller(role: Role, tenant: &str) -> Caller {
        let organisation = tenant.split('/').next().unwrap();
        let all = AllowList::default;
        Caller(Arc::new(Principal {
            account: Arc::new(Account {
                key: "k".into(),
                project: tenant.contains('/').then(|| tenant.into()),
                organisation: organisation.into(),
            }),
            role,
            models: all(),
            endpoints: all(),
            sites: all(),
            countries: all(),
            purposes: all(),
            experimental: false,
            flow: 0,
            pool: 0,
        }))
    }

    #[test]
    fn roles_reach_as_far_as_their_tenant() {
        let operator = caller(Role::Operator, "acme/a");
        let (project, whole) = (
            caller(Role::Manager, "acme/a"),
            caller(Role::Manager, "acme"),
        );
        let member = caller(Role::Member, "acme/a");
        for (tenant, by_operator, by_project, by_whole) in [
            ("acme/a", true, true, true),
            ("acme/ab", true, false, true),
            ("acme", true, false, true),
            ("acmeb", true, false, false),
            ("other", true, false, false),
        ] {
            assert_eq!(operator.manages(tenant), by_operator, "{tenant}");
            assert_eq!(project.manages(tenant), by_project, "{tenant}");
            assert_eq!(whole.manages(tenant), by_whole, "{tenant}");
            assert!(!member.manages(tenant));
        }
        assert!(member.belongs_to("acme/a") && member.belongs_to("acme"));
        assert!(!member.belongs_to("acme/b") && !member.belongs_to("other"));
        assert!(member.sees("acme/a", "k"));
        assert!(!member.sees("acme/a", "another") && !member.sees("other", "k"));
        assert!(project.sees("acme/a", "another") && !project.sees("acme", "another"));
    }

    #[test]
    fn nobody_gives_more_than_they_have() {
        let key = |tenant: &str, role| KeyDocument {
            tenant: tenant.into(),
            role,
            ..KeyDocument::default()
        };
        let (manager, member) = (
            caller(Role::Manager, "acme/a"),
            caller(Role::Member, "acme/a"),
        );
        assert!(manager.must_hold(&key("acme/a", Role::Member)).is_ok());
        assert!(manager.must_hold(&key("acme/a", Role::Manager)).is_ok());
        assert!(manager.must_hold(&key("acme/a", Role::Operator)).is_err());
        assert!(manager.must_hold(&key("acme", Role::Member)).is_err());
        assert!(member.must_hold(&key("acme/a", Role::Member)).is_err());
        assert!(
            caller(Role::Operator, "x")
                .must_hold(&key("acme", Role::Operator))
                .is_ok()
        );
    }
}
