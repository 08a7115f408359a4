//! The figure: latency over the size of the room, both axes logarithmic, one line for each system.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::prelude::*;

/// Points of one system: the size of the room, and milliseconds.
pub type Line = (String, Vec<(f64, f64)>);

const SIZE: (u32, u32) = (760, 440);
const COLOURS: [RGBColor; 5] =
    [RGBColor(0, 90, 181), RGBColor(220, 50, 32), RGBColor(90, 90, 90), RGBColor(230, 159, 0), RGBColor(0, 158, 115)];

/// Draws the lines to a file.
///
/// # Errors
/// When there is nothing to draw, or the file cannot be written.
pub fn draw(path: &Path, title: &str, lines: &[Line]) -> Result<()> {
    let points = || lines.iter().flat_map(|(_, points)| points.iter().copied());
    let rooms: Vec<f64> = points().map(|(room, _)| room).collect();
    let times: Vec<f64> = points().map(|(_, time)| time).collect();
    let range = |values: &[f64]| {
        let least = values.iter().copied().reduce(f64::min)?;
        let most = values.iter().copied().reduce(f64::max)?;
        Some((least * 0.8)..(most * 1.3))
    };
    let (rooms, times) =
        (range(&rooms).context("nothing was measured")?, range(&times).context("nothing was measured")?);
    let failed = |error: DrawingAreaErrorKind<_>| anyhow!("{}: {error}", path.display());
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE).map_err(failed)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(60)
        .build_cartesian_2d(rooms.log_scale(), times.log_scale())
        .map_err(failed)?;
    let number = |value: &f64| format!("{value}");
    chart
        .configure_mesh()
        .x_desc("sockets in the room")
        .y_desc("ms")
        .x_label_formatter(&number)
        .y_label_formatter(&number)
        .light_line_style(WHITE)
        .draw()
        .map_err(failed)?;
    for ((name, points), colour) in lines.iter().zip(COLOURS.into_iter().cycle()) {
        let series = LineSeries::new(points.iter().copied(), colour.stroke_width(2)).point_size(3);
        let drawn = chart.draw_series(series).map_err(failed)?;
        drawn.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    let mut labels = chart.configure_series_labels();
    labels
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE)
        .border_style(BLACK.mix(0.3))
        .draw()
        .map_err(failed)?;
    area.present().map_err(failed)
}
