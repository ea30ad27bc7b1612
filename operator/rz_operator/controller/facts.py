"""Everything that a status is reported from was seen in one look, and nothing of it is asked for again. Values only.

``reconcile`` fills ``Facts``; ``status_report``, ``readiness`` and ``progress`` read them. A ``Finding`` is what they
make of them for one condition.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rz_api.conditions import ConditionStatus, Reason
from rz_api.names import Role
from rz_operator.controller.accept import Verdict
from rz_operator.controller.seen import Children, SeenPod
from rz_operator.controller.words import cut
from rz_operator.decisions.reached import LedgerStatus
from rz_operator.plan import Plan


@dataclass(frozen=True)
class Facts:
    """What one look at a run gave, besides the status itself (refusals are in its ``retries``)."""

    body: Mapping[str, Any]
    """The run's object."""
    verdict: Verdict
    plan: Plan | None
    """None: nothing may be started."""
    children: Children
    ledger: LedgerStatus | None
    """The ledger's answer; None where there was none."""
    give_way_to: str = ""
    """The older run whose gang ours waits for (``gangs``)."""
    ledger_silent_since: float | None = None
    """Unix seconds of its last answer, where it gives none now (``Ledgers.silent_since``)."""

    @property
    def name(self) -> str:
        return str(self._metadata.get("name") or "")

    @property
    def uid(self) -> str:
        return str(self._metadata.get("uid") or "")

    @property
    def generation(self) -> int | None:
        found = self._metadata.get("generation")
        return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else None

    @property
    def _metadata(self) -> Mapping[str, Any]:
        found = self.body.get("metadata")
        return found if isinstance(found, Mapping) else {}

    def pods(self, role: Role) -> list[SeenPod]:
        """This run's pods of a role, by index."""
        found = [pod for pod in self.children.of(role) if pod.run_uid == self.uid]
        return sorted(found, key=lambda pod: (pod.member.index, pod.member.incarnation, pod.name))


@dataclass(frozen=True)
class Finding:
    """One condition to be."""

    status: ConditionStatus
    reason: str
    message: str = ""


def no(reason: str, *message: str) -> Finding:
    """A condition that is False, with these sentences as its message."""
    return Finding("False", reason, cut("; ".join(message)))


def reason_of(word: str) -> str:
    """A word from elsewhere (a kubelet, a scheduler), if it can be a condition's reason."""
    # The pattern that the API has for reasons (metav1.Condition), and less than its 1024 characters.
    return word if re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]{0,200}[A-Za-z0-9_])?", word) else Reason.STARTING
