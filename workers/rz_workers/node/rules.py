"""What a node is told to run, and what the end of one of its processes means. Pure; ``main`` calls it.

========================================  =====================================================================
a process ends with                       then
========================================  =====================================================================
essential: 0                              the others go on; once all essential ones ended so, the node ends with 0
essential: 75 (drained)                   the others are asked to stop, and take the time they need
essential: anything else                  the others are stopped; the node ends with the root cause's code
other: 0                                  it is done
other: 64                                 everything is stopped; the node ends with 64
other: 75 (drained)                       started again after a pause, not counted
other: anything else                      started again after a pause; the last allowed failure in a row ends the node
========================================  =====================================================================
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from rz_api import exit_codes
from rz_workers.runtime import UserError

VARIABLE = "RZ_NODE"
LONG_LIFE_SECONDS = 600.0
"""A process that lived that long has worked: its failures before do not count any more (the kubelet's own figure)."""
LONGEST_BACKOFF_SECONDS = 60.0


class _Model(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True, strict=True)


class ProcessSpec(_Model):
    """One process of the node."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
    """Prefix of its lines in the node's output; unique in the node. Example: ``trainer-3``."""
    command: Annotated[list[str], Field(min_length=1)]
    """``python`` in front is the interpreter that runs the node."""
    env: dict[str, str] = {}
    """Over the node's own environment."""
    essential: bool
    """Whether the node ends with it (a trainer rank), or it is started again in place (a colocated rollout)."""


class NodeSpec(_Model):
    """The JSON of ``RZ_NODE``. Example: ``{"processes": [{"name": "trainer-0", "command": ["python", "-m",
    "rz_workers.trainer"], "env": {"RANK": "0"}, "essential": true}]}``."""

    processes: Annotated[list[ProcessSpec], Field(min_length=1)]
    failure_grace_seconds: Annotated[float, Field(ge=0, strict=False)] = 5.0
    """Between SIGTERM and SIGKILL once an essential process has failed: its peers hang in a collective and save
    nothing."""
    grace_seconds: Annotated[float, Field(ge=0, strict=False)] = 30.0
    """Between SIGTERM and SIGKILL for the others once all essential processes have ended well."""
    backoff_seconds: Annotated[float, Field(gt=0, strict=False)] = 1.0
    """Pause before the first start again; it doubles up to a minute."""


class Next(Enum):
    """What follows from an end."""

    GO_ON = "go on"
    START_AGAIN = "start again"
    DRAIN = "ask everyone to stop"
    STOP = "stop everyone"


@dataclass(frozen=True)
class End:
    """How one process ended."""

    name: str
    essential: bool
    code: int
    """Exit code; 128 + n for signal n."""
    words: str
    """Its termination message, or else the end of its output."""

    def describe(self) -> str:
        return f"{self.name} {outcome(self.code)}" + (f": {self.words}" if self.words else "")


def parse(text: str | None) -> NodeSpec:
    """Read ``RZ_NODE``. Raises UserError saying what is wrong with it."""
    required = (
        f'the variable {VARIABLE} must be JSON such as {{"processes": [{{"name": "trainer-0", "command": ["python", '
        '"-m", "rz_workers.trainer"], "env": {}, "essential": true}]}'
    )
    if not text:
        raise UserError(f"found no {VARIABLE} in the environment; {required}; the operator sets it")
    try:
        spec = NodeSpec.model_validate_json(text)
    except ValidationError as error:
        # Without the values: an environment may hold what nobody should read in a log.
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'the text'}: {problem['msg']}"
            for problem in error.errors(include_input=False, include_url=False, include_context=False)
        )
        raise UserError(f"{VARIABLE} cannot be used ({problems}); {required}") from None
    names = [process.name for process in spec.processes]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{VARIABLE} names {', '.join(twice)} more than once; give every process a name of its own")
    if not any(process.essential for process in spec.processes):
        raise UserError(f"{VARIABLE} has no essential process among {', '.join(names)}; the node ends with those")
    return spec


def exit_code(returncode: int) -> int:
    """As a shell tells it: ``-9`` (killed by signal 9) is 137."""
    return 128 - returncode if returncode < 0 else returncode


def outcome(code: int) -> str:
    """In words. 137 is "was killed by SIGKILL (137; perhaps for its memory limit)"."""
    if code <= 128:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(code - 128).name
    except ValueError:
        return f"ended with exit code {code}"
    return f"was killed by {name} ({code}{'; perhaps for its memory limit' if name == 'SIGKILL' else ''})"


def after_end(end: End, failures: int, max_failures: int) -> Next:
    """``failures`` in a row, this one included (``count``); see the table above."""
    if end.essential:
        return {exit_codes.OK: Next.GO_ON, exit_codes.DRAINED: Next.DRAIN}.get(end.code, Next.STOP)
    if end.code == exit_codes.OK:
        return Next.GO_ON
    if end.code == exit_codes.USER_ERROR or failures >= max_failures:
        return Next.STOP
    return Next.START_AGAIN


def count(end: End, failures: int, lived_seconds: float) -> int:
    """Failures in a row after this end: a long life wipes out those before it, a drained process has not failed."""
    before = 0 if lived_seconds >= LONG_LIFE_SECONDS else failures
    return before + (end.code not in (exit_codes.OK, exit_codes.DRAINED))


def backoff(first_seconds: float, failures: int) -> float:
    return float(min(LONGEST_BACKOFF_SECONDS, first_seconds * 2.0 ** min(max(failures - 1, 0), 16)))


def root_cause(ends: Sequence[End]) -> End | None:
    """Of the ends that count, in the order in which they were seen: the first exit 64, else the first failure, else the
    first drained process, else None (all is well).

    An exit 64 comes first whenever it came: it is terminal, and tells the user what to change.
    """
    failed = [end for end in ends if end.code not in (exit_codes.OK, exit_codes.DRAINED)]
    drained = [end for end in ends if end.code == exit_codes.DRAINED]
    return next((end for end in failed if end.code == exit_codes.USER_ERROR), None) or next(
        iter(failed + drained), None
    )


def likely_cause(end: End) -> tuple[bool, bool]:
    """Sort key for ends that were seen at the same moment: who was killed from outside, then who failed, then the rest.
    (A killed rank's peers fail within milliseconds, on its closed connections.)"""
    return end.code <= 128, end.code in (exit_codes.OK, exit_codes.DRAINED)
