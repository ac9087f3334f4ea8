//! Drawings of a run, as SVG that takes its colours from the page.

use std::fmt::Write as _;
use std::time::Duration;

use super::timeline::{Shot, Stretch, Timeline};

/// The drawing, without the room for what is written at its sides.
const WIDTH: f64 = 860.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 24.0;
/// Orders are drawn in this many columns: the median and the slowest of each.
const COLUMNS: usize = 120;

/// Time from left to right.
pub(super) struct Scale {
    end: f64,
    fault: (f64, f64),
}

impl Scale {
    pub(super) fn new(timeline: &Timeline) -> Self {
        let (from, to) = timeline.fault;
        let end = timeline.end.as_secs_f64().max(0.001);
        Self { end, fault: (from.as_secs_f64(), to.as_secs_f64()) }
    }

    fn x(&self, at: f64) -> f64 {
        LEFT + (at / self.end).clamp(0.0, 1.0) * WIDTH
    }

    /// A drawing of this height: the band of the fault, then `inner`, then the seconds.
    fn frame(&self, height: f64, what: &str, inner: &str) -> String {
        let (total, below) = (LEFT + WIDTH + RIGHT, height + 24.0);
        let (from, to) = (self.x(self.fault.0), self.x(self.fault.1));
        let mut svg = format!(
            "<svg viewBox='0 0 {total} {below}' role='img' aria-label='{what}'>\
             <rect class='fault' x='{from:.1}' y='0' width='{:.1}' height='{height}'/>{inner}",
            to - from
        );
        let step = step(self.end, 10.0);
        let mut at = 0.0;
        while at <= self.end + step / 100.0 {
            let x = self.x(at);
            let _ = write!(
                svg,
                "<line class='tick' x1='{x:.1}' y1='{height}' x2='{x:.1}' y2='{:.1}'/>\
                 <text class='axis' x='{x:.1}' y='{:.1}' text-anchor='middle'>{} s</text>",
                height + 4.0,
                height + 18.0,
                figure(at)
            );
            at += step;
        }
        svg.push_str("</svg>");
        svg
    }
}

/// The time of each order POST over the time it was due, on a logarithmic scale.
pub(super) fn latency(scale: &Scale, shots: &[Shot]) -> String {
    const HEIGHT: f64 = 200.0;
    let accepted = || shots.iter().filter(|shot| shot.accepted);
    let slowest = accepted().map(|shot| millis(shot.took)).fold(100.0_f64, f64::max);
    let quickest = accepted().map(|shot| millis(shot.took)).fold(10.0_f64, f64::min).max(0.1);
    let (low, high) = (quickest.log10().floor(), slowest.log10().ceil());
    let y = |ms: f64| HEIGHT - (ms.max(0.1).log10().max(low) - low) / (high - low) * (HEIGHT - 8.0);
    let mut inner = String::new();
    let mut power = low;
    while power <= high {
        let (at, ms) = (y(10_f64.powf(power)), 10_f64.powf(power));
        inner.push_str(&level(at, &format!("{} ms", figure(ms))));
        power += 1.0;
    }
    let objective = y(50.0);
    let _ = write!(
        inner,
        "<line class='objective' x1='{LEFT}' y1='{objective:.1}' x2='{:.1}' y2='{objective:.1}'>\
         <title>50 ms: the objective for 99 in 100</title></line>",
        LEFT + WIDTH
    );
    let mut columns: Vec<Vec<f64>> = vec![Vec::new(); COLUMNS];
    for shot in accepted() {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range")]
        let column = (shot.at.as_secs_f64() / scale.end * COLUMNS as f64) as usize;
        columns[column.min(COLUMNS - 1)].push(millis(shot.took));
    }
    let (mut median, mut dots) = (String::new(), String::new());
    for (number, column) in columns.iter_mut().enumerate().filter(|(_, column)| !column.is_empty())
    {
        column.sort_by(f64::total_cmp);
        let x = scale.x((number as f64 + 0.5) / COLUMNS as f64 * scale.end);
        let (middle, worst) = (column[column.len() / 2], column[column.len() - 1]);
        let _ = write!(median, "{x:.1},{:.1} ", y(middle));
        let _ = write!(
            dots,
            "<circle class='worst' cx='{x:.1}' cy='{:.1}' r='2.5'><title>{} orders, median {} ms, \
             slowest {} ms</title></circle>",
            y(worst),
            column.len(),
            figure(middle),
            figure(worst)
        );
    }
    let _ = write!(inner, "<polyline class='median' points='{median}'/>{dots}");
    scale.frame(HEIGHT, "time of each order POST", &inner)
}

/// Stretches as a strip; each is of the class `class` gives it.
pub(super) fn strip(
    scale: &Scale,
    what: &str,
    stretches: &[Stretch],
    class: fn(&str) -> &'static str,
) -> String {
    const HEIGHT: f64 = 34.0;
    /// A word needs about this much for each letter.
    const LETTER: f64 = 10.0;
    let mut inner = String::new();
    for Stretch { what, from, to } in stretches {
        let (from, to) = (from.as_secs_f64(), to.as_secs_f64());
        let (x, width) = (scale.x(from), (scale.x(to) - scale.x(from)).max(1.0));
        let _ = write!(
            inner,
            "<rect class='{}' x='{x:.1}' y='4' width='{width:.1}' height='26' rx='2'>\
             <title>{what} from {} s to {} s</title></rect>",
            class(what),
            figure(from),
            figure(to)
        );
        if width > LETTER * what.len() as f64 + 8.0 {
            let middle = x + width / 2.0;
            let _ = write!(
                inner,
                "<text class='word' x='{middle:.1}' y='21.5' text-anchor='middle'>{what}</text>"
            );
        }
    }
    scale.frame(HEIGHT, what, &inner)
}

/// Orders that waited, over time: to be asked about, and parked.
pub(super) fn backlog(scale: &Scale, timeline: &Timeline) -> String {
    const HEIGHT: f64 = 140.0;
    let seen = || timeline.samples.iter().filter_map(|one| Some((one.at, one.waiting?)));
    let most = seen().map(|(_, (jobs, parked))| jobs.max(parked)).max().unwrap_or(0);
    let lines = step(most.max(4) as f64, 4.0);
    let top = (most.max(4) as f64 / lines).ceil() * lines;
    let y = |orders: f64| HEIGHT - orders / top * (HEIGHT - 8.0);
    let mut inner = String::new();
    let mut at = 0.0;
    while at <= top {
        inner.push_str(&level(y(at), &figure(at)));
        at += lines;
    }
    for (class, parked) in [("jobs", false), ("parked", true)] {
        let (mut points, mut before) = (String::new(), 0.0);
        let (mut first, mut last) = (LEFT, LEFT);
        for (number, (at, waiting)) in seen().enumerate() {
            let orders = y(if parked { waiting.1 } else { waiting.0 } as f64);
            last = scale.x(at.as_secs_f64());
            if number == 0 {
                (first, before) = (last, orders);
            }
            // It was what it was until it is looked at again.
            let _ = write!(points, "{last:.1},{before:.1} {last:.1},{orders:.1} ");
            before = orders;
        }
        let _ = write!(
            inner,
            "<polygon class='{class} area' points='{first:.1},{HEIGHT} {points}{last:.1},{HEIGHT}'/>\
             <polyline class='{class} line' points='{points}'/>"
        );
    }
    scale.frame(HEIGHT, "orders that waited", &inner)
}

/// A line across, with what it stands for.
fn level(y: f64, text: &str) -> String {
    let (right, left, base) = (LEFT + WIDTH, LEFT - 8.0, y + 4.0);
    format!(
        "<line class='grid' x1='{LEFT}' y1='{y:.1}' x2='{right}' y2='{y:.1}'/>\
         <text class='axis' x='{left}' y='{base:.1}' text-anchor='end'>{text}</text>"
    )
}

/// A round step that divides `whole` into about `parts`.
fn step(whole: f64, parts: f64) -> f64 {
    let power = 10_f64.powf((whole / parts).log10().floor());
    let round = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    round.into_iter().find(|step| whole / step <= parts + 0.001).unwrap_or(whole)
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Three digits that matter, and no zeros behind them.
pub(super) fn figure(number: f64) -> String {
    let digits = match number.abs() {
        small if small < 1.0 => 2,
        small if small < 100.0 => 1,
        _ => 0,
    };
    let text = format!("{number:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round_and_figures_short() {
        assert_eq!((step(6.4, 10.0), step(63.0, 4.0), step(240.0, 10.0)), (1.0, 20.0, 50.0));
        assert_eq!(
            [0.1, 0.25, 6.0, 12.34, 1234.5].map(figure),
            ["0.1", "0.25", "6", "12.3", "1234"]
        );
    }
}
