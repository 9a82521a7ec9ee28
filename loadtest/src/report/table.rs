//! The report for people: plain text, fixed columns, no colours, good to paste into an issue.

use std::io::{self, Write};

use super::{Load, Report, Summary};
use crate::faults::failover;
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
    failover::write(&report.faults, out)?;
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
pub(super) mod tests;
