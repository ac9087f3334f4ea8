#!/usr/bin/env python3
"""Checks deploy/monitoring: every expression of the alerts and of the dashboard parses as PromQL and asks
for metrics that the table in deploy/README.md names, every alert is explained there, and the dashboard
shows every metric. Needs PyYAML and promql-parser, which `make tools` installs.
"""

import json
import pathlib
import re
import sys

import promql_parser
import yaml

DEPLOY = pathlib.Path(__file__).resolve().parent.parent
SERIES = ("", "_bucket", "_sum", "_count")
found = []


def wrong(what):
    found.append(what)


def metrics(text):
    return set(re.findall(r"\b(?:lockgate|bus)_[a-z_]+", text))


def check(place, expression, known):
    # What Grafana puts in before Prometheus sees it.
    query = expression.replace("$__rate_interval", "5m").replace("$__range", "3h")
    try:
        promql_parser.parse(query)
    except Exception as error:
        wrong(f"{place}: {expression.strip()}: {error}")
    used = metrics(expression)
    if not used:
        wrong(f"{place}: {expression.strip()} asks for no metric of Lockgate")
    for name in sorted(used - known):
        wrong(f"{place}: {name} is not in the table of deploy/README.md")
    return used


def alerts(runbook, known):
    names = []
    for group in yaml.safe_load((DEPLOY / "monitoring/alerts.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            name = rule["alert"]
            names.append(name)
            if unknown := set(rule) - {"alert", "expr", "for", "labels", "annotations"}:
                wrong(f"{name}: {', '.join(sorted(unknown))} is no part of a rule")
            check(name, rule["expr"], known)
            if "for" in rule and not re.fullmatch(r"[0-9]+[smh]", str(rule["for"])):
                wrong(f"{name}: for: {rule['for']} is no duration")
            if rule["labels"].get("severity") not in ("page", "ticket"):
                wrong(f"{name}: severity is page or ticket")
            if not rule["annotations"].get("summary"):
                wrong(f"{name}: there is no summary")
    explained = re.findall(r"^### (Lockgate\w+)$", runbook, re.MULTILINE)
    if sorted(names) != sorted(set(explained)):
        wrong(f"alerts {sorted(names)}, explained in deploy/README.md: {sorted(explained)}")


def dashboard(known, listed):
    panels = json.loads((DEPLOY / "monitoring/dashboard.json").read_text())["panels"]
    shown = set()
    for panel in panels:
        if panel["type"] == "row":
            continue
        if not panel.get("description"):
            wrong(f"{panel['title']}: there is no description")
        for target in panel["targets"]:
            shown |= check(panel["title"], target["expr"], known)
    for name in sorted(listed):
        if not shown & {name + suffix for suffix in SERIES}:
            wrong(f"the dashboard does not show {name}")
    if len({panel["id"] for panel in panels}) != len(panels):
        wrong("two panels of the dashboard have one id")


def main():
    runbook = (DEPLOY / "README.md").read_text()
    listed = {name for row in re.findall(r"^\| `(?:lockgate|bus)_.*$", runbook, re.MULTILINE) for name in metrics(row)}
    if len(listed) < 16:
        wrong(f"the table of metrics in deploy/README.md has {len(listed)} rows")
    known = {name + suffix for name in listed for suffix in SERIES}
    alerts(runbook, known)
    dashboard(known, listed)
    for what in found:
        print(f"error: {what}", file=sys.stderr)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
