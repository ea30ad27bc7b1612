"""Names that several programs must agree on are made here: group and kind, labels, annotations, children of a run.

Used by the operator (rendering, selectors, adoption), by the CRD generator, and by tools that look for a run's objects.
Pure strings; nothing here talks to a cluster.
"""

from __future__ import annotations

import re
from typing import Literal

GROUP = "reasonerzero.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "ReasonerZeroRun"
LIST_KIND = "ReasonerZeroRunList"
PLURAL = "reasonerzeroruns"
SINGULAR = "reasonerzerorun"
SHORT_NAME = "rzr"
CRD_NAME = f"{PLURAL}.{GROUP}"

Role = Literal["ledger", "reward", "rollout", "trainer"]

MAX_NAME_LENGTH = 40
NAME_PATTERN = r"^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$"
"""Names of runs. A letter first, because children are Services and a Service's name is a DNS label that some servers
want to begin with one; 40 characters, because the longest child's name, ``NAME-trainer-i999999-4095`` (21 more), is
also a hostname and a label value, and both end at 63. No dots: they are allowed in an object's name, not in a
hostname."""

MAX_NODE_INDEX = 4095
MAX_ROLLOUT_INDEX = 9_999
MAX_INCARNATION = 999_999

# -------------------------------------------------------------------------------------------------------- labels

LABEL_RUN = f"{GROUP}/run"
"""Name of the run, on every child."""
LABEL_RUN_UID = f"{GROUP}/run-uid"
"""UID of the run's object, on every child: tells a run's children from those of an earlier run of the same name."""
LABEL_ROLE = f"{GROUP}/role"
"""``ledger``, ``reward``, ``rollout`` or ``trainer``; on everything that belongs to one role."""
LABEL_INDEX = f"{GROUP}/index"
"""Number of a pod within its role."""
LABEL_INCARNATION = f"{GROUP}/incarnation"
"""Number of the gang (trainer) or of the member (rollout) that a pod belongs to."""
LABEL_GANG = f"{GROUP}/gang"
"""Incarnation of the trainer gang in whose group a rollout was started (every gang but ``operator``)."""
LABEL_GANG_ROLLOUTS = f"{GROUP}/gang-rollouts"
"""How many rollouts are in the group of a trainer, or of such a rollout."""
LABEL_APP_NAME = "app.kubernetes.io/name"
LABEL_APP_INSTANCE = "app.kubernetes.io/instance"
LABEL_APP_COMPONENT = "app.kubernetes.io/component"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
APP_NAME = "reasonerzero"
MAIN_CONTAINER = "main"
"""Name of the container that holds the role, in every pod: what a podTemplate merges with."""
MANAGER = "reasonerzero-operator"

_OWN_LABELS = frozenset((LABEL_APP_NAME, LABEL_APP_INSTANCE, LABEL_APP_COMPONENT, LABEL_MANAGED_BY))


def is_ours(key: str) -> bool:
    """Whether a label or an annotation says who a child is: nobody else may set it."""
    return key.startswith(f"{GROUP}/") or key in _OWN_LABELS


# --------------------------------------------------------------------------------------------------- annotations

ANNOTATION_RENDERING_VERSION = f"{GROUP}/rendering-version"
"""Version of the rules by which a child was rendered."""
ANNOTATION_RESTARTS = f"{GROUP}/restarts"
"""The status's count of trainer failures when a child was made: written before it is acted on (DESIGN.md 7)."""

ANNOTATION_TRY_AGAIN = f"{GROUP}/try-again"
"""On a Deployment whose pods are refused: when its controller was last asked to try again before its own back-off
(up to 1000 s) is over. A Deployment's annotations are copied to its ReplicaSet, and a ReplicaSet that changes is worked
on at once; the pod template, and so what runs, is not touched."""


def labels(
    run: str,
    role: Role | None = None,
    index: int | None = None,
    incarnation: int | None = None,
    *,
    uid: str | None = None,
) -> dict[str, str]:
    """Labels of a child. Example: ``labels("orz-7b", "trainer", 0, 3)`` names run, role, index and incarnation."""
    found = {LABEL_APP_NAME: APP_NAME, LABEL_APP_INSTANCE: run, LABEL_MANAGED_BY: MANAGER, LABEL_RUN: run}
    if uid is not None:
        found[LABEL_RUN_UID] = uid
    if role is not None:
        found |= {LABEL_ROLE: role, LABEL_APP_COMPONENT: role}
    if index is not None:
        found[LABEL_INDEX] = str(index)
    if incarnation is not None:
        found[LABEL_INCARNATION] = str(incarnation)
    return found


def selector(run: str, role: Role | None = None, incarnation: int | None = None) -> dict[str, str]:
    """The fewest labels that select a role's pods of one run (``matchLabels``; a Service's selector)."""
    found = {LABEL_RUN: run}
    if role is not None:
        found[LABEL_ROLE] = role
    if incarnation is not None:
        found[LABEL_INCARNATION] = str(incarnation)
    return found


def selector_string(run: str, role: Role | None = None) -> str:
    """``selector`` as the API server wants it in a query and in ``status.rollout.selector``."""
    return ",".join(f"{key}={value}" for key, value in selector(run, role).items())


# ------------------------------------------------------------------------------------------------------ children


def trainer_pod(run: str, incarnation: int, index: int) -> str:
    """``NAME-trainer-i3-0``: with the incarnation, so that a pod stuck in Terminating never blocks the next gang."""
    assert 1 <= incarnation <= MAX_INCARNATION, incarnation
    assert 0 <= index <= MAX_NODE_INDEX, index
    return f"{run}-trainer-i{incarnation}-{index}"


def parse_trainer_pod(run: str, pod: str) -> tuple[int, int] | None:
    """(incarnation, index) of a trainer pod of this run, else None."""
    match = re.fullmatch(rf"{re.escape(run)}-trainer-i([1-9][0-9]*)-([0-9]+)", pod)
    return (int(match[1]), int(match[2])) if match else None


def trainer_service(run: str) -> str:
    """Headless rendezvous Service; it selects the newest incarnation, and is every trainer pod's subdomain."""
    return f"{run}-trainer"


def trainer_pod_group(run: str, incarnation: int) -> str:
    """PodGroup (or Kueue's pod-group name) of one gang, and its PodDisruptionBudget."""
    return f"{run}-trainer-i{incarnation}"


def rollout_pod(run: str, index: int, incarnation: int) -> str:
    """``NAME-rollout-i2-7``: with the incarnation, so that a pod on a lost node, which stays Terminating for as long as
    the node is lost, does not keep its successor from starting elsewhere."""
    assert 1 <= incarnation <= MAX_INCARNATION, incarnation
    assert 0 <= index <= MAX_ROLLOUT_INDEX, index
    return f"{run}-rollout-i{incarnation}-{index}"


def parse_rollout_pod(run: str, pod: str) -> tuple[int | None, int] | None:
    """(incarnation, index) of a rollout pod of this run, else None; no incarnation where an operator before 0.2 made
    it, which called it ``NAME-rollout-7``."""
    match = re.fullmatch(rf"{re.escape(run)}-rollout-(?:i([1-9][0-9]*)-)?([0-9]+)", pod)
    return (int(match[1]) if match[1] else None, int(match[2])) if match else None


def ledger(run: str) -> str:
    """Deployment and Service of the ledger."""
    return f"{run}-ledger"


def reward(run: str) -> str:
    """Deployment and Service of the reward role."""
    return f"{run}-reward"


def config_map(run: str) -> str:
    """ConfigMap with the resolved spec (``run.json``), frozen when the run is accepted."""
    return f"{run}-run"


def token_secret(run: str, uid: str) -> str:
    """Secret with the bearer token of ledger and reward. With a part of the run's UID: the operator may create Secrets
    and not read them, so it could not tell its own from one that an earlier run of the same name left."""
    # 8 hex digits tell two runs of one name apart, and keep the name short.
    return f"{run}-token-{uid[:8]}"


def network_policy(run: str) -> str:
    return f"{run}-run"
