"""A run consists of the same processes here and on a cluster: what they are follows from its spec alone.

``plan(run)`` gives roles, processes, commands, environment, resources and files, as values. It is pure and knows
neither kopf nor pods nor OS processes. The local runner starts the plan as processes
(``rz_operator.local``), the cluster side renders it as Kubernetes objects; ``decide`` gets ``wanted(plan, ...)``. What
only the place knows where a process runs (addresses, paths, its incarnation) is symbolic: ``Address``, ``File`` and
``Here`` values in the environment, which ``render_env`` replaces.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal, Protocol

from rz_api.names import Role
from rz_api.rules import show
from rz_api.run import ResolvedRun, write_stored_run
from rz_api.spec import FreeForm, PodOptions, ReasonerZeroRunSpec, Resources, broadcasts
from rz_api.verifiers import files_of
from rz_operator.decisions.gangs import lines_of
from rz_operator.decisions.members import DEPLOYED, ROLES, RestartStyle, Wanted, WantedRole
from rz_operator.errors import UserError

PortName = Literal["api", "status", "rendezvous", "transfer"]
RUN_FILE, TOKEN_FILE = "run.json", "token"

GRACE_SECONDS = {"ledger": 10.0, "reward": 10.0, "rollout": 30.0}
"""Between SIGTERM and SIGKILL; the trainer's is ``trainer.terminationGraceSeconds``. A rollout may finish its unit."""


@dataclass(frozen=True)
class Address:
    """Where a port of a process is; ``form`` says which part is wanted: ``http://host:port``, host, or port."""

    role: Role
    index: int
    port: PortName
    form: Literal["url", "host", "port"] = "url"


@dataclass(frozen=True)
class File:
    """Path of one of the plan's files."""

    name: str


class Here(Enum):
    """What only the place where a process runs can say."""

    INCARNATION = "incarnation"
    BIND_HOST = "bind host"
    SCRATCH = "scratch folder"
    LAST_WORDS = "termination message file"


EnvValue = str | Address | File | Here


@dataclass(frozen=True)
class Process:
    """One worker process. ``index`` is unique in its role (trainer: the rank)."""

    role: Role
    index: int
    node: int
    """Which node (pod) of the hosting role it is on."""
    local_index: int
    """Position among the processes of its role on that node (trainer: the local rank)."""
    command: tuple[str, ...]
    env: Mapping[str, EnvValue]
    """The operator's own variables, then the user's literal ones."""
    ports: tuple[PortName, ...]
    devices: tuple[int, ...]
    """GPUs of its node that it may use; processes that are placed together may share them."""


@dataclass(frozen=True)
class RoleSet:
    """All processes of one role and what their nodes (pods) need."""

    role: Role
    style: RestartStyle
    processes: tuple[Process, ...]
    nodes: int
    hosted_by: Role
    """The role in whose nodes the processes run: itself, or the trainer for colocated rollouts."""
    gpus_per_node: int
    resources: Resources
    """Of one node, as the spec says, GPUs included where an extended resource counts them; nothing where another role
    hosts it."""
    grace_seconds: float
    env_from_cluster: tuple[FreeForm, ...]
    """The user's ``env`` entries with ``valueFrom``: only a cluster can resolve them."""
    env_from: tuple[FreeForm, ...]
    """The user's ``envFrom``: the same."""

    @property
    def own_nodes(self) -> int:
        """None where another role hosts it."""
        return self.nodes if self.hosted_by == self.role else 0


@dataclass(frozen=True)
class PlannedFile:
    """A file that every process can read."""

    name: str
    content: str | None
    """None: whoever runs the plan makes it up once (the token)."""
    secret: bool = False


@dataclass(frozen=True)
class Plan:
    run: ResolvedRun
    """As the workers see it: engine resolved."""
    roles: tuple[RoleSet, ...]
    files: tuple[PlannedFile, ...]
    units_per_step: int
    """Lease units of a training step."""

    def role(self, role: Role) -> RoleSet:
        return next(roles for roles in self.roles if roles.role == role)

    def process(self, role: Role, index: int) -> Process:
        return self.role(role).processes[index]


def plan(run: ResolvedRun) -> Plan:
    """Everything that the run consists of. Raises UserError for a CPU request that is none."""
    run = resolve(run)
    spec = run.spec
    return Plan(
        run=run,
        roles=(_ledger(spec), _reward(spec), _rollout(spec), _trainer(spec)),
        files=(
            PlannedFile(RUN_FILE, write_stored_run(run)),
            PlannedFile(TOKEN_FILE, None, secret=True),
        ),
        units_per_step=units_per_step(spec),
    )


def resolve(run: ResolvedRun) -> ResolvedRun:
    """``run`` with the engine that ``auto`` means: vLLM where the run has GPUs, transformers where it has none."""
    rollout = run.spec.rollout
    if rollout.engine != "auto":
        return run
    engine = "vllm" if run.spec.trainer.gpus_per_node > 0 else "transformers"
    spec = run.spec.model_copy(update={"rollout": rollout.model_copy(update={"engine": engine})})
    return run.model_copy(update={"spec": spec})


def units_per_step(spec: ReasonerZeroRunSpec) -> int:
    """Lease units of one training step: group blocks times sample ranges."""
    algorithm, rollout = spec.algorithm, spec.rollout
    blocks = math.ceil(algorithm.prompts_per_step / rollout.groups_per_lease)
    return blocks * math.ceil(algorithm.samples_per_prompt / rollout.samples_per_lease)


def wanted(
    plan: Plan,
    suspend: bool,
    by: Literal["process", "node"] = "process",
    longest_gang_wait_seconds: float = math.inf,
) -> Wanted:
    """What ``decide`` is to keep up. ``by="process"``: members are processes (``rz run``). ``by="node"``: members are
    trainer and rollout pods and the Deployments of ledger and reward; a role that another one hosts has none.
    ``longest_gang_wait_seconds`` is a limit to what the run asks for (gang ``operator``)."""
    roles = []
    for role_set in plan.roles:
        if by == "process":
            count = len(role_set.processes)
        elif role_set.role in DEPLOYED:
            count = 1
        else:
            count = role_set.own_nodes
        roles.append(WantedRole(role_set.role, count, role_set.style, role_set.grace_seconds))
    spec = plan.run.spec
    scheduling, together = spec.scheduling, min_rollouts(spec)
    if by == "process":
        return Wanted(tuple(roles), spec.failure_policy, suspend)
    if scheduling.gang != "operator":
        return Wanted(tuple(roles), spec.failure_policy, suspend, min_rollouts=together, grouped=True)
    return Wanted(
        tuple(roles),
        spec.failure_policy,
        suspend,
        gang_timeout_seconds=min(float(scheduling.gang_timeout_seconds), longest_gang_wait_seconds),
        longest_gang_wait_seconds=longest_gang_wait_seconds,
        min_rollouts=together,
        lines=lines_of(spec.model_dump(mode="json", by_alias=True, include={"scheduling", "trainer", "rollout"})),
    )


def min_rollouts(spec: ReasonerZeroRunSpec) -> int:
    """Rollout pods that belong to the gang."""
    if spec.rollout.placement == "colocated":
        return 0
    return min(spec.scheduling.min_rollouts, spec.rollout.replicas)


class Place(Protocol):
    """What a process finds where it runs."""

    def address(self, address: Address) -> str: ...
    def file(self, name: str) -> str: ...
    def here(self, what: Here) -> str: ...


def render_env(process: Process, place: Place) -> dict[str, str]:
    """The environment of ``process`` with every symbolic value replaced."""

    def render(value: EnvValue) -> str:
        match value:
            case Address():
                return place.address(value)
            case File():
                return place.file(value.name)
            case Here():
                return place.here(value)
        return value

    return {name: render(value) for name, value in process.env.items()}


def cpu_count(quantity: str | int, role: Role) -> int:
    """Whole CPUs of a Kubernetes quantity, rounded down, at least 1. ``"2500m"`` is 2, ``"8"`` is 8.

    Raises UserError, which names the role's field, when it is no quantity of CPUs.
    """
    # As many digits as a float can tell apart: what is longer is no number of CPUs.
    found = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)(m?)", str(quantity))
    if not found:
        raise UserError(
            f"spec.{role}.resources.requests.cpu: found {show(quantity)}; a number of CPUs is required, such as 8 or "
            "500m: change it"
        )
    return max(1, int(float(found[1]) / (1000 if found[2] else 1)))


# ------------------------------------------------------------------------------------------------------ the roles


def _ledger(spec: ReasonerZeroRunSpec) -> RoleSet:
    env = _base_env("ledger", 0, ("api", "status")) | _threads("ledger", spec.ledger, 1, 0)
    process = _process("ledger", 0, env, spec.ledger, ports=("api", "status"))
    return _role_set(spec.ledger, "ledger", (process,), 1, GRACE_SECONDS["ledger"])


def _reward(spec: ReasonerZeroRunSpec) -> RoleSet:
    # Only where it needs the ledger, which hands out the files of the run's own verifiers.
    ledger: dict[str, EnvValue] = {"RZ_LEDGER_URL": Address("ledger", 0, "api")} if files_of(spec) else {}
    processes = tuple(
        _process(
            "reward",
            index,
            _base_env("reward", index, ("api", "status")) | ledger | _threads("reward", spec.reward, 1, 0),
            spec.reward,
            ports=("api", "status"),
        )
        for index in range(spec.reward.replicas)
    )
    return _role_set(spec.reward, "reward", processes, len(processes), GRACE_SECONDS["reward"])


def _rollout(spec: ReasonerZeroRunSpec) -> RoleSet:
    rollout, trainer = spec.rollout, spec.trainer
    gpus = rollout.tensor_parallel if trainer.gpus_per_node > 0 else 0
    colocated = rollout.placement == "colocated"
    per_node = max(1, trainer.gpus_per_node // max(1, gpus)) if colocated else 1
    count = trainer.nodes * per_node if colocated else rollout.replicas
    processes = []
    for index in range(count):
        node, local = divmod(index, per_node)
        env = _base_env("rollout", index, ("status",)) | {
            "RZ_LEDGER_URL": Address("ledger", 0, "api"),
            # On one machine each reward process has a port; on a cluster all of them are behind one Service.
            "RZ_REWARD_URL": Address("reward", index % spec.reward.replicas, "api"),
            **_threads("rollout", rollout, 1, gpus),
        }
        devices = tuple(range(local * gpus, (local + 1) * gpus)) if colocated else tuple(range(gpus))
        processes.append(
            _process("rollout", index, env, rollout, ports=("status",), node=node, local=local, devices=devices)
        )
    if not colocated:
        return _role_set(
            rollout,
            "rollout",
            tuple(processes),
            count,
            GRACE_SECONDS["rollout"],
            gpus=gpus,
            gpu_resource=spec.scheduling.gpu_resource,
        )
    return _role_set(rollout, "rollout", tuple(processes), trainer.nodes, GRACE_SECONDS["rollout"], hosted_by="trainer")


def _trainer(spec: ReasonerZeroRunSpec) -> RoleSet:
    """Ranks meet at rank 0's rendezvous port (torchrun's static rendezvous, without torchrun: who starts the gang also
    restarts it). Where the run broadcasts weights, each rank has a port at which rollouts join it."""
    trainer = spec.trainer
    per_node = max(1, trainer.gpus_per_node)
    world_size = trainer.nodes * per_node
    processes = []
    for rank in range(world_size):
        node, local = divmod(rank, per_node)
        ports: tuple[PortName, ...] = ("status", "rendezvous") if rank == 0 else ("status",)
        if broadcasts(spec):
            ports = (*ports, "transfer")
        env = _base_env("trainer", rank, ports) | {
            "RZ_LEDGER_URL": Address("ledger", 0, "api"),
            "RANK": str(rank),
            "WORLD_SIZE": str(world_size),
            "LOCAL_RANK": str(local),
            "MASTER_ADDR": Address("trainer", 0, "rendezvous", "host"),
            "MASTER_PORT": Address("trainer", 0, "rendezvous", "port"),
            **_threads("trainer", trainer, per_node, trainer.gpus_per_node),
        }
        devices = tuple(range(trainer.gpus_per_node))
        processes.append(_process("trainer", rank, env, trainer, ports=ports, node=node, local=local, devices=devices))
    return _role_set(
        trainer,
        "trainer",
        tuple(processes),
        trainer.nodes,
        float(trainer.termination_grace_seconds),
        style="gang",
        gpus=trainer.gpus_per_node,
        gpu_resource=spec.scheduling.gpu_resource,
    )


def _base_env(role: Role, index: int, ports: tuple[PortName, ...]) -> dict[str, EnvValue]:
    """The variables that ``rz_workers.runtime.Settings`` reads, for any role."""
    env: dict[str, EnvValue] = {
        "RZ_RUN_FILE": File(RUN_FILE),
        "RZ_TOKEN_FILE": File(TOKEN_FILE),
        "RZ_ROLE": role,
        "RZ_INDEX": str(index),
        # Only trainer gangs are fenced: they claim it in storage before they write.
        "RZ_INCARNATION": Here.INCARNATION if role == "trainer" else "0",
        "RZ_BIND_HOST": Here.BIND_HOST,
        "RZ_SCRATCH": Here.SCRATCH,
        "RZ_TERMINATION_LOG": Here.LAST_WORDS,
        "RZ_STATUS_PORT": Address(role, index, "status", "port"),
        "RZ_LOG_LEVEL": "INFO",
    }
    if "api" in ports:
        env["RZ_PORT"] = Address(role, index, "api", "port")
    if "transfer" in ports:
        env["RZ_TRANSFER_HOST"] = Address(role, index, "transfer", "host")
        env["RZ_TRANSFER_PORT"] = Address(role, index, "transfer", "port")
    return env


def _threads(role: Role, options: PodOptions, processes_per_node: int, gpus: int) -> dict[str, EnvValue]:
    """``OMP_NUM_THREADS``: the node's CPU request shared by its processes; 1 without a request, unset with GPUs.

    Without GPUs threads sleep while they wait for each other: trainer and rollout processes share the cores, and
    threads that spin take them from the one that is awaited.
    """
    cpu = options.resources.requests.get("cpu")
    env: dict[str, EnvValue] = {} if gpus else {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    if cpu is not None:
        env["OMP_NUM_THREADS"] = str(max(1, cpu_count(cpu, role) // processes_per_node))
    return env


def _process(
    role: Role,
    index: int,
    env: dict[str, EnvValue],
    options: PodOptions,
    *,
    ports: tuple[PortName, ...],
    node: int | None = None,
    local: int = 0,
    devices: tuple[int, ...] = (),
) -> Process:
    literal = {entry.name: entry.value or "" for entry in options.env if entry.value_from is None}
    return Process(
        role=role,
        index=index,
        node=index if node is None else node,
        local_index=local,
        command=("python", "-m", f"rz_workers.{role}"),
        env=env | literal,
        ports=ports,
        devices=devices,
    )


def _role_set(
    options: PodOptions,
    role: Role,
    processes: tuple[Process, ...],
    nodes: int,
    grace_seconds: float,
    *,
    style: RestartStyle = "individual",
    gpus: int = 0,
    gpu_resource: str = "",
    hosted_by: Role | None = None,
) -> RoleSet:
    resources = options.resources
    if gpus and gpu_resource:
        count = {gpu_resource: gpus}
        resources = Resources(requests=resources.requests | count, limits=resources.limits | count)
    assert role in ROLES
    return RoleSet(
        role=role,
        style=style,
        processes=processes,
        nodes=nodes,
        hosted_by=hosted_by or role,
        gpus_per_node=gpus,
        resources=resources,
        grace_seconds=grace_seconds,
        env_from_cluster=tuple(
            # By name: a source that is empty, or has nulls in it, is the API server's to refuse, in its words.
            {"name": entry.name, "valueFrom": entry.value_from}
            for entry in options.env
            if entry.value_from is not None
        ),
        env_from=tuple(options.env_from),
    )
