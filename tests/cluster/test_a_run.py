"""A run from ``helm install`` to its exported model, on a real Kubernetes: real pods, probes, names, Secrets, volumes.

The steps are one story on one cluster, one test after the other. The worker pods are made of the operator's image, into
which this repository and its environment are mounted: the image of the workers is too large to be built for each test.
With ``RZ_REWARD_ARCHIVE`` and ``RZ_WORKER_ARCHIVE`` (OCI archives by ``docker/build.sh``) they are of the real ones.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import httpx
import pytest
from any_cluster import TEAM, Cluster
from bucket import Bucket
from helm import NAMESPACE, RELEASE, ROOT, Helm
from kube_api import ApiError
from small_run import small_spec
from whole_cluster import WholeCluster

from rz_api import names

RUN = "tiny"
STEPS = 10
"""Enough that both gangs have some to do: the status is seconds behind the ledger, and a step takes about one."""
PODS = {"ledger": ["Running"], "reward": ["Running"], "rollout": ["Running"] * 2, "trainer": ["Running"] * 2}
"""Role -> phases of its pods, when all is well."""
BASE = Path(__file__).parent.parent / "local" / "build_base.py"


@dataclass
class Story:
    """The cluster with a run in it."""

    cluster: Cluster
    bucket: Bucket

    def run(self) -> dict[str, Any]:
        return self.cluster.api.get(names.KIND, TEAM, RUN)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.run().get("status") or {}
        return found

    def pods(self, role: str) -> list[dict[str, Any]]:
        pods = self.cluster.api.list("Pod", TEAM)
        return [each for each in pods if each["metadata"]["labels"].get(names.LABEL_ROLE) == role]

    def phases(self, role: str) -> list[str]:
        return [pod["status"]["phase"] for pod in self.pods(role)]

    def gang(self) -> set[str]:
        """UIDs of the trainer pods that nobody deletes."""
        return {pod["metadata"]["uid"] for pod in self.pods("trainer") if "deletionTimestamp" not in pod["metadata"]}

    def step(self) -> int:
        return int(self.status().get("progress", {}).get("step", 0))

    def commits(self) -> list[dict[str, Any]]:
        """What storage has of committed steps: step, incarnation, shards, ..."""
        return [json.loads(self.read(key)) for key in self.stored("steps/*.json")]

    def wait(self, what: Callable[[], Any], meaning: str, seconds: float = 420.0) -> Any:
        def or_failed() -> Any:
            status = self.status()
            assert status.get("phase") != "Failed", json.dumps(status["conditions"], indent=1)
            return what()

        return self.cluster.wait(or_failed, meaning, seconds)

    def stored(self, pattern: str) -> list[str]:
        files = fsspec.filesystem("s3", use_listings_cache=False, **self.bucket.options)
        return sorted(str(key) for key in files.glob(f"runs/{RUN}/{pattern}"))

    def read(self, key: str) -> bytes:
        data: bytes = fsspec.filesystem("s3", **self.bucket.options).cat_file(key)
        return data


@pytest.fixture(scope="module")
def story(cluster: Cluster, bucket: Bucket, release: str, tmp_path_factory: pytest.TempPathFactory) -> Story:
    base = tmp_path_factory.mktemp("base")
    subprocess.run([sys.executable, BASE, base], check=True, capture_output=True)
    files = fsspec.filesystem("s3", **bucket.options)
    for name in ("runs", "data"):
        httpx.put(f"{bucket.endpoint}/{name}", trust_env=False).raise_for_status()
    files.put(str(base), "data/base", recursive=True)
    cluster.create_namespace(TEAM)
    data = {key: base64.b64encode(value.encode()).decode() for key, value in bucket.secret.items()}
    cluster.api.create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bucket"}, "data": data}, TEAM)
    cluster.api.create(document(base, cluster.images), TEAM)
    return Story(cluster, bucket)


def document(base: Path, images: Mapping[str, str]) -> dict[str, Any]:
    """The run of tests/local, for a cluster: its data in the bucket, two trainer nodes, two rollouts."""
    reward, worker, secret = with_image("reward", images), with_image("worker-cpu", images), {"secretName": "bucket"}
    spec = small_spec(base, base)
    spec["model"] = {"name": "s3://data/base/model", **secret}
    spec["data"] |= {
        "train": [{"uri": "s3://data/base/train.jsonl", **secret}],
        "eval": [{"name": "heldout", "uri": "s3://data/base/heldout.jsonl", **secret}],
    }
    spec["storage"] = {"uri": f"s3://runs/{RUN}", **secret}
    spec["algorithm"]["totalSteps"] = STEPS
    spec["evaluation"]["interval"] = 3
    spec["rollout"] |= {**worker, "replicas": 2, "leaseSeconds": 5}
    spec["trainer"] |= {**worker, "nodes": 2}
    spec["reward"] |= reward
    spec["ledger"] = reward
    spec["failurePolicy"] = {"backoffSeconds": 0.5, "maxBackoffSeconds": 2.0}
    return {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": {"name": RUN}, "spec": spec}


def with_image(name: str, images: Mapping[str, str]) -> dict[str, Any]:
    """Fields of a role: its image, and what one machine can give to all of them."""
    resources = {"requests": {"cpu": "20m", "memory": "64Mi"}}
    if name in images:
        return {"image": images[name], "resources": resources}
    return {"image": images["operator"], "resources": resources, "podTemplate": with_this_repository()}


def with_this_repository() -> dict[str, Any]:
    """A podTemplate that mounts the repository, its environment and its Python; below /opt, for where they are here may
    be a folder that the pods' user must not enter."""
    places = {"repository": str(ROOT), "environment": sysconfig.get_path("purelib"), "python": sys.base_prefix}
    found = [f"/opt/repository/{folder}" for folder in ("crds", "operator", "workers")] + ["/opt/environment"]
    env = {
        "PATH": "/opt/python/bin:/usr/bin:/bin",
        "LD_LIBRARY_PATH": "/opt/python/lib",
        "PYTHONPATH": ":".join(found),
    }
    mounts = [{"name": name, "mountPath": f"/opt/{name}", "readOnly": True} for name in places]
    return {
        "spec": {
            "volumes": [{"name": name, "hostPath": {"path": path}} for name, path in places.items()],
            "containers": [
                {
                    "name": names.MAIN_CONTAINER,
                    "env": [{"name": name, "value": value} for name, value in env.items()],
                    "volumeMounts": mounts,
                }
            ],
        }
    }


def test_1_the_chart_brings_an_operator_that_is_ready(cluster: Cluster, release: str) -> None:
    [pod] = cluster.api.list("Pod", NAMESPACE)
    assert pod["status"]["phase"] == "Running"
    assert pod["status"]["containerStatuses"][0]["restartCount"] == 0


def test_1b_helm_test_says_that_the_operator_works_and_whether_policies_are_enforced(
    cluster: Cluster, release: str, helm: Helm
) -> None:
    helm.run("test", RELEASE, "--namespace", NAMESPACE, "--timeout", "110s")
    pod = cluster.api.get("Pod", NAMESPACE, f"{RELEASE}-reasonerzero-test-policies")
    log = cluster.log(pod, "test")
    assert "enforced: " in log
    if isinstance(cluster, WholeCluster):
        assert "not enforced: " in log, "the bridge plugin enforces nothing"
    assert [body["metadata"]["name"] for body in cluster.api.list("Deployment", NAMESPACE)] == [release]


def test_2_every_role_comes_up_and_the_first_step_is_committed(story: Story) -> None:
    # Both waits: one rollout is enough for a step.
    story.wait(lambda: {role: story.phases(role) for role in PODS} == PODS, "every pod to run")
    story.wait(lambda: story.step() >= 1, "the first step")
    for role in PODS:
        for pod in story.pods(role):
            context = pod["spec"]["containers"][0]["securityContext"]
            assert context["readOnlyRootFilesystem"], role


def test_3_a_trainer_pod_that_is_deleted_is_a_new_gang_and_no_restart_that_counts(story: Story) -> None:
    first = {pod["metadata"]["name"] for pod in story.pods("trainer")}
    story.cluster.api.delete("Pod", TEAM, sorted(first)[0], grace=0)
    story.wait(lambda: story.status()["gang"]["incarnation"] == 2, "the next incarnation")
    # The next step that the status shows may be the old gang's: its last one, while its pods end.
    story.wait(lambda: any(commit["incarnation"] == 2 for commit in story.commits()), "a step of the second gang")
    left = [pod for pod in story.pods("trainer") if pod["metadata"]["name"] in first]
    assert all("deletionTimestamp" in pod["metadata"] for pod in left), "the old gang is still wanted"
    assert story.status()["gang"].get("restarts", 0) == 0


def test_4_a_rollout_pod_that_is_deleted_is_replaced_alone(story: Story) -> None:
    gang = story.gang()
    assert len(gang) == 2, "the second gang has committed a step, so that both of its pods are there"
    [gone, _] = sorted(pod["metadata"]["uid"] for pod in story.pods("rollout"))
    name = next(pod["metadata"]["name"] for pod in story.pods("rollout") if pod["metadata"]["uid"] == gone)
    story.cluster.api.delete("Pod", TEAM, name, grace=0)

    def is_replaced() -> bool:
        uids = {pod["metadata"]["uid"] for pod in story.pods("rollout")}
        return story.status().get("phase") == "Succeeded" or (len(uids) == 2 and gone not in uids)

    story.wait(is_replaced, "another rollout in its place")
    committed = len(story.commits())
    story.wait(lambda: story.status().get("phase") == "Succeeded" or len(story.commits()) > committed, "one more step")
    assert story.status()["gang"]["incarnation"] == 2
    assert story.gang() <= gang


def test_5_it_succeeds_with_every_trajectory_consumed_once_and_both_models_exported(story: Story) -> None:
    story.wait(lambda: story.status().get("phase") == "Succeeded", "the end")
    commits: dict[int, dict[str, Any]] = {}
    for commit in story.commits():
        if commit["incarnation"] >= commits.get(commit["step"], commit)["incarnation"]:
            commits[commit["step"]] = commit
    assert sorted(commits) == list(range(STEPS))
    consumed = {f"runs/{RUN}/{shard['key']}" for commit in commits.values() for shard in commit["shards"]}
    assert consumed == set(story.stored("trajectories/*/*.parquet"))
    assert story.stored(f"export/step-{STEPS:06d}/policy/model.safetensors")
    assert story.stored(f"export/step-{STEPS:06d}/critic/model.safetensors")
    status = story.status()
    assert status["progress"]["step"] == STEPS
    assert {each["type"]: each["status"] for each in status["conditions"]}["Succeeded"] == "True"


def test_6_uninstalling_keeps_the_crd_and_the_run(story: Story, helm: Helm) -> None:
    before = story.run()["metadata"]["uid"]
    helm.run("uninstall", RELEASE, "--namespace", NAMESPACE)
    assert story.run()["metadata"]["uid"] == before


def test_7_a_deleted_run_takes_everything_with_it_without_an_operator(story: Story) -> None:
    story.cluster.api.delete(names.KIND, TEAM, RUN)

    def left() -> list[str]:
        found = []
        for kind in ("Pod", "Deployment", "Service", "ConfigMap", "Secret", "NetworkPolicy"):
            for each in story.cluster.api.list(kind, TEAM):
                owners = [owner["kind"] for owner in each["metadata"].get("ownerReferences", [])]
                if names.KIND in owners or "ReplicaSet" in owners:
                    found.append(f"{kind} {each['metadata']['name']}")
        return found

    story.cluster.wait(lambda: not left(), "everything of the run to be gone")
    with pytest.raises(ApiError):
        story.run()
    assert story.stored(f"export/step-{STEPS:06d}/policy/model.safetensors"), "what it stored stays"
