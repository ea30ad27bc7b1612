"""What can't be planned or rendered is said in words, once, and keeps no run from being decided about.

Plans of runs, and whether pods can be made of them: ``reconcile`` asks for the ``Context`` of every verdict. The same
run is planned once and tried once; a spec that is wanted later (a change that waits for the gang) is tried when it is
made, because at the end of a gang nobody is there to read what is wrong with it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from rz_api.run import ResolvedRun
from rz_operator import manifests
from rz_operator.apiserver.versions import Capabilities
from rz_operator.controller import words
from rz_operator.controller.accept import Verdict
from rz_operator.controller.options import Options
from rz_operator.controller.seen import RunKey
from rz_operator.errors import UserError
from rz_operator.plan import plan

log = logging.getLogger(__name__)


class RenderingError(Exception):
    """Nothing can be made of a run. The message is for the person who wrote its spec."""


@dataclass(frozen=True)
class _Tried:
    run: ResolvedRun
    context: manifests.Context | None = None
    problem: str = ""
    """Why there is no context."""


class Renderer:
    """Holds what the newest looks at the runs needed, by the runs' UIDs."""

    def __init__(self, capabilities: Capabilities, options: Options) -> None:
        self._capabilities = capabilities
        self._options = options
        self._planned: dict[str, _Tried] = {}
        """What each run does."""
        self._checked: dict[tuple[str, str], _Tried] = {}
        """What is to be frozen of a run, and what waits, by UID and which of both."""

    def context(self, key: RunKey, uid: str, verdict: Verdict) -> manifests.Context | None:
        """How the verdict's run is rendered; None where nothing is to be started. Raises RenderingError when that
        cannot be, or when what is to be frozen, or waits, could not be started."""
        if verdict.run is None:
            return None
        planned = self._try(key, self._planned.get(uid), verdict.run, uid, lambda context: None)
        freeze = verdict.freeze.run if verdict.freeze is not None else None
        for which, run in (("freeze", freeze), ("later", verdict.later)):
            if run is not None:
                checked = self._try(key, self._checked.get((uid, which)), run, uid, manifests.check)
                self._checked[uid, which] = checked
                _raise_if_failed(checked)
        self._planned[uid] = planned
        return _raise_if_failed(planned)

    def what_it_does(self, uid: str) -> ResolvedRun | None:
        """The run as of its newest look, whatever its spec has been changed to."""
        found = self._planned.get(uid)
        return found.run if found is not None else None

    def keep_only(self, live: set[str]) -> None:
        self._planned = {uid: tried for uid, tried in self._planned.items() if uid in live}
        self._checked = {key: tried for key, tried in self._checked.items() if key[0] in live}

    def _try(
        self, key: RunKey, last: _Tried | None, run: ResolvedRun, uid: str, check: Callable[[manifests.Context], None]
    ) -> _Tried:
        if last is not None and last.run == run:
            return last
        try:
            context = manifests.Context(plan(run), key.namespace, uid, self._capabilities, self._options.status_peers)
            check(context)
        except Exception as error:
            return _Tried(run, problem=in_words(key, error))
        return _Tried(run, context)


def _raise_if_failed(tried: _Tried) -> manifests.Context:
    if tried.context is None:
        raise RenderingError(tried.problem)
    return tried.context


def in_words(run: object, error: Exception) -> str:
    """What is said of a spec that made something fail. What is no UserError is a defect of ours: it is logged whole."""
    if isinstance(error, UserError | RenderingError):
        return str(error)
    log.error("%s: the spec can't be judged, planned or rendered", run, exc_info=error)
    return words.defect(error)
