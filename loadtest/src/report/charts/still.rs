//! Figures as SVG text: no script, no font file, nothing fetched. What each colour stands for is written below them, where it
//! hides nothing.

use std::error::Error;
use std::ops::Range;

use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use super::plot::COLOURS;
use super::{Axis, Curve, Figure, Heat, Shape};

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = Result<(), Box<dyn Error>>;
type Plane<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
type Ranges = (Range<f64>, Range<f64>);

const SIZE: (u32, u32) = (860, 260);
const FONT: (&str, i32) = ("sans-serif", 13);

/// The figure as an `svg` element; none where it cannot be drawn.
pub(super) fn svg(figure: &Figure) -> Option<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        draw(&area, figure).ok()?;
        area.present().ok()?;
    }
    // The outermost element may grow with the page.
    let (width, height) = SIZE;
    let fixed = format!("width=\"{width}\" height=\"{height}\" ");
    Some(svg.replacen(&fixed, "role=\"img\" ", 1))
}

fn draw(area: &Area<'_>, figure: &Figure) -> Drawn {
    let mut plane = plane(area, figure)?;
    let on = |axis: Axis, value: f64| if axis.is_log() { value.log10() } else { value };
    let place = |(x, y): (f64, f64)| (on(figure.x, x), on(figure.y, y));
    match &figure.shape {
        Shape::Lines(curves) => draw_lines(&mut plane, curves, &place)?,
        Shape::Stacked(curves, width) => draw_stack(&mut plane, curves, *width)?,
        Shape::Heat(heat) => {
            draw_cells(&mut plane, heat, &place)?;
            draw_lines(&mut plane, &heat.lines, &place)?;
        }
    }
    Ok(())
}

/// Where a point of a figure stands in its plane.
type Place<'p> = &'p dyn Fn((f64, f64)) -> (f64, f64);

fn draw_lines<'a, 'b: 'a>(plane: &mut Plane<'a, 'b>, curves: &[Curve], place: Place<'_>) -> Drawn {
    for (curve, colour) in curves.iter().zip(colours()) {
        let points = curve.points.iter().map(|&point| place(point));
        plane.draw_series(LineSeries::new(points, colour.stroke_width(2)))?;
    }
    Ok(())
}

/// Boxes one above the other, centred on their points.
fn draw_stack<'a, 'b: 'a>(plane: &mut Plane<'a, 'b>, curves: &[Curve], width: f64) -> Drawn {
    let mut floors = vec![0.0; curves.first().map_or(0, |curve| curve.points.len())];
    for (curve, colour) in curves.iter().zip(colours()) {
        let boxes = curve
            .points
            .iter()
            .zip(&mut floors)
            .map(|(&(x, part), floor)| {
                let corners = [(x - width / 2.0, *floor), (x + width / 2.0, *floor + part)];
                *floor += part;
                Rectangle::new(corners, colour.mix(0.8).filled())
            });
        let boxes: Vec<_> = boxes.collect();
        plane.draw_series(boxes)?;
    }
    Ok(())
}

/// The darker the more.
fn draw_cells<'a, 'b: 'a>(plane: &mut Plane<'a, 'b>, heat: &Heat, place: Place<'_>) -> Drawn {
    let most = heat
        .cells
        .iter()
        .flatten()
        .copied()
        .max()
        .unwrap_or(1)
        .max(1) as f64;
    let mut boxes = Vec::new();
    for (rows, counts) in heat.y.windows(2).zip(&heat.cells) {
        for (columns, &count) in heat.x.windows(2).zip(counts) {
            if let ([left, right], [low, high]) = (columns, rows)
                && count > 0
            {
                let shade = 0.12 + 0.78 * (count as f64 / most).sqrt();
                let corners = [place((*left, *low)), place((*right, *high))];
                boxes.push(Rectangle::new(
                    corners,
                    RGBColor(86, 180, 233).mix(shade).filled(),
                ));
            }
        }
    }
    plane.draw_series(boxes)?;
    Ok(())
}

fn plane<'a, 'b: 'a>(area: &'a Area<'b>, figure: &Figure) -> Result<Plane<'a, 'b>, Box<dyn Error>> {
    let (x, y) = ranges(figure);
    let mut chart = ChartBuilder::on(area);
    let chart = chart.margin(10).x_label_area_size(36).y_label_area_size(84);
    let mut plane = chart.build_cartesian_2d(x, y)?;
    plane
        .configure_mesh()
        .light_line_style(WHITE)
        .label_style(FONT)
        .x_desc(figure.x.title())
        .y_desc(figure.y.title())
        .x_label_formatter(&|value| label(figure.x, *value))
        .y_label_formatter(&|value| label(figure.y, *value))
        .draw()?;
    Ok(plane)
}

/// How far the axes go, on the plane.
fn ranges(figure: &Figure) -> Ranges {
    let of = |axis: Axis, values: Vec<f64>| {
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        match axis {
            Axis::Milliseconds => low.log10()..high.log10().max(low.log10() + 0.1),
            Axis::Share => 0.0..1.0,
            Axis::Seconds => 0.0..high.max(1e-3),
            Axis::Rate => 0.0..(high * 1.1).max(1e-3),
        }
    };
    let (x, y) = match &figure.shape {
        Shape::Lines(curves) => points_of(curves),
        Shape::Stacked(curves, width) => {
            let (mut x, y) = points_of(curves);
            x.iter_mut().for_each(|x| *x += width / 2.0);
            (x, y)
        }
        Shape::Heat(heat) => (heat.x.clone(), heat.y.clone()),
    };
    (of(figure.x, x), of(figure.y, y))
}

fn points_of(curves: &[Curve]) -> (Vec<f64>, Vec<f64>) {
    curves
        .iter()
        .flat_map(|curve| &curve.points)
        .copied()
        .unzip()
}

fn label(axis: Axis, value: f64) -> String {
    match axis {
        Axis::Seconds => format!("{value:.1}"),
        Axis::Rate => format!("{value:.1}"),
        Axis::Share => format!("{:.0} %", value * 100.0),
        Axis::Milliseconds => milliseconds(value),
    }
}

/// A time from its logarithm.
fn milliseconds(log: f64) -> String {
    match 10f64.powf(log) {
        ms if ms >= 1_000.0 => format!("{:.3} s", ms / 1_000.0).replace(".000", ""),
        ms => format!("{} ms", (ms * 100.0).round() / 100.0),
    }
}

fn colours() -> impl Iterator<Item = RGBColor> {
    COLOURS
        .into_iter()
        .cycle()
        .map(|(red, green, blue)| RGBColor(red, green, blue))
}
