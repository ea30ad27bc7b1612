"""A run of which nobody can say any more how its pods are made is kept and can be stopped; nothing of it is started.

That is so where its frozen run was lost or can't be read, or where this operator can't plan it. What is asked of such a
run is what is there: as many ranks as have pods, rollouts by the live ``replicas``. So a gang's failure and its end are
still seen, and the brake works. ``reconcile`` takes the verdict from here when there is no other. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rz_api import names
from rz_api.run import ResolvedRun
from rz_api.spec import ReasonerZeroRunSpec
from rz_operator.apiserver.bodies import at
from rz_operator.controller.accept import Verdict, with_live
from rz_operator.controller.frozen import Frozen
from rz_operator.controller.json_values import no_json
from rz_operator.controller.seen import Children, RunKey
from rz_operator.controller.spec_changes import LIVE, changes, is_live

_LONGEST_GRACE_SECONDS = 86_400


def as_it_is(key: RunKey, uid: str, spec: Any, children: Children, reason: str, message: str) -> Verdict:
    """The verdict on such a run: not accepted, for this reason; ``spec`` is its object's, whatever that may be."""
    run = stand_in(key, uid, spec, children)
    return Verdict(False, reason, message, run, None, run.spec.suspend, may_start=False)


def stand_in(key: RunKey, uid: str, spec: Any, children: Children) -> ResolvedRun:
    """A run that asks for what is there. Of ``spec`` its live fields are taken, and how long its trainers may take to
    checkpoint, as far as they are good; every other field has no meaning."""
    spec = spec if isinstance(spec, Mapping) else {}
    run = ResolvedRun(name=key.name, namespace=key.namespace, uid=uid, spec=_what_is_there(spec, children))
    live = {path.partition(".")[0] for path in LIVE}
    given = {key: value for key, value in spec.items() if key in live and no_json(value, key) is None}
    # Fields that are not live have no meaning here, and are not taken.
    paths = [path for path in changes({}, given) if is_live(path) and path != ("scheduling", "gangTimeoutSeconds")]
    run, _ = with_live(Frozen(run, {}), paths, given)
    return run


def _what_is_there(spec: Mapping[str, Any], children: Children) -> ReasonerZeroRunSpec:
    trainers, rollouts = children.of("trainer"), children.of("rollout")
    newest = max((pod.member.incarnation for pod in trainers), default=0)
    nodes = max((pod.member.index + 1 for pod in trainers if pod.member.incarnation == newest), default=1)
    reward = next((each.replicas for each in children.deployments if each.role == "reward"), 1)
    grace = at(spec, "trainer", "terminationGraceSeconds")
    uri = at(spec, "storage", "uri")
    good_grace = isinstance(grace, int) and not isinstance(grace, bool) and 1 <= grace <= _LONGEST_GRACE_SECONDS
    return ReasonerZeroRunSpec.model_validate(
        {
            # Required, and read by nobody: no pod is rendered.
            "model": {"name": "-"},
            "data": {"train": [{"uri": "-"}]},
            # Its folder stays its own: other runs are compared with it.
            "storage": {"uri": uri if isinstance(uri, str) and 0 < len(uri) <= 2048 else "-"},
            # Not the operator's own: a gang without all its nodes would be given back, and there is no other. Without
            # rollouts in it, because one that is in no gang's group would be stopped to be started in one.
            "scheduling": {"gang": "kueue", "queueName": "-", "minRollouts": 0},
            "trainer": {
                "nodes": min(nodes, names.MAX_NODE_INDEX + 1),
                "gpusPerNode": 0,
                **({"terminationGraceSeconds": grace} if good_grace else {}),
            },
            "rollout": {
                "placement": "colocated" if at(spec, "rollout", "placement") == "colocated" else "separate",
                "replicas": min(max((pod.member.index + 1 for pod in rollouts), default=0), 10_000),
            },
            "reward": {"replicas": min(max(reward, 1), 1000)},
        }
    )
