//! A map of Europe for each policy: where its requests went, and how long they waited there.

use std::fmt::{self, Write as _};

use super::labels::{Disc, LETTER, Label, labels};
use crate::report::markup::escaped;
use crate::sim::report::{PolicyReport, Report, SiteReport};

/// A site is a disc as large as its share, the redder the longer its requests waited.
pub(super) fn map(policy: &PolicyReport, slowest: f64, page: &mut String) -> fmt::Result {
    let (width, height) = MAP;
    writeln!(
        page,
        "<figure><svg viewBox=\"0 0 {width} {height}\" role=\"img\">"
    )?;
    for outline in OUTLINES {
        let points = outline.iter().map(|(lon, lat)| {
            let (x, y) = projected(*lat, *lon);
            format!("{x:.1},{y:.1}")
        });
        let points: Vec<String> = points.collect();
        let fill = "fill=\"#f3f1ea\" stroke=\"#c9c4b5\" stroke-width=\"0.7\"";
        writeln!(page, "<polygon points=\"{}\" {fill}/>", points.join(" "))?;
    }
    let discs: Vec<Disc> = policy.sites.iter().map(disc).collect();
    let labels = labels(&discs, MAP);
    for (disc, label) in discs.iter().zip(&labels).filter(|(_, label)| label.is_far) {
        line(disc, label, page)?;
    }
    for (site, (disc, label)) in policy.sites.iter().zip(discs.iter().zip(&labels)) {
        draw(site, disc, slowest, page)?;
        let (x, y) = label.at;
        let (y, name) = (y + LETTER.0 / 3.0, escaped(&site.name));
        writeln!(
            page,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{name}</text>"
        )?;
    }
    writeln!(
        page,
        "</svg><figcaption><b>{}</b>: discs by share of requests; blue answers soon, red late (95th percentile of the time to \
         first token, on one logarithmic scale for all maps up to {slowest:.0} ms)</figcaption></figure>",
        policy.policy
    )
}

fn disc(site: &SiteReport) -> Disc {
    Disc {
        at: projected(site.place.0, site.place.1),
        radius: 3.0 + 40.0 * (site.share / std::f64::consts::PI).sqrt(),
        letters: site.name.chars().count(),
    }
}

/// From a disc to its name.
fn line(disc: &Disc, label: &Label, page: &mut String) -> fmt::Result {
    let ((x, y), (to_x, to_y)) = (disc.at, label.at);
    writeln!(
        page,
        "<line x1=\"{x:.1}\" y1=\"{y:.1}\" x2=\"{to_x:.1}\" y2=\"{to_y:.1}\" stroke=\"#999\" stroke-width=\".5\"/>"
    )
}

fn draw(site: &SiteReport, disc: &Disc, slowest: f64, page: &mut String) -> fmt::Result {
    let (x, y) = disc.at;
    // From 10 ms to the slowest, by its logarithm: blue (hue 210) to red (0).
    let late = (site.ttft_ms.p95.max(10.0) / 10.0).ln() / (slowest.max(20.0) / 10.0).ln();
    let hue = 210.0 * (1.0 - late.clamp(0.0, 1.0));
    writeln!(
        page,
        "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{:.1}\" fill=\"hsl({hue:.0},75%,50%)\" fill-opacity=\".7\" \
         stroke=\"#333\" stroke-width=\".5\"><title>{}: {:.1} % of requests, p95 {:.0} ms, {:.0} % busy</title></circle>",
        disc.radius,
        escaped(&site.name),
        100.0 * site.share,
        site.ttft_ms.p95,
        100.0 * site.utilisation,
    )
}

/// Degrees onto the map, so that a degree of longitude is as wide as it is at 53 degrees north.
fn projected(lat: f64, lon: f64) -> (f64, f64) {
    let x = (lon - WEST_EAST.0) / (WEST_EAST.1 - WEST_EAST.0) * MAP.0;
    let y = (SOUTH_NORTH.1 - lat) / (SOUTH_NORTH.1 - SOUTH_NORTH.0) * MAP.1;
    (x.clamp(0.0, MAP.0), y.clamp(0.0, MAP.1))
}

/// The 95th percentile of the slowest site under any policy, for one scale of colours.
pub(super) fn slowest(report: &Report) -> f64 {
    let sites = report.policies.iter().flat_map(|policy| &policy.sites);
    sites.map(|site| site.ttft_ms.p95).fold(1.0, f64::max)
}

/// Size of a map in units, and the degrees at its edges.
const MAP: (f64, f64) = (330.0, 360.0);
const WEST_EAST: (f64, f64) = (-11.5, 32.5);
const SOUTH_NORTH: (f64, f64) = (34.5, 71.5);

/// A coarse outline of the mainland, of Scandinavia, Great Britain, Ireland and the large islands: longitude and latitude,
/// drawn by hand for orientation alone.
const OUTLINES: [&[(f64, f64)]; 8] = [
    &[
        (-9.3, 43.1),
        (-8.9, 41.5),
        (-9.4, 38.8),
        (-8.9, 37.0),
        (-6.3, 36.7),
        (-5.6, 36.0),
        (-2.1, 36.8),
        (-0.6, 38.0),
        (0.2, 38.8),
        (-0.3, 39.6),
        (0.9, 41.0),
        (3.2, 42.0),
        (3.1, 43.1),
        (4.8, 43.4),
        (6.6, 43.2),
        (8.8, 44.4),
        (10.3, 43.6),
        (11.0, 42.4),
        (12.4, 41.6),
        (14.3, 40.7),
        (15.8, 39.5),
        (16.1, 38.1),
        (16.6, 38.7),
        (17.1, 39.3),
        (16.6, 40.3),
        (18.4, 39.9),
        (16.2, 41.7),
        (14.2, 42.5),
        (13.5, 43.7),
        (12.3, 44.9),
        (13.7, 45.6),
        (14.9, 45.0),
        (15.9, 43.5),
        (18.5, 42.3),
        (19.5, 41.5),
        (19.4, 40.3),
        (20.9, 38.8),
        (21.7, 36.8),
        (23.1, 36.5),
        (24.0, 37.7),
        (22.9, 39.4),
        (23.8, 40.0),
        (26.0, 40.8),
        (28.9, 41.1),
        (28.0, 42.0),
        (28.6, 43.8),
        (29.7, 45.2),
        (31.5, 46.6),
        (32.5, 46.3),
        (32.5, 71.0),
        (28.0, 71.0),
        (23.5, 70.6),
        (19.0, 69.8),
        (14.5, 68.0),
        (12.3, 65.5),
        (10.0, 63.9),
        (5.2, 62.0),
        (5.0, 60.5),
        (5.6, 58.8),
        (7.2, 58.0),
        (10.4, 59.3),
        (11.2, 58.9),
        (12.0, 57.3),
        (12.8, 55.5),
        (14.2, 55.5),
        (16.0, 56.3),
        (16.7, 58.4),
        (18.8, 59.8),
        (17.3, 61.5),
        (20.0, 63.6),
        (24.0, 65.8),
        (25.3, 65.0),
        (21.5, 62.9),
        (21.4, 60.9),
        (23.0, 59.9),
        (27.8, 60.5),
        (28.0, 59.5),
        (24.5, 59.5),
        (23.6, 58.8),
        (24.3, 57.6),
        (21.7, 57.5),
        (21.1, 55.7),
        (19.9, 54.6),
        (18.6, 54.5),
        (16.2, 54.3),
        (14.2, 53.9),
        (11.0, 54.1),
        (10.9, 54.7),
        (9.9, 55.0),
        (10.9, 56.4),
        (10.5, 57.6),
        (8.2, 56.9),
        (8.6, 55.0),
        (8.8, 54.0),
        (7.1, 53.6),
        (4.7, 52.9),
        (3.6, 51.5),
        (1.6, 50.8),
        (0.1, 49.5),
        (-1.6, 49.6),
        (-1.5, 48.6),
        (-4.7, 48.4),
        (-2.2, 47.2),
        (-1.2, 45.5),
        (-1.7, 43.4),
        (-5.8, 43.6),
    ],
    &[
        (-5.6, 50.1),
        (-3.5, 50.3),
        (1.3, 51.2),
        (1.7, 52.6),
        (0.3, 53.0),
        (-0.1, 54.0),
        (-1.6, 55.5),
        (-3.0, 56.2),
        (-2.0, 57.6),
        (-3.2, 58.6),
        (-5.0, 58.6),
        (-6.1, 56.8),
        (-4.9, 54.8),
        (-3.1, 54.2),
        (-3.0, 53.4),
        (-4.5, 53.1),
        (-5.2, 51.8),
        (-3.0, 51.4),
    ],
    &[
        (-6.1, 52.2),
        (-9.8, 51.6),
        (-9.9, 54.2),
        (-7.4, 55.3),
        (-5.7, 54.6),
    ],
    &[(12.5, 38.0), (15.6, 38.2), (15.1, 36.7), (12.5, 37.7)],
    &[(8.2, 39.0), (8.2, 40.9), (9.7, 40.9), (9.5, 39.2)],
    &[(8.6, 42.4), (9.4, 43.0), (9.5, 42.0), (9.2, 41.4)],
    &[(23.6, 35.3), (26.2, 35.2), (24.8, 34.9)],
    &[
        (9.9, 55.4),
        (11.0, 55.8),
        (12.6, 56.0),
        (12.4, 55.2),
        (11.2, 55.2),
    ],
];
