"""Reading an object never raises, whoever has written it.

Objects as the API server has them are dicts. ``reconcile``, ``line`` and the commands of ``rz`` for clusters read them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from rz_api import names
from rz_api.status import RunStatus, read_status

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


def controller_of(body: Body) -> Body:
    """The ownerReference of an object's controller; empty where it has none. There is one at most: the API server
    refuses a second (``OwnerReferences: Only one reference can have Controller set to true``)."""
    references = at(body, "metadata", "ownerReferences")
    for each in references if isinstance(references, list) else ():
        if at(each, "controller") is True:
            return each  # type: ignore[no-any-return]
    return {}


def is_controlled_by_run(body: Body, name: str, uid: str) -> bool:
    """Whether the run of this name and UID is an object's controller. Its labels prove nothing: ``kubectl debug
    --copy-to --keep-labels`` copies them, a restored backup has them, and anybody may write them."""
    controller = controller_of(body)
    group = str(controller.get("apiVersion")).partition("/")[0]
    found = (group, controller.get("kind"), controller.get("name"), controller.get("uid"))
    return found == (names.GROUP, names.KIND, name, uid)


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
    name = at(body, "metadata", "name")
    try:
        status, unread = read_status(body.get("status") or {})
    except ValidationError as error:
        log.warning("%s: the status is unreadable and is made anew: %s", name, error)
        return RunStatus()
    if unread:
        log.warning("%s: the status is from another version; left out: %s", name, ", ".join(unread))
    return status
