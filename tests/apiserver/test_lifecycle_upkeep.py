"""What a run has besides its pods is kept as it is rendered, and goes with what it was for: on a real API server."""

from __future__ import annotations

from kube_api import Object
from lifecycle_steps import EVERYBODY, STARTED, Scene, Step, gang
from players import use_quota

from rz_api import names


def spec_of(scene: Scene, kind: str, name: str) -> Object:
    found: Object = scene.api.get(kind, scene.namespace, scene.pod_name(name))["spec"]
    return found


def test_who_opens_the_network_policy_is_undone(scene: Scene) -> None:
    scene.submit()
    scene.take(STARTED)
    rendered = spec_of(scene, "NetworkPolicy", "run")

    def open_it(scene: Scene) -> None:
        body = {"spec": {"ingress": [{}], "podSelector": {"matchExpressions": [{"key": "x", "operator": "Exists"}]}}}
        scene.api.patch("NetworkPolicy", scene.namespace, scene.pod_name("run"), body)
        assert spec_of(scene, "NetworkPolicy", "run") != rendered

    closed = Step(
        "it is as it was, and no pod was touched",
        open_it,
        want_same=EVERYBODY,
        want=lambda scene: spec_of(scene, "NetworkPolicy", "run") == rendered,
    )
    scene.take(closed)
    scene.settled()


def test_services_that_were_changed_are_put_right_and_keep_their_addresses(scene: Scene) -> None:
    scene.submit()
    scene.take(STARTED)
    before = {role: spec_of(scene, "Service", role) for role in ("ledger", "reward", "trainer")}

    def change(scene: Scene) -> None:
        api, namespace = scene.api, scene.namespace
        api.patch("Service", namespace, scene.pod_name("ledger"), {"spec": {"selector": {"app": "mine"}}})
        port = {"name": "api", "port": 8080, "targetPort": 1}
        api.patch("Service", namespace, scene.pod_name("reward"), {"spec": {"type": "NodePort", "ports": [port]}})
        api.patch(
            "Service",
            namespace,
            scene.pod_name("trainer"),
            {"metadata": {"labels": None}, "spec": {"externalIPs": ["10.1.1.1"]}},
        )

    def as_before(scene: Scene) -> bool:
        return {role: spec_of(scene, "Service", role) for role in before} == before

    scene.take(Step("they are as they were", change, want_same=EVERYBODY, want=as_before))
    scene.settled()


def budgets(scene: Scene) -> list[str]:
    return sorted(each["metadata"]["name"] for each in scene.api.list("PodDisruptionBudget", scene.namespace))


def test_budgets_of_gangs_that_were_skipped_and_that_ended_go(scene: Scene) -> None:
    """The ledger knows of gang 5, so the next one is 6: gang 1's budget is not that of gang 5."""
    scene.submit({"spec.scheduling.disruptionBudget": True})
    scene.take(STARTED)
    assert budgets(scene) == ["tiny-trainer-i1"]

    def fail(scene: Scene) -> None:
        scene.ledgers.set(scene.namespace, scene.name, step=1, weight_version=1, incarnation=5)
        scene.hold(1.0)
        scene.kubelet.fail(scene.namespace, "tiny-trainer-i1-0", exit_code=1)

    scene.take(
        Step(
            "the next gang has its budget, and nobody else",
            fail,
            want_running=gang(6),
            want=lambda scene: budgets(scene) == ["tiny-trainer-i6"],
        )
    )
    scene.take(
        Step(
            "a suspended run has none",
            lambda scene: scene.patch({"suspend": True}),
            want_phase="Suspended",
            want_pods=(),
            want=lambda scene: not budgets(scene),
        )
    )
    assert not scene.operator.denied(scene.namespace)


def names_the_field(message: str) -> bool:
    return "to change in the run: spec.ledger.resources.requests.memory" in message


def test_a_quota_for_the_ledger_is_named_by_its_field_and_its_pod_comes_within_a_minute(scene: Scene) -> None:
    api, namespace = scene.api, scene.namespace
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "memory"}}
    api.create(quota | {"spec": {"hard": {"requests.memory": "1Gi"}}}, namespace)
    use_quota(api, namespace, "memory")
    small = {"requests": {"memory": "1Mi"}}
    others = {f"spec.{role}.resources": small for role in ("trainer", "rollout", "reward")}
    scene.submit({"spec.ledger.resources": {"requests": {"memory": "2Gi"}}, **others})
    scene.take(
        Step(
            "the condition names quota and field",
            want_running=EVERYBODY,
            want_condition=("LedgerReady", "False", "CreateRefused", "exceeded quota: memory"),
            want=lambda scene: names_the_field(scene.condition("LedgerReady")["message"]),
        )
    )

    def raise_it(scene: Scene) -> None:
        api.patch("ResourceQuota", namespace, "memory", {"spec": {"hard": {"requests.memory": "4Gi"}}})
        use_quota(api, namespace, "memory")

    scene.take(
        Step(
            "the controller is asked again before its back-off is over",
            raise_it,
            want_same=EVERYBODY,
            want_condition=("LedgerReady", "True", "Ready", "1 of 1 pod ready"),
            within=60,
        )
    )
    deployment = api.get("Deployment", namespace, "tiny-ledger")
    assert names.ANNOTATION_TRY_AGAIN in deployment["metadata"]["annotations"]
    assert names.ANNOTATION_TRY_AGAIN not in deployment["spec"]["template"]["metadata"].get("annotations", {})
