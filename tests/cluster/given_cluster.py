"""A cluster that somebody else runs (kind, a real one): ``make test-cluster KUBECONFIG=FILE`` names it.

The chart is installed in it and a run of two trainers and two rollouts takes place, on CPUs. A cluster that has the CRD
already is somebody's, and is left alone; of another one, what these tests made is deleted at the end.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from any_cluster import NAMESPACES, Cluster, call
from kube_api import Api, ApiError, Object
from server_process import Server, wait_until_up

from rz_api import names

IMAGES = ("operator", "reward", "worker-cpu")


class UnfitError(Exception):
    """These tests cannot take place there; the text is one sentence for who asked for them."""


@dataclass(frozen=True)
class Given:
    """What ``make test-cluster`` was told."""

    kubeconfig: Path
    prefix: str
    """Of the images' names."""
    tag: str
    address: str
    """Of this machine, as the cluster's pods reach it: the bucket of these tests is here."""

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Given | None:
        """None when no cluster was given. Raises UnfitError when something else is missing."""
        kubeconfig = environment.get("RZ_TEST_KUBECONFIG")
        if not kubeconfig:
            return None
        found = {name: environment.get(f"RZ_TEST_{name}", "") for name in ("IMAGES", "TAG", "ADDRESS")}
        if missing := [name for name, value in found.items() if not value]:
            raise UnfitError(
                f"found KUBECONFIG={kubeconfig} without {' and '.join(missing)}; required is\n"
                "  make test-cluster KUBECONFIG=FILE IMAGES=PREFIX TAG=TAG ADDRESS=IP\n"
                "with the prefix and tag of images that the cluster has or can pull (docker/build.sh makes operator, "
                "reward and worker-cpu), and an address of this machine that its pods reach"
            )
        if not Path(kubeconfig).is_file():
            raise UnfitError(f"found no file {kubeconfig}; KUBECONFIG must name one")
        return cls(Path(kubeconfig).absolute(), found["IMAGES"], found["TAG"], found["ADDRESS"])


class GivenCluster(Cluster):
    """``with GivenCluster(given, kubectl) as cluster:``; kubectl speaks to it, whatever its login is."""

    def __init__(self, given: Given, kubectl: Path) -> None:
        self._given, self._kubectl = given, kubectl
        self.address, self.environment = given.address, os.environ
        self.images = {name: f"{given.prefix}{name}:{given.tag}" for name in IMAGES}
        self._proxy: Server | None = None
        self._api: Api | None = None
        self._temporary = tempfile.TemporaryDirectory(prefix="rz-given-cluster-")

    @property
    def api(self) -> Api:
        assert self._api is not None
        return self._api

    @property
    def kubeconfig(self) -> Path:
        return self._given.kubeconfig

    def __enter__(self) -> GivenCluster:
        command = [str(self._kubectl), "--kubeconfig", str(self.kubeconfig), "proxy", "--port=0"]
        self._proxy = Server("kubectl-proxy", command, Path(self._temporary.name), env=dict(self.environment))
        try:
            wait_until_up(self._proxy, lambda: bool(self._address()))
            self._api = Api(self._address())
            self._refuse_one_in_use()
        except BaseException:
            self._proxy.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ApiError):  # the CRD's objects go with it; the chart alone would keep them
            self.api.delete("CustomResourceDefinition", "", names.CRD_NAME)
        for name in NAMESPACES:
            with contextlib.suppress(ApiError):
                self.api.delete("Namespace", "", name)
        self.api.close()
        assert self._proxy is not None
        self._proxy.stop()

    def check(self) -> None:
        assert self._proxy is not None
        self._proxy.check()

    def log(self, pod: Object, container: str) -> str:
        return self._log(pod, container, "--tail=40")

    def save_logs(self, folder: Path) -> None:
        """Also of the container before, where one was restarted; not of pods that are gone."""
        for pod in (pod for namespace in NAMESPACES for pod in self.api.list("Pod", namespace)):
            for status in pod["status"].get("containerStatuses", []):
                name = f"{pod['metadata']['namespace']}_{pod['metadata']['name']}_{status['name']}"
                (folder / f"{name}.log").write_text(self._log(pod, status["name"]))
                if status["restartCount"]:
                    (folder / f"{name}.previous.log").write_text(self._log(pod, status["name"], "--previous"))

    def _log(self, pod: Object, container: str, *flags: str) -> str:
        meta = pod["metadata"]
        where = ["--namespace", meta["namespace"], meta["name"], "--container", container, *flags]
        done = call(str(self._kubectl), "--kubeconfig", str(self.kubeconfig), "logs", *where, check=False)
        return done.stdout or done.stderr

    def _address(self) -> str:
        assert self._proxy is not None
        found = re.search(r"Starting to serve on (\S+)", self._proxy.tail())
        return f"http://{found[1]}" if found else ""

    def _refuse_one_in_use(self) -> None:
        try:
            wanted = [("CustomResourceDefinition", names.CRD_NAME), *(("Namespace", name) for name in NAMESPACES)]
            found = [f"the {kind} {name}" for kind, name in wanted if self.api.find(kind, "", name)]
        except ApiError as error:
            raise UnfitError(f"the cluster of {self.kubeconfig} refuses what an administrator may: {error}") from error
        if found:
            raise UnfitError(
                f"found {' and '.join(found)} in the cluster of {self.kubeconfig}; required is one in which nobody "
                "uses reasonerzero: these tests make them, and delete them at their end"
            )
