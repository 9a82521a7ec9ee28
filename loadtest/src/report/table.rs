//! The report for people: plain text, fixed columns, no colours, good to paste into an issue.

use std::io::{self, Write};

use super::{Load, Report, Summary};
use crate::groups::{DIMENSIONS, GroupReport};
use crate::probes::ProbeReport;

/// Writes the report.
///
/// # Errors
/// Those of the writer.
pub fn write(report: &Report, out: &mut impl Write) -> io::Result<()> {
    write_run(report, out)?;
    write_amounts(report, out)?;
    write_latencies(report, out)?;
    write_groups(report, out)?;
    write_told(report, out)?;
    write_objectives(report, out)?;
    write_failures(report, out)?;
    write_client(report, out)
}

fn write_run(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let run = &report.run;
    let (Load::Open { words, .. } | Load::Closed { words, .. }) = &run.load;
    writeln!(out, "{}  {}", run.url, run.model)?;
    writeln!(out, "{words}; {}; seed {}", run.workload, run.seed)?;
    if run.warmup_requests > 0 {
        let (good, all) = (run.warmup_good, run.warmup_requests);
        writeln!(out, "warm-up: {good} good of {all}, not counted below")?;
    }
    writeln!(out)
}

fn write_amounts(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let (requests, through) = (&report.requests, &report.throughput);
    writeln!(
        out,
        "requests  {} good of {} ({:.2} %), {:.2}/s, in {:.2} s",
        requests.good,
        requests.total,
        requests.good_fraction * 100.0,
        through.requests_per_s,
        through.wall_s
    )?;
    if requests.interrupted {
        writeln!(
            out,
            "          stopped early: {} cut off in flight, {} not yet due",
            requests.cut_off, requests.not_reached
        )?;
    }
    if requests.aborted + requests.abandoned > 0 {
        let (aborted, abandoned) = (requests.aborted, requests.abandoned);
        writeln!(
            out,
            "          {aborted} given up by the client, {abandoned} turns never asked after a failed one"
        )?;
    }
    let rows = [
        (
            "output",
            through.output_tok_s,
            through.output_tokens,
            through.output_tokens_mean,
        ),
        (
            "prompt",
            through.prompt_tok_s,
            through.prompt_tokens,
            through.prompt_tokens_mean,
        ),
    ];
    for (name, rate, sum, mean) in rows {
        writeln!(
            out,
            "{name:<8}  {rate:.1} tok/s, {sum} tokens, {mean:.1} per request"
        )?;
    }
    writeln!(out)
}

fn write_latencies(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let header = ["count", "mean", "p50", "p90", "p95", "p99", "max"];
    write!(out, "{:<15}", "ms")?;
    for name in header {
        write!(out, "{name:>11}")?;
    }
    writeln!(out)?;
    let view = if report.response.is_some() {
        " (service)"
    } else {
        ""
    };
    row(out, &format!("ttfb{view}"), &report.service.ttfb_ms)?;
    row(out, &format!("ttft{view}"), &report.service.ttft_ms)?;
    row(out, &format!("e2e{view}"), &report.service.e2e_ms)?;
    if let Some(response) = &report.response {
        row(out, "ttfb (response)", &response.ttfb_ms)?;
        row(out, "ttft (response)", &response.ttft_ms)?;
        row(out, "e2e (response)", &response.e2e_ms)?;
    }
    row(out, "ntpot", &report.service.ntpot_ms)?;
    row(out, "tpot", &report.tpot_ms)?;
    row(out, "itl", &report.itl_ms)?;
    writeln!(out)
}

fn row(out: &mut impl Write, name: &str, summary: &Summary) -> io::Result<()> {
    write!(out, "{name:<15}{:>11}", summary.count)?;
    let Summary {
        mean,
        p50,
        p90,
        p95,
        p99,
        max,
        ..
    } = *summary;
    for value in [mean, p50, p90, p95, p99, max] {
        if summary.count == 0 {
            write!(out, "{:>11}", "-")?;
        } else {
            write!(out, "{value:>11.3}")?;
        }
    }
    writeln!(out)
}

/// One line a group, where there is more than one of its kind.
fn write_groups(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let mut any = false;
    for by in DIMENSIONS {
        let groups: Vec<_> = report
            .groups
            .iter()
            .filter(|group| group.by == by)
            .collect();
        if groups.len() < 2 {
            continue;
        }
        any = true;
        let name = format!("{by:?}").to_lowercase();
        writeln!(
            out,
            "{name:<25}{:>8}{:>9}{:>9}{:>11}{:>11}{:>11}{:>11}{:>8}{:>9}",
            "share",
            "good",
            "failed",
            "ttft p50",
            "ttft p99",
            "tpot p50",
            "e2e p99",
            "cached",
            "J/token"
        )?;
        for group in groups {
            let share = group.share * 100.0;
            write!(
                out,
                "  {:<23}{share:>7.1}%{:>9}{:>9}",
                group.name, group.good, group.failed
            )?;
            let figures = [
                group.ttft_ms.p50,
                group.ttft_ms.p99,
                group.tpot_ms.p50,
                group.e2e_ms.p99,
            ];
            figures
                .iter()
                .try_for_each(|figure| write!(out, "{figure:>11.3}"))?;
            writeln!(out, "{:>8}{:>9}", cached_of(group), energy_of(group))?;
        }
    }
    if let Some(fairness) = report.fairness {
        let (tokens, good) = (fairness.output_tokens, fairness.good_fraction);
        writeln!(
            out,
            "fairness  {tokens:.4} of output tokens per weight, {good:.4} of good fractions (Jain)"
        )?;
    }
    if any { writeln!(out) } else { Ok(()) }
}

/// The part of a group's prompts that caches held.
pub(super) fn cached_of(group: &GroupReport) -> String {
    let share = group.extras.and_then(|extras| extras.cached_share);
    share.map_or("-".to_owned(), |share| format!("{:.1}%", share * 100.0))
}

/// The energy of a group's output tokens.
pub(super) fn energy_of(group: &GroupReport) -> String {
    let joules = group
        .extras
        .and_then(|extras| extras.joules_per_output_token);
    joules.map_or("-".to_owned(), |joules| format!("{joules:.3}"))
}

/// What the server tells beyond the protocol, what probe requests felt, and whether its metrics were read.
fn write_told(report: &Report, out: &mut impl Write) -> io::Result<()> {
    if let Some(extras) = report.extras {
        if let (Some(tokens), Some(share)) = (extras.cached_tokens, extras.cached_share) {
            writeln!(
                out,
                "cached    {tokens} prompt tokens, {:.1} %",
                share * 100.0
            )?;
        }
        if let (Some(joules), Some(each)) = (extras.joules, extras.joules_per_output_token) {
            writeln!(out, "energy    {joules:.1} J, {each:.3} J an output token")?;
        }
        if let (Some(grams), Some(each)) = (extras.grams, extras.grams_per_1000_output_tokens) {
            writeln!(
                out,
                "carbon    {grams:.3} g, {each:.3} g for 1,000 output tokens"
            )?;
        }
        if extras.retried > 0 {
            writeln!(out, "retried   {} requests by the server", extras.retried)?;
        }
    }
    if let Some(probes) = &report.probe_requests {
        write_probes(probes, out)?;
    }
    if let Some(server) = &report.server {
        let (read, vain, changed) = (server.scrapes, server.failed, server.series.len());
        writeln!(
            out,
            "server    {}: read {read} times, {vain} in vain; {changed} series changed",
            server.url
        )?;
    }
    let any = report.extras.is_some() || report.probe_requests.is_some() || report.server.is_some();
    if any { writeln!(out) } else { Ok(()) }
}

fn write_probes(probes: &ProbeReport, out: &mut impl Write) -> io::Result<()> {
    let (alone, beside) = (probes.alone.ttft_ms, probes.beside.ttft_ms);
    let times =
        |factor: Option<f64>| factor.map_or("?".to_owned(), |factor| format!("{factor:.1}"));
    writeln!(
        out,
        "probes    {} good, {} failed; ttft p50 {:.1} ms (alone {:.1}: {} times), p99 {:.1} ms ({} times)",
        probes.beside.good,
        probes.beside.failed,
        beside.p50,
        alone.p50,
        times(probes.slowdown_p50),
        beside.p99,
        times(probes.slowdown_p99)
    )
}

fn write_objectives(report: &Report, out: &mut impl Write) -> io::Result<()> {
    if let Some(goodput) = report.goodput {
        let (share, rate) = (goodput.fraction * 100.0, goodput.per_s);
        writeln!(out, "goodput   {share:.2} % of all requests, {rate:.2}/s")?;
    }
    for finding in &report.objectives {
        let met = if finding.met { "met" } else { "MISSED" };
        let measured = match finding.measured {
            Some(measured) => format!("{measured:.3}"),
            None => "beyond all bounds".to_owned(),
        };
        writeln!(
            out,
            "slo       {:<6}  {}: {measured}",
            met, finding.objective
        )?;
    }
    if report.objectives.is_empty() {
        Ok(())
    } else {
        writeln!(out)
    }
}

fn write_failures(report: &Report, out: &mut impl Write) -> io::Result<()> {
    if report.requests.failures.is_empty() {
        return Ok(());
    }
    writeln!(out, "{:<16}{:>9}  reason", "failed", "requests")?;
    for failure in &report.requests.failures {
        writeln!(
            out,
            "{:<16}{:>9}  {}",
            failure.class, failure.count, failure.reason
        )?;
    }
    writeln!(out)
}

fn write_client(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let client = &report.client;
    writeln!(
        out,
        "client    lag p99 {:.3} ms (max {:.3}), stall p99 {:.3} ms, CPU {:.1} %, in flight {:.2} (by Little's law {:.2})",
        client.lag_ms.p99,
        client.lag_ms.max,
        client.stall_ms.p99,
        client.cpu_share * 100.0,
        client.in_flight_sampled,
        client.in_flight_by_law
    )?;
    for warning in &client.warnings {
        writeln!(out, "CLIENT-BOUND: {warning}")?;
    }
    if client.client_bound {
        writeln!(
            out,
            "These figures measure the client; they are no verdict on the server."
        )?;
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::drive::Outcome;
    use crate::drive::prompt::Endpoint;
    use crate::drive::verdict::Class;
    use crate::report::Run;
    use crate::self_check::SelfCheck;
    use crate::stats::Stats;

    pub(crate) fn report() -> Report {
        let mut stats = Stats {
            good: 3,
            sent: 4,
            ..Stats::default()
        };
        stats
            .failures
            .entry(Class::Truncated)
            .or_default()
            .insert("no [DONE]".to_owned(), 1);
        for latencies in [&mut stats.service, &mut stats.response] {
            latencies.ttft.record(12_345);
        }
        let outcome = Outcome {
            began: 0,
            ended: 2_000_000_000,
            interrupted: true,
            cut_off: 2,
            not_reached: 7,
            abandoned: 0,
        };
        let run = Run {
            url: "http://h/v1/chat/completions".to_owned(),
            model: "m".to_owned(),
            endpoint: Endpoint::Chat,
            load: Load::Open {
                rate: 2.0,
                words: "open loop, Poisson, 2/s".to_owned(),
            },
            workload: "prompts of about 128 words".to_owned(),
            duration_s: Some(30.0),
            requests: None,
            seed: 0,
            timeout_s: 60.0,
            check_sim_tokens: false,
            warmup_requests: 2,
            warmup_good: 1,
        };
        let client = SelfCheck {
            client_bound: true,
            warnings: vec!["requests left late".to_owned()],
            lag_ms: Summary::default(),
            stall_ms: Summary::default(),
            cpu_share: 0.5,
            in_flight_sampled: 1.0,
            in_flight_by_law: 1.0,
        };
        let objectives = ["good > 70%", "ttft < 1s"].map(|text| text.parse().unwrap());
        stats.limits = crate::slo::limits(&objectives);
        let mut report = Report::new(run, 0, &outcome, &stats, client);
        report.judge(&objectives[..1], &stats);
        report
    }

    #[test]
    fn what_the_server_tells_and_what_probes_felt_is_said() {
        let mut report = report();
        let mut sums = crate::extras::Sums::default();
        let told = crate::extras::Extras {
            cached_tokens: Some(5),
            joules: Some(20.0),
            grams: Some(0.5),
            retried: true,
        };
        sums.fold(&told, Some((10, 4)));
        report.extras = sums.report();
        let felt = |ms: u64| {
            let mut stats = Stats {
                good: 1,
                ..Stats::default()
            };
            stats.response.ttft.record(ms * 1_000);
            stats
        };
        report.probe_requests = Some(ProbeReport::new(2.0, &felt(10), &felt(25)));
        report.server = Some(crate::scrape::Scraped {
            url: "http://h/metrics".to_owned(),
            scrapes: 3,
            ..crate::scrape::Scraped::default()
        });
        let mut text = Vec::new();
        write(&report, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        for expected in [
            "cached    5 prompt tokens, 50.0 %",
            "energy    20.0 J, 5.000 J an output token",
            "carbon    0.500 g, 125.000 g for 1,000 output tokens",
            "retried   1 requests",
            "ttft p50 25.0 ms (alone 10.0: 2.5 times)",
            "http://h/metrics: read 3 times",
        ] {
            assert!(
                text.contains(expected),
                "{expected:?} is missing in\n{text}"
            );
        }
    }

    #[test]
    fn a_reader_finds_verdict_latencies_failures_and_warnings() {
        let mut text = Vec::new();
        write(&report(), &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        for expected in [
            "3 good of 4 (75.00 %), 1.50/s",
            "2 cut off in flight, 7 not yet due",
            "ttft (response)          1     12.345",
            "tpot                     0          -",
            "truncated               1  no [DONE]",
            "CLIENT-BOUND: requests left late",
            "warm-up: 1 good of 2",
            "slo       met     good > 70%: 0.750",
            "goodput   0.00 % of all requests",
        ] {
            assert!(
                text.contains(expected),
                "{expected:?} is missing in\n{text}"
            );
        }
    }
}
