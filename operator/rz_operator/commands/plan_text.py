"""A plan for people (``rz plan``), for programs (``--json``), and as Kubernetes objects (``rz manifests``). Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rz_operator.commands.text_table import Rows, table, wrapped
from rz_operator.errors import UserError
from rz_operator.plan import Address, EnvValue, File, Here, Plan, Process, RoleSet
from rz_operator.plan import plan as make_plan

if TYPE_CHECKING:
    from rz_operator.commands.estimate_text import Estimated

SHOWN_UID = "00000000-0000-0000-0000-000000000000"
"""Stands for the UID that the API server gives a run."""


def value_text(value: EnvValue) -> str:
    """A symbolic value as text: ``<ledger-0 api url>``, ``<file token>``, ``<scratch folder>``."""
    match value:
        case Address():
            return f"<{value.role}-{value.index} {value.port} {value.form}>"
        case File():
            return f"<file {value.name}>"
        case Here():
            return f"<{value.value}>"
    return value


def as_json(plan: Plan, estimate: Mapping[str, Any]) -> str:
    """Everything, with symbolic values as text; ``estimate`` is ``rz_operator.commands.estimate_text.as_json``'s."""
    return json.dumps(
        {
            "run": plan.run.model_dump(mode="json", by_alias=True),
            "unitsPerStep": plan.units_per_step,
            "roles": [_role_json(role) for role in plan.roles],
            "files": [{"name": file.name, "secret": file.secret} for file in plan.files],
            "estimate": estimate,
        },
        indent=2,
    )


def _role_json(role: RoleSet) -> dict[str, Any]:
    return {
        "role": role.role,
        "style": role.style,
        "nodes": role.nodes,
        "hostedBy": role.hosted_by,
        "gpusPerNode": role.gpus_per_node,
        "resources": role.resources.model_dump(mode="json", by_alias=True),
        "graceSeconds": role.grace_seconds,
        "processes": [_process_json(process) for process in role.processes],
    }


def _process_json(process: Process) -> dict[str, Any]:
    return {
        "index": process.index,
        "node": process.node,
        "localIndex": process.local_index,
        "command": list(process.command),
        "env": {name: value_text(value) for name, value in process.env.items()},
        "ports": list(process.ports),
        "devices": list(process.devices),
    }


def objects_of(document: Mapping[str, Any], namespace: str, incarnation: int = 1) -> tuple[dict[str, Any], ...]:
    """Every Kubernetes object of the run that ``document`` describes, as the operator would make them on a new server
    with every gang scheduler installed. Raises UserError for a run that the operator would refuse."""
    from rz_operator import manifests
    from rz_operator.apiserver.versions import PODGROUP_VERSIONS, Capabilities
    from rz_operator.controller.accept import accept
    from rz_operator.controller.completion import Completion

    shown = {**document, "metadata": {**document["metadata"], "namespace": namespace, "uid": SHOWN_UID}}
    verdict = accept(shown, None, Completion(), (), False)
    if verdict.run is None:
        raise UserError(verdict.message)
    pod_groups = {mode: f"{group}/{versions[0]}" for mode, (group, versions) in PODGROUP_VERSIONS.items()}
    server = Capabilities(minor=37, pod_groups=pod_groups, kueue=True, resource_claims=True)
    context = manifests.Context(make_plan(verdict.run), namespace, SHOWN_UID, server)
    return manifests.all_of(context, incarnation)


def as_yaml(objects: Iterable[Mapping[str, Any]]) -> str:
    """Kubernetes objects as one YAML stream, as ``kubectl`` reads it; texts of several lines are written as such."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """No anchors: what two objects share is written twice."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    return yaml.dump_all(objects, Dumper=Dumper, sort_keys=False, width=120, explicit_start=True, allow_unicode=True)


def as_text(plan: Plan, estimated: Estimated, width: int, verbose: bool) -> list[str]:
    """What ``rz plan`` prints, as lines: the verdict, the run's roles, what each GPU and host will hold.

    Args:
        width: columns that a line may have, as far as its words allow it.
        verbose: with the environment of each role's first process.
    """
    lines = wrapped(estimated.verdict, width, "  ")
    for reason in estimated.reasons:
        lines += wrapped(f"- {reason}", width, "  ")
    lines += ["", *wrapped(_summary(plan), width)]
    tables = [_roles(plan), _commands(plan), *estimated.tables]
    if verbose:
        tables.append(_environment(plan))
    for rows in tables:
        lines += ["", *table(rows, width)]
    return lines


def _summary(plan: Plan) -> str:
    spec = plan.run.spec
    algorithm = spec.algorithm
    rollouts = algorithm.prompts_per_step * algorithm.samples_per_prompt
    return (
        f"{plan.run.name}: {algorithm.name} on {spec.model.name}, engine {spec.rollout.engine}, placement "
        f"{spec.rollout.placement}, storage {spec.storage.uri}\n"
        f"a step: {algorithm.prompts_per_step} prompts x {algorithm.samples_per_prompt} samples = {rollouts} rollouts "
        f"in {plan.units_per_step} lease units; at most {rollouts * spec.rollout.sampling.max_new_tokens:,} tokens"
    )


def _roles(plan: Plan) -> Rows:
    rows: Rows = [("ROLE", "PROCESSES", "NODES", "GPUS EACH", "RESTART", "REQUESTS EACH")]
    for role in plan.roles:
        place = str(role.nodes) if role.hosted_by == role.role else f"{role.hosted_by}'s {role.nodes}"
        requests = " ".join(f"{name}={amount}" for name, amount in role.resources.requests.items()) or "-"
        restart = "all ranks" if role.style == "gang" else "one by one"
        rows.append((role.role, str(len(role.processes)), place, str(role.gpus_per_node), restart, requests))
    return rows


def _commands(plan: Plan) -> Rows:
    started = [role for role in plan.roles if role.processes]
    return [("ROLE", "COMMAND"), *((role.role, " ".join(role.processes[0].command)) for role in started)]


def _environment(plan: Plan) -> Rows:
    """Each variable of the roles' first processes, with a row for each value that it has."""
    environments = {role.role: role.processes[0].env for role in plan.roles if role.processes}
    rows: Rows = [("VARIABLE", "OF THE FIRST", "VALUE")]
    for name in sorted({name for env in environments.values() for name in env}):
        roles_of: dict[str, list[str]] = {}
        for role, env in environments.items():
            if name in env:
                roles_of.setdefault(value_text(env[name]), []).append(role)
        for value, roles in roles_of.items():
            whose = "each role" if len(roles) == len(environments) else ", ".join(roles)
            rows.append((name if value == next(iter(roles_of)) else "", whose, value))
    return rows
