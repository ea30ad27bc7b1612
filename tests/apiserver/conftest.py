"""Fixtures of the tests against a real API server. README.md beside this file tells how they fit together.

The servers are built, where they have to be, after collection and before the first test, outside of the tests' time
limits; ``make test`` builds the control plane beside the other tests (``RZ_APISERVER_IS_COMING``). Where they can't be
had every test that needs them is skipped with the reason; with ``RZ_REQUIRE_APISERVER`` set (as a CI should) that is a
failure. The CRD server is built by ``make test-thorough`` alone, and used where it is there.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "api"))
sys.path.insert(0, str(Path(__file__).parent.parent / "charts"))

from control_plane import ControlPlane
from crd_server import CrdServer
from fake_ledgers import FakeLedgers
from kube_api import Api, ApiError
from kube_binaries import control_plane_binaries, crd_server_binary
from kubelet_double import Kubelet
from lifecycle_steps import POLL_SECONDS, Scene
from needed import fetch_now, here
from operator_process import SYSTEM_NAMESPACE, OperatorProcess, revoke
from players import DeploymentController, GarbageCollector, Players
from server_process import child_environment

from rz_api import names

CONTENTS = (
    names.KIND,
    "Deployment",
    "ReplicaSet",
    "Pod",
    "Service",
    "ConfigMap",
    "Secret",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "ResourceQuota",
    "RoleBinding",
    "Role",
)
"""What is removed with a test's namespace; runs first, so that no operator makes anything again."""

T = TypeVar("T")
Wait = Callable[..., Any]


def _crd_server() -> Path:
    """Built by the longer form of the tests alone: minutes, for what tests/api checks with an evaluator of its own."""
    return crd_server_binary(build=os.environ.get("RZ_TEST_THOROUGH") == "1")


def pytest_collection_finish(session: pytest.Session) -> None:
    sources = {"crd_server": _crd_server, "control_plane": control_plane_binaries}
    fetch_now(session, Path(__file__).parent, sources)


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """etcd and kube-apiserver with the CRD in it."""
    with ControlPlane(here(control_plane_binaries)) as plane:
        plane.apply_crd()
        plane.create_namespace(SYSTEM_NAMESPACE)
        yield plane


@pytest.fixture(scope="session")
def api(control_plane: ControlPlane) -> Api:
    """The administrator's client."""
    return control_plane.api


@pytest.fixture(scope="session")
def crd_server(control_plane: ControlPlane) -> Iterator[CrdServer]:
    """The server of a new Kubernetes that evaluates CEL; the CRD is not in it yet (test_cel.py installs it)."""
    # Never required: it comes from Debian's development release, which may be broken for a day.
    server = CrdServer(control_plane, here(_crd_server, may_be_required=False))
    yield server
    server.stop()


_numbers = itertools.count(1)


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A namespace of the test's own; runs and children in it are removed at the end."""
    name = control_plane.create_namespace(f"test-{next(_numbers)}")
    yield name
    control_plane.remove_namespace(name, CONTENTS)


@pytest.fixture
def strangers(control_plane: ControlPlane, namespace: str) -> Iterator[str]:
    """A namespace of somebody else's."""
    name = control_plane.create_namespace(f"{namespace}-strangers")
    yield name
    control_plane.remove_namespace(name, CONTENTS)


@pytest.fixture
def ledgers() -> Iterator[FakeLedgers]:
    made = FakeLedgers()
    yield made
    made.close()


@pytest.fixture
def kubelet(api: Api) -> Kubelet:
    """One node with room for everything; a test may change ``kubelet.nodes``."""
    return Kubelet(api)


@pytest.fixture
def players(api: Api, kubelet: Kubelet) -> Players:
    """Garbage collector, Deployment controller, scheduler and kubelet: ``players.tick()``, ``players.settle()``."""
    return Players([GarbageCollector(api), DeploymentController(api), kubelet])


@pytest.fixture
def operator(
    control_plane: ControlPlane, namespace: str, ledgers: FakeLedgers
) -> Iterator[Callable[..., OperatorProcess]]:
    """``operator()`` starts one for all namespaces, ``operator(namespace)`` one for a namespace; ready when it returns.

    ``env`` changes its settings; ``start=False`` only grants the rules; a second one at the same time needs an
    ``account`` of its own only if its rules differ. All are stopped at the end, before the namespace is removed.
    """
    made: list[OperatorProcess] = []

    def start(
        watch_namespace: str = "",
        *,
        env: Mapping[str, str] | None = None,
        account: str = "operator",
        start: bool = True,
    ) -> OperatorProcess:
        process = OperatorProcess(
            control_plane,
            watch_namespace=watch_namespace,
            ledger_status_url=ledgers.url_template,
            env=env,
            account=account,
        )
        made.append(process)
        return process.start() if start else process

    yield start
    for process in made:
        process.close()
    for process in made:
        revoke(control_plane.api, process.account, process.watch_namespace)


# -------------------------------------------------------------------------------- the scene of test_lifecycle_*.py


@pytest.fixture(scope="module")
def module_ledgers() -> Iterator[FakeLedgers]:
    """For a whole module, as ``one_operator`` is."""
    made = FakeLedgers()
    yield made
    made.close()


@pytest.fixture(scope="module")
def new_operator(
    control_plane: ControlPlane, module_ledgers: FakeLedgers
) -> Iterator[Callable[[str], OperatorProcess]]:
    """``new_operator(account)``: for all namespaces, started."""
    made: list[OperatorProcess] = []

    def start(account: str) -> OperatorProcess:
        env = {"RZ_POLL_SECONDS": str(POLL_SECONDS)}
        process = OperatorProcess(
            control_plane, ledger_status_url=module_ledgers.url_template, env=env, account=account
        )
        made.append(process)
        return process.start()

    yield start
    for process in made:
        process.close()
        revoke(control_plane.api, process.account, "")


@pytest.fixture(scope="module")
def one_operator(new_operator: Callable[[str], OperatorProcess]) -> OperatorProcess:
    """Serves a whole module."""
    return new_operator("lifecycle")


@pytest.fixture
def scene(
    api: Api,
    control_plane: ControlPlane,
    namespace: str,
    one_operator: OperatorProcess,
    kubelet: Kubelet,
    players: Players,
    module_ledgers: FakeLedgers,
    wait_for: Wait,
) -> Iterator[Scene]:
    """A namespace with everybody in it who plays; a test that stops the operator need not start it again."""
    if not one_operator.running:
        one_operator.start()
    made = Scene(api, control_plane, namespace, one_operator, kubelet, players, module_ledgers, wait_for)
    yield made
    print(made.operator.log(40) if made.operator.running else "the operator does not run")
    print([run.get("status") for run in api.list(names.KIND, namespace)])
    made.check_marks()


@pytest.fixture
def wait_for(request: pytest.FixtureRequest) -> Wait:
    """``wait_for(predicate, seconds)``: see ``wait_until``; with ``each=players.tick`` the players go on meanwhile."""
    return wait_until


def wait_until(
    look: Callable[[], T],
    seconds: float = 10.0,
    *,
    until: Callable[[T], Any] = bool,
    each: Callable[[], object] | None = None,
    every: float = 0.05,
    what: str = "",
) -> T:
    """Call ``look`` until ``until`` of its answer is true; the answer. Fails with what was seen last.

    A 404 or 409 counts as not yet; so does a failed assertion in ``look`` or ``until``.
    """
    end = time.monotonic() + seconds
    seen: object = "nothing"
    while True:
        if each is not None:
            each()
        try:
            answer = look()
            seen = answer
            if until(answer):
                return answer
        except AssertionError as error:
            seen = f"{seen!r}, {error}"
        except ApiError as error:
            if error.code not in (404, 409):
                raise
            seen = error
        if time.monotonic() > end:
            named = what or getattr(look, "__name__", "the condition")
            pytest.fail(f"{named}: still not so after {seconds:g} s; last seen: {seen!r}", pytrace=True)
        time.sleep(every)


@pytest.fixture
def kubectl(control_plane: ControlPlane, namespace: str) -> Callable[..., str]:
    """``kubectl("get", "rzr", stdin="")`` as the administrator in the test's namespace; its output."""
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("kubectl is not on the PATH: install it to run the tests of what it shows")
    base = [program, "--kubeconfig", str(control_plane.admin_kubeconfig()), "--namespace", namespace]
    env = child_environment(HOME=str(control_plane.folder))

    def run(*words: str, stdin: str = "") -> str:
        done = subprocess.run([*base, *words], input=stdin, capture_output=True, text=True, env=env, timeout=60)
        assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr}"
        return done.stdout

    return run
