//! Where a request may go at all (I4): what its tenant allows, before any score and under every retry, hedge and resume.
//!
//! Rules only ever get narrower on the way: [`Rules::within`] is an intersection. A candidate that does not say where it
//! stands is refused by everyone who asks.

use std::sync::Arc;

use serde::Serialize;

use super::facts::Facts;

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// Science.
    Research,
    /// A trial of something new.
    Pilot,
    /// Measuring a model.
    Evaluation,
    /// People depend on it.
    Production,
}

impl Purpose {
    /// The purpose with that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "research" => Some(Self::Research),
            "pilot" => Some(Self::Pilot),
            "evaluation" => Some(Self::Evaluation),
            "production" => Some(Self::Production),
            _ => None,
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Research => "research",
            Self::Pilot => "pilot",
            Self::Evaluation => "evaluation",
            Self::Production => "production",
        }
    }
}

/// Names that are allowed; `None` allows all.
pub type AllowList = Option<Arc<[Arc<str>]>>;

/// Where a request may go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Countries, ISO 3166 alpha-2 in capitals.
    pub countries: AllowList,
    /// Sites.
    pub sites: AllowList,
    /// Whether experimental sites may serve it.
    pub experimental: bool,
    /// What it is for; a site that asks refuses one that does not say.
    pub purpose: Option<Purpose>,
}

/// Why rules and a candidate do not go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Barred {
    /// Its country or site is not allowed.
    Residency,
    /// Nobody opted in.
    Experimental,
    /// It does not serve this purpose.
    Purpose,
}

impl Rules {
    /// Why `facts` may not serve, if they may not.
    #[must_use]
    #[inline]
    pub fn bar(&self, facts: &Facts) -> Option<Barred> {
        let country = facts.country.as_deref().unwrap_or_default();
        if !allows(&self.countries, country) || !allows(&self.sites, &facts.site) {
            return Some(Barred::Residency);
        }
        if facts.experimental && !self.experimental {
            return Some(Barred::Experimental);
        }
        let serves = |purpose| facts.purposes.contains(&purpose);
        let fits = facts.purposes.is_empty() || self.purpose.is_some_and(serves);
        (!fits).then_some(Barred::Purpose)
    }

    /// These rules within `outer` ones: what both allow. The purpose is this side's where it says one.
    #[must_use]
    pub fn within(&self, outer: &Self) -> Self {
        Self {
            countries: both(&self.countries, &outer.countries),
            sites: both(&self.sites, &outer.sites),
            experimental: self.experimental && outer.experimental,
            purpose: self.purpose.or(outer.purpose),
        }
    }
}

/// A list as the config or a header gives it; `None` for an empty one.
#[must_use]
pub fn allow_list(names: &[String]) -> AllowList {
    (!names.is_empty()).then(|| names.iter().map(|name| Arc::from(name.as_str())).collect())
}

fn allows(list: &AllowList, name: &str) -> bool {
    let same = |one: &str| match (one.as_bytes(), name.as_bytes()) {
        // Countries, without a call to compare two letters.
        ([a, b], [c, d]) => a == c && b == d,
        (one, other) => one == other,
    };
    let listed = |names: &Arc<[Arc<str>]>| names.iter().any(|allowed| same(allowed));
    list.as_ref().is_none_or(listed)
}

fn both(one: &AllowList, other: &AllowList) -> AllowList {
    match (one, other) {
        (None, list) | (list, None) => list.clone(),
        (Some(names), other) => Some(
            names
                .iter()
                .filter(|name| allows(other, name))
                .cloned()
                .collect(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(country: Option<&str>) -> Facts {
        Facts {
            country: country.map(Arc::from),
            ..Facts::new("u", "lumi", "", "m")
        }
    }

    fn only(names: &[&str]) -> AllowList {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        allow_list(&names)
    }

    #[test]
    fn who_does_not_say_where_it_stands_is_allowed_nowhere_that_asks() {
        let finland = Rules {
            countries: only(&["FI"]),
            ..Rules::default()
        };
        assert_eq!(finland.bar(&facts(Some("FI"))), None);
        assert_eq!(finland.bar(&facts(Some("SE"))), Some(Barred::Residency));
        assert_eq!(finland.bar(&facts(None)), Some(Barred::Residency));
        assert_eq!(Rules::default().bar(&facts(None)), None);
    }

    #[test]
    fn rules_within_others_allow_what_both_do_and_two_lists_apart_allow_nothing() {
        let rules = |names: &[&str]| Rules {
            sites: only(names),
            ..Rules::default()
        };
        let both = rules(&["lumi", "mn5"]).within(&rules(&["lumi"]));
        assert_eq!(both.bar(&facts(None)), None);
        let none = rules(&["mn5"]).within(&rules(&["lumi"]));
        assert_eq!(none.bar(&facts(None)), Some(Barred::Residency));
        let open = Rules::default().within(&rules(&["mn5"]));
        assert_eq!(open.bar(&facts(None)), Some(Barred::Residency));
    }

    #[test]
    fn experimental_sites_and_purposes_need_a_word_from_the_request() {
        let trial = Facts {
            experimental: true,
            purposes: vec![Purpose::Research],
            ..facts(None)
        };
        let mut rules = Rules::default();
        assert_eq!(rules.bar(&trial), Some(Barred::Experimental));
        rules.experimental = true;
        assert_eq!(rules.bar(&trial), Some(Barred::Purpose));
        rules.purpose = Purpose::parse("production");
        assert_eq!(rules.bar(&trial), Some(Barred::Purpose));
        rules.purpose = Purpose::parse("research");
        assert_eq!(rules.bar(&trial), None);
    }
}
