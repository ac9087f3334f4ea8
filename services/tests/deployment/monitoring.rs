//! The alerts and the dashboard: every expression parses, uses the metrics that the runbook names, and
//! every alert is explained there.

use std::path::PathBuf;
use std::process::Command;

use super::repository;

#[test]
fn alerts_and_dashboard_parse_and_are_in_the_runbook() {
    let python = std::env::var_os("LOCKGATE_PYTHON").map(PathBuf::from).unwrap_or_else(|| {
        let home = std::env::var_os("HOME").expect("HOME is set");
        PathBuf::from(home).join(".cache/lockgate/tools/python/bin/python")
    });
    assert!(python.exists(), "{} is missing: run `make tools`", python.display());
    let checked = Command::new(python)
        .arg(repository().join("deploy/scripts/monitoring.py"))
        .output()
        .expect("python runs");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}
