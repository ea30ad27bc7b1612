"""Stores of every kind, and a small run, for the storage tests."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

sys.path.insert(0, str(Path(__file__).parent))  # for ``storage_builders``

from rz_api.run import ResolvedRun
from rz_workers.protocol.schedule import Unit
from rz_workers.protocol.trajectory import Trajectory
from rz_workers.storage.objects import ObjectStore
from rz_workers.storage.run_folder import RunFolder

OpenStore = Callable[[], ObjectStore]


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """moto's S3 on loopback, with the credentials and the endpoint in the environment, as in a pod."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ACCESS_KEY_ID", "testing")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        environment.setenv("AWS_ENDPOINT_URL", endpoint)
        environment.setenv("NO_PROXY", "127.0.0.1")
        environment.setenv("no_proxy", "127.0.0.1")
        boto3.client("s3").create_bucket(Bucket="runs")
        yield endpoint
    server.stop()


@pytest.fixture(params=["file", "memory", "s3"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> OpenStore:
    """Opens one and the same empty folder anew at each call, as another process would."""
    if request.param == "s3":
        request.getfixturevalue("s3_endpoint")
    roots = {"file": f"file://{tmp_path}/runs", "memory": "memory://runs", "s3": "s3://runs"}
    uri = f"{roots[request.param]}/{uuid.uuid4().hex}"
    return lambda: ObjectStore(uri)


@pytest.fixture
def store(open_store: OpenStore) -> ObjectStore:
    return open_store()


@pytest.fixture
def local_store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(str(tmp_path / "run"))


MakeRun = Callable[..., ResolvedRun]


@pytest.fixture
def make_run() -> MakeRun:
    """A resolved run: ``make_run(uid="a", adopt=True, algorithm={"seed": 3})``."""

    def make(uid: str = "uid-1", name: str = "tiny", adopt: bool = False, **sections: object) -> ResolvedRun:
        spec = {
            "model": {"name": "base"},
            "data": {"train": [{"uri": "train.jsonl"}]},
            "storage": {"uri": "runs/tiny", "adopt": adopt},
            **sections,
        }
        return ResolvedRun.model_validate({"name": name, "uid": uid, "spec": spec})

    return make


@pytest.fixture
def folder(local_store: ObjectStore, make_run: MakeRun) -> RunFolder:
    return RunFolder.claim(local_store, make_run())


@pytest.fixture
def unit() -> Unit:
    """Two samples of each of two groups."""
    return Unit(kind="train", step=3, group_ids=(6, 7), prompt_indices=(1, 0), chunk=1, first_sample=2, num_samples=2)


MakeTrajectory = Callable[..., Trajectory]


@pytest.fixture
def make_trajectory() -> MakeTrajectory:
    def make(**changes: object) -> Trajectory:
        values: dict[str, object] = {
            "run": "tiny",
            "step": 3,
            "group_id": 6,
            "sample_index": 2,
            "prompt_id": "0-1",
            "prompt": "1+1 =?",
            "response": " <answer> \\boxed{2} </answer>",
            "prompt_token_ids": (1, 2, 3),
            "response_token_ids": (4, 5),
            "rollout_logprobs": (-0.5, -0.25),
            "finish_reason": "stop",
            "stop_reason": "</answer>",
            "extracted_answer": "2",
            "reference_answer": "2",
            "reward": 1.0,
            "reward_status": "ok",
            "weight_version": 3,
            "engine": "fake",
            "seconds": 0.125,
        }
        return Trajectory(**{**values, **changes})  # type: ignore[arg-type]

    return make
