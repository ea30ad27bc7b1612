"""A workdir belongs to one run, and one runner at a time is at work in it.

It is the folder of a local run: logs for people, a private part for the run, a lock.

```
<workdir>/status.json            what the runner remembers and shows (``rz status`` reads it)
<workdir>/prometheus.json        where each member serves metrics (a file of Prometheus' file_sd_configs)
<workdir>/logs/<role>-<i>.log    output of each member, appended over restarts (trainer: -i<incarnation>)
<workdir>/.rz/                   private (0700): lock, run.json, token (0600), members.json, last words, scratch
```

The run's storage may be this very folder. Opened by ``local.runner``; read by ``rz status``.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

from rz_api.status import RunStatus
from rz_operator.errors import UserError
from rz_operator.plan import RUN_FILE, TOKEN_FILE, Plan

STATUS_FILE, MEMBERS_FILE, TARGETS_FILE = "status.json", "members.json", "prometheus.json"


class Workdir:
    """A locked workdir. Close it, or ``discard`` it when the run could not start."""

    def __init__(self, path: Path, made: tuple[Path, ...], lock: int) -> None:
        self.path = path
        self._made = made
        self._lock = lock

    @staticmethod
    def claim(path: Path, plan: Plan) -> Workdir:
        """Make what is missing, lock it, write the plan's files.

        Raises UserError when a runner is at work in it, when another run made it, or when it cannot be written.
        """
        path = path.absolute()
        parts = (*path.parents, path, path / ".rz", path / "logs", path / STATUS_FILE)
        made = tuple(part for part in parts if not part.exists())
        try:
            (path / "logs").mkdir(parents=True, exist_ok=True)
            (path / ".rz").mkdir(mode=0o700, exist_ok=True)
            lock = os.open(path / ".rz" / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            _remove(path, made)
            raise UserError(
                f"cannot write the workdir {path}: {error.strerror or error}; a folder that you can write is required: "
                f"choose another with --workdir"
            ) from error
        workdir = Workdir(path, made, lock)
        try:
            workdir._take(plan)
        except BaseException:
            workdir.close()
            raise
        return workdir

    def _take(self, plan: Plan) -> None:
        try:
            # Not a file with a pid: the kernel gives this lock back however the runner dies.
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another `rz run` is at work in {self.path}; one run has one runner: stop that one, or choose "
                f"another folder with --workdir"
            ) from None
        self._check_owner(plan)
        for file in plan.files:
            target = self.file(file.name)
            if file.content is not None:
                write_atomically(target, file.content)
            elif file.name == TOKEN_FILE and not target.exists():
                write_atomically(target, secrets.token_hex(32))

    def _check_owner(self, plan: Plan) -> None:
        try:
            owner = json.loads(self.file(RUN_FILE).read_text())
        except (FileNotFoundError, ValueError):
            return
        if owner.get("uid") != plan.run.uid:
            raise UserError(
                f"the workdir {self.path} belongs to run {owner.get('name')!r} with storage "
                f"{owner.get('spec', {}).get('storage', {}).get('uri')!r}, this is run {plan.run.name!r} with storage "
                f"{plan.run.spec.storage.uri!r}: choose another folder with --workdir, or remove that one"
            )

    def file(self, name: str) -> Path:
        """A file that only the run itself reads."""
        return self.path / ".rz" / name

    def folder(self, name: str) -> Path:
        """A private folder, made when it is asked for."""
        folder = self.file(name)
        folder.mkdir(mode=0o700, exist_ok=True, parents=True)
        return folder

    def log_file(self, name: str) -> Path:
        return self.path / "logs" / f"{name}.log"

    def read_memory(self) -> RunStatus:
        """The status that the runner before left, or a fresh one. Raises UserError when the file is not readable."""
        return read_status(self.path)[0] if (self.path / STATUS_FILE).exists() else RunStatus()

    def write_status(self, status: RunStatus, shown: dict[str, object]) -> None:
        """Replace ``status.json``: what to go on from, and what else is shown by ``rz status``."""
        text = json.dumps({**shown, "status": status.to_dict()}, indent=2)
        write_atomically(self.path / STATUS_FILE, text)

    def close(self) -> None:
        """Give the lock back."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def discard(self) -> None:
        """Remove what ``claim`` made and whatever came into it since, and nothing that was there before."""
        self.close()
        _remove(self.path, self._made)


def read_status(path: Path) -> tuple[RunStatus, dict[str, object]]:
    """(status, the rest) of a workdir's ``status.json``. Raises UserError when there is none or it does not parse."""
    file = path / STATUS_FILE
    try:
        content = json.loads(file.read_text())
        status = RunStatus.model_validate(content.pop("status"))
    except FileNotFoundError:
        raise UserError(
            f"found no {STATUS_FILE} in {path}; the workdir of a local run is required (runs/<name> by default)"
        ) from None
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"cannot read {file}: {error}; remove it to start with a fresh status") from error
    return status, content


def read_members(path: Path) -> list[dict[str, Any]]:
    """The members that a workdir's runner said are alive: rows of member, incarnation and uid (pid-start time)."""
    try:
        rows = json.loads((path / ".rz" / MEMBERS_FILE).read_text())
    except (FileNotFoundError, ValueError):
        return []
    return rows if isinstance(rows, list) else []


def write_atomically(path: Path, text: str) -> None:
    """Write beside ``path`` (mode 0600), then rename over it: a reader sees the old text or the new one."""
    # Beside it, because a rename works within one file system.
    temporary = path.with_name(f"{path.name}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    temporary.replace(path)


def _remove(path: Path, made: tuple[Path, ...]) -> None:
    """Remove of the workdir ``path`` what is in ``made``: all of it, or its parts; and folders above that are empty."""
    if path not in made:
        for part in made:
            with contextlib.suppress(OSError):  # below something that is no folder
                shutil.rmtree(part, ignore_errors=True) if part.is_dir() else part.unlink(missing_ok=True)
        return
    shutil.rmtree(path, ignore_errors=True)
    for parent in path.parents:
        if parent not in made or any(parent.iterdir()):
            return
        parent.rmdir()
