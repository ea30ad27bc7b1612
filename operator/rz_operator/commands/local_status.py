"""``rz status``, and where a run's storage is. Called by the command line."""

from __future__ import annotations

import sys
from pathlib import Path

from rz_operator.commands.text_table import width_of, wrapped
from rz_operator.errors import UserError
from rz_operator.local.ledger_status import LedgerReader
from rz_operator.local.processes import identity
from rz_operator.local.view import render
from rz_operator.local.workdir import STATUS_FILE, read_members, read_status


def print_status(directory: Path | None) -> None:
    """What ``status.json`` says and, while the run is alive, the ledger's own word. Raises UserError."""
    from rich.console import Console

    directory = directory or newest_workdir(Path("runs"))
    status, shown = read_status(directory)
    reader = LedgerReader(str(shown.get("ledgerStatusUrl", "")), timeout_seconds=2.0)
    live = reader.read()
    reader.close()
    stored = shown.get("ledger")
    ledger = live or (stored if isinstance(stored, dict) else None)
    members = [
        f"{row['member']} (process {row['uid'].partition('-')[0]})"
        for row in read_members(directory)
        # After ``kill -9`` of the runner the file still names them.
        if identity(int(row["uid"].partition("-")[0])) == row["uid"]
    ]
    Console().print(render(str(shown.get("name", directory.name)), status, members, ledger))
    below = []
    if not members:
        below.append(f"not running now; this is what {directory / STATUS_FILE} says")
    if status.message:
        below.append(f"{status.reason}: {status.message}")
    for text in below:
        print("\n".join(wrapped(text, width_of(sys.stdout))))


def newest_workdir(folder: Path) -> Path:
    """The workdir under ``folder`` whose status was written last. Raises UserError when there is none."""
    found = sorted(folder.glob(f"*/{STATUS_FILE}"), key=lambda file: file.stat().st_mtime)
    if not found:
        raise UserError(f"found no local run in {folder.absolute()}; name its workdir: rz status DIR")
    return found[-1].parent


def storage_of(run_folder: str) -> tuple[str, Path]:
    """(storage URI, where a report goes by default) of a workdir, or of a storage folder or URL."""
    path = Path(run_folder)
    if (path / STATUS_FILE).exists():
        return str(read_status(path)[1].get("storage", run_folder)), path
    if "://" in run_folder:
        return run_folder, Path("report")
    if not (path / "run.json").exists():
        raise UserError(
            f"found neither {STATUS_FILE} nor run.json in {path}; the workdir or the storage of a run is required"
        )
    return str(path.absolute()), path
