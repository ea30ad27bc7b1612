"""Pods that only say that they belong to a run: copies, of another namespace, with a number or name that is not theirs.

No decision about a run may depend on them. A table of the ways to say so, then random histories with and without.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from kube_builders import NAME, NAMESPACE, START, UID, container, owned_by_run, pod_body, ready_pod
from operator_builders import wanted

from rz_api import names
from rz_api.status import RunStatus
from rz_operator.controller.cache import Cache
from rz_operator.controller.observe import observation, seen_pod
from rz_operator.decisions.decide import Decision, decide

Body = dict[str, Any]


def trainer(exit_code: int | None = 64, **metadata: Any) -> Body:
    """A trainer pod of the run that ended as only a user can mend, with other metadata."""
    ended = container("main", ended={"exitCode": exit_code, "message": "the stranger's words"})
    body = pod_body("trainer", phase="Failed", containers=[ended])
    body["metadata"] |= metadata
    return body


def labelled(**labels: str) -> Body:
    body = trainer()
    body["metadata"]["labels"] |= labels
    return body


def owner(**fields: Any) -> Body:
    reference = owned_by_run(NAME, UID)[0] | fields
    return trainer(ownerReferences=[{key: value for key, value in reference.items() if value is not None}])


def deployed(**metadata: Any) -> Body:
    body = ready_pod("ledger")
    body["metadata"] |= metadata
    return body


REPLICA_SET = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"{NAME}-ledger-abc", "uid": "r-1"}

NOT_A_CHILD: dict[str, Body] = {
    "no owner, as kubectl debug --copy-to --keep-labels leaves it": trainer(ownerReferences=[]),
    "an owner that is not the controller": owner(controller=False),
    "an owner that does not say whether it is the controller": owner(controller=None),
    "another kind of owner": owner(kind="Job"),
    "an owner of another group": owner(apiVersion="example.org/v1"),
    "another run's name": owner(name="other"),
    "an earlier run's UID": owner(uid="u-0"),
    "another name than its numbers imply": trainer(name=f"{NAME}-trainer-i1-1"),
    "a copy's name": trainer(name=f"{NAME}-trainer-i1-0-debug"),
    "a huge incarnation": labelled(**{names.LABEL_INCARNATION: "123456789"}),
    "an incarnation beyond the last": labelled(**{names.LABEL_INCARNATION: str(names.MAX_INCARNATION + 1)}),
    "incarnation 0": labelled(**{names.LABEL_INCARNATION: "0"}),
    "an index beyond the last": labelled(**{names.LABEL_INDEX: str(names.MAX_NODE_INDEX + 1)}),
    "another role": labelled(**{names.LABEL_ROLE: "rollout"}),
    "a ledger's pod without a ReplicaSet": deployed(ownerReferences=owned_by_run(NAME, UID)),
    "a ledger's pod of another ReplicaSet": deployed(
        ownerReferences=[REPLICA_SET | {"name": "other-abc", "controller": True}]
    ),
    "a ledger's pod of another name": deployed(name="debugger"),
}


@pytest.mark.parametrize("body", NOT_A_CHILD.values(), ids=NOT_A_CHILD)
def test_labels_alone_make_nobody_a_child(body: Body) -> None:
    assert seen_pod(body) is None


@pytest.mark.parametrize("body", [ready_pod("trainer"), ready_pod("rollout", 3, 2), ready_pod("ledger")])
def test_the_runs_own_pods_are_its_children(body: Body) -> None:
    assert seen_pod(body) is not None


def test_a_rollout_of_an_operator_before_names_had_incarnations_is_a_child() -> None:
    body = ready_pod("rollout", 3, 2)
    body["metadata"]["name"] = f"{NAME}-rollout-3"
    seen = seen_pod(body)
    assert seen is not None
    assert (seen.member.index, seen.member.incarnation) == (3, 2)


def test_a_uid_that_is_written_into_another_namespace_is_another_family() -> None:
    cache = Cache()
    cache.see_child("Pod", trainer(namespace="strangers"))
    assert cache.children(NAMESPACE, UID).pods == ()


def test_a_pod_whose_labels_are_changed_is_no_longer_the_runs() -> None:
    cache = Cache()
    cache.see_child("Pod", ready_pod("trainer"))
    stripped = ready_pod("trainer")
    stripped["metadata"] |= {"resourceVersion": "8"}
    stripped["metadata"]["labels"] = {names.LABEL_MANAGED_BY: names.MANAGER}
    key = cache.see_child("Pod", stripped)
    assert str(key) == f"{NAMESPACE}/{NAME}", "the run that lost it is looked at"
    assert cache.children(NAMESPACE, UID).pods == ()


def test_an_old_answer_does_not_take_a_pod_from_the_run_that_has_it_now() -> None:
    """Before it had its labels: overtaken by the event that shows it with them."""
    cache = Cache()
    cache.see_child("Pod", ready_pod("trainer"))
    earlier = ready_pod("trainer")
    earlier["metadata"] |= {"resourceVersion": "6", "labels": {names.LABEL_MANAGED_BY: names.MANAGER}}
    cache.see_child("Pod", earlier)
    assert len(cache.children(NAMESPACE, UID).pods) == 1


# ---------------------------------------------------------------------------------------------- with and without

ENDS: tuple[Callable[[Body], None], ...] = (
    lambda body: None,
    lambda body: body["status"].update(phase="Succeeded"),
    lambda body: body["status"].update(
        phase="Failed", containerStatuses=[container("main", ended={"exitCode": 64, "message": "strange"})]
    ),
    lambda body: body["status"].update(phase="Failed", reason="Evicted"),
    lambda body: body["metadata"].update(deletionTimestamp="2023-11-14T22:13:20Z"),
)
DISGUISES: tuple[Callable[[Body], None], ...] = (
    lambda body: body["metadata"].update(namespace="strangers"),
    lambda body: body["metadata"].update(ownerReferences=[]),
    lambda body: body["metadata"].update(ownerReferences=owned_by_run(NAME, "u-0")),
    lambda body: body["metadata"].update(name=f"{body['metadata']['name']}-copy"),
    lambda body: body["metadata"]["labels"].update({names.LABEL_INCARNATION: "999999999"}),
)


@st.composite
def strangers(draw: st.DrawFn) -> tuple[Body, bool]:
    """A pod that pretends, in at least one way that shows; and whether it is deleted."""
    role = draw(st.sampled_from(["trainer", "rollout", "ledger", "reward"]))
    incarnation = draw(st.sampled_from([1, 2, 3, names.MAX_INCARNATION]))
    body = ready_pod(role, draw(st.integers(0, 5)), incarnation)
    draw(st.sampled_from(ENDS))(body)
    # A ledger's pods have neither numbers nor a name of the operator's: the ways that are left are these two.
    disguises = DISGUISES if role in ("trainer", "rollout") else DISGUISES[:2]
    for disguise in draw(st.lists(st.sampled_from(disguises), min_size=1, max_size=3)):
        disguise(body)
    body["metadata"] |= {
        "uid": f"stranger-{draw(st.integers(0, 20))}",
        "resourceVersion": str(draw(st.integers(1, 10_000))),
    }
    return body, draw(st.booleans())


@st.composite
def own_events(draw: st.DrawFn) -> tuple[Body, bool]:
    role = draw(st.sampled_from(["trainer", "trainer", "rollout", "ledger"]))
    index, incarnation = draw(st.integers(0, 1)), draw(st.integers(1, 3))
    body = ready_pod(role, index, incarnation)
    draw(st.sampled_from(ENDS))(body)
    body["metadata"]["resourceVersion"] = str(draw(st.integers(1, 10_000)))
    return body, draw(st.integers(0, 4)) == 0


def look(cache: Cache, status: RunStatus, at: float) -> Decision:
    seen = observation(cache.children(NAMESPACE, UID), UID, None, now=START + at)
    return decide(wanted(), status, seen, START + at)


@settings(max_examples=300)
@given(st.lists(st.one_of(st.tuples(st.just(True), own_events()), st.tuples(st.just(False), strangers())), max_size=25))
def test_no_decision_differs_from_the_same_history_without_strangers(
    events: list[tuple[bool, tuple[Body, bool]]],
) -> None:
    alone, crowded = Cache(), Cache()
    status = RunStatus()
    for at, (ours, (body, deleted)) in enumerate(events):
        crowded.see_child("Pod", copy.deepcopy(body), deleted)
        if ours:
            alone.see_child("Pod", copy.deepcopy(body), deleted)
        decision = look(crowded, status, at)
        assert decision == look(alone, status, at)
        status = decision.status
