//! `hansa tenants`, `allocations`, `reservations`, `leases` and `decisions`: a running server's accounts through its admin API.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::admin::{AdminArgs, escaped, moment, text};
use super::{Failure, print_line};
use crate::limits::ADMIN_BODY_BYTES_MAX;
use crate::quota::amount::Currency;

/// What to do with tenants.
#[derive(Debug, Subcommand)]
pub(super) enum TenantCommand {
    /// List them, one JSON object a line
    List(AdminArgs),
    /// Make one, or put another in its place
    Set {
        /// `organisation`, or `organisation/project`
        id: String,
        /// File with the tenant as JSON, such as {"countries": ["FI"], "limits": {"concurrent_max": 8}}; "-" reads stdin
        #[arg(long, value_name = "FILE|-", default_value = "-")]
        file: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Take one away; its keys must go first
    Remove {
        /// `organisation`, or `organisation/project`
        id: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// What to do with allocations.
#[derive(Debug, Subcommand)]
pub(super) enum AllocationCommand {
    /// List them, with what is left
    List(AdminArgs),
    /// Make one, or put another in its place; what was spent of it stays spent
    Set(SetArgs),
    /// Take one away
    Remove {
        /// Its id
        id: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// An allocation.
#[derive(Debug, Args)]
pub(super) struct SetArgs {
    /// Its name in records and messages
    id: String,
    /// Whose it is
    #[arg(long)]
    tenant: String,
    /// How much in each period, in whole units
    #[arg(long)]
    amount: u64,
    /// What it is counted in
    #[arg(long, value_enum, default_value_t = CurrencyArg::Tokens)]
    currency: CurrencyArg,
    /// The site that it is good for [default: any]
    #[arg(long)]
    site: Option<String>,
    /// How much more may be spent, in whole units
    #[arg(long, default_value_t = 0)]
    overdraft: u64,
    /// Percent of the amount from which answers carry a warning; 100 for never
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u8).range(..=100))]
    soft_percent: u8,
    /// Day or moment of its beginning [default: 1970]
    #[arg(long, value_name = "DATE", value_parser = moment)]
    start: Option<i64>,
    /// Day or moment of its end [default: never]
    #[arg(long, value_name = "DATE", value_parser = moment)]
    end: Option<i64>,
    /// Days after which it begins anew; 0 for one period
    #[arg(long, default_value_t = 0)]
    renew_days: u32,
    /// Percent of what is left that goes over into the next period
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(..=100))]
    carry_over_percent: u8,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CurrencyArg {
    Tokens,
    GpuSeconds,
    Money,
    Joules,
}

impl From<CurrencyArg> for Currency {
    fn from(arg: CurrencyArg) -> Self {
        match arg {
            CurrencyArg::Tokens => Self::Tokens,
            CurrencyArg::GpuSeconds => Self::GpuSeconds,
            CurrencyArg::Money => Self::Money,
            CurrencyArg::Joules => Self::Joules,
        }
    }
}

/// `hansa tenants`
pub(super) fn tenants(command: TenantCommand) -> Result<(), Failure> {
    match command {
        TenantCommand::List(admin) => lines(&admin.list("/admin/v1/tenants")?, Value::to_string),
        TenantCommand::Set { id, file, admin } => {
            let path = format!("/admin/v1/tenants/{}", escaped(&id));
            print_line(&admin.put(&path, &document(&file)?)?.to_string())
        }
        TenantCommand::Remove { id, admin } => {
            let path = format!("/admin/v1/tenants/{}", escaped(&id));
            admin.delete(&path)?;
            print_line(&format!("{id}  removed"))
        }
    }
}

/// `hansa allocations`
pub(super) fn allocations(command: AllocationCommand) -> Result<(), Failure> {
    match command {
        AllocationCommand::List(admin) => lines(&admin.list("/admin/v1/allocations")?, allocation),
        AllocationCommand::Set(args) => {
            let path = format!("/admin/v1/allocations/{}", escaped(&args.id));
            print_line(&args.admin.put(&path, &grant(&args)?)?.to_string())
        }
        AllocationCommand::Remove { id, admin } => {
            let path = format!("/admin/v1/allocations/{}", escaped(&id));
            admin.delete(&path)?;
            print_line(&format!("{id}  removed"))
        }
    }
}

/// `hansa reservations`
pub(super) fn reservations(admin: AdminArgs) -> Result<(), Failure> {
    lines(&admin.list("/admin/v1/reservations")?, |open| {
        let [charge, tenant, key, model, site] =
            ["charge", "tenant", "key", "model", "site"].map(|name| text(open, name));
        let (age_ms, tokens) = (&open["age_ms"], &open["completion_tokens_max"]);
        format!(
            "{charge}  {tenant}  {key}  {model} at {site}  {tokens} tokens at most  {age_ms} ms"
        )
    })
}

/// `hansa leases`
pub(super) fn leases(admin: AdminArgs) -> Result<(), Failure> {
    lines(&admin.list("/admin/v1/leases")?, lease)
}

/// `hansa decisions`
pub(super) fn decisions(request: &str, admin: AdminArgs) -> Result<(), Failure> {
    let path = format!("/admin/v1/decisions/{}", escaped(request));
    let decisions = serde_json::to_string_pretty(&admin.get(&path)?);
    print_line(&decisions.map_err(Failure::failed)?)
}

/// A JSON document of a file or of stdin.
fn document(file: &str) -> Result<Value, Failure> {
    let mut read = String::new();
    let unreadable = |error: io::Error| Failure::usage(format!("{file}: {error}"));
    let most = ADMIN_BODY_BYTES_MAX;
    match file {
        "-" => io::stdin().take(most).read_to_string(&mut read),
        path => fs::File::open(Path::new(path))
            .and_then(|file| file.take(most).read_to_string(&mut read)),
    }
    .map_err(unreadable)?;
    let document = serde_json::from_str(&read);
    document.map_err(|error| Failure::usage(format!("{file} holds no JSON: {error}")))
}

/// A grant as the admin API takes it: in smallest units.
fn grant(args: &SetArgs) -> Result<Value, Failure> {
    let currency = Currency::from(args.currency);
    let units = |name: &str, whole: u64| {
        let units = whole.checked_mul(currency.units());
        units.ok_or_else(|| Failure::usage(format!("{name} {whole} is more than can be counted")))
    };
    let mut grant = json!({
        "tenant": args.tenant,
        "site": args.site,
        "currency": currency,
        "amount": units("--amount", args.amount)?,
        "overdraft": units("--overdraft", args.overdraft)?,
        "soft_percent": args.soft_percent,
        "renew_days": args.renew_days,
        "carry_over_percent": args.carry_over_percent,
    });
    for (name, moment) in [("start_s", args.start), ("end_s", args.end)] {
        if let Some(moment_s) = moment {
            grant[name] = moment_s.into();
        }
    }
    Ok(grant)
}

fn allocation(found: &Value) -> String {
    let [id, tenant, currency] = ["id", "tenant", "currency"].map(|name| text(found, name));
    let site = found["site"].as_str().unwrap_or("any site");
    let units = found["units"].as_u64().unwrap_or(1).max(1) as f64;
    let whole = |name: &str| found[name].as_u64().unwrap_or_default() as f64 / units;
    let (left, amount, carried) = (whole("left"), whole("amount"), whole("carried"));
    format!(
        "{id}  {tenant} at {site}  {left} left of {} {currency}",
        amount + carried
    )
}

fn lease(found: &Value) -> String {
    let [gateway, kind, name] = ["gateway", "kind", "name"].map(|name| text(found, name));
    let here = match found["here"].as_bool() {
        Some(true) => " (this one)",
        _ => "",
    };
    let [period, amount, age_ms, ttl_ms] =
        ["period", "amount", "age_ms", "ttl_ms"].map(|name| &found[name]);
    format!(
        "{gateway}{here}  {kind} {name}  period {period}  {amount}  renewed {age_ms} ms ago, for {ttl_ms} ms"
    )
}

fn lines(entries: &[Value], line: impl Fn(&Value) -> String) -> Result<(), Failure> {
    entries
        .iter()
        .try_for_each(|entry| print_line(&line(entry)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allocation_is_said_in_whole_units() {
        let found = json!({
            "id": "a", "tenant": "uni", "site": null, "currency": "money", "units": 1_000_000,
            "left": 2_500_000, "amount": 10_000_000, "carried": 0,
        });
        assert_eq!(
            allocation(&found),
            "a  uni at any site  2.5 left of 10 money"
        );
    }

    #[test]
    fn a_lease_says_whose_it_is_and_of_what() {
        let found = json!({
            "gateway": "g", "here": true, "kind": "allocation", "name": "a", "period": 2, "amount": 70,
            "age_ms": 250, "ttl_ms": 6_000,
        });
        assert_eq!(
            lease(&found),
            "g (this one)  allocation a  period 2  70  renewed 250 ms ago, for 6000 ms"
        );
    }
}
