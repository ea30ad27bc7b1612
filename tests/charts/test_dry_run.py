"""Every case of ``chart_cases.py``, taken by a real API server: defaulted, validated and admitted, but not stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from chart_cases import CASES
from control_plane import ControlPlane
from helm import Helm
from kube_api import ApiError

OTHERS = ("monitoring.coreos.com/",)
"""Of an operator that is not here; ``test_monitors.py`` looks at them."""


@pytest.fixture(scope="module")
def server(control_plane: ControlPlane) -> ControlPlane:
    for name in ("team", "rivals", "monitoring"):
        control_plane.create_namespace(name)
    priority = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "high"}, "value": 1}
    control_plane.api.create(priority)
    return control_plane


@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
def test_the_server_takes_every_object(
    helm: Helm, server: ControlPlane, chart_with_dashboards: Path, values: dict[str, Any]
) -> None:
    objects = helm.template(values, chart=chart_with_dashboards, kube_version=f"1.{server.minor}.0")
    refused = []
    for body in objects:
        if not body["apiVersion"].startswith(OTHERS):
            try:
                server.api.create(body, dryRun="All")
            except ApiError as error:
                refused.append(f"{body['kind']} {body['metadata']['name']}: {error.message}")
    assert refused == []
    assert server.api.list("Deployment") == [], "a dry run stores nothing"
