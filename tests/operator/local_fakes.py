"""Real processes that are no workers: a plan whose commands are small Python programs."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from operator_builders import spec

from rz_api.run import ResolvedRun
from rz_operator.decisions.members import Observed
from rz_operator.local.executor import LocalExecutor
from rz_operator.local.ports import Ports
from rz_operator.local.workdir import Workdir
from rz_operator.plan import Plan, plan

LOOP = "print('ready', flush=True)\nwhile True: time.sleep(0.05)"
WAIT = f"import signal, time\nsignal.signal(signal.SIGTERM, lambda *_: exit(75))\n{LOOP}"
"""Runs until SIGTERM, then ends as drained."""
DEAF = f"import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n{LOOP}"
"""Ignores SIGTERM."""
SUCCEED = "print('done')"
LAST_WORDS = "import os\nopen(os.environ['RZ_TERMINATION_LOG'], 'w').write({!r})\nprint('noise')\nexit(64)"
"""Ends with a user error that says what is put in."""
DEADLINE_SECONDS = 60.0


def fake_plan(tmp_path: Path, programs: Mapping[str, str] | None = None, **sections: Any) -> Plan:
    """A plan of the usual shape (one of each role; sections may say otherwise) that runs ``programs`` by role."""
    chosen = {"ledger": WAIT, "reward": WAIT, "rollout": WAIT, "trainer": WAIT, **(programs or {})}
    sections.setdefault("failurePolicy", {"backoffSeconds": 0})
    run = ResolvedRun(name="fake", uid="u-1", spec=spec(**{"storage": {"uri": str(tmp_path / "store")}, **sections}))
    planned = plan(run)
    roles = tuple(
        replace(
            role,
            processes=tuple(replace(each, command=("python", "-c", chosen[role.role])) for each in role.processes),
        )
        for role in planned.roles
    )
    return replace(planned, roles=roles)


def executor_of(planned: Plan, tmp_path: Path, **options: Any) -> tuple[LocalExecutor, Workdir]:
    workdir = Workdir.claim(tmp_path / "work", planned)
    return LocalExecutor(planned, workdir, Ports(random.Random()), {}, **options), workdir


def until(condition: Callable[[], Any], what: str) -> Any:
    """Poll until it holds; fail with ``what`` after a generous deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {DEADLINE_SECONDS} s: {what}")


def only(members: tuple[Observed, ...]) -> Observed:
    (member,) = members
    return member


def pid_of(member: Observed) -> int:
    return int(member.uid.partition("-")[0])
