"""What the operator fills in when a run is accepted, and keeps: images, defaults for pods, a gang mode."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from kube_builders import IMAGES, SPEC, run_body

from rz_api.run_defaults import RunDefaults
from rz_operator.controller import words
from rz_operator.controller.accept import Verdict, accept
from rz_operator.controller.completion import Completion
from rz_operator.controller.frozen import RUN_KEY, SUBMITTED_KEY, Frozen

YESTERDAY = RunDefaults.model_validate({"labels": {"team": "a"}, "registry": "mirror.example.com/hub"})
TODAY = RunDefaults.model_validate({"labels": {"team": "b"}, "registry": "other.example.com"})


def spec(**sections: Any) -> dict[str, Any]:
    return {**copy.deepcopy(SPEC), **sections}


def first(completion: Completion, **sections: Any) -> Verdict:
    verdict = accept(run_body(spec(**sections)), None, completion, (), False)
    assert verdict.accepted, verdict.message
    assert verdict.run is not None
    return verdict


def test_defaults_for_pods_are_frozen_with_the_run() -> None:
    verdict = first(Completion(IMAGES, YESTERDAY))
    assert verdict.freeze is not None
    assert Frozen.from_data(verdict.freeze.to_data()).run.pod_defaults == YESTERDAY


@pytest.mark.parametrize(
    "sections",
    [{}, {"reward": {"replicas": 3}}, {"trainer": {**SPEC.get("trainer", {}), "nodes": 3}}],
    ids=["unchanged", "a live field changed", "the trainer changed"],
)
def test_a_change_of_the_chart_changes_no_run_that_was_accepted(sections: dict[str, Any]) -> None:
    frozen = first(Completion(IMAGES, YESTERDAY)).freeze
    verdict = accept(run_body(spec(**sections)), frozen, Completion(IMAGES, TODAY), (), False)
    assert verdict.run is not None
    assert verdict.run.pod_defaults == YESTERDAY
    assert verdict.run.spec.trainer.image == f"mirror.example.com/hub/{IMAGES['trainer']}"


def test_a_run_from_before_there_were_defaults_goes_on_without() -> None:
    freeze = first(Completion(IMAGES)).freeze
    assert freeze is not None
    data = freeze.to_data()
    old = {key: value for key, value in json.loads(data[RUN_KEY]).items() if key != "podDefaults"}
    frozen = Frozen.from_data({RUN_KEY: json.dumps({**old, "renderingVersion": 1}), SUBMITTED_KEY: data[SUBMITTED_KEY]})
    assert (frozen.run.pod_defaults, frozen.run.rendering_version) == (None, 1)
    verdict = accept(run_body(spec(trainer={"nodes": 3})), frozen, Completion(IMAGES, TODAY), (), False)
    assert verdict.freeze is not None
    assert (verdict.freeze.run.pod_defaults, verdict.freeze.run.rendering_version) == (None, 1)


IMAGES_OF_RUNS = {
    "one of Docker Hub": ("team/worker:1", "mirror.example.com/hub/team/worker:1"),
    "one without an owner": ("worker", "mirror.example.com/hub/worker"),
    "one with a registry": ("quay.example.com/team/worker:1", "quay.example.com/team/worker:1"),
    "one with a port": ("registry:5000/worker", "registry:5000/worker"),
    "one of this machine": ("localhost/worker", "localhost/worker"),
    "one of the registry itself": ("mirror.example.com/hub/worker", "mirror.example.com/hub/worker"),
}


@pytest.mark.parametrize(("image", "pulled"), IMAGES_OF_RUNS.values(), ids=IMAGES_OF_RUNS)
def test_an_image_that_names_no_registry_comes_from_the_owners(image: str, pulled: str) -> None:
    verdict = first(Completion(IMAGES, YESTERDAY), rollout={"image": image})
    assert verdict.run is not None
    assert verdict.run.spec.rollout.image == pulled
    again = accept(run_body(spec(rollout={"image": image})), verdict.freeze, Completion(IMAGES, TODAY), (), False)
    assert again.run is not None
    assert again.run.spec.rollout.image == pulled


def test_a_registry_without_a_dot_is_put_there_once() -> None:
    defaults = RunDefaults(registry="mirror")
    assert defaults.image(defaults.image("team/worker")) == "mirror/team/worker"


@pytest.mark.parametrize(
    ("served", "gang", "message"),
    [(True, "workload", words.VALID), (False, "operator", words.NO_WORKLOADS)],
    ids=["where Kubernetes has PodGroups of its own", "where it has none"],
)
def test_gang_workload(served: bool, gang: str, message: str) -> None:
    completion = Completion(IMAGES, workload_gangs=served)
    verdict = first(completion, scheduling={"gang": "workload"})
    assert verdict.run is not None
    assert (verdict.run.spec.scheduling.gang, verdict.message) == (gang, message)
    later = Completion(IMAGES, workload_gangs=True)
    again = accept(run_body(spec(scheduling={"gang": "workload"})), verdict.freeze, later, (), True)
    assert again.run is not None
    assert again.run.spec.scheduling.gang == gang, "as it was frozen, until the run starts anew"
    assert again.message == message
