//! What is printed, and in which dress: bars and colour for a terminal, plain lines for a pipe,
//! JSON for a script.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;
use serde_json::value::RawValue;

use super::delivery::{Delivery, Phase};
use super::raw::one_line;

const DATA_SHOWN: usize = 56;
const BAR_WIDTH: usize = 20;

/// Where a command's output goes.
pub(crate) struct Screen {
    style: Style,
    colour: bool,
    bar: ProgressBar,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Terminal,
    Plain,
    Json,
}

/// True when `stream` is a terminal that may be coloured: see <https://no-color.org>.
pub(crate) fn colour_allowed(stream: &impl IsTerminal) -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    stream.is_terminal() && !set("NO_COLOR") && !dumb
}

impl Screen {
    /// The screen of this process.
    pub(crate) fn new(json: bool) -> Self {
        let style = match (json, io::stdout().is_terminal()) {
            (true, _) => Style::Json,
            (false, true) => Style::Terminal,
            (false, false) => Style::Plain,
        };
        Self { style, colour: colour_allowed(&io::stdout()), bar: ProgressBar::hidden() }
    }

    /// True when people read along.
    pub(crate) fn is_terminal(&self) -> bool {
        self.style == Style::Terminal
    }

    /// True when a script reads along.
    pub(crate) fn is_json(&self) -> bool {
        self.style == Style::Json
    }

    /// Shows a bar: towards `length`, or only a count.
    pub(crate) fn show_bar(&mut self, name: &'static str, length: Option<u64>) {
        if self.style != Style::Terminal {
            return;
        }
        let template = match length {
            Some(_) => format!("{{prefix:8}} {{bar:{BAR_WIDTH}}}  {{msg}}"),
            None => String::from("{prefix:8} {spinner} {msg}"),
        };
        let style = ProgressStyle::with_template(&template)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("██░");
        self.hide_bar();
        self.bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr());
        self.bar.set_style(style);
        self.bar.set_prefix(name);
    }

    /// Moves the bar.
    pub(crate) fn advance(&self, position: u64, message: impl FnOnce() -> String) {
        if !self.bar.is_hidden() {
            self.bar.set_position(position);
            self.bar.set_message(message());
        }
    }

    /// Takes the bar away.
    pub(crate) fn hide_bar(&mut self) {
        std::mem::replace(&mut self.bar, ProgressBar::hidden()).finish_and_clear();
    }

    /// A line of the result, on standard output. A reader that has gone away is an error: showing
    /// was the work.
    pub(crate) fn line(&self, text: &str) -> io::Result<()> {
        self.bar.suspend(|| writeln!(io::stdout().lock(), "{text}"))
    }

    /// A line about work that is done, on standard output: whether anyone still reads it does not
    /// change how the work went.
    pub(crate) fn told(&self, text: &str) -> io::Result<()> {
        self.bar.suspend(|| tell(text))
    }

    /// A JSON record of the result, on standard output.
    pub(crate) fn record(&self, record: &Value) -> io::Result<()> {
        self.line(&record.to_string())
    }

    /// A remark that is no part of the result, on standard error.
    pub(crate) fn note(&self, text: &str) {
        self.bar.suspend(|| remark(text));
    }

    /// True when a person is likely to see a remark.
    pub(crate) fn is_watched(&self) -> bool {
        io::stderr().is_terminal() || io::stdout().is_terminal()
    }

    /// One delivered event.
    pub(crate) fn delivery(&self, delivery: &Delivery) -> io::Result<()> {
        let (phase, topic) = (delivery.phase.as_str(), delivery.topic.to_string());
        let (key, data) = (printable(&delivery.key), delivery.data.as_deref().map(printable));
        match self.style {
            // The event as it came: another reading would change its numbers.
            Style::Json => {
                self.line(&format!("{{\"phase\":\"{phase}\",\"event\":{}}}", delivery.event))
            }
            Style::Plain => {
                self.line(&format!("{phase}\t{topic}\t{key}\t{}", data.unwrap_or_default()))
            }
            // The bar counts the rows; thousands of lines would only hide it.
            Style::Terminal if delivery.phase == Phase::Prefill => Ok(()),
            Style::Terminal => {
                let data = match data {
                    Some(data) => shortened(&data, DATA_SHOWN),
                    None => self.dim("deleted"),
                };
                let late = delivery.age().map_or_else(String::new, |age| self.dim(&short(age)));
                let phase = self.bright(&format!("{phase:8}"));
                self.line(&format!("{phase} {topic:<22}  {key:<16}  {data}  {late}"))
            }
        }
    }

    /// An event that cannot be read as one: shown as it came, nothing in it obeyed.
    pub(crate) fn not_understood(&self, phase: Phase, text: &str) -> io::Result<()> {
        let (phase, json) = (phase.as_str(), serde_json::from_str::<&RawValue>(text).is_ok());
        match self.style {
            Style::Json if json => {
                self.line(&format!("{{\"phase\":\"{phase}\",\"event\":{}}}", one_line(text)))
            }
            Style::Json => self.record(&serde_json::json!({ "phase": phase, "text": text })),
            _ => self.line(&format!("{phase}\t-\t-\t{}", printable(text))),
        }
    }

    /// The line that stands where the bar of a finished prefill was.
    pub(crate) fn prefill_done(&self, rows: u64, rate: &str) -> io::Result<()> {
        match self.style {
            Style::Terminal => {
                let bar = self.bright(&"█".repeat(BAR_WIDTH));
                let rows = grouped(rows);
                self.line(&format!("prefill  {bar}  {rows} rows · {rate}/s · manifest verified"))
            }
            Style::Plain => Ok(()),
            Style::Json => self.record(&serde_json::json!({
                "control": "prefill-end", "rows": rows, "verified": true,
            })),
        }
    }

    fn dim(&self, text: &str) -> String {
        if self.colour { format!("\x1b[2m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bright(&self, text: &str) -> String {
        if self.colour { format!("\x1b[36m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A line about work that is done, on standard output; see [`Screen::told`].
pub(crate) fn tell(text: &str) -> io::Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// A remark on standard error. Where nobody reads it, nothing is lost.
pub(crate) fn remark(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// What others wrote may hold control characters that command a terminal: they are shown as `�`.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect()
}

/// `12 408`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// How many a second, grouped.
pub(crate) fn per_second(count: u64, took: Duration) -> String {
    let micros = took.as_micros().max(1);
    grouped(u64::try_from(u128::from(count) * 1_000_000 / micros).unwrap_or(u64::MAX))
}

/// `0.8 ms`, `35 s`, `2 h`.
pub(crate) fn short(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{:.1} ms", duration.as_secs_f64() * 1000.0),
        1..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_are_written_as_people_write_them() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1 000", "1 234 567"]);
        let ms = Duration::from_millis;
        assert_eq!(
            [ms(1), ms(35_000), ms(180_000), ms(7_200_000)].map(short),
            ["1.0 ms", "35 s", "3 min", "2 h"]
        );
        assert_eq!(per_second(500, ms(100)), "5 000");
        assert_eq!(per_second(0, Duration::ZERO), "0");
    }

    #[test]
    fn nothing_that_others_wrote_commands_the_terminal() {
        assert_eq!(printable("a\x1b[31mb\u{9b}c\n"), "a�[31mb�c�");
        assert_eq!(shortened("äöü", 2), "ä…");
        assert_eq!(shortened("äö", 2), "äö");
    }
}
