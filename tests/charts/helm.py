"""Helm as these tests call it: a child process with its state in a folder of the test, and values as dicts."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent.parent
CHART = ROOT / "charts" / "reasonerzero"
RELEASE, NAMESPACE = "rz", "rz-system"
SECONDS = 120
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Ten times as fast, where PyYAML was built with it."""

Object = dict[str, Any]


class HelmError(Exception):
    """Helm ended with another status than 0; the text is what it said."""


class Helm:
    """``kubeconfig``: None for what needs no server."""

    def __init__(self, binaries: Path, folder: Path, env: Mapping[str, str], kubeconfig: Path | None = None) -> None:
        self._program, self._folder, self._kubeconfig = binaries / "helm", folder, kubeconfig
        self._env = {**env, **{f"HELM_{kind}_HOME": str(folder / kind) for kind in ("CACHE", "CONFIG", "DATA")}}
        self._calls = 0
        self._rendered: dict[str, str] = {}

    def run(self, *words: str, values: Mapping[str, Any] | None = None) -> str:
        """Its standard output. Raises HelmError."""
        command = [str(self._program), *words]
        if values is not None:
            self._calls += 1
            file = self._folder / f"values-{self._calls}.json"
            file.write_text(json.dumps(values))
            command += ["--values", str(file)]
        if self._kubeconfig is not None:
            command += ["--kubeconfig", str(self._kubeconfig)]
        done = subprocess.run(command, capture_output=True, text=True, env=self._env, timeout=SECONDS)
        if done.returncode != 0:
            raise HelmError(done.stderr.strip())
        return done.stdout

    def lint(self, values: Mapping[str, Any] | None = None) -> str:
        return self.run("lint", "--strict", str(CHART), values=values or {})

    def template(
        self,
        values: Mapping[str, Any] | None = None,
        *,
        chart: Path = CHART,
        kube_version: str = "",
        flags: Sequence[str] = (),
    ) -> list[Object]:
        """What ``helm template`` renders, in its order. The same question is asked once: it is the same answer."""
        asked = json.dumps([values or {}, str(chart), kube_version, *flags])
        if asked not in self._rendered:
            words = ["template", RELEASE, str(chart), "--namespace", NAMESPACE, *flags]
            words += ["--kube-version", kube_version] if kube_version else []
            self._rendered[asked] = self.run(*words, values=values or {})
        return [body for body in yaml.load_all(self._rendered[asked], Loader=LOADER) if body]


def installed(objects: Sequence[Object]) -> list[Object]:
    """Without those that ``helm test`` makes."""
    return [each for each in objects if "helm.sh/hook" not in each["metadata"].get("annotations", {})]


def one(objects: Sequence[Object], kind: str, suffix: str = "") -> Object:
    """The only object of a kind whose name ends in ``suffix``; without one, the only one that is installed."""
    looked_at = objects if suffix else installed(objects)
    found = [each for each in looked_at if each["kind"] == kind and each["metadata"]["name"].endswith(suffix)]
    assert len(found) == 1, [each["metadata"]["name"] for each in objects if each["kind"] == kind]
    return found[0]


def kinds(objects: Sequence[Object]) -> set[str]:
    return {each["kind"] for each in objects}
