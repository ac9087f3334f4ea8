#!/usr/bin/env python3
"""Checks rendered manifests as far as that goes without a cluster: manifests.py FILE...

Every pod is fit for the restricted Pod Security level, has a read-only root, requests and a bound on
memory; what is mounted, selected and referred to within the release is there; nothing reaches beyond
its namespace; what is TOML parses, and nats-server takes the
configuration that it would get. Needs PyYAML (`make tools`).
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import tomllib

import yaml

CLUSTER_WIDE = {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "Namespace", "PersistentVolume"}
found = []


def pod(document):
    spec = document.get("spec", {})
    return spec.get("template") if document["kind"] in {"Deployment", "StatefulSet", "Job"} else None


def check_pod(place, template, wrong):
    spec = template["spec"]
    security = spec.get("securityContext", {})
    if security.get("runAsNonRoot") is not True or not security.get("runAsUser"):
        wrong(f"{place} may run as root")
    if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        wrong(f"{place} has no seccomp profile")
    for unsafe in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(unsafe):
            wrong(f"{place} has {unsafe}")
    if spec.get("enableServiceLinks") is not False:
        wrong(f"{place} gets the environment of services")
    volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
    volumes |= {"data": {"claim": True}} if "nats" in place else {}
    for name, volume in volumes.items():
        if "hostPath" in volume:
            wrong(f"{place} mounts the host by {name}")
    for container in spec["containers"]:
        own = container.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False or own.get("capabilities") != {"drop": ["ALL"]}:
            wrong(f"{place} may gain privileges")
        if own.get("readOnlyRootFilesystem") is not True:
            wrong(f"{place} writes to its root")
        resources = container.get("resources", {})
        if not resources.get("requests") or "memory" not in resources.get("limits", {}):
            wrong(f"{place} takes what memory it likes")
        mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
        for name in sorted(mounted ^ set(volumes)):
            wrong(f"{place}: {name} is mounted and missing, or there and not mounted")
        files = [env.get("value", "") for env in container.get("env", [])] + container.get("args", [])
        for file in files:
            if file.startswith("/etc/") and not any(
                file.startswith(mount["mountPath"]) for mount in container.get("volumeMounts", [])
            ):
                wrong(f"{place} reads {file}, which nothing mounts")


def selects(selector, labels):
    return all(labels.get(name) == value for name, value in selector.items())


def check(path, documents):
    wrong = lambda what: found.append(f"{path.name}: {what}")
    templates = {f"{d['kind']} {d['metadata']['name']}": pod(d) for d in documents if pod(d)}
    labels = [template["metadata"]["labels"] for template in templates.values()]
    accounts = {d["metadata"]["name"] for d in documents if d["kind"] == "ServiceAccount"}
    services = {d["metadata"]["name"] for d in documents if d["kind"] == "Service"}
    maps = {d["metadata"]["name"] for d in documents if d["kind"] == "ConfigMap"}
    for place, template in templates.items():
        check_pod(place, template, wrong)
        if template["spec"]["serviceAccountName"] not in accounts:
            wrong(f"{place}: its service account is missing")
        for volume in template["spec"].get("volumes", []):
            if "configMap" in volume and volume["configMap"]["name"] not in maps:
                wrong(f"{place}: the ConfigMap {volume['configMap']['name']} is missing")
    seen = set()
    for document in documents:
        kind, name, spec = document["kind"], document["metadata"]["name"], document.get("spec", {})
        if kind in CLUSTER_WIDE or "namespace" in document["metadata"]:
            wrong(f"{kind} {name} reaches beyond the namespace of the release")
        if (kind, name) in seen:
            wrong(f"{kind} {name} is there twice")
        seen.add((kind, name))
        if kind == "Service" and not any(selects(spec["selector"], each) for each in labels):
            wrong(f"Service {name} selects no pod")
        if kind == "PodDisruptionBudget":
            matching = [each for each in labels if selects(spec["selector"]["matchLabels"], each)]
            if len(matching) != 1:
                wrong(f"PodDisruptionBudget {name} covers {len(matching)} workloads")
        if kind in {"Deployment", "StatefulSet"}:
            if not selects(spec["selector"]["matchLabels"], spec["template"]["metadata"]["labels"]):
                wrong(f"{kind} {name} does not select its own pods")
        if kind == "StatefulSet" and spec["serviceName"] not in services:
            wrong(f"StatefulSet {name}: its service is missing")
        if kind == "Ingress":
            for rule in spec["rules"]:
                for path_of in rule["http"]["paths"]:
                    if path_of["backend"]["service"]["name"] not in services:
                        wrong(f"Ingress {name}: {rule['host']} leads nowhere")
        if kind == "Role":
            for rule in document["rules"]:
                if "*" in rule["verbs"] + rule["resources"] + rule["apiGroups"] or "secrets" in rule["resources"]:
                    wrong(f"Role {name} may do too much")
        for file, text in document.get("data", {}).items() if kind == "ConfigMap" else ():
            if file == "nats.conf":
                check_servers(name, text, wrong)
            if file.endswith(".toml"):
                try:
                    tomllib.loads(text)
                except tomllib.TOMLDecodeError as error:
                    wrong(f"ConfigMap {name}: {file}: {error}")


def check_servers(name, text, wrong):
    """Has nats-server read the configuration, with credentials as nats/generate.py makes them."""
    root = pathlib.Path(__file__).resolve().parents[2]
    server = os.environ.get("LOCKGATE_NATS_SERVER", "nats-server")
    with tempfile.TemporaryDirectory() as folder:
        made = [str(root / "nats/generate.py"), "--realms", "a", "--out", f"{folder}/nats-server", "--node", "nats=nats"]
        subprocess.run(["python3", *made], check=True, stdout=subprocess.DEVNULL)
        os.mkdir(f"{folder}/nats")
        for mounted in ("/etc/nats-server", "/data", "/run/nats"):
            text = text.replace(f'"{mounted}', f'"{folder}/{mounted.rpartition("/")[2]}')
        pathlib.Path(f"{folder}/nats/nats.conf").write_text(text)
        ran = subprocess.run(
            [server, "-t", "-c", f"{folder}/nats/nats.conf"],
            capture_output=True, text=True, env={**os.environ, "POD_NAME": "nats-0"},
        )
        if ran.returncode != 0:
            wrong(f"nats-server refuses {name}: {ran.stderr.strip()}")


def main():
    for path in map(pathlib.Path, sys.argv[1:]):
        check(path, [each for each in yaml.safe_load_all(path.read_text()) if each])
    for what in found:
        print(f"error: {what}", file=sys.stderr)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
