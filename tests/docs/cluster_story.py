"""The blocks for a cluster, on a real API server, with real Helm, kubectl, ``rz`` and operator. A page is a story.

Used by ``test_cluster_blocks.py``. Every page finds an empty cluster and what ``GIVEN`` says. Controllers, scheduler
and kubelets are played by tests/apiserver; the operator is the process that the Deployment describes which the page has
its reader install, as its ServiceAccount. What is not as on the reader's own cluster:

- No pod runs. A container's log is one line (``kubelet_logs.py``), the pod of ``helm test`` succeeds once the operator
  is ready, every ledger says the same. A run has few pods (``FEW_PODS``).
- The Prometheus operator's kinds are there and take anything.
- What goes on until its reader stops it (``-w``, ``--watch``) is stopped when it has said something.
- ``rz logs`` waits until the runs are Running: a reader looks at their status first.
- A server before 1.25 takes the CRD with ``--validate=false``, as docs/operator.md says of it.
"""

from __future__ import annotations

import re
import shlex
import time
from dataclasses import dataclass
from pathlib import Path

import installed_operator
import yaml
from control_plane import OLDEST_WITH_CEL, ControlPlane, kubeconfig
from doc_runs import in_a_bucket, write_files
from doc_shell import Outcome, Shell, Story
from fake_ledgers import FakeLedgers
from installed_operator import Each
from kube_api import Object
from kubelet_double import DEFAULT_NODES, Kubelet
from kubelet_logs import KubeletLogs
from machine_story import copy_working_tree
from pages import PAGES, ROOT, Block, blocks
from players import OWNED_KINDS, DeploymentController, GarbageCollector, Players, gone_is_fine
from server_process import Server

from rz_api import names

SECONDS = 120.0
"""For one block; the longest took 10 s on two cores."""
NAMESPACE, OPERATOR = "reasonerzero-system", "reasonerzero-operator"
"""Where all pages install the operator, and what they call it."""
(NODE,) = DEFAULT_NODES
TEAM, RUN = "team", "orz-7b"

PLACEHOLDERS = {"NAME-trainer-i3-0": f"{RUN}-trainer-i1-0", "NAME": RUN, "NS": TEAM, "NODE": NODE}
"""Words that pages write for what the reader has."""

RUNNING = "kubectl wait rzr --all --all-namespaces --for=jsonpath={.status.phase}=Running --timeout=60s"
INSTALLED = f"helm install reasonerzero charts/reasonerzero --namespace {NAMESPACE} --create-namespace"
GIVEN = {
    "README.md": f"kubectl create namespace {TEAM}",
    "docs/operator.md": f"kubectl create namespace {TEAM}",
    "docs/runbook.md": f"{INSTALLED}\nkubectl create namespace {TEAM}\nrz submit run.yaml -n {TEAM}\n{RUNNING}",
}
"""What a page has its reader bring, as commands; the run is examples/orz-7b.yaml. Nothing for the others."""

UNTIL_IT_SPEAKS = """until_it_speaks() {
  local said pid
  said=$(mktemp)
  "$@" >"$said" 2>&1 &
  pid=$!
  for _ in {1..300}; do
    if [[ -s $said ]]; then
      sleep 0.3
      if kill "$pid" 2>/dev/null; then cat "$said"; exit 0; fi
    fi
    if ! kill -0 "$pid" 2>/dev/null; then cat "$said"; wait "$pid"; exit; fi
    sleep 0.1
  done
  echo "it said nothing for 30 s" >&2
  kill "$pid"
  exit 124
}"""

MONITORS = {"podmonitors": "PodMonitor", "servicemonitors": "ServiceMonitor", "prometheusrules": "PrometheusRule"}


def cluster_blocks() -> list[Block]:
    return [block for page in PAGES for block in blocks(page) if block.is_for_a_cluster]


@dataclass
class InstalledOperator:
    """A player: the operator's process is there while its Deployment is."""

    plane: ControlPlane
    ledgers: FakeLedgers
    server: Server | None = None

    def tick(self) -> int:
        deployment = self.plane.api.find("Deployment", NAMESPACE, OPERATOR)
        if self.server is not None:
            self.server.check()
        if (deployment is None) == (self.server is None):
            return 0
        if deployment is None:
            self.stop()
        else:
            self.server, _ = installed_operator.start(self.plane, deployment, self.ledgers.url_template)
        return 1

    def stop(self) -> None:
        if self.server is not None:
            self.server.stop()
            self.server = None


class Cluster:
    """One server for all pages; ``outcome(block)`` begins the block's page if another one was read before."""

    def __init__(self, plane: ControlPlane, binaries: Path, folder: Path) -> None:
        self._plane, self._api, self._repository = plane, plane.api, folder / "repository"
        copy_working_tree(self._repository)
        certificates = plane.ca_file.parent
        self._logs = KubeletLogs(self._api, NODE, plane.ca_file, certificates / "apiserver.key")
        self._ledgers = FakeLedgers(default={"step": 3, "weight_version": 3})
        self._operator = InstalledOperator(plane, self._ledgers)
        self._kubelet = Kubelet(self._api)
        self._players = Players(
            [
                DeploymentController(self._api),
                self._operator,
                self._kubelet,
                Each(self._collect_garbage),
                Each(lambda: installed_operator.end_of_test(self._kubelet, NAMESPACE) if self._operator.server else 0),
            ]
        )
        for plural, kind in MONITORS.items():
            self._api.create(_takes_anything(plural, kind))
        file = folder / "kubeconfig"
        file.write_text(yaml.safe_dump(kubeconfig(plane.url, str(plane.ca_file), plane.admin_token, TEAM)))
        self._shell = Shell(folder, self._repository, {"KUBECONFIG": str(file), "PYTHONWARNINGS": "ignore"})
        self._wrap(binaries)
        self._page: Path | None = None
        self._story = Story([], self._run)

    def close(self) -> None:
        self._operator.stop()
        self._ledgers.close()
        self._logs.close()

    def outcome(self, block: Block) -> Outcome:
        if block.page != self._page:
            self._begin(block.page)
        return self._story.outcome(block)

    def _begin(self, page: Path) -> None:
        self._empty()
        self._page = page
        self._story = Story([block for block in cluster_blocks() if block.page == page], self._run)
        self._shell.cwd = self._repository
        given = GIVEN.get(page.relative_to(ROOT).as_posix())
        if given:
            block = Block(page, 0, "sh", given)
            self._run(block).assert_good(block)

    def _run(self, block: Block) -> Outcome:
        write_files(block, self._shell.cwd, in_a_bucket)
        text = block.text
        for placeholder, ours in PLACEHOLDERS.items():
            text = re.sub(rf"\b{placeholder}\b", ours, text)
        outcome = self._shell.run(text, SECONDS, meanwhile=self._players.tick)
        if outcome.code != 0 and self._operator.server is not None:
            outcome = Outcome(outcome.code, f"{outcome.output}\n---- the operator:\n{self._operator.server.tail()}")
        return outcome

    def _wrap(self, binaries: Path) -> None:
        programs = self._shell.programs
        (programs / "helm").symlink_to(binaries / "helm")
        (programs / "rz").rename(programs / "rz-itself")
        old_server = {'*" apply -f crds/"*': 'set -- "$@" --validate=false'}
        of_kubectl = {'*" -w "*': 'until_it_speaks "$itself" "$@"'}
        of_rz = {'*" --watch "*': 'until_it_speaks "$itself" "$@"', '" logs "*': f"{RUNNING} >/dev/null"}
        for name, itself, cases in (
            ("kubectl", binaries / "kubectl", of_kubectl | (old_server if self._plane.minor < OLDEST_WITH_CEL else {})),
            ("rz", programs / "rz-itself", of_rz),
        ):
            lines = [f"itself={shlex.quote(str(itself))}", UNTIL_IT_SPEAKS, 'case " $* " in']
            lines += [f"  {pattern}) {what} ;;" for pattern, what in cases.items()]
            self._shell.put(name, "\n".join([*lines, "esac", 'exec "$itself" "$@"']))

    # ----------------------------------------------------------------------------------------------- the server

    def _collect_garbage(self) -> int:
        if self._api.find("CustomResourceDefinition", "", names.CRD_NAME) is None:
            return 0
        with gone_is_fine():
            return GarbageCollector(self._api).tick()
        return 0

    def _empty(self) -> None:
        """As it was before the first page: no operator, no CRD, no namespace that a page made."""
        self._operator.stop()
        kinds = [*OWNED_KINDS, "ServiceAccount", "Role", "RoleBinding", "Event"]
        if self._api.find("CustomResourceDefinition", "", names.CRD_NAME) is not None:
            kinds.insert(0, names.KIND)
        for namespace in self._api.list("Namespace"):
            name = namespace["metadata"]["name"]
            if name != "default" and not name.startswith("kube-"):
                self._plane.remove_namespace(name, kinds)
        for kind in ("ClusterRoleBinding", "ClusterRole"):
            for body in self._api.list(kind):
                if "reasonerzero" in body["metadata"]["name"]:
                    self._api.delete(kind, "", body["metadata"]["name"])
        self._api.delete("CustomResourceDefinition", "", names.CRD_NAME)
        end = time.monotonic() + SECONDS
        while self._api.find("CustomResourceDefinition", "", names.CRD_NAME) is not None:
            assert time.monotonic() < end, "the CRD does not go"
            time.sleep(0.05)


def _takes_anything(plural: str, kind: str) -> Object:
    group, anything = "monitoring.coreos.com", {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": anything}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": plural, "kind": kind, "singular": kind.lower()},
            "versions": [version],
        },
    }
