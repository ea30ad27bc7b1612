"""What a user of kubectl meets: every example becomes exactly the planned objects; columns, scale, suspend, explain.

The golden files of ``tests/operator/manifests`` show what is planned; here the server's own copy of it is compared with
what the operator made, so that what the server fills in is on both sides.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_builders import document
from control_plane import ControlPlane
from fake_ledgers import FakeLedgers
from kube_api import Api, ApiError, Object
from operator_process import QUICK, ROOT
from players import Players

from rz_api import names
from rz_api.names import Role
from rz_api.resource import load_run
from rz_api.run import ResolvedRun
from rz_api.run_defaults import RunDefaults
from rz_operator import manifests
from rz_operator.apiserver.versions import Capabilities
from rz_operator.controller.completion import Completion
from rz_operator.plan import plan

EXAMPLES = sorted((ROOT / "examples").rglob("*.yaml"))
ROLES: tuple[Role, ...] = ("ledger", "reward", "rollout", "trainer")
KINDS = (
    "ConfigMap",
    "Secret",
    "Service",
    "NetworkPolicy",
    "Deployment",
    "ReplicaSet",
    "Pod",
    "PodDisruptionBudget",
    "Lease",
    "ServiceAccount",
    "ResourceQuota",
)
"""What is looked through for children that nobody planned: every kind of these tests that lives in a namespace, but for
events, and for the roles that the tests grant."""
SERVER_SETS = ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "selfLink")
WITHIN_SECONDS = 30.0

Operator = Callable[..., Any]
Wait = Callable[..., Any]


# --------------------------------------------------------------------------------------------------- the examples


def planned(body: Object, capabilities: Capabilities) -> list[Object]:
    """What the renderer gives for a stored run with the images of these tests' operators."""
    meta, accepted = body["metadata"], load_run({key: body[key] for key in ("apiVersion", "kind", "metadata", "spec")})
    completion = Completion({role: QUICK[f"RZ_IMAGE_{role.upper()}"] for role in ROLES}, RunDefaults())
    run = completion.first(
        ResolvedRun(name=meta["name"], namespace=meta["namespace"], uid=meta["uid"], spec=accepted.spec)
    )
    return list(manifests.all_of(manifests.Context(plan(run), meta["namespace"], meta["uid"], capabilities)))


def comparable(item: Object) -> Object:
    """Without what the server makes up for each object; JSON texts as values, and a token as its being there."""
    meta = {key: value for key, value in item["metadata"].items() if key not in SERVER_SETS}
    annotations = dict(meta.pop("annotations", {}))
    annotations.pop("deployment.kubernetes.io/revision", None)
    found: Object = {**item, "metadata": meta | {"annotations": annotations}}
    found.pop("status", None)
    if item["kind"] == "Service":
        addresses = ("clusterIP", "clusterIPs")
        spec = item["spec"]
        found["spec"] = {
            key: value for key, value in spec.items() if key not in addresses or spec[key] in (["None"], "None")
        }
    if item["kind"] == "ConfigMap":
        found["data"] = {key: json.loads(text) for key, text in item["data"].items() if key.endswith(".json")}
    if item["kind"] == "Secret":
        found["data"] = {key: len(base64.b64decode(value)) > 20 for key, value in item["data"].items()}
    return found


def stored(api: Api, namespace: str) -> dict[str, Object]:
    found = {}
    for kind in KINDS:
        for item in api.list(kind, namespace):
            found[f"{kind}/{item['metadata']['name']}"] = item
    return found


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.relative_to(ROOT / "examples")))
def test_every_example_leads_to_exactly_the_planned_children(
    path: Path, control_plane: ControlPlane, api: Api, namespace: str, operator: Operator, wait_for: Wait
) -> None:
    run = api.create(yaml.safe_load(path.read_text()), namespace)
    capabilities = Capabilities(control_plane.minor)
    if control_plane.minor < 21:
        capabilities = replace(capabilities, policy="policy/v1beta1")
    wanted = {}
    for body in planned(run, capabilities):
        answer = api.create(body, namespace, dryRun="All")
        wanted[f"{body['kind']}/{body['metadata']['name']}"] = comparable(answer)
    operator(namespace)

    wait_for(
        lambda: stored(api, namespace).keys() >= wanted.keys(), WITHIN_SECONDS, what="every planned child is there"
    )
    wait_for(lambda: _phase(api, run) == "Running", WITHIN_SECONDS)
    found = stored(api, namespace)
    assert sorted(found) == sorted(wanted)
    for name, item in found.items():
        seen, expected = comparable(item), wanted[name]
        if item["kind"] == "ConfigMap":  # what is remembered beside the workers' file is the operator's affair
            seen["data"] = {key: value for key, value in seen["data"].items() if key in expected["data"]}
        assert seen == expected, name
    for item in (*found.values(), api.get(names.KIND, namespace, run["metadata"]["name"])):
        check_marks(item)
    conditions = api.get(names.KIND, namespace, run["metadata"]["name"])["status"]["conditions"]
    accepted = next(each for each in conditions if each["type"] == "Accepted")
    assert accepted["status"] == "True"


def check_marks(item: Object) -> None:
    """No finalizer and nothing of kopf's."""
    meta = item["metadata"]
    assert "finalizers" not in meta, item
    assert "kopf" not in json.dumps([meta.get("annotations"), meta.get("labels")]), item


def _phase(api: Api, run: Object) -> Any:
    meta = run["metadata"]
    return (api.get(names.KIND, meta["namespace"], meta["name"]).get("status") or {}).get("phase")


# ----------------------------------------------------------------------------------------------------- kubectl


@pytest.fixture
def running(
    api: Api, namespace: str, operator: Operator, players: Players, ledgers: FakeLedgers, wait_for: Wait
) -> str:
    """Name of a run that has done 7 steps."""
    operator(namespace)
    api.create(document({"spec.rollout.replicas": 2}), namespace)
    metrics = {"reward_mean": 0.4375, "response_length_mean": 512.5}
    ledgers.set(namespace, "tiny", step=7, weight_version=7, metrics=metrics)

    def steps() -> Any:
        return api.get(names.KIND, namespace, "tiny").get("status", {}).get("progress", {}).get("step")

    wait_for(lambda: steps() == 7, WITHIN_SECONDS, each=players.tick, what="the status shows the ledger's step")
    wait_for(lambda: len(rollouts(api, namespace)) == 2, WITHIN_SECONDS, each=players.tick)
    return "tiny"


def rollouts(api: Api, namespace: str) -> list[str]:
    return [pod["metadata"]["name"] for pod in api.list("Pod", namespace, {names.LABEL_ROLE: "rollout"})]


def table(control_plane: ControlPlane, namespace: str) -> dict[str, Any]:
    """Default columns of the one run, as the server prints them."""
    accept = "application/json;as=Table;v=v1;g=meta.k8s.io"
    path = f"/apis/{names.API_VERSION}/namespaces/{namespace}/{names.PLURAL}"
    found = control_plane.api.request("GET", path, headers={"Accept": accept})
    columns = [each["name"] for each in found["columnDefinitions"] if not each["priority"]]
    (row,) = found["rows"]
    return dict(zip(columns, row["cells"], strict=False))


def test_the_columns_show_how_far_a_run_is(
    control_plane: ControlPlane, namespace: str, running: str, wait_for: Wait
) -> None:
    wanted = {"Name": running, "Phase": "Running", "Step": 7, "Reward": 0.4375, "Length": 512.5, "Rollouts": 2}
    found = wait_for(
        lambda: table(control_plane, namespace), 10, until=lambda row: {**wanted, "Age": row["Age"]} == row
    )
    assert list(found) == ["Name", "Phase", "Step", "Reward", "Length", "Rollouts", "Age"]


def test_kubectl_get_shows_the_columns(kubectl: Callable[..., str], running: str, wait_for: Wait) -> None:
    def words() -> list[list[str]]:
        return [line.split() for line in kubectl("get", "rzr").splitlines()]

    header, row = wait_for(
        words, 10, until=lambda lines: lines[1][:6] == [running, "Running", "7", "0.4375", "512.5", "2"]
    )
    assert header == ["NAME", "PHASE", "STEP", "REWARD", "LENGTH", "ROLLOUTS", "AGE"]
    assert len(row) == 7


def test_kubectl_scale_changes_the_rollouts(
    api: Api, namespace: str, kubectl: Callable[..., str], running: str, players: Players, wait_for: Wait
) -> None:
    for replicas in (4, 1):
        kubectl("scale", f"rzr/{running}", f"--replicas={replicas}")
        wait_for(lambda: scaled(api, namespace, running), WITHIN_SECONDS, until=replicas.__eq__, each=players.tick)
        wanted = [f"{running}-rollout-i1-{number}" for number in range(replicas)]
        wait_for(lambda: sorted(rollouts(api, namespace)), WITHIN_SECONDS, until=wanted.__eq__, each=players.tick)


def scaled(api: Api, namespace: str, run: str) -> int:
    """What the scale subresource says, once its selector selects that many pods."""
    status = api.get(names.KIND, namespace, run, subresource="scale")["status"]
    selector = dict(each.split("=") for each in status["selector"].split(","))
    count: int = status["replicas"]
    return count if len(api.list("Pod", namespace, selector)) == count else -1


def test_kubectl_patch_suspends_and_resumes(
    api: Api, namespace: str, kubectl: Callable[..., str], running: str, players: Players, wait_for: Wait
) -> None:
    run = api.get(names.KIND, namespace, running)
    kubectl("patch", f"rzr/{running}", "--type=merge", '--patch={"spec":{"suspend":true}}')
    wait_for(lambda: _phase(api, run) == "Suspended", WITHIN_SECONDS, each=players.tick)
    assert api.list("Pod", namespace, {names.LABEL_ROLE: "trainer"}) == rollouts(api, namespace) == []
    kubectl("patch", f"rzr/{running}", "--type=merge", '--patch={"spec":{"suspend":false}}')
    wait_for(lambda: _phase(api, run) == "Running", WITHIN_SECONDS, each=players.tick)
    wait_for(lambda: len(rollouts(api, namespace)) == 2, WITHIN_SECONDS, each=players.tick)
    for item in (api.get(names.KIND, namespace, running), *stored(api, namespace).values()):
        check_marks(item)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("rzr.spec", ("trainer", "rollout", "storage", "suspend")),
        ("rzr.spec.trainer", ("nodes", "gpusPerNode")),
        ("rzr.status.progress", ("step", "rewardMean")),
    ],
)
def test_kubectl_explain_knows_the_fields(
    control_plane: ControlPlane, kubectl: Callable[..., str], path: str, words: tuple[str, ...], wait_for: Wait
) -> None:
    def explained() -> str:
        try:
            return kubectl("explain", path)
        except AssertionError as error:  # the server publishes a CRD's schema some seconds after the CRD
            return str(error)

    text = wait_for(
        explained,
        WITHIN_SECONDS,
        until=lambda text: all(f"\n  {word}" in text or f"   {word}\t" in text for word in words),
    )
    assert "DESCRIPTION" in text


def test_a_run_and_its_children_are_applied_again_without_a_change(
    api: Api, namespace: str, kubectl: Callable[..., str], running: str
) -> None:
    before = api.get(names.KIND, namespace, running)["metadata"]["generation"]
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump(document({"spec.rollout.replicas": 2})))
    assert api.get(names.KIND, namespace, running)["metadata"]["generation"] == before


def test_deleting_a_run_needs_no_operator(
    api: Api, namespace: str, kubectl: Callable[..., str], running: str, players: Players, wait_for: Wait
) -> None:
    kubectl("delete", f"rzr/{running}", "--wait=true", "--timeout=20s")
    with pytest.raises(ApiError, match="not found"):
        api.get(names.KIND, namespace, running)
    wait_for(
        lambda: not [key for key in stored(api, namespace) if not key.startswith("ServiceAccount/")],
        WITHIN_SECONDS,
        each=players.tick,
    )
