//! What the demo shows: bars on a terminal, plain lines when piped, nothing but the verdict as
//! JSON.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::Value;

use super::DemoOptions;
use super::verdict::Verdict;

/// The demo's output. Cheap to clone.
#[derive(Clone)]
pub(super) struct Screen {
    kind: Kind,
    publish: ProgressBar,
    prefill: ProgressBar,
    live: ProgressBar,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Terminal,
    Plain,
    Json,
}

impl Screen {
    pub(super) fn new(options: &DemoOptions) -> Self {
        let kind = match (options.json, std::io::stdout().is_terminal()) {
            (true, _) => Kind::Json,
            (false, true) => Kind::Terminal,
            (false, false) => Kind::Plain,
        };
        let bars = MultiProgress::new();
        let add = |bar: ProgressBar, template: &str, name: &'static str| {
            if kind != Kind::Terminal {
                return ProgressBar::hidden();
            }
            let style = ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            bars.add(bar.with_style(style).with_prefix(name))
        };
        let bar = "{prefix:<9} {bar:24} {pos} of {len} changes";
        let count = "{prefix:<9} {pos} {wide_msg}";
        let screen = Self {
            kind,
            publish: add(ProgressBar::new(options.changes), bar, "publish"),
            prefill: add(ProgressBar::no_length(), count, "prefill"),
            live: add(ProgressBar::no_length(), count, "live"),
        };
        let pace = match options.rate {
            0 => "as fast as they go".to_owned(),
            rate => format!("{rate} a second"),
        };
        screen.line(&format!(
            "Lockgate demo · {} changes of a small directory, {pace}, a subscription on the way",
            options.changes
        ));
        screen
    }

    pub(super) fn published(&self, count: u64) {
        self.publish.inc(count);
    }

    pub(super) fn registered(&self, topics: &str, fence: u64) {
        self.line(&format!("register  {topics} with prefill · fence at sequence {fence}"));
        self.prefill.set_message("rows");
    }

    pub(super) fn row(&self) {
        self.prefill.inc(1);
    }

    pub(super) fn prefilled(&self, rows: usize, after: Duration) {
        let after = after.as_millis();
        self.prefill.finish_with_message(format!("rows · complete after {after} ms"));
        if self.kind == Kind::Plain {
            say(&format!("prefill   {rows} rows · complete after {after} ms"));
        }
    }

    pub(super) fn live(&self, event: &Value) {
        self.live.inc(1);
        if self.kind == Kind::Terminal {
            let text = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default();
            let data = event.get("data").map_or("deleted".to_owned(), ToString::to_string);
            let (topic, key) = (text("topic"), text("subject"));
            self.live.set_message(format!("changes · {topic}  {key}  {data}"));
        }
    }

    pub(super) fn note(&self, note: &str) {
        self.line(&format!("note      {note}"));
    }

    pub(super) fn verdict(&self, verdict: &Verdict) {
        self.publish.finish();
        self.live.finish_with_message("changes");
        if self.kind == Kind::Json {
            say(&serde_json::to_string(verdict).unwrap_or_default());
            return;
        }
        let mut text = String::new();
        for check in &verdict.checks {
            let mark = if check.kept { "kept  " } else { "BROKEN" };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{mark}    {:<38} {}", check.promise, check.detail);
        }
        say(&format!("{text}verdict   {}", if verdict.passed { "PASS" } else { "FAIL" }));
    }

    fn line(&self, line: &str) {
        match self.kind {
            Kind::Terminal => self.publish.suspend(|| say(line)),
            Kind::Plain => say(line),
            Kind::Json => {}
        }
    }
}

/// A line for whoever reads along. That nobody does any more changes no promise and no verdict.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}
