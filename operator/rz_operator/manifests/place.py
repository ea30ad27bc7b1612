"""Where things are on a cluster: ports, paths, host names. ``PodPlace`` is the cluster's ``Place`` for ``render_env``.

``environment`` uses it for every process; the constants are also those of the container's ports, volumes and probes.
"""

from __future__ import annotations

from rz_api import names
from rz_operator.manifests.context import Context
from rz_operator.plan import Address, Here, Process

API_PORT = 8080
STATUS_PORT = 9400
"""Of the first process of a pod; the others have the following numbers."""
RENDEZVOUS_PORT = 29500
TRANSFER_PORT = 29600
"""Of the first process of a trainer pod; the others have the following numbers."""

RUN_FOLDER = "/etc/reasonerzero/run"
TOKEN_FOLDER = "/etc/reasonerzero/token"
SECRETS_FOLDER = "/etc/reasonerzero/secrets"
SCRATCH_FOLDER = "/scratch"
MODEL_FOLDER = "/model"
TERMINATION_LOG = "/dev/termination-log"

FILES = {"run.json": f"{RUN_FOLDER}/run.json", "token": f"{TOKEN_FOLDER}/token"}
"""The plan's files, by name."""


class PodPlace:
    """What one process finds in its pod."""

    def __init__(self, context: Context, process: Process, incarnation: int) -> None:
        self._context, self._process, self._incarnation = context, process, incarnation

    def address(self, address: Address) -> str:
        port = self._port(address)
        match address.form:
            case "port":
                return str(port)
            case "host":
                return self._host(address)
            case "url":
                return f"http://{self._host(address)}:{port}"

    def file(self, name: str) -> str:
        return FILES[name]

    def here(self, what: Here) -> str:
        match what:
            case Here.INCARNATION:
                return str(self._incarnation)
            case Here.BIND_HOST:
                # IPv4 too, and IPv4 alone on a node without IPv6 (``rz_workers.web``).
                return "::" if self._context.run.rendering_version >= 2 else "0.0.0.0"
            case Here.SCRATCH:
                return f"{SCRATCH_FOLDER}/{self._process.role}-{self._process.index}"
            case Here.LAST_WORDS:
                return TERMINATION_LOG

    def _port(self, address: Address) -> int:
        match address.port:
            case "api":
                return API_PORT
            case "rendezvous":
                return RENDEZVOUS_PORT
            case "transfer":
                return TRANSFER_PORT + self._context.positions[address.role, address.index]
            case "status":
                return STATUS_PORT + self._context.positions[address.role, address.index]

    def _host(self, address: Address) -> str:
        """A Service's name, or of a trainer the pod's own name below the rendezvous Service."""
        run, suffix = self._context.name, f"{self._context.namespace}.svc"
        match address.role:
            case "ledger":
                return f"{names.ledger(run)}.{suffix}"
            case "reward":
                return f"{names.reward(run)}.{suffix}"
            case "trainer":
                node = self._context.plan.process("trainer", address.index).node
                pod = names.trainer_pod(run, self._incarnation, node)
                return f"{pod}.{names.trainer_service(run)}.{suffix}"
            case "rollout":
                raise AssertionError("rollouts have no address: nobody calls them")
