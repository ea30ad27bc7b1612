"""Whatever the CRD lets through in the free-form fields is rendered, or refused in words that name the field."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from manifest_builders import BASIC, IMAGES, UID, context

from rz_api import names
from rz_api.resource import SpecError
from rz_operator.errors import UserError
from rz_operator.manifests import Context, all_of, check

FIELDS = (
    "metadata",
    "spec",
    "labels",
    "annotations",
    "name",
    "containers",
    "volumes",
    "env",
    "valueFrom",
    "ports",
    "volumeMounts",
    "nodeSelector",
    "hostNetwork",
    "x",
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "main", "run", "token", "x", "é", "9" * 400, "1e3", "٣", "500m"])
    | st.text(max_size=6).filter(lambda text: text.isprintable()),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(FIELDS),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
OBJECT = st.dictionaries(st.text(max_size=4) | st.sampled_from(["valueFrom", "name", "secretRef"]), JSON, max_size=3)
NAMED = st.lists(st.fixed_dictionaries({"name": JSON | st.sampled_from(["main", "run", "tmp"])}, optional={"x": JSON}))
PARTS = ("containers", "initContainers", "volumes", "nodeSelector", "tolerations", "dnsPolicy")
POD = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(PARTS, NAMED | JSON),
)
TEMPLATE = st.fixed_dictionaries({}, optional={"metadata": OBJECT | JSON, "spec": POD | JSON})
ENV = st.fixed_dictionaries(
    {"name": st.sampled_from(["A", "RANK", "RZ_NODE"])}, optional={"value": st.text(max_size=3)}
)
ENV_FROM_CLUSTER = st.fixed_dictionaries({"name": st.sampled_from(["A", "RANK"]), "valueFrom": OBJECT})
RESOURCES = st.dictionaries(
    st.sampled_from(["cpu", "memory"]),
    st.integers(0, 2**63 - 1) | st.sampled_from(["9" * 400, "٣", "1e3"]) | st.text(max_size=5),
)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "podTemplate": TEMPLATE | OBJECT,
        "env": st.lists(ENV | ENV_FROM_CLUSTER, max_size=3),
        "envFrom": st.lists(OBJECT, max_size=3),
        "tolerations": st.lists(OBJECT, max_size=3),
        "nodeSelector": st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
        "resources": st.fixed_dictionaries({}, optional={"requests": RESOURCES, "limits": RESOURCES}),
    },
)
PLACEMENTS = st.sampled_from(["separate", "colocated"])


def refusal(of: Context) -> str:
    try:
        check(of)
    except UserError as error:
        return str(error)
    return ""


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(IMAGES)), OPTIONS, OPTIONS, PLACEMENTS)
@example("trainer", {"podTemplate": {"spec": {"volumes": [{"name": {"a": 1}}]}}}, {}, "separate")
@example("rollout", {"envFrom": [{"valueFrom": {}}]}, {}, "separate")
@example("trainer", {"resources": {"requests": {"cpu": "9" * 400}}}, {}, "separate")
@example("trainer", {"podTemplate": {"metadata": {"labels": None}}}, {}, "separate")
@example("trainer", {"podTemplate": {"metadata": {"labels": {"a": 1}, "annotations": None}}}, {}, "colocated")
def test_nothing_but_a_user_error_escapes(
    role: str, options: dict[str, Any], others: dict[str, Any], placement: str
) -> None:
    other = "trainer" if role == "rollout" else "rollout"
    spec: dict[str, Any] = {"trainer": BASIC["trainer"], other: others, role: options}
    spec["trainer"] = BASIC["trainer"] | spec["trainer"]
    spec["rollout"] = {"placement": placement} | spec["rollout"]
    try:
        rendered_context = context(**spec)
    except SpecError:
        return  # the contract itself refuses it, in words
    except UserError as error:
        said = str(error)
    else:
        said = refusal(rendered_context)
    if said:
        assert said.startswith("spec."), "which field it is stands first"
        return
    for body in all_of(rendered_context):
        json.dumps(body, allow_nan=False)
        metadata = body["metadata"]
        if body["kind"] == "Deployment":
            metadata = body["spec"]["template"]["metadata"]
            assert body["spec"]["selector"]["matchLabels"].items() <= metadata["labels"].items()
        assert metadata["labels"].items() >= names.labels("small", uid=UID).items()
        assert metadata["annotations"][names.ANNOTATION_RENDERING_VERSION]
