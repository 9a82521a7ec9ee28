//! The figures of a run: what is drawn, apart from how. Each is drawn twice: as a still picture for paper and for
//! readers without scripts ([`still`]), and as a plot to look into ([`plot`]).

pub mod plot;
pub mod still;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::limits::MAX_DRAWN_SERIES;
use crate::scrape::Scraped;
use crate::stats::{Distribution, Stats};
use crate::timeline::{LEAST_MS, ROWS_PER_DECADE, Timeline, row_ms};

/// A figure, drawn.
#[derive(Debug)]
pub struct Chart {
    /// What it shows.
    pub caption: &'static str,
    /// An `svg` element.
    pub svg: String,
    /// What its colours stand for, each as CSS writes it.
    pub keys: Vec<(String, String)>,
    /// The plot as JSON, in the form of plotly.js.
    pub plot: String,
}

/// What is drawn.
#[derive(Debug)]
pub(super) struct Figure {
    caption: &'static str,
    x: Axis,
    y: Axis,
    shape: Shape,
}

/// What an axis says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Axis {
    /// Seconds after the start of the run.
    Seconds,
    /// Milliseconds, by powers of ten.
    Milliseconds,
    /// A share from 0 to 1.
    Share,
    /// Requests per second.
    Rate,
}

#[derive(Debug)]
enum Shape {
    Lines(Vec<Curve>),
    /// One above the other, each as wide as an interval of this many seconds.
    Stacked(Vec<Curve>, f64),
    Heat(Heat),
}

/// A line with a name.
#[derive(Debug, Default)]
struct Curve {
    name: String,
    points: Vec<(f64, f64)>,
    /// What a reader is told at each point, where it is not what is drawn.
    told: Vec<f64>,
}

/// Counts in cells, and lines over them.
#[derive(Debug)]
struct Heat {
    /// Borders of the columns, ascending.
    x: Vec<f64>,
    /// Borders of the rows, ascending.
    y: Vec<f64>,
    /// Counts by row and column.
    cells: Vec<Vec<u64>>,
    lines: Vec<Curve>,
}

/// Rows of the timeline in one row of the heat map.
const ROWS_A_CELL: usize = ROWS_PER_DECADE / 10;

/// Lines that a legend within a figure has room for.
const LEGEND_LINES: usize = 8;

/// Points of a distribution's curve.
const CURVE_STEPS: u32 = 400;

/// All charts that the run has figures for. One that cannot be drawn is left out: what counts is in the tables.
pub fn all(timeline: &Timeline, stats: &Stats, server: Option<&Scraped>) -> Vec<Chart> {
    let timeline = timeline.for_drawing();
    let figures = [
        rates(&timeline),
        heat(&timeline),
        curves(stats),
        shares(&timeline),
        server.and_then(metrics),
    ];
    let drawn = figures.into_iter().flatten().filter_map(|figure| {
        Some(Chart {
            caption: figure.caption,
            svg: still::svg(&figure)?,
            keys: figure.keys(),
            plot: plot::json(&figure),
        })
    });
    drawn.collect()
}

/// Good and failed requests per second.
fn rates(timeline: &Timeline) -> Option<Figure> {
    let bins = timeline.bins();
    if !bins.iter().any(|bin| bin.good + bin.failed > 0) {
        return None;
    }
    let width = timeline.width_s();
    let curve = |name: &str, of: fn(&crate::timeline::Bin) -> u64| {
        let points = bins.iter().enumerate();
        let points = points.map(|(at, bin)| ((at as f64 + 0.5) * width, of(bin) as f64 / width));
        Curve {
            name: name.to_owned(),
            points: points.collect(),
            told: Vec::new(),
        }
    };
    Some(Figure {
        caption: "Requests by the time they were due",
        x: Axis::Seconds,
        y: Axis::Rate,
        shape: Shape::Lines(vec![
            curve("good", |bin| bin.good),
            curve("failed", |bin| bin.failed),
        ]),
    })
}

/// A cell for every interval and band of times.
fn heat(timeline: &Timeline) -> Option<Figure> {
    let (bins, width) = (timeline.bins(), timeline.width_s());
    let rows = || bins.iter().flat_map(|bin| bin.rows.keys().copied());
    let low = rows().min()? / ROWS_A_CELL;
    let high = rows().max()? / ROWS_A_CELL + 1;
    let mut cells = vec![vec![0; bins.len()]; high - low];
    for (column, bin) in bins.iter().enumerate() {
        for (&row, &count) in &bin.rows {
            if let Some(cell) = cells
                .get_mut(row / ROWS_A_CELL - low)
                .and_then(|row| row.get_mut(column))
            {
                *cell += count;
            }
        }
    }
    let line = |name: &str, share: f64| {
        let points = bins.iter().enumerate();
        let points =
            points.filter_map(|(at, bin)| Some(((at as f64 + 0.5) * width, bin.ttft_ms(share)?)));
        Curve {
            name: name.to_owned(),
            points: points.collect(),
            told: Vec::new(),
        }
    };
    Some(Figure {
        caption: "Time to first token by due time: how many requests (shade), median and 99th percentile (lines)",
        x: Axis::Seconds,
        y: Axis::Milliseconds,
        shape: Shape::Heat(Heat {
            x: (0..=bins.len()).map(|at| at as f64 * width).collect(),
            y: (low..=high).map(|row| row_ms(row * ROWS_A_CELL)).collect(),
            cells,
            lines: vec![line("p50", 0.5), line("p99", 0.99)],
        }),
    })
}

/// Cumulative distributions.
fn curves(stats: &Stats) -> Option<Figure> {
    let named: [(&str, &Distribution); 4] = [
        ("ttft", &stats.response.ttft),
        ("e2e", &stats.response.e2e),
        ("tpot", &stats.tpot),
        ("itl", &stats.itl),
    ];
    let curves = named.into_iter().map(|(name, distribution)| {
        let points = distribution.curve(CURVE_STEPS).into_iter();
        let points = points.map(|(ms, share)| (ms.max(LEAST_MS / 100.0), share));
        Curve {
            name: name.to_owned(),
            points: points.collect(),
            told: Vec::new(),
        }
    });
    let curves: Vec<Curve> = curves.filter(|curve| !curve.points.is_empty()).collect();
    (!curves.is_empty()).then_some(Figure {
        caption: "Share of requests (of gaps, for itl) up to a time",
        x: Axis::Milliseconds,
        y: Axis::Share,
        shape: Shape::Lines(curves),
    })
}

/// The sites' parts of each interval.
fn shares(timeline: &Timeline) -> Option<Figure> {
    let (bins, width) = (timeline.bins(), timeline.width_s());
    let sites: BTreeSet<&Arc<str>> = bins.iter().flat_map(|bin| bin.sites.keys()).collect();
    if sites.len() < 2 {
        return None;
    }
    let part = |sites: &BTreeMap<Arc<str>, u64>, site: &Arc<str>| {
        let whole: u64 = sites.values().sum();
        sites.get(site).copied().unwrap_or(0) as f64 / whole.max(1) as f64
    };
    let curve = |site: &Arc<str>| {
        let points = bins.iter().enumerate();
        let points = points.map(|(at, bin)| ((at as f64 + 0.5) * width, part(&bin.sites, site)));
        Curve {
            name: site.to_string(),
            points: points.collect(),
            told: Vec::new(),
        }
    };
    Some(Figure {
        caption: "Share of requests by site",
        x: Axis::Seconds,
        y: Axis::Share,
        shape: Shape::Stacked(sites.into_iter().map(curve).collect(), width),
    })
}

/// What the server says of itself: each series as a part of its own largest value, since they have no unit in common.
fn metrics(server: &Scraped) -> Option<Figure> {
    let curves = server.series.iter().filter_map(|series| {
        let told = series.drawn(&server.at_s);
        let most = told.iter().map(|point| point.1.abs()).fold(0.0, f64::max);
        if told.len() < 2 || most <= 0.0 {
            return None;
        }
        let name = if series.is_counter {
            format!("{}, per second", series.name)
        } else {
            series.name.clone()
        };
        Some(Curve {
            name,
            points: told
                .iter()
                .map(|&(at, value)| (at, (value / most).max(0.0)))
                .collect(),
            told: told.into_iter().map(|(_, value)| value).collect(),
        })
    });
    let curves: Vec<Curve> = curves.take(MAX_DRAWN_SERIES).collect();
    (!curves.is_empty()).then_some(Figure {
        caption: "The server's own metrics on the same time axis, each as a part of its largest value (counters: their growth)",
        x: Axis::Seconds,
        y: Axis::Share,
        shape: Shape::Lines(curves),
    })
}

impl Figure {
    /// Whether its lines have too many names for a legend within it.
    fn is_crowded(&self) -> bool {
        matches!(&self.shape, Shape::Lines(curves) if curves.len() > LEGEND_LINES)
    }

    fn keys(&self) -> Vec<(String, String)> {
        let (Shape::Lines(curves)
        | Shape::Stacked(curves, _)
        | Shape::Heat(Heat { lines: curves, .. })) = &self.shape;
        let names = curves.iter().map(|curve| curve.name.clone());
        names.zip(plot::colours()).collect()
    }
}

impl Axis {
    fn title(self) -> &'static str {
        match self {
            Self::Seconds => "seconds",
            Self::Milliseconds => "milliseconds",
            Self::Share => "share",
            Self::Rate => "requests/s",
        }
    }

    fn is_log(self) -> bool {
        self == Self::Milliseconds
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::drive::record::tests::record;
    use crate::scrape::Series;

    /// The charts of a run with two sites and a metrics page.
    pub(crate) fn charts() -> Vec<Chart> {
        let (mut timeline, mut stats) = (Timeline::new(0), Stats::default());
        for at in 0..40u64 {
            let mut record = record();
            record.stamps.intended = at * 10_000_000;
            record.labels.site = Some(["lumi", "</script><b>"][at as usize % 2].into());
            timeline.fold(&record);
            stats.fold(&record);
        }
        let server = Scraped {
            at_s: vec![0.0, 0.2, 0.4],
            series: vec![Series {
                name: "queue".to_owned(),
                is_counter: false,
                values: vec![Some(1.0), None, Some(4.0)],
            }],
            ..Scraped::default()
        };
        all(&timeline, &stats, Some(&server))
    }

    #[test]
    fn a_run_with_sites_and_metrics_has_five_charts_and_an_empty_one_none() {
        assert!(all(&Timeline::new(0), &Stats::default(), None).is_empty());
        let charts = charts();
        assert_eq!(charts.len(), 5);
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
            let plot: serde_json::Value = serde_json::from_str(&chart.plot).unwrap();
            assert!(
                !plot["data"].as_array().unwrap().is_empty(),
                "{}",
                chart.caption
            );
            assert!(
                !chart.plot.contains('<'),
                "names of others cannot end the script"
            );
        }
        assert!(charts.iter().all(|chart| !chart.keys.is_empty()));
        assert!(charts[3].keys[0].0.contains("lumi") || charts[3].keys[1].0.contains("lumi"));
        assert!(charts[3].plot.contains("lumi"));
        assert!(charts[4].plot.contains("queue"));
    }
}
