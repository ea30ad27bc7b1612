"""Logs of all containers that ever ran on the node of ``whole_cluster.py``.

The kubelet removes a container's log with its pod, and the pods that explain a failure (those of the gang before) are
the ones that the operator deletes. So each log gets a second name, a hard link, as soon as it appears.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
from pathlib import Path

POD_LOGS = Path("/var/log/pods")
"""The kubelet's: NAMESPACE_POD_UID/CONTAINER/RESTARTS.log."""
NAMED_LOGS = Path("/var/log/containers")
"""The kubelet's too: a symbolic link to each of those."""
_LOOK_SECONDS = 0.25


class PodLogs:
    """``start`` before the kubelet does, ``stop`` after it has ended: that removes what came in between."""

    def __init__(self) -> None:
        self._before: set[Path] = set()
        self._links: Path | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._before = set(POD_LOGS.glob("*"))
        # Beside the kubelet's folder: a link needs the same file system.
        self._links = Path(tempfile.mkdtemp(prefix="rz-test-pods-", dir=POD_LOGS.parent))
        self._thread = threading.Thread(target=self._follow, name="pod-logs", daemon=True)
        self._thread.start()

    def save(self, folder: Path) -> None:
        """All logs so far, as ``NAMESPACE_POD_UID_CONTAINER_RESTARTS.log``."""
        self._look()
        assert self._links is not None
        for file in self._links.iterdir():
            shutil.copyfile(file, folder / file.name)

    def stop(self) -> None:
        self._ended.set()
        if self._thread is None or self._links is None:
            return
        self._thread.join()
        for made in (self._links, *(set(POD_LOGS.glob("*")) - self._before)):
            shutil.rmtree(made, ignore_errors=True)
        for link in NAMED_LOGS.glob("*.log"):
            if link.is_symlink() and not link.exists() and link.readlink().is_relative_to(POD_LOGS):
                link.unlink()

    def _follow(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        assert self._links is not None
        for pod in set(POD_LOGS.glob("*")) - self._before:
            for file in pod.glob("*/*.log"):
                with contextlib.suppress(FileExistsError, FileNotFoundError):  # known, or gone in this instant
                    os.link(file, self._links / "_".join(file.relative_to(POD_LOGS).parts))
