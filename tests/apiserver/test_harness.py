"""The harness itself: the servers are real, and the players do what their originals would."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import kube_binaries
import pytest
from api_builders import document
from control_plane import ControlPlane, without_validations
from fake_ledgers import FakeLedgers, ledger_status
from kube_api import Api, ApiError, Object
from kube_binaries import BinariesMissingError
from kubelet_double import Kubelet
from kueue_double import KueueDouble
from operator_process import SYSTEM_NAMESPACE
from players import DeploymentController, GarbageCollector, Players, use_quota
from server_process import child_environment
from watched_api import WatchedApi

from rz_api import names
from rz_workers.protocol.messages import LedgerStatus

QUEUE = {KueueDouble.QUEUE: "queue"}
GANG = {**QUEUE, KueueDouble.GROUP: "gang"}
UNRETRIABLE = {KueueDouble.TOTAL: "2", KueueDouble.RETRIABLE: "false"}


def pod(name: str, *, gpus: int = 0, restart: str = "Never", containers: int = 1, **metadata: Any) -> Object:
    limits = {"nvidia.com/gpu": str(gpus)} if gpus else {}
    each = {"image": "image:1", "resources": {"requests": limits, "limits": limits}}
    made = [{"name": f"c{number}", **each} for number in range(containers)]
    spec = {"restartPolicy": restart, "containers": made}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **metadata}, "spec": spec}


def status_of(api: Api, namespace: str, name: str) -> Object:
    found: Object = api.get("Pod", namespace, name)["status"]
    return found


# -------------------------------------------------------------------------------------------------- the servers


def test_a_run_that_is_created_is_read_back(api: Api, namespace: str) -> None:
    made = api.create(document(), namespace)
    assert made["metadata"]["generation"] == 1
    assert api.list(names.KIND, namespace)[0]["spec"]["model"]["name"] == "models/tiny"


def test_a_spec_of_a_wrong_type_is_refused_by_the_schema(api: Api, namespace: str) -> None:
    with pytest.raises(ApiError) as error:
        api.create(document({"spec.trainer.nodes": "many"}), namespace)
    assert (error.value.code, error.value.causes[0]["field"]) == (422, "spec.trainer.nodes")


def test_a_service_account_may_do_nothing_that_it_was_not_granted(control_plane: ControlPlane, namespace: str) -> None:
    client = control_plane.client(control_plane.service_account_token(namespace, "nobody"))
    with pytest.raises(ApiError, match="cannot list resource") as error:
        client.list("Pod", namespace)
    assert error.value.code == 403
    (request,) = control_plane.requests(f"{namespace}:nobody")
    assert (request.verb, request.path, request.code) == ("list", f"/api/v1/namespaces/{namespace}/pods", 403)


def test_the_rules_of_the_chart_open_one_namespace_or_all(
    control_plane: ControlPlane, namespace: str, operator: Callable[..., Any]
) -> None:
    other = control_plane.create_namespace(f"{namespace}-other")
    operator(namespace, start=False, account="one")
    operator(start=False, account="all")
    one, every = (
        control_plane.client(control_plane.service_account_token(SYSTEM_NAMESPACE, name)) for name in ("one", "all")
    )
    assert one.list("Pod", namespace) == every.list("Pod", other) == []
    with pytest.raises(ApiError, match="cannot list resource"):
        one.list("Pod", other)


def test_a_removed_namespace_leaves_nothing(control_plane: ControlPlane, api: Api) -> None:
    name = control_plane.create_namespace("to-be-removed")
    api.create(pod("p", finalizers=["example.com/held"]), name)
    control_plane.remove_namespace(name, ["Pod"])
    assert api.find("Namespace", "", name) is None
    assert [each for each in api.list("Pod") if each["metadata"]["namespace"] == name] == []


def test_a_killed_test_process_leaves_no_server(tmp_path: Path, control_plane: ControlPlane) -> None:
    del control_plane  # only so that the binaries are there
    program = (
        "import time\n"
        "from control_plane import ControlPlane\n"
        "from kube_binaries import control_plane_binaries\n"
        "plane = ControlPlane(control_plane_binaries())\n"
        "plane.start()\n"
        "print(*(server.process.pid for server in plane._servers), flush=True)\n"
        "time.sleep(600)\n"
    )
    env = child_environment(PYTHONPATH=str(Path(__file__).parent), TMPDIR=str(tmp_path))
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=env)
    try:
        assert child.stdout is not None
        pids = [int(word) for word in child.stdout.readline().split()]
        assert len(pids) == 2
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    end = time.monotonic() + 10
    while any(_alive(pid) for pid in pids):
        assert time.monotonic() < end, "the servers outlived the process that started them"
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_folder_of_binaries_that_lacks_one_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "etcd").touch(mode=0o755)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    with pytest.raises(BinariesMissingError, match=r"which has no kube-apiserver: set KUBEBUILDER_ASSETS"):
        kube_binaries.control_plane_binaries()


def test_without_binaries_and_without_debian_the_reason_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        BinariesMissingError, match=r"nor is apt-get to get them: set KUBEBUILDER_ASSETS .* or run on Debian"
    ):
        kube_binaries.control_plane_binaries()


def test_the_rules_are_stripped_at_every_depth() -> None:
    body = {"a": [{"x-kubernetes-validations": [1], "b": 2}], "x-kubernetes-validations": []}
    assert without_validations(body) == {"a": [{"b": 2}]}


# -------------------------------------------------------------------------------------------------- the kubelet


def test_a_pod_is_bound_then_runs_on_loopback(api: Api, namespace: str, players: Players) -> None:
    api.create(pod("p", gpus=1), namespace)
    assert status_of(api, namespace, "p")["phase"] == "Pending"
    players.settle()
    status = status_of(api, namespace, "p")
    assert (status["phase"], status["podIP"]) == ("Running", "127.0.0.1")
    assert {item["type"] for item in status["conditions"] if item["status"] == "True"} >= {"Ready", "PodScheduled"}
    assert players.tick() == 0


def test_what_does_not_fit_stays_pending_and_says_so(
    api: Api, namespace: str, players: Players, kubelet: Kubelet
) -> None:
    kubelet.nodes = {"small": 3}
    for name in ("a", "b"):
        api.create(pod(name, gpus=2), namespace)
    players.settle()
    assert [status_of(api, namespace, name)["phase"] for name in "ab"] == ["Running", "Pending"]
    (condition,) = status_of(api, namespace, "b")["conditions"]
    assert (condition["type"], condition["reason"]) == ("PodScheduled", "Unschedulable")
    api.delete("Pod", namespace, "a")
    players.settle()
    assert status_of(api, namespace, "b")["phase"] == "Running"


def ended(status: Object) -> tuple[int, str, str]:
    found = status["containerStatuses"][0]["state"]["terminated"]
    return found["exitCode"], found["reason"], found.get("message", "")


@pytest.mark.parametrize(
    ("what", "phase", "end"),
    [
        (lambda k, at: k.fail(*at, exit_code=64, message="no such file"), "Failed", (64, "Error", "no such file")),
        (lambda k, at: k.out_of_memory(*at), "Failed", (137, "OOMKilled", "")),
        (lambda k, at: k.succeed(*at), "Succeeded", (0, "Completed", "")),
    ],
    ids=["an exit status with its message", "out of memory", "success"],
)
def test_a_pod_ends(
    api: Api, namespace: str, players: Players, kubelet: Kubelet, what: Any, phase: str, end: Any
) -> None:
    api.create(pod("p", containers=2), namespace)
    players.settle()
    what(kubelet, (namespace, "p"))
    status = status_of(api, namespace, "p")
    assert (status["phase"], ended(status)) == (phase, end)
    assert players.settle() == 0, "a pod that has ended does not start again"


def test_an_evicted_pod_has_a_reason_and_no_container_state(
    api: Api, namespace: str, players: Players, kubelet: Kubelet
) -> None:
    api.create(pod("p"), namespace)
    players.settle()
    kubelet.evict(namespace, "p")
    status = status_of(api, namespace, "p")
    assert (status["phase"], status["reason"], status.get("containerStatuses")) == ("Failed", "Evicted", None)


def test_an_image_that_cannot_be_pulled_keeps_its_pod_waiting(
    api: Api, namespace: str, players: Players, kubelet: Kubelet
) -> None:
    kubelet.not_pulled.add("image:1")
    api.create(pod("p"), namespace)
    players.settle()
    status = status_of(api, namespace, "p")
    assert status["phase"] == "Pending"
    assert status["containerStatuses"][0]["state"]["waiting"]["reason"] == "ImagePullBackOff"


def test_a_container_that_restarts_in_place_is_counted(
    api: Api, namespace: str, players: Players, kubelet: Kubelet
) -> None:
    api.create(pod("p", restart="Always"), namespace)
    players.settle()
    for code in (1, 2):
        kubelet.restart_container(namespace, "p", exit_code=code)
    (container,) = status_of(api, namespace, "p")["containerStatuses"]
    assert (container["restartCount"], container["lastState"]["terminated"]["exitCode"]) == (2, 2)
    assert status_of(api, namespace, "p")["phase"] == "Running"


def test_a_deleted_pod_goes_at_the_next_tick_unless_it_is_stuck(
    api: Api, namespace: str, players: Players, kubelet: Kubelet
) -> None:
    for name in ("goes", "stays"):
        api.create(pod(name), namespace)
    players.settle()
    kubelet.stick(namespace, "stays")
    for name in ("goes", "stays"):
        api.delete("Pod", namespace, name, grace=30)
    assert api.find("Pod", namespace, "goes") is not None, "terminating, as its node must end it"
    players.settle()
    assert api.find("Pod", namespace, "goes") is None
    assert "deletionTimestamp" in api.get("Pod", namespace, "stays")["metadata"]


def test_the_pods_of_a_lost_node_are_deleted_and_never_go(
    api: Api, namespace: str, players: Players, kubelet: Kubelet
) -> None:
    api.create(pod("p"), namespace)
    players.settle()
    kubelet.lose_node("node-1")
    players.settle()
    found = api.get("Pod", namespace, "p")
    assert found["status"]["reason"] == "NodeLost"
    assert "deletionTimestamp" in found["metadata"]


# -------------------------------------------------------------------------------------------------- controllers


def owned_by(run: Object) -> list[Object]:
    reference = {"apiVersion": names.API_VERSION, "kind": names.KIND, "controller": True}
    return [reference | {key: run["metadata"][key] for key in ("name", "uid")}]


def deployment(name: str, replicas: int, image: str = "image:1", **metadata: Any) -> Object:
    template = {
        "metadata": {"labels": {"app": name, "x": "y"}},
        "spec": {"containers": [{"name": "c", "image": image}]},
    }
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, **metadata}, "spec": spec}


def test_a_deployment_gets_its_pods_replaces_them_and_counts_the_ready_ones(
    api: Api, namespace: str, players: Players, kubelet: Kubelet
) -> None:
    api.create(deployment("d", 2), namespace)
    players.settle()
    pods = api.list("Pod", namespace, {"app": "d", "x": "y"})
    assert len(pods) == 2
    assert api.get("Deployment", namespace, "d")["status"]["readyReplicas"] == 2
    kubelet.vanish(namespace, pods[0]["metadata"]["name"])
    kubelet.fail(namespace, pods[1]["metadata"]["name"])
    players.settle()
    live = [each for each in api.list("Pod", namespace) if each["status"]["phase"] == "Running"]
    assert len(live) == 2
    assert not {each["metadata"]["uid"] for each in live} & {each["metadata"]["uid"] for each in pods}
    assert api.get("Deployment", namespace, "d")["status"]["readyReplicas"] == 2


def test_a_changed_template_replaces_the_pods(api: Api, namespace: str, players: Players) -> None:
    made = api.create(deployment("d", 1), namespace)
    players.settle()
    api.replace(
        made | {"metadata": {"name": "d", "namespace": namespace}, "spec": deployment("d", 1, "image:2")["spec"]}
    )
    players.settle()
    (only,) = api.list("Pod", namespace)
    assert only["spec"]["containers"][0]["image"] == "image:2"


def test_children_go_with_their_owner_however_deep(api: Api, namespace: str, players: Players) -> None:
    run = api.create(document(), namespace)
    other = api.create(document({"metadata.name": "other"}), namespace)
    api.create(deployment("d", 1, ownerReferences=owned_by(run)), namespace)
    api.create(pod("child", ownerReferences=owned_by(run)), namespace)
    api.create(pod("kept", ownerReferences=owned_by(other)), namespace)
    api.create(pod("free"), namespace)
    players.settle()
    api.delete(names.KIND, namespace, "tiny")
    players.settle()
    assert sorted(each["metadata"]["name"] for each in api.list("Pod", namespace)) == ["free", "kept"]
    assert api.list("Deployment", namespace) == api.list("ReplicaSet", namespace) == []


def test_a_foreground_deletion_ends_when_the_children_have_gone(api: Api, namespace: str, players: Players) -> None:
    run = api.create(document(), namespace)
    api.create(pod("child", ownerReferences=owned_by(run)), namespace)
    api.delete(names.KIND, namespace, "tiny", policy="Foreground")
    assert api.find(names.KIND, namespace, "tiny") is not None
    players.settle()
    assert api.find("Pod", namespace, "child") is None
    assert api.find(names.KIND, namespace, "tiny") is None


def test_a_quota_refuses_what_is_over_it_once_its_use_is_known(api: Api, namespace: str) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {"pods": "1"}}}
    api.create(quota, namespace)
    use_quota(api, namespace, "q")
    api.create(pod("a"), namespace)
    with pytest.raises(ApiError, match="exceeded quota: q") as error:
        api.create(pod("b"), namespace)
    assert error.value.code == 403


# -------------------------------------------------------------------------------------------------- ledgers, Kueue


def test_a_ledger_says_what_was_set_in_the_form_of_the_real_message(ledgers: FakeLedgers) -> None:
    assert httpx.get(ledgers.url_template.format(namespace="a", name="b"), trust_env=False).status_code == 503
    ledgers.set("a", "b", step=7, metrics={"reward/mean": 0.5})
    answer = httpx.get(ledgers.url_template.format(namespace="a", name="b"), trust_env=False)
    assert LedgerStatus.model_validate_json(answer.text).step == 7
    assert ledgers.requests["a", "b"] == 2
    assert LedgerStatus.model_validate(ledger_status("b")).model_dump(mode="json") == ledger_status("b")


def test_a_gang_waits_in_its_queue_until_it_is_complete_and_fits(api: Api, namespace: str, kubelet: Kubelet) -> None:
    kueue = KueueDouble(api, num_gpus=2)
    kubelet.holds = kueue.holds
    both = Players([kueue, kubelet])
    meta: Any = {"labels": GANG, "annotations": UNRETRIABLE}
    api.create(pod("g0", gpus=1, **meta), namespace)
    both.settle()
    assert status_of(api, namespace, "g0")["phase"] == "Pending"
    api.create(pod("g1", gpus=1, **meta), namespace)
    both.settle()
    assert [status_of(api, namespace, name)["phase"] for name in ("g0", "g1")] == ["Running"] * 2
    api.create(pod("late", gpus=1, labels=QUEUE), namespace)
    both.settle()
    assert status_of(api, namespace, "late")["phase"] == "Pending", "the queue's GPUs are taken"

    kueue.preempt(namespace, "gang")
    both.settle()
    assert [each["metadata"]["name"] for each in api.list("Pod", namespace)] == ["late"]
    assert status_of(api, namespace, "late")["phase"] == "Running"


def test_a_finalizer_is_held_until_the_replacement_exists(api: Api, namespace: str, kubelet: Kubelet) -> None:
    kueue = KueueDouble(api, until_replaced=True)
    kubelet.holds = kueue.holds
    both = Players([kueue, kubelet])
    meta: Any = {"labels": GANG, "annotations": UNRETRIABLE}
    for name in ("g0", "g1"):
        api.create(pod(name, **meta), namespace)
    both.settle()
    kueue.preempt(namespace, "gang")
    both.settle()
    held = api.list("Pod", namespace)
    assert [each["metadata"]["finalizers"] for each in held] == [[KueueDouble.FINALIZER]] * 2
    for name in ("h0", "h1"):
        api.create(pod(name, **meta), namespace)
    both.settle()
    assert sorted(each["metadata"]["name"] for each in api.list("Pod", namespace)) == ["h0", "h1"]


# -------------------------------------------------------------------------------------------------- helpers


def test_waiting_fails_with_what_was_seen_last(wait_for: Callable[..., Any]) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"a third pod: still not so after 0.1 s; last seen: \[1, 2\]"):
        wait_for(lambda: [1, 2], 0.1, until=lambda found: len(found) == 3, what="a third pod")


def test_players_in_the_background_watch_instead_of_listing(
    api: Api, control_plane: ControlPlane, namespace: str, wait_for: Callable[..., Any]
) -> None:
    with WatchedApi(control_plane) as watched:
        with Players([GarbageCollector(watched), DeploymentController(watched), Kubelet(watched)]).run_in_background(
            0.05
        ):
            api.create(deployment("d", 3), namespace)
            ready = wait_for(
                lambda: api.get("Deployment", namespace, "d").get("status", {}),
                20,
                until=lambda s: s.get("readyReplicas") == 3,
            )
            assert ready["replicas"] == 3
            api.delete("Deployment", namespace, "d")
            wait_for(lambda: api.list("Pod", namespace), 20, until=lambda pods: pods == [], what="no pod")


def test_kubectl_sees_the_columns(kubectl: Callable[..., str], api: Api, namespace: str) -> None:
    api.create(document(), namespace)
    assert kubectl("get", "rzr").split()[:6] == ["NAME", "PHASE", "STEP", "REWARD", "LENGTH", "ROLLOUTS"]
