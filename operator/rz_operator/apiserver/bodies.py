"""Reading an object never raises, whoever has written it.

Objects as the API server has them are dicts. ``reconcile``, ``line`` and the commands of ``rz`` for clusters read them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from rz_api.status import RunStatus

log = logging.getLogger(__name__)

Body = Mapping[str, Any]


def at(body: Any, *path: str) -> Any:
    """The value at a path; None where there is none."""
    for key in path:
        if not isinstance(body, Mapping):
            return None
        body = body.get(key)
    return body


def uid_of(body: Body) -> str:
    return str(at(body, "metadata", "uid"))


class Statuses:
    """The statuses of runs, each parsed once for each version of its object."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, RunStatus]] = {}

    def of(self, body: Body) -> RunStatus:
        """As it was last written; a new one where there is none, or none that can be read."""
        uid, version = uid_of(body), str(at(body, "metadata", "resourceVersion"))
        known = self._known.get(uid)
        if known is None or known[0] != version:
            known = self._known[uid] = (version, _parse(body))
        return known[1]

    def keep_only(self, uids: set[str]) -> None:
        for uid in self._known.keys() - uids:
            del self._known[uid]


def _parse(body: Body) -> RunStatus:
    try:
        return RunStatus.model_validate(body.get("status") or {}, by_alias=True, by_name=False)
    except ValidationError as error:
        log.warning("%s: the status is unreadable and is made anew: %s", at(body, "metadata", "name"), error)
        return RunStatus()
