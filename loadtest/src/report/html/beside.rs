//! The parts of the page beside the load's own figures: groups, what the server tells, probe requests, the client.

use std::fmt::Write as _;

use super::summary_row;
use crate::report::Report;
use crate::report::markup::{escaped, table};
use crate::report::table::{cached_of, energy_of};

/// Sites, models, tenants, stages and forms, where there is more than one.
pub(super) fn groups(report: &Report, page: &mut String) -> std::fmt::Result {
    let kinds = report.groups.iter().filter(|group| {
        report
            .groups
            .iter()
            .filter(|other| other.by == group.by)
            .count()
            > 1
    });
    let rows: Vec<Vec<String>> = kinds
        .map(|group| {
            vec![
                format!(
                    "{} {}",
                    format!("{:?}", group.by).to_lowercase(),
                    group.name
                ),
                format!("{:.1} %", group.share * 100.0),
                group.good.to_string(),
                group.failed.to_string(),
                format!("{:.3}", group.ttft_ms.p50),
                format!("{:.3}", group.ttft_ms.p99),
                format!("{:.3}", group.tpot_ms.p50),
                format!("{:.3}", group.e2e_ms.p99),
                cached_of(group),
                energy_of(group),
            ]
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    page.push_str("<h2>Groups</h2>\n");
    let head = [
        "", "share", "good", "failed", "ttft p50", "ttft p99", "tpot p50", "e2e p99", "cached",
        "J/token",
    ];
    table(page, &head, rows.into_iter())?;
    if let Some(fairness) = report.fairness {
        let (tokens, good) = (fairness.output_tokens, fairness.good_fraction);
        writeln!(
            page,
            "<p>Fairness of tenants (Jain): {tokens:.4} of output tokens per weight, {good:.4} of good fractions.</p>"
        )?;
    }
    Ok(())
}

/// Caches, energy, carbon and retries, as far as the server tells them.
pub(super) fn extras(report: &Report, page: &mut String) -> std::fmt::Result {
    let Some(extras) = report.extras else {
        return Ok(());
    };
    let row = |name: &str, sum: String, part: String, told: u64| {
        vec![name.to_owned(), sum, part, format!("{told} requests")]
    };
    let mut rows = Vec::new();
    if let (Some(tokens), Some(share)) = (extras.cached_tokens, extras.cached_share) {
        let part = format!("{:.1} % of prompts", share * 100.0);
        rows.push(row(
            "cached",
            format!("{tokens} tokens"),
            part,
            extras.cache_told,
        ));
    }
    if let Some(joules) = extras.joules {
        let each = extras.joules_per_output_token;
        let part = each.map_or(String::new(), |each| format!("{each:.3} J a token"));
        rows.push(row(
            "energy",
            format!("{joules:.1} J"),
            part,
            extras.energy_told,
        ));
    }
    if let Some(grams) = extras.grams {
        let each = extras.grams_per_1000_output_tokens;
        let part = each.map_or(String::new(), |each| {
            format!("{each:.3} g for 1,000 tokens")
        });
        rows.push(row(
            "carbon",
            format!("{grams:.3} g"),
            part,
            extras.carbon_told,
        ));
    }
    rows.push(vec![
        "retried".to_owned(),
        format!("{} requests", extras.retried),
        String::new(),
        String::new(),
    ]);
    page.push_str("<h2>What the server tells</h2>\n");
    table(page, &["", "sum", "", "told by"], rows.into_iter())
}

/// What the load did to others.
pub(super) fn probes(report: &Report, page: &mut String) -> std::fmt::Result {
    let Some(probes) = report.probe_requests else {
        return Ok(());
    };
    page.push_str("<h2>Probe requests: what the load did to others</h2>\n");
    let mut head = vec!["ms"];
    head.extend(super::FIGURES);
    let rows = [
        summary_row("ttft alone", &probes.alone.ttft_ms),
        summary_row("ttft beside the load", &probes.beside.ttft_ms),
        summary_row("e2e alone", &probes.alone.e2e_ms),
        summary_row("e2e beside the load", &probes.beside.e2e_ms),
    ];
    table(page, &head, rows.into_iter())?;
    let times =
        |factor: Option<f64>| factor.map_or("unknown".to_owned(), |factor| format!("{factor:.1}"));
    writeln!(
        page,
        "<p>{}/s; time to first token beside the load over the median alone: {} at the median, {} at p99; {} failed.</p>",
        probes.rate,
        times(probes.slowdown_p50),
        times(probes.slowdown_p99),
        probes.beside.failed
    )
}

/// What users felt of each fault, until the next one began.
pub(super) fn faults(report: &Report, page: &mut String) -> std::fmt::Result {
    if report.faults.is_empty() {
        return Ok(());
    }
    page.push_str("<h2>Faults, and what users felt until the next one</h2>\n");
    let head = [
        "",
        "requests",
        "failed",
        "served again, ms",
        "last failed, ms",
        "longest ttft, ms",
        "longest gap, ms",
    ];
    let rows = report.faults.iter().map(|felt| {
        let again = felt.served_again_ms;
        vec![
            felt.fault.clone(),
            felt.requests.to_string(),
            felt.failed.to_string(),
            again.map_or("never".to_owned(), |ms| format!("{ms:.1}")),
            format!("{:.1}", felt.last_failed_ms),
            format!("{:.1}", felt.slowest_ttft_ms),
            format!("{:.1}", felt.longest_gap_ms),
        ]
    });
    table(page, &head, rows)
}

/// How the server's metrics were read.
pub(super) fn server(report: &Report, page: &mut String) -> std::fmt::Result {
    let Some(server) = &report.server else {
        return Ok(());
    };
    writeln!(
        page,
        "<h2>The server's own metrics</h2>\n<p>{}: read {} times, {} times in vain; {} series changed, {} did not or had no \
         room.</p>",
        escaped(&server.url),
        server.scrapes,
        server.failed,
        server.series.len(),
        server.left_out
    )
}

/// What the client itself did to the figures.
pub(super) fn client(report: &Report, page: &mut String) -> std::fmt::Result {
    let client = &report.client;
    page.push_str("<h2>The client's own part</h2>\n");
    for warning in &client.warnings {
        writeln!(page, "<p class=\"verdict bad\">{}</p>", escaped(warning))?;
    }
    writeln!(
        page,
        "<p>Lag p99 {:.3} ms, at most {:.3} ms; stall of the event loop p99 {:.3} ms; {:.1} % of its CPU time; {:.2} requests in flight, {:.2} by Little's law.</p>",
        client.lag_ms.p99,
        client.lag_ms.max,
        client.stall_ms.p99,
        client.cpu_share * 100.0,
        client.in_flight_sampled,
        client.in_flight_by_law
    )
}
