#!/usr/bin/env python3
"""A real API server takes what deploy/ describes: accepted.py, after kube.sh.

What the Helm chart renders (chart/golden), the KEDA files and the operator's Role are applied in
namespaces that enforce the restricted Pod Security level. Unknown fields, values that a schema does
not allow and warnings are refusals. Real controllers then make the pods, which is where Pod Security
refuses: every workload must get its pods. Custom resources are those of KEDA and of Prometheus'
operator. Needs kubectl, openssl and PyYAML (`make tools`); takes half a minute.
"""

import json
import pathlib
import sys
import tempfile

import yaml

from cluster import Cluster, Failed, servers

DEPLOY = pathlib.Path(__file__).resolve().parents[2]
# Of what is applied at the end: each must be refused, or the rest says nothing.
MISSPELT = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "misspelt"}, "dat": {}}
UNSAFE = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "unsafe"}, "spec": {
    "selector": {"matchLabels": {"app": "unsafe"}},
    "template": {"metadata": {"labels": {"app": "unsafe"}},
                 "spec": {"containers": [{"name": "unsafe", "image": "unsafe"}]}}}}


def documents(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def wanted_pods(document):
    """How many pods a workload gets, at the least."""
    kind, spec = document["kind"], document.get("spec", {})
    if kind in ("Deployment", "StatefulSet"):
        # Without a number an autoscaler says it, or it is one.
        return spec.get("replicas", 1)
    return 1 if kind == "Job" else 0


def job_of(scaled):
    """The Job that KEDA makes of a ScaledJob: Pod Security does not look into a custom resource."""
    name = scaled["metadata"]["name"]
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": scaled["spec"]["jobTargetRef"]}


def accepted(cluster, name, described):
    """Applies manifests in a namespace of their own; returns how many objects and pods there are."""
    cluster.namespace(name)
    cluster.apply(yaml.safe_dump_all(described), "-n", name)
    wanted = sum(wanted_pods(document) for document in described)

    def has_pods():
        pods = len(cluster.get("pods", "-n", name)["items"])
        if pods < wanted:
            events = cluster.get("events", "-n", name, "--field-selector=type=Warning")["items"]
            refusals = [event["message"] for event in events if "forbidden" in event["message"]]
            raise Failed(f"{pods} of {wanted} pods; {refusals}")
        return True

    cluster.wait(f"{name}: every workload has its pods", has_pods, limit=60)
    return len(described), wanted


def refused(cluster, name, document, why):
    try:
        cluster.apply(json.dumps(document), "-n", name)
    except Failed as error:
        if why in str(error):
            return
        raise Failed(f"{document['metadata']['name']} is refused with other words: {error}") from error
    raise Failed(f"{document['metadata']['name']} is accepted: this check finds nothing")


def same_rights(sets):
    """The chart's operator has the Role that the operator is tested under."""
    roles = [document["rules"] for name in ("operator", "chart-production") for document in sets[name]
             if document["kind"] == "Role"]
    if len(roles) != 2 or roles[0] != roles[1]:
        raise Failed("the Role of chart/templates/operator.yaml is not that of operator/role.yaml")


def main():
    with tempfile.TemporaryDirectory() as folder, Cluster(folder) as cluster:
        crds = servers() / "crds"
        # As the makers of both say: client-side, they are too large for an annotation.
        for crd in sorted(crds.glob("*.yaml")):
            cluster.kubectl("apply", "--server-side", "-f", str(crd))
        for crd in cluster.get("crds")["items"]:
            cluster.kubectl("wait", "--for=condition=Established", f"crd/{crd['metadata']['name']}", "--timeout=60s")
        sets = {f"chart-{path.stem}": documents(path) for path in sorted((DEPLOY / "chart/golden").glob("*.yaml"))}
        for path in sorted((DEPLOY / "keda").glob("*.yaml")):
            described = documents(path)
            scaled = [document for document in described if document["kind"] == "ScaledJob"]
            if not scaled:
                raise Failed(f"{path.name} has no ScaledJob")
            sets[f"keda-{path.stem}"] = described + [job_of(document) for document in scaled]
        sets["operator"] = documents(DEPLOY / "operator/role.yaml")
        same_rights(sets)
        for name, described in sets.items():
            # The namespace that the files name is the one that they are applied in.
            described = json.loads(json.dumps(described).replace('"namespace": "lockgate"', f'"namespace": "{name}"'))
            print("%s: %d objects, %d pods" % (name, *accepted(cluster, name, described)), flush=True)
            for document in described:
                if document["kind"] == "ScaledJob":
                    document["spec"]["pollingIntervall"] = 2
                    refused(cluster, name, document, "pollingIntervall")
        refused(cluster, "operator", MISSPELT, "dat")
        refused(cluster, "operator", UNSAFE, "PodSecurity")
    print(f"a real API server takes all of it: {len(sets)} sets")


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        sys.exit(f"error: {error}")
