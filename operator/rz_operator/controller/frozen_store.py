"""What a run was frozen to is there before its pods are, again and again, and is never made up while some are.

The run's ConfigMap and the memory of it. ``reconcile`` reads here what was frozen, writes what ``accept`` wants frozen,
and has both the ConfigMap and the token verified before it starts pods. The ConfigMap is the truth for a new life of
the operator; while it lives, its memory is the truth for a ConfigMap that somebody has deleted or edited.

| in the cluster                       | nothing of the run runs      | pods or Deployments are there                 |
|--------------------------------------|------------------------------|-----------------------------------------------|
| the ConfigMap, readable              | is taken                     | is taken                                      |
| none, and it is remembered           | is written again             | is written again                              |
| none, or an unreadable one           | the run is frozen anew       | ``Lost``: nothing is started                  |
| one that only a newer operator reads | ``Lost``                     | ``Lost``                                      |
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from rz_api import names
from rz_api.run import NewerRunError
from rz_operator.apiserver.bodies import Body, at, is_controlled_by_run
from rz_operator.apiserver.cluster import ApiError, Cluster
from rz_operator.controller.apply import Applier, TransientError
from rz_operator.controller.frozen import Frozen, is_as_written
from rz_operator.controller.seen import RunKey

log = logging.getLogger(__name__)

VERIFY_SECONDS = 600.0
"""Between two comparisons of a run's ConfigMap when nothing is started: whoever deletes it and then restarts the
operator within that time has it lost."""
SOON_SECONDS = 60.0
"""The same where pods hang and may miss it."""


@dataclass(frozen=True)
class Lost:
    """The run was accepted, and what it was frozen to cannot be had."""

    problem: str
    """What was found."""
    newer: bool = False
    """A newer operator could read it."""


class FrozenStore:
    """What the runs were frozen to, by their UIDs."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._known: dict[str, Frozen | None] = {}
        """Saves a read, and is what a ConfigMap is made from that somebody has deleted."""
        self._unreadable: set[str] = set()
        """Runs whose ConfigMap is there and can't be understood: it is written over."""
        self._stale: set[str] = set()
        """Runs whose ConfigMap is to be read again: a write did not go as expected."""
        self._verified: dict[str, float] = {}
        """Unix seconds at which the ConfigMap was last as it should be."""

    async def read(self, key: RunKey, uid: str, something_runs: bool) -> Frozen | Lost | None:
        """What the run was frozen to; None: it is to be frozen from its spec (see the module)."""
        known = self._known.get(uid)
        if uid not in self._stale and (known is not None or (uid in self._known and not something_runs)):
            return known
        found = await self._fetch(key, uid, something_runs)
        if known is not None and not isinstance(found, Frozen) and not (isinstance(found, Lost) and found.newer):
            found = known  # somebody has deleted or broken it meanwhile: ``verify`` writes it again
        if not isinstance(found, Lost):
            self._known[uid] = found
            self._stale.discard(uid)
        return found

    async def write(self, key: RunKey, uid: str, frozen: Frozen, applier: Applier, now: float) -> bool:
        """Write what is frozen now. False: refused. Raises TransientError when somebody else was first."""
        there = self._known.get(uid) is not None or uid in self._unreadable
        if not await applier.create_config(frozen.to_data(), replace=there):
            return False
        self._unreadable.discard(uid)
        if not there:
            found = await self._fetch(key, uid, False)  # of two operators (or lives of one) the first has frozen it
            if isinstance(found, Frozen) and found != frozen:
                self._known[uid] = found
                raise TransientError("the run was frozen by somebody else a moment ago")
        self._known[uid], self._verified[uid] = frozen, now
        return True

    async def verify(self, key: RunKey, uid: str, applier: Applier, now: float) -> bool:
        """Have the ConfigMap as it is remembered: it is written again where somebody has deleted or edited it. False:
        that was refused. Raises TransientError when another operator has frozen the run anew meanwhile."""
        frozen = self._known.get(uid)
        if frozen is None:
            return True
        found = await self._get(key)
        ours = found is not None and is_controlled_by_run(found, key.name, uid)
        if ours and not self._is_as_remembered(key, uid, _data(found), frozen):
            log.warning("%s: the frozen run was edited, and is written again as it was", key)
        elif ours:
            self._verified[uid] = now
            return True
        else:
            log.warning("%s: the frozen run is gone, and is written again", key)
        if not await applier.create_config(frozen.to_data(), replace=ours):
            return False
        self._verified[uid] = now
        return True

    def is_due(self, uid: str, now: float, soon: bool = False) -> bool:
        """Whether the ConfigMap was not compared for so long that it should be, although nothing is started; ``soon``
        where pods seem to miss it."""
        if self._known.get(uid) is None:
            return False
        return now - self._verified.setdefault(uid, now) >= (SOON_SECONDS if soon else VERIFY_SECONDS)

    def read_again(self, uid: str) -> None:
        """At the next look: a write has failed, perhaps because somebody else was faster."""
        self._stale.add(uid)

    def keep_only(self, live: set[str]) -> None:
        """Forget runs that are gone."""
        self._known = {uid: known for uid, known in self._known.items() if uid in live}
        self._verified = {uid: when for uid, when in self._verified.items() if uid in live}
        self._unreadable &= live
        self._stale &= live

    # ---------------------------------------------------------------------------------------------------- reading

    async def _fetch(self, key: RunKey, uid: str, something_runs: bool) -> Frozen | Lost | None:
        found = await self._get(key)
        # An earlier run of this name leaves one until the garbage collector comes.
        if found is None or not is_controlled_by_run(found, key.name, uid):
            name = names.config_map(key.name)
            return Lost(f"found no ConfigMap {name} of this run, and pods of it") if something_runs else None
        try:
            return Frozen.from_data(_data(found))
        except NewerRunError as error:
            return Lost(f"ConfigMap {names.config_map(key.name)}: {error}", newer=True)
        except ValueError as error:
            self._unreadable.add(uid)
            if something_runs:
                return Lost(f"ConfigMap {names.config_map(key.name)}: {error}")
            log.error("%s: the frozen run is unreadable and is made anew from the spec: %s", key, error)
            return None

    async def _get(self, key: RunKey) -> Body | None:
        try:
            return await self._cluster.get("ConfigMap", key.namespace, names.config_map(key.name))
        except ApiError as error:
            if error.not_found or error.status in (400, 422):  # a name that no ConfigMap can have
                return None
            raise

    def _is_as_remembered(self, key: RunKey, uid: str, data: Mapping[str, str], frozen: Frozen) -> bool:
        if data == frozen.to_data():
            return True
        try:
            same = Frozen.from_data(data) == frozen
        except NewerRunError as error:
            self.read_again(uid)
            raise TransientError(f"{key}: a newer operator has frozen the run anew: {error}") from error
        except ValueError:
            return False
        if not same and is_as_written(data):
            self.read_again(uid)
            raise TransientError(f"{key}: another operator has frozen the run anew")
        return same


def _data(found: Body | None) -> Mapping[str, str]:
    data = at(found, "data")
    return data if isinstance(data, Mapping) else {}
