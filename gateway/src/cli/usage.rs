//! `hansa usage`: what a running server's tenants used, as sums, as files, and in the form of Waldur.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;
use uuid::Uuid;

use super::admin::{AdminArgs, escaped, moment, text};
use super::{Failure, print_line};
use crate::quota::export::parquet::ParquetFile;
use crate::quota::export::waldur::{Months, Place};
use crate::quota::export::{csv, waldur};
use crate::quota::ledger::Record;

/// What to do with usage.
#[derive(Debug, Subcommand)]
pub(super) enum UsageCommand {
    /// What each project used at each site, model by model
    Report {
        #[command(flatten)]
        span: Span,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Every record of some time as a file
    Export(ExportArgs),
    /// Delete what leads from a request to a person; its figures stay counted
    Forget {
        /// Id of the request
        request: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// Requests that began in some time.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Span {
    /// Day or moment from which on [default: the beginning]
    #[arg(long, value_name = "DATE", value_parser = moment)]
    from: Option<i64>,
    /// Day or moment up to which, itself not included [default: now]
    #[arg(long, value_name = "DATE", value_parser = moment)]
    to: Option<i64>,
}

/// What to export, and where to.
#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// Form of the file
    #[arg(long, value_enum)]
    format: Format,
    /// The file; it appears when it is whole [default: stdout, which parquet cannot use]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// For waldur: the resource there that a project at a site is; repeat it for each
    #[arg(long, value_name = "TENANT@SITE=UUID", value_parser = resource)]
    resource: Vec<(Place, Uuid)>,
    #[command(flatten)]
    span: Span,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One line a request
    Csv,
    /// One row a request, in typed columns
    Parquet,
    /// One JSON line a resource and month: bodies for Waldur's marketplace-component-usages/set_usage
    Waldur,
}

impl Span {
    fn query(self) -> String {
        let part = |name: &str, moment: Option<i64>| {
            moment.map_or_else(String::new, |moment_s| format!("&{name}={moment_s}"))
        };
        part("from", self.from) + &part("to", self.to)
    }
}

/// Does what the user asked for.
pub(super) fn run(command: UsageCommand) -> Result<(), Failure> {
    match command {
        UsageCommand::Report { span, admin } => {
            let path = format!("/admin/v1/report?{}", span.query());
            let lines = admin.list(&path)?;
            lines
                .iter()
                .try_for_each(|line| print_line(&report_line(line)))
        }
        UsageCommand::Export(args) => export(&args),
        UsageCommand::Forget { request, admin } => {
            let path = format!("/admin/v1/records/{}", escaped(&request));
            let records = admin.delete(&path)?["records"].take();
            print_line(&format!("{request}  forgotten in {records} records"))
        }
    }
}

fn report_line(line: &Value) -> String {
    let [tenant, site, model] = ["tenant", "site", "model"].map(|name| text(line, name));
    let [requests, prompt, completion] =
        ["requests", "prompt_tokens", "completion_tokens"].map(|name| &line[name]);
    let money = line["money_micros"].as_u64().unwrap_or_default() as f64 / 1e6;
    format!(
        "{tenant}  {site}  {model}  {requests} requests  {prompt} + {completion} tokens  {money} money"
    )
}

/// `TENANT@SITE=UUID`
fn resource(text: &str) -> Result<(Place, Uuid), String> {
    let wrong = || {
        "not as in uni/physics@kajaani=8f6c...: a project, a site, and the UUID of a resource"
            .to_owned()
    };
    let (place, uuid) = text.rsplit_once('=').ok_or_else(wrong)?;
    let (tenant, site) = place.rsplit_once('@').ok_or_else(wrong)?;
    let uuid = uuid.parse().map_err(|_| wrong())?;
    Ok(((tenant.into(), site.into()), uuid))
}

type Out = Box<dyn Write + Send>;

/// A file in the making.
enum Sink {
    Csv(Out),
    Parquet(Box<ParquetFile<Out>>),
    Waldur(Out, Months),
}

fn export(args: &ExportArgs) -> Result<(), Failure> {
    if args.format == Format::Parquet && args.out.is_none() {
        return Err(Failure::usage("a Parquet file needs --out FILE"));
    }
    let part = args.out.as_deref().map(part_of);
    let written = write(args, part.as_deref());
    match (&part, &args.out) {
        (Some(part), Some(out)) if written.is_ok() => {
            fs::rename(part, out).map_err(|error| unwritable(out, &error))
        }
        (Some(part), _) => {
            // What is wrong is said below; the remains are of no use.
            let _ = fs::remove_file(part);
            written
        }
        _ => written,
    }
}

/// Beside the file itself, so that renaming it there takes no time.
fn part_of(out: &Path) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    out.with_file_name(name)
}

fn write(args: &ExportArgs, part: Option<&Path>) -> Result<(), Failure> {
    let out: Out = match part {
        Some(part) => {
            let file = File::create(part).map_err(|error| unwritable(part, &error))?;
            Box::new(BufWriter::new(file))
        }
        None => Box::new(io::stdout()),
    };
    let mut sink = Sink::begin(args.format, out).map_err(Failure::failed)?;
    let mut after = String::new();
    loop {
        let path = format!("/admin/v1/records?{after}{}", args.span.query());
        let mut page = args.admin.get(&path)?;
        let records: Result<Vec<Record>, _> = serde_json::from_value(page["data"].take());
        let records = records.map_err(|error| {
            Failure::failed(format!(
                "the server's records are of another version: {error}"
            ))
        })?;
        sink.add(&records).map_err(Failure::failed)?;
        match page["next"].as_str() {
            Some(next) => after = format!("after={next}"),
            None => return sink.end(&args.resource),
        }
    }
}

impl Sink {
    fn begin(format: Format, mut out: Out) -> Result<Self, Box<dyn std::error::Error>> {
        Ok(match format {
            Format::Csv => {
                csv::head(&mut out)?;
                Self::Csv(out)
            }
            Format::Parquet => Self::Parquet(Box::new(ParquetFile::begin(out)?)),
            Format::Waldur => Self::Waldur(out, Months::default()),
        })
    }

    fn add(&mut self, records: &[Record]) -> Result<(), Box<dyn std::error::Error>> {
        match self {
            Self::Csv(out) => csv::rows(out, records)?,
            Self::Parquet(_) if records.is_empty() => {}
            Self::Parquet(file) => file.rows(records)?,
            Self::Waldur(_, months) => records.iter().for_each(|record| months.add(record)),
        }
        Ok(())
    }

    fn end(self, resources: &[(Place, Uuid)]) -> Result<(), Failure> {
        let mut out = match self {
            Self::Csv(out) => out,
            Self::Parquet(file) => file.end().map_err(Failure::failed)?,
            Self::Waldur(mut out, months) => {
                for body in bodies(&months, resources)? {
                    let line = serde_json::to_string(&body).map_err(Failure::failed)?;
                    writeln!(out, "{line}").map_err(Failure::failed)?;
                }
                out
            }
        };
        out.flush().map_err(Failure::failed)
    }
}

/// What Waldur is told. Usage of which nobody said whose it is there must not be lost silently.
fn bodies(months: &Months, resources: &[(Place, Uuid)]) -> Result<Vec<waldur::SetUsage>, Failure> {
    let known: HashMap<&Place, Uuid> = resources.iter().map(|(place, id)| (place, *id)).collect();
    let unknown: BTreeSet<&Place> = months
        .places()
        .filter(|place| !known.contains_key(place))
        .collect();
    if unknown.is_empty() {
        return Ok(months.bodies(|place| known.get(place).copied()));
    }
    let named: Vec<String> = unknown
        .iter()
        .map(|(tenant, site)| option(tenant, site))
        .collect();
    Err(Failure::usage(format!(
        "nobody said which resources of Waldur these are; add {}",
        named.join(" ")
    )))
}

fn option(tenant: &Arc<str>, site: &Arc<str>) -> String {
    format!("--resource {tenant}@{site}=UUID")
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::failed(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::export::tests::record;

    #[test]
    fn a_resource_is_a_project_at_a_site() {
        let uuid = Uuid::from_u128(7);
        let place: Place = ("uni/physics".into(), "kajaani".into());
        let parsed = resource(&format!("uni/physics@kajaani={uuid}"));
        assert_eq!(parsed, Ok((place, uuid)));
        for wrong in ["", "uni", "uni@x", "uni@x=1", &format!("uni={uuid}")] {
            assert!(resource(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn usage_without_a_resource_is_named_and_not_lost() {
        let mut months = Months::default();
        for tenant in ["uni/a", "uni/b", "uni/c"] {
            months.add(&record(1, tenant, 0));
        }
        let known = (("uni/b".into(), "here".into()), Uuid::from_u128(7));
        let refused = bodies(&months, &[known]).unwrap_err();
        let message = format!("{refused:?}");
        assert!(
            message.contains("--resource uni/a@here=UUID --resource uni/c@here=UUID"),
            "{message}"
        );
    }
}
