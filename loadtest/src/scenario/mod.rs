//! A scenario file: a whole load in one TOML file, checked with all its problems at once, each with its line.
//!
//! This file is the shape of a scenario and what its sections mean together; [`read`] knows how values are written.

mod beside;
pub(crate) mod common;
mod faults;
mod forms;
mod load;
pub(crate) mod read;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use self::beside::{metrics, probe_rate};
use self::common::{prefix, trace};
pub use self::faults::read_fault;
use self::forms::forms;
use self::load::{Built, load};
use self::read::Section;
use crate::drive::Load;
use crate::drive::arrival::Until;
use crate::drive::prompt::Endpoint;
use crate::drive::target::bearer;
use crate::faults::plan::FaultPlan;
use crate::limits::{MAX_ABORT_EVENTS, MAX_TEXTS, MAX_TOKENS, MAX_TURNS, MAX_WARMUP};
use crate::plan::Pace;
use crate::problems::{Problems, quote};
use crate::scrape;
use crate::slo::Objective;
use crate::spread::Spread;
use crate::workload::mix::Mix;
use crate::workload::{Abort, Source, Synthetic, Tenant, Workload};

/// A checked scenario.
#[derive(Debug)]
pub struct Scenario {
    /// Base URL, where the file names one.
    pub url: Option<String>,
    /// PEM file with the authorities to be trusted for https.
    pub authorities: Option<PathBuf>,
    /// What is asked.
    pub workload: Workload,
    /// When.
    pub load: Load,
    /// The load in a few words, for reports.
    pub load_words: String,
    /// The rate and spacing of a steady open loop.
    pub pace: Option<Pace>,
    /// When it ends.
    pub until: Until,
    /// Time limit of a request.
    pub timeout: Duration,
    /// Requests before the run.
    pub warmup: u64,
    /// What must be met.
    pub objectives: Vec<Objective>,
    /// Servers to start for the run, and what goes wrong.
    pub faults: FaultPlan,
    /// The server's metrics page.
    pub metrics: Option<scrape::Plan>,
    /// Probe requests per second.
    pub probe_rate: Option<f64>,
}

impl Scenario {
    /// Reads a file and everything that it names.
    ///
    /// # Errors
    /// Every problem of the file at once, and of the recorded load that it names.
    pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, Problems> {
        Self::parse(path, &common::text(path)?, env)
    }

    /// Reads the text of a file; `path` names it in messages, and recorded loads are looked for beside it. `env` gives
    /// the values of environment variables.
    ///
    /// # Errors
    /// As [`Scenario::load`].
    pub fn parse(
        path: &Path,
        text: &str,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Problems> {
        common::parse(path, text, |root, folder| {
            Draft { folder, env }.scenario(root)
        })
    }
}

/// The context in which a document is read.
struct Draft<'e> {
    folder: &'e Path,
    env: &'e dyn Fn(&str) -> Option<String>,
}

/// `[run]`.
struct Run {
    seed: u64,
    until: Until,
    timeout: Duration,
    warmup: u64,
    ignore_eos: bool,
}

impl Draft<'_> {
    /// All sections are read before any fault ends it. The inner error is that of a recorded load's own file.
    fn scenario(&self, root: &Section<'_, '_>) -> Result<Option<Scenario>, Problems> {
        let (url, authorities, endpoint) = self.target(root);
        let run = run(root);
        let trace = trace(root, self.folder);
        let synthetic = synthetic(root);
        let workload = self.workload(root, endpoint, &run);
        let load = load(root, &run, trace.as_ref().map(Option::as_ref).map_err(drop));
        let objectives = objectives(root);
        let faults = faults::plan(root);
        let (metrics, probe_rate) = (metrics(root), probe_rate(root));
        if root.peek("trace") {
            for name in ["prompt", "output", "prefix", "session"] {
                if root.peek(name) {
                    root.fault_of(
                        name,
                        "a recorded load brings its own; remove [trace] or this",
                    );
                }
            }
        }
        let trace = trace?;
        let source = match trace {
            Some(trace) => Source::Replay(trace),
            None => Source::Synthetic(synthetic),
        };
        let (Some(workload), Some(Built { load, words, pace })) = (workload, load) else {
            return Ok(None);
        };
        let workload = Workload { source, ..workload };
        fits(root, &workload, &load);
        Ok(Some(Scenario {
            url,
            authorities,
            workload,
            load,
            load_words: words,
            pace,
            until: run.until,
            timeout: run.timeout,
            warmup: run.warmup,
            objectives,
            faults,
            metrics,
            probe_rate,
        }))
    }

    /// `[target]`: the URL, the file of authorities, the endpoint.
    fn target(&self, root: &Section<'_, '_>) -> (Option<String>, Option<PathBuf>, Endpoint) {
        let section = root.section("target");
        let target = (
            section.text("url"),
            section.text("ca").map(|file| self.folder.join(file)),
            section.choice("endpoint").unwrap_or(Endpoint::Chat),
        );
        section.finish();
        target
    }

    /// Everything but the source of prompts; None if there is no model.
    fn workload(&self, root: &Section<'_, '_>, endpoint: Endpoint, run: &Run) -> Option<Workload> {
        let models = mix(root.sections("model"), |section| {
            section.text("name").map(Arc::from)
        });
        let tenants = mix(root.sections("tenant"), |section| self.tenant(section));
        let priorities = mix(root.sections("priority"), |section| {
            let value = section.whole("value", i64::from(i32::MIN)..=i64::from(i32::MAX))?;
            i32::try_from(value).ok()
        });
        let (forms, abort) = (forms(root, self.folder), abort(root));
        if models.items().is_empty() {
            root.fault("needs a [[model]] with a name");
            return None;
        }
        Some(Workload {
            seed: run.seed,
            endpoint,
            ignore_eos: run.ignore_eos,
            send_seed: false,
            source: Source::Synthetic(Synthetic::default()),
            models,
            tenants,
            priorities,
            forms,
            abort,
        })
    }

    /// A key comes from the file or, better, from the environment.
    fn tenant(&self, section: &Section<'_, '_>) -> Option<Tenant> {
        let name = section.text("name");
        let (key, variable) = (section.text("key"), section.text("key_env"));
        let key = match (key, variable) {
            (Some(_), Some(_)) => {
                section.fault("has both key and key_env");
                None
            }
            (None, Some(variable)) => {
                let value = (self.env)(&variable);
                if value.is_none() {
                    section.fault_of(
                        "key_env",
                        format!("the environment has no {}", quote(&variable)),
                    );
                }
                value
            }
            (key, None) => key,
        };
        let authorization =
            key.and_then(|key| bearer(&key).map_err(|error| section.fault(error)).ok());
        Some(Tenant {
            name: name?.into(),
            authorization,
        })
    }
}

/// Faults what cannot go together.
fn fits(root: &Section<'_, '_>, workload: &Workload, load: &Load) {
    let turns = match &workload.source {
        Source::Synthetic(synthetic) => synthetic.turns.largest(),
        Source::Replay(_) => 1.0,
    };
    if turns > 1.0 && load.is_open() {
        root.fault_of(
            "session",
            "turns need a closed loop, since each waits for the answer before it",
        );
    }
    let chat = workload.endpoint == Endpoint::Chat;
    for (key, is_right, needs) in [
        (
            "session",
            turns <= 1.0 || workload.endpoint.streams(),
            "an endpoint that answers with text",
        ),
        (
            "abort",
            workload.endpoint.streams(),
            "an endpoint that streams",
        ),
        ("form", chat, "endpoint = \"chat\""),
        (
            "probe_requests",
            workload.endpoint.streams(),
            "an endpoint that streams",
        ),
    ] {
        if root.peek(key) && !is_right {
            root.fault_of(key, format!("needs {needs}"));
        }
    }
}

fn run(root: &Section<'_, '_>) -> Run {
    let section = root.section("run");
    let count = |key, most: i64| {
        section
            .whole(key, 0..=most)
            .and_then(|count| u64::try_from(count).ok())
    };
    let run = Run {
        seed: count("seed", i64::MAX).unwrap_or(0),
        until: Until {
            duration: section.duration("duration"),
            requests: count("requests", i64::MAX),
        },
        timeout: section
            .duration("timeout")
            .unwrap_or(Duration::from_secs(60)),
        warmup: count("warmup", i64::try_from(MAX_WARMUP).unwrap_or(i64::MAX)).unwrap_or(0),
        ignore_eos: section.flag("ignore_eos").unwrap_or(false),
    };
    section.finish();
    run
}

fn synthetic(root: &Section<'_, '_>) -> Synthetic {
    let tokens = 1.0..=f64::from(MAX_TOKENS);
    let prompt_section = root.section("prompt");
    let prompt = prompt_section.spread("tokens", tokens.clone(), false);
    let texts = prompt_section.whole("texts", 1..=MAX_TEXTS.into());
    prompt_section.finish();
    let output_section = root.section("output");
    let output = output_section.spread("tokens", tokens, false);
    output_section.finish();
    let session = root.section("session");
    let turns = session.spread("turns", 1.0..=f64::from(MAX_TURNS), false);
    session.finish();
    let default = Synthetic::default();
    Synthetic {
        prompt: prompt.unwrap_or(default.prompt),
        output: output.unwrap_or(default.output),
        turns: turns.unwrap_or(default.turns),
        texts: texts
            .and_then(|texts| u32::try_from(texts).ok())
            .unwrap_or(default.texts),
        prefix: prefix(root),
    }
}

fn abort(root: &Section<'_, '_>) -> Option<Abort> {
    let section = root.section("abort");
    let share = section.number("share", 0.0..=1.0);
    let after = section.spread("after_events", 1.0..=f64::from(MAX_ABORT_EVENTS), false);
    if section.is_given() && !section.peek("share") {
        section.fault("needs a share of requests, from 0 to 1");
    }
    section.finish();
    Some(Abort {
        share: share?,
        after: after.unwrap_or(Spread::Fixed(1.0)),
    })
}

fn objectives(root: &Section<'_, '_>) -> Vec<Objective> {
    let section = root.section("slo");
    let texts = section.texts("objectives");
    let mut read = Vec::new();
    for (at, text) in texts {
        match text.parse() {
            Ok(objective) => read.push(objective),
            Err(error) => section.fault_at(at, format!("{error}")),
        }
    }
    section.finish();
    read
}

/// Sections with weights.
fn mix<T>(sections: Vec<Section<'_, '_>>, read: impl Fn(&Section<'_, '_>) -> Option<T>) -> Mix<T> {
    let mut items = Vec::new();
    for section in sections {
        let weight = section.number("weight", 1e-9..=1e9).unwrap_or(1.0);
        match read(&section) {
            Some(item) => items.push((item, weight)),
            None if !section.peek("name") && !section.peek("value") => {
                section.fault("needs a name (a priority: a value)")
            }
            None => {}
        }
        section.finish();
    }
    Mix::of(items)
}

#[cfg(test)]
mod tests;
