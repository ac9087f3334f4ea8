"""A small Kubernetes of the binaries that kube.sh gets: a control plane alone, or one node more.

    with Cluster(folder) as cluster:           # etcd, API server, controllers: on loopback, as anybody
        cluster.kubectl("get", "namespaces")
    with Cluster(folder, node=Node(...)): ...  # what node.py adds

Everything that it writes is in its folder. Its processes end with it, by their own pids.
"""

import json
import os
import pathlib
import secrets
import socket
import subprocess
import time

LIMIT = 120  # seconds that a wait has at the most, on a slow machine too
SERVICES = "10.96.0.0/16"
ADMIN, CONTROLLERS, SCHEDULER, NODE, PROXY, DNS = "admin controllers scheduler node proxy dns".split()
WHO = {
    ADMIN: 'admin,1,"system:masters"',
    CONTROLLERS: "system:kube-controller-manager,2",
    SCHEDULER: "system:kube-scheduler,3",
    NODE: 'system:node:node,4,"system:nodes"',
    PROXY: "system:kube-proxy,5",
    # Reads services and endpoints, as an admin may; it is a test.
    DNS: 'dns,6,"system:masters"',
}


class Failed(Exception):
    """What did not come to pass, and what to look at."""


def servers():
    tools = os.environ.get("LOCKGATE_TOOLS") or pathlib.Path(
        os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"), "lockgate/tools")
    return pathlib.Path(os.environ.get("LOCKGATE_KUBE") or pathlib.Path(tools, "kube"))


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait(what, holds, limit=LIMIT):
    """Asks again and again until the answer is true, and returns it."""
    end = time.monotonic() + limit
    while True:
        try:
            answer, why = holds(), "not so"
        except (OSError, Failed, LookupError, subprocess.CalledProcessError) as error:
            answer, why = None, error
        if answer:
            return answer
        if time.monotonic() > end:
            raise Failed(f"{what}: not within {limit} s: {why}")
        time.sleep(0.2)


class Cluster:
    """A control plane; with a node also what runs pods."""

    def __init__(self, folder, node=None):
        self.folder, self.node, self.bin = pathlib.Path(folder), node, servers()
        self.address = node.address if node else "127.0.0.1"
        self.port = 443 if node else free_port()
        self.tokens = {who: secrets.token_hex(16) for who in WHO}
        self.processes = []
        self.env = dict(os.environ, KUBECONFIG=str(self.kubeconfig(ADMIN)))

    def __enter__(self):
        try:
            if self.node:
                self.node.network()
            self.start_control_plane()
            if self.node:
                self.node.start(self)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        # The last that was started is the first to go.
        for name, process in reversed(self.processes):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()

    def start(self, name, *args, path=None):
        log = open(self.folder / f"{name}.log", "ab")
        env = dict(os.environ, PATH=f"{self.bin}/node:{self.bin}:{os.environ['PATH']}")
        process = subprocess.Popen([path or self.bin / name, *args], stdin=subprocess.DEVNULL, stdout=log,
                                   stderr=log, env=env, cwd=self.folder)
        log.close()
        self.processes.append((name, process))

    def wait(self, what, holds, limit=LIMIT):
        """As `wait`; a server that has ended is an answer too."""

        def alive():
            for name, process in self.processes:
                if process.poll() is not None:
                    raise SystemExit(f"error: {name} has ended:\n{self.log(name)}")
            return holds()

        return wait(what, alive, limit)

    def log(self, name, lines=15):
        return "\n".join((self.folder / f"{name}.log").read_text(errors="replace").splitlines()[-lines:])

    def kubeconfig(self, who):
        path = self.folder / f"{who}.kubeconfig"
        server = f"https://{self.address}:{self.port}"
        path.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": server, "insecure-skip-tls-verify": True}}],
            "users": [{"name": "u", "user": {"token": self.tokens[who]}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }))
        return path

    def start_control_plane(self):
        own = lambda name: str(self.folder / name)
        subprocess.run(["openssl", "genrsa", "-out", own("sa.key"), "2048"], check=True, capture_output=True)
        (self.folder / "tokens.csv").write_text("".join(f"{self.tokens[who]},{is_}\n" for who, is_ in WHO.items()))
        clients, peers = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        self.start("etcd", f"--data-dir={own('etcd')}", f"--listen-client-urls={clients}",
                   f"--advertise-client-urls={clients}", f"--listen-peer-urls={peers}",
                   f"--initial-advertise-peer-urls={peers}", f"--initial-cluster=default={peers}",
                   "--unsafe-no-fsync")
        self.start("kube-apiserver", f"--etcd-servers={clients}", f"--cert-dir={own('certs')}",
                   f"--bind-address={'0.0.0.0' if self.node else '127.0.0.1'}",
                   *([f"--advertise-address={self.address}"] if self.node else []),
                   f"--secure-port={self.port}", f"--token-auth-file={own('tokens.csv')}",
                   "--authorization-mode=Node,RBAC", "--allow-privileged=true",
                   "--service-account-issuer=https://kubernetes.default.svc",
                   f"--service-account-key-file={own('sa.key')}",
                   f"--service-account-signing-key-file={own('sa.key')}",
                   f"--service-cluster-ip-range={SERVICES}")
        self.wait("the API server is ready", lambda: self.kubectl("get", "--raw", "/readyz") == "ok")
        # What it made for itself is what pods trust.
        self.start("kube-controller-manager", f"--kubeconfig={self.kubeconfig(CONTROLLERS)}",
                   f"--service-account-private-key-file={own('sa.key')}",
                   f"--root-ca-file={own('certs/apiserver.crt')}", "--use-service-account-credentials",
                   "--leader-elect=false", f"--cert-dir={own('controller-certs')}",
                   "--bind-address=127.0.0.1", f"--secure-port={free_port()}")
        self.wait("there is a default account", lambda: self.kubectl("get", "serviceaccount", "default"))

    def kubectl(self, *args, stdin=None):
        ran = subprocess.run(["kubectl", *args], input=stdin, capture_output=True, text=True, env=self.env)
        if ran.returncode:
            raise Failed(f"kubectl {' '.join(args)}: {ran.stderr.strip()}")
        return ran.stdout

    def get(self, *args):
        return json.loads(self.kubectl("get", *args, "-o", "json"))

    def apply(self, text, *args):
        """Applies manifests; a warning counts as a refusal."""
        return self.kubectl("apply", "--server-side", "--warnings-as-errors", "-f", "-", *args, stdin=text)

    def namespace(self, name):
        """A namespace that enforces the restricted level, and warns about what is not."""
        labels = {f"pod-security.kubernetes.io/{what}": "restricted" for what in ("enforce", "warn")}
        made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        self.apply(json.dumps(made))
        self.wait(f"namespace {name} is usable", lambda: self.kubectl("-n", name, "get", "serviceaccount", "default"))
