"""What the API server refuses is shown at the role that cannot do without it, and is its only trouble while it lasts.

Refusals are the status's ``retries``, by ``Kind/name`` (``apply`` remembers them). Pure; ``readiness`` asks.
"""

from __future__ import annotations

from dataclasses import replace

from rz_api import names
from rz_api.names import Role
from rz_api.status import MemberState, RunStatus
from rz_operator.controller import words
from rz_operator.controller.facts import Facts, Finding
from rz_operator.decisions.members import member_key

_EVERYBODY = ("ConfigMap", "Secret")
"""Kinds without which no pod starts."""
_SIDE = {"PodDisruptionBudget": "trainer", "NetworkPolicy": "ledger"}
"""Kinds without which everything runs all the same: kind -> the role whose condition mentions the refusal."""


def refusal(status: RunStatus, facts: Facts, role: Role, is_ready: bool = False) -> str:
    """What the API server refuses and the role needs, as a sentence; empty where there is nothing. A role that is ready
    has its token: a quota refuses a second one also where the first one serves."""
    keys = [key for key in status.retries if _is_needed_by(key, status, facts, role)]
    keys = [key for key in keys if not (is_ready and key.startswith("Secret/"))]
    return words.refusals(keys, status.retries)


def with_side_notes(finding: Finding, status: RunStatus, role: Role) -> Finding:
    """``finding`` with what is refused and nobody needs in order to run."""
    keys = [key for key in status.retries if _SIDE.get(key.partition("/")[0]) == role]
    said = words.refusals(keys, status.retries)
    return replace(finding, message=words.cut(f"{finding.message}; {said}")) if said else finding


def _is_needed_by(key: str, status: RunStatus, facts: Facts, role: Role) -> bool:
    kind, _, name = key.partition("/")
    if kind in _EVERYBODY:
        return True
    # ``apply`` uses it for a role that cannot be rendered, such as a gang whose API was uninstalled.
    if kind == "Start":
        return name == role
    if kind in _SIDE or not name.startswith(f"{facts.name}-{role}"):
        return False
    number = status.gang.incarnation
    if role == "trainer" and kind == "Pod":
        pod = names.parse_trainer_pod(facts.name, name)
        return pod is not None and pod[0] == number
    if role == "trainer" and kind == "PodGroup":
        return name == f"{facts.name}-trainer-i{number}"
    if role == "rollout" and facts.plan is not None:
        return is_wanted_rollout(facts.name, name, status, facts.plan.role("rollout").nodes)
    return True


def is_wanted_rollout(run: str, pod: str, status: RunStatus, count: int) -> bool:
    """Whether this is the name of the pod that one of the run's ``count`` rollouts should have now."""
    found = names.parse_rollout_pod(run, pod)
    if found is None or found[1] >= count:
        return False
    entry = status.members.get(member_key("rollout", found[1]), MemberState())
    return found[0] == entry.incarnation
