//! Figures as plots to look into: plotly.js draws them in the reader's browser, from data that lies in the page.

use plotly::common::{Anchor, ColorScale, ColorScalePalette, Font, Line, Mode, Orientation, Title};
use plotly::configuration::DisplayModeBar;
use plotly::layout::{Axis as PlotAxis, AxisType, HoverMode, Legend, Margin};
use plotly::{Configuration, HeatMap, Layout, Plot, Scatter};

use super::{Axis, Curve, Figure, Heat, Shape};

/// Colours of Okabe and Ito, which people see apart whatever their eyes, and printers too.
pub(super) const COLOURS: [(u8, u8, u8); 7] = [
    (0, 114, 178),
    (213, 94, 0),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (230, 159, 0),
    (90, 90, 90),
];

/// The plotting library as one `script` element: it fetches nothing.
pub fn library() -> String {
    // The crate hands out plotly.js and, behind it, a library for formulas, which no plot here has.
    let both = Plot::offline_js_sources();
    let end = both
        .find("</script>")
        .map_or(0, |at| at + "</script>".len());
    both[..end].to_owned()
}

/// The plot as JSON that may stand in a script element, whatever names are in it.
pub(super) fn json(figure: &Figure) -> String {
    let mut plot = Plot::new();
    match &figure.shape {
        Shape::Lines(curves) => curves.iter().zip(colours()).for_each(|(curve, colour)| {
            plot.add_trace(line(curve).line(Line::new().color(colour).width(2.0)));
        }),
        Shape::Stacked(curves, _) => curves.iter().zip(colours()).for_each(|(curve, colour)| {
            plot.add_trace(
                line(curve)
                    .line(Line::new().color(colour).width(0.5))
                    .stack_group("all"),
            );
        }),
        Shape::Heat(heat) => add_heat(&mut plot, heat),
    }
    plot.set_layout(layout(figure));
    let bar = Configuration::new().responsive(true).display_logo(false);
    plot.set_configuration(bar.display_mode_bar(DisplayModeBar::Hover));
    plot.to_json().replace('<', "\\u003c")
}

fn line(curve: &Curve) -> Box<Scatter<f64, f64>> {
    let (x, y) = curve.points.iter().copied().unzip();
    let trace = Scatter::new(x, y).name(&curve.name).mode(Mode::Lines);
    if curve.told.is_empty() {
        return trace;
    }
    let told = curve.told.iter().map(|value| format!("{value}")).collect();
    trace.text_array(told).hover_template("%{text}")
}

fn add_heat(plot: &mut Plot, heat: &Heat) {
    // Empty cells stay white: nothing happened there.
    let cells = heat.cells.iter().map(|row| {
        row.iter()
            .map(|&count| (count > 0).then_some(count))
            .collect::<Vec<_>>()
    });
    let map = HeatMap::new(heat.x.clone(), heat.y.clone(), cells.collect());
    plot.add_trace(
        map.name("requests")
            .color_scale(ColorScale::Palette(ColorScalePalette::Blues))
            .reverse_scale(true),
    );
    for (curve, colour) in heat.lines.iter().zip(colours()) {
        plot.add_trace(line(curve).line(Line::new().color(colour).width(2.0)));
    }
}

fn layout(figure: &Figure) -> Layout {
    let axis = |axis: Axis| {
        let plain = PlotAxis::new()
            .title(Title::with_text(axis.title()))
            .auto_margin(true);
        match axis {
            Axis::Milliseconds => plain.type_(AxisType::Log),
            Axis::Share => plain.tick_format(".0%"),
            Axis::Seconds | Axis::Rate => plain,
        }
    };
    // Above the plot, where it takes no width; the many long names of metrics below.
    let legend = Legend::new().orientation(Orientation::Horizontal).x(0.0);
    let (legend, height) = if figure.is_crowded() {
        (legend.y(-0.2).y_anchor(Anchor::Top), 700)
    } else {
        (legend.y(1.0).y_anchor(Anchor::Bottom), 360)
    };
    Layout::new()
        .x_axis(axis(figure.x))
        .y_axis(axis(figure.y))
        .height(height)
        .margin(Margin::new().top(40).right(16))
        .font(Font::new().size(12))
        .legend(legend)
        .hover_mode(HoverMode::Closest)
}

/// The colours of lines as CSS writes them, over and over.
pub(super) fn colours() -> impl Iterator<Item = String> {
    COLOURS
        .into_iter()
        .cycle()
        .map(|(red, green, blue)| format!("rgb({red},{green},{blue})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_one_script_that_fetches_nothing() {
        let library = library();
        assert!(library.starts_with("<script") && library.ends_with("</script>"));
        assert!(library.contains("plotly.js v") && library.len() > 1_000_000);
        assert_eq!(library.matches("<script").count(), 1);
        assert!(!library.contains(" src="));
    }
}
