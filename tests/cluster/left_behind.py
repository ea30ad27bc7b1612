"""What a failed test leaves in a folder: the run and its status, every object, events, and the logs of all containers.

``conftest.py`` calls ``leave_behind`` as soon as a test has failed, while the cluster is still as the test left it.
"""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

from any_cluster import NAMESPACES, Cluster

from rz_api import names

FOLDER = ".cluster-logs"
"""Below the repository, one folder in it for each failure; git ignores it."""
VARIABLE = "RZ_CLUSTER_LOGS"
"""Names another one."""

VIEWS = {
    "run.yaml": f"get {names.PLURAL} --output=yaml",
    "run.txt": f"describe {names.PLURAL}",
    "pods.txt": "describe pods",
    "events.txt": "get events --sort-by=.metadata.creationTimestamp",
    "objects.yaml": "get pods,replicasets,deployments,services,endpoints,configmaps,networkpolicies --output=yaml",
}
"""File -> what kubectl says, of each namespace. No Secrets."""

_KUBECTL_SECONDS = 60.0


def leave_behind(cluster: Cluster, kubectl: Path, folder: Path, test: str) -> Path:
    """Returns the folder, a new one below ``folder`` with the time and the test's name. What cannot be had (the server
    may be what died) is a sentence in the file where it would be."""
    name = re.sub(r"[^\w.-]+", "-", test)
    made = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"
    (made / "logs").mkdir(parents=True)
    for namespace in NAMESPACES:
        for file, words in VIEWS.items():
            (made / f"{namespace}.{file}").write_text(_ask(cluster, kubectl, namespace, words))
    try:
        cluster.save_logs(made / "logs")
    except Exception as error:
        (made / "logs" / "incomplete.txt").write_text(f"{type(error).__name__}: {error}\n")
    return made


def _ask(cluster: Cluster, kubectl: Path, namespace: str, words: str) -> str:
    command = [str(kubectl), "--kubeconfig", str(cluster.kubeconfig), "--request-timeout=20s", "--namespace", namespace]
    try:
        done = subprocess.run(
            [*command, *words.split()],
            capture_output=True,
            text=True,
            timeout=_KUBECTL_SECONDS,
            env=dict(cluster.environment),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"kubectl {words}: no answer in {_KUBECTL_SECONDS:.0f} s\n"
    return done.stdout + done.stderr
