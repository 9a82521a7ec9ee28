//! The same few figures for every site, model, tenant, stage and form, and how evenly tenants were served.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use crate::drive::record::{Labels, Record, View};
use crate::drive::verdict::Verdict;
use crate::extras::{ExtrasReport, Sums};
use crate::limits::MAX_GROUPS;
use crate::stats::{Distribution, Summary};

/// What requests are told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dimension {
    /// The site that answered.
    Site,
    /// The model asked for.
    Model,
    /// Who asked.
    Tenant,
    /// The stage of the schedule.
    Stage,
    /// The form that the answer had to have.
    Form,
}

/// Every dimension, in the order of reports.
pub const DIMENSIONS: [Dimension; 5] = [
    Dimension::Site,
    Dimension::Model,
    Dimension::Tenant,
    Dimension::Stage,
    Dimension::Form,
];

/// All groups of a run. A dimension that no request has is absent.
#[derive(Debug, Clone, Default)]
pub struct Groups {
    by: BTreeMap<Dimension, BTreeMap<Arc<str>, Group>>,
}

/// Requests of one group.
#[derive(Debug, Clone, Default)]
pub struct Group {
    good: u64,
    failed: u64,
    aborted: u64,
    within: u64,
    output_tokens: u64,
    ttft: Distribution,
    tpot: Distribution,
    e2e: Distribution,
    extras: Sums,
}

/// What reports show of a group.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GroupReport {
    /// What it is a group of.
    pub by: Dimension,
    /// Its name; `other` beyond the bound of names.
    pub name: String,
    /// Its part of all requests, from 0 to 1.
    pub share: f64,
    /// Good requests.
    pub good: u64,
    /// Failed ones.
    pub failed: u64,
    /// Given up by the client, as it was told to.
    pub aborted: u64,
    /// Good ones within all limits of single requests.
    pub within: u64,
    /// Output tokens of good requests.
    pub output_tokens: u64,
    /// Time to first token, response view.
    pub ttft_ms: Summary,
    /// Time per output token.
    pub tpot_ms: Summary,
    /// End to end, response view.
    pub e2e_ms: Summary,
    /// What the server told beyond the protocol; none where it told nothing.
    pub extras: Option<ExtrasReport>,
}

/// How evenly tenants were served, by Jain's index: 1 where all got their share, 1/n where one got everything.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Fairness {
    /// Of output tokens per weight.
    pub output_tokens: f64,
    /// Of the good fraction of each tenant's requests.
    pub good_fraction: f64,
}

impl Groups {
    /// Adds a finished request; `within` says whether it kept all limits.
    pub fn fold(&mut self, record: &Record, within: bool) {
        let Labels {
            model,
            tenant,
            stage,
            site,
            form,
            ..
        } = &record.labels;
        let names = [
            (Dimension::Site, site.as_ref()),
            (Dimension::Model, Some(model)),
            (Dimension::Tenant, tenant.as_ref()),
            (Dimension::Stage, stage.as_ref()),
            (Dimension::Form, form.as_ref()),
        ];
        for (by, name) in names {
            if let Some(name) = name {
                self.group(by, name).fold(record, within);
            }
        }
    }

    /// What reports show, in the order of dimensions and names.
    pub fn report(&self) -> Vec<GroupReport> {
        let of = |(by, groups): (&Dimension, &BTreeMap<Arc<str>, Group>)| {
            let all: u64 = groups.values().map(Group::requests).sum();
            let one = |(name, group): (&Arc<str>, &Group)| group.report(*by, name, all);
            groups.iter().map(one).collect::<Vec<_>>()
        };
        self.by.iter().flat_map(of).collect()
    }

    /// How evenly tenants with these names and shares of the load were served; None for fewer than two.
    pub fn fairness(&self, shares: &[(Arc<str>, f64)]) -> Option<Fairness> {
        if shares.len() < 2 {
            return None;
        }
        let groups = self.by.get(&Dimension::Tenant);
        let of = |figure: fn(&Group) -> f64, weighted: bool| {
            let one = |(name, share): &(Arc<str>, f64)| {
                let value = groups
                    .and_then(|groups| groups.get(name))
                    .map_or(0.0, figure);
                if weighted { value / share } else { value }
            };
            jain(&shares.iter().map(one).collect::<Vec<_>>())
        };
        Some(Fairness {
            output_tokens: of(|group| group.output_tokens as f64, true),
            good_fraction: of(
                |group| group.good as f64 / (group.good + group.failed).max(1) as f64,
                false,
            ),
        })
    }

    fn group(&mut self, by: Dimension, name: &Arc<str>) -> &mut Group {
        let groups = self.by.entry(by).or_default();
        let known = groups.contains_key(name) || groups.len() < MAX_GROUPS;
        let name = if known { name.clone() } else { "other".into() };
        groups.entry(name).or_default()
    }
}

impl Group {
    fn fold(&mut self, record: &Record, within: bool) {
        self.extras.fold(&record.extras, record.good_tokens());
        match &record.verdict {
            Verdict::Failed(_) => self.failed += 1,
            Verdict::Aborted => self.aborted += 1,
            Verdict::Good => {
                self.good += 1;
                self.within += u64::from(within);
                self.output_tokens += record.usage.map_or(0, |usage| usage.completion_tokens);
                self.ttft.record_if(record.ttft_us(View::Response));
                self.tpot.record_if(record.tpot_us());
                self.e2e.record_if(record.e2e_us(View::Response));
            }
        }
    }

    fn requests(&self) -> u64 {
        self.good + self.failed + self.aborted
    }

    fn report(&self, by: Dimension, name: &str, all: u64) -> GroupReport {
        GroupReport {
            by,
            name: name.to_owned(),
            share: self.requests() as f64 / all.max(1) as f64,
            good: self.good,
            failed: self.failed,
            aborted: self.aborted,
            within: self.within,
            output_tokens: self.output_tokens,
            ttft_ms: self.ttft.summary(),
            tpot_ms: self.tpot.summary(),
            e2e_ms: self.e2e.summary(),
            extras: self.extras.report(),
        }
    }
}

/// (sum x)^2 / (n sum x^2), by Jain, Chiu and Hawe (1984); 1 where nobody got anything.
fn jain(values: &[f64]) -> f64 {
    let sum: f64 = values.iter().sum();
    let squares: f64 = values.iter().map(|value| value * value).sum();
    if squares > 0.0 {
        sum * sum / (values.len() as f64 * squares)
    } else {
        1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drive::record::tests::record;

    fn of_tenant(tenant: &str, tokens: u64) -> Record {
        let mut record = record();
        record.labels.tenant = Some(tenant.into());
        record.labels.model = "m".into();
        if let Some(usage) = &mut record.usage {
            usage.completion_tokens = tokens;
        }
        record
    }

    #[test]
    fn fairness_is_one_for_equals_and_falls_to_one_in_n() {
        assert_eq!(jain(&[3.0, 3.0, 3.0]), 1.0);
        assert_eq!(jain(&[5.0, 0.0, 0.0, 0.0]), 0.25);
        assert_eq!(jain(&[0.0, 0.0]), 1.0);
        let mut groups = Groups::default();
        groups.fold(&of_tenant("a", 30), true);
        groups.fold(&of_tenant("b", 10), false);
        let shares = [("a".into(), 0.75), ("b".into(), 0.25)];
        let fair = groups.fairness(&shares).unwrap();
        assert!(
            (fair.output_tokens - 1.0).abs() < 1e-12,
            "each got what its weight says"
        );
        let hungry = [("a".into(), 0.5), ("nobody".into(), 0.5)];
        assert!((groups.fairness(&hungry).unwrap().good_fraction - 0.5).abs() < 1e-12);
        assert_eq!(groups.fairness(&shares[..1]), None);
    }

    #[test]
    fn every_request_is_in_one_group_of_each_dimension_and_groups_are_bounded() {
        let mut groups = Groups::default();
        (0..2 * MAX_GROUPS).for_each(|n| groups.fold(&of_tenant(&format!("t{n}"), 1), true));
        let report = groups.report();
        let tenants: Vec<_> = report
            .iter()
            .filter(|group| group.by == Dimension::Tenant)
            .collect();
        assert_eq!(tenants.len(), MAX_GROUPS + 1);
        assert_eq!(
            tenants.iter().map(|group| group.good).sum::<u64>(),
            2 * MAX_GROUPS as u64
        );
        let model = report
            .iter()
            .find(|group| group.by == Dimension::Model)
            .unwrap();
        assert_eq!(
            (model.good, model.share, model.within),
            (2 * MAX_GROUPS as u64, 1.0, 2 * MAX_GROUPS as u64)
        );
        assert!(report.iter().all(|group| group.by != Dimension::Site));
    }
}
