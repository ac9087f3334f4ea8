//! Patients, makers, backlog and delay over time, as a picture.

use plotters::chart::ChartBuilder;
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea};
use plotters::element::PathElement;
use plotters::series::LineSeries;
use plotters::style::{BLACK, BLUE, Color, GREEN, RED, RGBColor, WHITE};
use plotters_svg::SVGBackend;

use super::scaling::Sample;
use crate::flow::Failure;

const SIZE: (u32, u32) = (900, 760);
const MARGIN: i32 = 12;

/// A line: its name, its colour, and its points.
type Line<'a> = (&'a str, RGBColor, Vec<(f64, f64)>);

/// The picture, as SVG: makers and patients, the backlog, and how long an order waits.
pub(super) fn svg(samples: &[Sample]) -> Result<String, Failure> {
    let mut svg = String::new();
    draw(samples, &mut svg).map_err(|error| format!("the plot cannot be drawn: {error}"))?;
    Ok(svg)
}

fn draw(samples: &[Sample], svg: &mut String) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let line = |of: fn(&Sample) -> Option<f64>| {
        let point = |sample: &Sample| Some((sample.at.as_secs_f64(), of(sample)?));
        samples.iter().filter_map(point).collect::<Vec<_>>()
    };
    let makers = line(|sample| Some(sample.makers as f64));
    let patients = line(|sample| Some(sample.patients as f64));
    let backlog = line(|sample| Some(sample.backlog as f64));
    let delay = line(|sample| sample.delay().map(|delay| delay.as_secs_f64()));
    let slowest = line(|sample| (sample.made > 0).then_some(sample.slowest.as_secs_f64()));
    let panels = [
        ("makers and patients", vec![("makers", BLUE, makers), ("patients", BLACK, patients)]),
        ("orders that are not made", vec![("backlog", RED, backlog)]),
        (
            "seconds from order to delivery",
            vec![("average", GREEN, delay), ("slowest", RED, slowest)],
        ),
    ];
    let end = samples.last().map_or(1.0, |last| last.at.as_secs_f64().max(1.0));
    for (area, (caption, lines)) in root.split_evenly((panels.len(), 1)).iter().zip(panels) {
        panel(area, caption, end, lines)?;
    }
    root.present()
}

fn panel(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    caption: &str,
    end: f64,
    lines: Vec<Line<'_>>,
) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
    let points = lines.iter().flat_map(|(_, _, points)| points);
    let top = points.map(|(_, value)| *value).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(caption, ("sans-serif", 16))
        .margin(MARGIN)
        .x_label_area_size(26)
        .y_label_area_size(44)
        .build_cartesian_2d(0.0..end, 0.0..top * 1.1)?;
    chart.configure_mesh().light_line_style(WHITE).x_desc("s").draw()?;
    for (name, colour, points) in lines {
        let drawn = chart.draw_series(LineSeries::new(points, colour.stroke_width(2)))?;
        drawn.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour));
    }
    chart.configure_series_labels().background_style(WHITE).border_style(BLACK).draw()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_picture_shows_every_line_whatever_there_is() {
        let at = |second: u64| Sample {
            at: Duration::from_secs(second),
            patients: 1 + second / 10,
            backlog: second % 7,
            makers: second % 5,
            made: second % 3,
            waited: Duration::from_secs(2) * u32::try_from(second % 3).unwrap(),
            slowest: Duration::from_secs(3),
        };
        for samples in [vec![], vec![at(0)], (0..60).map(at).collect()] {
            let svg = svg(&samples).unwrap();
            assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
            for text in ["makers and patients", "orders that are not made", "slowest"] {
                assert!(svg.contains(text), "{text}");
            }
        }
    }
}
