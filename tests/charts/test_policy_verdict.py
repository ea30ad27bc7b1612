"""``helm test`` says whether NetworkPolicies are enforced: what the chart makes for that, and what its pods say, run
here as processes. A listener that has the second port too stands for a cluster that enforces nothing."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from helm import NAMESPACE, ROOT, Helm, Object, one
from network_policies import Pod, admitted

NAME = "-test-policies"


def parts(helm: Helm, values: dict[str, Any] | None = None) -> dict[str, Object]:
    objects = helm.template(values)
    return {kind: one(objects, kind, NAME) for kind in ("NetworkPolicy", "Service", "Deployment", "Pod")}


def container(body: Object) -> Object:
    spec = body["spec"]["template"]["spec"] if body["kind"] == "Deployment" else body["spec"]
    (found,) = spec["containers"]
    return dict(found)


def environment(body: Object) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container(body)["env"]}


def test_the_policy_opens_one_of_the_listeners_ports_for_the_pod_and_shuts_the_other(helm: Helm) -> None:
    made = parts(helm)
    labels = made["Deployment"]["spec"]["template"]["metadata"]["labels"]
    listener = Pod(NAMESPACE, labels, "10.1.0.1", {})
    tester = Pod(NAMESPACE, made["Pod"]["metadata"]["labels"], "10.1.0.2", {})
    (policies, ports) = [made["NetworkPolicy"]], environment(made["Deployment"])
    assert environment(made["Pod"]) | ports == environment(made["Pod"])
    assert admitted(policies, tester, listener, int(ports["OPEN"]), "TCP")
    assert not admitted(policies, tester, listener, int(ports["SHUT"]), "TCP")


def test_the_pod_asks_the_listener(helm: Helm) -> None:
    made = parts(helm)
    service, labels = made["Service"], made["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert environment(made["Pod"])["LISTENER"] == f"{service['metadata']['name']}.{NAMESPACE}.svc"
    assert service["spec"]["selector"].items() <= labels.items()
    assert {str(port["port"]) for port in service["spec"]["ports"]} == {
        environment(made["Pod"])[name] for name in ("OPEN", "SHUT")
    }
    assert all(port["port"] == port["targetPort"] for port in service["spec"]["ports"])


def test_everything_but_the_pod_with_the_verdict_is_gone_after_the_test(helm: Helm) -> None:
    made = parts(helm)
    annotations = {kind: body["metadata"]["annotations"] for kind, body in made.items()}
    assert {each["helm.sh/hook"] for each in annotations.values()} == {"test"}
    pod = annotations.pop("Pod")
    assert pod["helm.sh/hook-delete-policy"] == "before-hook-creation"
    assert pod["helm.sh/hook-output-log-policy"] == "hook-succeeded,hook-failed"
    for each in annotations.values():
        assert int(each["helm.sh/hook-weight"]) < int(pod["helm.sh/hook-weight"]), "made before the pod"
        assert each["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded,hook-failed"


def test_the_test_takes_no_other_image_than_the_operators(helm: Helm) -> None:
    objects = helm.template()
    image = container(one(objects, "Deployment"))["image"]
    assert {container(body)["image"] for body in objects if body["kind"] in ("Pod", "Deployment")} == {image}


# ------------------------------------------------------------------------------------------------------ what is said


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def listening(helm: Helm, *ports: int) -> Iterator[None]:
    """The listener's program; with one port, the other one is another that nobody asks."""
    ours = {"OPEN": str(ports[0]), "SHUT": str(ports[1] if len(ports) > 1 else free_port())}
    program = container(parts(helm)["Deployment"])["args"]
    process = subprocess.Popen([sys.executable, "-c", *program], env={**os.environ, **ours})
    try:
        for port in (int(each) for each in ours.values()):
            end = time.monotonic() + 60
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=5).close()
                    break
                except OSError:
                    assert time.monotonic() < end, f"nobody listens on {port}"
                    time.sleep(0.05)
        yield
    finally:
        process.kill()
        process.wait()


def ask(helm: Helm, opened: int, shut: int, required: bool = False) -> subprocess.CompletedProcess[str]:
    pod = parts(helm, {"networkPolicy": {"required": required}})["Pod"]
    here = {"LISTENER": "127.0.0.1", "OPEN": str(opened), "SHUT": str(shut)}
    here |= {"START_SECONDS": "2", "POLICY_SECONDS": "10" if shut != opened else "1.5"}
    return subprocess.run(
        [sys.executable, "-c", *container(pod)["args"]],
        env={**os.environ, **environment(pod), **here},
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.mark.parametrize("required", [False, True], ids=["", "required"])
def test_a_port_that_does_not_answer_beside_one_that_does_is_a_policy_at_work(helm: Helm, required: bool) -> None:
    opened = free_port()
    with listening(helm, opened):
        said = ask(helm, opened, free_port(), required)
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith("enforced: ")


@pytest.mark.parametrize(("required", "code"), [(False, 0), (True, 1)], ids=["told", "required: the test fails"])
def test_where_both_ports_answer_the_consequence_is_told(helm: Helm, required: bool, code: int) -> None:
    opened = free_port()
    with listening(helm, opened):
        said = ask(helm, opened, opened, required)
    assert said.returncode == code
    assert said.stdout.startswith("not enforced: ")
    assert "docs/security.md" in said.stdout
    assert ("networkPolicy.required is true" in said.stderr) is required


def test_a_listener_that_never_answers_is_no_verdict(helm: Helm) -> None:
    said = ask(helm, free_port(), free_port())
    assert said.returncode == 1
    assert said.stdout == ""
    assert said.stderr.startswith("unknown: ")


def test_the_heading_that_the_verdict_names_is_there() -> None:
    assert "\n## Where no policy is enforced\n" in (ROOT / "docs" / "security.md").read_text()
