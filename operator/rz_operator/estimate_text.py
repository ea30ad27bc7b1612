"""The estimate of a run for people and programs (``rz plan``); the arithmetic is in ``rz_api.estimate``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rz_api.estimate import GB, GPUS, Assumptions, Estimate, Gpu, Memory, alternatives, estimate
from rz_api.shapes import ModelShape
from rz_api.spec import ReasonerZeroRunSpec
from rz_operator.errors import UserError
from rz_operator.model_config import read_shape

if TYPE_CHECKING:
    from rich.console import RenderableType

WORTH_A_CHANGE = 0.95
"""Another layout is recommended where its step takes at most this share of the spec's own."""


@dataclass(frozen=True)
class Estimated:
    """What ``rz plan`` shows of an estimate, or of why there is none."""

    document: dict[str, Any]
    lines: tuple[RenderableType, ...]


def of(spec: ReasonerZeroRunSpec, gpu: str, config_file: Path | None, mean_response: int | None) -> Estimated:
    """The estimate of ``spec`` on GPUs of the kind ``gpu``. A model whose configuration cannot be had is no error: a
    plan needs no network.

    Raises UserError for an unknown GPU, a ``config_file`` that is none, and a memory that is no quantity.
    """
    kind = find_gpu(gpu)
    if spec.trainer.gpus_per_node == 0:
        return _unknown("this run has no GPUs (trainer.gpusPerNode: 0)")
    try:
        shape = read_shape(spec.model, config_file)
    except UserError as error:
        if config_file is not None:
            raise
        return _unknown(str(error))
    made = estimate(spec, shape, Assumptions.for_spec(spec, kind, mean_response, host_memory(spec)))
    return Estimated(as_json(spec, shape, made), (as_table(spec, shape, made),))


def _unknown(reason: str) -> Estimated:
    from rich.text import Text

    return Estimated({"unknown": reason}, (Text(f"no estimate: {reason}"),))


def find_gpu(name: str) -> Gpu:
    """``H100``, ``A100-40`` or any other of ``GPUS``, by the beginning of its name. Raises UserError."""
    found = [gpu for known, gpu in GPUS.items() if known.lower().startswith(name.lower())]
    if not name or not found:
        raise UserError(f"found the GPU {name!r}; one of {', '.join(GPUS)} is required: change --gpu")
    return max(found, key=lambda gpu: gpu.memory)


def host_memory(spec: ReasonerZeroRunSpec) -> float | None:
    """Bytes that a trainer pod may use, from ``trainer.resources``; None where they don't say."""
    resources = spec.trainer.resources
    quantity = resources.limits.get("memory", resources.requests.get("memory"))
    if quantity is None:
        return None
    from kubernetes.utils import parse_quantity

    try:
        return float(parse_quantity(quantity))
    except ValueError:
        raise UserError(
            f"spec.trainer.resources: found {quantity!r} as memory; a Kubernetes quantity such as 512Gi is required"
        ) from None


def recommendation(spec: ReasonerZeroRunSpec, shape: ModelShape, made: Estimate) -> str | None:
    """The fastest layout of as many GPUs that fits, where it is worth a change; None where the spec's own is as
    good."""
    found = alternatives(spec, shape, made.assumptions)
    if not found:
        return None
    name, best = found[0]
    if not made.problems and best.time.total > WORTH_A_CHANGE * made.time.total:
        return None
    against = "the spec's own does not fit" if made.problems else f"the spec's own {made.time.total:.0f} s"
    return f"{name}, which is as many GPUs: about {best.time.total:.0f} s a step ({against})"


def as_json(spec: ReasonerZeroRunSpec, shape: ModelShape, made: Estimate) -> dict[str, Any]:
    """Everything, sizes in bytes and times in seconds."""
    return {
        "fits": not made.problems,
        "problems": list(made.problems),
        "parameters": made.parameters,
        "assumptions": asdict(made.assumptions),
        "trainerGpu": _memory_json(made.trainer),
        "trainerHost": _memory_json(made.host),
        "rolloutGpu": _memory_json(made.engine),
        "kvCacheTokens": round(made.kv_tokens),
        "concurrency": round(made.concurrency),
        "stepSeconds": {**asdict(made.time), "total": made.time.total},
        "recommendation": recommendation(spec, shape, made),
    }


def _memory_json(memory: Memory) -> dict[str, Any]:
    return {"bytes": memory.total, "limit": memory.limit, "parts": memory.parts}


def as_table(spec: ReasonerZeroRunSpec, shape: ModelShape, made: Estimate) -> RenderableType:
    """What each rank and host will hold, how long a step will take, and whether all that fits."""
    from rich.console import Group
    from rich.table import Column, Table
    from rich.text import Text

    assumed, time = made.assumptions, made.time
    memory = Table("memory, GB", Column("of which", overflow="fold"), "holds", "has")
    for name, one in (
        ("a trainer GPU", made.trainer),
        ("the first trainer pod's host", made.host),
        ("a rollout GPU, without KV cache", made.engine),
    ):
        parts = ", ".join(f"{part} {size / GB:.1f}" for part, size in one.parts.items())
        limit = "not said" if one.limit is None else f"{one.limit / GB:.0f}"
        memory.add_row(name, parts, f"{one.total / GB:.1f}", limit)
    steps = Table("seconds a step", "about", Column("", overflow="fold"))
    behind = "behind the generation of the next step" if time.overlaps else ""
    for name, seconds, note in (
        ("generation", time.generate, f"{made.concurrency:,.0f} sequences fit an engine's KV cache at a time"),
        ("values", time.values, ""),
        ("policy update", time.policy, ""),
        ("publication", time.publish, ""),
        ("critic update", time.critic, behind),
        ("the step", time.total, ""),
    ):
        steps.add_row(name, f"{seconds:.1f}", note)
    head = Text(
        f"estimate for {made.parameters / 1e9:.2f}B parameters on {assumed.gpu.name} GPUs, mean response "
        f"{assumed.mean_response} tokens, prompt {assumed.mean_prompt}; trainer at {assumed.mfu:.0%} of the GPU's "
        f"operations, decoding at {assumed.bandwidth_share:.0%} of its bandwidth"
    )
    verdict = [Text(f"does not fit: {problem}", style="bold red") for problem in made.problems]
    advice = recommendation(spec, shape, made)
    return Group(
        head,
        memory,
        steps,
        *(verdict or [Text("fits", style="green")]),
        *([Text(f"recommended: {advice}")] if advice else []),
    )
