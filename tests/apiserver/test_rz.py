"""``rz`` as people call it, on a real API server with an operator: submit, status, suspend, resume, logs, errors."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_builders import document
from control_plane import ControlPlane
from kube_api import Api, ApiError
from kubelet_double import Kubelet
from operator_process import ROOT, OperatorProcess
from server_process import child_environment

from rz_api import names

RZ = [sys.executable, "-c", "from rz_operator.commands.cli import main; main()"]
DOCUMENTATION = ROOT / "docs" / "operator.md"
URIS = {
    "spec.model.name": "Qwen/Qwen2.5-7B",
    "spec.data.train.0.uri": "s3://data/train.jsonl",
    "spec.storage.uri": "s3://runs/tiny",
}

Rz = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def rz(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> Rz:
    """``rz("status", "tiny")`` in the test's namespace; ``run.yaml`` is a good run."""
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(document(URIS)))
    env = child_environment(HOME=str(tmp_path), COLUMNS="200", KUBECONFIG=str(control_plane.admin_kubeconfig()))

    def call(
        command: str, *arguments: str, namespace: str = namespace, **more: str
    ) -> subprocess.CompletedProcess[str]:
        words = [*RZ, command, *arguments, "--namespace", namespace]
        return subprocess.run(words, cwd=tmp_path, env=env | more, capture_output=True, text=True, timeout=120)

    return call


def good(done: subprocess.CompletedProcess[str]) -> str:
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def bad(done: subprocess.CompletedProcess[str], code: int = 64) -> str:
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_run_is_submitted_watched_changed_suspended_and_resumed(
    rz: Rz,
    api: Api,
    namespace: str,
    operator: Callable[..., OperatorProcess],
    kubelet: Kubelet,
    wait_for: Callable[..., Any],
) -> None:
    assert good(rz("submit", "run.yaml", "--dry-run")) == f"run {namespace}/tiny would be created\n"
    assert api.list(names.KIND, namespace) == []
    assert good(rz("submit", "run.yaml")) == f"run {namespace}/tiny created\n"
    assert "no operator has looked at it yet" in good(rz("status", "tiny"))
    operator(namespace)

    def trainer_runs() -> bool:
        return bool(api.get("Pod", namespace, "tiny-trainer-i1-0")["status"]["phase"] == "Running")

    wait_for(trainer_runs, 30, each=kubelet.tick)
    assert good(rz("submit", "run.yaml")) == f"run {namespace}/tiny is as the file says: nothing changed\n"
    shown = good(rz("status", "tiny"))
    assert shown.startswith(f"{namespace}/tiny: Running")
    assert "trainer        1/1 ready, incarnation 1" in shown
    assert "tiny   Running" in good(rz("status"))

    assert "spec.trainer.watchdogSeconds: nothing -> 60" in good(
        rz("submit", "run.yaml", "--set", "trainer.watchdogSeconds=60")
    )
    assert "spec.algorithm: found" in bad(rz("submit", "run.yaml", "--set", "algorithm.seed=1"))
    assert api.get(names.KIND, namespace, "tiny")["spec"]["trainer"] == {"watchdogSeconds": 60}

    assert "still" in bad_after_start(rz("suspend", "tiny", "--wait", "--timeout", "1"))
    wait_for(lambda: api.get(names.KIND, namespace, "tiny")["status"]["phase"] == "Suspended", 30, each=kubelet.tick)
    assert "is suspended already" in good(rz("suspend", "tiny", "--wait"))
    assert "is Running" in good(rz("resume", "tiny", "--wait", "--timeout", "30"))


def bad_after_start(done: subprocess.CompletedProcess[str]) -> str:
    """What is said of a wait that was given up."""
    assert done.returncode == 1
    assert "spec.suspend is true now" in done.stdout
    return done.stderr


def test_what_the_server_refuses_is_told_with_what_to_do(
    rz: Rz, control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    assert f"found no run tny in namespace {namespace} (there: none)" in bad(rz("status", "tny"))
    assert 'namespaces "nowhere" not found' in bad(rz("submit", "run.yaml", namespace="nowhere"))
    nobody = str(control_plane.service_account_kubeconfig(namespace, "nobody"))
    assert "the API server refuses: reasonerzeroruns" in bad(rz("submit", "run.yaml", KUBECONFIG=nobody))
    stranger = tmp_path / "stranger"
    stranger.write_text(Path(nobody).read_text().replace("token: ", "token: x"))
    assert "the API server does not know who you are" in bad(rz("status", KUBECONFIG=str(stranger)))
    assert "found no pod rollout of run tiny, which is Pending; there are: none" in bad(
        good(rz("submit", "run.yaml")) and rz("logs", "tiny", "--role", "rollout")
    )


def is_served(api: Api) -> bool:
    try:
        api.list(names.KIND)
    except ApiError as error:
        if error.code == 404:
            return False
        raise
    return True


def test_a_cluster_without_the_crd_is_told_from_one_without_the_run(
    rz: Rz, control_plane: ControlPlane, api: Api, namespace: str, wait_for: Callable[..., Any]
) -> None:
    body = api.get("CustomResourceDefinition", "", names.CRD_NAME)
    api.delete("CustomResourceDefinition", "", names.CRD_NAME)
    try:
        wait_for(lambda: not is_served(api), 30)  # a deleted type is served for a moment
        assert "install the operator and its CRD" in bad(rz("status", "tiny"))
        assert "install the operator and its CRD" in bad(rz("submit", "run.yaml"))
    finally:
        control_plane.apply_crd()
    assert body["metadata"]["name"] == names.CRD_NAME


def test_a_log_that_no_node_gives_is_a_failure_in_words(rz: Rz, api: Api, namespace: str, kubelet: Kubelet) -> None:
    good(rz("submit", "run.yaml"))
    uid = api.get(names.KIND, namespace, "tiny")["metadata"]["uid"]
    owner = {"apiVersion": names.API_VERSION, "kind": names.KIND, "name": "tiny", "uid": uid, "controller": True}
    labels = names.labels("tiny", "trainer", 0, 1, uid=uid)
    metadata = {"name": "tiny-trainer-i1-0", "labels": labels, "ownerReferences": [owner]}
    containers = [{"name": names.MAIN_CONTAINER, "image": "image:1"}]
    api.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": containers}}, namespace)
    ask = ("logs", "tiny", "--role", "trainer")
    assert bad(rz(*ask), 0) == "rz: pod tiny-trainer-i1-0 has said nothing yet; it is Pending\n"
    kubelet.tick()
    assert "nobody can give the log of pod tiny-trainer-i1-0" in bad(rz(*ask), 1)


def test_what_the_documentation_has_people_apply_is_good_on_a_real_server(api: Api, tmp_path: Path) -> None:
    text = DOCUMENTATION.read_text()
    (manifests,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (script,) = re.findall(r"^(\{ printf .*?\} )\| kubectl", text, re.DOTALL | re.MULTILINE)
    role = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for body in (yaml.safe_load(role), *yaml.safe_load_all(manifests)):
        made = api.create(body, body["metadata"].get("namespace", ""), dryRun="All")
        assert made["metadata"]["name"] == "reasonerzero-operator"
    for command in re.findall(r"^rz (\w+)", text, re.MULTILINE):
        assert subprocess.run([*RZ, command, "--help"], cwd=tmp_path, capture_output=True, check=False).returncode == 0
