"""The estimate of a run for people and programs (``rz plan``); the arithmetic is in ``rz_api.estimate``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rz_api import gpus
from rz_api.estimate import GB, Assumptions, Estimate, Memory, alternatives, estimate, gpus_of
from rz_api.shapes import ModelShape
from rz_api.spec import ReasonerZeroRunSpec
from rz_operator.apiserver.quantities import parse_quantity
from rz_operator.commands.model_config import RefusedError, check, read_config, read_shape
from rz_operator.commands.text_table import Rows
from rz_operator.errors import UserError

WORTH_A_CHANGE = 0.95
"""Another layout is recommended where its step takes at most this share of the spec's own."""


@dataclass(frozen=True)
class Estimated:
    """What ``rz plan`` shows of an estimate, or of why there is none."""

    document: dict[str, Any]
    """For programs."""
    verdict: str
    """Whether the run fits, on how many GPUs, and how long a step takes."""
    reasons: tuple[str, ...]
    """Why it does not fit and what to change, what would be faster, and what was taken for granted."""
    tables: tuple[Rows, ...]
    """Memory and seconds, by purpose."""


def of(spec: ReasonerZeroRunSpec, gpu: str, config_file: Path | None, mean_response: int | None) -> Estimated:
    """The estimate of ``spec`` on GPUs of the kind ``gpu``. A model whose configuration cannot be had is no error: a
    plan needs no network.

    Raises UserError for an unknown GPU, a ``config_file`` that is none, a memory that is no quantity, and a model that
    the trainer would refuse.
    """
    found, longest = find_gpu(gpu), spec.rollout.max_model_length
    if spec.trainer.gpus_per_node == 0:
        # Nobody waits for the hub where there is nothing to estimate.
        if config_file is not None or Path(spec.model.name).is_dir():
            check(read_config(spec.model, config_file), str(config_file or spec.model.name), longest)
        return _unknown("this run has no GPUs (trainer.gpusPerNode: 0)")
    try:
        shape = read_shape(spec.model, config_file, longest)
    except RefusedError:
        raise
    except UserError as error:
        if config_file is not None:
            raise
        return _unknown(str(error), f"the run asks for {_count(gpus_of(spec))}")
    made = estimate(spec, shape, Assumptions.for_spec(spec, found.gpu, mean_response, host_memory(spec)))
    advice = recommendation(spec, shape, made)
    return Estimated(
        document=as_json(spec, made, advice),
        verdict=verdict(spec, made),
        reasons=(*made.problems, *_advice(spec, made, advice), *_taken(gpu, found), *_assumed(made)),
        tables=(memory_rows(made), *([seconds_rows(made)] if _is_timed(made) else [])),
    )


def _unknown(reason: str, *more: str) -> Estimated:
    return Estimated({"unknown": reason}, f"no estimate: {reason}", more, ())


def find_gpu(name: str) -> gpus.Found:
    """As ``rz_api.gpus.find``. Raises UserError."""
    try:
        return gpus.find(name)
    except gpus.UnknownGpuError as error:
        raise UserError(f"--gpu: {error}") from None


def host_memory(spec: ReasonerZeroRunSpec) -> float | None:
    """Bytes that a trainer pod may use, from ``trainer.resources``; None where they don't say."""
    resources = spec.trainer.resources
    quantity = resources.limits.get("memory", resources.requests.get("memory"))
    if quantity is None:
        return None
    try:
        return parse_quantity(quantity)
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


def as_json(spec: ReasonerZeroRunSpec, made: Estimate, advice: str | None) -> dict[str, Any]:
    """Everything, sizes in bytes and times in seconds."""
    return {
        "fits": not made.problems,
        "problems": list(made.problems),
        "gpus": gpus_of(spec),
        "parameters": made.parameters,
        "assumptions": asdict(made.assumptions),
        "trainerGpu": _memory_json(made.trainer),
        "trainerHost": _memory_json(made.host),
        "rolloutGpu": _memory_json(made.engine),
        "kvCacheTokens": round(made.kv_tokens),
        "concurrency": round(made.concurrency),
        "stepSeconds": {**asdict(made.time), "total": made.time.total},
        "recommendation": advice,
    }


def _memory_json(memory: Memory) -> dict[str, Any]:
    return {"bytes": memory.total, "limit": memory.limit, "parts": memory.parts}


# ------------------------------------------------------------------------------------------------------- for people


def verdict(spec: ReasonerZeroRunSpec, made: Estimate) -> str:
    """``fits: about 166 s a step on 64 GPUs (H100-80GB)``, ``does not fit on 64 GPUs (A100-40GB)``."""
    where = f"{_count(gpus_of(spec))} ({made.assumptions.gpu.name})"
    if not made.problems:
        return f"fits: about {made.time.total:.0f} s a step on {where}"
    time = f"; a step would take about {made.time.total:.0f} s" if _is_timed(made) else ""
    return f"does not fit on {where}{time}"


def _is_timed(made: Estimate) -> bool:
    """Whether the time of a step says anything: an engine without room for one sequence samples nothing."""
    return made.concurrency >= 1


def _count(count: int) -> str:
    return f"{count} GPU{'' if count == 1 else 's'}"


def _advice(spec: ReasonerZeroRunSpec, made: Estimate, advice: str | None) -> Iterator[str]:
    if advice is not None:
        yield f"recommended: {advice}"
    elif made.problems:
        yield f"no other split of {_count(gpus_of(spec))} between trainer and rollouts fits with the rest of the spec"
    if made.host.limit is None:
        yield (
            f"the first trainer pod needs {made.host.total / GB:.0f} GB of its host's memory; trainer.resources does "
            "not say how much it gets"
        )


def _taken(name: str, found: gpus.Found) -> Iterator[str]:
    if found.others:
        others = " or ".join(gpu.name for gpu in found.others)
        form = f" ({found.gpu.form})" if found.gpu.form else ""
        yield f"--gpu {name} is taken as {found.gpu.name}{form}; give {others} if it is one of those"
    if found.shared:
        yield "--gpu names GPUs that pods share (SHARED): the figures are those of a whole GPU for each"


def _assumed(made: Estimate) -> Iterator[str]:
    assumed = made.assumptions
    yield (
        f"estimate for {made.parameters / 1e9:.2f}B parameters on {assumed.gpu.name} GPUs, mean response "
        f"{assumed.mean_response} tokens, prompt {assumed.mean_prompt}; trainer at {assumed.mfu:.0%} of the GPU's "
        f"operations, decoding at {assumed.bandwidth_share:.0%} of its bandwidth"
    )


def memory_rows(made: Estimate) -> Rows:
    """What each rank and host will hold, GB."""
    rows: Rows = [("MEMORY, GB", "HOLDS", "HAS", "OF WHICH")]
    for name, one in (
        ("a trainer GPU", made.trainer),
        ("the first trainer pod's host", made.host),
        ("a rollout GPU, no KV cache", made.engine),
    ):
        parts = ", ".join(f"{part} {size / GB:.1f}" for part, size in one.parts.items())
        limit = "not said" if one.limit is None else f"{one.limit / GB:.0f}"
        rows.append((name, f"{one.total / GB:.1f}", limit, parts))
    return rows


def seconds_rows(made: Estimate) -> Rows:
    """How long each part of a step will take."""
    time = made.time
    return [
        ("SECONDS A STEP", "ABOUT", ""),
        ("generation", f"{time.generate:.1f}", f"{made.concurrency:,.0f} sequences fit an engine's KV cache at a time"),
        ("values", f"{time.values:.1f}", ""),
        ("policy update", f"{time.policy:.1f}", ""),
        ("publication", f"{time.publish:.1f}", ""),
        ("critic update", f"{time.critic:.1f}", "behind the generation of the next step" if time.overlaps else ""),
        ("the step", f"{time.total:.1f}", ""),
    ]
