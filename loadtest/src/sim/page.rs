//! A simulation's report as one HTML file: a map of Europe for each policy, curves and tables. No script, nothing fetched,
//! good on paper too.

mod curves;
mod labels;
mod map;

use std::fmt::{self, Write as _};

use self::curves::curves;
use self::map::{map, slowest};
use super::report::{NOTHING_COUNTED, PolicyReport, Report, STOPPED_EARLY, figure};
use crate::report::markup::{escaped, table};

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:1080px;margin:2em auto;padding:0 1em;color:#222}\
h1{font-size:1.5em}h2{font-size:1.1em;margin-top:1.8em;border-bottom:1px solid #ccc}\
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.85em}\
th,td{text-align:right;padding:.15em .5em;border-bottom:1px solid #e4e4e4}th:first-child,td:first-child,.w{text-align:left}\
.maps{display:flex;flex-wrap:wrap;gap:1em}figure{margin:0;flex:1 1 300px;max-width:360px}figcaption{font-size:.85em;color:#555}\
svg{width:100%;height:auto}text{font:10px system-ui,sans-serif}.maps text{font-size:9px;paint-order:stroke;stroke:#fff;stroke-width:2px}\
@media print{body{margin:0;max-width:none}figure,table{break-inside:avoid}h2{break-after:avoid}}";

/// The report as a page.
#[must_use]
pub fn html(report: &Report) -> String {
    let mut page = String::new();
    // Writing to a string cannot fail.
    let _ = write(report, &mut page);
    page
}

fn write(report: &Report, page: &mut String) -> fmt::Result {
    writeln!(
        page,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Simulation</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body>\n<h1>Simulated federation</h1>"
    )?;
    writeln!(
        page,
        "<p>{} nodes at {} gateways; {} ({:.0} % of {:.1}/s that all nodes can serve); seed {}{}<br>Simulated, not measured: \
         round trips are modelled from distances, and steps by their cost.</p>",
        report.nodes,
        report.gateways,
        escaped(&report.load),
        100.0 * report.rate / report.capacity,
        report.capacity,
        report.seed,
        match report.thinning {
            1 => String::new(),
            n => format!("; one of {n} requests and nodes"),
        }
    )?;
    if report.interrupted {
        writeln!(page, "<p><b>{STOPPED_EARLY}</b></p>")?;
    }
    policies(report, page)?;
    page.push_str("<h2>Where requests went</h2>\n<div class=\"maps\">\n");
    let slowest = slowest(report);
    for policy in &report.policies {
        map(policy, slowest, page)?;
    }
    page.push_str("</div>\n<h2>Share of requests up to a time to first token</h2>\n");
    curves(report, page)?;
    for policy in &report.policies {
        sites(policy, page)?;
    }
    page.push_str("</body></html>\n");
    Ok(())
}

fn policies(report: &Report, page: &mut String) -> fmt::Result {
    let heads = [
        "policy",
        "done",
        "failed",
        "TTFT p50, ms",
        "p95",
        "p99",
        "E2E mean, ms",
        "TPOT p50, ms",
        "busy",
        "cached",
        "gCO2",
        "peak / mean",
    ];
    let rows = report.policies.iter().map(|policy| {
        vec![
            policy.policy.to_owned(),
            policy.done.to_string(),
            policy.failed.values().sum::<u64>().to_string(),
            figure(&policy.ttft_ms, policy.ttft_ms.p50, 0),
            figure(&policy.ttft_ms, policy.ttft_ms.p95, 0),
            figure(&policy.ttft_ms, policy.ttft_ms.p99, 0),
            figure(&policy.e2e_ms, policy.e2e_ms.mean, 0),
            figure(&policy.tpot_ms, policy.tpot_ms.p50, 1),
            format!("{:.0} %", 100.0 * policy.utilisation),
            format!("{:.1} %", 100.0 * policy.cached_share),
            format!("{:.0}", policy.grams),
            policy.herding.worst(),
        ]
    });
    table(page, &heads, rows)?;
    if report.counts_nothing() {
        writeln!(page, "<p>{NOTHING_COUNTED}</p>")?;
    }
    writeln!(
        page,
        "<p>Peak / mean: requests sent to a site within one status period ({} ms), the most over the mean, at the worst site.</p>",
        report.status_period_ms
    )
}

fn sites(policy: &PolicyReport, page: &mut String) -> fmt::Result {
    writeln!(page, "<h2>{}</h2>", policy.policy)?;
    let heads = [
        "site",
        "nodes",
        "done",
        "share",
        "busy",
        "TTFT p50, ms",
        "p95",
        "p99",
        "tokens",
        "gCO2",
        "peak / mean",
    ];
    let rows = policy.sites.iter().map(|site| {
        vec![
            site.name.clone(),
            site.nodes.to_string(),
            site.done.to_string(),
            format!("{:.1} %", 100.0 * site.share),
            format!("{:.0} %", 100.0 * site.utilisation),
            figure(&site.ttft_ms, site.ttft_ms.p50, 0),
            figure(&site.ttft_ms, site.ttft_ms.p95, 0),
            figure(&site.ttft_ms, site.ttft_ms.p99, 0),
            site.output_tokens.to_string(),
            format!("{:.0}", site.grams),
            site.herding.worst(),
        ]
    });
    table(page, &heads, rows)?;
    let failed = policy.failed.iter();
    for (reason, count) in failed {
        writeln!(page, "<p>{count} failed: {reason}</p>")?;
    }
    Ok(())
}
