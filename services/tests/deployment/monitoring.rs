//! The alerts and the dashboard: every expression parses, uses the metrics that the runbook names, and
//! every alert is explained there.

use std::collections::BTreeSet;
use std::fs;

use promql_parser::parser;
use serde::Deserialize;
use serde_json::Value;

use super::repository;

#[derive(Deserialize)]
struct Rules {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    alert: String,
    expr: String,
    #[serde(default, rename = "for")]
    _for: Option<String>,
    labels: Labels,
    annotations: Annotations,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Labels {
    severity: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Annotations {
    summary: String,
}

fn file(path: &str) -> String {
    fs::read_to_string(repository().join(path)).expect("the file")
}

fn rules() -> Vec<Rule> {
    let rules: Rules =
        serde_saphyr::from_str(&file("deploy/monitoring/alerts.yaml")).expect("YAML");
    rules.groups.into_iter().flat_map(|group| group.rules).collect()
}

/// The words of a text that begin with `lockgate_`.
fn metrics(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("lockgate_"))
        .map(str::to_owned)
        .collect()
}

/// What the runbook lists, with what Prometheus makes of a histogram.
fn known() -> BTreeSet<String> {
    let runbook = file("deploy/README.md");
    let rows = runbook.lines().filter(|line| line.starts_with("| `lockgate_"));
    let listed: BTreeSet<_> = rows.flat_map(metrics).collect();
    assert!(listed.len() >= 16, "{listed:?}");
    let made =
        |name: &String| ["", "_bucket", "_sum", "_count"].map(|suffix| format!("{name}{suffix}"));
    listed.iter().flat_map(made).collect()
}

fn check(place: &str, expression: &str, known: &BTreeSet<String>) {
    // What Grafana puts in before Prometheus sees it.
    let query = expression.replace("$__rate_interval", "5m").replace("$__range", "3h");
    let parsed = parser::parse(&query);
    assert!(parsed.is_ok(), "{place}: {expression}: {parsed:?}");
    let used = metrics(expression);
    assert!(!used.is_empty(), "{place}: {expression} asks for no metric of Lockgate");
    let unknown: Vec<_> = used.difference(known).collect();
    assert!(unknown.is_empty(), "{place}: {unknown:?} is not in the table of deploy/README.md");
}

#[test]
fn every_alert_parses_and_is_explained_in_the_runbook() {
    let (rules, known, runbook) = (rules(), known(), file("deploy/README.md"));
    let mut names = BTreeSet::new();
    for Rule { alert, expr, labels, annotations, .. } in &rules {
        check(alert, expr, &known);
        assert!(names.insert(alert.clone()), "{alert} is there twice");
        assert!(["page", "ticket"].contains(&labels.severity.as_str()), "{alert}");
        assert!(!annotations.summary.is_empty(), "{alert}");
    }
    let explained = runbook.lines().filter_map(|line| line.strip_prefix("### Lockgate"));
    let explained: BTreeSet<_> = explained.map(|name| format!("Lockgate{name}")).collect();
    assert_eq!(names, explained, "alerts, and the headings of deploy/README.md");
}

#[test]
fn every_panel_of_the_dashboard_parses() {
    let dashboard: Value =
        serde_json::from_str(&file("deploy/monitoring/dashboard.json")).expect("JSON");
    let known = known();
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut shown = BTreeSet::new();
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let title = panel["title"].as_str().expect("a title");
        assert!(panel["description"].as_str().is_some_and(|text| !text.is_empty()), "{title}");
        for target in panel["targets"].as_array().expect("targets") {
            let expression = target["expr"].as_str().expect("an expression");
            check(title, expression, &known);
            shown.extend(metrics(expression));
        }
    }
    let families = |name: &String| !["_bucket", "_sum", "_count"].iter().any(|s| name.ends_with(s));
    let hidden: Vec<_> = known
        .iter()
        .filter(|name| families(name) && !shown.contains(*name))
        .filter(|name| !shown.contains(&format!("{name}_bucket")))
        .collect();
    assert!(hidden.is_empty(), "the dashboard does not show {hidden:?}");
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len(), "two panels have one id");
}
