"""What the API server refuses is shown at the role that cannot do without it, and is its only trouble while it lasts.

Refusals are the status's ``retries``, by ``Kind/name`` (``apply`` remembers them). ``readiness`` asks what to show,
``apply`` and ``line`` which role does not start meanwhile, ``reconcile`` which are to be forgotten. Pure.
"""

from __future__ import annotations

from dataclasses import replace

from rz_api import names
from rz_api.names import Role
from rz_api.status import RunStatus
from rz_operator.controller import words
from rz_operator.controller.facts import Facts, Finding
from rz_operator.decisions.members import NEVER_FAILED, member_key

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


def holds_up(key: str, run: str, role: Role) -> bool:
    """Whether no pod of the role's comes while this is refused."""
    kind, _, name = key.partition("/")
    match kind:
        case "Start":  # a role that cannot be rendered, such as a gang whose API was uninstalled
            return name == role
        case "Deployment":
            return name == f"{run}-{role}"
        case "Pod" | "PodGroup":
            return name.startswith(f"{run}-{role}-")
    return False


def without_old(status: RunStatus, run: str, num_rollouts: int) -> RunStatus:
    """Without refusals of what nobody wants any more."""
    retries = {key: retry for key, retry in status.retries.items() if _is_wanted(key, status, run, num_rollouts)}
    return status.model_copy(update={"retries": retries})


def _is_needed_by(key: str, status: RunStatus, facts: Facts, role: Role) -> bool:
    if key.partition("/")[0] in _EVERYBODY:
        return True
    assert facts.plan is not None
    mine = holds_up(key, facts.name, role) or key == f"Service/{facts.name}-{role}"
    return mine and _is_wanted(key, status, facts.name, facts.plan.role("rollout").own_nodes)


def _is_wanted(key: str, status: RunStatus, run: str, num_rollouts: int) -> bool:
    """Whether it is neither of another gang nor of a rollout that was replaced or scaled away."""
    name = key.partition("/")[2]
    if name.startswith(f"{run}-trainer-i"):
        gang = names.trainer_pod_group(run, status.gang.incarnation)
        return name == gang or name.startswith(f"{gang}-")
    if not name.startswith(f"{run}-rollout-"):
        return True
    found = names.parse_rollout_pod(run, name)
    if found is None or found[1] >= num_rollouts:
        return False
    return found[0] == status.members.get(member_key("rollout", found[1]), NEVER_FAILED).incarnation
