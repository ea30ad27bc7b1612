"""After a user error nothing is left on the disk that was not there before, unless the run has begun.

Puts ``rz run`` together: run file, plan, workdir, executor, view, runner.
"""

from __future__ import annotations

import logging
import random
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from rz_api import exit_codes
from rz_api.run import ResolvedRun, read_stored_run
from rz_api.status import RunStatus
from rz_operator.errors import UserError
from rz_operator.local.devices import gpus_for, visible_devices
from rz_operator.local.executor import LocalExecutor
from rz_operator.local.ledger_status import LedgerReader
from rz_operator.local.ports import Ports
from rz_operator.local.runner import INTERRUPTED, Runner, StopRequests
from rz_operator.local.view import LiveView, PlainView
from rz_operator.local.workdir import Workdir
from rz_operator.plan import Plan, plan
from rz_operator.run_file import read_run


def run_locally(
    file: Path, workdir: Path | None, overrides: Sequence[str], plain: bool, ledger_port: int | None
) -> int:
    """Run ``file`` to its end on this machine; returns the exit code. Raises UserError for what is seen beforehand."""
    planned = plan(read_run(file, overrides))
    return run_plan(planned, workdir or Path("runs") / planned.run.name, plain, ledger_port)


def run_plan(planned: Plan, workdir: Path, plain: bool = True, ledger_port: int | None = None) -> int:
    """Run a plan to its end. After a user error nothing is left that was not there before, unless the run has begun."""
    check(planned)
    devices = visible_devices(planned, gpus_for(planned))
    ports = Ports(random.Random())
    if ledger_port is not None:
        ports.fix("ledger", 0, "api", ledger_port)
    uri = planned.run.spec.storage.uri
    storage = local_folder(uri)
    storage_was_there = storage is None or storage.exists()
    folder = Workdir.claim(workdir, planned)
    # Both: where the storage was removed since, the same command begins anew.
    if folder.read_memory().phase == "Succeeded" and has_run(uri, planned.run):
        folder.close()
        print(f"rz: run {planned.run.name} is finished; `rz report {workdir}` draws it", file=sys.stderr)
        return exit_codes.OK
    try:
        executor = LocalExecutor(planned, folder, ports, devices)
        code, status = _drive(planned, folder, executor, plain)
    except UserError:
        folder.discard()
        raise
    finally:
        folder.close()
    logs = f"; logs are in {folder.path / 'logs'}"
    if code == exit_codes.USER_ERROR and not has_run(uri, planned.run):
        folder.discard()
        if storage and not storage_was_there:
            _remove_if_empty(storage)
        logs = ""
    if code == INTERRUPTED:
        print(f"rz: stopped; the same command resumes run {planned.run.name}", file=sys.stderr)
    elif code == exit_codes.USER_ERROR:
        print(f"rz: {status.message}{logs}", file=sys.stderr)
    elif code != exit_codes.OK:
        print(f"rz: {status.reason}: {status.message}{logs}", file=sys.stderr)
    return code


def check(planned: Plan) -> None:
    """What is fine on a cluster and makes no sense here. Raises UserError."""
    spec = planned.run.spec
    if spec.suspend:
        raise UserError("spec.suspend is true, so there is nothing to run: set it to false (--set suspend=false)")
    if not planned.role("rollout").processes:
        raise UserError("rollout.replicas is 0, so nothing would ever be sampled: at least 1 is required for `rz run`")
    for role in planned.roles:
        if role.env_from_cluster or role.env_from:
            raise UserError(
                f"{role.role}.env has valueFrom or {role.role}.envFrom is set, which only a cluster can resolve: "
                f"for `rz run` set the variable in the shell, or write a literal value"
            )


def _drive(planned: Plan, folder: Workdir, executor: LocalExecutor, plain: bool) -> tuple[int, RunStatus]:
    view: LiveView | PlainView
    if sys.stdout.isatty() and not plain:
        from rich.console import Console

        view = LiveView(Console(), planned.run.name)
    else:
        view = PlainView(sys.stdout)
    stop = StopRequests()
    ledger = LedgerReader(executor.ledger_status_url())
    runner = Runner(planned, folder, executor, view, ledger.read, stop)
    try:
        with stop.install():
            code = runner.run()
    finally:
        view.close()
        ledger.close()
    return code, runner.status


def local_folder(uri: str) -> Path | None:
    """The folder of a storage URI on this machine; None for a bucket."""
    if uri.startswith("file://"):
        return Path(uri.removeprefix("file://"))
    return None if "://" in uri else Path(uri)


def has_run(uri: str, run: ResolvedRun) -> bool:
    """Whether this very run has claimed the storage. When that can't be found out, it may have: nothing is removed
    then."""
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
        claim = f"{path.rstrip('/')}/run.json"
        if not filesystem.exists(claim):
            return False
        owner = read_stored_run(filesystem.cat_file(claim), odd_values=True).run
        return (owner.uid, owner.identity_digest()) == (run.uid, run.identity_digest())
    except Exception as error:  # any of the many that fsspec's implementations raise
        logging.getLogger(__name__).debug("cannot look into %s: %s", uri, error)
        return True


def _remove_if_empty(folder: Path) -> None:
    """Remove a folder in which there are at most folders."""
    if folder.is_dir() and not any(path.is_file() for path in folder.rglob("*")):
        shutil.rmtree(folder)
