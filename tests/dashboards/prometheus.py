"""Prometheus for these tests: the programs of Debian's package, fetched once, and a server on loopback.

1. ``prometheus`` and ``promtool`` on the PATH.
2. The user's cache, below ``reasonerzero/prometheus``.
3. Debian: the package is downloaded and unpacked, not installed.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import yaml

PACKAGE = "prometheus"
PROGRAMS = ("prometheus", "promtool")
ADVICE = "put prometheus and promtool on the PATH, or run on Debian, whose package has both"
START_SECONDS = 60.0


class NotHereError(Exception):
    """Prometheus cannot be had here; the text is one sentence for the person who runs the tests."""


def program(name: str) -> Path:
    """Path of ``prometheus`` or ``promtool``. Raises NotHereError."""
    if found := shutil.which(name):
        return Path(found)
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "reasonerzero" / "prometheus"
    if not all((folder / each).exists() for each in PROGRAMS):
        _fetch(folder)
    return folder / name


def _fetch(folder: Path) -> None:
    missing = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
    if missing:
        raise NotHereError(f"prometheus is not here, nor is {missing[0]} to get it: {ADVICE}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".prometheus-") as temporary:
        work = Path(temporary)
        done = subprocess.run(["apt-get", "download", PACKAGE], cwd=work, capture_output=True, text=True)
        archives = list(work.glob("*.deb"))
        if done.returncode != 0 or not archives:
            raise NotHereError(
                f"prometheus is not here, and apt-get cannot download it ({done.stderr[-300:]}): {ADVICE}"
            )
        subprocess.run(["dpkg-deb", "--extract", archives[0], work / "root"], check=True)
        (work / "made").mkdir()
        for name in PROGRAMS:
            shutil.copy2(work / "root" / "usr" / "bin" / name, work / "made" / name)
        shutil.rmtree(folder, ignore_errors=True)  # what is there is not whole
        (work / "made").rename(folder)


class Prometheus:
    """``with Prometheus(folder, jobs) as server:``; scrapes every second."""

    def __init__(self, folder: Path, jobs: list[dict[str, Any]], rules: Path | None = None) -> None:
        """``jobs`` are entries of ``scrape_configs``; ``rules`` is a rules file."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        settings: dict[str, Any] = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "scrape_configs": jobs,
        }
        if rules is not None:
            settings["rule_files"] = [str(rules)]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{probe.getsockname()[1]}"

    def __enter__(self) -> Prometheus:
        address = self.url.removeprefix("http://")
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    program("prometheus"),
                    f"--config.file={self._folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    f"--web.listen-address={address}",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        end = time.monotonic() + START_SECONDS
        while not self._is_ready():
            said = (self._folder / "log").read_text()[-2000:]
            assert self._process.poll() is None, f"prometheus ended: {said}"
            assert time.monotonic() < end, f"prometheus is not ready after {START_SECONDS:.0f} s: {said}"
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/-/ready", trust_env=False).is_success
        except httpx.HTTPError:
            return False

    def query_range(self, query: str, start: float, end: float, step: float = 1.0) -> list[dict[str, Any]]:
        """Series of ``query`` from ``start`` to ``end``, Unix seconds. Raises AssertionError for an error."""
        asked = {"query": query, "start": str(start), "end": str(end), "step": str(step)}
        answer = httpx.get(f"{self.url}/api/v1/query_range", params=asked, trust_env=False, timeout=30).json()
        assert answer["status"] == "success", f"{query}: {answer.get('error')}"
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found
