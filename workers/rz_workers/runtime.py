"""However a role's main ends, exit code and last words say why.

What every worker process needs at its edges: settings from the environment, logging, exit codes, last words. The plan
(``rz_operator.plan``) sets the environment; a Kubernetes pod and a local process get the same variables. Each role's
``main`` runs inside ``worker_process()``, which turns exceptions into exit codes and a termination message: exit 64
with one clear sentence for a ``UserError``, 70 with the last line of the traceback for anything unexpected.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rz_api import exit_codes
from rz_api.redact import redact
from rz_api.run import NewerRunError, ResolvedRun, UnreadableRunError, read_stored_run

log = logging.getLogger(__name__)


class WorkerError(Exception):
    """Base of the errors that end a worker with a meaning of its own."""

    exit_code = exit_codes.INTERNAL_ERROR


class UserError(WorkerError, ValueError):
    """The user must change something. The message says what was found, what was required and what to change."""

    exit_code = exit_codes.USER_ERROR


def first_line(error: BaseException) -> str:
    """What an error of somebody else's code says, for a sentence, at most 300 characters; the next line too where the
    first ends with a colon."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return textwrap.shorten(" ".join(lines[: 1 + lines[0].endswith(":")]), 300, placeholder=" …")


class SupersededError(WorkerError):
    """A newer incarnation of the trainer gang exists."""

    exit_code = exit_codes.SUPERSEDED


class DrainedError(WorkerError):
    """Stopped on request, with everything saved."""

    exit_code = exit_codes.DRAINED


@dataclass(frozen=True)
class Settings:
    """A worker's view of the plan, from ``RZ_*`` variables (torchrun's names for rank and rendezvous)."""

    role: str
    index: int
    run: ResolvedRun
    ledger_url: str
    reward_url: str
    token_file: Path | None
    port: int
    """Port of the role's own service (ledger, reward); 0 where it has none."""
    status_port: int
    """Read-only port: /status, /metrics, /healthz; 0 switches it off."""
    bind_host: str
    scratch: Path
    incarnation: int
    """Of the trainer gang, given by the operator; 0 for other roles."""
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    transfer_host: str | None = None
    """Of a trainer rank where the run broadcasts weights: the name by which rollouts reach it; else None."""
    transfer_port: int | None = None
    """The port there at which its sender listens."""
    environment: dict[str, str] = field(default_factory=dict, repr=False)

    @staticmethod
    def from_environment(env: dict[str, str] | None = None) -> Settings:
        """Read the variables that ``rz_operator.plan`` sets.

        Raises UserError when a required one is missing, and as ``read_run_file`` does.
        """
        env = dict(os.environ) if env is None else env
        try:
            run = read_run_file(Path(env["RZ_RUN_FILE"]))
            scratch = Path(env["RZ_SCRATCH"])
            scratch.mkdir(parents=True, exist_ok=True)
        except KeyError as missing:
            raise UserError(
                f"the variable {missing} is not set; workers are started by the operator or `rz run`, which set it"
            ) from None
        return Settings(
            role=env.get("RZ_ROLE", ""),
            index=int(env.get("RZ_INDEX", "0")),
            run=run,
            ledger_url=env.get("RZ_LEDGER_URL", ""),
            reward_url=env.get("RZ_REWARD_URL", ""),
            token_file=token_file(env),
            port=int(env.get("RZ_PORT", "0")),
            status_port=int(env.get("RZ_STATUS_PORT", "0")),
            bind_host=env.get("RZ_BIND_HOST", "127.0.0.1"),
            scratch=scratch,
            incarnation=int(env.get("RZ_INCARNATION", "0")),
            rank=int(env.get("RANK", "0")),
            world_size=int(env.get("WORLD_SIZE", "1")),
            local_rank=int(env.get("LOCAL_RANK", "0")),
            transfer_host=env.get("RZ_TRANSFER_HOST"),
            transfer_port=int(env["RZ_TRANSFER_PORT"]) if "RZ_TRANSFER_PORT" in env else None,
            environment=env,
        )


def read_run_file(path: Path) -> ResolvedRun:
    """The run that this worker is part of, as an operator of any version has frozen it.

    What this version does not know is left out, with a warning: an image may be older than the operator. Raises
    UserError where the result depends on it, WorkerError (retriable: the operator writes the file anew) for a file that
    is no run.
    """
    change = "set the image of this role to one that is no older than the operator"
    try:
        stored = read_stored_run(path.read_bytes(), odd_values=True)
    except NewerRunError as error:
        raise UserError(f"{path} is from a newer version: {error}; {change}") from None
    except UnreadableRunError as error:
        raise WorkerError(f"{path} must be the run that the operator has frozen: {error}; restore it") from None
    if stored.beyond:
        fields = ", ".join(stored.beyond)
        raise UserError(f"{path}: found {fields}, which this version does not know; the result depends on it: {change}")
    if stored.left_out:
        log.warning("%s is from a newer version; left out: %s", path, ", ".join(stored.left_out))
    return stored.run


def token_file(env: Mapping[str, str]) -> Path | None:
    """Where the run's token is."""
    path = env.get("RZ_TOKEN_FILE")
    return Path(path) if path else None


def read_token(token_file: Path | None) -> str:
    """The run's bearer token, stripped; empty when no file is given (tests)."""
    return token_file.read_text().strip() if token_file else ""


def on_terminate(callback: Callable[[], None]) -> threading.Event:
    """Call ``callback`` once on SIGTERM or SIGINT; returns an event that is set then too."""
    event = threading.Event()

    def handle(_signum: int, _frame: object) -> None:
        if not event.is_set():
            # First: the callback may raise, and a second signal must not raise again into what ends because of it.
            event.set()
            callback()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
    return event


def set_up_logging() -> None:
    """One line an event on stderr: time, level, module, text. ``RZ_LOG_LEVEL`` sets the level (default INFO)."""
    logging.basicConfig(
        level=os.environ.get("RZ_LOG_LEVEL", "INFO").upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
        force=True,
    )
    for noisy in ("httpx", "httpcore", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def write_last_words(message: str) -> None:
    """Store the termination message where the operator reads it, without credentials (at most 4096 bytes, the
    kubelet's limit): it is shown to whoever may see the pod or the run."""
    path = os.environ.get("RZ_TERMINATION_LOG")
    if path:
        try:
            Path(path).write_bytes(redact(message).encode()[:4096])
        except OSError as error:
            log.warning("cannot write the termination message to %s: %s", path, error)


@contextmanager
def worker_process() -> Iterator[None]:
    """Run a role's main: set up logging, and end the process with the exit code that the outcome means."""
    set_up_logging()
    signal.signal(signal.SIGTERM, _end_before_it_began)
    try:
        yield
    except WorkerError as error:
        log.error("%s", error)
        write_last_words(str(error))
        _leave(error.exit_code)
    # argparse's `--help`: all is said, and the code is its own.
    except SystemExit:
        raise
    except BaseException as error:
        log.exception("unexpected error")
        write_last_words(f"{type(error).__name__}: {error}")
        _leave(exit_codes.INTERNAL_ERROR)
    _leave(exit_codes.OK)


def _end_before_it_began(_signum: int, _frame: object) -> None:
    """SIGTERM before the role's ``main`` has its own handler (``on_terminate``). PID 1 of a container has no default
    one: without this it would not end before the kubelet kills it."""
    _leave(exit_codes.DRAINED)


def _leave(code: int) -> None:
    """End at once: other threads (heartbeats, servers) must not keep a finished worker alive."""
    # `os._exit` flushes nothing.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
