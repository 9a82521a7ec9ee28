//! Charts of a run as SVG text: no script, no font file, nothing fetched. Colours are those of Okabe and Ito, which
//! people see apart whatever their eyes, and printers too.

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::Arc;

use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use crate::stats::{Distribution, Stats};
use crate::timeline::{LEAST_MS, ROWS_PER_DECADE, Timeline, row_ms};

/// A chart and what stands below it.
#[derive(Debug)]
pub struct Chart {
    /// What it shows.
    pub caption: &'static str,
    /// An `svg` element.
    pub svg: String,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = Result<(), Box<dyn Error>>;
type Plane<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

const SIZE: (u32, u32) = (860, 260);
const FONT: (&str, i32) = ("sans-serif", 13);
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(90, 90, 90),
];

/// Rows of the timeline in one row of the heat map.
const ROWS_A_CELL: usize = ROWS_PER_DECADE / 10;

/// Points of a distribution's curve.
const CURVE_STEPS: u32 = 400;

/// All charts that the run has figures for. One that cannot be drawn is left out: figures are in the tables.
pub fn all(timeline: &Timeline, stats: &Stats) -> Vec<Chart> {
    let sites = sites_of(timeline);
    let mut charts = Vec::new();
    let mut add = |caption, draw: &dyn Fn(&Area<'_>) -> Drawn| charts.extend(chart(caption, draw));
    if timeline.bins().iter().any(|bin| bin.good + bin.failed > 0) {
        add("Requests by the time they were due", &|area| {
            rates(area, timeline)
        });
    }
    if stats.good > 0 {
        add(
            "Time to first token by due time: how many requests (shade), median and 99th percentile (lines)",
            &|area| heat(area, timeline),
        );
        add(
            "Share of requests (of gaps, for itl) up to a time",
            &|area| curves(area, stats),
        );
    }
    if sites.len() > 1 {
        add("Share of requests by site", &|area| {
            shares(area, timeline, &sites)
        });
    }
    charts
}

fn chart(caption: &'static str, draw: &dyn Fn(&Area<'_>) -> Drawn) -> Option<Chart> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        draw(&area).ok()?;
        area.present().ok()?;
    }
    // The outermost element may grow with the page.
    let (width, height) = SIZE;
    let fixed = format!("width=\"{width}\" height=\"{height}\" ");
    let svg = svg.replacen(&fixed, "role=\"img\" ", 1);
    Some(Chart { caption, svg })
}

/// Good and failed requests per second.
fn rates(area: &Area<'_>, timeline: &Timeline) -> Drawn {
    let width = timeline.width_s();
    let lines: [(&str, Vec<f64>); 2] = [
        (
            "good",
            timeline
                .bins()
                .iter()
                .map(|bin| bin.good as f64 / width)
                .collect(),
        ),
        (
            "failed",
            timeline
                .bins()
                .iter()
                .map(|bin| bin.failed as f64 / width)
                .collect(),
        ),
    ];
    let top = lines
        .iter()
        .flat_map(|(_, values)| values)
        .copied()
        .fold(0.0, f64::max);
    let mut plane = plane(
        area,
        (0.0..end_of(timeline), 0.0..top * 1.1),
        ["seconds", "requests/s"],
    )?;
    for ((name, values), colour) in lines.iter().zip(COLOURS) {
        let points = values
            .iter()
            .enumerate()
            .map(|(at, &value)| (at as f64 * width, value));
        plane
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(*name)
            .legend(move |at| key(at, colour));
    }
    legend(&mut plane)
}

/// A cell for every interval and band of times, the darker the more requests; powers of ten on the axis.
fn heat(area: &Area<'_>, timeline: &Timeline) -> Drawn {
    let width = timeline.width_s();
    let rows = || {
        timeline
            .bins()
            .iter()
            .flat_map(|bin| bin.rows.keys().copied())
    };
    let low = rows().min().unwrap_or(0) / ROWS_A_CELL * ROWS_A_CELL;
    let high = rows().max().unwrap_or(0) + ROWS_A_CELL;
    let log = |row: usize| row_ms(row).log10();
    let mut plane = plane(
        area,
        (0.0..end_of(timeline), log(low)..log(high)),
        ["seconds", "ttft"],
    )?;
    let mut cells = Vec::new();
    for (at, bin) in timeline.bins().iter().enumerate() {
        let mut counts = std::collections::BTreeMap::new();
        for (&row, &count) in &bin.rows {
            *counts.entry(row / ROWS_A_CELL * ROWS_A_CELL).or_insert(0) += count;
        }
        cells.extend(counts.into_iter().map(|(row, count)| (at, row, count)));
    }
    let most = cells.iter().map(|&(_, _, count)| count).max().unwrap_or(1) as f64;
    plane.draw_series(cells.iter().map(|&(at, row, count)| {
        let shade = 0.12 + 0.78 * (count as f64 / most).sqrt();
        let corners = [
            (at as f64 * width, log(row)),
            ((at + 1) as f64 * width, log(row + ROWS_A_CELL)),
        ];
        Rectangle::new(corners, COLOURS[4].mix(shade).filled())
    }))?;
    for (name, share, colour) in [("p50", 0.5, COLOURS[0]), ("p99", 0.99, COLOURS[1])] {
        let point =
            |(at, ttft): (usize, Option<f64>)| Some(((at as f64 + 0.5) * width, ttft?.log10()));
        let points = timeline
            .bins()
            .iter()
            .map(|bin| bin.ttft_ms(share))
            .enumerate()
            .filter_map(point);
        plane
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(name)
            .legend(move |at| key(at, colour));
    }
    legend(&mut plane)
}

/// Cumulative distributions over a logarithmic axis of times.
fn curves(area: &Area<'_>, stats: &Stats) -> Drawn {
    let named: [(&str, &Distribution); 4] = [
        ("ttft", &stats.response.ttft),
        ("e2e", &stats.response.e2e),
        ("tpot", &stats.tpot),
        ("itl", &stats.itl),
    ];
    let curve = |distribution: &Distribution| -> Vec<(f64, f64)> {
        let points = distribution.curve(CURVE_STEPS).into_iter();
        points
            .map(|(ms, share)| (ms.max(LEAST_MS).log10(), share))
            .collect()
    };
    let curves = named.map(|(name, distribution)| (name, curve(distribution)));
    let ends = || {
        curves
            .iter()
            .flat_map(|(_, points)| points)
            .map(|point| point.0)
    };
    let (low, high) = (
        ends().fold(f64::INFINITY, f64::min),
        ends().fold(f64::NEG_INFINITY, f64::max),
    );
    let mut chart = ChartBuilder::on(area);
    let mut plane = framed(&mut chart, (low..high.max(low + 0.1), 0.0..1.0))?;
    plane
        .configure_mesh()
        .light_line_style(WHITE)
        .label_style(FONT)
        .x_label_formatter(&|log| milliseconds(*log))
        .y_label_formatter(&|share| format!("{:.0} %", share * 100.0))
        .draw()?;
    for ((name, points), colour) in curves.into_iter().zip(COLOURS) {
        plane
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(name)
            .legend(move |at| key(at, colour));
    }
    legend(&mut plane)
}

/// The sites' parts of each interval, one above the other.
fn shares(area: &Area<'_>, timeline: &Timeline, sites: &[Arc<str>]) -> Drawn {
    let width = timeline.width_s();
    let mut plane = plane(
        area,
        (0.0..end_of(timeline), 0.0..1.0),
        ["seconds", "share"],
    )?;
    let mut floor = vec![0.0; timeline.bins().len()];
    for (site, colour) in sites.iter().zip(COLOURS.into_iter().cycle()) {
        let mut boxes = Vec::new();
        for ((at, bin), floor) in timeline.bins().iter().enumerate().zip(&mut floor) {
            let whole: u64 = bin.sites.values().sum();
            let part = bin.sites.get(site).copied().unwrap_or(0) as f64 / whole.max(1) as f64;
            let corners = [
                (at as f64 * width, *floor),
                ((at + 1) as f64 * width, *floor + part),
            ];
            boxes.push(Rectangle::new(corners, colour.mix(0.8).filled()));
            *floor += part;
        }
        plane
            .draw_series(boxes)?
            .label(&**site)
            .legend(move |at| key(at, colour));
    }
    legend(&mut plane)
}

type Ranges = (std::ops::Range<f64>, std::ops::Range<f64>);

fn framed<'a, 'b: 'a>(
    chart: &mut ChartBuilder<'a, '_, SVGBackend<'b>>,
    (x, y): Ranges,
) -> Result<Plane<'a, 'b>, Box<dyn Error>> {
    let chart = chart.margin(10).x_label_area_size(36).y_label_area_size(64);
    Ok(chart.build_cartesian_2d(x, y)?)
}

fn plane<'a, 'b: 'a>(
    area: &'a Area<'b>,
    ranges: Ranges,
    [x, y]: [&str; 2],
) -> Result<Plane<'a, 'b>, Box<dyn Error>> {
    let mut chart = ChartBuilder::on(area);
    let mut plane = framed(&mut chart, ranges)?;
    let of_times = y == "ttft";
    plane
        .configure_mesh()
        .light_line_style(WHITE)
        .label_style(FONT)
        .x_desc(x)
        .y_desc(y)
        .y_label_formatter(&|value| {
            if of_times {
                milliseconds(*value)
            } else {
                format!("{value:.1}")
            }
        })
        .draw()?;
    Ok(plane)
}

fn legend<'a, 'b: 'a>(plane: &mut Plane<'a, 'b>) -> Drawn {
    plane
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .label_font(FONT)
        .background_style(WHITE.mix(0.85))
        .border_style(RGBColor(200, 200, 200))
        .draw()?;
    Ok(())
}

fn key((x, y): (i32, i32), colour: RGBColor) -> PathElement<(i32, i32)> {
    PathElement::new(vec![(x, y), (x + 16, y)], colour.stroke_width(3))
}

/// A time from its logarithm.
fn milliseconds(log: f64) -> String {
    match 10f64.powf(log) {
        ms if ms >= 1_000.0 => format!("{:.3} s", ms / 1_000.0).replace(".000", ""),
        ms => format!("{} ms", (ms * 100.0).round() / 100.0),
    }
}

fn end_of(timeline: &Timeline) -> f64 {
    timeline.bins().len().max(1) as f64 * timeline.width_s()
}

fn sites_of(timeline: &Timeline) -> Vec<Arc<str>> {
    let sites: BTreeSet<&Arc<str>> = timeline
        .bins()
        .iter()
        .flat_map(|bin| bin.sites.keys())
        .collect();
    sites.into_iter().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drive::record::tests::record;

    #[test]
    fn a_run_with_sites_has_four_charts_and_an_empty_one_none() {
        let (mut timeline, mut stats) = (Timeline::new(0), Stats::default());
        assert!(all(&timeline, &stats).is_empty());
        for at in 0..40u64 {
            let mut record = record();
            record.stamps.intended = at * 10_000_000;
            record.labels.site = Some(["lumi", "bsc"][at as usize % 2].into());
            timeline.fold(&record);
            stats.fold(&record);
        }
        let charts = all(&timeline, &stats);
        assert_eq!(charts.len(), 4);
        for chart in &charts {
            assert!(
                chart.svg.starts_with("<svg role=\"img\" viewBox="),
                "{}",
                &chart.svg[..80]
            );
            assert!(
                !chart.svg.contains("NaN") && !chart.svg.contains("href"),
                "{}",
                chart.caption
            );
        }
        assert!(charts[3].svg.contains("lumi") && charts[3].svg.contains("bsc"));
    }
}
