//! What was measured, beside what it is held against.

use std::time::Duration;

use crate::cpu::Idle;
use crate::load::Rates;

/// The figures of one bus.
pub(crate) struct Figures {
    name: String,
    pub(crate) keys_per_second: f64,
    pub(crate) registered: Rates,
    pub(crate) lists: Vec<Duration>,
    pub(crate) idle: Idle,
    pub(crate) memory: u64,
    pub(crate) ready_again: Option<Duration>,
    pub(crate) registered_again: Option<f64>,
}

impl Figures {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            keys_per_second: 0.0,
            registered: Rates::default(),
            lists: Vec::new(),
            idle: Idle::default(),
            memory: 0,
            ready_again: None,
            registered_again: None,
        }
    }

    fn list(&self) -> (f64, f64) {
        let mut lists: Vec<f64> = self.lists.iter().map(|took| took.as_secs_f64() * 1e3).collect();
        lists.sort_by(f64::total_cmp);
        let median = lists.get(lists.len() / 2).copied().unwrap_or_default();
        (median, lists.last().copied().unwrap_or_default())
    }
}

pub(crate) fn print(table: &[Figures]) {
    let or_none = |figure: Option<String>| figure.unwrap_or_else(|| "-".to_owned());
    println!("{:34} {}", "", names(table));
    row("keys published/s", table, "", |f| format!("{:.0}", f.keys_per_second));
    row("registrations/s", table, "400", |f| format!("{:.0}", f.registered.all));
    row("  the first 500", table, "", |f| format!("{:.0}", f.registered.first));
    row("  the last 500", table, "", |f| format!("{:.0}", f.registered.last));
    row("a list page, median ms", table, "50", |f| format!("{:.1}", f.list().0));
    row("a list page, slowest ms", table, "", |f| format!("{:.1}", f.list().1));
    row("idle, % of a core", table, "3", |f| format!("{:.1}", f.idle.lockgate * 100.0));
    row("  the server of the bus", table, "", |f| {
        or_none(f.idle.server.map(|server| format!("{:.1}", server * 100.0)))
    });
    row("memory, MiB", table, "", |f| format!("{}", f.memory >> 20));
    row("ready after a restart, s", table, "5", |f| {
        or_none(f.ready_again.map(|ready| format!("{:.2}", ready.as_secs_f64())))
    });
    row("registrations/s after it", table, "400", |f| {
        or_none(f.registered_again.map(|rate| format!("{rate:.0}")))
    });
}

fn names(table: &[Figures]) -> String {
    let columns: String = table.iter().map(|f| format!("{:>14}", f.name)).collect();
    format!("{columns}{:>8}", "goal")
}

fn row(what: &str, table: &[Figures], goal: &str, figure: impl Fn(&Figures) -> String) {
    let columns: String = table.iter().map(|f| format!("{:>14}", figure(f))).collect();
    println!("{what:34} {columns}{goal:>8}");
}
