//! Usage as Waldur's marketplace takes it: bodies of `POST /api/marketplace-component-usages/set_usage/`.
//!
//! Waldur is what European research clouds share their allocations by. It keeps usage by resource, component and calendar
//! month, and what is sent for a month takes the place of what was sent before: so a body holds the whole of a month for
//! one resource, and sending it again is harmless. A project at a site is a resource there; who knows which is the operator.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::report::Line;
use crate::quota::ledger::Record;

/// One body: what one resource used in one month.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SetUsage {
    /// The resource in Waldur.
    pub resource: Uuid,
    /// A moment of the month: that of the last request.
    pub date: String,
    /// Components and amounts.
    pub usages: Vec<ComponentUsage>,
}

/// One component of a body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ComponentUsage {
    /// Type of the component, as the offering in Waldur has to name it.
    pub r#type: &'static str,
    /// A decimal number.
    pub amount: String,
    /// For people.
    pub description: String,
}

/// A project at a site.
pub type Place = (Arc<str>, Arc<str>);

/// Sums by project, site and month.
#[derive(Debug, Default)]
pub struct Months {
    sums: BTreeMap<(Place, i64), Sum>,
}

#[derive(Debug, Default)]
struct Sum {
    line: Line,
    last_s: i64,
}

impl Months {
    /// Counts a record. Its sums grow with projects, sites and months, not with requests.
    pub fn add(&mut self, record: &Record) {
        let place = (Arc::clone(record.tenant()), Arc::clone(&record.site));
        let sum = self.sums.entry((place, month(record.began_s))).or_default();
        sum.line.add(record);
        sum.last_s = sum.last_s.max(record.began_s);
    }

    /// Every project and site that there is a sum of.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        self.sums.keys().map(|(place, _)| place)
    }

    /// The bodies for those whose resource is known.
    pub fn bodies(&self, resource: impl Fn(&Place) -> Option<Uuid>) -> Vec<SetUsage> {
        let known = self.sums.iter().filter_map(|((place, _), sum)| {
            let resource = resource(place)?;
            Some(SetUsage {
                resource,
                date: date(sum.last_s),
                usages: usages(place, &sum.line),
            })
        });
        known.collect()
    }
}

fn usages((tenant, site): &Place, line: &Line) -> Vec<ComponentUsage> {
    let amounts = [
        ("requests", line.requests.to_string()),
        ("prompt_tokens", line.prompt_tokens.to_string()),
        ("cached_tokens", line.cached_tokens.to_string()),
        ("completion_tokens", line.completion_tokens.to_string()),
        ("gpu_seconds", decimal(line.gpu_us, 6)),
        ("joules", decimal(line.millijoules, 3)),
        ("money", decimal(line.money_micros, 6)),
    ];
    let used = amounts.into_iter().filter(|(_, amount)| amount != "0");
    let component = |(r#type, amount)| ComponentUsage {
        r#type,
        amount,
        description: format!("{tenant} at {site}"),
    };
    used.map(component).collect()
}

/// `units` of 10^-`places` as a decimal number without needless zeros.
fn decimal(units: u64, places: usize) -> String {
    let digits = format!("{units:0>width$}", width = places + 1);
    let (whole, rest) = digits.split_at(digits.len() - places);
    match rest.trim_end_matches('0') {
        "" => whole.to_owned(),
        rest => format!("{whole}.{rest}"),
    }
}

/// Number of the calendar month in UTC, counted through the years.
fn month(unix_s: i64) -> i64 {
    use chrono::Datelike as _;
    let time = moment(unix_s);
    i64::from(time.year()) * 12 + i64::from(time.month0())
}

fn date(unix_s: i64) -> String {
    moment(unix_s).to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn moment(unix_s: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(unix_s, 0).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::record;
    use super::*;

    #[test]
    fn a_month_of_a_project_at_a_site_is_one_body() {
        let mut months = Months::default();
        // The last second of October and the first ones of November 2026, in UTC.
        for (number, tenant, began_s) in [
            (1, "acme/x", 1_793_491_199),
            (1_000_000, "acme/x", 1_793_491_200),
            (500_000, "acme/x", 1_793_491_260),
            (7, "other", 1_793_491_260),
        ] {
            months.add(&record(number, tenant, began_s));
        }
        let resource = Uuid::from_u128(5);
        let bodies = months.bodies(|(tenant, _)| (&**tenant == "acme/x").then_some(resource));
        assert_eq!(bodies.len(), 2);
        let body = json!(bodies[1]);
        assert_eq!(body["resource"], resource.to_string());
        assert_eq!(body["date"], "2026-11-01T00:01:00Z");
        let amounts: Vec<_> = body["usages"].as_array().unwrap().iter().collect();
        let amount = |name: &str| {
            let found = amounts.iter().find(|usage| usage["type"] == name);
            found.map(|usage| usage["amount"].as_str().unwrap().to_owned())
        };
        assert_eq!(amount("requests").as_deref(), Some("2"));
        assert_eq!(amount("prompt_tokens").as_deref(), Some("1500000"));
        assert_eq!(amount("gpu_seconds").as_deref(), Some("4.5"));
        assert_eq!(amount("joules").as_deref(), Some("7500"));
        assert_eq!(amount("money").as_deref(), Some("6"));
        let october = json!(bodies[0]);
        assert_eq!(october["date"], "2026-10-31T23:59:59Z");
        let used: Vec<_> = october["usages"].as_array().unwrap().iter().collect();
        assert!(used.iter().all(|usage| usage["type"] != "cached_tokens"));
        assert_eq!(months.places().count(), 3);
    }

    #[test]
    fn decimals_are_short_and_exact() {
        for (units, places, text) in [
            (0, 6, "0"),
            (1, 6, "0.000001"),
            (1_500_000, 6, "1.5"),
            (u64::MAX, 6, "18446744073709.551615"),
            (1_000, 3, "1"),
        ] {
            assert_eq!(decimal(units, places), text);
        }
    }
}
