"""What runs pods: scheduler, containerd and kubelet, kube-proxy and CoreDNS, on this machine.

All of it is in namespaces of its own (network, mounts, processes): it sees no other network, what it
mounts nobody else sees, and all that it started ends with it. `isolated` runs a program in them; that
needs root. Cgroups are the machine's, in a group of the cluster's own that is removed
at the end. NetworkPolicies are not enforced: Debian's CNI plugins do not.
"""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

from cluster import DNS, NODE, PROXY, SCHEDULER, SERVICES, Failed, free_port

BRIDGE = "kube0"
ADDRESS = "10.244.0.1"
PODS = "10.244.0.0/16"
DNS_SERVICE = "10.96.0.10"
PAUSE = "lockgate.test/pause:1"
CGROUPS = pathlib.Path("/sys/fs/cgroup")
INSIDE = "LOCKGATE_ISOLATED"
OCI = pathlib.Path(__file__).resolve().parents[1] / "oci.py"


def isolated(folder):
    """Runs this program anew in the namespaces, with the folder as its argument; returns how it ended."""
    if os.geteuid() != 0:
        raise Failed("a node mounts, makes networks and cgroups: run this as root")
    group = f"lockgate-{os.getpid()}"
    # A shell as the first process: it reaps what the others leave.
    inside = ["unshare", "--mount", "--propagation=private", "--net", "--pid", "--fork", "--kill-child",
              "--mount-proc", "sh", "-c", '"$@"; exit $?', "sh", sys.executable, sys.argv[0], folder]
    process = subprocess.Popen(inside, env=dict(os.environ, **{INSIDE: group}))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: process.kill())
    code = process.wait()
    if not remove_cgroups(group):
        return code or 1
    return code if code >= 0 else 128 - code


def cgroup_roots():
    """Where a cgroup of this name is to be made: of each controller, or the one of version 2."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return [path for path in CGROUPS.iterdir() if (path / "cgroup.procs").exists() and not path.is_symlink()]


def remove_cgroups(group):
    """Whether all are gone."""
    end = time.monotonic() + 10
    left = [root / group for root in cgroup_roots() if (root / group).exists()]
    while left and time.monotonic() < end:
        for top in left:
            for path, _, _ in os.walk(top, topdown=False):
                try:
                    os.rmdir(path)
                except OSError:
                    pass  # a process in it has not ended yet
        left = [top for top in left if top.exists()]
        time.sleep(0.1)
    if left:
        print(f"error: left behind: {' '.join(map(str, left))}", file=sys.stderr)
    return not left


def run(*command):
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode:
        raise Failed(f"{' '.join(map(str, command))}: {ran.stderr.strip() or ran.stdout.strip()}")
    return ran.stdout


class Node:
    """One node, whose images are archives that are imported."""

    address = ADDRESS

    def __init__(self, images):
        self.images = images

    def start(self, cluster):
        self.cluster, self.folder, self.bin = cluster, cluster.folder, cluster.bin
        self.make_room()
        self.start_containerd()
        self.start_kubelet()
        self.start_services()
        is_ready = lambda: any(
            condition["type"] == "Ready" and condition["status"] == "True"
            for condition in cluster.get("node", "node")["status"]["conditions"])
        cluster.wait("the node is ready", is_ready)

    @staticmethod
    def network():
        """Before the API server: it listens on the bridge."""
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "name", BRIDGE, "type", "bridge")
        run("ip", "address", "add", f"{ADDRESS}/16", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
        # From here too: kube-proxy rewrites what is on its way, and without a route nothing is.
        run("ip", "route", "add", SERVICES, "dev", BRIDGE)
        pathlib.Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        # So that a pod reaches another one through a service's address.
        bridged = pathlib.Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
        if bridged.exists():
            bridged.write_text("1")

    def make_room(self):
        """These folders have fixed names: here they are the cluster's own."""
        for place in ("/var/log", "/var/lib", "/run", "/etc/cni"):
            if not os.path.isdir(place):
                continue
            own = self.folder / "node" / place.strip("/")
            own.mkdir(parents=True)
            run("mount", "--bind", own, place)
        for root in cgroup_roots():
            (root / os.environ[INSIDE]).mkdir()

    def start_containerd(self):
        state, listens = self.folder / "containerd", self.folder / "containerd.sock"
        plugins = self.folder / "cni"
        plugins.mkdir()
        (plugins / "bridge.conflist").write_text(json.dumps({
            "cniVersion": "1.0.0", "name": "pods", "plugins": [{
                "type": "bridge", "bridge": BRIDGE, "isGateway": True, "hairpinMode": True,
                "ipam": {"type": "host-local", "ranges": [[{"subnet": PODS, "gateway": ADDRESS}]],
                         "routes": [{"dst": "0.0.0.0/0"}]}}]}))
        (self.folder / "containerd.toml").write_text(f'''
version = 2
root = "{state}/root"
state = "{state}/state"
[grpc]
address = "{listens}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{self.bin}/node/cni"
conf_dir = "{plugins}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "{self.bin}/node/runc"
''')
        self.start_with("containerd", "--config", self.folder / "containerd.toml", path=self.bin / "node/containerd")
        ctr = lambda *args: run(self.bin / "node/ctr", "--address", listens, "--namespace", "k8s.io", *args)
        self.cluster.wait("containerd answers", lambda: ctr("version"))
        pause = self.folder / "pause.tar"
        run(sys.executable, OCI, "--plain", "--out", pause, "--tag", PAUSE, self.bin / "node/pause")
        for image in (pause, *self.images):
            ctr("images", "import", image)

    def start_kubelet(self):
        config = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": f"unix://{self.folder}/containerd.sock",
            "cgroupDriver": "cgroupfs", "cgroupRoot": f"/{os.environ[INSIDE]}", "failCgroupV1": False,
            "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True}},
            "authorization": {"mode": "Webhook"},
            "clusterDNS": [DNS_SERVICE], "clusterDomain": "cluster.local", "resolvConf": "",
            "podLogsDir": str(self.folder / "pods"), "failSwapOn": False,
            "enforceNodeAllocatable": [], "makeIPTablesUtilChains": False,
            # A disk that is full for others is no reason to stop here.
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%",
                             "nodefs.inodesFree": "1%"},
            "imageGCHighThresholdPercent": 100,
            "serializeImagePulls": True, "nodeStatusUpdateFrequency": "5s",
        }
        (self.folder / "kubelet.json").write_text(json.dumps(config))
        self.start_with("kubelet", f"--config={self.folder}/kubelet.json", "--hostname-override=node",
                        f"--kubeconfig={self.cluster.kubeconfig(NODE)}", f"--node-ip={ADDRESS}",
                        f"--root-dir={self.folder}/kubelet", f"--cert-dir={self.folder}/kubelet-certs")
        self.start_with("kube-scheduler", f"--kubeconfig={self.cluster.kubeconfig(SCHEDULER)}", "--leader-elect=false",
                        "--bind-address=127.0.0.1", f"--secure-port={free_port()}")

    def start_services(self):
        """The addresses of services, and their names."""
        proxy = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
            "mode": "nftables", "clusterCIDR": PODS, "bindAddress": ADDRESS, "hostnameOverride": "node",
            "clientConnection": {"kubeconfig": str(self.cluster.kubeconfig(PROXY))},
            # The machine's own settings are not this cluster's to change.
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }
        (self.folder / "proxy.json").write_text(json.dumps(proxy))
        self.start_with("kube-proxy", f"--config={self.folder}/proxy.json")
        # CoreDNS is no pod here: its service has an endpoint that is made by hand.
        (self.folder / "Corefile").write_text(
            f".:53 {{\n errors\n kubernetes cluster.local {{\n"
            f"  kubeconfig {self.cluster.kubeconfig(DNS)}\n }}\n}}\n")
        self.start_with("coredns", "-conf", self.folder / "Corefile")
        self.cluster.wait("names are answered", lambda: not socket.create_connection((ADDRESS, 53)).close())
        ports = [{"name": name, "port": 53, "protocol": name.upper()} for name in ("udp", "tcp")]
        meta = {"name": "kube-dns", "namespace": "kube-system"}
        service = {"apiVersion": "v1", "kind": "Service", "metadata": meta,
                   "spec": {"clusterIP": DNS_SERVICE, "ports": ports}}
        slice_ = {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                  "metadata": dict(meta, labels={"kubernetes.io/service-name": "kube-dns"}),
                  "endpoints": [{"addresses": [ADDRESS], "conditions": {"ready": True}}], "ports": ports}
        self.cluster.apply(json.dumps({"apiVersion": "v1", "kind": "List", "items": [service, slice_]}))

    def start_with(self, name, *args, path=None):
        self.cluster.start(name, *map(str, args), path=path)

    def log_files(self, pods):
        """What the containers of the pods whose folders begin so have written."""
        return sorted((self.folder / "pods").glob(f"{pods}*/*/*.log"))

    def logs(self, namespace, lines=30):
        """The last lines of every container of a namespace, for who looks at a failure."""
        for path in self.log_files(f"{namespace}_"):
            tail = path.read_text(errors="replace").splitlines()[-lines:]
            yield f"--- {path.relative_to(self.folder / 'pods')}", *tail
