//! `[[mock]]`, `[[proxy]]` and `[[fault]]` of a scenario: servers to start for the run, and what goes wrong with which.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::read::{Document, Section};
use crate::faults::MockOptions;
use crate::faults::fault::{Fault, FaultKind};
use crate::faults::mock::Cost;
use crate::faults::plan::{FaultPlan, MockPlan, Planned, ProxyPlan};
use crate::limits::{MAX_FAULTS, MAX_TARGETS, MOCK_QUEUE, MOCK_SLOTS};
use crate::problems::{Problems, quote};

/// Kinds of faults, as they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
enum Kind {
    Latency,
    Bandwidth,
    Stall,
    Partition,
    BlackHole,
    Reset,
    Truncate,
    SlowHeaders,
    Errors,
    Drain,
    Kill,
}

/// The servers of a run and their faults.
pub(super) fn plan(root: &Section<'_, '_>) -> FaultPlan {
    let mut plan = FaultPlan {
        mocks: root.sections("mock").into_iter().filter_map(mock).collect(),
        proxies: root
            .sections("proxy")
            .into_iter()
            .filter_map(proxy)
            .collect(),
        faults: Vec::new(),
    };
    let mut names: Vec<&Arc<str>> = plan.targets().collect();
    names.sort();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        root.fault(format!(
            "two of [[mock]] and [[proxy]] are named {}",
            quote(pair[0])
        ));
    }
    if names.len() > MAX_TARGETS {
        root.fault(format!("more than {MAX_TARGETS} of [[mock]] and [[proxy]]"));
    }
    let names: Vec<Arc<str>> = names.into_iter().cloned().collect();
    let faults = root.sections("fault");
    if faults.len() > MAX_FAULTS {
        root.fault(format!("more than {MAX_FAULTS} of [[fault]]"));
    }
    plan.faults = faults
        .into_iter()
        .filter_map(|section| planned(section, &names))
        .collect();
    plan
}

/// One fault as the command line writes it: `kind = "stall", at = "5s", for = "1s"`.
///
/// # Errors
/// All that is wrong with it.
pub fn read_fault(text: &str) -> Result<Planned, Problems> {
    let path = Path::new("--fault");
    let text = format!("fault = [{{ {text} }}]");
    let document = Document::new(path, &text);
    let table = document.parse();
    let mut faults = Vec::new();
    if document.is_sound() {
        let root = document.root(table.get_ref());
        faults = root
            .sections("fault")
            .into_iter()
            .filter_map(|section| planned(section, &[]))
            .collect();
        root.finish();
    }
    let read = document.into_problems().or(faults)?;
    read.into_iter()
        .next()
        .ok_or_else(|| Problems::one(path, "names no kind"))
}

fn mock(section: Section<'_, '_>) -> Option<MockPlan> {
    let default = Cost::default();
    let count = |key, most: u32| {
        let read = section.whole(key, i64::from(key == "slots")..=i64::from(most));
        read.and_then(|count| u32::try_from(count).ok())
    };
    let cost = Cost {
        slots: count("slots", MOCK_SLOTS).unwrap_or(default.slots),
        queue: count("queue", MOCK_QUEUE).unwrap_or(default.queue),
        prefill: section.duration("prefill").unwrap_or(default.prefill),
        prefill_token: section
            .duration("prefill_token")
            .unwrap_or(default.prefill_token),
        step: section.duration("step").unwrap_or(default.step),
        step_request: section
            .duration("step_request")
            .unwrap_or(default.step_request),
    };
    let options = MockOptions {
        model: section
            .text("model")
            .map_or_else(|| MockOptions::default().model, Arc::from),
        cost,
        seed: section
            .whole("seed", 0..=i64::MAX)
            .map_or(0, i64::cast_unsigned),
    };
    let (name, listen) = (named(&section), address(&section));
    section.finish();
    Some(MockPlan {
        name: name?,
        listen: listen?,
        options,
    })
}

fn proxy(section: Section<'_, '_>) -> Option<ProxyPlan> {
    let (name, listen, to) = (named(&section), address(&section), section.text("to"));
    if !section.peek("to") {
        section.fault("needs to = \"host:port\" of the server behind it");
    }
    if to
        .as_deref()
        .is_some_and(|to| !to.contains(':') || to.contains('/'))
    {
        section.fault_of("to", "expected host:port, without http://");
    }
    section.finish();
    Some(ProxyPlan {
        name: name?,
        listen: listen?,
        to: to?,
    })
}

fn planned(section: Section<'_, '_>, names: &[Arc<str>]) -> Option<Planned> {
    let at = section.duration("at");
    let lasts = section.duration("for");
    let target = section.text("target").map(Arc::<str>::from);
    let share = section.number("share", 0.0..=1.0).unwrap_or(1.0);
    if let Some(unknown) = target
        .as_ref()
        .filter(|target| !names.is_empty() && !names.contains(target))
    {
        let what = format!("no [[mock]] or [[proxy]] is named {}", quote(unknown));
        section.fault_of("target", what);
    }
    let kind = kind(&section);
    section.finish();
    Some(Planned {
        fault: Fault { kind: kind?, share },
        target,
        at: at.unwrap_or(Duration::ZERO),
        lasts,
    })
}

/// The kind with its figures. Every key is asked for, or those of other kinds would pass as unknown.
fn kind(section: &Section<'_, '_>) -> Option<FaultKind> {
    let kind = section.choice::<Kind>("kind");
    let delay = section.duration("delay").unwrap_or_default();
    let jitter = section.duration("jitter").unwrap_or_default();
    let bytes_per_s = section.whole("bytes_per_s", 1..=i64::MAX);
    let after = section.whole("after_bytes", 0..=i64::MAX);
    let after_bytes = after.map_or(0, i64::cast_unsigned);
    let pause = section.duration("pause");
    let status = section.whole("status", 400..=599);
    if !section.peek("kind") {
        section.fault("needs a kind, such as \"latency\", \"stall\", \"reset\" or \"kill\"");
    }
    let kind = kind?;
    refuse_strays(section, kind);
    Some(match kind {
        Kind::Latency => FaultKind::Latency { delay, jitter },
        Kind::Bandwidth => FaultKind::Bandwidth {
            bytes_per_s: bytes_per_s?.cast_unsigned(),
        },
        Kind::Stall => FaultKind::Stall { after_bytes },
        Kind::Partition => FaultKind::Partition,
        Kind::BlackHole => FaultKind::BlackHole,
        Kind::Reset => FaultKind::Reset { after_bytes },
        Kind::Truncate => FaultKind::Truncate { after_bytes },
        Kind::SlowHeaders => FaultKind::SlowHeaders {
            pause: pause.unwrap_or(Duration::from_millis(100)),
        },
        Kind::Errors => FaultKind::Errors {
            status: status
                .and_then(|status| u16::try_from(status).ok())
                .unwrap_or(500),
        },
        Kind::Drain => FaultKind::Drain,
        Kind::Kill => FaultKind::Kill,
    })
}

/// Names what a kind does not have, and what it needs.
fn refuse_strays(section: &Section<'_, '_>, kind: Kind) {
    let (mine, needed): (&[&'static str], &[&'static str]) = match kind {
        Kind::Latency => (&["delay", "jitter"], &["delay", "jitter"]),
        Kind::Bandwidth => (&["bytes_per_s"], &["bytes_per_s"]),
        Kind::Stall | Kind::Reset | Kind::Truncate => (&["after_bytes"], &[]),
        Kind::SlowHeaders => (&["pause"], &[]),
        Kind::Errors => (&["status"], &[]),
        Kind::Partition | Kind::BlackHole | Kind::Drain | Kind::Kill => (&[], &[]),
    };
    for key in [
        "delay",
        "jitter",
        "bytes_per_s",
        "after_bytes",
        "pause",
        "status",
    ] {
        if section.peek(key) && !mine.contains(&key) {
            section.fault_of(key, "is nothing that this kind has");
        }
    }
    if !needed.is_empty() && !needed.iter().any(|key| section.peek(key)) {
        section.fault(format!("needs {}", needed.join(" or ")));
    }
}

fn named(section: &Section<'_, '_>) -> Option<Arc<str>> {
    let name = section.text("name");
    if !section.peek("name") {
        section.fault("needs a name");
    }
    name.map(Arc::from)
}

fn address(section: &Section<'_, '_>) -> Option<SocketAddr> {
    let text = section.text("listen");
    if !section.peek("listen") {
        section.fault("needs listen = \"127.0.0.1:PORT\"");
    }
    let read = text?.parse();
    read.map_err(|_| {
        section.fault_of(
            "listen",
            "expected an address and a port, such as \"127.0.0.1:9101\"",
        )
    })
    .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<FaultPlan, String> {
        let document = Document::new(Path::new("f"), text);
        let table = document.parse();
        let root = document.root(table.get_ref());
        let plan = plan(&root);
        root.finish();
        document
            .into_problems()
            .or(plan)
            .map_err(|problems| problems.to_string())
    }

    #[test]
    fn servers_and_faults_are_read() {
        let plan = read(
            "[[mock]]\nname = \"a\"\nlisten = \"127.0.0.1:0\"\nslots = 3\nstep = \"2ms\"\n\
             [[proxy]]\nname = \"b\"\nlisten = \"127.0.0.1:1\"\nto = \"localhost:2\"\n\
             [[fault]]\nat = \"5s\"\nfor = \"1s\"\ntarget = \"b\"\nkind = \"black_hole\"\n\
             [[fault]]\nkind = \"latency\"\njitter = \"3ms\"\nshare = 0.5\n",
        )
        .unwrap();
        assert_eq!(plan.mocks[0].options.cost.slots, 3);
        assert_eq!(plan.proxies[0].to, "localhost:2");
        assert_eq!(plan.faults[0].words(), "black hole at b, 5 s to 6 s");
        assert!(!plan.faults[0].befalls("a") && plan.faults[1].befalls("a"));
        assert_eq!(
            plan.faults[1].fault.to_string(),
            "latency of 0ns to 3ms on 50 % of connections"
        );
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let problems = read(
            "[[mock]]\nname = \"a\"\nlisten = \"here\"\n\
             [[proxy]]\nname = \"p\"\nlisten = \"127.0.0.1:1\"\nto = \"http://h:1\"\n\
             [[proxy]]\nname = \"p\"\nlisten = \"127.0.0.1:1\"\nto = \"h:1\"\n\
             [[fault]]\ntarget = \"nobody\"\nkind = \"drain\"\n\
             [[fault]]\nkind = \"kill\"\nstatus = 500\n[[fault]]\nkind = \"bandwidth\"\n\
             [[fault]]\nkind = \"erors\"\n[[fault]]\nat = \"5\"\n",
        )
        .unwrap_err();
        for line in [
            "f:3: mock[0].listen",
            "f:7: proxy[0].to: expected host:port",
            "are named \"p\"",
            "f:13: fault[0].target: no [[mock]] or [[proxy]] is named \"nobody\"",
            "f:17: fault[1].status: is nothing that this kind has",
            "[fault[2]]: needs bytes_per_s",
            "f:21: fault[3].kind: expected one of \"latency\"",
            "f:23: fault[4].at: expected a number and a unit",
            "[fault[4]]: needs a kind",
        ] {
            assert!(problems.contains(line), "{line} in {problems}");
        }
    }

    #[test]
    fn the_command_line_writes_a_fault_in_one_line() {
        let fault = read_fault(r#"kind = "reset", after_bytes = 9, at = "1s""#).unwrap();
        assert_eq!(fault.words(), "reset after 9 B at all, from 1 s on");
        for bad in ["", "stall", r#"kind = "stall", until = "5s""#] {
            let problems = read_fault(bad).unwrap_err().to_string();
            assert!(problems.starts_with("--fault:"), "{problems}");
        }
    }
}
