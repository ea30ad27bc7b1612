"""The operator goes on while a real API server refuses its watches: RBAC is applied anew, a token is replaced.

A watch lasts two seconds, and no full list is due: what is seen is seen by watches, or by the lists that stand in for
them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from api_builders import document
from control_plane import ControlPlane
from kube_api import Api
from operator_process import SYSTEM_NAMESPACE, OperatorProcess, grant, revoke

from rz_api import names

ACCOUNT = "watches"
ENV = {"RZ_WATCH_SECONDS": "2", "RZ_RESYNC_SECONDS": "3600"}


class Scene:
    def __init__(self, api: Api, plane: ControlPlane, namespace: str, process: OperatorProcess) -> None:
        self.api, self.plane, self.namespace, self.process = api, plane, namespace, process

    def health(self) -> str:
        """What ``/healthz`` says; the operator is alive all the time."""
        answer = self.process.get("/healthz")
        assert answer.status_code == 200, answer.text
        return answer.text.strip()

    def is_decided(self, name: str) -> bool:
        return bool(self.api.get(names.KIND, self.namespace, name).get("status"))


def take_rights(scene: Scene) -> None:
    revoke(scene.api, ACCOUNT, scene.namespace)


def give_rights(scene: Scene) -> None:
    grant(scene.api, ACCOUNT, scene.namespace)


def replace_account(scene: Scene) -> None:
    """Tokens of the account that was are refused from then on (the server remembers them for ten seconds)."""
    scene.api.delete("ServiceAccount", SYSTEM_NAMESPACE, ACCOUNT)


def write_token(scene: Scene) -> None:
    scene.plane.service_account_kubeconfig(SYSTEM_NAMESPACE, ACCOUNT)


@pytest.mark.parametrize(
    ("wrong", "right", "words"),
    [(take_rights, give_rights, "403 Forbidden"), (replace_account, write_token, "401 Unauthorized")],
    ids=["403 while RBAC is applied anew", "401 until the file has another token"],
)
def test_a_run_that_is_created_while_the_operator_is_refused_is_served_once_it_is_not(
    api: Api,
    control_plane: ControlPlane,
    namespace: str,
    operator: Callable[..., OperatorProcess],
    wait_for: Callable[..., Any],
    wrong: Callable[[Scene], None],
    right: Callable[[Scene], None],
    words: str,
) -> None:
    process = operator(namespace, env=ENV, account=ACCOUNT)
    pid = process.pid
    scene = Scene(api, control_plane, namespace, process)
    wait_for(lambda: scene.health() == "ok", 30, what="every kind is watched")
    wrong(scene)
    wait_for(lambda: words in scene.health(), 60, what="it is told")
    api.create(document({"metadata.name": "meanwhile"}), namespace)
    right(scene)
    wait_for(lambda: scene.is_decided("meanwhile"), 60, what="the run has a status")
    wait_for(lambda: scene.health() == "ok", 60, what="every kind is watched again")
    api.create(document({"metadata.name": "afterwards"}), namespace)
    wait_for(lambda: scene.is_decided("afterwards"), 30, what="the next run has one")
    assert (process.running, process.pid) == (True, pid), "it is still the same process"
