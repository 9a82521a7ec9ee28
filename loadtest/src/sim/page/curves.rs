//! Distributions of the time to first token, one curve a policy.

use std::fmt::{self, Write as _};

use crate::sim::report::Report;

/// Colours of Okabe and Ito, which people see apart whatever their eyes.
const COLOURS: [&str; 5] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00"];

/// One curve a policy over a logarithmic axis of time.
pub(super) fn curves(report: &Report, page: &mut String) -> fmt::Result {
    const SIZE: (f64, f64) = (860.0, 260.0);
    const LEFT: f64 = 40.0;
    const BOTTOM: f64 = 24.0;
    let all = || report.policies.iter().flat_map(|policy| &policy.ttft_curve);
    let least = all().map(|point| point.0).fold(f64::INFINITY, f64::min);
    let most = all().map(|point| point.0).fold(1.0, f64::max);
    let (from, to) = (
        least.clamp(1.0, most).log10().floor(),
        most.log10().ceil().max(1.0),
    );
    let x = |ms: f64| {
        LEFT + (ms.max(1.0).log10() - from) / (to - from).max(1.0) * (SIZE.0 - LEFT - 10.0)
    };
    let y = |share: f64| 8.0 + (1.0 - share) * (SIZE.1 - BOTTOM - 8.0);
    writeln!(
        page,
        "<svg viewBox=\"0 0 {} {}\" role=\"img\">",
        SIZE.0, SIZE.1
    )?;
    for decade in from as i32..=to as i32 {
        let ms = 10_f64.powi(decade);
        writeln!(
            page,
            "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"8\" y2=\"{1}\" stroke=\"#ddd\"/><text x=\"{0:.1}\" y=\"{2}\" \
             text-anchor=\"{3}\">{ms} ms</text>",
            x(ms),
            SIZE.1 - BOTTOM,
            SIZE.1 - 8.0,
            // The last one would reach beyond the edge.
            if decade == to as i32 { "end" } else { "middle" }
        )?;
    }
    for share in [0.5, 0.95, 1.0] {
        writeln!(
            page,
            "<line x1=\"{LEFT}\" x2=\"{1}\" y1=\"{0:.1}\" y2=\"{0:.1}\" stroke=\"#ddd\"/><text x=\"2\" y=\"{0:.1}\">{2} %</text>",
            y(share),
            SIZE.0 - 10.0,
            share * 100.0
        )?;
    }
    for (number, (policy, colour)) in report.policies.iter().zip(COLOURS).enumerate() {
        let points = policy
            .ttft_curve
            .iter()
            .map(|(ms, share)| format!("{:.1},{:.1}", x(*ms), y(*share)));
        let points: Vec<String> = points.collect();
        writeln!(
            page,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\"/><text x=\"{}\" y=\"{}\" \
             fill=\"{colour}\">{}</text>",
            points.join(" "),
            LEFT + 8.0,
            22.0 + 13.0 * number as f64,
            policy.policy
        )?;
    }
    page.push_str("</svg>\n");
    Ok(())
}
