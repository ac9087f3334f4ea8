#!/usr/bin/env python3
"""Lockgate on a Kubernetes of this machine, installed as deploy/README.md says: `make e2e-kube`.

The image is the real one, made by image.sh, and NATS is a pod of the chart. Then, each asserted:

- the commands of the README's first look install the chart, in a namespace of the restricted level;
- an upgrade adds the operator, as its values say;
- a subscription with prefill is filled by a Job, and a consumer reads its state and what follows;
- a backlog of orders gets medicine makers, no more at once than the ceiling;
- in its place three servers with TLS, and each role apart with its own user, by the README's second
  block; again a Job fills a subscription, under the rights of the prefill user.

Needs root (namespaces, mounts, cgroups), what kube.sh node gets, helm, kubectl and nats-server. Takes four
minutes beside the build of the image. Nothing is left: what ran, was mounted and was written goes.
"""

import base64
import collections
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import urllib.request

import node
from cluster import Cluster, Failed

ROOT = pathlib.Path(__file__).resolve().parents[3]
TOOLS = pathlib.Path(os.environ.get("LOCKGATE_TOOLS") or pathlib.Path.home() / ".cache/lockgate/tools")
VERSION = re.search(r'appVersion: "(.*)"', (ROOT / "deploy/chart/Chart.yaml").read_text())[1]
NATS = re.search(r"image: (nats:\S+)", (ROOT / "deploy/chart/values.yaml").read_text())[1]
SPACE = "lockgate"
ROLES = "registration events messages dispatcher prefill".split()
CEILING, ORDERS = 2, 6
SECRET = "a-secret-of-at-least-32-characters"
MAKERS = f'''
[[queue]]
name = "makers"
stream = "tabs-orders"
consumer = "makers"
ceiling = {CEILING}
deadline = "5m"
[[queue.pod.containers]]
name = "maker"
image = "lockgate:{VERSION}"
args = ["flow", "medicine", "--role", "maker", "--wait", "5s", "--json"]
env = [{{ name = "LOCKGATE_BUS", value = "nats://lockgate-nats:4222" }}]
'''


def say(what):
    print(f"{time.monotonic() - BEGUN:6.1f} s  {what}", flush=True)


def make_images(folder):
    """The image of both programs, and NATS's under the name that the chart knows."""
    lockgate, nats = folder / "lockgate.tar", folder / "nats.tar"
    subprocess.run([ROOT / "deploy/scripts/image.sh", lockgate, f"lockgate:{VERSION}"], check=True)
    server = os.environ.get("LOCKGATE_NATS_SERVER") or TOOLS / "bin/nats-server"
    subprocess.run([sys.executable, node.OCI, "--plain", "--out", nats, "--tag", NATS, os.path.realpath(server)],
                   check=True)
    return [lockgate, nats]


def commands(number):
    """The commands of a block under "Install" in the README, as they stand there."""
    install = (ROOT / "deploy/README.md").read_text().partition("## Install\n")[2]
    return re.findall(r"```sh\n(.*?)```", install, re.DOTALL)[number]


class Test:
    def __init__(self, cluster):
        self.cluster = cluster
        self.env = dict(cluster.env, PATH=f"{TOOLS / 'bin'}:{os.environ['PATH']}")
        # Where somebody stands who has a checkout, and may write there.
        self.work = cluster.folder / "work"
        self.work.mkdir()
        for name in ("deploy", "nats"):
            (self.work / name).symlink_to(ROOT / name)

    def shell(self, commands):
        ran = subprocess.run(["bash", "-euc", commands], cwd=self.work, env=self.env, capture_output=True, text=True)
        if ran.returncode:
            raise Failed(f"{commands}: {ran.stderr}")
        return ran.stdout

    def get(self, *args):
        return self.cluster.get("-n", SPACE, *args)

    def rollout(self, *workloads):
        for workload in workloads:
            self.cluster.kubectl("-n", SPACE, "rollout", "status", workload, "--timeout=180s")

    def volumes(self, *names):
        """What the administrator of a cluster gives: room for volumes."""
        for name in names:
            store = self.cluster.folder / name
            store.mkdir()
            store.chmod(0o777)
            self.cluster.apply(json.dumps({
                "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
                "spec": {"capacity": {"storage": "20Gi"}, "accessModes": ["ReadWriteOnce"],
                         "hostPath": {"path": str(store), "type": "Directory"}}}))

    def upgrade(self, *values):
        self.shell(f"helm upgrade lockgate deploy/chart -n {SPACE} --reuse-values {' '.join(values)}")

    def first_look(self):
        self.volumes("first")
        self.shell(commands(0))
        self.rollout("statefulset/lockgate-nats", "deployment/lockgate-together")
        say("a first look, installed by the README's commands, is ready")
        makers = self.cluster.folder / "makers.toml"
        makers.write_text(MAKERS)
        self.upgrade("--set operator.enabled=true", f"--set-file operator.extraConfig={makers}")
        self.rollout("deployment/lockgate-operator", "deployment/lockgate-together")
        say("upgraded: the operator is ready")
        self.reach(collections.defaultdict(lambda: "lockgate-together"))

    def production(self):
        self.shell(f"helm uninstall lockgate -n {SPACE} --wait")
        self.cluster.kubectl("-n", SPACE, "delete", "jobs", "--all")
        self.cluster.wait("all pods are gone", lambda: not self.get("pods")["items"])
        self.cluster.kubectl("-n", SPACE, "delete", "persistentvolumeclaims", "--all")
        self.volumes("second-0", "second-1", "second-2")
        self.shell(commands(1))
        roles = [f"deployment/lockgate-{role}" for role in ROLES]
        self.rollout("statefulset/lockgate-nats", *roles)
        say("three servers with TLS and each role with its user, by the README's commands, are ready")
        self.upgrade("--set operator.enabled=true")
        self.rollout("deployment/lockgate-operator", *roles)
        say("upgraded: the operator is ready")
        self.reach({role: f"lockgate-{role}" for role in ("registration", "events", "messages")})

    def reach(self, services):
        """Through which service each role is reached, and with which tokens."""
        address = lambda role: self.get("service", services[role])["spec"]["clusterIP"]
        self.addresses = {role: address(role) for role in ("registration", "events", "messages")}
        kept = self.get("secret", "lockgate-tokens")["data"]
        self.tokens = {which: base64.b64decode(token).decode() for which, token in kept.items()}

    def request(self, role, path, body=None, token=None, kind="application/json"):
        data = None if body is None else json.dumps(body).encode()
        headers = {"authorization": f"Bearer {token}", "content-type": kind}
        request = urllib.request.Request(f"http://{self.addresses[role]}{path}", data, headers)
        return urllib.request.urlopen(request, timeout=60)

    def publish(self, number, subject, city):
        event = {"specversion": "1.0", "id": str(number), "source": "/e2e", "type": "directory.user",
                 "subject": subject, "data": {"city": city}}
        kind = "application/cloudevents+json"
        self.request("events", "/v1/events", event, self.tokens["publish-tokens"], kind).close()

    def prefill(self):
        expected = {}
        for number in range(30):
            subject = f"user-{number % 6}"
            expected[subject] = f"city-{number}"
            self.publish(number, subject, expected[subject])
        asked = {"name": "people", "topics": ["directory.*"], "prefill": True, "secret": SECRET}
        self.request("registration", "/v1/subscriptions", asked, self.tokens["admin-tokens"]).close()
        begun = time.monotonic()
        selector = "lockgate/queue=prefill"
        done = lambda: [job for job in self.get("jobs", "-l", selector)["items"] if job["status"].get("succeeded")]
        (job,) = self.cluster.wait("a Job has filled the subscription", done)
        name = job["metadata"]["name"]
        if not name.startswith("prefill-people-"):
            raise Failed(f"the Job is {name}")
        state, live = {}, {}
        with self.request("messages", "/v1/subscriptions/people/events", token=SECRET) as stream:
            rows = self.read(stream, state, "prefill-end")
            if state != expected or rows != len(expected):
                raise Failed(f"the state is {state}, of {rows} rows; expected {expected}")
            self.publish(100, "user-3", "moved")
            self.read(stream, live, None)
        if live != {"user-3": "moved"}:
            raise Failed(f"live came {live}")
        say(f"{name} filled {rows} rows, {time.monotonic() - begun:.1f} s from the request to the first live event")

    @staticmethod
    def read(stream, into, until):
        """Reads up to an event of this name, or one row; returns how many rows came."""
        name, rows = None, 0
        for line in stream:
            field, _, value = line.decode().rstrip("\n").partition(": ")
            if field == "event":
                name = value
                if name in ("prefill-failed", "expired"):
                    raise Failed(f"the stream says {name}")
            elif field == "data" and name in (None, "message"):
                event = json.loads(value)
                into[event["subject"]] = event["data"]["city"]
                rows += 1
            elif not field:
                if name == until or (until is None and rows):
                    return rows
                name = None
        raise Failed("the stream has ended")

    def medicine(self):
        image = {"name": "patient", "image": f"lockgate:{VERSION}", "args": [
            "flow", "medicine", "--role", "patient", "--orders", str(ORDERS), "--every", "1s"],
            "env": [{"name": "LOCKGATE_BUS", "value": "nats://lockgate-nats:4222"}],
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}}
        security = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        spec = {"restartPolicy": "Never", "automountServiceAccountToken": False, "securityContext": security,
                "containers": [image]}
        patient = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "patient"},
                   "spec": {"backoffLimit": 0, "template": {"spec": spec}}}
        self.cluster.apply(json.dumps(patient), "-n", SPACE)
        most = 0

        def served():
            nonlocal most
            makers = self.get("jobs", "-l", "lockgate/queue=makers")["items"]
            ends = collections.Counter(
                condition["type"] for job in makers for condition in job["status"].get("conditions", [])
                if condition["status"] == "True" and condition["type"] in ("Complete", "Failed"))
            most = max(most, len(makers) - ends.total())
            if ends["Failed"]:
                raise SystemExit(f"error: makers have failed: {makers}")
            made = self.made()
            if len(made) < ORDERS or ends["Complete"] < len(makers):
                raise Failed(f"{len(made)} orders were made by {len(makers)} makers")
            return made, len(makers)

        made, makers = self.cluster.wait("every order is made", served, limit=300)
        if most > CEILING or len(made) != len(set(made)) or makers < ORDERS:
            raise Failed(f"{makers} makers, {most} at once; the ceiling is {CEILING}; they made {made}")
        say(f"{ORDERS} orders were made, each by a Job of its own, {most} at once")

    def made(self):
        """The orders that makers have made, by their own words: each says at its end what it did."""
        words = "".join(path.read_text() for path in self.cluster.node.log_files(f"{SPACE}_makers-"))
        said = re.findall(r'^\S+ stdout F (\{.*"ended":"made".*\})$', words, re.MULTILINE)
        return [json.loads(line)["order"] for line in said]

    def explain(self):
        """What there is to see after a failure."""
        for what in ("pods -o wide", "jobs", "events --sort-by=.lastTimestamp"):
            # It says itself what it cannot show.
            subprocess.run(["kubectl", "-n", SPACE, "get", *what.split()], env=self.env, stdout=sys.stderr)
        for lines in self.cluster.node.logs(SPACE):
            print(*lines, sep="\n", file=sys.stderr)
        for name in ("kubelet", "coredns", "kube-proxy", "containerd"):
            path = self.cluster.folder / f"{name}.log"
            if path.exists():
                print(f"--- {name}", self.cluster.log(name), sep="\n", file=sys.stderr)


def inside(folder):
    images = [folder / "lockgate.tar", folder / "nats.tar"]
    with Cluster(folder, node.Node(images)) as cluster:
        say("the node is ready")
        test = Test(cluster)
        try:
            test.first_look()
            test.prefill()
            test.medicine()
            test.production()
            test.prefill()
        except BaseException:
            test.explain()
            raise
    say("done")


def main():
    if os.environ.get(node.INSIDE):
        return inside(pathlib.Path(sys.argv[1]))
    with tempfile.TemporaryDirectory(prefix="lockgate-") as folder:
        folder = pathlib.Path(folder)
        make_images(folder)
        sys.exit(node.isolated(folder))


BEGUN = time.monotonic()
if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        sys.exit(f"error: {error}")
