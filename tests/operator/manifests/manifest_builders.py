"""Builders for the tests of ``rz_operator.manifests``: contexts, small variants of a run, the text of golden files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from rz_api.document import parse
from rz_api.names import Role
from rz_api.resource import load_run
from rz_api.run import ResolvedRun
from rz_operator.apiserver.versions import Capabilities
from rz_operator.manifests import Context, all_of
from rz_operator.plan import plan

REPOSITORY = Path(__file__).parents[3]
EXAMPLES = REPOSITORY / "examples"
GOLDEN = Path(__file__).parent / "golden"
UID = "7f0c1d5e-3a52-4c1b-9d5e-0a6b8c1f2e3d"
IMAGES: dict[Role, str] = {
    "ledger": "reasonerzero-reward:test",
    "reward": "reasonerzero-reward:test",
    "rollout": "reasonerzero-worker:test",
    "trainer": "reasonerzero-worker:test",
}
EVERYTHING_INSTALLED = Capabilities(
    minor=36,
    pod_groups={
        "coscheduling": "scheduling.x-k8s.io/v1alpha1",
        "volcano": "scheduling.volcano.sh/v1beta1",
        "kai": "scheduling.run.ai/v2alpha2",
        "workload": "scheduling.k8s.io/v1beta1",
    },
    kueue=True,
    resource_claims=True,
)

BASIC: dict[str, Any] = {
    "model": {"name": "org/base", "secretName": "hub"},
    "data": {"train": [{"uri": "s3://data/train.jsonl", "secretName": "datasets"}]},
    "storage": {"uri": "s3://runs/small", "secretName": "bucket"},
    "trainer": {"nodes": 2, "gpusPerNode": 1},
}

VARIANTS: dict[str, dict[str, Any]] = {
    "cpu": {"trainer": {"nodes": 2, "gpusPerNode": 0, "resources": {"requests": {"cpu": "2"}}}},
    "colocated": {
        "trainer": {"nodes": 1, "gpusPerNode": 4, "env": [{"name": "WHO", "value": "trainer"}]},
        "rollout": {"placement": "colocated", "tensorParallel": 2, "env": [{"name": "WHO", "value": "rollout"}]},
    },
    "eight-ranks": {"trainer": {"nodes": 1, "gpusPerNode": 8}},
    "kueue": {"scheduling": {"gang": "kueue", "queueName": "research", "priorityClassName": "low"}},
    "coscheduling": {"scheduling": {"gang": "coscheduling", "disruptionBudget": True}},
    "volcano": {"scheduling": {"gang": "volcano", "queueName": "research", "priorityClassName": "low"}},
    "kai": {"scheduling": {"gang": "kai", "queueName": "research", "priorityClassName": "low"}},
    "workload": {"scheduling": {"gang": "workload", "priorityClassName": "low"}},
    "mig": {
        "trainer": {"nodes": 2, "gpusPerNode": 1},
        "scheduling": {"gang": "volcano", "gpuResource": "nvidia.com/mig-3g.40gb", "schedulerName": "packing"},
    },
    "claims": {
        "trainer": {"nodes": 1, "gpusPerNode": 8},
        "scheduling": {
            "gpuResource": "",
            "resourceClaims": [
                {"name": "gpus", "resourceClaimTemplateName": "eight-h100", "roles": ["trainer"]},
                {"name": "gpu", "resourceClaimTemplateName": "one-h100", "roles": ["rollout"]},
                {"name": "fabric", "resourceClaimName": "shared-fabric"},
            ],
        },
    },
    "pod-options": {
        "trainer": {
            "nodes": 1,
            "gpusPerNode": 1,
            "image": "example/trainer:1",
            "imagePullPolicy": "Always",
            "serviceAccountName": "bucket-reader",
            "nodeSelector": {"gpu": "h100"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "resources": {"requests": {"cpu": "8"}, "limits": {"memory": "96Gi"}},
            "env": [
                {"name": "RZ_LOG_LEVEL", "value": "DEBUG"},
                {"name": "WANDB_API_KEY", "valueFrom": {"secretKeyRef": {"name": "wandb", "key": "token"}}},
            ],
            "envFrom": [{"configMapRef": {"name": "proxies"}}],
        },
        "reward": {"replicas": 3},
    },
    "pod-template": {
        "trainer": {
            "nodes": 1,
            "gpusPerNode": 1,
            "podTemplate": {
                "metadata": {"annotations": {"k8s.v1.cni.cncf.io/networks": "rdma"}, "labels": {"team": "reasoning"}},
                "spec": {
                    "hostNetwork": True,
                    "containers": [
                        {
                            "name": "main",
                            "env": [{"name": "NCCL_IB_HCA", "value": "mlx5"}],
                            "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
                            "securityContext": {"capabilities": {"add": ["IPC_LOCK"], "drop": ["ALL"]}},
                        }
                    ],
                    "volumes": [
                        {"name": "cache", "hostPath": {"path": "/var/cache/models"}},
                        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "64Gi"}},
                    ],
                },
            },
        }
    },
}
"""Small runs, as what is laid over ``BASIC``; each has a golden file."""


def context(
    document: dict[str, Any] | None = None, capabilities: Capabilities = EVERYTHING_INSTALLED, **sections: Any
) -> Context:
    """Of a whole run file, or of ``BASIC`` with these sections in place of its own."""
    if document is None:
        metadata = {"name": "small"}
        spec = {**BASIC, **sections}
        document = {"apiVersion": "reasonerzero.dev/v1alpha1", "kind": "ReasonerZeroRun", "metadata": metadata}
        document["spec"] = spec
    accepted = load_run(document)
    spec_ = accepted.spec
    roles = {role: getattr(spec_, role) for role in IMAGES}
    with_images = {
        role: options.model_copy(update={"image": options.image or IMAGES[role]}) for role, options in roles.items()
    }
    run = ResolvedRun(name=accepted.metadata.name, namespace="team", uid=UID, spec=spec_.model_copy(update=with_images))
    return Context(plan(run), "team", UID, capabilities)


def cases() -> dict[str, Context]:
    """Every golden file's name and the run that it shows: the examples, then the variants."""
    examples = sorted(EXAMPLES.rglob("*.yaml"))
    names = {path: "-".join(path.relative_to(EXAMPLES).with_suffix("").parts) for path in examples}
    found = {f"example-{names[path]}": context(parse(path.read_text())) for path in examples}
    return found | {f"variant-{name}": context(**sections) for name, sections in VARIANTS.items()}


# --------------------------------------------------------------------------------------------------- golden files


def golden_text(of: Context) -> str:
    """All objects as YAML for a reviewer: what all have in their metadata once, at the top; of the pods of one role the
    first in full, the others as what differs from it; environments as mappings; run.json as its size."""
    objects = all_of(of)
    common = objects[0]["metadata"]
    written = "# Written by: python tests/operator/manifests/update_golden.py\n"
    parts = [written + _yaml({"everywhere": {key: value for key, value in common.items() if key != "name"}})]
    first: dict[str, dict[str, Any]] = {}
    for body in objects:
        role = body["metadata"]["labels"].get("reasonerzero.dev/role")
        if body["kind"] == "ConfigMap":
            body = body | {"data": {key: f"({len(text)} characters)" for key, text in body["data"].items()}}
        shown = readable(_without_common(body, common))
        if body["kind"] == "Pod" and role in first:
            like = first[role]
            shown = {"kind": "Pod", "like": like["metadata"]["name"], "differs": dict(differences(like, shown))}
        elif body["kind"] == "Pod":
            first[role] = shown
        parts.append(_yaml(shown))
    return "---\n".join(parts)


def _yaml(value: Any) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=120, default_flow_style=None)


def _without_common(value: Any, common: dict[str, Any]) -> Any:
    """``value`` with each ``metadata`` in it reduced to what is its own."""
    if not isinstance(value, dict):
        return value
    found = {key: _without_common(item, common) for key, item in value.items()}
    if "metadata" in found:
        own: dict[str, Any] = {}
        for key, item in found["metadata"].items():
            if isinstance(item, dict) and key in common:
                item = {name: text for name, text in item.items() if common[key].get(name) != text}
            if item and item != common.get(key):
                own[key] = item
        found["metadata"] = own
    return found


class _Dumper(yaml.SafeDumper):
    """Repeats what occurs twice, instead of pointing at it."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def readable(value: Any) -> Any:
    """``env`` as a mapping, with RZ_NODE as the value that its JSON is."""
    if isinstance(value, list):
        return [readable(item) for item in value]
    if not isinstance(value, dict):
        return value
    found = {key: readable(item) for key, item in value.items()}
    if isinstance(value.get("env"), list):
        found["env"] = {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in value["env"]}
        if "RZ_NODE" in found["env"]:
            found["env"]["RZ_NODE"] = node_of(value["env"])
    return found


def node_of(env: list[dict[str, Any]]) -> Any:
    """The value of RZ_NODE, as the node process reads it after the kubelet has resolved ``$$``."""
    text = next(entry["value"] for entry in env if entry["name"] == "RZ_NODE")
    return json.loads(text.replace("$$(", "$("))


def differences(first: Any, second: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value in ``second``) of every leaf that is not the same; of a list with names by name."""
    if isinstance(first, dict) and isinstance(second, dict):
        for key in dict.fromkeys((*first, *second)):
            yield from differences(first.get(key), second.get(key), f"{path}.{key}" if path else key)
    elif isinstance(first, list) and isinstance(second, list) and _named(first) and _named(second):
        of_second = {entry["name"]: entry for entry in second}
        of_first = {entry["name"]: entry for entry in first}
        for name in dict.fromkeys((*of_first, *of_second)):
            yield from differences(of_first.get(name), of_second.get(name), f"{path}[{name}]")
    elif first != second:
        yield path, second


def _named(entries: list[Any]) -> bool:
    return all(isinstance(entry, dict) and "name" in entry for entry in entries)
