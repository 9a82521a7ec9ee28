//! `[load]` and `[[stage]]` of a scenario: how requests come.

use std::sync::Arc;

use super::Run;
use super::read::Section;
use crate::drive::Load;
use crate::drive::arrival::{Arrival, Schedule, Stage, Until};
use crate::drive::crowd::{Crowd, Part};
use crate::limits::{MAX_IN_FLIGHT, MAX_RATE, MAX_THINK_SECONDS};
use crate::plan::Pace;
use crate::spread::Spread;
use crate::trace::Trace;

/// A load, as the sections say it.
pub(super) struct Built {
    pub(super) load: Load,
    /// In a few words, for reports.
    pub(super) words: String,
    /// Rate and spacing, where they are steady.
    pub(super) pace: Option<Pace>,
}

/// How requests come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    Closed,
    Constant,
    Poisson,
    Gamma,
    Trace,
}

/// A recorded load, if the scenario names one; the error, where it cannot be read, is told elsewhere.
pub(super) type Recorded<'t> = Result<Option<&'t Arc<Trace>>, ()>;

/// `[load]` and `[[stage]]`, and the load in words.
pub(super) fn load(root: &Section<'_, '_>, run: &Run, trace: Recorded<'_>) -> Option<Built> {
    let section = root.section("load");
    let users = section.whole("users", 1..=MAX_IN_FLIGHT as i64);
    let think = section.spread("think", 0.0..=MAX_THINK_SECONDS, true);
    let rate = section.number("rate", 1e-6..=MAX_RATE);
    let shape = section.number("shape", 0.01..=10_000.0);
    let kind = section.choice::<Kind>("kind");
    let closed_loop = kind == Some(Kind::Closed);
    let stages = if closed_loop {
        Vec::new()
    } else {
        stages(root)
    };
    let parts = if closed_loop { parts(root) } else { Vec::new() };
    let stray = |key: &'static str, needs: &str| {
        if section.peek(key) {
            section.fault_of(key, format!("needs {needs}"));
        }
    };
    let Some(kind) = kind else {
        if !section.peek("kind") {
            section.fault("needs a kind: closed, constant, poisson, gamma or trace");
        }
        section.finish();
        return None;
    };
    if kind != Kind::Closed {
        stray("users", "kind = \"closed\"");
        stray("think", "kind = \"closed\"");
    }
    if kind != Kind::Gamma {
        stray("shape", "kind = \"gamma\"");
    }
    let paced = matches!(kind, Kind::Constant | Kind::Poisson | Kind::Gamma);
    if !paced || !stages.is_empty() {
        stray(
            "rate",
            "kind = \"constant\", \"poisson\" or \"gamma\", and no [[stage]]",
        );
    }
    if kind == Kind::Trace && !stages.is_empty() {
        section.fault("[[stage]] needs another kind: a recorded load brings its own times");
    }
    if !parts.is_empty() {
        stray("users", "no [[stage]]; each has its own users");
    }
    let built = match kind {
        Kind::Closed if !parts.is_empty() => crowd(&section, run, parts, think),
        Kind::Closed => closed(&section, run, users, think),
        Kind::Trace => replay(&section, run, trace),
        Kind::Constant => open(&section, run, Arrival::Constant, rate, &stages),
        Kind::Poisson => open(&section, run, Arrival::Poisson, rate, &stages),
        Kind::Gamma => {
            if !section.peek("shape") {
                section.fault("gamma needs a shape: below 1 for bursts");
            }
            open(
                &section,
                run,
                Arrival::Gamma(shape.unwrap_or(1.0)),
                rate,
                &stages,
            )
        }
    };
    section.finish();
    built
}

fn closed(
    section: &Section<'_, '_>,
    run: &Run,
    users: Option<i64>,
    think: Option<Spread>,
) -> Option<Built> {
    if !section.peek("users") {
        section.fault("a closed loop needs users");
    }
    if let Err(error) = run.until.bounds() {
        section.fault(error);
    }
    let users = usize::try_from(users?).ok()?;
    let pause = think.map_or(String::new(), |think| {
        format!(", {think} s between requests")
    });
    let words = format!("closed loop, {users} users{pause}");
    let load = Load::Closed {
        users,
        until: run.until,
        think,
    };
    Some(Built {
        load,
        words,
        pace: None,
    })
}

/// A closed loop of users that come and go.
fn crowd(
    section: &Section<'_, '_>,
    run: &Run,
    parts: Vec<Part>,
    think: Option<Spread>,
) -> Option<Built> {
    if run.until.duration.is_some() {
        section.fault("stages have their own durations; remove run.duration");
    }
    let crowd = Crowd::staged(parts);
    let until = Until {
        duration: Some(crowd.duration()),
        requests: run.until.requests,
    };
    if let Err(error) = until.bounds() {
        section.fault(error);
    }
    if crowd.most() == 0 {
        section.fault("no stage has a user");
        return None;
    }
    let (stages, most) = (crowd.parts().len(), crowd.most());
    Some(Built {
        words: format!("closed loop, {stages} stages of up to {most} users"),
        load: Load::Staged {
            crowd: Arc::new(crowd),
            until,
            think,
        },
        pace: None,
    })
}

fn replay(section: &Section<'_, '_>, run: &Run, trace: Recorded<'_>) -> Option<Built> {
    let Some(trace) = trace.ok()?.filter(|trace| trace.is_timed()) else {
        section.fault("kind = \"trace\" needs a [trace] that says when requests came");
        return None;
    };
    match Schedule::of_trace(trace, run.until) {
        Ok(schedule) => {
            let words = format!(
                "recorded load, {} of {} requests",
                schedule.due().len(),
                trace.entries().len()
            );
            Some(Built {
                load: Load::Open(Arc::new(schedule)),
                words,
                pace: None,
            })
        }
        Err(error) => {
            section.fault(error);
            None
        }
    }
}

fn open(
    section: &Section<'_, '_>,
    run: &Run,
    arrival: Arrival,
    rate: Option<f64>,
    stages: &[Stage],
) -> Option<Built> {
    let built = if stages.is_empty() {
        if !section.peek("rate") {
            section.fault("an open loop needs a rate or [[stage]]");
        }
        Schedule::build(arrival, rate?, run.until, run.seed)
    } else {
        if run.until.duration.is_some() {
            section.fault("stages have their own durations; remove run.duration");
        }
        Schedule::staged(arrival, stages, run.until.requests, run.seed)
    };
    let schedule = built.map_err(|error| section.fault(error)).ok()?;
    let steady = rate.filter(|_| stages.is_empty());
    let words = match steady {
        Some(rate) => format!("open loop, {arrival}, {rate}/s"),
        None => format!("open loop, {arrival}, {} stages", stages.len()),
    };
    Some(Built {
        load: Load::Open(Arc::new(schedule)),
        words,
        pace: steady.map(|rate| Pace { arrival, rate }),
    })
}

/// `[[stage]]` of a closed loop.
fn parts(root: &Section<'_, '_>) -> Vec<Part> {
    let mut parts = Vec::new();
    for (index, section) in root.sections("stage").into_iter().enumerate() {
        let name = section
            .text("name")
            .unwrap_or_else(|| format!("stage {}", index + 1));
        let duration = section.duration("duration");
        let count = |key| {
            let users = section.whole(key, 0..=MAX_IN_FLIGHT as i64);
            users.and_then(|users| usize::try_from(users).ok())
        };
        let (users, users_end) = (count("users"), count("users_end"));
        if !section.peek("duration") || !section.peek("users") {
            section.fault("needs a duration and users");
        }
        if let (Some(duration), Some(users)) = (duration, users) {
            parts.push(Part {
                name: name.into(),
                duration,
                users,
                users_end: users_end.unwrap_or(users),
            });
        }
        section.finish();
    }
    parts
}

/// `[[stage]]` of an open loop.
fn stages(root: &Section<'_, '_>) -> Vec<Stage> {
    let mut stages = Vec::new();
    for (index, section) in root.sections("stage").into_iter().enumerate() {
        let name = section
            .text("name")
            .unwrap_or_else(|| format!("stage {}", index + 1));
        let duration = section.duration("duration");
        let rate = section.number("rate", 0.0..=MAX_RATE);
        let rate_end = section.number("rate_end", 0.0..=MAX_RATE);
        if !section.peek("duration") || !section.peek("rate") {
            section.fault("needs a duration and a rate");
        }
        if let (Some(duration), Some(rate)) = (duration, rate) {
            stages.push(Stage {
                name: name.into(),
                duration: Some(duration),
                rate,
                rate_end: rate_end.unwrap_or(rate),
            });
        }
        section.finish();
    }
    stages
}
