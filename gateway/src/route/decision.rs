//! Why a request went where it went: the record that every decision leaves.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hansa_config::schema::Policy;
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use super::cost::Terms;
use super::residency::Purpose;

/// The record of one decision. A request that was tried again has several.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decision {
    /// Moment on the server's clock.
    #[serde(rename = "at_ms", serialize_with = "milliseconds")]
    pub at: Duration,
    /// Why there was one to make.
    pub attempt: Attempt,
    /// How the pick was made.
    #[serde(serialize_with = "policy")]
    pub policy: Policy,
    /// What the request is for.
    pub purpose: Option<Purpose>,
    /// Whether nobody was known to be well, and it went to one who may be.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub in_doubt: bool,
    /// Where it went; `None` where nobody could serve.
    pub pick: Option<Scored>,
    /// The candidates with the lowest cost, lowest first.
    pub best: Vec<Scored>,
    /// Candidates that could serve.
    pub eligible: u32,
    /// Those that could not, by reason.
    pub filtered: Filtered,
}

/// Why a request is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Attempt {
    /// Its prompt is counted, before it comes.
    Count,
    /// It came.
    First,
    /// It failed elsewhere.
    Retry,
    /// Its connection died before there was content.
    Move,
    /// Another takes long.
    Hedge,
    /// Its stream broke off after content.
    Resume,
}

impl Attempt {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::First => "first",
            Self::Retry => "retry",
            Self::Move => "move",
            Self::Hedge => "hedge",
            Self::Resume => "resume",
        }
    }
}

/// A candidate and its cost.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scored {
    /// Its site.
    pub site: Arc<str>,
    /// Its node.
    pub node: Arc<str>,
    /// Seconds.
    pub cost: f64,
    /// What they are made of.
    pub terms: Terms,
    /// Prompt tokens that it is taken to have cached.
    pub cached_tokens: u32,
}

/// Why a candidate was not considered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Its country or site is not allowed.
    Residency,
    /// It is experimental and nobody opted in.
    Experimental,
    /// It does not serve the request's purpose.
    Purpose,
    /// The request has crossed as many servers as it may.
    Hops,
    /// It failed this request already.
    Tried,
    /// It would continue the stream with other tokens.
    Numerics,
    /// It takes no requests.
    NotReady,
    /// It failed too often of late.
    Ejected,
    /// It ends before the answer would.
    Walltime,
    /// Nothing is left of the tenant's allocation there.
    Allocation,
    /// It has had its share of retries.
    Budget,
    /// As many wait there as should, and the request can wait here.
    Full,
    /// It says nothing any more, and another does.
    Silent,
    /// All that it reaches is reached by others on a shorter way.
    Detour,
    /// Its answer would come too late, and that of another would not.
    Late,
    /// Another site has an allocation of the tenant's own.
    NotOwn,
}

impl Reason {
    const ALL: [(Self, &'static str); 16] = [
        (Self::Residency, "residency"),
        (Self::Experimental, "experimental"),
        (Self::Purpose, "purpose"),
        (Self::Hops, "hops"),
        (Self::Tried, "tried"),
        (Self::Numerics, "numerics"),
        (Self::NotReady, "not_ready"),
        (Self::Ejected, "ejected"),
        (Self::Walltime, "walltime"),
        (Self::Allocation, "allocation"),
        (Self::Budget, "budget"),
        (Self::Full, "full"),
        (Self::Silent, "silent"),
        (Self::Detour, "detour"),
        (Self::Late, "late"),
        (Self::NotOwn, "not_own"),
    ];
}

/// Candidates that were not considered, counted by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Filtered([u32; Reason::ALL.len()]);

impl Filtered {
    /// Counts one.
    pub(super) fn count(&mut self, reason: Reason) {
        if let Some(count) = self.0.get_mut(reason as usize) {
            *count += 1;
        }
    }

    /// Those of one reason.
    #[must_use]
    pub fn of(&self, reason: Reason) -> u32 {
        self.0.get(reason as usize).copied().unwrap_or_default()
    }

    /// Reasons that there were, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u32)> {
        let counts = self.0.iter().zip(Reason::ALL);
        counts
            .map(|(count, (_, name))| (name, *count))
            .filter(|(_, count)| *count > 0)
    }
}

impl Serialize for Filtered {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, count) in self.iter() {
            map.serialize_entry(name, &count)?;
        }
        map.end()
    }
}

impl Decision {
    /// Where it went, as `x-hansa-site` says it: `site/node`, or the site alone.
    #[must_use]
    pub fn place(&self) -> Option<String> {
        let pick = self.pick.as_ref()?;
        Some(match &*pick.node {
            "" => pick.site.to_string(),
            node => format!("{}/{node}", pick.site),
        })
    }
}

impl fmt::Display for Decision {
    /// The decision in short, as `x-hansa-route` says it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let policy = self.policy.name();
        write!(f, "policy={policy}; eligible={}", self.eligible)?;
        if let Some(pick) = &self.pick {
            write!(f, "; cost={:.3}", pick.cost)?;
        }
        if self.attempt != Attempt::First {
            write!(f, "; attempt={}", self.attempt.name())?;
        }
        for (name, count) in self.filtered.iter() {
            write!(f, "; {name}={count}")?;
        }
        Ok(())
    }
}

fn milliseconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

fn policy<S: Serializer>(policy: &Policy, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(policy.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_counted_at_their_own_place() {
        let mut filtered = Filtered::default();
        for (index, (reason, name)) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            filtered.count(reason);
            assert_eq!(filtered.of(reason), 1);
            assert_eq!(filtered.iter().last(), Some((name, 1)));
        }
    }

    #[test]
    fn in_short_it_fits_a_header() {
        let mut filtered = Filtered::default();
        filtered.count(Reason::Residency);
        filtered.count(Reason::Residency);
        let pick = Scored {
            site: "lumi".into(),
            node: "n3".into(),
            cost: 0.18249,
            terms: Terms::default(),
            cached_tokens: 0,
        };
        let decision = Decision {
            in_doubt: false,
            at: Duration::from_millis(1_500),
            attempt: Attempt::Retry,
            policy: Policy::Cost,
            purpose: Some(Purpose::Research),
            pick: Some(pick),
            best: Vec::new(),
            eligible: 5,
            filtered,
        };
        let short = decision.to_string();
        assert_eq!(
            short,
            "policy=cost; eligible=5; cost=0.182; attempt=retry; residency=2"
        );
        assert_eq!(decision.place().as_deref(), Some("lumi/n3"));
        let json = serde_json::to_value(&decision).unwrap();
        assert_eq!(json["at_ms"], 1_500);
        assert_eq!(json["purpose"], "research");
        assert_eq!(json["filtered"], serde_json::json!({ "residency": 2 }));
    }
}
