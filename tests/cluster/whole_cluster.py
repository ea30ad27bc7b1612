"""A whole Kubernetes of one node on this machine: the control plane of ``tests/apiserver``, and beside it
controller-manager, scheduler, containerd, kubelet, kube-proxy and a DNS server. Used by ``conftest.py``.

It must run as root in a network namespace of its own (``make test-cluster`` makes one around pytest): everything here
listens on addresses that exist in that namespace alone. Pods are below the cgroup ``/rz-test``; state is in the control
plane's temporary folder. ``stop`` ends what was started, by pid, and what containerd left: shims, mounts, cgroups.

Not like a real cluster: one user for all components, NetworkPolicies are not enforced (bridge CNI), no GPUs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml
from any_cluster import Cluster, call
from control_plane import ControlPlane
from kube_api import Api, ApiError, Object
from kube_binaries import NODE_BINARIES, control_plane_binaries, node_binaries
from pod_logs import POD_LOGS, PodLogs
from server_process import Server, child_environment, wait_until_up

NODE, NODE_ADDRESS, POD_RANGE, DOMAIN = "node1", "10.89.0.1", "10.244.0.0/24", "cluster.local"
CGROUPS, CGROUP = Path("/sys/fs/cgroup"), "rz-test"
PAUSE_IMAGE = "localhost/pause:1"
PREFIX = "localhost/reasonerzero-"
ARCHIVES = {"operator": "RZ_OPERATOR_ARCHIVE", "reward": "RZ_REWARD_ARCHIVE", "worker-cpu": "RZ_WORKER_ARCHIVE"}
"""Image -> variable with the archive that it is in."""
PROGRAMS = ("containerd", "ctr", "runc", "iptables", "conntrack", "ip", "gcc", "dnsmasq", "buildah")
SERVER_FLAGS = {
    "endpoint-reconciler-type": "lease",  # the Service "kubernetes", by which pods reach the server
    "disable-admission-plugins": None,
    "allow-privileged": "true",
    "feature-gates": "TTLAfterFinished=true",
}
PAUSE = """
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static void leave(int number) { (void)number; _exit(0); }
static void reap(int number) { (void)number; while (waitpid(-1, NULL, WNOHANG) > 0) {} }
int main(void) { signal(SIGINT, leave); signal(SIGTERM, leave); signal(SIGCHLD, reap); for (;;) pause(); }
"""


def reasons_against() -> list[str]:
    """Why there can be no cluster here; empty where there can."""
    found = [f"{name} is not installed" for name in PROGRAMS if shutil.which(name) is None]
    if os.geteuid() != 0:
        found.append("root is needed")
    if not (CGROUPS / "memory").is_dir():
        found.append("cgroups of version 1 are needed")
    if len(Path("/proc/net/route").read_text().splitlines()) > 1:  # a new namespace has no routes
        found.append("a network namespace of its own is needed (make test-cluster)")
    return found


class WholeCluster(Cluster):
    """``with WholeCluster(archives) as cluster:``; ``archives``: name -> OCI archive of an image for tests."""

    def __init__(self, archives: Mapping[str, Path]) -> None:
        self.address, self.environment = NODE_ADDRESS, child_environment()
        self.images = {name: f"{PREFIX}{name}:test" for name in archives}
        self._archives = archives
        self.plane = ControlPlane(control_plane_binaries(), NODE_ADDRESS, SERVER_FLAGS)
        self._names = _Names(self)
        self._pod_logs = PodLogs()
        self._servers: list[Server] = []

    @property
    def api(self) -> Api:
        return self.plane.api

    @property
    def kubeconfig(self) -> Path:
        return self.plane.admin_kubeconfig()

    @property
    def folder(self) -> Path:
        return self.plane.folder

    def __enter__(self) -> WholeCluster:
        try:
            self._make_network()
            self.plane.start()
            self._start_control()
            self._start_node()
            for archive in self._archives.values():
                self.import_image(archive)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # ------------------------------------------------------------------------------------------------------ start

    def _make_network(self) -> None:
        for words in (
            "link set lo up",
            "link add node0 type bridge",
            f"addr add {NODE_ADDRESS}/24 dev node0",
            "link set node0 up",
            f"route add default via {NODE_ADDRESS} dev node0",  # kubelet and kube-proxy want one; it leads nowhere
        ):
            call("ip", *words.split())
        for setting in (
            "net/ipv4/ip_forward",
            "net/bridge/bridge-nf-call-iptables",
            "net/ipv4/conf/all/route_localnet",
        ):
            with contextlib.suppress(FileNotFoundError):  # bridge-nf-call-iptables: where the module is loaded
                Path("/proc/sys", setting).write_text("1")

    def _start_control(self) -> None:
        kubeconfig, folder = self.plane.admin_kubeconfig(), self.folder
        self._start_binary(
            "kube-controller-manager",
            f"--kubeconfig={kubeconfig}",
            "--leader-elect=false",
            f"--service-account-private-key-file={folder / 'accounts.key'}",
            f"--root-ca-file={self.plane.ca_file}",
            f"--cluster-cidr={POD_RANGE}",
            "--bind-address=127.0.0.1",
            "--port=0",
            "--feature-gates=TTLAfterFinished=true",
            "--controllers=*,-nodeipam,-route,-cloud-node-lifecycle",
        )
        self._start_binary(
            "kube-scheduler",
            f"--kubeconfig={kubeconfig}",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            "--port=0",
        )
        self.wait(lambda: self.api.find("ServiceAccount", "default", "default"), "the first service account")

    def _start_node(self) -> None:
        folder, kubeconfig = self.folder, self.plane.admin_kubeconfig()
        self._write_node_files()
        containerd = self._start("containerd", "containerd", "--config", str(folder / "containerd.toml"))
        wait_until_up(containerd, lambda: self.ctr("version", check=False).returncode == 0)
        self._import_pause()
        for group in _groups():
            group.mkdir(exist_ok=True)
        for name in ("cpus", "mems"):  # empty in a new cpuset, which then takes no process
            whole = (CGROUPS / "cpuset" / f"cpuset.{name}").read_text()
            (CGROUPS / "cpuset" / CGROUP / f"cpuset.{name}").write_text(whole)
        self._names.start()
        self._pod_logs.start()
        self._start_binary(
            "kubelet",
            f"--config={folder / 'kubelet.yaml'}",
            f"--kubeconfig={kubeconfig}",
            f"--root-dir={folder / 'kubelet'}",
            f"--cert-dir={folder / 'kubelet-certificates'}",
            f"--hostname-override={NODE}",
            f"--node-ip={NODE_ADDRESS}",
            "--container-runtime=remote",
            f"--container-runtime-endpoint=unix://{self.socket}",
            f"--pod-infra-container-image={PAUSE_IMAGE}",
        )
        self._start_binary(
            "kube-proxy",
            f"--kubeconfig={kubeconfig}",
            "--proxy-mode=iptables",
            f"--cluster-cidr={POD_RANGE}",
            f"--hostname-override={NODE}",
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
            "--oom-score-adj=0",
        )
        self.wait(self._node_is_ready, "the node to be ready")

    def _write_node_files(self) -> None:
        folder = self.folder
        (folder / "cni").mkdir()
        (folder / "cni" / "10-bridge.conflist").write_text(
            f"""{{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {{"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true, "ipam": {{
    "type": "host-local", "dataDir": "{folder}/cni-addresses", "ranges": [[{{"subnet": "{POD_RANGE}"}}]],
    "routes": [{{"dst": "0.0.0.0/0"}}]}}}},
  {{"type": "portmap", "capabilities": {{"portMappings": true}}}}]}}
"""
        )
        (folder / "resolv.conf").write_text(f"nameserver {NODE_ADDRESS}\n")
        (folder / "containerd.toml").write_text(
            f"""version = 2
root = "{folder}/containerd/root"
state = "{folder}/containerd/state"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.opt"]
[grpc]
  address = "{self.socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true  # a negative score takes a capability that not every root has
  disable_apparmor = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder}/cni"
"""
        )
        settings = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": NODE_ADDRESS,
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},  # only this namespace reaches it
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{CGROUP}",
            "enforceNodeAllocatable": ["pods"],
            "clusterDNS": [NODE_ADDRESS],
            "clusterDomain": DOMAIN,
            "resolvConf": str(folder / "resolv.conf"),
            "failSwapOn": False,
            "nodeStatusUpdateFrequency": "4s",
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "serializeImagePulls": False,
        }
        (folder / "kubelet.yaml").write_text(yaml.safe_dump(settings))

    def _import_pause(self) -> None:
        """The container that holds a pod's namespaces, as an image of one file."""
        build = self.folder / "pause"
        build.mkdir()
        (build / "pause.c").write_text(PAUSE)
        call("gcc", "-Os", "-static", "-s", "-o", str(build / "pause"), str(build / "pause.c"))
        (build / "Dockerfile").write_text('FROM scratch\nCOPY pause /pause\nENTRYPOINT ["/pause"]\n')
        archive = self.folder / "pause.tar"
        store = [f"--{name}={self.folder / name}" for name in ("root", "runroot")] + ["--storage-driver=vfs"]
        call("buildah", *store, "bud", "--quiet", "--isolation=chroot", "--tag", PAUSE_IMAGE, str(build))
        call("buildah", *store, "push", "--quiet", PAUSE_IMAGE, f"oci-archive:{archive}:{PAUSE_IMAGE}")
        self.import_image(archive)

    def import_image(self, archive: Path) -> None:
        """An OCI archive, as ``buildah push … oci-archive:FILE:NAME`` writes it; pods then name it NAME."""
        self.ctr("images", "import", str(archive))

    # ------------------------------------------------------------------------------------------------------- stop

    def stop(self) -> None:
        with contextlib.suppress(Exception):  # whatever state it is in: all of it goes
            self._delete_pods()
        for server in reversed(self._servers):
            if server.name != "containerd":
                server.stop()
        self._names.stop()
        for line in self.ctr("tasks", "ls", "--quiet", check=False).stdout.split():
            self.ctr("tasks", "kill", "--signal", "SIGKILL", line, check=False)
            self.ctr("tasks", "delete", "--force", line, check=False)
        for server in self._servers:
            if server.name == "containerd":
                server.stop()
        for pid in self._shims():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._pod_logs.stop()
        for place in sorted(self._mounts(), reverse=True):
            call("umount", "--lazy", place, check=False)
        for _ in range(20):
            if not any(_remove_group(group) for group in _groups()):
                break
            time.sleep(0.2)
        self.plane.stop()

    def _delete_pods(self) -> None:
        pods = self.api.request("GET", "/api/v1/pods")["items"]
        for pod in pods:
            with contextlib.suppress(ApiError):
                self.api.delete("Pod", pod["metadata"]["namespace"], pod["metadata"]["name"], grace=0)
        time.sleep(2)

    def _shims(self) -> Iterator[int]:
        """Processes of containerd's that outlive it, known by our socket on their command line."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                    if b"containerd-shim" in words[0] and str(self.socket).encode() in words:
                        yield int(entry.name)

    def _mounts(self) -> list[str]:
        places = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        return [place for place in places if place.startswith(str(self.folder))]

    # ----------------------------------------------------------------------------------------------------- helpers

    @property
    def socket(self) -> Path:
        return self.folder / "containerd.sock"

    def ctr(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return call("ctr", "--address", str(self.socket), "--namespace", "k8s.io", *words, check=check)

    def check(self) -> None:
        for server in self._servers:
            server.check()

    def log(self, pod: Object, container: str) -> str:
        """From the kubelet's own files: the API refuses for some states."""
        meta = pod["metadata"]
        folder = POD_LOGS / f"{meta['namespace']}_{meta['name']}_{meta['uid']}" / container
        files = sorted(folder.glob("*.log"), key=lambda file: file.stat().st_mtime)
        return "\n".join(line for file in files[-2:] for line in file.read_text().splitlines()[-40:])

    def save_logs(self, folder: Path) -> None:
        """Also of pods that are gone, and of the cluster's own programs (``servers/``)."""
        (folder / "servers").mkdir()
        for file in self.folder.glob("*.log"):
            shutil.copyfile(file, folder / "servers" / file.name)
        self._pod_logs.save(folder)

    def _node_is_ready(self) -> bool:
        node: Object | None = self.api.find("Node", "", NODE)
        conditions = node["status"].get("conditions", []) if node else []
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    def _start_binary(self, name: str, *flags: str) -> None:
        assert name in NODE_BINARIES
        self._start(name, str(node_binaries() / name), *flags)

    def _start(self, name: str, *command: str) -> Server:
        server = Server(name, list(command), self.folder, env=child_environment())
        self._servers.append(server)
        return server


class _Names:
    """DNS of Services and of pods behind headless ones: dnsmasq, told whenever they change."""

    def __init__(self, cluster: WholeCluster) -> None:
        self._cluster, self._ended = cluster, threading.Event()
        self._thread: threading.Thread | None = None
        self._server: Server | None = None

    def start(self) -> None:
        folder = self._cluster.folder
        (folder / "hosts").write_text(self._records())
        command = [
            "dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--user=root",
        ]
        command += ["--bind-interfaces", "--except-interface=lo", f"--listen-address={NODE_ADDRESS}", "--cache-size=0"]
        command += [f"--addn-hosts={folder / 'hosts'}", f"--local=/{DOMAIN}/", f"--pid-file={folder / 'dnsmasq.pid'}"]
        self._server = Server("dnsmasq", command, folder)
        wait_until_up(self._server, (folder / "dnsmasq.pid").exists)
        self._thread = threading.Thread(target=self._follow, name="names", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        if self._thread:
            self._thread.join()
        if self._server:
            self._server.stop()

    def _follow(self) -> None:
        file = self._cluster.folder / "hosts"
        while not self._ended.wait(0.5):
            with contextlib.suppress(Exception):  # the server may be away; the next turn asks again
                records = self._records()
                if records != file.read_text():
                    file.write_text(records)
                    assert self._server is not None
                    self._server.process.send_signal(signal.SIGHUP)

    def _records(self) -> str:
        api = self._cluster.api
        addresses = {
            (each["metadata"]["namespace"], each["metadata"]["name"]): each.get("subsets") or []
            for each in api.request("GET", "/api/v1/endpoints")["items"]
        }
        lines = set()
        for service in api.request("GET", "/api/v1/services")["items"]:
            meta, spec = service["metadata"], service["spec"]
            name = f"{meta['name']}.{meta['namespace']}.svc.{DOMAIN}"
            if spec.get("clusterIP") not in (None, "", "None"):
                lines.add(f"{spec['clusterIP']} {name}")
                continue
            for subset in addresses.get((meta["namespace"], meta["name"]), []):
                unready = subset.get("notReadyAddresses") or [] if spec.get("publishNotReadyAddresses") else []
                for address in (subset.get("addresses") or []) + unready:
                    lines.add(f"{address['ip']} {name}")
                    if address.get("hostname"):
                        lines.add(f"{address['ip']} {address['hostname']}.{name}")
        return "\n".join(sorted(lines)) + "\n"


def _groups() -> list[Path]:
    """Our cgroup in each hierarchy of version 1."""
    return [entry / CGROUP for entry in CGROUPS.iterdir() if entry.is_dir() and not entry.is_symlink()]


def _remove_group(group: Path) -> bool:
    """Whether something is left of it."""
    if not group.exists():
        return False
    for folder, _, _ in os.walk(group, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(folder)
    return group.exists()
