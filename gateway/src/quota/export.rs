//! Records as they are taken away: one table of columns for every form, and the forms.

pub mod csv;
pub mod parquet;
pub mod report;
pub mod waldur;

use std::borrow::Cow;

use super::ledger::{Outcome, Record};

/// A column: its name, and what it holds of a record.
pub struct Column {
    /// As the file's head has it.
    pub name: &'static str,
    pub(crate) value: Value,
}

/// Where a column's values come from; a form decides by this how it writes them.
pub(crate) enum Value {
    Text(fn(&Record) -> Cow<'_, str>),
    /// Nothing where there is none.
    MaybeText(fn(&Record) -> Option<&str>),
    Count(fn(&Record) -> u64),
    /// Seconds since the epoch.
    Second(fn(&Record) -> i64),
    Flag(fn(&Record) -> bool),
}

/// Every column, in the order of the files. A new one goes to the end: what reads the files may count on places.
pub const COLUMNS: [Column; 25] = [
    text("charge", |record| record.charge.to_string().into()),
    text("request", |record| (&*record.request).into()),
    text("organisation", |record| (&*record.organisation).into()),
    maybe("project", |record| record.project.as_deref()),
    text("key", |record| (&*record.key).into()),
    text("model", |record| (&*record.model).into()),
    text("site", |record| (&*record.site).into()),
    maybe("purpose", |record| record.purpose.as_deref()),
    count("prompt_tokens", |record| record.tokens.prompt),
    count("cached_tokens", |record| record.tokens.cached),
    count("completion_tokens", |record| record.tokens.completion),
    count("gpu_us", |record| record.amounts.gpu_us),
    count("money_micros", |record| record.amounts.money_micros),
    count("millijoules", |record| record.amounts.millijoules),
    Column {
        name: "estimated",
        value: Value::Flag(|record| record.estimated),
    },
    text("outcome", |record| outcome(record.outcome).into()),
    Column {
        name: "began_s",
        value: Value::Second(|record| record.began_s),
    },
    count("took_ms", |record| record.took_ms),
    count("micrograms", |record| record.micrograms),
    maybe("node", |record| record.served.node.as_deref()),
    maybe("build", |record| record.served.build.as_deref()),
    count("price_input", |record| record.served.price.input),
    count("price_cached", |record| record.served.price.cached),
    count("price_output", |record| record.served.price.output),
    maybe("policy", |record| record.served.policy.as_deref()),
];

const fn text(name: &'static str, of: fn(&Record) -> Cow<'_, str>) -> Column {
    let value = Value::Text(of);
    Column { name, value }
}

const fn maybe(name: &'static str, of: fn(&Record) -> Option<&str>) -> Column {
    let value = Value::MaybeText(of);
    Column { name, value }
}

const fn count(name: &'static str, of: fn(&Record) -> u64) -> Column {
    let value = Value::Count(of);
    Column { name, value }
}

const fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Finished => "finished",
        Outcome::Failed => "failed",
        Outcome::Aborted => "aborted",
        Outcome::Abandoned => "abandoned",
    }
}

impl std::fmt::Debug for Column {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Column").field(&self.name).finish()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::quota::allocation::Total;
    use crate::quota::amount::{Amounts, Tokens};
    use crate::quota::ledger::{Drawn, Served};

    /// A record of `tenant` that began then; `number` sets its charge and its figures.
    pub(crate) fn record(number: u128, tenant: &str, began_s: i64) -> Record {
        let count = number as u64;
        let organisation = tenant.split('/').next().unwrap();
        let tokens = Tokens {
            prompt: count,
            cached: count / 2,
            completion: 2 * count,
        };
        Record {
            charge: Uuid::from_u128(number),
            request: format!("request-{number}").into(),
            organisation: organisation.into(),
            project: tenant.contains('/').then(|| tenant.into()),
            key: "key".into(),
            model: "model".into(),
            site: "here".into(),
            purpose: None,
            tokens,
            amounts: Amounts {
                tokens: tokens.total(),
                gpu_us: 3 * count,
                money_micros: 4 * count,
                millijoules: 5 * count,
            },
            micrograms: 6 * count,
            estimated: number % 2 == 1,
            outcome: Outcome::Finished,
            began_s,
            took_ms: count,
            drawn: vec![Drawn {
                allocation: "a".into(),
                period: 0,
                total: Total {
                    posted: tokens.total(),
                    excess: 0,
                },
            }],
            served: Served {
                node: (!number.is_multiple_of(3)).then(|| "node".into()),
                policy: Some("0123".into()),
                ..Served::default()
            },
        }
    }

    #[test]
    fn outcomes_are_named_as_in_json() {
        use Outcome::{Abandoned, Aborted, Failed, Finished};
        for one in [Finished, Failed, Aborted, Abandoned] {
            assert_eq!(serde_json::json!(one), outcome(one));
        }
    }
}
