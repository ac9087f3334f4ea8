//! The report: one page that stands alone, without network or script.

use std::fmt::Write as _;

use super::plot::{Scale, backlog, figure, latency, strip};
use super::{Findings, Plan, Summary};
use crate::medisupply::Mode;

const STYLE: &str = include_str!("report.css");

/// The findings as an HTML page: figures, verdict and drawings, light or dark as the reader's
/// system is.
pub fn html(plan: &Plan, findings: &Findings) -> String {
    let Findings { summary, timeline } = findings;
    let scale = Scale::new(timeline);
    let health = timeline.stretches(|one| one.health.map(|health| health.as_str().to_owned()));
    let breaker = match timeline.breaker.is_empty() {
        true => timeline.stretches(|one| one.breaker.clone()),
        false => timeline.breaker.clone(),
    };
    let mut page = format!(
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>\
         <meta name='viewport' content='width=device-width, initial-scale=1'>\
         <meta name='color-scheme' content='light dark'>\
         <title>MediSupply: external service {mode}</title>\n<style>\n{STYLE}</style></head>\n\
         <body><main>{head}{tiles}",
        mode = word(summary.mode),
        head = head(plan, summary),
        tiles = tiles(summary),
    );
    page.push_str(&section(
        "Order POST",
        &[("median", "median"), ("worst", "slowest of its moment"), ("objective", "50 ms")],
        &latency(&scale, &timeline.shots),
    ));
    page.push_str(&section(
        "External service, as the monitor says",
        &["HEALTHY", "DEGRADED", "UNHEALTHY", "DOWN"].map(|health| (health_class(health), health)),
        &strip(&scale, "health of the external service", &health, health_class),
    ));
    page.push_str(&section(
        "Circuit breaker",
        &["closed", "half-open", "open"].map(|state| (breaker_class(state), state)),
        &strip(&scale, "state of the circuit breaker", &breaker, breaker_class),
    ));
    page.push_str(&section(
        "Orders that wait",
        &[("jobs", "to be asked about"), ("parked", "parked until recovery")],
        &backlog(&scale, timeline),
    ));
    page.push_str(&table(summary));
    page.push_str("</main></body></html>\n");
    page
}

/// A drawing with a title, and what each class of mark in it means.
fn section(title: &str, legend: &[(&str, &str)], drawing: &str) -> String {
    let mut marks = String::new();
    for (class, meaning) in legend {
        let _ = write!(marks, "<span><i class='k {class}'></i>{meaning}</span>");
    }
    format!(
        "<section><h2>{title}<span class='legend'>{marks}</span></h2>\
         <div class='wide'>{drawing}</div></section>\n"
    )
}

fn head(plan: &Plan, summary: &Summary) -> String {
    let slower = summary.bounds.iter().any(|bound| bound.timing && !bound.holds);
    let (passed, said) = match (summary.passed(), slower) {
        (true, false) => ("kept", "every promise kept"),
        (true, true) => ("slower", "kept, but slower than promised"),
        (false, _) => ("broken", "a promise was broken"),
    };
    let during = match summary.mode {
        Mode::Normal => String::from("as well as always"),
        Mode::Slow => String::from("slow"),
        Mode::Down => String::from("down: connections were refused"),
        Mode::Error => {
            let rate = plan.fault.rate.unwrap_or(1.0) * 100.0;
            format!("failing {} % of its calls", figure(rate))
        }
        Mode::Flapping => String::from("flapping between failing and well"),
    };
    format!(
        "<header><p class='verdict {passed}'>{said}</p><h1>MediSupply under fault</h1>\
         <p>{} orders at {} a second. During the middle third, which is shaded, the external \
         service was {during}.</p></header>\n",
        plan.orders, plan.rate
    )
}

fn tiles(summary: &Summary) -> String {
    let detected = summary.detected_ms.map_or_else(|| String::from("-"), |ms| format!("{ms} ms"));
    let accepted = format!("accepted of {}", summary.sent);
    let tiles = [
        (accepted.as_str(), summary.accepted.to_string()),
        ("lost", summary.lost.to_string()),
        ("decided twice", summary.duplicated.to_string()),
        ("POST p99", format!("{} ms", figure(summary.post_p99_ms))),
        ("fault detected after", detected),
        ("calls for each order, in the fault", figure(summary.calls_per_order)),
        ("all decided after", format!("{} s", figure(summary.drained_ms as f64 / 1000.0))),
    ];
    let mut html = String::from("<dl class='tiles'>");
    for (name, value) in tiles {
        let _ = write!(html, "<div><dt>{name}</dt><dd>{value}</dd></div>");
    }
    html.push_str("</dl>\n");
    html
}

fn table(summary: &Summary) -> String {
    let mut html = String::from(
        "<section><h2>Promises</h2><div class='wide'><table><tr><th></th><th>promise</th>\
         <th>measured</th></tr>",
    );
    for bound in &summary.bounds {
        let mark = match (bound.holds, bound.timing) {
            (true, _) => "kept",
            (false, true) => "slower",
            (false, false) => "broken",
        };
        let note = if bound.timing { " <small>(depends on the machine)</small>" } else { "" };
        let _ = write!(
            html,
            "<tr><td class='{mark}'>{mark}</td><td>{}{note}</td><td>{}</td></tr>",
            bound.name, bound.detail
        );
    }
    let _ = write!(
        html,
        "</table></div></section>\n<section><h2>Orders</h2><p>{} validated, {} rejected, {} failed \
         (refused for good), {} lost; parked {} times. The order POST took {} ms at the median, {} \
         ms at most. The breaker opened {} times.</p></section>\n",
        summary.validated,
        summary.rejected,
        summary.failed,
        summary.lost,
        summary.parked,
        figure(summary.post_p50_ms),
        figure(summary.post_max_ms),
        summary.breaker_opened
    );
    html
}

fn word(mode: Mode) -> &'static str {
    match mode {
        Mode::Normal => "normal",
        Mode::Slow => "slow",
        Mode::Down => "down",
        Mode::Error => "error",
        Mode::Flapping => "flapping",
    }
}

fn health_class(health: &str) -> &'static str {
    match health {
        "HEALTHY" => "good",
        "DEGRADED" => "fair",
        "UNHEALTHY" => "poor",
        _ => "bad",
    }
}

fn breaker_class(state: &str) -> &'static str {
    match state {
        "closed" => "good",
        "half-open" => "fair",
        _ => "bad",
    }
}
