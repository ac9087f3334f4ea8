//! What moves, how much, how fast: bars on a terminal, plain lines when piped, JSON for a script.

use std::collections::VecDeque;
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use lockgate_flows::{Counters, Reading, Tell};
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::super::screen::{grouped, printable, tell};

/// How often a terminal is drawn anew.
const DRAWN_EVERY: Duration = Duration::from_millis(250);
/// How often a line is printed where it is read later.
const PRINTED_EVERY: Duration = Duration::from_secs(5);
/// Over how long a rate is taken.
const RATE_OVER: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Terminal,
    Plain,
    Json,
}

/// The output of a flow.
pub(super) struct View {
    style: Style,
    bars: MultiProgress,
}

impl View {
    pub(super) fn new(json: bool) -> Self {
        let style = match (json, io::stdout().is_terminal()) {
            (true, _) => Style::Json,
            (false, true) => Style::Terminal,
            (false, false) => Style::Plain,
        };
        Self { style, bars: MultiProgress::new() }
    }

    /// The first line.
    pub(super) fn begin(&self, banner: &str) -> io::Result<()> {
        match self.style {
            Style::Json => Ok(()),
            Style::Terminal | Style::Plain => tell(banner),
        }
    }

    /// Where roles say what they have to say. That nobody reads it does not change their work.
    pub(super) fn tell(&self) -> Tell {
        let (style, bars) = (self.style, self.bars.clone());
        Arc::new(move |text: &str, record: &Value| {
            let told = match style {
                Style::Json => tell(&record.to_string()),
                Style::Plain => tell(&lines(text)),
                Style::Terminal => bars.suspend(|| tell(&lines(text))),
            };
            if let Err(error) = told {
                tracing::debug!(%error, "nobody reads what a role says");
            }
        })
    }

    /// Shows the counters until `ended`, and once more then.
    pub(super) async fn follow(
        &self,
        counters: &Counters,
        ended: &CancellationToken,
    ) -> io::Result<()> {
        let every = if self.style == Style::Terminal { DRAWN_EVERY } else { PRINTED_EVERY };
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        ticks.tick().await;
        let (mut rates, mut bars, mut shown) = (Rates::default(), Vec::new(), Vec::new());
        loop {
            let last = tokio::select! { biased;
                () = ended.cancelled() => true,
                _ = ticks.tick() => false,
            };
            let now = counters.read();
            let moving = rates.take(Instant::now(), &now);
            match self.style {
                Style::Terminal => self.draw(&mut bars, &moving),
                Style::Plain | Style::Json if now != shown && !now.is_empty() => {
                    self.print(&moving)?;
                }
                Style::Plain | Style::Json => {}
            }
            shown = now;
            if last {
                bars.iter().for_each(ProgressBar::abandon);
                return Ok(());
            }
        }
    }

    fn draw(&self, bars: &mut Vec<ProgressBar>, moving: &[Moving]) {
        for (at, one) in moving.iter().enumerate() {
            if bars.len() == at {
                let style = ProgressStyle::with_template("{prefix:<18} {msg}")
                    .unwrap_or_else(|_| ProgressStyle::default_bar());
                let bar = ProgressBar::no_length().with_style(style).with_prefix(one.name);
                bars.push(self.bars.add(bar));
            }
            bars[at].set_message(one.shown());
        }
    }

    fn print(&self, moving: &[Moving]) -> io::Result<()> {
        if self.style == Style::Json {
            let of = |one: &Moving| (one.name.to_owned(), json!(one.value));
            let rate = |one: &Moving| Some((one.name.to_owned(), json!(one.rate?)));
            let counts: serde_json::Map<_, _> = moving.iter().map(of).collect();
            let rates: serde_json::Map<_, _> = moving.iter().filter_map(rate).collect();
            return tell(&json!({ "counts": counts, "per_second": rates }).to_string());
        }
        let parts = moving.iter().map(|one| format!("{} {}", one.name, one.shown()));
        tell(&parts.collect::<Vec<_>>().join(" · "))
    }
}

/// What others wrote commands no terminal; the role's own line breaks stay.
fn lines(text: &str) -> String {
    text.lines().map(printable).collect::<Vec<_>>().join("\n")
}

/// A counter, and how many a second.
#[derive(Debug, Clone, PartialEq)]
struct Moving {
    name: &'static str,
    value: u64,
    rate: Option<f64>,
}

impl Moving {
    fn shown(&self) -> String {
        match self.rate {
            Some(rate) if rate > 0.0 => format!("{} ({rate:.1}/s)", grouped(self.value)),
            _ => grouped(self.value),
        }
    }
}

/// The last readings, of which rates are made.
#[derive(Default)]
struct Rates(VecDeque<(Instant, Vec<Reading>)>);

impl Rates {
    /// Takes a reading and says how fast each counter moves.
    fn take(&mut self, at: Instant, readings: &[Reading]) -> Vec<Moving> {
        while self.0.len() > 1 && self.0.get(1).is_some_and(|(then, _)| at - *then >= RATE_OVER) {
            self.0.pop_front();
        }
        let (since, before) = match self.0.front() {
            Some((then, before)) => (*then, before.as_slice()),
            None => (at, &[][..]),
        };
        let took = (at - since).as_secs_f64();
        let moving = |(n, one): (usize, &Reading)| {
            let then = before.get(n).map_or(0, |then| then.value);
            let moved = one.value.saturating_sub(then);
            // Counts of less than Mega are exact in a double, and the others near enough.
            let rate = (!one.is_gauge && took > 0.0).then(|| moved as f64 / took);
            let rate = rate.map(|rate| (rate * 10.0).round() / 10.0);
            Moving { name: one.name, value: one.value, rate }
        };
        let moving = readings.iter().enumerate().map(moving).collect();
        self.0.push_back((at, readings.to_vec()));
        moving
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_that_of_the_last_seconds() {
        let counters = Counters::default();
        let (orders, makers) = (counters.counter("orders"), counters.gauge("makers"));
        makers.set(3);
        let mut rates = Rates::default();
        let mut last = Vec::new();
        for second in 0..30 {
            last = rates.take(Instant::now(), &counters.read());
            orders.add(if second < 15 { 100 } else { 2 });
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!((last[0].name, last[0].rate), ("orders", Some(2.0)));
        assert_eq!(last[0].shown(), "1 528 (2.0/s)");
        assert_eq!((last[1].value, last[1].rate), (3, None), "a gauge has no rate");
        assert_eq!(last[1].shown(), "3");
    }

    #[test]
    fn nothing_that_others_wrote_commands_the_terminal() {
        assert_eq!(lines("a\x1b[31mb\nc"), "a\u{FFFD}[31mb\nc");
    }
}
