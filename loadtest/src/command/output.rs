//! Files that a run writes. They are opened before the run: a path that cannot be written must not cost a run.

use std::fs::File;
use std::io::{self, Write, stderr, stdout};
use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;

use crate::cli::DriveArgs;
use crate::clock::Nanos;
use crate::drive::record::Record;
use crate::raw::RawFile;
use crate::raw::file::Reservoir;
use crate::report::charts::Chart;
use crate::report::{Report, html, table};

/// All outputs of a run.
pub(super) struct Outputs {
    json: Option<Json>,
    raw: Option<RawFile>,
    html: Option<File>,
}

/// Where a report for machines goes.
pub(super) enum Json {
    Stdout,
    File(File),
}

impl Outputs {
    pub(super) fn open(args: &DriveArgs) -> anyhow::Result<Self> {
        let json = Json::open(args.json.as_deref())?;
        let raw = create("--raw", args.raw.as_deref())?;
        let room = args.raw_sample;
        let sample = room.map(|room| Reservoir::new(room, args.seed));
        Ok(Self {
            json,
            raw: raw
                .zip(args.raw.as_deref())
                .map(|(file, path)| RawFile::begin(file, path, sample)),
            html: create("--html", args.html.as_deref())?,
        })
    }

    /// Takes a finished request of a run that began at `began`.
    pub(super) fn take(&mut self, record: &Record, began: Nanos) {
        if let Some(raw) = &mut self.raw {
            raw.take(record, began);
        }
    }

    /// Writes the report for people to stdout, or to stderr where stdout is for machines, and all files.
    pub(super) fn write(&mut self, report: &Report, charts: &[Chart]) -> io::Result<()> {
        match &mut self.json {
            Some(Json::Stdout) => table::write(report, &mut stderr().lock())?,
            Some(Json::File(_)) | None => table::write(report, &mut stdout().lock())?,
        }
        if let Some(json) = &mut self.json {
            json.write(report)?;
        }
        if let Some(file) = &mut self.html {
            html::write(report, charts, file)?;
        }
        match self.raw.take() {
            Some(raw) => raw.end(report.client.client_bound, report.requests.interrupted),
            None => Ok(()),
        }
    }
}

impl Json {
    pub(super) fn open(path: Option<&Path>) -> anyhow::Result<Option<Self>> {
        match path {
            Some(path) if path == Path::new("-") => Ok(Some(Self::Stdout)),
            path => Ok(create("--json", path)?.map(Self::File)),
        }
    }

    pub(super) fn write(&mut self, report: &impl Serialize) -> io::Result<()> {
        match self {
            Self::Stdout => write_json(report, &mut stdout().lock()),
            Self::File(file) => write_json(report, file),
        }
    }
}

fn create(argument: &str, path: Option<&Path>) -> anyhow::Result<Option<File>> {
    let Some(path) = path else {
        return Ok(None);
    };
    let file = File::create(path);
    let file = file.with_context(|| format!("{argument}: cannot write {}", path.display()))?;
    Ok(Some(file))
}

fn write_json(report: &impl Serialize, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, report)?;
    writeln!(out)?;
    out.flush()
}
