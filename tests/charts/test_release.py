"""A life of a release, with real Helm on a real API server, while a run exists: nothing of the run is touched.

The steps are one story, so they are one test after the other on one server; each begins where the last one ended. The
operator is the process that the rendered Deployment describes (its environment, its ServiceAccount), and is stopped and
started where a ``Recreate`` would do it. Controllers and kubelets are played by tests/apiserver.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import installed_operator
import pytest
import yaml
from api_builders import document
from control_plane import ControlPlane
from fake_ledgers import FakeLedgers
from helm import CHART, NAMESPACE, RELEASE, Helm, HelmError, Object, one
from installed_operator import Each, available
from kubelet_double import Kubelet
from players import DeploymentController, GarbageCollector, Players
from server_process import Server

from rz_api import names

TEAM = "team"
KINDS = ("Pod", "Deployment", "ReplicaSet", "Service", "ConfigMap", "Secret", "NetworkPolicy", "PodDisruptionBudget")
OPERATOR = f"{RELEASE}-reasonerzero-operator"
MAX_RELEASE_BYTES = 800 * 1024
"""An object of the API server may have 1 MiB, and dashboards are still to come."""
WITHIN_SECONDS = 60.0
CRD = "CustomResourceDefinition"


@dataclass
class Story:
    """What all steps share."""

    plane: ControlPlane
    helm: Helm
    players: Players
    kubelet: Kubelet
    ledgers: FakeLedgers
    new_chart: Path
    """The chart with a changed CRD: one more field of the status."""
    operator: Server | None = None
    url: str = ""
    before: dict[str, str] = field(default_factory=dict)
    """resourceVersion of every object of the run, as it was before the step."""

    def install(self, chart: Path = CHART, *words: str, values: dict[str, Any] | None = None) -> None:
        namespace = ("--namespace", NAMESPACE)
        self.helm.run("upgrade", "--install", RELEASE, str(chart), *namespace, *words, values=values or {})

    def start_operator(self) -> None:
        """What the kubelet would start: the container of the Deployment that is in the server."""
        assert self.operator is None
        deployment = self.plane.api.get("Deployment", NAMESPACE, OPERATOR)
        self.operator, self.url = installed_operator.start(self.plane, deployment, self.ledgers.url_template)

    def stop_operator(self) -> None:
        if self.operator is not None:
            self.operator.stop()
            self.operator = None

    def of_the_run(self) -> dict[str, str]:
        """resourceVersion of the run and of all that belongs to it."""
        api = self.plane.api
        found = {}
        for kind in (names.KIND, *KINDS):
            for body in api.list(kind, TEAM):
                found[f"{kind} {body['metadata']['name']}"] = body["metadata"]["resourceVersion"]
        return found

    def wait(self, look: Callable[[], Any], what: str) -> None:
        end = time.monotonic() + WITHIN_SECONDS
        while not look():
            assert time.monotonic() < end, f"{what}: not so after {WITHIN_SECONDS:.0f} s"
            self.players.tick()
            time.sleep(0.05)

    def run_is_running(self) -> bool:
        status = self.plane.api.get(names.KIND, TEAM, "orz").get("status") or {}
        return status.get("phase") == "Running"


@pytest.fixture(scope="module")
def story(control_plane: ControlPlane, server_helm: Helm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    api = control_plane.api
    control_plane.create_namespace(TEAM)
    kubelet = Kubelet(api)
    # No garbage collector: it asks for runs, and at the start there is no CRD.
    players = Players([DeploymentController(api), kubelet, Each(lambda: available(api, NAMESPACE))])
    made = Story(
        plane=control_plane,
        helm=server_helm,
        players=players,
        kubelet=kubelet,
        ledgers=FakeLedgers(),
        new_chart=changed(tmp_path_factory.mktemp("new") / CHART.name),
    )
    yield made
    if made.operator is not None:
        print(made.operator.tail(60))
    made.stop_operator()
    made.ledgers.close()


def changed(chart: Path) -> Path:
    """A later version of the chart: another appVersion, and a CRD with a field more."""
    shutil.copytree(CHART, chart)
    about = yaml.safe_load((chart / "Chart.yaml").read_text())
    (chart / "Chart.yaml").write_text(yaml.safe_dump(about | {"version": "9.9.9", "appVersion": "9.9.9"}))
    file = chart / "templates" / "crd.yaml"
    text = file.read_text()
    (line,) = [
        each for each in text.splitlines() if each.strip() == "observedGeneration:" and each.startswith(" " * 14)
    ][:1]
    indent = line[: len(line) - len(line.lstrip())]
    new = f"{indent}addedLater:\n{indent}  description: New in 9.9.9.\n{indent}  type: string\n"
    file.write_text(text.replace(f"{line}\n", f"{new}{line}\n", 1))
    return chart


def fields_of_status(story: Story) -> set[str]:
    body = story.plane.api.get(CRD, "", names.CRD_NAME)
    schema = body["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return set(schema["properties"]["status"]["properties"])


def releases(story: Story) -> list[Object]:
    found = [body for body in story.plane.api.list("Secret", NAMESPACE) if body["type"] == "helm.sh/release.v1"]
    return sorted(found, key=lambda body: int(body["metadata"]["labels"]["version"]))


# ------------------------------------------------------------------------------------------------------ the story


def test_1_install_brings_everything_and_serves_the_crd(story: Story) -> None:
    """Helm's server-side apply, its default, which refuses fields that the server does not know: so the chart has left
    out the CRD's rules where they are unknown."""
    with story.players.run_in_background(0.2):
        story.install(CHART, "--wait", "--timeout", "60s")
    api = story.plane.api
    api.list(names.KIND, TEAM)
    assert api.get("Deployment", NAMESPACE, OPERATOR)["status"]["readyReplicas"] == 1
    annotations = api.get(CRD, "", names.CRD_NAME)["metadata"]["annotations"]
    assert annotations["helm.sh/resource-policy"] == "keep"


def test_2_the_release_is_far_below_what_a_secret_may_have(story: Story) -> None:
    (release,) = releases(story)
    size = len(base64.b64decode(release["data"]["release"]))
    print(f"\nrelease Secret: {size / 1024:.0f} KiB")
    assert size < MAX_RELEASE_BYTES


def test_3_the_operator_of_the_deployment_serves_a_run(story: Story) -> None:
    story.start_operator()
    run = document({"metadata.name": "orz", "spec.rollout.replicas": 2, "spec.storage.uri": "s3://bucket/orz"})
    story.plane.api.create(run, TEAM)
    story.wait(
        lambda: sum(pod["status"].get("phase") == "Running" for pod in story.plane.api.list("Pod", TEAM)) == 5, "pods"
    )
    story.ledgers.set(TEAM, "orz", step=3, weight_version=3)
    story.wait(story.run_is_running, "the run is Running")
    images = {pod["spec"]["containers"][0]["image"] for pod in story.plane.api.list("Pod", TEAM)}
    assert images == {"reasonerzero-worker:0.1.0", "reasonerzero-reward:0.1.0"}, "the chart's, by its appVersion"
    assert denied(story) == []


def test_4_helm_test_asks_the_operator(story: Story) -> None:
    """The pod of the test is played; what it runs is run here, against the operator that runs."""

    end_of_test = Each(lambda: installed_operator.end_of_test(story.kubelet, NAMESPACE))
    playing = Players([*story.players.players, end_of_test])
    with playing.run_in_background(0.2):
        said = story.helm.run("test", RELEASE, "--namespace", NAMESPACE, "--timeout", "60s")
    assert "Succeeded" in said
    pod = one(story.helm.template(), "Pod", "-test")
    (container,) = pod["spec"]["containers"]
    done = subprocess.run(
        [sys.executable, "-c", *container["args"]],
        env={**os.environ, "URL": story.url, "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stdout) == (0, "/healthz fine\n/readyz fine\n/metrics fine\n"), done.stderr


def test_5_an_upgrade_with_a_changed_crd_touches_nothing_of_the_run(story: Story) -> None:
    story.stop_operator()
    story.before = story.of_the_run()
    assert "addedLater" not in fields_of_status(story)
    story.install(story.new_chart)
    assert "addedLater" in fields_of_status(story)
    assert story.of_the_run() == story.before


def test_6_nor_does_the_new_operator_and_the_run_keeps_its_images(story: Story) -> None:
    pods = {pod["metadata"]["name"]: pod for pod in story.plane.api.list("Pod", TEAM)}
    story.start_operator()
    story.plane.api.patch(names.KIND, TEAM, "orz", {"spec": {"rollout": {"replicas": 3}}})
    story.wait(lambda: story.plane.api.find("Pod", TEAM, "orz-rollout-i1-2") is not None, "it works")
    after = {pod["metadata"]["name"]: pod for pod in story.plane.api.list("Pod", TEAM)}
    for name, pod in pods.items():
        assert after[name]["metadata"]["resourceVersion"] == pod["metadata"]["resourceVersion"], name
    assert after["orz-rollout-i1-2"]["spec"]["containers"][0]["image"] == "reasonerzero-worker:0.1.0"
    story.wait(lambda: story.players.tick() == 0, "the new pod runs")


def test_7_a_rollback_brings_the_old_crd_and_touches_nothing(story: Story) -> None:
    story.stop_operator()
    story.before = story.of_the_run()
    story.helm.run("rollback", RELEASE, "1", "--namespace", NAMESPACE)
    assert "addedLater" not in fields_of_status(story)
    assert story.of_the_run() == story.before


def test_8_another_release_is_told_that_the_crd_is_not_its_own(story: Story) -> None:
    with pytest.raises(HelmError, match="invalid ownership metadata"):
        story.helm.run("install", "second", str(CHART), "--namespace", TEAM)
    story.helm.run("uninstall", "second", "--namespace", TEAM, "--ignore-not-found")
    values = {"crd": {"install": False}, "watchNamespace": TEAM}
    story.helm.run("install", "second", str(CHART), "--namespace", TEAM, values=values)
    story.helm.run("uninstall", "second", "--namespace", TEAM)
    assert story.of_the_run() == story.before


def test_9_uninstall_keeps_the_crd_and_the_run(story: Story) -> None:
    said = story.helm.run("uninstall", RELEASE, "--namespace", NAMESPACE)
    assert names.CRD_NAME in said, "Helm says what it keeps"
    assert story.of_the_run() == story.before
    api = story.plane.api
    assert api.find(CRD, "", names.CRD_NAME) is not None
    assert api.find("Deployment", NAMESPACE, OPERATOR) is None
    assert [
        body["metadata"]["name"] for body in api.list("ClusterRole") if "reasonerzero" in body["metadata"]["name"]
    ] == []
    assert releases(story) == []


def test_a_new_install_takes_up_the_crd_and_the_run(story: Story) -> None:
    story.install(CHART, "--server-side=false")  # and Helm's other way of writing
    assert story.of_the_run() == story.before
    story.start_operator()
    story.players.players.append(GarbageCollector(story.plane.api))
    story.plane.api.patch(names.KIND, TEAM, "orz", {"spec": {"suspend": True}})
    story.wait(lambda: story.plane.api.list("Pod", TEAM) == [], "its pods are given back")
    assert denied(story) == []


def test_another_name_takes_the_crd_over_when_told_to(story: Story) -> None:
    story.stop_operator()
    story.helm.run("uninstall", RELEASE, "--namespace", NAMESPACE)
    with pytest.raises(HelmError, match="invalid ownership metadata"):
        story.helm.run("install", "heir", str(CHART), "--namespace", TEAM)
    story.helm.run("uninstall", "heir", "--namespace", TEAM, "--ignore-not-found")
    story.helm.run("install", "heir", str(CHART), "--namespace", TEAM, "--take-ownership")
    labels = story.plane.api.get(CRD, "", names.CRD_NAME)["metadata"]["labels"]
    assert labels["app.kubernetes.io/instance"] == "heir"
    assert story.plane.api.find(names.KIND, TEAM, "orz") is not None


def denied(story: Story) -> list[str]:
    """What the chart's ServiceAccount asked for and did not get."""
    found = story.plane.requests(f"{NAMESPACE}:{OPERATOR}")
    assert found, "the audit log has its requests"
    return [f"{each.verb} {each.path}" for each in found if each.code == 403]
