//! The report as one HTML file that needs nothing else: plots to look into, and still pictures of the same for paper
//! and for readers without scripts. What others chose (names of models, sites, error codes) is escaped.

mod beside;

use std::fmt::Write as _;
use std::io::{self, Write};

use super::charts::{Chart, plot};
use super::markup::{escaped, table};
use super::{Report, View, exit};
use crate::stats::Summary;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:900px;margin:2em auto;padding:0 1em;color:#222}\
h1{font-size:1.5em}h2{font-size:1.1em;margin-top:1.8em;border-bottom:1px solid #ccc}\
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.9em}\
th,td{text-align:right;padding:.2em .6em;border-bottom:1px solid #e4e4e4}th:first-child,td:first-child,.w{text-align:left}\
.verdict{padding:.6em 1em;border-left:6px solid;font-weight:600}.good{border-color:#009e73;background:#e8f6f1}\
.bad{border-color:#d55e00;background:#fdf0e7}figure{margin:1em 0}figcaption{font-size:.85em;color:#555}\
.still svg{width:100%;height:auto}.key{display:inline-block;font-size:.75em;border-left:1.5em solid;padding:0 .4em;margin:.1em .6em .1em 0;line-height:.6em}.plot{display:none}.live .plot{display:block}.live .still{display:none}dt{font-weight:600}dd{margin:0 0 .4em 1.5em;font-size:.9em}\
@media print{body{margin:0;max-width:none}figure,table{break-inside:avoid}h2{break-after:avoid}\
.live .plot{display:none}.live .still{display:block}}";

/// Draws the plots, where there is a library to draw them.
const SCRIPT: &str = "<script>(function(){if(!window.Plotly)return;document.documentElement.classList.add('live');\
document.querySelectorAll('figure').forEach(function(figure){\
var told=JSON.parse(figure.querySelector('script').textContent);\
Plotly.newPlot(figure.querySelector('.plot'),told.data,told.layout,told.config)})})()</script>";

const FIGURES: [&str; 7] = ["count", "mean", "p50", "p90", "p95", "p99", "max"];

/// Writes the page.
///
/// # Errors
/// Those of the writer.
pub fn write(report: &Report, charts: &[Chart], out: &mut impl Write) -> io::Result<()> {
    let mut page = String::new();
    // Writing to a string cannot fail.
    let _ = body(report, charts, &mut page);
    let title = escaped(&format!("{} at {}", report.run.model, report.run.url));
    writeln!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\n\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body>\n{page}"
    )?;
    if !charts.is_empty() {
        writeln!(out, "{}\n{SCRIPT}", plot::library())?;
    }
    writeln!(out, "</body></html>")?;
    out.flush()
}

fn body(report: &Report, charts: &[Chart], page: &mut String) -> std::fmt::Result {
    let run = &report.run;
    let (super::Load::Open { words, .. } | super::Load::Closed { words, .. }) = &run.load;
    writeln!(page, "<h1>{}</h1>", escaped(&run.model))?;
    writeln!(
        page,
        "<p>{}<br>{}; {}; seed {}</p>",
        escaped(&run.url),
        escaped(words),
        escaped(&run.workload),
        run.seed
    )?;
    verdict(report, page)?;
    amounts(report, page)?;
    latencies(report, page)?;
    if !charts.is_empty() {
        page.push_str("<h2>Charts</h2>\n");
    }
    charts.iter().try_for_each(|chart| figure(chart, page))?;
    beside::groups(report, page)?;
    beside::extras(report, page)?;
    beside::probes(report, page)?;
    beside::faults(report, page)?;
    beside::server(report, page)?;
    failures(report, page)?;
    beside::client(report, page)?;
    definitions(report, page)
}

/// A chart twice: as a picture for paper, and with the data of the plot that takes its place on a screen.
fn figure(chart: &Chart, page: &mut String) -> std::fmt::Result {
    write!(page, "<figure><div class=\"still\">{}", chart.svg)?;
    for (name, colour) in &chart.keys {
        write!(
            page,
            "<span class=\"key\" style=\"border-color:{colour}\">{}</span> ",
            escaped(name)
        )?;
    }
    writeln!(
        page,
        "</div><div class=\"plot\"></div><script type=\"application/json\">{}</script><figcaption>{}</figcaption></figure>",
        chart.plot, chart.caption
    )
}

fn verdict(report: &Report, page: &mut String) -> std::fmt::Result {
    let (class, words) = match report.exit_code() {
        exit::GOOD => ("good", "Met"),
        exit::CLIENT_BOUND => ("bad", "No verdict: the client was the bottleneck"),
        exit::ALL_FAILED => ("bad", "Not one request was good"),
        _ => ("bad", "Missed"),
    };
    writeln!(page, "<p class=\"verdict {class}\">{words}</p>")?;
    if report.objectives.is_empty() {
        return Ok(());
    }
    let rows = report.objectives.iter().map(|finding| {
        let measured = finding
            .measured
            .map_or("beyond all bounds".to_owned(), |value| {
                format!("{value:.3}")
            });
        let met = if finding.met { "met" } else { "missed" };
        vec![finding.objective.clone(), measured, met.to_owned()]
    });
    table(page, &["objective", "measured", ""], rows)
}

fn amounts(report: &Report, page: &mut String) -> std::fmt::Result {
    let (requests, through) = (&report.requests, &report.throughput);
    page.push_str("<h2>Amounts</h2>\n");
    let percent = |part: f64| format!("{:.2} %", part * 100.0);
    let mut rows = vec![
        vec![
            "requests".to_owned(),
            format!("{} good of {}", requests.good, requests.total),
            percent(requests.good_fraction),
        ],
        vec![
            "rate".to_owned(),
            format!("{:.2} good/s", through.requests_per_s),
            format!("{:.2} s", through.wall_s),
        ],
        vec![
            "output".to_owned(),
            format!("{:.1} tok/s", through.output_tok_s),
            format!("{:.1} a request", through.output_tokens_mean),
        ],
        vec![
            "prompt".to_owned(),
            format!("{:.1} tok/s", through.prompt_tok_s),
            format!("{:.1} a request", through.prompt_tokens_mean),
        ],
    ];
    if let Some(goodput) = report.goodput {
        rows.push(vec![
            "goodput".to_owned(),
            format!("{:.2}/s", goodput.per_s),
            percent(goodput.fraction),
        ]);
    }
    if requests.interrupted {
        let left = format!(
            "{} cut off, {} not yet due",
            requests.cut_off, requests.not_reached
        );
        rows.push(vec!["stopped early".to_owned(), left, String::new()]);
    }
    if requests.aborted + requests.abandoned > 0 {
        let aborted = format!("{} given up by the client", requests.aborted);
        rows.push(vec![
            "told to leave".to_owned(),
            aborted,
            format!("{} turns never asked", requests.abandoned),
        ]);
    }
    table(page, &["", "", ""], rows.into_iter())
}

fn latencies(report: &Report, page: &mut String) -> std::fmt::Result {
    page.push_str("<h2>Latencies of good requests, in milliseconds</h2>\n");
    let of = |view: &View, name: &str| {
        let figures = [
            ("ttfb", view.ttfb_ms),
            ("ttft", view.ttft_ms),
            ("e2e", view.e2e_ms),
            ("ntpot", view.ntpot_ms),
        ];
        figures.map(|(metric, summary)| summary_row(&format!("{metric}{name}"), &summary))
    };
    let mut rows = Vec::new();
    rows.extend(of(
        &report.service,
        if report.response.is_some() {
            " (service)"
        } else {
            ""
        },
    ));
    rows.extend(
        report
            .response
            .iter()
            .flat_map(|view| of(view, " (response)")),
    );
    rows.push(summary_row("tpot", &report.tpot_ms));
    rows.push(summary_row("itl", &report.itl_ms));
    let mut head = vec![""];
    head.extend(FIGURES);
    table(page, &head, rows.into_iter())
}

fn summary_row(name: &str, summary: &Summary) -> Vec<String> {
    let Summary {
        count,
        mean,
        p50,
        p90,
        p95,
        p99,
        max,
    } = *summary;
    let mut row = vec![name.to_owned(), count.to_string()];
    row.extend([mean, p50, p90, p95, p99, max].map(|ms| {
        if count == 0 {
            "-".to_owned()
        } else {
            format!("{ms:.3}")
        }
    }));
    row
}

fn failures(report: &Report, page: &mut String) -> std::fmt::Result {
    if report.requests.failures.is_empty() {
        return Ok(());
    }
    page.push_str("<h2>Failures</h2>\n");
    let failures = report.requests.failures.iter();
    let rows = failures.map(|failure| {
        vec![
            failure.class.to_owned(),
            failure.reason.clone(),
            failure.count.to_string(),
        ]
    });
    table(page, &["class", "reason", "requests"], rows)
}

fn definitions(report: &Report, page: &mut String) -> std::fmt::Result {
    page.push_str("<h2>What the figures mean</h2>\n<dl>\n");
    for (name, meaning) in &report.definitions {
        writeln!(page, "<dt>{name}</dt><dd>{}</dd>", escaped(meaning))?;
    }
    page.push_str("</dl>\n<h2>Names of other tools</h2>\n");
    let rows = report.aliases.iter().map(|alias| {
        [alias.hansa, alias.vllm, alias.aiperf, alias.guidellm]
            .map(str::to_owned)
            .to_vec()
    });
    table(page, &["here", "vllm bench", "aiperf", "guidellm"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_stands_alone_and_nothing_in_it_was_chosen_by_others() {
        let mut report = super::super::table::tests::report();
        report.run.model = "<script>alert(1)</script>".to_owned();
        report.requests.failures[0].reason = "502 <b>".to_owned();
        let chart = Chart {
            caption: "c",
            svg: "<svg></svg>".to_owned(),
            keys: vec![("<i>".to_owned(), "rgb(1,2,3)".to_owned())],
            plot: "{\"data\": []}".to_owned(),
        };
        let mut page = Vec::new();
        write(&report, &[chart], &mut page).unwrap();
        let page = String::from_utf8(page).unwrap();
        let (page, script) = page.split_once(&plot::library()).unwrap();
        assert!(script.trim().starts_with("<script>") && script.contains("Plotly.newPlot"));
        for expected in [
            "&lt;script&gt;",
            "502 &lt;b&gt;",
            "rgb(1,2,3)\">&lt;i&gt;",
            "ttft (response)",
            "<svg></svg>",
            "good &gt; 70%",
            "No verdict",
        ] {
            assert!(
                page.contains(expected),
                "{expected:?} is missing in\n{page}"
            );
        }
        assert_eq!(
            page.matches("<script").count(),
            1,
            "the data of the one chart"
        );
        for absent in ["http-equiv", "src=", "@import", "<link"] {
            assert!(!page.contains(absent), "{absent:?} is in\n{page}");
        }
    }
}
