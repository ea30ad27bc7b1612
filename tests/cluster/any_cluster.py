"""What these tests need of a cluster, whoever made it: ``whole_cluster.py`` starts one here, ``given_cluster.py`` takes
one that somebody else runs."""

from __future__ import annotations

import contextlib
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from helm import NAMESPACE
from kube_api import Api, ApiError, Object

T = TypeVar("T")

TEAM = "rz-test-team"
"""Namespace of the run."""
NAMESPACES = (TEAM, NAMESPACE)
"""All that these tests make: the operator's is the other one."""


class Cluster(ABC):
    """A Kubernetes in which these tests may install the chart."""

    images: Mapping[str, str]
    """operator, and reward and worker-cpu where those are there -> a name by which pods get it."""
    address: str
    """Of this machine, as pods reach it."""
    environment: Mapping[str, str]
    """Of programs that speak to it."""

    @property
    @abstractmethod
    def api(self) -> Api:
        """As an administrator."""

    @property
    @abstractmethod
    def kubeconfig(self) -> Path:
        """Of the same user."""

    @abstractmethod
    def check(self) -> None:
        """Raises ServerDiedError when something of it that runs here has ended."""

    @abstractmethod
    def log(self, pod: Object, container: str) -> str:
        """The last lines of a container, as far as they can be had."""

    @abstractmethod
    def save_logs(self, folder: Path) -> None:
        """The whole logs of all containers in ``NAMESPACES``, of ended ones too, a file in ``folder`` for each."""

    def create_namespace(self, name: str) -> None:
        self.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

    def wait(self, what: Callable[[], T], meaning: str, seconds: float = 120.0) -> T:
        """The first true answer of ``what``, asked a few times a second; a refusal counts as no."""
        end = time.monotonic() + seconds
        while True:
            self.check()
            with contextlib.suppress(ApiError):
                if found := what():
                    return found
            assert time.monotonic() < end, f"waited {seconds:.0f} s for {meaning}\n{self.story()}"
            time.sleep(0.25)

    def story(self) -> str:
        """Pods, of those that are not ready the end of their logs, and the newest events: for a failed assertion."""
        lines = []
        for pod in self.api.request("GET", "/api/v1/pods")["items"]:
            for status in pod["status"].get("containerStatuses", []):
                lines.append(f"{pod['metadata']['name']}: {pod['status']['phase']} {status['state']}")
                lines += [] if status["ready"] else [self.log(pod, status["name"])]
        events = self.api.request("GET", "/api/v1/events")["items"][-25:]
        lines += [f"{event['involvedObject'].get('name')}: {event['reason']}: {event['message']}" for event in events]
        return "\n".join(lines)


def call(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """A program that ends by itself. Raises AssertionError with what it said."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stderr or done.stdout}"
    return done
