"""What holds for every rendered object, whatever the run: the API server's rules, and the hardening of the pods."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from manifest_builders import EVERYTHING_INSTALLED, UID, cases, context, node_of

from rz_api import names
from rz_operator.apiserver.versions import Capabilities
from rz_operator.decisions.members import Start
from rz_operator.errors import UserError
from rz_operator.manifests import all_of, for_start, scale_patch, statics
from rz_operator.manifests.credentials import secret_names, volume_name

CASES = cases()
LABEL_VALUE = re.compile(r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$")
DNS_LABEL = re.compile(r"^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$")
OF_THE_USER = {"cache"}
"""Volumes of the variant pod-template, whose user breaks the restricted profile on purpose."""

every_run = pytest.mark.parametrize("name", CASES)


def pods(name: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(metadata, spec) of all pods, those of Deployments included."""
    for body in all_of(CASES[name]):
        if body["kind"] == "Pod":
            yield body["metadata"], body["spec"]
        elif body["kind"] == "Deployment":
            yield body["spec"]["template"]["metadata"], body["spec"]["template"]["spec"]


def only(objects: tuple[dict[str, Any], ...], kind: str) -> dict[str, Any]:
    (found,) = [body for body in objects if body["kind"] == kind]
    return found


def env_of(spec: dict[str, Any]) -> dict[str, Any]:
    return {entry["name"]: entry.get("value") for entry in spec["containers"][0]["env"]}


@every_run
def test_every_child_belongs_to_the_run_and_holds_nothing_up(name: str) -> None:
    for body in all_of(CASES[name]):
        metadata = body["metadata"]
        (owner,) = metadata["ownerReferences"]
        assert (owner["uid"], owner["controller"], owner["kind"]) == (UID, True, names.KIND)
        assert "blockOwnerDeletion" not in owner
        assert "finalizers" not in metadata
        assert metadata["labels"][names.LABEL_RUN_UID] == UID
        assert names.ANNOTATION_RENDERING_VERSION in metadata["annotations"]


@every_run
def test_names_and_labels_are_what_a_server_takes(name: str) -> None:
    objects = all_of(CASES[name])
    assert len({(body["kind"], body["metadata"]["name"]) for body in objects}) == len(objects)
    for body in objects:
        assert DNS_LABEL.match(body["metadata"]["name"])
        assert all(LABEL_VALUE.match(value) for value in body["metadata"]["labels"].values())


@every_run
def test_environment_mounts_and_ports_fit_together(name: str) -> None:
    for _, spec in pods(name):
        (container,) = spec["containers"]
        for key, entries in (("name", container["env"]), ("name", spec["volumes"]), ("name", container["ports"])):
            assert len({entry[key] for entry in entries}) == len(entries)
        assert len({port["containerPort"] for port in container["ports"]}) == len(container["ports"])
        assert all(len(port["name"]) <= 15 for port in container["ports"])
        paths = [mount["mountPath"] for mount in container["volumeMounts"]]
        assert len(set(paths)) == len(paths)
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}
        assert container["livenessProbe"]["httpGet"]["port"] in {port["name"] for port in container["ports"]}


@every_run
def test_selectors_select_the_pods_that_they_are_for(name: str) -> None:
    found = list(pods(name))
    for body in all_of(CASES[name]):
        spec = body.get("spec", {})
        selector = spec.get("selector") if body["kind"] in ("Service", "Deployment", "PodDisruptionBudget") else None
        if selector:
            wanted = selector.get("matchLabels", selector).items()
            role = body["metadata"]["labels"][names.LABEL_ROLE]
            selected = {labels["labels"][names.LABEL_ROLE] for labels, _ in found if wanted <= labels["labels"].items()}
            assert selected == {role}


@every_run
def test_pods_are_restricted(name: str) -> None:
    """The rules of the restricted Pod Security Standard, and a read-only root."""
    for _, spec in pods(name):
        if spec.get("hostNetwork"):
            continue
        (container,) = spec["containers"]
        security = container["securityContext"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert security == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
        for volume in spec["volumes"]:
            assert volume["name"] in OF_THE_USER or set(volume) - {"name"} <= {"configMap", "secret", "emptyDir"}
        assert not {"hostPID", "hostIPC"} & set(spec)
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False


def test_a_token_of_the_api_server_is_mounted_for_whoever_asks_for_it_in_so_many_words() -> None:
    """An identity of a cloud needs none: naming the account is not asking for its token."""
    named = {"nodes": 1, "serviceAccountName": "trainer"}
    asked = {**named, "podTemplate": {"spec": {"automountServiceAccountToken": True}}}
    for trainer, mounted in ((named, False), (asked, True)):
        spec = for_start(context(trainer=trainer), Start("trainer", 0, 1), 0)[-1]["spec"]
        assert (spec["serviceAccountName"], spec["automountServiceAccountToken"]) == ("trainer", mounted)


@every_run
def test_a_run_without_gpus_asks_for_none_and_sees_none(name: str) -> None:
    for _, spec in pods(name):
        limits = spec["containers"][0]["resources"].get("limits", {})
        gpus = "resourceClaims" in spec or any(name.startswith("nvidia.com/") for name in limits)
        assert (env_of(spec).get("NVIDIA_VISIBLE_DEVICES") == "void") is not gpus


SECRETS: list[tuple[str, tuple[Any, ...], tuple[str, ...]]] = [
    ("the ledger reads storage", ("ledger",), ("bucket",)),
    ("a rollout reads storage", ("rollout",), ("bucket",)),
    ("the trainer reads all, and storage wins", ("trainer",), ("hub", "datasets", "bucket")),
    ("colocated rollouts get what their pod has", ("trainer", "rollout"), ("hub", "datasets", "bucket")),
    ("the reward role reads none", ("reward",), ()),
]


@pytest.mark.parametrize(("roles", "secrets"), [row[1:] for row in SECRETS], ids=[row[0] for row in SECRETS])
def test_credentials(roles: tuple[Any, ...], secrets: tuple[str, ...]) -> None:
    assert secret_names(context().run.spec, frozenset(roles)) == secrets


@pytest.mark.parametrize(
    ("secret", "volume"),
    [("bucket", "secret-bucket"), ("a.b", "secret-a-b-92521e98"), ("x" * 253, "secret-" + "x" * 47 + "-")],
    ids=["a label", "dots", "as long as can be"],
)
def test_volumes_of_secrets_have_names_that_are_labels(secret: str, volume: str) -> None:
    assert volume_name(secret).startswith(volume.rsplit("-", 1)[0])
    assert DNS_LABEL.match(volume_name(secret))


def test_names_of_secrets_that_differ_in_a_dot_are_two_volumes() -> None:
    assert len({volume_name("a.b-c"), volume_name("a-b.c"), volume_name("a-b-c")}) == 3


def test_a_colocated_rollout_sees_its_gpus_and_a_rank_all_of_its_nodes() -> None:
    spec = only(all_of(CASES["variant-colocated"]), "Pod")["spec"]
    processes = node_of(spec["containers"][0]["env"])["processes"]
    seen = [(each["name"], each["env"].get("CUDA_VISIBLE_DEVICES"), each["essential"]) for each in processes]
    assert seen == [
        *((f"trainer-{rank}", None, True) for rank in range(4)),
        ("rollout-0", "0,1", False),
        ("rollout-1", "2,3", False),
    ]
    assert [each["env"]["RZ_STATUS_PORT"] for each in processes] == [str(9400 + number) for number in range(6)]


def test_a_dollar_in_a_variable_of_one_process_is_not_expanded() -> None:
    env = [{"name": "PATTERN", "value": "$(HOME)"}]
    colocated = context(trainer={"gpusPerNode": 2}, rollout={"placement": "colocated", "env": env, "replicas": 1})
    container = for_start(colocated, Start("trainer", 0, 1), 0)[-1]["spec"]["containers"][0]
    text = next(entry["value"] for entry in container["env"] if entry["name"] == "RZ_NODE")
    assert "$$(HOME)" in text
    assert node_of(container["env"])["processes"][2]["env"]["PATTERN"] == "$(HOME)"


def test_colocated_roles_must_agree_on_a_variable_of_the_cluster() -> None:
    def key(name: str) -> list[dict[str, Any]]:
        return [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": name, "key": "k"}}}]

    both = context(trainer={"gpusPerNode": 1, "env": key("a")}, rollout={"placement": "colocated", "env": key("b")})
    with pytest.raises(UserError, match=r"rollout\.env: found KEY with another valueFrom than in spec\.trainer\.env"):
        for_start(both, Start("trainer", 0, 1), 0)


def test_ranks_meet_at_the_first_pod_of_their_incarnation() -> None:
    (pod,) = for_start(context(), Start("trainer", 1, 7), 3)
    assert env_of(pod["spec"])["MASTER_ADDR"] == "small-trainer-i7-0.small-trainer.team.svc"
    assert env_of(pod["spec"])["RZ_INCARNATION"] == "7"
    assert (pod["spec"]["hostname"], pod["spec"]["subdomain"]) == ("small-trainer-i7-1", "small-trainer")
    assert pod["metadata"]["annotations"][names.ANNOTATION_RESTARTS] == "3"


def test_the_rendezvous_service_selects_an_incarnation_only_when_told() -> None:
    def selected(*incarnation: int) -> str | None:
        objects = statics(context(), *incarnation)
        service = next(body for body in objects if body["metadata"]["name"] == "small-trainer")
        return service["spec"]["selector"].get(names.LABEL_INCARNATION)  # type: ignore[no-any-return]

    assert (selected(), selected(4)) == (None, "4")
    assert scale_patch(3) == {"spec": {"replicas": 3}}


def test_what_a_gang_needs_comes_before_its_first_pod_and_once() -> None:
    coscheduled = context(trainer={"nodes": 2}, scheduling={"gang": "coscheduling", "disruptionBudget": True})
    first, second = (for_start(coscheduled, Start("trainer", node, 2), 0) for node in (0, 1))
    assert [body["kind"] for body in first] == ["PodGroup", "PodDisruptionBudget", "Pod"]
    assert [body["kind"] for body in second] == ["Pod"]
    assert first[0]["metadata"]["name"] == second[0]["metadata"]["labels"]["scheduling.x-k8s.io/pod-group"]
    assert (first[0]["spec"]["minMember"], first[1]["spec"]["minAvailable"]) == (2, 2)


def test_an_old_server_gets_the_old_disruption_budget() -> None:
    old = context(capabilities=Capabilities(20, "policy/v1beta1"), scheduling={"disruptionBudget": True})
    budget, _ = for_start(old, Start("trainer", 0, 1), 0)
    assert budget["apiVersion"] == "policy/v1beta1"


@pytest.mark.parametrize(("minor", "policy"), [(0, None), (20, None), (21, "PreferDualStack"), (37, "PreferDualStack")])
def test_services_have_an_address_of_each_family_where_the_server_knows_such_a_thing(
    minor: int, policy: str | None
) -> None:
    services = [body for body in statics(context(capabilities=Capabilities(minor))) if body["kind"] == "Service"]
    assert [body["spec"].get("ipFamilyPolicy") for body in services] == [policy] * 3


def test_every_process_listens_on_both_families() -> None:
    for name in CASES:
        for _, spec in pods(name):
            assert env_of(spec)["RZ_BIND_HOST"] == "::"


@pytest.mark.parametrize("gang", ["kueue", "coscheduling", "volcano"])
def test_a_gang_mode_that_is_not_installed_is_the_users_error(gang: str) -> None:
    bare = context(capabilities=Capabilities(36), scheduling={"gang": gang, "queueName": "q"})
    with pytest.raises(UserError, match=f"found {gang}, but this cluster has no API .*set scheduling.gang to operator"):
        for_start(bare, Start("trainer", 0, 1), 0)
    assert EVERYTHING_INSTALLED.kueue


def test_a_name_of_full_length_still_fits_everywhere() -> None:
    document = {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": "n" * names.MAX_NAME_LENGTH},
        "spec": {
            "model": {"name": "m"},
            "data": {"train": [{"uri": "t.jsonl"}]},
            "storage": {"uri": "s"},
            "scheduling": {"gang": "kueue", "queueName": "q"},
        },
    }
    for body in all_of(context(document), incarnation=names.MAX_INCARNATION):
        assert DNS_LABEL.match(body["metadata"]["name"])
        assert all(LABEL_VALUE.match(value) for value in body["metadata"]["labels"].values())
