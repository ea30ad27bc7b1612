"""The commands of ``rz`` on a cluster, against a fake one: what they write, show and say."""

from __future__ import annotations

import calendar
from pathlib import Path
from typing import Any

import pytest
from operator_builders import spec as local_spec
from remote_fakes import NAMESPACE, SPEC, FakeCluster, Steps, not_found, now, pod, run

from rz_api import names
from rz_api.spec import ReasonerZeroRunSpec
from rz_operator.apiserver.cluster import ApiError
from rz_operator.commands.cluster.access import RemoteError, Target, default_namespace, explained, get_run
from rz_operator.commands.cluster.logs import Query, print_logs
from rz_operator.commands.cluster.status import set_suspend, show_run, show_runs, wait_for_suspend, watch
from rz_operator.commands.cluster.submit import check_paths, object_of, submit
from rz_operator.errors import UserError

NOON = float(calendar.timegm((2026, 1, 1, 12, 0, 0)))


def document(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "tiny", "labels": {"a": "b"}}, "spec": {**SPEC, **spec}}


def sent(cluster: FakeCluster, dry_run: bool = False, **spec: Any) -> list[str]:
    return now(submit(cluster, NAMESPACE, object_of(document(**spec), NAMESPACE), dry_run))


# ---------------------------------------------------------------------------------------------------- submit


def test_a_new_run_is_created_with_identity_and_spec_alone() -> None:
    cluster = FakeCluster()
    body = object_of({**document(), "status": {"phase": "Running"}, "metadata": {"name": "tiny", "uid": "x"}}, None)
    assert now(submit(cluster, NAMESPACE, body)) == ["run team/tiny created"]
    ((verb, written),) = cluster.writes
    assert (verb, written["metadata"]) == ("create", {"name": "tiny", "namespace": NAMESPACE})
    assert written.keys() == {"apiVersion", "kind", "metadata", "spec"}


def test_an_existing_run_gets_the_spec_and_keeps_its_metadata() -> None:
    cluster = FakeCluster(run(spec={"trainer": {"nodes": 5}}, phase="Running"))
    lines = sent(cluster, trainer={"nodes": 6})
    assert lines[:2] == ["run team/tiny changed", "  spec.trainer.nodes: 5 -> 6"]
    assert "rz suspend tiny --wait" in lines[2]
    ((verb, written),) = cluster.writes
    assert (verb, written["metadata"]["uid"], written["metadata"]["labels"]) == ("replace", "u-1", {"a": "b"})


def test_the_same_file_again_changes_nothing() -> None:
    stored = run()
    stored["metadata"]["labels"] = {"a": "b", "theirs": "c"}
    cluster = FakeCluster(stored)
    assert sent(cluster) == ["run team/tiny is as the file says: nothing changed"]
    assert cluster.writes == []


def test_replicas_that_the_file_does_not_name_are_an_autoscalers() -> None:
    cluster = FakeCluster(run(spec={"rollout": {"replicas": 7}}, phase="Running"))
    sent(cluster, suspend=True)
    assert cluster.writes[0][1]["spec"]["rollout"] == {"replicas": 7}
    assert sent(cluster, suspend=True, rollout={"replicas": 2})[1] == "  spec.rollout.replicas: 7 -> 2"


def test_a_live_change_is_not_said_to_wait() -> None:
    cluster = FakeCluster(run(phase="Running"))
    assert sent(cluster, suspend=True)[1:] == ["  spec.suspend: nothing -> true"]


def test_a_change_to_zero_is_a_change() -> None:
    cluster = FakeCluster(run(phase="Running"))
    assert sent(cluster, failurePolicy={"maxRestarts": 0})[1] == "  spec.failurePolicy.maxRestarts: nothing -> 0"


def test_a_dry_run_writes_nothing() -> None:
    assert sent(FakeCluster(), dry_run=True) == ["run team/tiny would be created"]
    cluster = FakeCluster(run())
    assert sent(cluster, dry_run=True, suspend=True)[0] == "run team/tiny would be changed"
    assert cluster.writes == []


def test_what_a_started_run_does_not_take_is_refused_in_the_words_of_the_contract() -> None:
    cluster = FakeCluster(run(phase="Running"))
    with pytest.raises(UserError, match=r"spec.algorithm: found .*seed 1 in place of 0; .*can't change once"):
        sent(cluster, algorithm={"seed": 1})
    assert cluster.writes == []
    pending = FakeCluster(run(phase="Pending"))
    assert sent(pending, algorithm={"seed": 1})[0] == "run team/tiny changed"


def test_a_finished_run_is_said_to_be_over() -> None:
    assert "the run has finished (Failed)" in sent(FakeCluster(run(phase="Failed")), suspend=True)[-1]


def test_a_run_that_is_being_deleted_is_not_changed() -> None:
    stored = run()
    stored["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    with pytest.raises(UserError, match="is being deleted: wait"):
        sent(FakeCluster(stored))


def test_a_write_that_loses_is_tried_again() -> None:
    cluster = FakeCluster(run())
    cluster.errors["replace"] = [ApiError(409, "Conflict", "the object has been modified")]
    assert sent(cluster, suspend=True)[0] == "run team/tiny changed"
    cluster.errors["replace"] = [ApiError(409, "Conflict", "the object has been modified")] * 9
    with pytest.raises(RemoteError, match="changed by somebody else 5 times in a row"):
        sent(cluster, suspend=False)


def test_a_run_that_somebody_creates_at_the_same_time_is_changed() -> None:
    cluster = FakeCluster(run())
    cluster.errors["get"] = [not_found("tiny")]
    assert sent(cluster, suspend=True)[0] == "run team/tiny changed"


def test_a_namespace_in_the_file_is_the_runs_and_another_one_is_a_contradiction() -> None:
    file = document()
    file["metadata"]["namespace"] = "a"
    assert object_of(file, None)["metadata"]["namespace"] == "a"
    with pytest.raises(UserError, match="found namespace a in the file and --namespace b"):
        object_of(file, "b")


VOLUME = {"podTemplate": {"spec": {"containers": [{"name": "main", "volumeMounts": [{"mountPath": "/runs/"}]}]}}}
PATHS: dict[str, tuple[dict[str, Any], list[str], list[str]]] = {
    "buckets and a hub id": ({}, [], []),
    "a relative folder": (
        {"storage": {"uri": "runs/tiny"}},
        ["spec.storage.uri: found runs/tiny, a path relative"],
        [],
    ),
    "a home folder": ({"model": {"name": "~/model"}}, ["spec.model.name: found ~/model"], []),
    "a relative file URL": ({"storage": {"uri": "file://runs"}}, ["spec.storage.uri: found file://runs"], []),
    "data in a folder": ({"data": {"train": [{"uri": "a/b.jsonl"}]}}, ["spec.data.train[0].uri: found a/b.jsonl"], []),
    "a folder that looks like a hub id": ({"model": {"name": "models/here"}}, [], ["models/here is a folder here"]),
    "a path that no pod has": (
        {"storage": {"uri": "/runs/x"}},
        [],
        ["podTemplate of ledger, rollout, trainer mounts no volume there"],
    ),
    "a path that some pods have": (
        {"storage": {"uri": "file:///runs/x"}, "ledger": VOLUME, "trainer": VOLUME},
        [],
        ["podTemplate of rollout mounts no volume there"],
    ),
    "a path that all pods have": (
        {"storage": {"uri": "file:///runs/x"}, "ledger": VOLUME, "rollout": VOLUME, "trainer": VOLUME},
        [],
        [],
    ),
    "a path beside the volume": (
        {"storage": {"uri": "/runs2/x"}, "ledger": VOLUME, "rollout": VOLUME, "trainer": VOLUME},
        [],
        ["podTemplate of ledger, rollout, trainer"],
    ),
    "rollouts in the trainer's pods": (
        {
            "storage": {"uri": "/runs/x"},
            "ledger": VOLUME,
            "rollout": {"placement": "colocated"},
            "trainer": VOLUME,
        },
        [],
        [],
    ),
    "a critic on this machine": (
        {"algorithm": {"critic": {"initFrom": "runs/a/export/step-000055/critic"}}},
        ["spec.algorithm.critic.initFrom: found runs/a"],
        [],
    ),
    "a cached bucket": ({"model": {"name": "simplecache::s3://models/x"}}, [], []),
    "a procedural task": ({"data": {"train": [{"uri": "reasoning-gym://chain_sum"}]}}, [], []),
}


@pytest.mark.parametrize(("changes", "problems", "warnings"), PATHS.values(), ids=PATHS)
def test_paths_that_pods_cannot_follow_are_named(
    changes: dict[str, Any], problems: list[str], warnings: list[str]
) -> None:
    found = check_paths(ReasonerZeroRunSpec.model_validate({**SPEC, **changes}), lambda path: path == "models/here")
    for texts, expected in ((found.problems, problems), (found.warnings, warnings)):
        assert len(texts) == len(expected), texts
        assert all(words in text for words, text in zip(expected, texts, strict=True)), texts


def test_a_spec_of_this_machine_has_relative_paths() -> None:
    assert len(check_paths(local_spec()).problems) == 1  # data; storage is absolute, and "base" could be a hub id


# ---------------------------------------------------------------------------------------------------- status

PROGRESS = {
    "step": 12,
    "totalSteps": 60,
    "rewardMean": 0.4123,
    "responseLengthMean": 240.5,
    "etaSeconds": 3700,
    "evaluation": {"math500": 0.54},
    "weightVersion": 12,
    "blockingRole": "rollout",
}


def condition(kind: str, status: str, reason: str, message: str = "") -> dict[str, Any]:
    time = "2026-01-01T00:00:00Z"
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": time}


def event(name: str, uid: str = "u-1", **fields: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": NAMESPACE}
    base = {
        "kind": "Event",
        "metadata": metadata,
        "involvedObject": {"uid": uid},
        "lastTimestamp": "2026-01-01T11:58:00Z",
    }
    return {**base, "type": "Warning", "reason": "GangRestarted", "message": "rank 3 died", **fields}


def shown(*objects: dict[str, Any]) -> str:
    lines, _ = now(show_run(FakeCluster(*objects), NAMESPACE, "tiny", NOON))
    return "\n".join(lines)


def test_a_run_that_goes_well_is_shown_in_a_few_lines() -> None:
    body = run(
        spec={"rollout": {"replicas": 3}},
        phase="Running",
        progress=PROGRESS,
        gang={"incarnation": 2},
        restarts={"trainer": 1},
        conditions=[
            condition("Accepted", "True", "SpecValid", "the spec is valid"),
            condition("TrainerReady", "True", "Ready"),
            condition("Stalled", "False", "StepsCommitted"),
            condition("Failed", "False", "Running"),
        ],
    )
    pods = [pod("ledger", 0), pod("rollout", 0), pod("rollout", 1, ready=False), pod("trainer", 0, 2)]
    text = shown(body, *pods, pod("trainer", 0, 1), pod("rollout", 9, uid="earlier"))
    assert text == (
        "team/tiny: Running, 12h00m old\n"
        "  step           12/60   reward 0.412   length 240.5   ETA 1h01m\n"
        "  evaluation     math500 54.0%\n"
        "  waits for      rollout\n"
        "  ledger         1/1 ready\n"
        "  rollout        1/3 ready (1 NotReady)\n"
        "  trainer        1/1 ready, incarnation 2\n"
        "  restarts       trainer 1"
    )


def test_what_is_amiss_is_shown_with_its_reason() -> None:
    waiting = [{"state": {"waiting": {"reason": "ImagePullBackOff"}}}]
    text = shown(
        run(
            phase="Running",
            gang={"incarnation": 1},
            retries={"Pod/tiny-rollout-i1-0": {"failures": 1, "notBefore": NOON, "message": "exceeded quota"}},
            conditions=[
                condition("Accepted", "False", "ImmutableFieldChanged", "tiny: 2 problems\n  - a\n  - b"),
                condition("TrainerReady", "False", "Starting", "image x cannot be pulled"),
                condition("RewardReady", "False", "NotNeeded"),
                condition("Stalled", "True", "NoProgress", "no step since noon"),
            ],
        ),
        pod("trainer", 0, ready=False, phase="Pending", containerStatuses=waiting),
        event("a", count=3),
        event("b", uid="another"),
    )
    for words in (
        "trainer        0/1 ready, incarnation 1 (1 ImagePullBackOff)",
        "refused        Pod/tiny-rollout-i1-0, again at 12:00:00 UTC: exceeded quota",
        "Accepted       False, ImmutableFieldChanged: tiny: 2 problems\n                   - a",
        "TrainerReady   False, Starting: image x cannot be pulled",
        "Stalled        True, NoProgress: no step since noon",
        "2m00s ago  Warning  GangRestarted (x3): rank 3 died",
    ):
        assert words in text
    assert "RewardReady" not in text
    assert text.count("rank 3 died") == 1


def test_on_a_terminal_a_long_text_goes_on_below_where_it_began() -> None:
    body = run(
        phase="Running",
        message="a message that takes two lines",
        conditions=[condition("Stalled", "True", "NoProgress", "no step since noon")],
    )
    lines, _ = now(show_run(FakeCluster(body), NAMESPACE, "tiny", NOON, width=30))
    assert lines == [
        "team/tiny: Running, 12h00m old",
        "  a message that takes two",
        "  lines",
        "  Stalled        True,",
        "                 NoProgress:",
        "                 no step since",
        "                 noon",
    ]


def test_a_run_that_no_operator_has_seen_says_so() -> None:
    assert "no operator has looked at it yet: is one installed" in shown(run())
    newer = run(phase="Running")
    newer["metadata"]["generation"] = 2
    assert "the operator has not looked at the newest change yet" in shown(newer)


def test_a_status_of_another_operators_version_is_shown_as_far_as_it_can_be_read() -> None:
    assert shown(run(phase="Running", progress="odd")).startswith("team/tiny: Running")
    assert shown(run(phase="Dreaming")).startswith("team/tiny: Pending")


def test_what_the_user_may_not_see_is_left_out() -> None:
    cluster = FakeCluster(run(phase="Running"))
    cluster.errors = {"list Pod": [ApiError(403, "Forbidden", "no")], "list Event": [ApiError(403, "Forbidden", "no")]}
    assert now(show_run(cluster, NAMESPACE, "tiny", NOON))[0] == ["team/tiny: Running, 12h00m old"]


def test_all_runs_are_a_table() -> None:
    cluster = FakeCluster(
        run("a", phase="Running", progress=PROGRESS, rollout={"replicas": 3, "readyReplicas": 2}), run("b")
    )
    assert now(show_runs(cluster, "", NOON)) == [
        "NAMESPACE   NAME   PHASE     STEP    REWARD   LENGTH   ROLLOUTS   ETA     AGE",
        "team        a      Running   12/60   0.412    240      2/3        1h01m   12h00m",
        "team        b      Pending   0/?     -        -        0/0        -       12h00m",
    ]
    assert now(show_runs(FakeCluster(), "other", NOON)) == ["found no run in namespace other"]


def test_watching_ends_with_the_run() -> None:
    cluster, seen = FakeCluster(run(phase="Running")), list[str]()
    story = Steps(lambda: None, lambda: cluster.set_status(phase="Succeeded"))
    now(watch(lambda: show_run(cluster, NAMESPACE, "tiny", NOON), lambda lines: seen.append(lines[0]), story.sleep))
    assert [line.split(",")[0] for line in seen] == ["team/tiny: Running"] * 2 + ["team/tiny: Succeeded"]


# ------------------------------------------------------------------------------------------- suspend and resume


def test_suspend_and_resume_patch_one_field() -> None:
    cluster = FakeCluster(run(phase="Running"))
    assert now(set_suspend(cluster, NAMESPACE, "tiny", True)) == "run team/tiny: spec.suspend is true now"
    assert cluster.writes == [("patch", {"spec": {"suspend": True}})]
    assert "is suspended already" in now(set_suspend(cluster, NAMESPACE, "tiny", True))
    assert len(cluster.writes) == 1


def test_a_finished_run_can_be_neither_suspended_nor_resumed() -> None:
    for suspend in (True, False):
        with pytest.raises(UserError, match=r"has finished \(Succeeded\): there is nothing to"):
            now(set_suspend(FakeCluster(run(phase="Succeeded")), NAMESPACE, "tiny", suspend))


def waited(cluster: FakeCluster, story: Steps, suspend: bool = True, timeout: float | None = None) -> list[str]:
    said: list[str] = []
    now(wait_for_suspend(cluster, NAMESPACE, "tiny", suspend, said.append, timeout, story.clock, story.sleep))
    return said


def test_waiting_for_a_suspend_tells_each_change_once() -> None:
    cluster = FakeCluster(run(phase="Running"), pod("trainer", 0), pod("trainer", 1), pod("rollout", 0))
    now(set_suspend(cluster, NAMESPACE, "tiny", True))

    def pods_go() -> None:
        cluster.objects = {key: body for key, body in cluster.objects.items() if key[0] != "Pod"}

    story = Steps(
        lambda: cluster.set_status(phase="Suspending"),
        lambda: None,
        pods_go,
        lambda: cluster.set_status(phase="Suspended"),
    )
    assert waited(cluster, story) == [
        "Running: 2 trainer, 1 rollout pods",
        "Suspending: 2 trainer, 1 rollout pods",
        "Suspending: no pods",
        "run team/tiny is Suspended",
    ]


def test_an_old_look_of_the_operators_does_not_count() -> None:
    cluster = FakeCluster(run(spec={"suspend": True}, phase="Suspended"))
    now(set_suspend(cluster, NAMESPACE, "tiny", False))
    now(set_suspend(cluster, NAMESPACE, "tiny", True))
    story = Steps(lambda: None, lambda: cluster.set_status(phase="Suspended"))
    waited(cluster, story)
    assert story.seconds == 2


def test_waiting_says_that_no_operator_may_be_there_and_gives_up_at_the_timeout() -> None:
    cluster = FakeCluster(run(phase="Running"))
    now(set_suspend(cluster, NAMESPACE, "tiny", True))
    said: list[str] = []
    story = Steps()
    with pytest.raises(RemoteError, match="still Running after 40 s"):
        now(wait_for_suspend(cluster, NAMESPACE, "tiny", True, said.append, 40, story.clock, story.sleep))
    assert [line for line in said if "no operator has looked" in line] == [said[-1]]


def test_a_run_that_ends_or_is_refused_meanwhile_ends_the_waiting() -> None:
    cluster = FakeCluster(run(phase="Running"))
    with pytest.raises(RemoteError, match=r"has finished: Failed. too many restarts$"):
        waited(cluster, Steps(lambda: cluster.set_status(phase="Failed", message="too many restarts")))
    refused = [condition("Accepted", "False", "SpecInvalid", "found 5")]
    with pytest.raises(RemoteError, match="is not accepted: found 5"):
        waited(FakeCluster(run(phase="Pending", conditions=refused)), Steps(), suspend=False)


# ---------------------------------------------------------------------------------------------------- logs


def printed(cluster: FakeCluster, *arguments: Any, **query: Any) -> tuple[list[str], list[str]]:
    said: list[str] = []
    notes: list[str] = []
    now(print_logs(cluster, NAMESPACE, "tiny", Query(*arguments, **query), said.append, notes.append))
    return said, notes


def cluster_with_pods(**spec: Any) -> FakeCluster:
    cluster = FakeCluster(
        run(spec=spec, phase="Running"),
        pod("trainer", 0, 1),
        pod("trainer", 0, 2),
        pod("rollout", 0),
        pod("rollout", 1, 4),
        pod("reward", 3),
        pod("reward", 5),
        pod("rollout", 7, uid="earlier"),
    )
    for (kind, _, name), _ in list(cluster.objects.items()):
        if kind == "Pod":
            cluster.logs[name] = [f"{name} line {number}" for number in range(20)]
    return cluster


def test_one_pods_log_is_whole_and_as_it_is() -> None:
    said, _ = printed(cluster_with_pods(), "rollout", 1)
    assert said == [f"tiny-rollout-i4-1 line {number}" for number in range(20)]


def test_the_trainers_newest_incarnation_is_meant() -> None:
    cluster = cluster_with_pods()
    assert printed(cluster, "trainer", tail=1)[0] == ["tiny-trainer-i2-0 line 19"]
    assert cluster.asked_logs == [{"name": "tiny-trainer-i2-0", "follow": False, "tail": 1, "previous": False}]


def test_lines_of_several_pods_say_whose_they_are_ten_of_each() -> None:
    said, _ = printed(cluster_with_pods(), "rollout")
    assert len(said) == 20
    assert (said[0], said[-1]) == ("[rollout-0] tiny-rollout-i1-0 line 10", "[rollout-1] tiny-rollout-i4-1 line 19")
    followed, _ = printed(cluster_with_pods(), "rollout", follow=True, tail=2)
    assert sorted(line.partition("]")[0] for line in followed) == ["[rollout-0"] * 2 + ["[rollout-1"] * 2


def test_pods_of_a_deployment_are_numbered_by_age() -> None:
    assert printed(cluster_with_pods(), "reward", 1, tail=1)[0] == ["tiny-reward-abc-5 line 19"]


def test_one_of_several_that_has_no_log_yet_is_noted_and_the_others_are_shown() -> None:
    cluster = cluster_with_pods()
    cluster.logs["tiny-rollout-i1-0"] = ApiError(400, "BadRequest", "ContainerCreating")
    said, notes = printed(cluster, "rollout", tail=1)
    assert said == ["[rollout-1] tiny-rollout-i4-1 line 19"]
    assert notes == ["[rollout-0] pod tiny-rollout-i1-0 has no log yet: ContainerCreating"]
    with pytest.raises(RemoteError, match="has no log yet"):
        printed(cluster, "rollout", 0)
    with pytest.raises(UserError, match="leave out --previous"):
        printed(cluster, "rollout", 0, previous=True)


def test_a_pod_without_a_word_is_noted() -> None:
    cluster = cluster_with_pods()
    cluster.logs["tiny-rollout-i1-0"] = []
    assert printed(cluster, "rollout", 0) == ([], ["pod tiny-rollout-i1-0 has said nothing yet; it is Running"])


NO_POD = [
    ("another number", {}, ("rollout", 9), "found no pod rollout-9 of run tiny, which is Running; there are: reward-0"),
    ("a role without pods", {}, ("ledger",), "found no pod ledger of run tiny"),
]


@pytest.mark.parametrize(("spec", "query", "words"), [row[1:] for row in NO_POD], ids=[row[0] for row in NO_POD])
def test_a_pod_that_is_not_there_is_answered_with_those_that_are(
    spec: dict[str, Any], query: tuple[Any, ...], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        printed(cluster_with_pods(**spec), *query)


def test_colocated_rollouts_are_in_the_trainers_pods() -> None:
    cluster = FakeCluster(run(spec={"rollout": {"placement": "colocated"}}, phase="Running"), pod("trainer", 0))
    with pytest.raises(UserError, match="use --role trainer"):
        printed(cluster, "rollout")


def test_too_many_pods_are_not_followed() -> None:
    cluster = FakeCluster(run(phase="Running"), *(pod("rollout", index) for index in range(51)))
    with pytest.raises(UserError, match="found 51 pods of role rollout, at most 50"):
        printed(cluster, "rollout", follow=True)


# ---------------------------------------------------------------------------------------------------- errors

SAID: dict[str, tuple[ApiError, type[Exception], str]] = {
    "no kubeconfig": (ApiError(0, "NoCredentials", "found no usable kubeconfig"), UserError, "no usable kubeconfig"),
    "no answer": (ApiError(0, "Unreachable", "refused"), RemoteError, "gives no answer .*check the server's address"),
    "who are you": (ApiError(401, "Unauthorized", "Unauthorized"), UserError, "log in again"),
    "not allowed": (ApiError(403, "Forbidden", "cannot list"), UserError, "ask for that right in namespace team"),
    "no CRD": (ApiError(404, "Error", "404 page not found"), UserError, "install the operator and its CRD"),
    "no namespace": (ApiError(404, "NotFound", 'namespaces "x" not found'), UserError, 'namespaces "x" not found'),
    "a bad object": (ApiError(422, "Invalid", "spec.trainer.nodes"), UserError, "refuses: spec.trainer.nodes"),
    "a broken server": (ApiError(500, "InternalError", "etcd"), RemoteError, "try again"),
}


@pytest.mark.parametrize(("error", "kind", "words"), SAID.values(), ids=SAID)
def test_what_the_server_says_is_told_with_what_to_do(error: ApiError, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        raise explained(error, NAMESPACE)


def test_a_run_that_is_not_there_is_answered_with_those_that_are() -> None:
    with pytest.raises(UserError, match=r"found no run tny in namespace team \(there: other, tiny\)"):
        now(get_run(FakeCluster(run("tiny"), run("other")), NAMESPACE, "tny"))
    without_crd = FakeCluster()
    without_crd.errors["get"] = [ApiError(404, "Error", "404 page not found")]
    with pytest.raises(ApiError):
        now(get_run(without_crd, NAMESPACE, "tiny"))


KUBECONFIG = """
current-context: a
contexts:
- {name: a, context: {cluster: x, user: x, namespace: team-a}}
- {name: b, context: {cluster: x, user: x}}
"""


def test_the_namespace_is_the_contexts(tmp_path: Path) -> None:
    file, odd = tmp_path / "config", tmp_path / "odd"
    file.write_text(KUBECONFIG)
    odd.write_text("[")
    target = Target(kubeconfig=str(file))
    assert default_namespace(target, {}, tmp_path) == "team-a"
    assert default_namespace(Target(context="b", kubeconfig=str(file)), {}, tmp_path) == "default"
    assert default_namespace(Target(), {"KUBECONFIG": f"{tmp_path}/none:{file}"}, tmp_path) == "team-a"
    assert default_namespace(Target(), {}, tmp_path) == "default"
    with pytest.raises(UserError, match=r"odd: found no YAML"):
        default_namespace(Target(kubeconfig=str(odd)), {}, tmp_path)


def test_the_fake_has_the_names_of_the_real_one() -> None:
    from rz_operator.apiserver.cluster import Cluster

    assert all(hasattr(Cluster, name) for name in ("get", "list", "create", "replace", "patch", "pod_log"))
    assert run()["kind"] == names.KIND
